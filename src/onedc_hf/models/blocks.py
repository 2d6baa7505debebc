"""Building blocks of the codec's networks (paper, appendix A), each known to the configs by a short name.

| name         | class            | used by                                                    |
|--------------|------------------|------------------------------------------------------------|
| `resnet`     | `ResnetBlock`    | the paper's transforms                                     |
| `attention`  | `AttentionBlock` | the paper's transforms; small grids only                   |
| `depth_conv` | `DepthConvBlock` | everywhere, and the only block of the entropy networks     |
| `lite`       | `LiteBlock`      | models for a CPU: depthwise convolution and channel mixing |

Shapes: B batch, C channels, h and w rows and columns of whatever grid the block stands on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionBlock

__all__ = [
    "BLOCK_NAMES",
    "ChannelNorm",
    "DepthConvBlock",
    "Float32Conv2d",
    "LiteBlock",
    "ResidualUpsample",
    "ResnetBlock",
    "keep_float32",
    "make_block",
    "make_stage",
]

BLOCK_NAMES = ("resnet", "attention", "depth_conv", "lite")
# Positions that a `LiteBlock` mixes at once on a CPU: the wide intermediate then stays in the cache, and the page
# faults of a fresh tensor of its size are saved (half of the block's time at 768x512).
_SLICE = 1024


def keep_float32(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """Applies `fn` (device moves, casts) to a module but undoes casts below float32.

    For parts whose rounding would be amplified or would decide symbols: `.to(torch.bfloat16)` on a model or a whole
    pipeline must move them and leave their precision alone.
    """

    def guarded(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        if tensor.is_floating_point() and moved.dtype in (torch.float16, torch.bfloat16):
            return tensor.to(device=moved.device)
        return moved

    return nn.Module._apply(module, guarded, recurse)


class Float32Conv2d(nn.Conv2d):
    """A convolution that always computes in float32 (or float64): for outputs whose error is amplified afterwards."""

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        return keep_float32(self, fn, recurse)

    def forward(self, input: Tensor) -> Tensor:
        """Convolves in the precision of the weights."""
        with torch.autocast(device_type=input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a map, with the parameter names and shapes of `nn.GroupNorm`.

    Unlike GroupNorm its statistics do not depend on the picture's size, so that a tile computes what the whole does.
    """

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Sets the identity."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `[B, C, h, w]` at each position."""
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions around a skip.

    When the widths differ there is *no* skip from the input: `nin_shortcut` acts on the main branch's own result.
    That is how the published weights were trained (kept for equality).
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int = 32):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=1e-6)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=1e-6)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        else:
            self.nin_shortcut = None

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, h, w]` to the new width."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(h))


class _DepthConv(nn.Module):
    """1x1, depthwise 3x3, 1x1 around a skip; first half of `DepthConvBlock`."""

    def __init__(self, in_channels: int, out_channels: int, slope: float):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(in_channels, in_channels, 1), nn.LeakyReLU(slope))
        self.depth_conv = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1)
        self.adaptor = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.adaptor is None else self.adaptor(x)
        return self.conv2(self.depth_conv(self.conv1(x))) + identity


class _ConvFFN(nn.Module):
    """1x1 expansion whose two halves pass through LeakyReLUs of different slope and are *added*; second half."""

    def __init__(self, channels: int, expansion: int, slopes: Sequence[float]):
        super().__init__()
        self.conv = nn.Conv2d(channels, expansion * channels, 1)
        self.conv_out = nn.Conv2d(expansion * channels // 2, channels, 1)
        self.slope, self.first_slope = slopes

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv(x).chunk(2, dim=1)
        return x + self.conv_out(F.leaky_relu(first, self.first_slope) + F.leaky_relu(second, self.slope))


class DepthConvBlock(nn.Module):
    """Depthwise convolution and feed-forward block (the DCB4 of the paper's networks).

    Holds only convolutions, LeakyReLU and sums, so that the entropy networks made of it can run in integers.

    Args:
        in_channels (`int`): width of the input.
        out_channels (`int`): width of the result.
        expansion (`int`, *optional*, defaults to 4): width of the feed-forward layer over `out_channels`.
        slopes (`Sequence[float]`, *optional*, defaults to (0.01, 0.1)): negative slopes: everywhere, and of the
            feed-forward layer's first half.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int = 4, slopes: Sequence[float] = (0.01, 0.1)):
        super().__init__()
        self.block = nn.Sequential(
            _DepthConv(in_channels, out_channels, slopes[0]), _ConvFFN(out_channels, expansion, slopes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, h, w]` to the new width."""
        return self.block(x)


class LiteBlock(nn.Module):
    """Depthwise convolution, LayerNorm over channels, two channel-mixing layers, skip.

    The block of models that must run on a CPU: about 2 * expansion * C^2 multiplications a position.

    The channel mixing is written as `nn.Linear` on the channels-last view: twice as fast on a CPU as a 1x1
    convolution between permutations.
    """

    def __init__(self, channels: int, expansion: int = 3, kernel_size: int = 5):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, expansion * channels)
        self.project = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, h, w]` to the same shape."""
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))  # [B, h, w, C]
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return x + self.project(F.silu(self.expand(h))).permute(0, 3, 1, 2)
        mixed = torch.empty_like(h)
        for part, result in zip(h.flatten(0, 2).split(_SLICE), mixed.flatten(0, 2).split(_SLICE), strict=True):
            result.copy_(self.project(F.silu(self.expand(part), inplace=True)))
        return x + mixed.permute(0, 3, 1, 2)


class ResidualUpsample(nn.Module):
    """Doubles rows and columns: a pixel-shuffle branch with a 3x3 convolution, and a pixel-shuffle skip."""

    def __init__(self, in_channels: int, out_channels: int, slopes: Sequence[float] = (0.01, 0.1)):
        super().__init__()
        self.subpel_conv = nn.Sequential(nn.Conv2d(in_channels, 4 * out_channels, 1), nn.PixelShuffle(2))
        self.conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.upsample = nn.Sequential(nn.Conv2d(in_channels, 4 * out_channels, 1), nn.PixelShuffle(2))
        self.slope, self.second_slope = slopes

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, h, w]` to `[B, C, 2h, 2w]` at the new width."""
        h = F.leaky_relu(self.subpel_conv(x), self.slope)  # [B, C, 2h, 2w]
        return F.leaky_relu(self.conv(h), self.second_slope) + self.upsample(x)


def make_block(
    name: str, in_channels: int, out_channels: int, *, groups: int = 32, expansion: int = 4, kernel_size: int = 5
) -> nn.Module:
    """Makes the block a config names (see the table above).

    Args:
        name (`str`): one of `BLOCK_NAMES`.
        in_channels (`int`): width of the input.
        out_channels (`int`): width of the result; `attention` and `lite` keep the width.
        groups (`int`): GroupNorm groups of `resnet` and `attention`.
        expansion (`int`): inner width of `depth_conv` and `lite`.
        kernel_size (`int`): depthwise kernel of `lite`.

    Raises:
        ValueError: for an unknown name, or a change of width where the block cannot make one.
    """
    if name == "resnet":
        return ResnetBlock(in_channels, out_channels, groups)
    if name == "depth_conv":
        return DepthConvBlock(in_channels, out_channels, expansion)
    if name not in BLOCK_NAMES:
        raise ValueError(f"Unknown block {name!r}; the config may name {', '.join(BLOCK_NAMES)}.")
    if in_channels != out_channels:
        raise ValueError(f"A {name!r} block keeps its width, but {in_channels} -> {out_channels} was asked for.")
    if name == "attention":
        return AttentionBlock(in_channels, groups)
    return LiteBlock(in_channels, expansion, kernel_size)


def make_stage(names: Sequence[str], in_channels: int, out_channels: int, **options: Any) -> nn.Sequential:
    """A sequence of blocks; the first takes `in_channels`, all give `out_channels`."""
    widths = [in_channels] + [out_channels] * len(names)
    blocks = [make_block(name, widths[i], widths[i + 1], **options) for i, name in enumerate(names)]
    return nn.Sequential(*blocks)
