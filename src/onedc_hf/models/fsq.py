"""Finite scalar quantisation of the hyper-latent (Mentzer et al., 2023; paper, section 3.2).

Shapes: B batch, K channels (= number of FSQ digits), Z and X rows and columns of the hyper-latent at 1/64 of the
padded picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["FiniteScalarQuantizer"]

# The bound is widened by this share so that the outermost levels are reached at finite inputs.
_BOUND_MARGIN = 1e-3


class FiniteScalarQuantizer(nn.Module):
    """Rounds each channel of the hyper-latent to one of a few levels; all channels together are one code.

    It has no parameters and no buffers: constants are Python numbers, so nothing can be lost when a model is loaded.

    Args:
        levels (`Sequence[int]`):
            Number of levels of each channel, in channel order. `[4] * 7` in the paper: 16,384 codes, 14 bits.
    """

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        if not levels or any(level < 2 for level in levels):
            raise ValueError(f"`levels` must be integers of at least 2, one per channel; got {list(levels)}.")
        self.levels = tuple(int(level) for level in levels)

    @property
    def codebook_size(self) -> int:
        """Number of different codes."""
        return math.prod(self.levels)

    def _per_channel(self, values: Sequence[float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)  # [1, K, 1, 1]

    def forward(self, z: Tensor) -> Tensor:
        """Quantises with a straight-through gradient.

        Args:
            z (`torch.Tensor` of shape `[B, K, Z, X]`): the hyper-latent, unbounded; widened to float32 inside.

        Returns:
            `torch.Tensor` of shape `[B, K, Z, X]` and the dtype of `z`: entries in [-1, 1], for four levels one of
            -1, -0.5, 0, 0.5.
        """
        wide = z if z.dtype == torch.float64 else z.float()
        half = [(level - 1) * (1 + _BOUND_MARGIN) / 2 for level in self.levels]
        offset = [0.5 if level % 2 == 0 else 0.0 for level in self.levels]
        shift = [math.atanh(o / h) for o, h in zip(offset, half, strict=True)]
        bounded = torch.tanh(wide + self._per_channel(shift, wide)) * self._per_channel(half, wide)
        bounded = bounded - self._per_channel(offset, wide)  # [B, K, Z, X]
        rounded = bounded + (bounded.round() - bounded).detach()  # torch.round: halves to even
        return (rounded / self._per_channel([level // 2 for level in self.levels], wide)).to(z.dtype)

    def codes_to_index(self, codes: Tensor) -> Tensor:
        """One integer per position; channel 0 is the least significant digit.

        Args:
            codes (`torch.Tensor` of shape `[B, K, Z, X]`): result of `forward`.

        Returns:
            `torch.Tensor` of shape `[B, Z, X]`, int32, 0 to `codebook_size - 1`.
        """
        halves = self._per_channel([level // 2 for level in self.levels], codes.float())
        digits = (codes.float() * halves + halves).round().to(torch.int32)
        basis = [math.prod(self.levels[:k]) for k in range(len(self.levels))]
        weights = torch.tensor(basis, dtype=torch.int32, device=codes.device).view(1, -1, 1, 1)
        return (digits * weights).sum(dim=1, dtype=torch.int32)  # [B, Z, X]

    def index_to_codes(self, index: Tensor) -> Tensor:
        """Inverse of `codes_to_index`: `[B, Z, X]` integers to `[B, K, Z, X]` float32."""
        planes, rest = [], index.to(torch.int64)
        for level in self.levels:
            planes.append((rest % level - level // 2).float() / (level // 2))
            rest = rest // level
        return torch.stack(planes, dim=1)  # [B, K, Z, X]
