"""The small latent diffusion model: learns, is saved whole, goes on from weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from onedc_hf.training import teacher
from onedc_hf.training.components import load_model
from onedc_hf.training.config_files import load_config
from onedc_hf.training.scores import ScoreNetwork, load_teacher
from onedc_hf.training.steps import TrainingError
from onedc_hf.training.teacher import _arguments, main, train_teacher

from .conftest import SCHEDULER
from .toy_teacher import TINY_CAPTIONED_UNET, TINY_UNET

Train = Callable[..., Path]


def _pictures(seed: int = 0) -> Iterator[torch.Tensor]:
    """Flat pictures of two colours each: left half and right half."""
    draws = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(8, 3, 1, 2, generator=draws).repeat_interleave(64, 2).repeat_interleave(32, 3)


def _encode(pixels: torch.Tensor) -> torch.Tensor:
    return 0.37 * torch.nn.functional.avg_pool2d(pixels, 8)[:, :2] + 0.1  # [B, 2, 8, 8]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    def run(**changes: object) -> Path:
        settings: dict[str, object] = {
            "unet": TINY_UNET,
            "max_steps": 60,
            "learning_rate": 3e-3,
            "warmup_steps": 5,
            "ema_decay": 0.9,
            "logging_steps": 20,
            "saving_steps": 30,
            "scheduler": DDPMScheduler(**SCHEDULER),
            "held_out": next(_pictures(1)),
        }
        output = changes.pop("output", tmp_path / "teacher")
        return train_teacher(_pictures(), _encode, output, **(settings | changes))  # type: ignore[arg-type]

    return run


def test_it_learns_and_is_saved_as_a_teacher(train: Train) -> None:
    folder = train()
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    held_out = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert [line["step"] for line in lines] == [20, 30, 40, 60]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"] and held_out[1] < held_out[0] < 1.1
    found = load_teacher(str(folder))
    assert isinstance(found.real, ScoreNetwork) and found.captions is None
    assert found.scale.mean == pytest.approx((0.1, 0.1), abs=0.06)
    assert found.scale.deviation == pytest.approx((0.37, 0.37), abs=0.06)
    x, t = torch.randn(1, 2, 8, 8), torch.tensor([400])
    assert torch.equal(found.real.predict_noise(x, t), found.fake.predict_noise(x, t))
    assert found.real.unet is not found.fake.unet


def test_a_step_that_is_no_number_is_left_out_and_many_are_an_error(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, seen = teacher.fake_score_loss, []

    def broken(*arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(1)
        loss = honest(*arguments, **options)
        return loss * math.nan if len(seen) % 3 == 0 or len(seen) > 12 else loss

    monkeypatch.setattr(teacher, "fake_score_loss", broken)
    folder = train(max_steps=12, logging_steps=4, held_out=None)
    assert all(torch.isfinite(p).all() for p in load_teacher(str(folder)).fake.parameters())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [math.isfinite(line["loss"]) for line in lines] == [True] * 3
    with pytest.raises(TrainingError, match="the teacher was not finite in 25 steps"):
        train(output=tmp_path / "lost", held_out=None)
    assert not (tmp_path / "lost" / "unet").exists()


def test_it_goes_on_from_weights(train: Train, tmp_path: Path) -> None:
    first = train()
    before = load_teacher(str(first))
    second = train(init_from=first, max_steps=1, warmup_steps=1000, output=tmp_path / "second")
    after = load_teacher(str(second))
    assert after.scale == before.scale
    assert all(
        torch.allclose(a, b, atol=1e-4) for a, b in zip(before.fake.parameters(), after.fake.parameters(), strict=True)
    )


def test_an_earlier_teacher_is_not_replaced_unless_it_is_gone_on_with(train: Train, tmp_path: Path) -> None:
    first = train()
    before = (first / "log.jsonl").read_bytes()
    with pytest.raises(ValueError, match="holds a teacher already"):
        train(output=first)
    assert (first / "log.jsonl").read_bytes() == before
    assert train(output=first, init_from=first, max_steps=1) == first


def test_it_stops_when_asked_to_with_everything_saved(train: Train) -> None:
    asked: list[int] = []
    folder = train(stop=lambda: bool(asked.append(0)) or len(asked) == 3)
    assert len(asked) == 3 and load_teacher(str(folder)).fake.middle_channels == 16


def test_the_command_makes_a_teacher_of_a_models_latents(tiny_folder: Path, photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "unseen.txt").write_text("0.png\n")
    words = f"--model {tiny_folder} --train_data_dir {photographs} --output_dir {tmp_path / 'made'} --width 32"
    folder = tmp_path / "made"
    code = main(
        [
            *words.split(),
            *f"--max_train_steps 2 --train_batch_size 1 --resolution 64 --exclude {tmp_path / 'unseen.txt'}".split(),
        ]
    )
    assert code == 0
    teacher, model = load_teacher(str(folder)), load_model(str(tiny_folder))
    unet: dict[str, object] = dict(teacher.fake.unet.config)
    assert unet["block_out_channels"] == [32, 64, 96]
    assert unet["in_channels"] == model.generator.config.latent_channels == len(teacher.scale.mean)
    assert torch.equal(teacher.schedule.alphas_cumprod, model.scheduler.alphas_cumprod.double())
    (line,) = (json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines())
    assert line["step"] == 2 and 0 < line["held_out_loss"] < 2  # of the picture that was left out


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--train_data_dir", str(tmp_path / "nowhere"), "--output_dir", str(tmp_path / "made")]) == 1
    assert capsys.readouterr().err.startswith("teacher: `train_data_dir`: there is no folder")
    assert not (tmp_path / "made").exists()


def test_the_command_leaves_the_boxs_unseen_pictures_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = _arguments(["--train_data_dir", "photos", "--output_dir", str(tmp_path)])
    assert asked.exclude == load_config("box-stage2", {"train_data_dir": "photos"}).exclude
    with pytest.raises(SystemExit):
        _arguments(["--train_data_dir", "photos", "--output_dir", str(tmp_path), "--width", "48"])
    assert "multiple of 32" in capsys.readouterr().err


def test_what_cannot_work_is_refused(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cross-attention"):
        train(unet=TINY_CAPTIONED_UNET)
    with pytest.raises(ValueError, match="ended"):
        train_teacher([next(_pictures())], _encode, tmp_path, scheduler=DDPMScheduler(**SCHEDULER), unet=TINY_UNET)
