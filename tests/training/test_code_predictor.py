"""The code predictor: the specification's test vector, the authors' names, a slow reference of the windows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from onedc_hf.training.code_predictor import CodePredictor, CodePredictorConfig, _WindowAttention
from tests.training.fill import fill, numbers, summary

FIXTURES = Path(__file__).parents[1] / "fixtures" / "checkpoint_keys"


def test_the_deterministic_numbers_are_the_specifications() -> None:
    assert numbers("input.x4", (1, 3, 128, 192)).flatten()[:4].tolist() == pytest.approx(
        [-0.96387655, 0.47720429, -0.46379343, -0.27540746], abs=1e-7
    )


def test_logits_and_probabilities_are_those_of_the_authors_module() -> None:
    predictor = CodePredictor(CodePredictorConfig(semantic_channels=128, codes=64, heads=2))
    fill(predictor)
    with torch.no_grad():
        logits = predictor(numbers("input.cf", (1, 128, 16, 16)))
    assert logits.shape == (1, 64, 32, 32)
    assert summary(logits) == pytest.approx([-0.01829512, 0.3470166, 0.7708584, 1.014724, 0.2031051], abs=5e-6)
    assert summary(logits.softmax(1)) == pytest.approx(
        [0.015625, 0.015625, 0.03010756, 0.03940022, 0.0169825], abs=1e-6
    )


def test_names_and_shapes_at_full_size_are_the_checkpoints() -> None:
    wanted = {name: tuple(shape) for name, (shape, _) in json.loads((FIXTURES / "codeformer.json").read_text()).items()}
    with torch.device("meta"):
        predictor = CodePredictor(CodePredictorConfig())
        assert predictor(torch.empty(1, 768, 8, 8)).shape == (1, 1024, 16, 16)
    assert {name: tuple(tensor.shape) for name, tensor in predictor.state_dict().items()} == wanted
    assert sum(tensor.numel() for tensor in predictor.state_dict().values()) == 60_315_392


def test_masks_never_learn_and_only_the_first_layer_knows_positions() -> None:
    predictor = CodePredictor(CodePredictorConfig(semantic_channels=16, codes=8, heads=2, head_channels=8, window=4))
    fixed = {name for name, p in predictor.named_parameters() if not p.requires_grad}
    assert fixed == {
        f"blocks.{i}.block_sw.attention_block.{mask}"
        for i in range(3)
        for mask in ("upper_lower_mask", "left_right_mask")
    }
    positions = [name for name in predictor.state_dict() if name.endswith("pos_embedding")]
    assert positions == ["blocks.0.block_w.attention_block.pos_embedding"]
    predictor(torch.randn(1, 16, 4, 4)).square().mean().backward()
    assert all((p.grad is not None) == p.requires_grad for p in predictor.parameters())
    assert all(p.grad.isfinite().all() for p in predictor.parameters() if p.grad is not None)


def _slowly(layer: _WindowAttention, x: Tensor) -> Tensor:
    """Each position attends to those of its shifted window that were neighbours before the shift."""
    batch, height, width, _ = x.shape
    query, key, value = (part.unflatten(-1, (layer.heads, -1)) for part in layer.to_qkv(x).chunk(3, dim=-1))
    result = torch.zeros_like(query)
    places = [(i, j) for i in range(height) for j in range(width)]

    def window(i: int, side: int) -> tuple[int, bool]:
        """Number of the window along one axis, and whether the position came there from the other end."""
        moved = (i - layer.shift) % side
        return moved // layer.window, i < layer.shift

    for i, j in places:
        here = window(i, height), window(j, width)
        others = [(a, b) for a, b in places if (window(a, height), window(b, width)) == here]
        rows, columns = ([place[axis] for place in others] for axis in (0, 1))
        logits = (query[:, i, j, None] * key[:, rows, columns]).sum(-1) / query.shape[-1] ** 0.5  # [B, P, heads]
        if layer.pos_embedding is not None:
            index = [(a % layer.window) * layer.window + b % layer.window for a, b in others]
            own = (i % layer.window) * layer.window + j % layer.window
            logits = logits + layer.pos_embedding[own, index, None]
        result[:, i, j] = (logits.softmax(1)[..., None] * value[:, rows, columns]).sum(1)
    return layer.to_out(result.flatten(-2))


@pytest.mark.parametrize(("shifted", "positions"), [(False, True), (True, False)])
@pytest.mark.parametrize("size", [(4, 4), (8, 12)])
def test_windows_agree_with_a_slow_reference(shifted: bool, positions: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    config = CodePredictorConfig(semantic_channels=6, heads=2, head_channels=3, window=4, groups=2)
    layer = _WindowAttention(config, shifted, positions)
    x = torch.randn(2, *size, 6)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), _slowly(layer, x), atol=1e-5, rtol=1e-4)


def test_a_small_one_has_other_blocks_and_another_width() -> None:
    config = CodePredictorConfig(semantic_channels=12, channels=16, codes=5, blocks=["lite", "depth_conv"], groups=4)
    assert CodePredictor(config)(torch.randn(2, 12, 1, 3)).shape == (2, 5, 2, 6)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="'swim'.*swin"):
        CodePredictorConfig(blocks=["swim"])
    with pytest.raises(ValueError, match="multiple of `groups`"):
        CodePredictorConfig(channels=100)
    with pytest.raises(ValueError, match="even"):
        CodePredictorConfig(window=3)
    predictor = CodePredictor(CodePredictorConfig(semantic_channels=16, codes=8, heads=2, blocks=["swin"]))
    with pytest.raises(ValueError, match="512 pixels"):
        predictor(torch.zeros(1, 16, 4, 4))
