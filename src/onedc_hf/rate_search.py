"""Finds the quality row whose file comes closest to a byte budget from below."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["search_row"]


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
