"""Where within its interval a symbol is rebuilt: at the mean of what may have been there, and how sure that is.

Most symbols that are not 0 are 1 or -1 where the entropy model expects less: what was rounded to 1 lay at 0.7 on
average. The decoder knows the scale of every symbol, so it can rebuild each at its centroid (Sullivan, 1996), for no
bits. The context model goes on seeing whole symbols, in integers: files and their symbols do not change.

With the offset comes the standard deviation of what is left. It tells the synthesis transform where a 0 means that
there is nothing and where it means that nobody knows.

Shapes: B batch, N channels of the latent `y`, Y and X its rows and columns, R scales of the table, K magnitudes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .context import GAIN_STEP, LOG_SCALE_MIN, CodingPass, unfold_into
from .exact import CodingUnit
from .rounding import bits_of

__all__ = ["Refinement", "reconstruction_points"]

MAGNITUDES = 16  # of symbols; larger ones lie where the centroid is next to the symbol, and take the last one's offset
# Residuals have heavier tails than Gaussians: measured on photographs, the centroid of 1 stays near 0.58 below this.
_LEAST_TAIL = 0.2


def reconstruction_points(scales: Tensor, weight: Tensor) -> Tensor:
    """Offsets of centroids from their symbols and standard deviations around them, `[B, R, K, 2]`, in steps.

    Args:
        scales (`torch.Tensor` of shape `[R]`): standard deviations of residuals, in steps of the quantiser, above 0.
        weight (`torch.Tensor` of shape `[B]`): what a bit was worth where symbols were chosen (rounding.py). It moves
            the thresholds between symbols.
    """
    sigma = scales.double().view(1, -1, 1)
    symbols = torch.arange(MAGNITUDES + 1, dtype=torch.float64, device=scales.device)
    bits = bits_of(symbols, sigma)  # [1, R, K + 1]
    # Residuals up to this far above `symbol - 1/2` went to the lower symbol.
    lowered = (0.5 * weight.double().view(-1, 1, 1) * bits.diff(dim=-1)).clamp(0, 1)  # [B, R, K], from 0|1 on
    high = symbols[:-1] + 0.5 + lowered
    low = torch.cat([-high[..., :1], high[..., :-1]], dim=-1)
    spread = torch.cat([sigma, sigma.clamp_min(_LEAST_TAIL).expand(-1, -1, MAGNITUDES - 1)], dim=-1)
    mean, deviation = _truncated_gaussian(low / spread, high / spread)
    points = torch.stack([mean * spread - symbols[:-1], deviation * spread], dim=-1)
    # What no encoder that weighs bits like this would choose is taken at its word.
    return torch.where((high - low > 1e-6)[..., None], points, 0.0).float()


def _truncated_gaussian(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a unit Gaussian between two bounds, where it is symmetric or the lower one is above 0."""
    # Densities at the bounds over the mass in between. Far out both vanish, so exp(-low^2 / 2) is divided out first.
    falls = torch.exp(-(high.square() - low.square()) / 2)
    scaled = torch.special.erfcx(low.clamp_min(0) / math.sqrt(2)) - torch.special.erfcx(high / math.sqrt(2)) * falls
    two_sided = 2 * torch.special.erf(high / math.sqrt(2)) * torch.exp(low.square() / 2)
    mass = torch.where(low < 0, two_sided, scaled) * math.sqrt(math.pi / 2)
    at_low, at_high = 1 / mass, falls / mass
    mean = at_low - at_high
    variance = 1 + low * at_low - high * at_high - mean.square()
    return mean, variance.clamp_min(0).sqrt()


class Refinement:
    """Collects, while symbols are coded, what the synthesis transform is told beside `y_hat`.

    Args:
        points (`torch.Tensor` of shape `[B or 1, R, K, 2]`): from `reconstruction_points`.

    Attributes:
        values (`torch.Tensor` of shape `[B, 2N, Y, X]`): N offsets to add to `y_hat`, then N standard deviations of
            what `y` differs by from the sum; in the domain of `y`, float32.
    """

    def __init__(self, points: Tensor, shape: tuple[int, ...] | torch.Size):
        batch, channels, *sides = shape
        self.points = points
        self.values = torch.zeros(batch, 2 * channels, *sides, device=points.device)

    def note_unit(self, unit: CodingUnit, symbols: Tensor | None) -> None:
        """A unit of the exact entropy model, with its symbols `[B, N/4, rows, X]`; `None`: nothing was sent."""
        offsets, deviations = self._look_up(unit.scale_index, symbols)
        for part, found in zip(self.values[:, :, unit.rows].chunk(2, dim=1), (offsets, deviations), strict=True):
            unfold_into(part, (found / unit.factor).float(), unit.index)

    def note_pass(self, step: CodingPass, symbols: Tensor) -> None:
        """A pass of the float entropy model, with its symbols `[B, N, Y, X]`."""
        index = ((step.deviations.log() - LOG_SCALE_MIN) / GAIN_STEP).round().clamp(0, self.points.shape[1] - 1)
        found = torch.cat(self._look_up(index, symbols.detach()), dim=1) / step.gain.repeat(1, 2, 1, 1)
        self.values += found.detach() * step.mask.repeat(1, 2, 1, 1)

    def _look_up(self, scale_index: Tensor, symbols: Tensor | None) -> tuple[Tensor, Tensor]:
        """Offsets and deviations in steps, of the shape of `scale_index`."""
        if symbols is None:
            return torch.zeros_like(scale_index), torch.exp(LOG_SCALE_MIN + scale_index * GAIN_STEP)
        magnitude = symbols.abs().clamp(max=MAGNITUDES - 1)
        place = (scale_index * MAGNITUDES + magnitude).long().flatten(1)  # [B, ...]
        offsets, deviations = (
            table.flatten(1).expand(len(place), -1).gather(1, place).view(scale_index.shape)
            for table in self.points.unbind(dim=-1)
        )
        return offsets * symbols.sign(), deviations
