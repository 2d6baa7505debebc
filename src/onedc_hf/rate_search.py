"""How large a file may be: what may be asked for, and the quality row that comes closest to it from below."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import numpy as np

__all__ = ["ANY_SIZE", "check_effort", "check_rate", "search_row"]

ANY_SIZE = 2**62
"""Bytes: a target above asks for nothing."""


def check_rate(quality: int | None, target_bytes: int | None, target_bpp: float | None, z_only: bool) -> None:
    """Refuses arguments of `OneDCPipeline.compress` that contradict each other or lie out of range.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    given = {"quality": quality, "target_bytes": target_bytes, "target_bpp": target_bpp, "z_only": z_only or None}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"Give one of `quality`, `target_bytes`, `target_bpp`, `z_only`; got {', '.join(names)}.")
    for name, value in (("quality", quality), ("target_bytes", target_bytes)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
            raise TypeError(f"`{name}` must be an integer; got {value!r}.")
    if quality is not None and not 0 <= quality <= 100:
        raise ValueError(f"`quality` must lie in 0 to 100; got {quality}.")
    if target_bytes is not None and target_bytes < 1:
        raise ValueError(f"`target_bytes` must be at least 1; got {target_bytes}.")
    if target_bpp is not None:
        if isinstance(target_bpp, bool) or not isinstance(target_bpp, Real):
            raise TypeError(f"`target_bpp` must be a number; got {target_bpp!r}.")
        if not 0 < target_bpp < math.inf:
            raise ValueError(f"`target_bpp` must be positive and finite; got {target_bpp}.")


def check_effort(effort: int) -> None:
    """Refuses an `effort` that is no whole number of at least 0.

    Raises:
        TypeError, ValueError: saying so.
    """
    if isinstance(effort, bool) or not isinstance(effort, int | np.integer):
        raise TypeError(f"`effort` must be an integer; got {effort!r}.")
    if effort < 0:
        raise ValueError(f"`effort` must be at least 0 (steps of refinement); got {effort}.")


def search_row(estimate: Callable[[int], float], rows: int, budget: int, trials: int = 5) -> int:
    """The highest row that `estimate` expects to fit, by regula falsi on log bytes.

    Args:
        estimate (`Callable[[int], float]`): expected file size in bytes of a row; costly, so asked at most `trials`
            times, and nearly monotone.
        rows (`int`): number of rows.
        budget (`int`): bytes.
        trials (`int`): how often `estimate` may be asked.

    Returns:
        `int`: a row in `0 ... rows - 1`; 0 also when not even that is expected to fit.
    """
    low, high = -1, rows  # the last row known to fit, the first known not to
    sizes: dict[int, float] = {}
    while high - low > 1 and len(sizes) < trials:
        if low >= 0 and high < rows:
            span = math.log(sizes[high]) - math.log(sizes[low])
            share = (math.log(budget) - math.log(sizes[low])) / span if span > 0 else 0.5
            row = low + round(share * (high - low))
        elif sizes:
            # One side only: rates grow about e^(4 row / rows); a little further, so that the other side is found.
            known = low if low >= 0 else high
            row = known + round(rows / 4 * math.log(budget / sizes[known])) + (3 if low >= 0 else -3)
        else:
            row = rows // 2
        row = min(max(row, low + 1), high - 1)
        sizes[row] = max(estimate(row), 1.0)
        if sizes[row] <= budget:
            low = row
        else:
            high = row
    return max(low, 0)
