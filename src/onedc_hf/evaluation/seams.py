"""Do the borders of tiles show?

A seam is a step in brightness or colour along a straight line. `seam_ratio` compares the mean gradient across the
lines where a seam would lie with that across lines beside them; decoders leave patterns of period 8 or 16 of their own,
so the lines beside lie at the same place of the period.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["border_lines", "seam_ratio"]

_PERIOD = 16
_NEIGHBOURS = (-3, -2, -1, 1, 2, 3)


def border_lines(spans: Sequence[slice], pixels_per_position: int) -> list[int]:
    """Where neighbouring tiles begin, end, and are mixed evenly: the lines, in pixels, on which a seam could lie.

    Args:
        spans (`Sequence[slice]`): tiles along one direction, in positions (`onedc_hf.tiling.spans`).
        pixels_per_position (`int`): pixels of a position.
    """
    lines = set()
    for before, after in zip(spans, spans[1:], strict=False):
        start, stop = after.start * pixels_per_position, before.stop * pixels_per_position
        quarter = (stop - start) // 4
        lines |= {start, start + quarter, (start + stop) // 2, stop - quarter, stop}
    return sorted(lines)


def seam_ratio(picture: np.ndarray, rows: Sequence[int], columns: Sequence[int]) -> float:
    """Mean gradient across the given lines over that across lines beside them; 1 means: nothing shows.

    Args:
        picture (`np.ndarray`): `uint8` `[H, W, 3]`.
        rows (`Sequence[int]`): a line lies between pixel `line - 1` and pixel `line`.
        columns (`Sequence[int]`): the same in the other direction.

    Raises:
        ValueError: where no line lies 49 pixels or more inside the picture.
    """
    across, beside = [], []
    for lines, axis in ((rows, 0), (columns, 1)):
        step = np.abs(np.diff(picture.astype(np.int16), axis=axis)).mean(axis=(1 - axis, 2))  # by line, less one
        for line in lines:
            around = [line - 1 + _PERIOD * n for n in _NEIGHBOURS]
            if around[0] >= 0 and around[-1] < len(step):
                across.append(step[line - 1])
                beside.append(step[around].mean())
    if not across:
        raise ValueError("No line lies far enough inside the picture to be compared with its neighbours.")
    return float(np.sum(across) / np.sum(beside))
