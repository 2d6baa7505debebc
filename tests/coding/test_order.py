"""Coding units and the order of symbols."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onedc_hf.coding.order import coding_order, unit_row_slices


@settings(deadline=None, max_examples=100)
@given(
    scale_index=hnp.arrays(np.int32, st.integers(1, 300), elements=st.integers(0, 255)),
    skip_index=st.integers(0, 256),
)
def test_symbols_come_by_descending_index_then_in_raster_order(scale_index, skip_index):
    order = coding_order(scale_index, 256, skip_index)
    expected = sorted(range(len(scale_index)), key=lambda place: (-scale_index[place], place))
    assert order.places.tolist() == expected
    assert order.scale_index.tolist() == scale_index[expected].tolist()
    assert order.skip_start == int((scale_index >= skip_index).sum())
    rebuilt = [index for index, start, stop in order.groups for _ in range(start, stop)]
    assert rebuilt == order.scale_index.tolist()
    assert len({index for index, _, _ in order.groups}) == len(order.groups)


def test_the_type_of_the_scale_index_does_not_matter():
    scale_index = np.random.default_rng(0).integers(0, 256, 500)
    for dtype in (np.uint8, np.int16, np.int32, np.int64):
        order = coding_order(scale_index.astype(dtype), 300, 20)
        np.testing.assert_array_equal(order.places, coding_order(scale_index, 300, 20).places)


def test_units_cover_every_row_once_and_hold_about_1024_positions():
    for z_rows, z_columns in [(1, 1), (8, 12), (1025, 1), (7, 300), (5, 1024), (3, 5000)]:
        rows = [row for part in unit_row_slices(z_rows, z_columns) for row in range(part.start, part.stop)]
        assert rows == list(range(4 * z_rows))
        largest = max(part.stop - part.start for part in unit_row_slices(z_rows, z_columns)) // 4
        assert largest == 1 or largest * z_columns <= 1024
