"""Which symbol stands for a residual: the nearest integer, or one step nearer to zero where that saves enough bits.

Rate-distortion optimised quantisation, as encoders of video do it (Karczewicz, Ye and Chong, VCEG-AH21, 2008), with the
entropy model's own Gaussians for the bits:

    J(symbol) = (residual - symbol)^2 + weight x bits(symbol),    symbol in {nearest, nearest - sign(nearest)}

An encoder's choice alone: files decode as ever. Where a scale is small nearly every symbol is 0, another one costs five
bits or more, and a residual just above one half is not worth them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["gaussian_probability", "round_for_rate"]

_LEAST_PROBABILITY = 2.0**-16  # an entry of the coder's tables has one count of 65,536 or more


def gaussian_probability(symbols: Tensor, scales: Tensor) -> Tensor:
    """Probability of symbols under a zero-mean Gaussian, integrated over [symbol - 1/2, symbol + 1/2].

    Args:
        symbols (`torch.Tensor`): residuals in units of the quantiser; any shape.
        scales (`torch.Tensor`): standard deviations in the same units, above 0; of a shape that broadcasts.
    """
    magnitude, root = symbols.abs(), scales * math.sqrt(2)
    return 0.5 * (torch.erfc((magnitude - 0.5) / root) - torch.erfc((magnitude + 0.5) / root))


@torch.no_grad()
def round_for_rate(residual: Tensor, scales: Tensor, weight: Tensor | float) -> Tensor:
    """Symbols of residuals; see above.

    Args:
        residual (`torch.Tensor`): in units of the quantiser; any shape.
        scales (`torch.Tensor`): standard deviations in the same units, above 0; of the same shape.
        weight (`torch.Tensor` or `float`): squared steps that a bit is worth; of a shape that broadcasts. 0 gives the
            nearest integers, halves to even. For fine quantisers the best weight for squared error is ln(2)/6 = 0.116.

    Returns:
        `torch.Tensor`: whole numbers, of `residual`'s dtype.
    """
    symbols = residual.round()
    weight = torch.as_tensor(weight, dtype=residual.dtype, device=residual.device)
    if not weight.any():
        return symbols
    chosen = symbols != 0
    nearest, deviation = symbols[chosen], scales[chosen]
    lower = nearest - nearest.sign()
    costs = [gaussian_probability(s, deviation).clamp_min(_LEAST_PROBABILITY).log2().neg() for s in (nearest, lower)]
    errors = [(residual[chosen] - s).square() for s in (nearest, lower)]
    cheaper = errors[1] - errors[0] < weight.expand_as(residual)[chosen] * (costs[0] - costs[1])
    symbols[chosen] = torch.where(cheaper, lower, nearest)
    return symbols
