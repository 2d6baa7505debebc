"""Comparison sheets: original | OneDC | JPEG | WebP | AVIF as one PNG, bytes and bpp under every picture.

A row is one picture at one rate. Each classical codec gets the size nearest to OneDC's file that it can reach, and the
caption says so where even its smallest file is larger. Pictures are never enlarged. Where one has to be reduced so much
that its detail would be lost, a crop from its middle in real pixels stands below it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .classical import CODECS, Ladder, available_codecs, decode

__all__ = ["Cell", "Row", "comparison_rows", "comparison_sheet"]

SHEET_CODECS = ("jpeg", "webp", "avif")
_EXPLANATION = (
    "Every picture is decoded from a file of the size below it. "
    "The classical codecs are at the size nearest to OneDC's that they can reach."
)

PAPER, INK, FAINT, _LINE, _ACCENT, _WARM = "#fbfaf7", "#1c1b19", "#77736b", "#dedad1", "#0b6e69", "#a3470f"
_MARGIN, _GUTTER = 40, 16
_FAIR = 1.1  # sizes that differ by more are pointed out
_LARGE_REDUCTION = 1.3  # beyond it, real pixels are shown as well


@dataclass(frozen=True)
class Cell:
    """One picture of a row.

    Args:
        picture (`np.ndarray`): `uint8` `[H, W, 3]`, as decoded from the file.
        codec (`str`): name for the caption.
        size (`int`, *optional*): bytes of the file; `None` for the original.
        note (`str`, *optional*): a line below the figures.
        warn (`bool`, *optional*): the note says that this is no fair match.
    """

    picture: np.ndarray
    codec: str
    size: int | None = None
    note: str = ""
    warn: bool = False


@dataclass(frozen=True)
class Row:
    """One picture at one rate: its cells from left to right, the original first, and the name of the picture."""

    name: str
    cells: tuple[Cell, ...]


def comparison_rows(
    name: str,
    original: np.ndarray,
    rebuilt: Sequence[tuple[str, np.ndarray, int]],
    codecs: Sequence[str] = SHEET_CODECS,
) -> list[Row]:
    """Set OneDC's results for one picture beside the classical codecs at the bytes nearest to each.

    Args:
        name (`str`): of the picture.
        original (`np.ndarray`): `uint8` `[H, W, 3]`.
        rebuilt (`Sequence[tuple[str, np.ndarray, int]]`):
            setting (such as `"z-only"`), decoded picture, bytes of the file, for each rate.
        codecs (`Sequence[str]`, *optional*): keys of `CODECS`; those that this Pillow cannot write are left out.
    """
    ladders = [Ladder(original, codec) for codec in codecs if codec in available_codecs()]
    rows = []
    for setting, reconstruction, size in rebuilt:
        cells = [Cell(original, "Original", note=name), Cell(reconstruction, "OneDC", size, note=setting)]
        for ladder in ladders:
            encoded = ladder.nearest(size)
            ratio, note = len(encoded.data) / size, f"quality {encoded.quality}"
            if encoded.at_floor:
                note = f"its smallest file: {_times(ratio)} OneDC's"
            elif not 1 / _FAIR < ratio < _FAIR:
                note = f"quality {encoded.quality}, no nearer: {_times(ratio)} OneDC's"
            size_of_original = (original.shape[1], original.shape[0])
            picture, title = decode(encoded.data, size_of_original), CODECS[encoded.codec].title
            cells.append(Cell(picture, title, len(encoded.data), note, warn=ratio >= _FAIR))
        rows.append(Row(name, tuple(cells)))
    return rows


def _times(ratio: float) -> str:
    return f"{ratio:.0f} x" if ratio >= 9.5 else f"{ratio:.1f} x"


def comparison_sheet(
    rows: Sequence[Row],
    title: str = "OneDC and classical codecs",
    width: int = 2400,
    explanation: str = _EXPLANATION,
) -> Image.Image:
    """Draw the sheet.

    Args:
        rows (`Sequence[Row]`): with equally many cells each; rows of the same name are drawn as one group.
        title (`str`, *optional*): its heading.
        explanation (`str`, *optional*): a line below the heading.
        width (`int`, *optional*): of the sheet in pixels, at most; it shrinks where the pictures are small.

    Returns:
        `PIL.Image.Image`: RGB.

    Raises:
        `ValueError`: no rows, or rows of different lengths.
    """
    if not rows or len({len(row.cells) for row in rows}) != 1:
        raise ValueError("rows: expected at least one, and equally many cells in each")
    columns = len(rows[0].cells)
    room = (width - 2 * _MARGIN - (columns - 1) * _GUTTER) // columns
    column = max(180, min(room, max(cell.picture.shape[1] for row in rows for cell in row.cells)))
    tall = column * 5 // 4  # a portrait may be this high
    width = 2 * _MARGIN + columns * column + (columns - 1) * _GUTTER
    size = max(15, min(24, column // 19))
    draw_row = _row_painter(column, tall, size)

    blocks = [_heading(title, explanation, width, size)]
    for index, row in enumerate(rows):
        new_group = index == 0 or rows[index - 1].name != row.name
        blocks.append(draw_row(row, width, new_group))
    sheet = Image.new("RGB", (width, sum(block.height for block in blocks) + _MARGIN), PAPER)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def _heading(title: str, explanation: str, width: int, size: int) -> Image.Image:
    block = Image.new("RGB", (width, _MARGIN + size * 4), PAPER)
    draw = ImageDraw.Draw(block)
    draw.text((_MARGIN, _MARGIN), title, INK, font(size * 1.6))
    draw.text((_MARGIN, _MARGIN + size * 2.3), explanation, FAINT, font(size))
    return block


def _row_painter(column: int, tall: int, size: int) -> Callable[[Row, int, bool], Image.Image]:
    def draw_row(row: Row, width: int, new_group: bool) -> Image.Image:
        columns = [_stack(cell.picture, column, tall) for cell in row.cells]
        captions = max(_caption_height(cell, size) for cell in row.cells)
        top = size * 2 if new_group else size
        height = max(sum(picture.height for picture in pictures) + 8 * (len(pictures) - 1) for pictures in columns)
        block = Image.new("RGB", (width, top + height + captions + size // 2), PAPER)
        draw = ImageDraw.Draw(block)
        if new_group:
            draw.line((_MARGIN, size // 2, width - _MARGIN, size // 2), _LINE, 2)
        for index, (cell, pictures) in enumerate(zip(row.cells, columns, strict=True)):
            left, y = _MARGIN + index * (column + _GUTTER), top
            for picture in pictures:
                block.paste(picture, (left, y))
                y += picture.height + 8
            _caption(draw, cell, (left, top + height + size // 2), size)
        return block

    return draw_row


def _stack(picture: np.ndarray, column: int, tall: int) -> list[Image.Image]:
    """The whole picture, and a crop in real pixels where the whole has lost its detail."""
    image = Image.fromarray(picture)
    reduction = max(image.width / column, image.height / tall, 1.0)
    if reduction == 1:
        return [image]
    whole = image.resize(
        (max(1, round(image.width / reduction)), max(1, round(image.height / reduction))), Image.Resampling.LANCZOS
    )
    if reduction < _LARGE_REDUCTION:
        return [whole]
    crop_width, crop_height = min(column, image.width), min(column * 3 // 5, image.height)
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    return [whole, image.crop((left, top, left + crop_width, top + crop_height))]


def _caption_height(cell: Cell, size: int) -> int:
    return round(size * (1.35 * (2 + bool(cell.note)) + 0.8))


def _caption(draw: ImageDraw.ImageDraw, cell: Cell, at: tuple[int, int], size: int) -> None:
    left, top = at
    height, width = cell.picture.shape[:2]
    if cell.size is None:
        figures = f"{width} x {height} pixels"
    else:
        unit = "byte" if cell.size == 1 else "bytes"
        figures = f"{cell.size:,} {unit}, {8 * cell.size / (width * height):.4f} bpp"
    draw.text((left, top), cell.codec, _ACCENT if cell.codec == "OneDC" else INK, font(size * 1.15))
    draw.text((left, top + size * 1.45), figures, INK, font(size))
    if cell.note:
        draw.text((left, top + size * 2.8), cell.note, _WARM if cell.warn else FAINT, font(size))


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size=round(size))
