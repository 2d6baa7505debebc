"""Bytes that are no valid file: always a BitstreamError, never something else, a wrong result or a huge allocation."""

import tracemalloc
import zlib

import numpy as np
import pytest

from onedc_hf.coding import BitstreamReader
from onedc_hf.coding.header import pack_leb128, parse_header
from onedc_hf.errors import (
    BitstreamError,
    Corrupt,
    NotOneDC,
    Truncated,
    UnsupportedFeature,
    UnsupportedVersion,
    WrongModel,
)

MUTATIONS = 6000


@pytest.fixture(scope="module")
def files(odc):
    """(model, bytes, scale indexes) of small files of every form."""
    found = []
    for model, size, options in (
        (odc.plain, (100, 60), {}),
        (odc.plain, (100, 60), {"z_only": True}),
        (odc.plain, (10, 200), {"z_only": True, "extensions": [(4, b"exif")]}),
        (
            odc.make_model(hyper_tables=odc.hyper_tables, skip_index=20),
            (300, 140),
            {"extensions": [(2, b"a"), (6, b"")]},
        ),
        (odc.one_level, (65, 1), {}),
    ):
        picture = odc.make_picture(model, *size)
        found.append((model, odc.write(model, picture, **options), [index for _, index in picture.passes]))
    return found


def with_crc(body):
    return bytes(body) + zlib.crc32(body).to_bytes(4, "big")


def mutate(generator, data, other):
    """Flip bits, cut, insert, delete, overwrite, splice two files, or random bytes."""
    data, place = bytearray(data), int(generator.integers(0, len(data)))
    length = int(generator.integers(1, 9))
    noise = generator.bytes(length)
    choice = generator.integers(0, 9)
    if choice <= 2:
        for _ in range(int(generator.integers(1, 4))):
            data[int(generator.integers(0, len(data)))] ^= 1 << int(generator.integers(0, 8))
    elif choice == 3:
        del data[place:]
    elif choice == 4:
        data[place:place] = noise
    elif choice == 5:
        del data[place : place + length]
    elif choice == 6:
        data[place : place + length] = noise
    elif choice == 7:
        data[place:] = other[place:]
    else:
        data = bytearray(data[: int(generator.integers(0, 12))] + generator.bytes(int(generator.integers(0, 40))))
    return bytes(data)


def test_thousands_of_damaged_files_each_raise_a_bitstream_error(odc, files):
    generator = np.random.default_rng(11)
    for number in range(MUTATIONS):
        model, data, scale_indexes = files[number % len(files)]
        damaged = mutate(generator, data, files[number % 3][1])
        if any(damaged == whole for _, whole, _ in files):
            continue
        with pytest.raises(BitstreamError):
            odc.read(model, damaged, scale_indexes)


def test_damage_under_a_repaired_crc_raises_nothing_but_bitstream_errors(odc, files):
    generator = np.random.default_rng(12)
    accepted = 0
    for number in range(MUTATIONS // 3):
        model, data, scale_indexes = files[number % len(files)]
        damaged = with_crc(mutate(generator, data[:-4], files[(number + 1) % len(files)][1][:-4]))
        try:
            found = odc.read(model, damaged, scale_indexes)
        except BitstreamError:
            continue
        # Not an accident but a forgery: it may pass, but then it is in the one valid form of its symbols.
        accepted += 1
        assert found.z_index.shape == (found.header.z_rows, found.header.z_columns)
    assert accepted < MUTATIONS // 100


@pytest.mark.parametrize("z_coded", [0, 1])
@pytest.mark.parametrize("size_class", [0, 1, 2, 3])
def test_a_declared_size_is_compared_with_the_bytes_before_anything_is_allocated(odc, z_coded, size_class):
    model = odc.make_model(hyper_tables=odc.hyper_tables)
    sides = b"\xff" * (2, 3, 4, 6)[size_class]
    stream = b"\x55" * 20
    flags = size_class << 4 | 2 << 2 | z_coded << 1
    data = with_crc(b"\xf1\xdc" + bytes([flags]) + sides + model.digest[:2] + b"\0" + pack_leb128(len(stream)) + stream)
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError):
            odc.read(model, data)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_a_stated_length_is_compared_with_the_bytes(odc, files):
    model, data, _ = files[0]
    start = parse_header(data).stream_start - 2
    header = data[:start] if data[start] >= 0x80 else data[: start + 1]
    for length in (1 << 20, 1 << 40, (1 << 63) - 1):
        with pytest.raises(Truncated):
            BitstreamReader(header + pack_leb128(length) + data[start + 2 :], model)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"),
        (b"RIFF\0\0\0\0WEBP", "WebP"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"hello", "begins with 68 65 6c 6c"),
        (b"\0", "begins with 00"),
    ],
)
def test_a_foreign_file_is_named(odc, start, name):
    with pytest.raises(NotOneDC, match=name):
        BitstreamReader(start, odc.plain)


@pytest.mark.parametrize("data", [b"", b"\xf1", b"\xf1\xdc", b"\xf1\xdc\x08", b"\xf1\xdc\x08\1\1\0"])
def test_a_few_bytes_are_called_truncated(odc, data):
    with pytest.raises(Truncated, match="get the (whole )?file again"):
        BitstreamReader(data, odc.plain)


def test_something_that_is_no_bytes_is_a_type_error(odc):
    with pytest.raises(TypeError, match="read_bytes"):
        BitstreamReader("photo.odc", odc.plain)


def test_every_cut_of_a_file_with_a_stated_length_is_truncated(odc, files):
    model, data, _ = files[0]
    for length in range(2, len(data)):
        with pytest.raises(Truncated):
            BitstreamReader(data[:length], model)


def test_every_single_bit_flip_is_noticed(odc, files):
    for model, data, scale_indexes in files[:2]:
        for bit in range(8 * len(data)):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(BitstreamError):
                odc.read(model, bytes(damaged), scale_indexes)


def test_forms_that_no_encoder_writes_are_refused(odc, files):
    model, data, scale_indexes = files[0]
    body, start = data[:-4], parse_header(data).stream_start
    length = len(body) - start

    def changed(offset, value):
        return with_crc(body[:offset] + bytes([value]) + body[offset + 1 :])

    bloated_length = pack_leb128(length)[:-1] + bytes([pack_leb128(length)[-1] | 0x80, 0])
    head = body[: start - len(pack_leb128(length))]
    cases = {
        "bytes after the CRC-32": (data + b"\0", Corrupt),
        "overlong LEB128": (with_crc(head + bloated_length + body[start:]), Corrupt),
        "endless LEB128": (with_crc(head + b"\xff" * 20 + body[start:]), Corrupt),
        "zeros after the tail": (with_crc(head + pack_leb128(length + 1) + body[start:] + b"\0"), Corrupt),
        "symbols after the tail": (with_crc(head + pack_leb128(length + 2) + body[start:] + b"\x80\x01"), Corrupt),
        "size class too large": (with_crc(b"\xf1\xdc\x18\x06\x30\x3b" + body[5:]), Corrupt),
        "version 2": (changed(2, body[2] | 0x80), UnsupportedVersion),
        "version 3 in a byte": (with_crc(body[:2] + bytes([body[2] | 0xC0, 3]) + body[3:]), UnsupportedVersion),
        "version 0 in a byte": (with_crc(body[:2] + bytes([body[2] | 0xC0, 0]) + body[3:]), Corrupt),
        "quality map": (changed(2, body[2] | 0x0C), UnsupportedFeature),
        "coded z without tables": (changed(2, body[2] | 0x02), Corrupt),
        "extended without extensions": (changed(2, body[2] | 0x01), Corrupt),
        "row beyond the model's": (changed(7, 101), Corrupt),
        "another model": (changed(5, body[5] ^ 1), WrongModel),
    }
    for name, (bad, error) in cases.items():
        with pytest.raises(error) as caught:
            odc.read(model, bad, scale_indexes)
        assert caught.type is error, name


@pytest.mark.parametrize(
    "extensions",
    [
        b"\x02",
        b"\x02\x05abc",
        b"\x02\x00\x02\x00",
        b"\x04\x00\x02\x00",
        b"\x00\x00",
        b"\x02\x80\x00",
        b"\x02" + b"\xff" * 12,
    ],
    ids=["no length", "cut short", "twice", "descending", "tag 0", "overlong", "endless"],
)
def test_broken_extensions_are_corrupt(odc, extensions):
    data = odc.write(odc.plain, odc.make_picture(odc.plain, 30, 30), extensions=[(2, b"")])
    with pytest.raises(Corrupt):
        BitstreamReader(with_crc(data[:-6] + extensions), odc.plain)
