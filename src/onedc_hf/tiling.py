"""Large pictures in overlapping tiles, so that memory for the networks does not grow with the picture.

What a picture has of its own as a whole stays whole: the hyper-latent, its codes, the semantic tokens, the symbols.
Only what stands on a finer grid (pixels, latent, `y`, detail features) is computed tile by tile. Tiles lie on the
hyper-latent's grid, *positions* of 64x64 pixels, and cross-fade where they overlap.

Rows and columns of tiles are slices of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .coding.limits import POSITION

__all__ = ["POSITION", "Canvas", "Tiling", "assemble", "part_of", "spans"]


@dataclass(frozen=True)
class Tiling:
    """When and how pictures are cut into tiles.

    Args:
        tile (`int`): positions of a tile, in each direction.
        overlap (`int`): positions that neighbours share at least.
        above_pixels (`int`): pictures of up to so many pixels stay whole.

    Raises:
        ValueError: for an overlap that leaves a tile nothing of its own.
    """

    tile: int = 16
    overlap: int = 3
    above_pixels: int = 1 << 22

    def __post_init__(self) -> None:
        if not 1 <= self.overlap < self.tile:
            raise ValueError(
                f"Tiles of {self.tile * POSITION} pixels cannot overlap by {self.overlap * POSITION}: the overlap must "
                f"be at least {POSITION} pixels and smaller than the tile."
            )


def spans(total: int, tiling: Tiling | None) -> list[slice]:
    """Tiles along one direction of `total` positions: as few as reach, evenly spread, all of one length."""
    if tiling is None or total <= tiling.tile:
        return [slice(0, total)]
    steps = -(-(total - tiling.overlap) // (tiling.tile - tiling.overlap)) - 1  # tiles, less one
    length = -(-(total + steps * tiling.overlap) // (steps + 1))
    starts = [(total - length) * i // steps for i in range(steps + 1)]
    return [slice(start, start + length) for start in starts]


def part_of(values: Tensor, rows: slice, columns: slice, per_position: int) -> Tensor:
    """The tile of a map `[..., Y, X]` that has `per_position` values for a position, in each direction; a view."""
    top, bottom, left, right = (per_position * edge for s in (rows, columns) for edge in (s.start, s.stop))
    return values[..., top:bottom, left:right]


@dataclass(frozen=True)
class Canvas:
    """Where the tiles of one map go.

    Args:
        whole (`torch.Tensor`): room for the whole map; it may end early at the picture's right and lower edge.
        per_position (`int`): its values for a position, in each direction.
        rows, columns (`int`): which of its dimensions those are.
    """

    whole: Tensor
    per_position: int
    rows: int = -2
    columns: int = -1


def assemble(
    make: Callable[[slice, slice], Sequence[Tensor]],
    rows: Sequence[slice],
    columns: Sequence[slice],
    canvases: Sequence[Canvas],
) -> None:
    """Makes every tile and puts the results together, left to right, then top to bottom.

    Args:
        make (`Callable`): rows and columns of a tile to its part of each map, in the order of `canvases`.
        rows (`Sequence[slice]`): from `spans`.
        columns (`Sequence[slice]`): the same in the other direction.
        canvases (`Sequence[Canvas]`): filled in place.
    """
    for i, row in enumerate(rows):
        # A row of tiles is put together first, so that both directions fade evenly where four tiles meet.
        bands = [torch.empty_like(_rows_of(canvas, row)) for canvas in canvases]
        for j, column in enumerate(columns):
            done = columns[j - 1].stop if j else 0
            for canvas, band, tile in zip(canvases, bands, make(row, column), strict=True):
                tile = tile.narrow(canvas.rows, 0, band.shape[canvas.rows])
                _lay(band, tile, canvas.columns, canvas.per_position * column.start, canvas.per_position * done)
        done = rows[i - 1].stop if i else 0
        for canvas, band in zip(canvases, bands, strict=True):
            _lay(canvas.whole, band, canvas.rows, canvas.per_position * row.start, canvas.per_position * done)


def _rows_of(canvas: Canvas, row: slice) -> Tensor:
    start, stop = (canvas.per_position * edge for edge in (row.start, row.stop))
    return canvas.whole.narrow(canvas.rows, start, min(stop, canvas.whole.shape[canvas.rows]) - start)


def _lay(whole: Tensor, part: Tensor, dimension: int, start: int, done: int) -> None:
    """Copies `part` to `start` along a dimension; fades it in over what is `done` already.

    The outer quarters of the overlap belong to one tile alone: a network knows least about the edge of its own tile.
    """
    length = min(part.shape[dimension], whole.shape[dimension] - start)
    overlap = min(done - start, length)
    fresh = length - overlap
    whole.narrow(dimension, start + overlap, fresh).copy_(part.narrow(dimension, overlap, fresh))
    if overlap > 0:
        shape = [1] * whole.dim()
        shape[dimension] = overlap
        position = (torch.arange(overlap, dtype=torch.float32, device=whole.device) + 0.5) / overlap  # 0 to 1
        share = (2 * position - 0.5).clamp(0, 1).reshape(shape)
        old = whole.narrow(dimension, start, overlap)
        faded = torch.lerp(old.float(), part.narrow(dimension, 0, overlap).float(), share)
        old.copy_(faded if whole.is_floating_point() else faded.round_())
