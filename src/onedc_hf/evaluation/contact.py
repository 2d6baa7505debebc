"""Contact sheets: every picture of a data set at one rate, in real pixels: eyes find what no metric looks for."""

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ..errors import OneDCError
from .run import rebuilt_picture
from .sheet import INK, PAPER, font

__all__ = ["contact_sheet"]

_GAP, _CAPTION = 8, 30
_LARGEST_SIDE = 16_383  # of a WebP file, in pixels


def contact_sheet(run: Path, results: dict[str, Any], setting: str, columns: int = 6) -> Image.Image:
    """Draw OneDC's pictures of a run at one setting, upright ones among the others as they come.

    Args:
        run (`Path`): folder of `onedc evaluate`, with the files that its rows speak of.
        results (`dict`): its record.
        setting (`str`): `z-only` or a rate, as in `results["settings"]`.
        columns (`int`, *optional*): pictures in a row.

    Returns:
        `PIL.Image.Image`: RGB; reduced only where it would be larger than a WebP file can be.

    Raises:
        `OneDCError`: the run has no such setting, or its pictures are gone.
    """
    rows = [row for row in results["rows"] if row["codec"] == "onedc" and row["setting"] == setting]
    if not rows:
        raise OneDCError(f"the run has no OneDC pictures at {setting!r}; it has {', '.join(results['settings'])}")
    cells = []
    for row in rows:
        picture = Image.fromarray(rebuilt_picture(run, row))
        cells.append((picture, f"{row['picture']}   {row['bytes']:,} bytes, {row['bpp']:.4f} bpp"))
    columns = min(columns, len(cells))
    lines = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    width = max(sum(picture.width + _GAP for picture, _ in line) for line in lines) + _GAP
    heights = [max(picture.height for picture, _ in line) + _CAPTION + _GAP for line in lines]
    sheet = Image.new("RGB", (width, sum(heights) + _GAP), PAPER)
    draw, top = ImageDraw.Draw(sheet), _GAP
    for line, height in zip(lines, heights, strict=True):
        left = _GAP
        for picture, caption in line:
            sheet.paste(picture, (left, top))
            draw.text((left, top + picture.height + 4), caption, INK, font(18))
            left += picture.width + _GAP
        top += height
    if max(sheet.size) > _LARGEST_SIDE:
        sheet.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    return sheet
