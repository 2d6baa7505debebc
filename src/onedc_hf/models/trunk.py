"""The analysis transform's trunk: from fused features at 1/8 to a fine map at 1/16 and a semantic map at 1/64.

Two of them, named by the config: `UNetTrunk` is the paper's, `LiteTrunk` runs on a CPU. Both return
`(fine [B, C0, h/2, w/2], semantic [B, C2, h/8, w/8])` for an input `[B, C, h, w]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from .blocks import LiteBlock, ResnetBlock

__all__ = ["LiteTrunk", "UNetTrunk"]

_TRUNK_TIMESTEP = 999  # the trunk grew out of a diffusion U-Net; its time input is constant


class UNetTrunk(UNet2DModel):
    """The paper's trunk: a diffusers `UNet2DModel` that starts at 1/16 and hands out its mid-block as semantic map.

    Args:
        in_channels (`int`): fused features.
        fine_channels (`int`): width of the fine map (and of the first level).
        block_channels (`Sequence[int]`): widths at 1/16, 1/32 and 1/64.
        layers (`int`): resnets a level.
        groups (`int`): GroupNorm groups.
        head_width (`int`): width of an attention head.
    """

    def __init__(
        self,
        in_channels: int,
        fine_channels: int,
        block_channels: Sequence[int],
        layers: int = 2,
        groups: int = 32,
        head_width: int = 8,
    ):
        super().__init__(
            in_channels=in_channels,
            out_channels=fine_channels,
            block_out_channels=tuple(block_channels),
            layers_per_block=layers,
            down_block_types=("AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=groups,
            attention_head_dim=head_width,
        )
        first = block_channels[0]
        self.conv_in = nn.Sequential(
            ResnetBlock(in_channels, first, groups),
            ResnetBlock(first, first, groups),
            ResnetBlock(first, first, groups),
            nn.Conv2d(first, first, 3, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Fused features to the fine and the semantic map."""
        timestep = torch.full((x.shape[0],), _TRUNK_TIMESTEP, dtype=torch.long, device=x.device)
        embedding = self.time_embedding(self.time_proj(timestep).to(x.dtype))
        hidden = self.conv_in(x)  # [B, C0, h/2, w/2]
        skips = [hidden]
        for block in self.down_blocks:
            hidden, new = block(hidden_states=hidden, temb=embedding)
            skips.extend(new)
        semantic = hidden = self.mid_block(hidden, embedding)  # [B, C2, h/8, w/8]
        for block in self.up_blocks:
            count = len(block.resnets)
            hidden = block(hidden, tuple(skips[-count:]), embedding)
            del skips[-count:]
        fine = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        return fine, semantic


class LiteTrunk(nn.Module):
    """A plain pyramid of `LiteBlock`s at 1/8, 1/16, 1/32 and 1/64 with 2x2 reductions between.

    Args:
        in_channels (`int`): fused features, the width at 1/8.
        block_channels (`Sequence[int]`): widths at 1/16, 1/32 and 1/64.
        layers (`Sequence[int]`): blocks at 1/8, 1/16, 1/32 and 1/64.
        expansion (`int`): inner width of the blocks.
    """

    def __init__(self, in_channels: int, block_channels: Sequence[int], layers: Sequence[int], expansion: int = 3):
        super().__init__()
        widths = [in_channels, *block_channels]
        self.stages = nn.ModuleList(
            nn.Sequential(*[LiteBlock(width, expansion) for _ in range(count)])
            for width, count in zip(widths, layers, strict=True)
        )
        self.reductions = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 2, stride=2) for i in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Fused features to the fine and the semantic map."""
        hidden = self.stages[0](x)
        fine = hidden = self.stages[1](self.reductions[0](hidden))  # [B, C0, h/2, w/2]
        for stage, reduction in zip(self.stages[2:], self.reductions[1:], strict=True):
            hidden = stage(reduction(hidden))
        return fine, hidden  # [B, C2, h/8, w/8]
