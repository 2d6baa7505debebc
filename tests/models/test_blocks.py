"""Blocks, FSQ and the precision guards against hand-computed cases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onedc_hf.models.blocks import ChannelNorm, Float32Conv2d, ResidualUpsample, ResnetBlock, make_block, make_stage
from onedc_hf.models.fsq import FiniteScalarQuantizer


@pytest.mark.parametrize("name", ["resnet", "depth_conv", "lite", "attention"])
def test_every_block_keeps_the_grid(name: str) -> None:
    block = make_block(name, 16, 16, groups=4)
    assert block(torch.rand(2, 16, 3, 5)).shape == (2, 16, 3, 5)


def test_a_stage_changes_the_width_in_its_first_block() -> None:
    stage = make_stage(["depth_conv", "resnet"], 8, 16, groups=4)
    assert stage(torch.rand(1, 8, 4, 4)).shape == (1, 16, 4, 4)


def test_an_unknown_block_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="'dense'"):
        make_block("dense", 8, 8)


def test_a_block_that_cannot_change_its_width_says_so() -> None:
    with pytest.raises(ValueError, match="8 -> 16"):
        make_block("lite", 8, 16)


def test_a_widening_resnet_block_has_no_skip_from_its_input() -> None:
    block = ResnetBlock(8, 16, groups=4)
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(torch.rand(1, 8, 4, 4)), torch.zeros(1, 16, 4, 4))


def test_a_lite_block_computes_the_same_in_slices() -> None:
    block, x = make_block("lite", 8, 8), torch.randn(2, 8, 40, 30)
    whole = block(x)
    with torch.no_grad():
        assert torch.allclose(block(x), whole, atol=1e-6)


def test_channel_norm_does_not_see_other_positions() -> None:
    norm = ChannelNorm(8)
    x = torch.rand(1, 8, 4, 6)
    assert torch.allclose(norm(x)[..., :3], norm(x[..., :3]))


def test_upsampling_doubles_rows_and_columns() -> None:
    assert ResidualUpsample(8, 4)(torch.rand(1, 8, 3, 2)).shape == (1, 4, 6, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_guarded_layers_survive_a_cast(dtype: torch.dtype) -> None:
    layer = nn.Sequential(Float32Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
    before = layer[0].weight.clone()
    layer.to(dtype)
    assert layer[0].weight.dtype == torch.float32 and torch.equal(layer[0].weight, before)
    assert layer[1].weight.dtype == dtype
    assert layer[0](torch.rand(1, 2, 1, 1, dtype=dtype)).dtype == torch.float32


def test_guarded_layers_follow_to_float64() -> None:
    assert Float32Conv2d(2, 2, 1).double().weight.dtype == torch.float64


class TestFiniteScalarQuantizer:
    def test_thresholds_of_four_levels(self) -> None:
        # Decision thresholds in z of the paper's quantiser: -1.1497201, -0.3461990, 0.4573221.
        z = torch.tensor([-1.15, -1.149, -0.347, -0.345, 0.457, 0.458]).view(-1, 1, 1, 1)
        codes = FiniteScalarQuantizer([4])(z).flatten().tolist()
        assert codes == [-1.0, -0.5, -0.5, 0.0, 0.0, 0.5]

    def test_channel_zero_is_the_least_significant_digit(self) -> None:
        quantizer = FiniteScalarQuantizer([4] * 7)
        codes = torch.full((1, 7, 1, 1), -1.0)
        codes[0, 0] = 0.5
        codes[0, 2] = 0.0
        assert quantizer.codes_to_index(codes).item() == 3 + 2 * 16

    @pytest.mark.parametrize("levels", [[4] * 7, [8, 5, 5, 5], [2, 3]])
    def test_every_index_comes_back(self, levels: list[int]) -> None:
        quantizer = FiniteScalarQuantizer(levels)
        index = torch.arange(quantizer.codebook_size, dtype=torch.int32).view(1, 1, -1)
        assert torch.equal(quantizer.codes_to_index(quantizer.index_to_codes(index)), index)

    def test_its_codes_are_fixed_points_of_the_index(self) -> None:
        quantizer = FiniteScalarQuantizer([4] * 7)
        codes = quantizer(torch.randn(2, 7, 3, 3) * 2)
        assert torch.equal(quantizer.index_to_codes(quantizer.codes_to_index(codes)), codes)

    def test_the_gradient_passes_the_rounding(self) -> None:
        z = torch.zeros(1, 7, 1, 1, requires_grad=True)
        FiniteScalarQuantizer([4] * 7)(z).sum().backward()
        assert (z.grad > 0).all()

    def test_half_precision_gives_the_same_codes(self) -> None:
        z = torch.randn(1, 7, 8, 8).bfloat16()
        quantizer = FiniteScalarQuantizer([4] * 7)
        assert torch.equal(quantizer(z).float(), quantizer(z.float()))
