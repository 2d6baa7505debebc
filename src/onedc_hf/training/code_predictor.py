"""The code predictor of the semantic distillation (paper, section 3.2): from the semantic map to a tokenizer's codes.

It exists while stage 1 trains. The semantic map is doubled to the tokenizer's grid, refined by blocks, and read out as
logits. Names are those of the authors' checkpoint, so that `model_2.safetensors` of their stage 1 loads strictly.

Shapes: B batch, S channels of the semantic map, Z x V its rows and columns (1/64), h = 2Z and w = 2V rows and columns
of codes (1/32), C width, K codes, P = window * window positions of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.blocks import BLOCK_NAMES, DepthConvBlock, make_block

__all__ = ["CodePredictor", "CodePredictorConfig"]


@dataclass(frozen=True, kw_only=True)
class CodePredictorConfig:
    """Sizes of a code predictor. The defaults are the paper's.

    Args:
        semantic_channels (`int`): S.
        channels (`int`): width C; 0: as the semantic map.
        codes (`int`): K, of the tokenizer.
        blocks (`Sequence[str]`): `swin` (two layers of windowed attention, the second one shifted), or blocks of
            models/blocks.py, such as `lite` and `depth_conv`.
        heads (`int`), head_channels (`int`): of the attention.
        window (`int`): side of a window in codes; crops must be multiples of 32 x window pixels. The paper's 16 needs
            crops of 512, 1024, ...; crops of 256 pixels have 8 x 8 codes.
        expansion (`int`): inner width of feed-forward layers and of the read-out, over C.
        groups (`int`): of the read-out's GroupNorms.

    Raises:
        ValueError: for an unknown block, or numbers that do not fit together.
    """

    semantic_channels: int = 768
    channels: int = 0
    codes: int = 1024
    blocks: Sequence[str] = ("swin", "swin", "swin")
    heads: int = 12
    head_channels: int = 64
    window: int = 16
    expansion: int = 4
    groups: int = 16

    def __post_init__(self) -> None:
        known = ("swin", *BLOCK_NAMES)
        if unknown := [name for name in self.blocks if name not in known]:
            raise ValueError(f"Unknown block {unknown[0]!r} of the code predictor; choose from {', '.join(known)}.")
        if self.width % self.groups:
            raise ValueError(f"The width {self.width} is not a multiple of `groups` ({self.groups}).")
        if "swin" in self.blocks and self.window % 2:
            raise ValueError(f"`window` must be even, for the shift by half of it; got {self.window}.")

    @property
    def width(self) -> int:
        """Width C."""
        return self.channels or self.semantic_channels


class _WindowAttention(nn.Module):
    """Attention within windows; shifted by half a window, what the shift brought together is masked from each other."""

    def __init__(self, config: CodePredictorConfig, shifted: bool, positions: bool):
        super().__init__()
        self.heads, self.window, self.shift = config.heads, config.window, config.window // 2 if shifted else 0
        size = config.window**2
        if shifted:
            # Constants, but the authors' checkpoint has them: parameters that never learn.
            row = torch.arange(size) // config.window >= self.shift
            column = torch.arange(size) % config.window >= self.shift
            self.upper_lower_mask = nn.Parameter(_apart(row), requires_grad=False)
            self.left_right_mask = nn.Parameter(_apart(column), requires_grad=False)
        self.pos_embedding = nn.Parameter(torch.randn(size, size)) if positions else None
        inner = config.heads * config.head_channels
        self.to_qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        side = self.window
        if height % side or width % side:
            raise ValueError(
                f"The code predictor attends in windows of {side}x{side} codes, which {height}x{width} codes do not "
                f"fill: crops must be multiples of {32 * side} pixels. Use such crops, or a smaller `window`."
            )
        rows, columns = height // side, width // side
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        parts = self.to_qkv(x).view(batch, rows, side, columns, side, 3, self.heads, -1)
        query, key, value = parts.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(
            3, batch, rows * columns, self.heads, side * side, -1
        )  # each [B, windows, heads, P, head_channels]
        bias = self._bias(rows, columns, query.dtype)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        attended = attended.view(batch, rows, columns, self.heads, side, side, -1).permute(0, 1, 4, 2, 5, 3, 6)
        x = self.to_out(attended.reshape(batch, height, width, -1))
        return x.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else x

    def _bias(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor | None:
        """What is added to the logits, `[windows or 1, 1, P, P]`."""
        if self.shift:
            # Only the last windows reach over the border that the shift moved inside.
            last_row = torch.arange(rows, device=self.left_right_mask.device) == rows - 1
            last_column = torch.arange(columns, device=self.left_right_mask.device) == columns - 1
            none = torch.zeros_like(self.left_right_mask)
            bias = torch.where(last_row.view(-1, 1, 1, 1), self.upper_lower_mask, none) + torch.where(
                last_column.view(1, -1, 1, 1), self.left_right_mask, none
            )  # [rows, columns, P, P]
            bias = bias.view(rows * columns, 1, *bias.shape[2:])
            return (bias if self.pos_embedding is None else bias + self.pos_embedding).to(dtype)
        return (
            None if self.pos_embedding is None else self.pos_embedding.to(dtype).view(1, 1, *self.pos_embedding.shape)
        )


def _apart(half: Tensor) -> Tensor:
    """Logits `[P, P]` of positions that see only those of their own half."""
    return torch.zeros(len(half), len(half)).masked_fill(half[:, None] != half[None, :], float("-inf"))


class _FeedForward(nn.Module):
    def __init__(self, channels: int, expansion: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(channels, expansion * channels), nn.GELU(), nn.Linear(expansion * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _SwinLayer(nn.Module):
    def __init__(self, config: CodePredictorConfig, shifted: bool, positions: bool):
        super().__init__()
        self.norm_attn = nn.LayerNorm(config.width)
        self.attention_block = _WindowAttention(config, shifted, positions)
        self.norm_mlp = nn.LayerNorm(config.width)
        self.mlp_block = _FeedForward(config.width, config.expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention_block(self.norm_attn(x))
        return x + self.mlp_block(self.norm_mlp(x))


class _DualSwinBlock(nn.Module):
    """A layer of windowed attention and a shifted one, on a map `[B, C, h, w]`."""

    def __init__(self, config: CodePredictorConfig, positions: bool):
        super().__init__()
        self.block_w = _SwinLayer(config, shifted=False, positions=positions)
        self.block_sw = _SwinLayer(config, shifted=True, positions=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_sw(self.block_w(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class CodePredictor(nn.Module):
    """Logits of a tokenizer's codes, from the semantic map (spec section 7).

    Args:
        config (`CodePredictorConfig`): sizes.
    """

    def __init__(self, config: CodePredictorConfig):
        super().__init__()
        self.config = config
        width, inner = config.width, config.expansion * config.width
        self.up_sample = nn.Sequential(
            DepthConvBlock(config.semantic_channels, width),
            nn.Conv2d(width, 4 * width, 1),
            nn.PixelShuffle(2),
            DepthConvBlock(width, width),
        )
        # Of all layers only the very first knows positions; that is how the published one was trained.
        self.blocks = nn.Sequential(
            *(
                _DualSwinBlock(config, positions=i == 0)
                if name == "swin"
                else make_block(name, width, width, groups=config.groups)
                for i, name in enumerate(config.blocks)
            )
        )
        self.mlp_head = nn.Sequential(
            nn.Conv2d(width, inner, 1),
            nn.GroupNorm(config.groups, inner),
            nn.GELU(),
            nn.Conv2d(inner, width, 1),
            nn.GroupNorm(config.groups, width),
            nn.GELU(),
            nn.Conv2d(width, config.codes, 1),
        )

    def forward(self, semantic: Tensor) -> Tensor:
        """Semantic map `[B, S, Z, V]` to logits `[B, K, 2Z, 2V]`.

        Raises:
            ValueError: if windows do not fill the grid of codes.
        """
        return self.mlp_head(self.blocks(self.up_sample(semantic)))
