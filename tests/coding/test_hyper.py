"""Digits of z, their contexts and static tables."""

import numpy as np
import pytest

from onedc_hf.coding import fit_hyper_tables
from onedc_hf.coding.hyper import (
    MAX_COUNT,
    check_hyper_tables,
    context_index,
    join_digits,
    least_bytes,
    split_digits,
    table_bits,
)

LEVELS = [(4,) * 7, (8, 5, 5, 5), (2,), (3, 2), (256, 256)]


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_codes_and_digits_are_the_same_thing(levels):
    codes = np.random.default_rng(0).integers(0, np.prod(levels), (6, 9)).astype(np.int32)
    digits = split_digits(codes, levels)
    assert (digits >= 0).all() and (digits < levels).all()
    np.testing.assert_array_equal(join_digits(digits, levels), codes)


def test_digit_0_is_the_least_significant():
    assert split_digits(np.array([[10971]]), (4,) * 7).tolist() == [[[3, 2, 1, 3, 2, 2, 2]]]  # spec section 12


def test_the_context_of_a_digit_is_previous_left_and_above():
    digits = np.array([[[0, 1], [2, 3]], [[3, 2], [1, 0]]])  # [Zh 2, Zw 2, D 2], border 4
    flat = context_index(digits, 4)
    contexts = np.stack(np.unravel_index(flat, (5, 5, 5)), axis=-1).tolist()
    assert contexts[0][0] == [[4, 4, 4], [0, 4, 4]]
    assert contexts[0][1] == [[4, 0, 4], [2, 1, 4]]
    assert contexts[1][1] == [[4, 3, 2], [1, 2, 3]]


@pytest.mark.parametrize("levels", LEVELS[:-1], ids=str)
@pytest.mark.parametrize("kind", ["random", "constant", "none"])
def test_fitted_tables_are_valid(levels, kind):
    generator = np.random.default_rng(1)
    top = int(np.prod(levels))
    codes = {"random": [generator.integers(0, top, (20, 30))], "constant": [np.full((90, 90), top - 1)], "none": []}[
        kind
    ]
    tables = fit_hyper_tables(codes, levels)
    check_hyper_tables(tables, levels)
    assert tables.max() <= MAX_COUNT


def test_fitted_tables_shorten_what_resembles_the_examples(odc):
    codes = odc.synthetic_codes(np.random.default_rng(99), 8, 12)
    assert table_bits(split_digits(codes, (4,) * 7), odc.hyper_tables) < 0.9 * codes.size * 14


def test_fitting_refuses_codes_out_of_range():
    with pytest.raises(ValueError, match="z_index"):
        fit_hyper_tables([np.array([[4**7]])], (4,) * 7)


@pytest.mark.parametrize("coded", [False, True])
def test_no_code_of_z_is_shorter_than_the_least_length(odc, coded):
    for codes in (np.full((9, 9), code, dtype=np.int32) for code in (0, 4**7 - 1, 10922)):
        bits = table_bits(split_digits(codes, (4,) * 7), odc.hyper_tables) if coded else codes.size * 14
        assert least_bytes(codes.size, (4,) * 7, coded) <= bits / 8
    assert least_bytes(10**6, (4,) * 7, True) * 8 <= 10**6 * 7 * np.log2(16 / 15)
