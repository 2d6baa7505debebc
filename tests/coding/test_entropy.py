"""The range coder: any symbols come back, and nothing that constriction raises gets out."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onedc_hf.coding import SYMBOL_LIMIT, clamp_symbols, ideal_bits, paper_tables
from onedc_hf.coding.entropy import SymbolDecoder, SymbolEncoder
from onedc_hf.coding.order import coding_order
from onedc_hf.errors import Corrupt

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def order_of(model, scale_index):
    return coding_order(np.asarray(scale_index), model.tables.scales, model.skip_index)


def round_trip(model, symbols, scale_index):
    encoder = SymbolEncoder(model)
    encoder.encode_unit(symbols, order_of(model, scale_index))
    stream = encoder.finish()
    return SymbolDecoder(stream, model).decode_unit(order_of(model, scale_index)), stream


symbols_near_and_far = st.one_of(
    st.just(0), st.integers(-3, 3), st.integers(-60, 60), st.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT)
)


@QUICK
@given(
    pairs=st.lists(st.tuples(symbols_near_and_far, st.integers(0, 255)), min_size=1, max_size=120),
    skip_index=st.sampled_from([0, 1, 20, 200, 256]),
)
def test_any_symbols_under_any_scale_indexes_come_back(odc, pairs, skip_index):
    model = odc.make_model(skip_index=skip_index)
    symbols, scale_index = np.array(pairs, dtype=np.int32).T
    found, stream = round_trip(model, symbols, scale_index)
    np.testing.assert_array_equal(found, symbols)
    # No lower bound: a stream that ends in symbols at the bottom of their tables ends in zeros, which cost nothing.
    assert len(stream) <= ideal_bits(symbols, scale_index, model.tables, skip_index) / 8 + 1.01


@QUICK
@given(
    codes=hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 4**7 - 1))
)
@pytest.mark.parametrize("coded", [False, True])
def test_any_codes_come_back(odc, codes, coded):
    encoder = SymbolEncoder(odc.full)
    encoder.encode_hyper(codes, coded)
    found = SymbolDecoder(encoder.finish(), odc.full).decode_hyper(*codes.shape, coded)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, codes)


@pytest.mark.parametrize("symbol", [SYMBOL_LIMIT, -SYMBOL_LIMIT, 3, -3, 2, -2])
@pytest.mark.parametrize("index", [0, 100, 255])
def test_the_edges_of_tables_and_of_int16_come_back(odc, symbol, index):
    symbols, scale_index = np.full(50, symbol, dtype=np.int32), np.full(50, index)
    np.testing.assert_array_equal(round_trip(odc.plain, symbols, scale_index)[0], symbols)


def test_a_symbol_just_outside_each_table_comes_back(odc):
    tables = paper_tables()
    scale_index = np.repeat(np.arange(256), 4)
    low, high = tables.offset, tables.offset + tables.entries - 1
    symbols = np.stack([low - 1, low, high, high + 1], axis=1).ravel().astype(np.int32)
    np.testing.assert_array_equal(round_trip(odc.plain, symbols, scale_index)[0], symbols)


def test_a_skip_group_of_zeros_costs_nothing(odc):
    model = odc.make_model(skip_index=20)
    scale_index = np.arange(5000) % 20
    symbols = np.zeros(5000, dtype=np.int32)
    assert round_trip(model, symbols, scale_index)[1] == b""
    symbols[1234] = -1
    found, stream = round_trip(model, symbols, scale_index)
    np.testing.assert_array_equal(found, symbols)
    assert 2 < len(stream) < 60


def test_a_cut_stream_is_a_prefix_of_the_symbols_in_coding_order(odc):
    # What issue 13 builds on: with 00 and with FF following, symbols up to the first difference are right.
    symbols, scale_index = odc.synthetic_pass(np.random.default_rng(5), (4000,), 60)
    order = order_of(odc.plain, scale_index)
    stream = round_trip(odc.plain, symbols, scale_index)[1]
    arrived = stream[: len(stream) // 2]
    with_zeros = SymbolDecoder(arrived, odc.plain)._decode_entries(order)
    with_ones = SymbolDecoder(arrived + b"\xff" * 40, odc.plain)._decode_entries(order)
    certain = int(np.flatnonzero(with_zeros != with_ones)[0])
    truth = SymbolDecoder(stream, odc.plain)._decode_entries(order)
    np.testing.assert_array_equal(with_zeros[:certain], truth[:certain])
    places = order.places[:certain]
    assert ideal_bits(symbols[places], scale_index[places], odc.plain.tables) > 8 * len(arrived) - 24


def test_random_streams_decode_or_are_corrupt(odc):
    generator = np.random.default_rng(6)
    outcomes = set()
    for _ in range(300):
        decoder = SymbolDecoder(generator.bytes(int(generator.integers(0, 60))), odc.full)
        try:
            decoder.decode_hyper(3, 4, bool(generator.integers(0, 2)))
            symbols = decoder.decode_unit(order_of(odc.full, generator.integers(0, 256, 300)))
            assert np.abs(symbols).max() <= SYMBOL_LIMIT
            outcomes.add("decoded")
        except Corrupt:
            outcomes.add("corrupt")
    assert outcomes == {"decoded", "corrupt"}


def test_an_invalid_point_of_the_stream_is_corrupt(odc):
    with pytest.raises(Corrupt, match="range coder failed"):
        SymbolDecoder(b"\xff" * 16, odc.plain).decode_bytes(1)


class Panic(BaseException):
    """As pyo3's PanicException, which does not derive from Exception."""


@pytest.mark.parametrize("error", [AssertionError, KeyError, ValueError, TypeError, Panic])
def test_whatever_the_coder_raises_becomes_corrupt(odc, error):
    class Broken:
        def decode(self, *_):
            raise error("boom")

        encode = decode

    encoder, decoder = SymbolEncoder(odc.plain), SymbolDecoder(b"", odc.plain)
    encoder._coder = decoder._coder = Broken()
    order = order_of(odc.plain, np.zeros(4, dtype=np.int32))
    for call in (
        lambda: decoder.decode_hyper(1, 1, False),
        lambda: decoder.decode_bytes(1),
        lambda: decoder.decode_unit(order),
        lambda: encoder.encode_hyper(np.zeros((1, 1), dtype=np.int32), False),
        lambda: encoder.encode_bytes(b"a"),
        lambda: encoder.encode_unit(np.zeros(4, dtype=np.int32), order),
    ):
        with pytest.raises(Corrupt, match="boom"):
            call()


def test_an_interrupt_passes_through(odc):
    class Interrupted:
        def decode(self, *_):
            raise KeyboardInterrupt

    decoder = SymbolDecoder(b"", odc.plain)
    decoder._coder = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        decoder.decode_bytes(1)


def test_symbols_are_clamped_to_what_a_file_can_hold():
    found = clamp_symbols(np.array([1e9, -np.inf, 3.0, -32768.0]))
    assert found.dtype == np.int32 and found.tolist() == [32767, -32767, 3, -32767]
    with pytest.raises(ValueError, match="NaN"):
        clamp_symbols(np.array([np.nan]))


def test_ideal_bits_is_the_length_that_the_tables_give():
    tables = paper_tables()
    counts = np.diff(tables.cdf[100, : tables.cdf_length[100]])
    symbols = np.array([0, 5, -5, 6])  # table 100 holds -5 ... 5; 6 has excess 0, one bit
    expected = -np.log2(counts[[5, 10, 0, 11]] / 65536).sum() + 1
    assert ideal_bits(symbols, np.full(4, 100), tables) == pytest.approx(expected)
