"""Crops in real pixels, side by side: original | OneDC | the other codecs at the size nearest to OneDC's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..errors import OneDCError
from .originals import Source
from .run import rebuilt_picture
from .sheet import FAINT, INK, PAPER, font
from .tables import codec_title

__all__ = ["crop_sheet", "spread"]

_SIDE, _GAP, _TEXT = 224, 8, 42


def crop_sheet(
    results: dict[str, Any], source: Source, folder: Path, setting: str, pictures: Sequence[str]
) -> Image.Image:
    """Draw a row of crops for each picture.

    Args:
        results (`dict`): the record of `run.collect`.
        source (`Source`): the originals.
        folder (`Path`): of the run, with the files.
        setting (`str`): the rate asked of OneDC.
        pictures (`Sequence[str]`): their names.

    Raises:
        `OneDCError`: the run lacks such a picture or setting, or a file of it is gone.
    """
    by_name = {original.name: original for original in source.pictures}
    codecs = results["codecs"]
    width = (len(codecs) + 1) * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, len(pictures) * (_SIDE + _TEXT + _GAP) + _GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(pictures):
        rows = {row["codec"]: row for row in results["rows"] if (row["picture"], row["setting"]) == (name, setting)}
        if name not in by_name or rows.keys() != set(codecs):
            raise OneDCError(f"the run has no {setting} of {name} by every codec")
        original = by_name[name].pixels(max_pixels=None)  # it was let in when it was measured
        cells = [(original, "original", name)]
        for codec in codecs:
            row = rows[codec]
            rebuilt = rebuilt_picture(folder, row)
            note = ", its smallest file" if row.get("at_floor") else ""
            cells.append((rebuilt, codec_title(codec), f"{row['bytes']:,} bytes{note}"))
        top = _GAP + number * (_SIDE + _TEXT + _GAP)
        for column, (picture, title, note) in enumerate(cells):
            left = _GAP + column * (_SIDE + _GAP)
            sheet.paste(Image.fromarray(_middle(picture)), (left, top))
            draw.text((left, top + _SIDE + 3), title, INK, font(15))
            draw.text((left, top + _SIDE + 21), note, FAINT, font(13))
    return sheet


def spread(names: Sequence[str], count: int = 3) -> list[str]:
    """A few names, evenly spread over a list."""
    return sorted({names[(2 * k + 1) * len(names) // (2 * count)] for k in range(count)})


def _middle(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    top, left = max(0, (height - _SIDE) // 2), max(0, (width - _SIDE) // 2)
    return np.ascontiguousarray(picture[top : top + _SIDE, left : left + _SIDE])
