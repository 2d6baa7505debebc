"""Symbols rebuilt at the means of their intervals, and how sure these are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from onedc_hf import ModelError, OneDCPipeline
from onedc_hf.models.context import fold, unfold_into
from onedc_hf.models.reconstruction import MAGNITUDES, reconstruction_points
from onedc_hf.models.rounding import round_for_rate
from onedc_hf.training.model import TrainableOneDC

Picture = Callable[..., np.ndarray]


@pytest.fixture
def centred(tiny_folder: Path) -> OneDCPipeline:
    """The tiny model with centroids, in float32; its synthesis transform has learned to see deviations."""
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    pipe.codec.add_centroids()
    torch.manual_seed(0)
    torch.nn.init.normal_(pipe.codec.dec.deviation_in.weight)
    return pipe


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("scale", [0.3, 0.6, 1.0, 4.0])
def test_points_are_the_moments_of_gaussians_that_an_encoder_rounded(scale: float, weight: float) -> None:
    torch.manual_seed(0)
    residual = torch.randn(1_000_000, dtype=torch.float64) * scale
    symbols = round_for_rate(residual, torch.full_like(residual, scale), weight)
    points = reconstruction_points(torch.tensor([scale]), torch.tensor([weight]))[0, 0]
    for symbol in range(4):
        inside = residual[symbols == symbol] - symbol
        if len(inside) > 5000:
            assert points[symbol, 0] == pytest.approx(float(inside.mean()), abs=0.01)
            assert points[symbol, 1] == pytest.approx(float(inside.std()), abs=0.01)


def test_points_are_finite_and_within_their_intervals() -> None:
    scales = torch.exp(torch.linspace(-2.2, 4.1, 256))
    points = reconstruction_points(scales, torch.tensor([0.0, 0.05, 0.4]))
    assert points.shape == (3, 256, MAGNITUDES, 2) and points.isfinite().all()
    offsets, deviations = points.unbind(dim=-1)
    assert (offsets[0].abs() <= 0.5).all() and (offsets <= 1.5).all() and (deviations >= 0).all()
    assert not offsets[:, :, 0].any()
    assert (deviations[:, :, 0] <= scales + 1e-6).all()
    assert 0.55 < 1 + offsets[0, 0, 1] < 0.6  # tails are not as thin as a Gaussian's


def test_a_file_says_the_same_and_its_picture_lies_nearer(
    tiny_folder: Path, centred: OneDCPipeline, picture: Picture
) -> None:
    plain = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    photograph = picture(128, 192)
    for quality in (10, 50, 90):
        data = plain.compress(photograph, quality=quality)
        assert centred.compress(photograph, quality=quality) == data
        before, after = (pipe.read_symbols(data) for pipe in (plain, centred))
        assert before.refinement is None and after.refinement is not None
        assert torch.equal(before.y_hat, after.y_hat) and torch.equal(before.semantic_seed, after.semantic_seed)
        offsets, deviations = after.refinement.chunk(2, dim=1)
        assert offsets.any() and (deviations > 0).all()
        assert not np.array_equal(np.asarray(plain.decompress(data)), np.asarray(centred.decompress(data)))


def test_centroids_lie_nearer_to_what_was_rounded(centred: OneDCPipeline) -> None:
    codec = centred.codec
    torch.manual_seed(0)
    shape, row = (1, codec.config.y_channels, 8, 8), 60
    hyper = codec.entropy.hyper_synthesis(torch.zeros(1, 7, 2, 2))
    errors = {"symbols": 0.0, "centroids": 0.0, "expected": 0.0}
    for _ in range(40):
        refinement = codec.refinement(torch.tensor([60.0]), shape)
        y = torch.zeros(shape, dtype=torch.float64)

        def code(unit, y=y, refinement=refinement):
            # Latents as the entropy model expects them.
            drawn = unit.means + torch.randn(unit.means.shape, dtype=torch.float64) * unit.scales / unit.factor
            unfold_into(y[:, :, unit.rows], drawn, unit.index)
            symbols = unit.quantise(y)
            refinement.note_unit(unit, symbols)
            return symbols

        y_hat = codec.entropy.code(hyper, codec.entropy.gain(row), code)
        offsets, deviations = refinement.values.chunk(2, dim=1)
        errors["symbols"] += float((y - y_hat).square().sum())
        errors["centroids"] += float((y - y_hat - offsets).square().sum())
        errors["expected"] += float(deviations.square().sum())
    assert errors["centroids"] < 0.99 * errors["symbols"]
    assert errors["centroids"] == pytest.approx(errors["expected"], rel=0.1)


def test_where_nothing_was_sent_the_whole_scale_is_doubt(centred: OneDCPipeline, picture: Picture) -> None:
    photograph = picture(128, 192)
    z_only = centred.read_symbols(centred.compress(photograph, z_only=True))
    preview = centred.read_symbols(centred.compress(photograph, quality=70), preview=True)
    assert torch.equal(z_only.refinement, preview.refinement)
    offsets, deviations = z_only.refinement.chunk(2, dim=1)
    codec, gain = centred.codec, centred.codec.entropy.gain(0)
    hyper = centred._coder.hyper_synthesis(centred._analyse(photograph).z_index)
    index = codec.entropy.scale_index(hyper.scales, fold(gain.steps.expand(-1, -1, *hyper.scales.shape[2:]), 0))
    scales = 0.11 * torch.exp(0.02496532547666428 * index) / fold(gain.factor.expand(-1, -1, *index.shape[2:]), 0)
    assert not offsets.any() and torch.allclose(fold(deviations, 0), scales.float(), rtol=1e-5)


def test_training_sees_what_files_say(centred: OneDCPipeline, picture: Picture) -> None:
    photograph = picture(128, 192)
    model = TrainableOneDC(centred.codec, centred.generator, centred.vae, centred.scheduler)
    with torch.inference_mode():
        y, codes = centred._analyse_networks(photograph)
        for quality, settings in ((-1.0, {"z_only": True}), (40.0, {"quality": 40})):
            file = centred.read_symbols(centred.compress(photograph, **settings))
            y_hat, _, _, refinement = model._code_exactly(y.float(), codes, torch.tensor([quality]))
            assert torch.equal(y_hat, file.y_hat) and torch.allclose(refinement, file.refinement, rtol=1e-6)
        # A batch of both, and the float model with what its own weights say.
        both = model._code_exactly(y.float().repeat(2, 1, 1, 1), codes.repeat(2, 1, 1, 1), torch.tensor([-1.0, 40.0]))
        assert torch.equal(both[3][1:], refinement)


def test_tiles_see_their_own_part(centred: OneDCPipeline, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = centred._read_own(centred.compress(picture(192, 320), quality=60), False, False)
    marked = replace(symbols, refinement=symbols.y_hat.repeat(1, 2, 1, 1))  # the latent itself tells places apart
    seen, synthesise = [], centred.codec.synthesise

    def record(y_hat: torch.Tensor, semantic: torch.Tensor, refinement: torch.Tensor) -> torch.Tensor:
        seen.append(torch.equal(refinement, y_hat.repeat(1, 2, 1, 1)))
        return synthesise(y_hat, semantic, refinement)

    monkeypatch.setattr(centred.codec, "synthesise", record)
    centred.enable_tiling(128, 64)
    with torch.inference_mode():
        centred._rebuild(marked)
    assert len(seen) > 1 and all(seen)


def test_a_saved_model_has_its_layer(centred: OneDCPipeline, picture: Picture, tmp_path: Path) -> None:
    data = centred.compress(picture(64, 64), quality=60)
    centred.save_pretrained(tmp_path)
    again = OneDCPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert again.codec.config.centroids and again.model_id == centred.model_id
    assert np.array_equal(np.asarray(again.decompress(data)), np.asarray(centred.decompress(data)))
    layer = again.codec.dec.deviation_in
    again.codec.add_centroids()
    assert again.codec.dec.deviation_in is layer
    path = tmp_path / "codec" / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "deviation_in" not in k}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"dec\.deviation_in"):
        OneDCPipeline.from_pretrained(tmp_path)


def test_centroids_before_anything_is_learned_change_no_more_than_the_latent(tiny_folder: Path) -> None:
    codec = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32).codec
    y_hat, semantic = torch.randn(1, 8, 4, 4), torch.randn(1, 16, 1, 1)
    with torch.no_grad():
        before = codec.synthesise(y_hat, semantic)
        codec.add_centroids()
        refinement = torch.rand(1, 16, 4, 4)
        after = codec.synthesise(y_hat - refinement[:, :8], semantic, refinement)
    assert torch.allclose(before, after, atol=1e-5)
