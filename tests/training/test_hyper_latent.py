"""Hyper-latent and entropy model learn alone, from what the analysis says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from onedc_hf import OneDCPipeline
from onedc_hf.training import stage1
from onedc_hf.training.components import load_model
from onedc_hf.training.config import TrainConfig
from onedc_hf.training.hyper_latent import analyse, main, thumbnails, train_hyper_latent
from onedc_hf.training.model import TrainableOneDC

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
        seed = model.codec.hyper_synthesis(model.codec.hyper_analyse(y, semantic)).semantic_seed
        known = model.codec.adapt(seed)
    for ours, theirs in ((found.y, y), (found.semantic, semantic), (found.known, known)):
        assert torch.allclose(ours[:8].float(), theirs, atol=1e-2)
    assert torch.equal(found.take(torch.tensor([3])).thumbnail[0], found.thumbnail[3].float())
    with pytest.raises(ValueError, match="after 32 crops; 40"):
        analyse(model, crops.split(8), 40)


def test_it_learns_colours_and_rate_and_leaves_the_rest(model: TrainableOneDC, crops: torch.Tensor) -> None:
    analysed = analyse(model, crops.split(8), 32)
    model.codec.entropy.z_counts += 1
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lines = train_hyper_latent(
        model, analysed, steps=120, batch=16, rate_batch=8, learning_rate=5e-3, warmup_steps=5, logging_steps=40
    )
    assert [line["step"] for line in lines] == [40, 80, 120]
    assert lines[-1]["thumbnail"] < 0.5 * lines[0]["thumbnail"]
    assert lines[-1]["bpp"] < 0.9 * lines[0]["bpp"]
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    learned = ("codec.hyper_enc.", "codec.entropy.", "codec.semantic_adaptor.")
    assert moved and all(name.startswith(learned) for name in moved)
    assert any(name.startswith(part) for part in learned for name in moved)
    assert not model.codec.entropy.z_counts.any() and torch.equal(
        model.codec.entropy.gain_steps, before["codec.entropy.gain_steps"]
    )
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_it_is_reproducible(config: Make, crops: torch.Tensor) -> None:
    start = str(stage1.train(config(max_train_steps=1)))
    results = []
    for _ in range(2):
        model = load_model(start)
        results.append(train_hyper_latent(model, analyse(model, crops.split(8), 32), steps=3, logging_steps=1))
    assert results[0] == results[1]


def test_the_command_writes_a_pipeline_that_codes(
    config: Make, photographs: Path, picture: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    start = stage1.train(config(max_train_steps=1))
    output = tmp_path / "hyper"
    arguments = ["--model", str(start), "--train_data_dir", str(photographs), "--output_dir", str(output)]
    arguments += ["--crops", "20", "--resolution", "64", "--max_train_steps", "100", "--train_batch_size", "4"]
    pipeline = main([*arguments, "--rate_batch_size", "2", "--exclude"])
    (line,) = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    assert line["step"] == 100 and line["bpp"] > 0
    pipe, before = OneDCPipeline.from_pretrained(pipeline), OneDCPipeline.from_pretrained(start)
    assert pipe.model_id != before.model_id
    assert torch.equal(pipe.codec.entropy.gain_steps, before.codec.entropy.gain_steps)
    assert pipe.decompress(pipe.compress(picture(70, 90), quality=50)).size == (90, 70)
