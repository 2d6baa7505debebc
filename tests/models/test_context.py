"""The entropy model: masks, passes, scale index, gains, identity, precision."""

from __future__ import annotations

import math

import pytest
import torch

from onedc_hf.models.context import GAIN_STEP, PASSES, CodingPass, EntropyModel, fold, pass_mask, unfold


@pytest.fixture
def entropy() -> EntropyModel:
    torch.manual_seed(0)
    return EntropyModel(8, [4] * 7, quality_rows=3, expansion=2, spatial_prior_layers=1).eval()


def test_the_passes_cover_every_value_once() -> None:
    like = torch.zeros(1, 8, 6, 4)
    assert torch.equal(sum(pass_mask(i, like) for i in range(PASSES)), torch.ones(1, 8, 6, 4))


@pytest.mark.parametrize("index", range(PASSES))
def test_folding_is_lossless_and_agrees_with_the_mask(index: int) -> None:
    values = torch.randn(2, 8, 4, 6)
    mask = pass_mask(index, values)
    folded = fold(values, index)
    assert folded.shape == (2, 2, 4, 6)
    assert torch.equal(unfold(folded, index), values * mask)
    # The definition: the four channel quarters of the masked values, added up.
    assert torch.equal(folded, (values * mask).view(2, 4, 2, 4, 6).sum(1))


def test_the_first_pass_codes_even_positions_of_the_first_quarter() -> None:
    mask = pass_mask(0, torch.zeros(1, 4, 2, 2))[0]
    assert mask.tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 1]]]


def test_a_decoder_that_reads_the_symbols_rebuilds_the_encoders_latent(entropy: EntropyModel) -> None:
    y = torch.randn(1, 8, 8, 8) * 3
    hyper = entropy.hyper_synthesis(torch.zeros(1, 7, 2, 2))
    written: list[torch.Tensor] = []

    def write(step: CodingPass) -> torch.Tensor:
        symbols = torch.round((y - step.means) * step.gain)
        written.append(fold(symbols, step.index))
        return symbols

    def read(step: CodingPass) -> torch.Tensor:
        return unfold(written[step.index], step.index)

    encoded = entropy.run_passes(hyper, entropy.gain(0), write)
    assert torch.equal(entropy.run_passes(hyper, entropy.gain(0), read), encoded)
    assert (encoded - y).abs().max() <= 0.5 + 1e-5


def test_a_larger_gain_rounds_more_finely(entropy: EntropyModel) -> None:
    entropy.gain_steps[2] = 100
    gain = entropy.gain(2)
    assert gain.flatten()[0].item() == pytest.approx(math.exp(100 * GAIN_STEP))
    y = torch.randn(1, 8, 4, 4)
    hyper = entropy.hyper_synthesis(torch.zeros(1, 7, 1, 1))
    rebuilt = entropy.run_passes(hyper, gain, lambda step: torch.round((y - step.means) * step.gain))
    assert (rebuilt - y).abs().max() <= 0.5 / gain.min() + 1e-5


def test_without_steps_the_gain_is_exactly_one(entropy: EntropyModel) -> None:
    assert torch.equal(entropy.gain(0), torch.ones(1, 8, 1, 1))


def test_the_scale_index_floors_and_clamps(entropy: EntropyModel) -> None:
    low, step = math.log(0.11), GAIN_STEP
    scales = torch.tensor([-1.0, 0.0, 0.11, math.exp(low + 2.9 * step), 1e9]).view(1, 1, 1, 5).expand(1, 8, 1, 5)
    assert entropy.scale_index(scales, 0)[0, 0, 0].tolist() == [0, 0, 0, 2, 255]


def test_gain_steps_move_the_scale_index_before_it_is_clamped(entropy: EntropyModel) -> None:
    entropy.gain_steps[1] = 10
    below = math.exp(math.log(0.11) - 4.5 * GAIN_STEP)  # five steps under the table
    scales = torch.full((1, 8, 1, 1), below)
    assert entropy.scale_index(scales, 0).max() == 0
    assert entropy.scale_index(scales, 1).min() == 5


def test_the_entropy_model_stays_in_float32(entropy: EntropyModel) -> None:
    reference = entropy.hyper_synthesis(torch.zeros(1, 7, 1, 1)).params
    entropy.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        params = entropy.hyper_synthesis(torch.zeros(1, 7, 1, 1, dtype=torch.bfloat16)).params
    assert params.dtype == torch.float32 and torch.equal(params, reference)


def test_a_digest_covers_every_tensor_and_the_layout(entropy: EntropyModel) -> None:
    digest = entropy.digest()
    assert entropy.digest() == digest and len(digest) == 32
    for name, tensor in entropy.state_dict().items():
        kept = tensor.clone()
        tensor.view(-1)[0] += 1
        assert entropy.digest() != digest, name
        tensor.copy_(kept)
    assert entropy.digest() == digest
    entropy.skip_index = 1
    assert entropy.digest() != digest


def test_a_digest_does_not_depend_on_the_working_precision(entropy: EntropyModel) -> None:
    assert entropy.digest() == entropy.double().digest()
