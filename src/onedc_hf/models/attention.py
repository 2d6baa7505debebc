"""Single-head self-attention on a map, as the paper's transforms use it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AttentionBlock"]


class AttentionBlock(nn.Module):
    """Global self-attention over all positions of a map, one head of width C, around a skip.

    Memory stays linear in the number of positions because the weights are never materialised (fused attention).

    Args:
        channels (`int`): width C.
        groups (`int`, *optional*, defaults to 32): groups of the GroupNorm in front.
    """

    def __init__(self, channels: int, groups: int = 32):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attends over `[B, C, h, w]`."""
        normed = self.norm(x)
        query, key, value = (
            layer(normed).flatten(2).transpose(1, 2).unsqueeze(1) for layer in (self.q, self.k, self.v)
        )  # [B, 1, h*w, C]
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = attended.squeeze(1).transpose(1, 2).reshape(x.shape)  # [B, C, h, w]
        return x + self.proj_out(attended)
