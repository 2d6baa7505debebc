"""In which order the symbols of y are coded.

Shapes: C = channels of y, Zh, Zw = positions of z; a pass is [C/4, 4 Zh, 4 Zw].

A coding unit is one pass over a few rows of z positions, so that a picture of any size is coded in bounded memory.
Within a unit the symbols with the widest distributions come first: they say most, so a file cut in the middle of a unit
has lost little (half of the bytes carry 61 % of the energy instead of 45 %).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["Y_PER_Z", "CodingOrder", "coding_order", "unit_row_slices"]

Y_PER_Z = 4
"""Positions of y for one of z, in each direction."""

UNIT_POSITIONS = 1024
"""A unit covers as many whole rows of z as fit into so many positions, at least one."""


def unit_row_slices(z_rows: int, z_columns: int) -> Iterator[slice]:
    """Rows of y [4 Zh] that each coding unit of a pass covers, top to bottom."""
    step = max(1, UNIT_POSITIONS // z_columns)
    for start in range(0, z_rows, step):
        yield slice(start * Y_PER_Z, min(start + step, z_rows) * Y_PER_Z)


@dataclass(frozen=True)
class CodingOrder:
    """The order of one unit's n symbols.

    Args:
        places (`np.ndarray`): int [n], place in raster order of each symbol, in coding order.
        scale_index (`np.ndarray`): int [n], scale index of each symbol, in coding order.
        groups (`list[tuple[int, int, int]]`): (scale index, start, stop) of each run of equal scale indexes, in coding
            order.
        skip_start (`int`): where the skip group begins in coding order; n = it is empty.
    """

    places: np.ndarray
    scale_index: np.ndarray
    groups: list[tuple[int, int, int]]
    skip_start: int


def coding_order(scale_index: np.ndarray, scales: int, skip_index: int) -> CodingOrder:
    """Descending scale index, raster order within an index.

    Args:
        scale_index (`np.ndarray`): int [n], in raster order, each in [0, scales).
        scales (`int`): number of scales.
        skip_index (`int`): indexes below it form the skip group.
    """
    # A stable sort: the default one orders equal keys differently under AVX512 and AVX2. 16-bit keys get numpy's radix
    # sort.
    keys = (scales - 1 - scale_index.astype(np.int64)).astype(np.uint16 if scales <= 1 << 16 else np.int64)
    places = np.argsort(keys, kind="stable")
    counts = np.bincount(keys, minlength=scales)
    groups = []
    start = 0
    skip_start = len(keys)
    for key in np.flatnonzero(counts).tolist():
        index = scales - 1 - key
        if index < skip_index:
            skip_start = min(skip_start, start)
        stop = start + int(counts[key])
        groups.append((index, start, stop))
        start = stop
    return CodingOrder(places, scale_index[places], groups, skip_start)
