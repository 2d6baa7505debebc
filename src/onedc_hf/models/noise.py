"""Noise that belongs to a place: what a decoder makes texture of where the file says nothing about it.

Where neighbouring latents are alike, a convolutional decoder can only repeat itself, and what repeats is a pattern on
its own grid. Noise beside the latent tells one position from the next. It is a function of the position alone, so that
a file always gets the same, whole or in tiles, on any machine.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["position_noise"]

_LANES = 4  # pieces of 16 bits in a hash; their sum is nearly normal (Irwin and Hall), and exact
_MEAN = _LANES * (2**16 - 1) / 2
_DEVIATION = (_LANES * (2.0**32 - 1) / 12) ** 0.5


def _mixed(x: np.ndarray) -> np.ndarray:
    """Every bit of the input reaches every bit of the output (the finaliser of SplitMix64; Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def position_noise(channels: int, height: int, width: int, origin: tuple[int, int] = (0, 0)) -> Tensor:
    """Noise `[1, channels, height, width]` in float32, nearly normal: mean 0, deviation 1, within 3.5.

    Args:
        channels (`int`): of the map.
        height (`int`): of the map.
        width (`int`): of the map.
        origin (`tuple[int, int]`, *optional*): row and column in the whole picture's map at which this one starts.
    """
    counters = [
        np.arange(start, start + count, dtype=np.uint64)
        for start, count in zip((0, *origin), (channels, height, width), strict=True)
    ]
    with np.errstate(over="ignore"):
        channel, row, column = np.ix_(*[(_mixed(c + np.uint64(1)) + np.uint64(k)) for k, c in enumerate(counters)])
        hashed = _mixed(_mixed(channel ^ _mixed(row)) ^ column)
    lanes = np.ascontiguousarray(hashed).view(np.uint16).reshape(*hashed.shape, _LANES)
    noise = (lanes.sum(-1, dtype=np.uint32) - _MEAN) / _DEVIATION
    return torch.from_numpy(noise.astype(np.float32))[None]
