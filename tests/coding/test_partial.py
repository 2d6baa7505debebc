"""Files that were cut: what is given out as certain is right, and what is not is the mean."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from onedc_hf.coding import PartialReader, is_cut, parse_header
from onedc_hf.coding.bitstream import _unit_order
from onedc_hf.coding.header import pack_leb128
from onedc_hf.errors import Corrupt, NotOneDC, Truncated


def _read(model, data, picture):
    """Certain symbols of every pass read, and how many."""
    reader = PartialReader(data, model)
    z_index, units = reader.read_hyper(), []
    for _, scale_index in picture.passes:
        before = reader.certain
        symbols = reader.read_unit(scale_index)
        if symbols is None:
            break
        units.append((symbols, reader.certain - before))
    return z_index, units, reader


@pytest.mark.parametrize("mean_index", [-20.0, 60.0, 250.0])  # hardly anything, usual, escapes everywhere
def test_at_every_cut_what_is_certain_is_right(odc, mean_index):
    model = odc.full
    picture = odc.make_picture(model, 128, 64, seed=5, mean_index=mean_index)
    if mean_index > 200:  # symbols beyond every table
        picture.passes = [(symbols * 3, np.minimum(index, 120)) for symbols, index in picture.passes]
    data = odc.write(model, picture)
    last, seen_a_picture = 0, False
    for size in range(len(data) - 1, 0, -max(1, len(data) // 150)):
        try:
            if not is_cut(data[:size]):
                continue
            z_index, units, reader = _read(model, data[:size], picture)
        except (Truncated, NotOneDC):
            continue
        seen_a_picture = True
        assert np.array_equal(z_index, picture.z_index)
        assert reader.whole_size == len(data)
        for (symbols, certain), (true, scale_index) in zip(units, picture.passes, strict=False):
            order = _unit_order(model, scale_index)
            found, expected = symbols.ravel()[order.places], true.ravel()[order.places]
            right = found == expected
            assert (right | (found == 0)).all(), f"a wrong symbol at {size} of {len(data)} bytes"
            assert right.sum() >= certain
            if certain < len(found):
                break
        assert last == 0 or reader.certain <= last
        last = reader.certain
    assert seen_a_picture


def test_with_only_the_checksum_missing_everything_is_there(odc):
    picture = odc.make_picture(odc.full, 128, 128)
    data = odc.write(odc.full, picture)
    _, units, reader = _read(odc.full, data[:-4], picture)
    assert reader.certain == sum(symbols.size for symbols, _ in picture.passes)
    assert all(np.array_equal(found, true) for (found, _), (true, _) in zip(units, picture.passes, strict=True))


def test_a_whole_file_is_not_cut_and_neither_is_a_damaged_one(odc):
    data = bytearray(odc.write(odc.full, odc.make_picture(odc.full, 128, 64)))
    assert not is_cut(bytes(data)) and is_cut(bytes(data[:-1]))
    data[-1] ^= 1
    assert not is_cut(bytes(data))


def test_a_cut_hyper_latent_and_a_cut_z_only_file_give_nothing(odc):
    picture = odc.make_picture(odc.full, 512, 512)
    data = odc.write(odc.full, picture)
    with pytest.raises(Truncated, match="hyper-latent"):
        _read(odc.full, data[:30], picture)
    with pytest.raises(Truncated):
        PartialReader(odc.write(odc.full, picture, z_only=True)[:30], odc.full)


def test_a_damaged_hyper_latent_of_a_cut_file_is_noticed(odc):
    picture = odc.make_picture(odc.full, 512, 512)
    data = bytearray(odc.write(odc.full, picture)[:-50])
    refused = 0
    for place in range(14, 60):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises((Corrupt, Truncated)):
            _read(odc.full, bytes(damaged), picture)
        refused += 1
    assert refused == 46


def test_a_cut_file_of_another_model_is_refused(odc):
    data = odc.write(odc.make_model(digest=b"\xab" * 32), odc.make_picture(odc.plain, 128, 64))
    with pytest.raises(Truncated, match="another model"):
        PartialReader(data[:-9], odc.plain)


def test_a_declared_length_reserves_no_memory(odc):
    picture = odc.make_picture(odc.full, 128, 64)
    data = odc.write(odc.full, picture)
    header = parse_header(data)
    length = len(pack_leb128(header.stream_bytes))
    start = header.stream_start - length
    forged = data[:start] + pack_leb128(1 << 62) + data[start + length :]
    assert is_cut(forged)
    tracemalloc.start()
    _, units, _ = _read(odc.full, forged, picture)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert units and peak < 64 << 20
