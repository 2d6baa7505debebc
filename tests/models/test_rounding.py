"""Symbols chosen for error and bits together."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from onedc_hf import OneDCCodecConfig, OneDCPipeline
from onedc_hf.coding import parse_header
from onedc_hf.evaluation.run import weights_digest
from onedc_hf.models.rounding import gaussian_probability, round_for_rate
from onedc_hf.pictures import to_tensor
from onedc_hf.training.model import TrainableOneDC
from onedc_hf.training.rate import choose_through


def test_without_a_weight_residuals_are_rounded_halves_to_even() -> None:
    residual = torch.tensor([0.5, 1.5, -0.5, -2.5, 0.49, 7.2], dtype=torch.float64)
    assert round_for_rate(residual, torch.ones(6), 0.0).tolist() == [0, 2, 0, -2, 0, 7]


def test_the_probability_is_that_of_the_normal_distribution() -> None:
    found = gaussian_probability(torch.tensor([0.0, 1.0, -1.0]), torch.ones(3))
    inside = math.erf(0.5 / math.sqrt(2))
    beside = 0.5 * (math.erf(1.5 / math.sqrt(2)) - inside)
    assert found.tolist() == pytest.approx([inside, beside, beside], abs=1e-6)


@pytest.mark.parametrize("weight", [0.02, 0.1, 0.5])
def test_the_cheaper_of_two_symbols_is_chosen(weight: float) -> None:
    torch.manual_seed(0)
    scales = torch.rand(4000, dtype=torch.float64) * 3 + 0.11
    residual = torch.randn(4000, dtype=torch.float64) * scales * 1.5
    found = round_for_rate(residual, scales, weight)

    def cost(symbols: torch.Tensor) -> torch.Tensor:
        bits = -gaussian_probability(symbols, scales).clamp_min(2.0**-16).log2()
        return (residual - symbols).square() + weight * bits

    nearest = residual.round()
    best = torch.minimum(cost(nearest), cost(nearest - nearest.sign()))
    assert torch.allclose(cost(found), best, rtol=0, atol=1e-12)
    moved = found != nearest
    assert 0 < moved.sum() < 2000 and (found[moved].abs() == nearest[moved].abs() - 1).all()


def test_each_item_of_a_batch_has_its_weight_and_gradients_pass() -> None:
    residual = torch.full((2, 1, 1, 1), 0.6, requires_grad=True)
    scales = torch.full((2, 1, 1, 1), 0.2)
    chosen = choose_through(residual, scales, torch.tensor([0.0, 0.5]).view(2, 1, 1, 1))
    chosen.sum().backward()
    assert chosen.flatten().tolist() == [1, 0] and residual.grad is not None
    assert residual.grad.flatten().tolist() == [1, 1]


def test_a_weight_saves_bytes_at_low_qualities_and_none_from_50_on(
    tiny_folder: Path, picture: Callable[..., np.ndarray]
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    photograph = picture(128, 192)
    plain = {quality: pipe.compress(photograph, quality=quality) for quality in (0, 20, 50, 100)}
    pipe.codec.config.rounding_rate_weight = 0.2
    chosen = {quality: pipe.compress(photograph, quality=quality) for quality in (0, 20, 50, 100)}
    assert all(len(chosen[quality]) < len(plain[quality]) for quality in (0, 20))
    assert all(chosen[quality] == plain[quality] for quality in (50, 100))
    assert pipe.compress(photograph, quality=20) == chosen[20]
    fresh = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)  # knows nothing of a weight
    assert torch.equal(fresh.read_symbols(chosen[20]).y_hat, pipe.read_symbols(chosen[20]).y_hat)
    assert parse_header(chosen[20]).model_id == parse_header(plain[20]).model_id
    assert weights_digest(fresh) != weights_digest(pipe)  # an evaluation does not take one's rows for the other's


@pytest.mark.parametrize("exact", [True, False])
def test_training_and_forward_see_the_symbols_of_files(
    tiny_folder: Path, picture: Callable[..., np.ndarray], exact: bool
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    pipe.codec.config.rounding_rate_weight = 0.2
    pixels = to_tensor(picture(128, 192))
    row = pipe.codec.entropy.quality_rows // 6
    quality = 100 * row / (pipe.codec.entropy.quality_rows - 1)
    if not exact:
        pipe.codec.make_float()
    model = TrainableOneDC(pipe.codec, pipe.generator, pipe.vae, pipe.scheduler)
    with torch.inference_mode():
        y, semantic = pipe.codec.analyse(pixels, model.encode_latent(pixels))
        codes = pipe.codec.hyper_analyse(y, semantic)
        code = model._code_exactly if exact else model.code
        y_hat, seed, bits = code(y, codes, torch.tensor([quality]))
        detail = pipe.codec.synthesise(y_hat, pipe.codec.adapt(seed))
        by_forward, _ = pipe.codec(pixels, model.encode_latent(pixels), quality_row=row)
        assert (detail - by_forward).abs().max() < 1e-4 * by_forward.abs().max()
        pipe.codec.config.rounding_rate_weight = 0.0
        plain_y_hat, _, plain_bits = code(y, codes, torch.tensor([quality]))
        assert bits < 0.97 * plain_bits and not torch.equal(y_hat, plain_y_hat)
        if not exact:  # the float model's table of gains is what its rows were made from
            pipe.codec.config.rounding_rate_weight = 0.2
            assert torch.equal(model.code(y, codes, torch.tensor([quality]), nearest=True)[0], plain_y_hat)


def test_a_latent_that_was_quantised_before_keeps_its_symbols(
    tiny_folder: Path, picture: Callable[..., np.ndarray]
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    with torch.inference_mode():
        analysed = pipe._analyse(picture(128, 192))
        plain = pipe._coder.write(analysed, 0)
        pipe.codec.config.rounding_rate_weight = 0.2
        assert pipe._coder.write(analysed, 0, nearest=True) == plain != pipe._coder.write(analysed, 0)


def test_weights_fall_to_nothing_at_quality_50(tiny_folder: Path) -> None:
    codec = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32).codec
    codec.config.rounding_rate_weight = 0.04
    found = codec.rate_weight(torch.tensor([-1.0, 0, 25, 50, 100]))
    assert found.tolist() == pytest.approx([0.04, 0.04, 0.02, 0.0, 0.0])


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_weights_that_make_no_sense_are_refused(weight: float) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match="rounding_rate_weight"):
        OneDCCodecConfig(rounding_rate_weight=weight)
