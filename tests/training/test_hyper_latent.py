"""Hyper-latent and entropy model learn alone, from what the analysis says."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from onedc_hf import OneDCPipeline
from onedc_hf.training import hyper_latent, stage1
from onedc_hf.training.components import load_model
from onedc_hf.training.config import TrainConfig
from onedc_hf.training.hyper_latent import analyse, main, thumbnails, train_hyper_latent
from onedc_hf.training.model import TrainableOneDC
from onedc_hf.training.publish import ORIGINS, origins
from onedc_hf.training.steps import TrainingError

Make = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    """Crops of one colour each, with a little texture."""
    draws = torch.Generator().manual_seed(0)
    colours = torch.rand(32, 3, 1, 1, generator=draws) * 1.6 - 0.8
    return (colours + 0.1 * torch.randn(32, 3, 64, 64, generator=draws)).clamp(-1, 1)


@pytest.fixture
def model(config: Make) -> TrainableOneDC:
    """The tiny model as its stage 1 starts."""
    return load_model(str(stage1.train(config(max_train_steps=1))))


def test_thumbnails_are_lightness_and_two_opponent_colours() -> None:
    grey = torch.full((1, 3, 64, 64), 0.5)
    assert torch.allclose(thumbnails(grey)[:, 0], torch.tensor(0.5), atol=1e-3)
    assert thumbnails(grey)[:, 1:].abs().max() < 1e-3
    for colour, blue_to_orange, magenta_to_green in (((1, 0, 0), -1, 1), ((0, 1, 0), 1, -1), ((0, 0, 1), 1, 1)):
        flat = torch.tensor(colour, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 64, 64)
        found = thumbnails(flat)[0, 1:, 0, 0].sign().tolist()
        assert found == [blue_to_orange, magenta_to_green]
    assert thumbnails(grey).shape == (1, 3, 8, 8)


def test_it_analyses_as_many_crops_as_it_is_asked_for(model: TrainableOneDC, crops: torch.Tensor) -> None:
    found = analyse(model, crops.split(8), 12)
    channels = model.codec.config.semantic_channels
    assert [tuple(part.shape) for part in found] == [
        (16, 16, 4, 4), (16, channels, 1, 1), (16, channels, 1, 1), (16, 3, 8, 8)
    ]  # fmt: skip
    assert {part.dtype for part in found} == {torch.float16}
    with torch.no_grad():
        y, semantic = model.codec.enc(crops[:8], model.encode_latent(crops[:8]))
        seed = model.codec.entropy.hyper_synthesis(model.codec.hyper_analyse(y, semantic)).semantic_seed
        known = model.codec.adapt(seed)
    for ours, theirs in ((found.y, y), (found.semantic, semantic), (found.known, known)):
        assert torch.allclose(ours[:8].float(), theirs, atol=1e-2)
    some = found.take(torch.tensor([3]), torch.device("cpu"))
    assert some.y.dtype == torch.float32 and torch.equal(some.thumbnail[0], found.thumbnail[3].float())
    with pytest.raises(ValueError, match="after 32 crops; 40"):
        analyse(model, crops.split(8), 40)


def test_it_learns_colours_and_rate_and_leaves_the_rest(model: TrainableOneDC, crops: torch.Tensor) -> None:
    analysed = analyse(model, crops.split(8), 32)
    model.codec.entropy.z_counts += 1
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    lines: list[dict[str, float]] = []
    train_hyper_latent(
        model, analysed, steps=110, batch=16, rate_batch=8, learning_rate=5e-3, warmup_steps=5, logging_steps=40,
        log=lines.append,
    )  # fmt: skip
    assert [line["step"] for line in lines] == [40, 80, 110]
    assert lines[-1]["thumbnail"] < 0.5 * lines[0]["thumbnail"]
    assert lines[-1]["bpp"] < 0.9 * lines[0]["bpp"]
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    learned = ("codec.hyper_enc.", "codec.entropy.", "codec.semantic_adaptor.")
    assert all(name.startswith(learned) for name in moved)
    assert all(any(name.startswith(part) for name in moved) for part in learned)
    assert not model.codec.entropy.z_counts.any()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_it_is_reproducible_and_stops_when_asked(config: Make, crops: torch.Tensor) -> None:
    start = str(stage1.train(config(max_train_steps=1)))
    results: list[list[dict[str, float]]] = []
    for stop in (lambda: False, lambda: False, lambda: True):
        model = load_model(start)
        results.append([])
        train_hyper_latent(
            model, analyse(model, crops.split(8), 32), steps=3, logging_steps=1, log=results[-1].append, stop=stop
        )
    assert results[0] == results[1] and len(results[0]) == 3
    assert results[2] == results[0][:1]


def test_a_step_that_is_no_number_is_left_out(
    model: TrainableOneDC, crops: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysed, honest, seen = analyse(model, crops.split(8), 8), hyper_latent.z_excess, []

    def broken(z: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return honest(z) * (math.nan if len(seen) % 2 == 0 or len(seen) > 4 else 1)

    monkeypatch.setattr(hyper_latent, "z_excess", broken)
    lines: list[dict[str, float]] = []
    train_hyper_latent(model, analysed, steps=4, batch=4, rate_batch=2, logging_steps=2, log=lines.append)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert len(lines) == 2 and all(math.isfinite(value) for line in lines for value in line.values())
    with pytest.raises(TrainingError, match="the hyper-latent was not finite in 25 steps"):
        train_hyper_latent(model, analysed, steps=40, batch=4, rate_batch=2)


@pytest.mark.parametrize("name", ["steps", "batch", "rate_batch", "logging_steps", "learning_rate"])
def test_counts_of_nothing_are_refused(model: TrainableOneDC, crops: torch.Tensor, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be above 0"):
        train_hyper_latent(model, analyse(model, crops.split(8), 8), **{name: 0})
    assert model.codec.hyper_enc.fusion[-1].weight.requires_grad


@pytest.fixture
def command(photographs: Path, tmp_path: Path) -> Callable[..., int]:
    def run(**changes: object) -> int:
        settings: dict[str, object] = {
            "train_data_dir": photographs, "output_dir": tmp_path / "hyper", "crops": 20, "resolution": 64,
            "max_train_steps": 2, "train_batch_size": 4, "rate_batch_size": 2,
        }  # fmt: skip
        words = [word for key, value in (settings | changes).items() for word in (f"--{key}", str(value))]
        return main([*words, "--exclude"])

    return run


def test_the_command_writes_a_pipeline_that_codes(
    config: Make, command: Callable[..., int], picture: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    start = stage1.train(config(max_train_steps=1))
    (start.parent / ORIGINS).write_text('["org/base"]')
    (start / "licences").mkdir()
    (start / "licences" / "Base.txt").write_text("use it well")
    assert command(model=start) == 0
    assert (tmp_path / "hyper" / "pipeline" / "licences" / "Base.txt").read_text() == "use it well"
    assert origins({"init_from": str(tmp_path / "hyper" / "pipeline")}) == ["org/base"]
    (line,) = map(json.loads, (tmp_path / "hyper" / "log.jsonl").read_text().splitlines())
    assert line["step"] == 2 and line["bpp"] > 0
    pipe = OneDCPipeline.from_pretrained(tmp_path / "hyper" / "pipeline")
    before = OneDCPipeline.from_pretrained(start)
    assert pipe.model_id != before.model_id
    assert torch.equal(pipe.codec.entropy.gain_steps, before.codec.entropy.gain_steps)
    assert pipe.decompress(pipe.compress(picture(70, 90), quality=50)).size == (90, 70)


def test_the_command_says_what_is_wrong(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("crops", "max_train_steps", "train_batch_size", "rate_batch_size", "learning_rate"):
        with pytest.raises(SystemExit):
            command(**{name: 0})
        assert f"--{name} must be above 0" in capsys.readouterr().err
    assert command(model=tmp_path / "nowhere") == 1
    assert capsys.readouterr().err.startswith("hyper_latent: ")
    assert command(resolution=65) == 1
    assert "resolution" in capsys.readouterr().err
    (tmp_path / "hyper" / "pipeline").mkdir(parents=True)
    assert command() == 1
    assert "holds the pipeline of an earlier run" in capsys.readouterr().err


def test_an_interrupt_before_the_first_step_ends_the_command_and_writes_no_model(
    command: Callable[..., int], tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_usual = signal.getsignal(signal.SIGINT)

    def interrupted(*_: object) -> None:
        assert signal.getsignal(signal.SIGINT) is as_usual  # which Python turns into this:
        raise KeyboardInterrupt

    monkeypatch.setattr("onedc_hf.training.hyper_latent.analyse", interrupted)
    monkeypatch.setattr("onedc_hf.training.hyper_latent.load_model", lambda _: load_model(str(tiny_folder)))
    assert command() == 130
    assert not (tmp_path / "hyper" / "pipeline").exists()
