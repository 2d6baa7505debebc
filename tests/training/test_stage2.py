"""Stage 2's loop: what changes and what stays, turns, resuming, refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from onedc_hf import OneDCPipeline
from onedc_hf.models.exact import ExactEntropyModel
from onedc_hf.training.adversary import DISCRIMINATORS
from onedc_hf.training.components import DECIDES_SYMBOLS, load_model, make_model, save_pipeline
from onedc_hf.training.config import TrainConfig
from onedc_hf.training.crops import Share, crop_batches
from onedc_hf.training.guidance import make_latent_guidance
from onedc_hf.training.model import TrainableOneDC
from onedc_hf.training.stage2 import ALL_BUT_THE_GENERATOR, train
from onedc_hf.training.start import start_as_transform_codec
from onedc_hf.training.teacher import train_teacher

from .saved import weights_of
from .toy_teacher import TINY_UNET, captioned_folder

Make = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def started(photographs: Path, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that codes pictures already, linearly, and so has latents that a generator can come near to."""
    torch.manual_seed(0)
    model = make_model(str(tiny_config))
    data = TrainConfig(train_data_dir=str(photographs), resolution=64)
    start_as_transform_codec(model, next(iter(crop_batches(data, Share(40)))))
    folder = tmp_path_factory.mktemp("started")
    save_pipeline(model, folder)
    return folder


@pytest.fixture(scope="session")
def teacher(started: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of that model's latents, hardly trained."""
    model = load_model(str(started), freeze=DECIDES_SYMBOLS)
    data = TrainConfig(train_data_dir=str(photographs), resolution=64)
    return train_teacher(
        crop_batches(data, Share(4)),
        model.encode_latent,
        tmp_path_factory.mktemp("teacher"),
        scheduler=model.scheduler,
        unet=TINY_UNET,
        max_steps=40,
        learning_rate=1e-2,
        warmup_steps=0,
        ema_decay=0.8,
    )


@pytest.fixture
def stage2(config: Make, started: Path, teacher: Path) -> Make:
    def make(**changes: object) -> TrainConfig:
        settings: dict[str, object] = {
            "stage": 2,
            "init_from": str(started),
            "teacher": str(teacher),
            "freeze": list(DECIDES_SYMBOLS),
            "generator_every": 2,
            "max_train_steps": 4,
            "ema_decay": 0.0,
        }
        return config(**(settings | changes))

    return make


def _log(config: TrainConfig) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(config.output_dir) / "log.jsonl").read_text().splitlines()]


def test_the_generator_has_every_second_turn_and_symbols_stay(stage2: Make, started: Path) -> None:
    settings = stage2()
    folder = train(settings)
    lines = _log(settings)
    assert ["matching" in line for line in lines] == [True, False, True, False]
    assert all({"fake_score", "latent_discriminator", "bpp"} <= line.keys() for line in lines)
    before, after = weights_of(started), weights_of(folder)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("generator.") for name in changed)
    assert not [name for name in changed if name.startswith(DECIDES_SYMBOLS)]
    pipes = [OneDCPipeline.from_pretrained(path) for path in (started, folder)]
    assert pipes[0].codec.config.model_id == pipes[1].codec.config.model_id


def test_a_run_that_continues_equals_the_unbroken_one(stage2: Make, tmp_path: Path) -> None:
    whole = train(stage2(output_dir=str(tmp_path / "whole"), balance_losses=True))
    AcceleratorState._reset_state(True)
    broken = str(tmp_path / "broken")
    train(stage2(output_dir=broken, max_train_steps=3))
    AcceleratorState._reset_state(True)
    rest = train(stage2(output_dir=broken, resume_from_checkpoint="latest"))
    expected, found = weights_of(whole), weights_of(rest)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    logs = [_log(stage2(output_dir=str(tmp_path / run)))[-1] for run in ("whole", "broken")]
    assert logs[0]["fake_score"] == logs[1]["fake_score"]  # the guidance's state came back too


def test_it_lowers_its_losses(stage2: Make) -> None:
    settings = stage2(
        max_train_steps=40,
        generator_every=1,
        train_batch_size=4,
        learning_rate=3e-3,
        guidance_learning_rate=2e-2,
        matching_weight=0.2,
        latent_gan_weight=0.0,
    )
    train(settings)
    lines = _log(settings)
    for name, share in (("pixel", 0.5), ("fake_score", 0.9)):
        early, late = (sum(line[name] for line in part) / 10 for part in (lines[:10], lines[-10:]))
        assert late < share * early, name


@pytest.mark.parametrize(("changes", "decoded"), [({}, 2), ({"adversary_weight": 1.0}, 4)], ids=["teacher", "both"])
def test_the_vae_does_no_work_that_nobody_looks_at(
    stage2: Make, monkeypatch: pytest.MonkeyPatch, changes: dict[str, float], decoded: int
) -> None:
    calls = {"encode_latent": 0, "decode_latent": 0}

    def count(name: str) -> None:
        whole = getattr(TrainableOneDC, name)

        def counted(model: TrainableOneDC, given: torch.Tensor) -> torch.Tensor:
            calls[name] += 1
            return whole(model, given)

        monkeypatch.setattr(TrainableOneDC, name, counted)

    for name in calls:
        count(name)
    train(stage2(**changes, balance_losses=False))
    assert calls == {"encode_latent": 4, "decode_latent": decoded}  # the generator has two turns of four


def test_only_the_guidance_learns_while_warming_up(stage2: Make, started: Path) -> None:
    settings = stage2(adversary_warmup_steps=2, max_train_steps=2, generator_every=1)
    before, after = weights_of(started), weights_of(train(settings))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all("fake_score" in line and "matching" not in line for line in _log(settings))


def test_a_launchers_number_format_is_refused_where_it_cannot_work(stage2: Make) -> None:
    run: Any = SimpleNamespace(accelerator=SimpleNamespace(mixed_precision="fp16"))
    model: Any = None
    with pytest.raises(ValueError, match="cannot accumulate gradients in fp16"):
        make_latent_guidance(stage2(gradient_accumulation_steps=2), run, model)


def test_without_a_teacher_accumulated_batches_equal_a_larger_one(stage2: Make, tmp_path: Path) -> None:
    common = {"teacher": "", "generator_every": 1, "max_train_steps": 3}
    one = train(stage2(**common, train_batch_size=4, output_dir=str(tmp_path / "one")))
    AcceleratorState._reset_state(True)
    settings = stage2(**common, gradient_accumulation_steps=2, output_dir=str(tmp_path / "two"))
    expected, found = weights_of(one), weights_of(train(settings))
    floats = [name for name, tensor in expected.items() if tensor.is_floating_point()]
    assert all(torch.allclose(found[name], expected[name], atol=2e-4) for name in floats)
    assert all("pixel" in line and "fake_score" not in line for line in _log(settings))


def test_a_run_gives_the_decoder_noise_and_goes_on_with_it(stage2: Make, tmp_path: Path) -> None:
    noisy = {
        "teacher": "",
        "noise_channels": 4,
        "statistics_weight": 1.0,
        "freeze": [*DECIDES_SYMBOLS],
        "generator_every": 1,
        "checkpointing_steps": 2,
        "max_train_steps": 4,
    }
    whole = stage2(**noisy, output_dir=str(tmp_path / "whole"))
    after = train(whole)
    assert all("band_statistics" in line and "feature_statistics" in line for line in _log(whole))
    vae = OneDCPipeline.from_pretrained(after).vae
    assert vae.config.noise_channels == 4 and vae.noise_gate.weight.abs().max() > 0  # which began as zeros
    AcceleratorState._reset_state(True)
    halved = noisy | {"output_dir": str(tmp_path / "halved")}
    train(stage2(**(halved | {"max_train_steps": 2})))
    AcceleratorState._reset_state(True)
    resumed = weights_of(train(stage2(**halved, resume_from_checkpoint="latest")))
    unbroken = weights_of(after)
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


def test_a_run_keeps_its_discriminators_for_the_next(stage2: Make, tmp_path: Path) -> None:
    settings = {"teacher": "", "adversary_weight": 1.0, "adversary_learning_rate": 1e-2, "adversary_every": 1}
    train(stage2(**settings, output_dir=str(tmp_path / "first")))
    kept = tmp_path / "first" / DISCRIMINATORS
    AcceleratorState._reset_state(True)
    still = settings | {"adversary_learning_rate": 0.0, "discriminators": str(kept)}
    train(stage2(**still, output_dir=str(tmp_path / "second")))
    first, second = load_file(kept), load_file(tmp_path / "second" / DISCRIMINATORS)
    # What learns is as it was; the vectors of spectral norm follow the weights in every pass.
    assert all(torch.equal(first[name], second[name]) for name in first if "original" in name or "bias" in name)
    # A run that goes on has its own, wherever the file is by now; one without an adversary leaves no stranger's there.
    AcceleratorState._reset_state(True)
    gone = still | {"discriminators": str(tmp_path / "gone"), "resume_from_checkpoint": "latest"}
    train(stage2(**gone, output_dir=str(tmp_path / "second"), max_train_steps=5))
    assert (tmp_path / "second" / DISCRIMINATORS).is_file()
    AcceleratorState._reset_state(True)
    for path in (tmp_path / "second").glob("checkpoint-*"):
        shutil.rmtree(path)
    train(stage2(teacher="", output_dir=str(tmp_path / "second")))
    assert not (tmp_path / "second" / DISCRIMINATORS).exists()


def test_an_exact_codec_stays_and_without_a_list_only_the_generator_learns(stage2: Make, tiny_folder: Path) -> None:
    settings = stage2(init_from=str(tiny_folder), freeze=[], generator_every=1, max_train_steps=2)
    folder = train(settings)
    before, after = weights_of(tiny_folder), weights_of(folder)
    assert before.keys() == after.keys()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"generator"}
    pipes = [OneDCPipeline.from_pretrained(path) for path in (tiny_folder, folder)]
    assert all(isinstance(pipe.codec.entropy, ExactEntropyModel) for pipe in pipes)
    assert pipes[0].codec.config.model_id == pipes[1].codec.config.model_id == pipes[1].codec.entropy.digest().hex()
    kept = json.loads((Path(settings.output_dir) / "train_config.json").read_text())
    assert kept["freeze"] == list(ALL_BUT_THE_GENERATOR)


# A run of which each process writes what it ended with into a file of its own.
_REPORTING = """
import os, sys
import torch
from onedc_hf.training import stage2
from onedc_hf.training.config_files import load_config

made = []
make = stage2.make_latent_guidance
stage2.make_latent_guidance = lambda config, run, model: made.append((make(config, run, model), model)) or made[-1][0]
stage2.train(load_config(sys.argv[1], {}))
(guidance, model), = made
parts = {"fake": guidance.teacher.fake, "head": guidance.discriminator, "generator": model.generator}
state = {f"{part}.{name}": p.detach() for part, module in parts.items() for name, p in module.named_parameters()}
torch.save(state, sys.argv[2] + os.environ["RANK"])
"""


def test_processes_stay_together_around_an_exact_codec(stage2: Make, tiny_folder: Path, tmp_path: Path) -> None:
    settings = stage2(init_from=str(tiny_folder), freeze=[], max_train_steps=3, num_threads=1)
    (tmp_path / "two.json").write_text(settings.to_json())
    (tmp_path / "report.py").write_text(_REPORTING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "report.py"), str(tmp_path / "two.json"), str(tmp_path / "ended-")],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # Each process saw crops, timesteps and noise of its own: only averaged gradients keep them equal.
    first, second = (torch.load(tmp_path / f"ended-{rank}", weights_only=True) for rank in range(2))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    before, after = weights_of(tiny_folder), weights_of(Path(settings.output_dir) / "pipeline")
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"generator"}


def test_whatever_decides_symbols_must_be_frozen(stage2: Make) -> None:
    with pytest.raises(ValueError, match=r"codec\.enc"):
        train(stage2(freeze=["codec.entropy"]))


def test_guidance_by_captions_needs_captions(stage2: Make, photographs: Path, tmp_path: Path) -> None:
    teacher = str(captioned_folder(tmp_path / "captioned", channels=4))
    with pytest.raises(ValueError, match="caption_column.*guidance_scale"):
        train(stage2(teacher=teacher))
    AcceleratorState._reset_state(True)
    train(stage2(teacher=teacher, guidance_scale=1.0, max_train_steps=1, output_dir=str(tmp_path / "without")))
    AcceleratorState._reset_state(True)
    described = Path(shutil.copytree(photographs, tmp_path / "described"))
    rows = [{"file_name": f"{i}.png", "text": "a cat"} for i in range(4)]
    (described / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train(stage2(teacher=teacher, train_data_dir=str(described), caption_column="text", max_train_steps=1))
