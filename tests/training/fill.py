"""The deterministic numbers that the specification's test vectors are made of (its section 12)."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def numbers(name: str, shape: tuple[int, ...]) -> Tensor:
    """`u(name)`: numbers in [-1, 1] that depend on the name and the position alone."""
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        v = np.arange(1, count + 1, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(zlib.crc32(name.encode()))
        for _ in range(2):
            v ^= v >> np.uint32(16)
            v *= np.uint32(0x45D9F3B)
        v ^= v >> np.uint32(16)
    return torch.from_numpy((v / 2.0**31 - 1).astype(np.float32)).reshape(shape)


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Sets every parameter that learns, by its name."""
    for name, parameter in module.named_parameters():
        u = numbers(name, tuple(parameter.shape))
        if not parameter.requires_grad and name.endswith("_mask"):
            continue
        if parameter.ndim >= 2:
            u = u * (1.5 / parameter[0].numel()) ** 0.5
        else:
            u = 1 + 0.1 * u if name.endswith("weight") else 0.1 * u
        parameter.copy_(u)


def summary(x: Tensor) -> list[float]:
    """Mean, mean magnitude, and the entries at a flat index of 0, n // 3 and n - 1."""
    flat = x.detach().flatten().double()
    return [float(v) for v in (flat.mean(), flat.abs().mean(), flat[0], flat[len(flat) // 3], flat[-1])]
