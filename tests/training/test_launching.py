"""How runs are started, stopped and gone on with: one command for both, signals, settings that other scripts share."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from onedc_hf import OneDCPipeline
from onedc_hf.training import cli, stage1, stage2
from onedc_hf.training.adversary import DISCRIMINATORS, Adversary
from onedc_hf.training.components import load_model, make_model, save_pipeline
from onedc_hf.training.config import TrainConfig
from onedc_hf.training.config_files import load_config
from onedc_hf.training.crops import Cropping, CropStream, Share, StreamedCrops
from onedc_hf.training.model import TrainableOneDC
from onedc_hf.training.picture_sets import open_pictures
from onedc_hf.training.run import TrainingRun

from .saved import weights_of

Make = Callable[..., TrainConfig]
DECODER_FROZEN = ["codec", "gain_anchors", "vae"]


def test_one_command_starts_a_run_from_given_discriminators_and_goes_on(config: Make, tmp_path: Path) -> None:
    settings = {"adversary_weight": 1.0, "feature_weight": 0.1, "adversary_learning_rate": 1e-2, "adversary_every": 1}
    stage1.train(config(**settings, output_dir=str(tmp_path / "first")))
    kept = tmp_path / "first" / DISCRIMINATORS
    AcceleratorState._reset_state(True)
    command = settings | {"adversary_learning_rate": 0.0, "discriminators": str(kept)}
    command |= {"resume_from_checkpoint": "latest"}  # of a run that there is not yet
    stage1.train(config(**command))
    first, second = load_file(kept), load_file(tmp_path / "run" / DISCRIMINATORS)
    assert all(torch.equal(first[name], second[name]) for name in first if "original" in name or "bias" in name)
    AcceleratorState._reset_state(True)
    stage1.train(config(**command | {"discriminators": "gone"}, max_train_steps=3))


@pytest.mark.parametrize(
    "changes",
    [{"ema_decay": 0.0}, {"adversary_weight": 1.0}, {"optimizer": "adafactor"}],
    ids=lambda changes: next(iter(changes)),
)
def test_going_on_with_other_settings_names_them(config: Make, changes: dict) -> None:
    stage1.train(config(ema_decay=0.9))
    AcceleratorState._reset_state(True)
    with pytest.raises(ValueError, match=rf"(?s)cannot be taken up.*differ.*{next(iter(changes))}"):
        stage1.train(config(**{"ema_decay": 0.9} | changes, resume_from_checkpoint="latest", max_train_steps=3))
    kept = json.loads((Path(config().output_dir) / "train_config.json").read_text())
    assert kept["ema_decay"] == 0.9 and kept["optimizer"] == "adamw" and kept["adversary_weight"] == 0


def test_the_steps_of_a_run_stay_as_large_as_they_are(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stage1.train(config(ema_decay=0.0))
    goes_on = {"ema_decay": 0.0, "resume_from_checkpoint": "latest", "max_train_steps": 3}
    AcceleratorState._reset_state(True)
    with pytest.raises(ValueError, match="of 1 processes with 2 crops each, and the run now has 1 with 3"):
        stage1.train(config(**goes_on, train_batch_size=3))
    AcceleratorState._reset_state(True)
    with TrainingRun(config(**goes_on)) as run:
        with pytest.raises(ValueError, match="of 4 processes with 2 crops each, and the run now has 1 with 2"):
            run.load_state_dict({"step": 2, "processes": 4, "crops": 2})
        run.load_state_dict({"step": 2})  # of a run from before it was kept
        assert run.step == 2
    AcceleratorState._reset_state(True)
    stage1.train(config(**goes_on, train_batch_size=1, gradient_accumulation_steps=2))


def test_a_run_goes_on_in_parts_of_steps_as_in_whole_ones(config: Make, tmp_path: Path) -> None:
    settings = {"ema_decay": 0.0, "lambda_ramp_steps": 0, "max_train_steps": 5}
    whole = stage1.train(config(**settings, output_dir=str(tmp_path / "whole")))
    AcceleratorState._reset_state(True)
    stage1.train(config(**settings | {"max_train_steps": 3}))
    AcceleratorState._reset_state(True)
    parts = {"train_batch_size": 1, "gradient_accumulation_steps": 2, "resume_from_checkpoint": "latest"}
    rest = stage1.train(config(**settings, **parts))
    expected, found = weights_of(whole), weights_of(rest)
    floats = [name for name, tensor in expected.items() if tensor.is_floating_point()]
    assert all(torch.allclose(found[name], expected[name], atol=2e-4) for name in floats)


def test_qualities_have_a_stream_of_their_own(config: Make) -> None:
    with TrainingRun(config(seed=3)) as run:
        for _ in run.batches():
            own, shared = torch.rand(8), torch.rand(8, generator=run.shared_draws())
            assert not set(own.tolist()) & set(shared.tolist())


def test_a_run_that_was_killed_writes_no_step_down_twice(config: Make) -> None:
    folder = stage1.train(config(max_train_steps=3, checkpointing_steps=2)).parent
    shutil.rmtree(folder / "checkpoint-3")
    log = folder / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 4, "pix')
    AcceleratorState._reset_state(True)
    stage1.train(config(max_train_steps=4, resume_from_checkpoint="latest"))
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4]


def test_what_is_said_anew_counts_where_a_run_goes_on(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"adversary_weight": 1.0, "feature_weight": 0.1, "lr_warmup_steps": 4, "analysis_lr_scale": 0.5}
    stage1.train(config(**first, learning_rate=1e-4, ema_decay=0.9))
    AcceleratorState._reset_state(True)
    taken_up: list[TrainingRun] = []
    begin, adversaries = TrainingRun.begin, []
    monkeypatch.setattr(TrainingRun, "begin", lambda run, *a: (begin(run, *a), taken_up.append(run)))
    load = Adversary.load_state_dict
    monkeypatch.setattr(Adversary, "load_state_dict", lambda a, state: (load(a, state), adversaries.append(a)))
    anew = {"learning_rate": 1e-5, "adam_beta2": 0.5, "adam_weight_decay": 0.2, "adversary_learning_rate": 1e-6}
    anew |= {"analysis_lr_scale": 0.1, "ema_decay": 0.5, "resume_from_checkpoint": "latest"}
    stage1.train(config(**first | anew))  # no step more
    optimizer, scheduler = taken_up[0].accelerator._optimizers[0], taken_up[0].accelerator._schedulers[0]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-6, 5e-7])  # half of the warm-up
    assert scheduler.get_last_lr() == pytest.approx([5e-6, 5e-7])
    assert all(g["betas"] == (0.9, 0.5) and g["weight_decay"] == 0.2 for g in optimizer.param_groups)
    assert taken_up[0]._ema is not None and taken_up[0]._ema.decay == 0.5
    assert adversaries[0].optimizer.param_groups[0]["lr"] == 1e-6


def test_a_run_that_saves_on_the_way_takes_the_same_steps(config: Make, tmp_path: Path) -> None:
    settings = {"max_train_steps": 4, "ema_decay": 0.0}
    never = stage1.train(config(**settings, output_dir=str(tmp_path / "never"), checkpointing_steps=9))
    AcceleratorState._reset_state(True)
    often = stage1.train(config(**settings, output_dir=str(tmp_path / "often"), checkpointing_steps=1))
    expected, found = weights_of(never), weights_of(often)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_saving_leaves_weights_where_they_are(tiny_config: Path, tmp_path: Path) -> None:
    model = make_model(str(tiny_config)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = [(p.data_ptr(), p.stride()) for p in model.parameters()]
    save_pipeline(model, tmp_path)
    assert [(p.data_ptr(), p.stride()) for p in model.parameters()] == before


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_to_every_process_of_a_run_saves_it(config: Make, tmp_path: Path, processes: int) -> None:
    """As launchers and schedulers send it: the loader's workers get it, too."""
    settings = dataclasses.replace(
        config(), max_train_steps=1_000_000, checkpointing_steps=1_000_000, dataloader_num_workers=1, num_threads=1
    )
    (tmp_path / "config.json").write_text(settings.to_json())
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if processes == 2 else []
    log = tmp_path / "run" / "log.jsonl"
    started: list[psutil.Process] = []
    with subprocess.Popen(
        [sys.executable, *launcher, "-m", "onedc_hf.training.cli", "--config", str(tmp_path / "config.json")],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            for _ in range(1200):
                if (log.is_file() and log.stat().st_size) or process.poll() is not None:
                    break
                time.sleep(0.1)
            if process.returncode is None:
                started = psutil.Process(process.pid).children(recursive=True)
                os.killpg(process.pid, signal.SIGTERM)
            output, _ = process.communicate(timeout=120)
        finally:
            for one in (*started, process):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
    assert "Trained pipeline" in output and "DataLoader worker" not in output, output
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file(), output
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1


def test_before_the_first_step_a_signal_ends_the_program(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: TrainConfig) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    monkeypatch.setattr(stage1, "_starting_model", interrupted)
    (tmp_path / "config.json").write_text(config().to_json())
    try:
        assert cli.main(["--config", str(tmp_path / "config.json")]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "before its first step" in capsys.readouterr().err and not list(tmp_path.glob("run/checkpoint-*"))


def test_a_stopped_run_is_not_validated_and_says_where_it_stood(
    config: Make, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = {}
    monkeypatch.setattr("onedc_hf.training.run.open_repository", lambda *_: "me/mine")
    monkeypatch.setattr("onedc_hf.training.run.publish", lambda *a, **k: pushed.update(step=a[3], of=k["of"]))
    record = TrainingRun.record

    def stop(run: TrainingRun, values: dict[str, float]) -> None:
        record(run, values)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingRun, "record", stop)
    settings = {"validation_images": [str(photographs)], "push_to_hub": True, "max_train_steps": 50}
    folder = stage1.train(config(**settings))
    assert (folder / "model_index.json").is_file() and not (tmp_path / "run" / "validation").exists()
    assert pushed == {"step": 1, "of": 50}


def test_which_pictures_will_be_uploaded_is_said_before_the_first_step(
    config: Make, photographs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("onedc_hf.training.run.open_repository", lambda *_: "me/mine")
    monkeypatch.setattr(TrainingRun, "batches", lambda run: iter(()))
    monkeypatch.setattr(TrainingRun, "end", lambda run: run.output)
    stage1.train(config(validation_images=[str(photographs)], push_to_hub=True))
    assert "uploaded to me/mine" in caplog.text and f"shows 4 pictures of {photographs}, with their" in caplog.text


@pytest.mark.parametrize("stage", [1, 2])
def test_a_schedule_ends_with_the_run_though_the_model_waits_at_first(
    config: Make, tiny_folder: Path, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    kept = TrainingRun.optimise

    def optimise(run: TrainingRun, *args: object, **kwargs: object) -> object:
        optimizer, scheduler = kept(run, *args, **kwargs)  # type: ignore[arg-type]
        step = scheduler.step
        monkeypatch.setattr(scheduler, "step", lambda: (step(), rates.append(scheduler.get_last_lr()[0])))
        return optimizer, scheduler

    monkeypatch.setattr(TrainingRun, "optimise", optimise)
    settings = {"adversary_weight": 1.0, "adversary_warmup_steps": 3, "lr_scheduler": "cosine", "max_train_steps": 8}
    if stage == 2:
        settings |= {"stage": 2, "init_from": str(tiny_folder), "generator_every": 1}
    (stage1 if stage == 1 else stage2).train(config(**settings, learning_rate=1e-4))
    assert len(rates) == 5 and rates[-1] == pytest.approx(0, abs=1e-9) and rates[0] > 8e-5


@pytest.mark.parametrize("scale_lr", [False, True])
def test_rates_warm_up_and_gradients_are_clipped(config: Make, scale_lr: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []  # rate and gradient norm of each step of the optimiser
    kept = TrainingRun.optimise

    def optimise(run: TrainingRun, *args: object, **kwargs: object) -> object:
        optimizer, scheduler = kept(run, *args, **kwargs)  # type: ignore[arg-type]
        step, (group,) = optimizer.step, optimizer.param_groups

        def watched() -> None:
            norms = [p.grad.norm() for p in group["params"] if p.grad is not None]
            seen.append((group["lr"], float(torch.stack(norms).norm())))
            step()

        monkeypatch.setattr(optimizer, "step", watched)
        return optimizer, scheduler

    monkeypatch.setattr(TrainingRun, "optimise", optimise)
    settings = {"learning_rate": 1e-4, "lr_warmup_steps": 4, "scale_lr": scale_lr, "max_grad_norm": 1e-3}
    stage1.train(config(**settings, max_train_steps=6))
    rates, norms = zip(*seen, strict=True)
    full = 2e-4 if scale_lr else 1e-4  # two crops a step
    assert rates == pytest.approx([0, full / 4, full / 2, full * 3 / 4, full, full])
    assert norms == pytest.approx([1e-3] * 6, rel=1e-2)


def test_what_is_saved_is_the_running_average(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[TrainableOneDC] = []
    raw: list[dict[str, torch.Tensor]] = []  # weights before the first step and after each
    begin, update = TrainingRun.begin, TrainingRun.update_average

    def note() -> None:
        raw.append({name: p.detach().clone() for name, p in models[0].named_parameters() if p.requires_grad})

    def watch(run: TrainingRun, model: TrainableOneDC, save: Any) -> None:
        models.append(model)
        note()
        begin(run, model, save)

    monkeypatch.setattr(TrainingRun, "begin", watch)
    monkeypatch.setattr(TrainingRun, "update_average", lambda run: (note(), update(run)))
    saved = weights_of(stage1.train(config(ema_decay=0.5, learning_rate=0.01, max_train_steps=3)))
    assert len(raw) == 4
    shares = EMAModel([], decay=0.5)
    apart = 0
    for name in raw[0].keys() & saved.keys():
        average = raw[0][name]
        for step in (1, 2, 3):  # at first the average forgets sooner than it is asked to
            average = raw[step][name].lerp(average, shares.get_decay(step))
        assert torch.allclose(saved[name], average, rtol=1e-4, atol=1e-6), name
        apart += not torch.allclose(saved[name], raw[3][name], rtol=1e-2, atol=1e-4)
    assert apart > 100


def test_a_name_that_freezes_nothing_is_refused(config: Make) -> None:
    with pytest.raises(ValueError, match=r"called 'codec\.encoder'.*codec\.enc\b"):
        stage1.train(config(freeze=["codec.encoder"]))


def test_steps_and_averaging_are_asked_for_as_in_other_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"train_data_dir": "x", "num_train_epochs": 3, "max_train_steps": 40}
    assert load_config("box-stage1", both).num_train_epochs == 0
    (tmp_path / "epochs.json").write_text(json.dumps({"train_data_dir": "x", "num_train_epochs": 3, "ema_decay": 0.9}))
    assert load_config(str(tmp_path / "epochs.json"), {"max_train_steps": 5}).num_train_epochs == 0
    assert load_config("box-stage1", {"train_data_dir": "x", "num_train_epochs": 3}).num_train_epochs == 3
    seen: list[TrainConfig] = []
    monkeypatch.setattr(stage1, "train", lambda config: seen.append(config) or tmp_path)
    for wanted in ([], ["--use_ema"], ["--no-use_ema"], ["--use_ema", "--ema_decay", "0.5"]):
        assert cli.main(["--config", "sd15-stage1", "--train_data_dir", "x", *wanted]) == 0
    assert cli.main(["--config", str(tmp_path / "epochs.json"), "--use_ema"]) == 0
    assert [config.ema_decay for config in seen] == [0.0, TrainConfig.ema_decay, 0.0, 0.5, 0.9]


def test_the_launcher_may_choose_the_number_format(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with TrainingRun(config()) as run:
        assert run.accelerator.mixed_precision == "bf16"
    AcceleratorState._reset_state(True)
    with TrainingRun(config(mixed_precision="no")) as run:
        assert run.accelerator.mixed_precision == "no"


def test_captions_may_be_several_or_missing(photographs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photographs, tmp_path / "some"))
    texts = [["a", "b"], [], None, ["c"]]
    rows = [{"file_name": f"{i}.png", "text": text} for i, text in enumerate(texts)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = open_pictures(str(folder), caption_column="text")
    for stream in (
        CropStream(data, Cropping(64), 0, share=Share(4)),
        StreamedCrops(data.to_iterable_dataset(), Cropping(64), 0, share=Share(4)),
    ):
        batches = list(islice(DataLoader(stream, batch_size=4), 8))
        assert {text for batch in batches for text in batch["caption"]} == {"a", "b", "c", ""}


def test_names_are_read_without_the_pictures(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    data = open_pictures(str(photographs))
    rows = [{"image": {"bytes": (photographs / f"{i}.png").read_bytes(), "path": f"{i}.png"}} for i in range(4)]
    embedded = datasets.Dataset.from_list(rows, features=data.features)
    for pictures in (data, embedded, embedded.select([3, 1, 2])):
        with monkeypatch.context() as patched:  # rows and columns as Python objects hold every byte
            patched.setattr("datasets.arrow_dataset.Column.__iter__", lambda _: pytest.fail("all pictures were read"))
            patched.setattr("datasets.Dataset.__iter__", lambda _: pytest.fail("all pictures were read"))
            found = CropStream(pictures, Cropping(64), 0, exclude=frozenset({"1.png", "3.png"})).indices
        names = [Path(record["path"]).name for record in pictures["image"]]
        assert [names[i] for i in found] == [name for name in names if name in ("0.png", "2.png")]


def test_an_adapter_may_learn_beside_the_models_own_and_go_on(
    config: Make,
    tiny_folder: Path,
    tmp_path: Path,
    picture: Callable[..., np.ndarray],
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = {"init_from": str(tiny_folder), "train_lora": True, "rank": 2, "lora_alpha": 2.0}
    base = stage1.train(config(**own, output_dir=str(tmp_path / "base")))  # the codec learns with it
    AcceleratorState._reset_state(True)
    alone = {
        "init_from": str(base),
        "train_lora": True,
        "freeze": DECODER_FROZEN,
        "learning_rate": 0.1,
        "ema_decay": 0.0,
    }
    beside = config(**alone, rank=3, lora_beside=True, output_dir=str(tmp_path / "beside"))
    folder = stage1.train(beside)
    assert folder == tmp_path / "beside" and not (folder / "pipeline").exists()
    pipe = OneDCPipeline.from_pretrained(base)
    data = pipe.compress(picture(64, 64), quality=50)
    before = np.asarray(pipe.decompress(data))
    pipe.load_lora_weights(folder, adapter_name="birds")
    after = np.asarray(pipe.decompress(data))
    assert not np.array_equal(before, after)

    AcceleratorState._reset_state(True)
    goes_on = dataclasses.replace(beside, init_lora=str(folder), learning_rate=1e-12, output_dir=str(tmp_path / "on"))
    pipe.unload_lora_weights()
    pipe.load_lora_weights(stage1.train(goes_on), adapter_name="birds")
    assert np.abs(np.asarray(pipe.decompress(data)).astype(int) - after).max() <= 1

    AcceleratorState._reset_state(True)
    with pytest.raises(ValueError, match="saved alone"):
        stage1.train(config(**alone | {"freeze": []}, lora_beside=True, output_dir=str(tmp_path / "refused")))
    AcceleratorState._reset_state(True)
    stage1.train(config(**alone, rank=5, output_dir=str(tmp_path / "owned")))
    assert any("lora_beside" in record.getMessage() for record in caplog.records)
    assert load_model(str(tmp_path / "owned" / "pipeline")).generator.config.lora["r"] == 2  # type: ignore[index]
    with pytest.raises(ValueError, match="train_lora"):
        config(lora_beside=True)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_with_splits_trains_and_validates(
    config: Make, tiny_folder: Path, parquet_folder: Path, streaming: bool, tmp_path: Path
) -> None:
    settings = {"train_data_dir": "", "dataset_name": str(parquet_folder), "image_column": "photo"}
    settings |= {"init_from": str(tiny_folder)}
    wanted = {"validation_split": "test", "validation_bpp": [0.5], "streaming": streaming}
    folder = stage1.train(config(**settings, **wanted))
    assert (folder / "model_index.json").is_file()
    assert json.loads((tmp_path / "run" / "validation" / "latest.json").read_text())["pictures"] == 1
