"""Differentiable rate of the latent `y` (paper, section 3.3): bits of Gaussian symbols with integer edges.

Shapes: any; all arguments broadcast together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..models.rounding import gaussian_probability, round_for_rate

__all__ = ["SCALE_FLOOR", "choose_through", "gaussian_bits", "lower_bound"]

SCALE_FLOOR = 0.11  # the smallest scale of the table
_LEAST_PROBABILITY = 1e-9


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x >= bound)
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (above,) = ctx.saved_tensors
        return gradient * (above | (gradient < 0)), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """max(x, bound) whose gradient still passes below the bound when a step would move x upwards."""
    return _LowerBound.apply(x, bound)


def choose_through(residual: Tensor, scales: Tensor, weight: Tensor | float) -> Tensor:
    """`round_for_rate` (models/rounding.py); the gradient passes as if nothing had been rounded."""
    return residual + (round_for_rate(residual, scales, weight) - residual).detach()


def gaussian_bits(symbols: Tensor, scales: Tensor) -> Tensor:
    """Bits of each symbol under a zero-mean Gaussian integrated over [symbol - 1/2, symbol + 1/2].

    Args:
        symbols (`torch.Tensor`): residuals in units of the quantiser: rounded (straight-through) or with noise.
        scales (`torch.Tensor`): standard deviations in the same units, raw; the table's floor of 0.11 is applied.

    Returns:
        `torch.Tensor`: bits, at least 0.
    """
    probability = gaussian_probability(symbols, lower_bound(scales, SCALE_FLOOR))
    return -lower_bound(probability, _LEAST_PROBABILITY).log2()
