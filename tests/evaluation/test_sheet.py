"""The comparison sheet: what is on it, and that captions tell the truth."""

import numpy as np
import pytest

from onedc_hf.evaluation.classical import Ladder
from onedc_hf.evaluation.sheet import Cell, Row, comparison_rows, comparison_sheet


@pytest.fixture(scope="module")
def rows(picture):
    original = picture(96, 128)
    return comparison_rows("lake", original, [("z-only", original // 2, 40), ("0.5 bpp", original, 3000)])


def test_a_row_holds_the_original_onedc_and_each_codec_at_its_real_size(rows):
    assert [cell.codec for cell in rows[0].cells] == ["Original", "OneDC", "JPEG", "WebP", "AVIF"]
    original, onedc, *others = rows[0].cells
    assert original.size is None and onedc.size == 40 and onedc.note == "z-only"
    for cell, codec in zip(others, ("jpeg", "webp", "avif"), strict=True):
        smallest = len(Ladder(original.picture, codec).nearest(1).data)
        assert cell.size == smallest and cell.warn
        assert cell.note == f"its smallest file: {smallest / 40:.{0 if smallest >= 380 else 1}f} x OneDC's"
    assert all(not cell.warn and cell.note.startswith("quality") for cell in rows[1].cells[2:])


def test_small_pictures_are_shown_in_real_pixels(rows):
    sheet = np.asarray(comparison_sheet(rows, "A title"))
    original = rows[0].cells[0].picture
    height, width = original.shape[:2]
    windows = [
        (top, left)
        for top in range(0, sheet.shape[0] - height)
        for left in range(0, 80)
        if (sheet[top, left] == original[0, 0]).all()
    ]
    assert any((sheet[top : top + height, left : left + width] == original).all() for top, left in windows)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (300, 20), (20, 900), (600, 900), (900, 500)])
def test_a_sheet_of_any_pictures_keeps_its_width(height, width, picture):
    cells = tuple(Cell(picture(height, width), name, 10, "a note") for name in ("Original", "OneDC", "JPEG"))
    sheet = comparison_sheet([Row("a", cells), Row("a", cells), Row("b", cells)], width=1000)
    assert sheet.width <= 1000 and sheet.mode == "RGB"
    assert sheet.height < 3 * 1200


def test_large_pictures_get_a_detail_in_real_pixels(picture):
    large = picture(600, 1200)
    sheet = np.asarray(comparison_sheet([Row("a", (Cell(large, "Original"), Cell(large, "OneDC", 5)))], width=800))
    probe = large[300, 590:610]  # a line from the very middle
    line = sheet.reshape(-1, 3)
    starts = np.flatnonzero((line == probe[0]).all(axis=1))
    assert any((line[start : start + 20] == probe).all() for start in starts)


def test_rows_of_different_lengths_are_refused(picture):
    cell = Cell(picture(8, 8), "Original")
    with pytest.raises(ValueError, match="equally many"):
        comparison_sheet([Row("a", (cell,)), Row("b", (cell, cell))])
    with pytest.raises(ValueError, match="at least one"):
        comparison_sheet([])
