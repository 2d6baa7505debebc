"""Is there a grid in the picture that the original does not have?

Decoders that upsample leave textures with a period of 2, 4, 8 or 16 pixels, sometimes so faint that a perceptual metric
rewards them. Three measures find them, and all are read against the original's own values:

- `period_energy`: energy at the grid's frequency over that at neighbouring frequencies, along rows and columns.
  Relative, because a blurred picture has little energy anywhere and would hide a grid under an absolute measure.
- `locked_gradient`: mean gradient by position modulo 8 or 16, largest over mean: block borders lie at fixed positions.
- `repeated_share`: how much of the detail all cells of 64x64 pixels have in common. Rows and columns see nothing of a
  pattern along diagonals. A code of the hyper-latent stands for 64x64 pixels: where many are alike, a decoder draws the
  same into each, as on wallpaper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ..errors import PictureError
from .metrics._common import check_pair

__all__ = ["PERIODS", "GridReport", "grid_report", "locked_gradient", "mean_report", "period_energy", "repeated_share"]

PERIODS = (2, 4, 8, 16)
BLOCKS = (8, 16)
CELL = 64  # pixels that one code of the hyper-latent stands for
SMALLEST_SIDE = 64
_PATCH = 16  # pixels over which the strength of detail is taken


@dataclass(frozen=True)
class GridReport:
    """The readings of a rebuilt picture over those of its original; 1 means: as much as the original has.

    Args:
        energy (`dict[int, float]`): by period in pixels.
        gradient (`dict[int, float]`): by block size in pixels.
        repeated (`float`, *optional*): share of the detail that is repeated from cell to cell, less the original's; 0
            means: no more than the original has. None where it is not known: for pictures under 128 pixels a side.
    """

    energy: dict[int, float]
    gradient: dict[int, float]
    repeated: float | None = None

    @property
    def worst(self) -> float:
        """The largest of all ratios (`repeated` is none)."""
        return max(*self.energy.values(), *self.gradient.values())

    def to_row(self) -> dict[str, Any]:
        """Return the readings for JSON, whose keys are text."""
        return {
            "energy": {str(period): round(ratio, 4) for period, ratio in self.energy.items()},
            "gradient": {str(block): round(ratio, 4) for block, ratio in self.gradient.items()},
            "repeated": None if self.repeated is None else round(self.repeated, 4),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "GridReport":
        """Return what `to_row` wrote; earlier versions of it wrote no `repeated`."""
        return cls(
            energy={int(period): ratio for period, ratio in row["energy"].items()},
            gradient={int(block): ratio for block, ratio in row["gradient"].items()},
            repeated=row.get("repeated"),
        )


def grid_report(original: np.ndarray, rebuilt: np.ndarray) -> GridReport:
    """Compare two `uint8` `[H, W, 3]` pictures of equal size, at least 64 pixels a side.

    A single natural picture reads up to about 1.2 either way by chance; means over a set are steadier.

    Raises:
        `PictureError`: the two are not RGB pictures of equal size, or too small.
    """
    check_pair(original, rebuilt)
    before, after = period_energy(original), period_energy(rebuilt)
    large = min(original.shape[:2]) >= 2 * CELL
    return GridReport(
        energy={period: _ratio(after[period], before[period]) for period in PERIODS},
        gradient={block: _ratio(locked_gradient(rebuilt, block), locked_gradient(original, block)) for block in BLOCKS},
        repeated=repeated_share(rebuilt) - max(0.0, repeated_share(original)) if large else None,
    )


def mean_report(reports: Sequence[GridReport]) -> GridReport:
    """Return the mean of each reading over a set of pictures, at least one; of `repeated` only if all have it."""
    repeated = [report.repeated for report in reports if report.repeated is not None]
    return GridReport(
        energy={period: fmean(report.energy[period] for report in reports) for period in reports[0].energy},
        gradient={block: fmean(report.gradient[block] for report in reports) for block in reports[0].gradient},
        repeated=fmean(repeated) if len(repeated) == len(reports) else None,
    )


def _ratio(after: float, before: float) -> float:
    """1 where there is nothing at all, before and after: a picture of one colour has no gradient."""
    return (after + 1e-6) / (before + 1e-6)


def period_energy(picture: np.ndarray) -> dict[int, float]:
    """Return, by period, the energy at its frequency over the median of its neighbours: about 1 where there is no grid.

    The larger of rows and columns counts; harmonics of a period (8 -> 4, 2) show under their own period.

    Args:
        picture (`np.ndarray`): `uint8` `[H, W, 3]` or `[H, W]`.
    """
    grey = _grey(picture)
    return {period: max(_line_energy(grey, period), _line_energy(grey.T, period)) for period in PERIODS}


def locked_gradient(picture: np.ndarray, block: int) -> float:
    """Return the mean gradient at the strongest of the `block` x `block` positions over the mean of all positions.

    The gradient is |dx| + |dy| of the grey picture between a pixel and its right and lower neighbours.
    """
    grey = _grey(picture)
    gradient = np.abs(np.diff(grey, axis=1))[:-1] + np.abs(np.diff(grey, axis=0))[:, :-1]  # [H - 1, W - 1]
    rows, columns = (side // block for side in gradient.shape)
    cells = gradient[: rows * block, : columns * block].reshape(rows, block, columns, block)
    by_position = cells.mean(axis=(0, 2))  # [block, block]
    return float(by_position.max() / max(by_position.mean(), 1e-9))


def repeated_share(picture: np.ndarray) -> float:
    """Return the share of the detail that every cell of 64x64 pixels repeats: about 0 in photographs, 1 in wallpaper.

    Detail is what a pixel differs by from the mean of its 3x3 neighbours, divided by its deviation over 16x16 pixels,
    so that smooth places count as much as rough ones. The mean of K cells that know nothing of each other has 1 / K of
    their energy; that is taken off.

    Args:
        picture (`np.ndarray`): `uint8` `[H, W, 3]` or `[H, W]`, at least 128 pixels a side.
    """
    grey = _grey(picture)
    rows, columns = (side // CELL for side in grey.shape)
    if min(rows, columns) < 2:
        raise PictureError(f"cells of {CELL} pixels repeat in pictures of {2 * CELL} pixels a side or more")
    padded = np.pad(grey, 1, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).mean(axis=(2, 3))
    detail = (grey - around)[: rows * CELL, : columns * CELL]
    patches = detail.reshape(rows * CELL // _PATCH, _PATCH, columns * CELL // _PATCH, _PATCH)
    # Half a level is added: less is the rounding to 8 bits.
    patches = patches / (np.sqrt((patches**2).mean(axis=(1, 3), keepdims=True)) + 0.5)
    cells = patches.reshape(rows, CELL, columns, CELL)
    repeated, every = (cells.mean(axis=(0, 2)) ** 2).mean(), (cells**2).mean()
    count = rows * columns
    if every < 1e-6:  # a picture of one colour: what is left is the rounding of float32
        return 0.0
    return float((count * repeated / every - 1) / (count - 1))


def _line_energy(grey: np.ndarray, period: int) -> float:
    """Ratio for one direction, on a whole number of 16-pixel cells, so that every period falls on a frequency bin."""
    length = grey.shape[1] // 16 * 16
    lines = np.diff(grey, axis=1, append=grey[:, -1:])[:, :length]  # the gradient: flattens the spectrum of photographs
    spectrum = np.abs(np.fft.rfft(lines * np.hanning(length + 1)[:-1], axis=1)) ** 2  # [H, length / 2 + 1]
    energy = spectrum.mean(axis=0)
    at = length // period
    reach = max(4, length // 64)  # neighbours, outside the window's main lobe of one bin on either side
    beside = np.r_[energy[max(1, at - reach) : at - 1], energy[at + 2 : at + reach + 1]]
    # A floor: differences of 8-bit rounding, so that flat pictures read 1 and not 0 / 0.
    return float((energy[at] + 1e-3 * length) / (np.median(beside) + 1e-3 * length))


def _grey(picture: np.ndarray) -> np.ndarray:
    if min(picture.shape[:2]) < SMALLEST_SIDE:
        raise PictureError(
            f"the grid check needs {SMALLEST_SIDE} pixels a side, the picture is {picture.shape[1]}x{picture.shape[0]}"
        )
    values = picture.astype(np.float32)
    return values if values.ndim == 2 else values @ np.array([0.299, 0.587, 0.114], np.float32)
