"""What surrounds an objective: shares of the data, several processes, checkpoints, number formats, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader

from onedc_hf import ModelError, OneDCPipeline
from onedc_hf.training.checkpoints import write_settings
from onedc_hf.training.components import load_start, make_model
from onedc_hf.training.config import TrainConfig
from onedc_hf.training.config_files import load_config, model_settings
from onedc_hf.training.crops import Cropping, CropStream, Share, StreamedCrops, crop_batches
from onedc_hf.training.picture_sets import open_pictures
from onedc_hf.training.stage1 import train

from .saved import weights_of

Make = Callable[..., TrainConfig]


def _stream(photographs: Path, share: Share) -> CropStream:
    return CropStream(open_pictures(str(photographs)), Cropping(64), 5, share=share)


def test_processes_share_the_batch_of_one(photographs: Path) -> None:
    whole = list(islice(_stream(photographs, Share(batch=4, start=1)), 8))  # two rounds
    halves = [list(islice(_stream(photographs, Share(2, rank, 2, 1)), 4)) for rank in range(2)]
    together = [*halves[0][:2], *halves[1][:2], *halves[0][2:], *halves[1][2:]]
    assert all(torch.equal(a, b) for a, b in zip(whole, together, strict=True))


def test_workers_of_a_loader_take_turns(photographs: Path) -> None:
    alone, workers = (
        list(islice(DataLoader(_stream(photographs, Share(2)), batch_size=2, num_workers=count), 3)) for count in (0, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(alone, workers, strict=True))


def test_processes_and_workers_share_the_room_for_pictures(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for processes, workers, expected in (("1", 0, 12), ("2", 0, 6), ("2", 2, 3)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        settings = config(picture_cache_mib=12, dataloader_num_workers=workers)
        stream = crop_batches(settings, Share()).dataset
        assert isinstance(stream, CropStream) and stream._cache_left == expected << 20


def test_a_crop_in_the_middle_is_always_the_same(photographs: Path) -> None:
    picture = np.arange(96 * 112 * 3, dtype=np.uint32).reshape(96, 112, 3).astype(np.uint8)
    crop = Cropping(64, center=True, flip=False, interpolation="nearest")
    first, second = (crop(picture, np.random.default_rng(seed)) for seed in (0, 1))
    assert torch.equal(first, second) and first.shape == (3, 64, 64)
    with pytest.raises(ValueError, match="lanczos"):
        Cropping(64, interpolation="best")


def test_crops_are_reduced_and_enlarged_within_the_scales_asked_for() -> None:
    # A ramp of one level a pixel: how fast a crop rises says by how much it was scaled.
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :, None], (240, 240, 3))
    crop, rng = Cropping(64, smallest_scale=0.5, largest_scale=2.0, flip=False, interpolation="bicubic"), np.random
    rises = [float(crop(ramp, rng.default_rng(seed))[0, 32, 8:56].diff().mean()) * 127.5 for seed in range(60)]
    scales = [1 / rise for rise in rises]
    assert 0.48 < min(scales) < 0.7 and 1.7 < max(scales) < 2.1
    with pytest.raises(ValueError, match="largest_scale"):
        TrainConfig(train_data_dir="x", smallest_scale=1.2)


def test_a_streamed_data_set_continues_where_it_stood(photographs: Path) -> None:
    data = open_pictures(str(photographs)).to_iterable_dataset(num_shards=2)
    whole = list(islice(StreamedCrops(data, Cropping(64), 3), 9))  # four pictures: more than two epochs
    rest = list(islice(StreamedCrops(data, Cropping(64), 3, share=Share(2, start=3)), 3))
    assert all(torch.equal(a, b) for a, b in zip(whole[6:], rest, strict=True))
    ranks = [list(islice(StreamedCrops(data, Cropping(64), 3, share=Share(1, rank, 2)), 2)) for rank in range(2)]
    assert not any(torch.equal(a, b) for a in ranks[0] for b in ranks[1])  # each has pictures of its own


def test_captions_come_with_the_crops(photographs: Path, tmp_path: Path) -> None:
    for path in photographs.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = [{"file_name": f"{i}.png", "text": f"picture {i}"} for i in range(4)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = open_pictures(str(tmp_path), caption_column="text")
    batch = next(iter(DataLoader(CropStream(data, Cropping(64), 0, share=Share(2)), batch_size=2)))
    assert batch["pixels"].shape == (2, 3, 64, 64) and all(text.startswith("picture") for text in batch["caption"])
    with pytest.raises(ValueError, match="no column 'words'"):
        open_pictures(str(tmp_path), caption_column="words")


def test_two_processes_equal_one_with_twice_the_batch(config: Make, tmp_path: Path) -> None:
    common = {"ms_ssim_weight": 0.5, "resolution": 128, "num_threads": 1, "lambda_ramp_steps": 0, "ema_decay": 0.0}
    common["seed"] = 9  # sends only `z` of a crop in the second step, of none in the first, whose losses are compared
    one = train(config(**common, train_batch_size=4, output_dir=str(tmp_path / "one"), max_train_steps=3))
    two = config(**common, train_batch_size=2, output_dir=str(tmp_path / "two"), max_train_steps=3)
    (tmp_path / "two.json").write_text(two.to_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "-m", "onedc_hf.training.cli", "--config", str(tmp_path / "two.json")],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Trained pipeline") == 1
    expected, found = weights_of(one), weights_of(tmp_path / "two" / "pipeline")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            assert torch.allclose(found[name], tensor, atol=2e-4), name
    logs = [json.loads((tmp_path / run / "log.jsonl").read_text().splitlines()[0]) for run in ("one", "two")]
    # The first process logs its own crops: the same size of loss, not the same number.
    assert logs[0]["pixel"] == pytest.approx(logs[1]["pixel"], rel=0.5)


def test_memory_for_time_changes_no_gradient(photographs: Path, tiny_config: Path) -> None:
    crops = torch.stack(list(islice(_stream(photographs, Share()), 2)))
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = make_model(str(tiny_config))
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.train()
        rebuilt = model(crops, torch.tensor([20.0, 80.0]))
        (rebuilt.picture.abs().mean() + rebuilt.bpp.mean()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"mixed_precision": "bf16"},
        {"gradient_accumulation_steps": 2, "gradient_checkpointing": True},
        {"dataloader_num_workers": 1},
        {"optimizer": "adafactor"},
        {"num_train_epochs": 1, "max_train_steps": 9},  # four pictures, two a step
        {"scale_lr": True, "learning_rate": 1e-5, "lr_scheduler": "cosine"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_of_a_run_work(config: Make, changes: dict, picture: Callable[..., np.ndarray]) -> None:
    folder = train(config(**changes))
    log = [json.loads(line) for line in (folder.parent / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2] and all(np.isfinite(row["pixel"]) for row in log)
    assert OneDCPipeline.from_pretrained(folder).compress(picture(64, 64), quality=50)


def test_accumulated_batches_equal_a_larger_one(config: Make, tmp_path: Path) -> None:
    # Several steps: the first one of AdamW is as large as the learning rate, whatever the gradient is.
    common = {"ema_decay": 0.0, "max_train_steps": 3, "lambda_ramp_steps": 0}
    one = train(config(**common, train_batch_size=4, output_dir=str(tmp_path / "one")))
    AcceleratorState._reset_state(True)
    two = train(config(**common, gradient_accumulation_steps=2, output_dir=str(tmp_path / "two")))
    expected, found = weights_of(one), weights_of(two)
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            assert torch.allclose(found[name], tensor, atol=2e-4), name


def test_a_half_written_checkpoint_is_not_taken_up(config: Make, tmp_path: Path) -> None:
    train(config())
    (tmp_path / "run" / "checkpoint-2").rename(tmp_path / "run" / "unfinished-checkpoint")
    AcceleratorState._reset_state(True)
    with pytest.raises(FileNotFoundError, match="latest"):
        train(config(resume_from_checkpoint="latest"))


def test_settings_that_were_cut_off_do_not_end_a_run_for_good(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train(config(max_train_steps=1))
    settings = tmp_path / "run" / "train_config.json"
    whole = settings.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_settings(tmp_path / "run", config(seed=5))
    assert settings.read_bytes() == whole
    settings.write_bytes(whole[: len(whole) // 2])  # by an earlier version of the program
    AcceleratorState._reset_state(True)
    train(config(resume_from_checkpoint="latest", max_train_steps=2))
    assert "train_config.json cannot be read" in caplog.text and settings.read_bytes() != whole


def test_a_folder_of_another_run_is_left_alone(config: Make, tmp_path: Path) -> None:
    train(config(checkpointing_steps=1))
    kept = tmp_path / "run" / "checkpoint-best"  # a name of the user's own
    kept.mkdir()
    before = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert before == ["checkpoint-1", "checkpoint-2", "checkpoint-best"]
    AcceleratorState._reset_state(True)
    with pytest.raises(ValueError, match="checkpoint-1, checkpoint-2 of an earlier run.*resume_from_checkpoint"):
        train(config(max_train_steps=1))
    AcceleratorState._reset_state(True)
    with pytest.raises(ValueError, match="move what is newer than checkpoint-1"):
        train(config(resume_from_checkpoint="checkpoint-1"))
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == before
    AcceleratorState._reset_state(True)
    train(config(resume_from_checkpoint="latest", max_train_steps=3, checkpointing_steps=1))
    after = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert after == ["checkpoint-2", "checkpoint-3", "checkpoint-best"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"stage": 3}, "stage"),
        ({"picture_cache_mib": -1}, "picture_cache_mib"),
        ({"predictor_weights": "a.safetensors"}, "distillation_weight"),
        ({"streaming": True}, "dataset_name"),
        ({"mixed_precision": "bf8"}, "mixed_precision"),
        ({"optimizer": "sgd"}, "adafactor"),
        ({"adversary_every": 0}, "adversary_every"),
        ({"max_grad_norm": -1.0}, "max_grad_norm"),
        ({"num_train_epochs": -1}, "num_train_epochs"),
        (
            {"stage": 2, "teacher": "t", "mixed_precision": "fp16", "gradient_accumulation_steps": 2},
            "fp16: use `mixed_precision` bf16, or a larger `train_batch_size`",
        ),
        ({"hub_license": "Apache 2.0"}, "apache-2.0"),
        ({"freeze": ["codec", "generator", "vae", "gain_anchors"]}, "frozen"),
    ],
)
def test_settings_that_cannot_work_are_refused(config: Make, changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        train(config(**changes))


def test_a_lora_run_gives_an_adapter_and_leaves_the_model_alone(
    config: Make, tiny_folder: Path, tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    frozen = ["codec", "gain_anchors", "vae"]
    settings = {"init_from": str(tiny_folder), "train_lora": True, "rank": 2, "lora_alpha": 2.0, "freeze": frozen}
    folder = train(config(**settings, learning_rate=0.1, ema_decay=0.0))
    assert folder == tmp_path / "run" and not (folder / "pipeline").exists()
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    data = pipe.compress(picture(64, 64), quality=50)
    before = np.asarray(pipe.decompress(data))
    pipe.load_lora_weights(folder)
    assert not np.array_equal(before, np.asarray(pipe.decompress(data)))
    pipe.unload_lora_weights()
    assert np.array_equal(before, np.asarray(pipe.decompress(data)))


def test_a_lora_that_trains_with_the_codec_is_a_part_of_the_model(config: Make, tmp_path: Path) -> None:
    folder = train(config(train_lora=True, rank=2, lora_train_also=["conv_in"], ema_decay=0.5))
    assert folder == tmp_path / "run" / "pipeline"
    pipe = OneDCPipeline.from_pretrained(folder)
    assert pipe.generator.config.lora is not None and pipe.generator.config.lora["r"] == 2
    assert any(".lora_A." in name for name in pipe.generator.state_dict())


def test_a_config_may_lie_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "birds.json").write_text(json.dumps({"seed": 7, "resolution": 192}))
    asked = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        return str(tmp_path / "birds.json")

    monkeypatch.setattr("onedc_hf.training.config_files.hf_hub_download", download)
    found = load_config("org/recipes/box/birds.json", {"resolution": 256, "train_data_dir": "birds"})
    assert asked == [("org/recipes", "box/birds.json")]
    assert (found.seed, found.train_data_dir, found.resolution) == (7, "birds", 256)
    with pytest.raises(ValueError, match="No config 'org/recipes'"):
        load_config("org/recipes", {})


def test_a_start_that_is_no_folder_here_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"'\./sd15-stage1/pipeline' does not exist"):
        load_start(load_config("sd15-stage2", {"train_data_dir": "pictures"}))


@pytest.mark.parametrize("name", ["box-stage1", "box-stage2", "sd15-stage1", "sd15-stage2"])
def test_configs_of_the_package_are_whole(name: str) -> None:
    found = load_config(name, {"train_data_dir": "pictures"})
    assert found.stage == int(name[-1])
    if found.stage == 1:
        assert {"codec", "generator", "vae", "scheduler"} <= set(model_settings(found.model))
