"""A second implementation in plain Python, written from the docstring of bitstream.py alone, agrees on every file.

It knows nothing of constriction or numpy's sorting: big integers, lists, one symbol at a time. What it writes is byte
for byte what the package writes, and it reads what the package wrote.
"""

import zlib
from bisect import bisect_right
from itertools import accumulate

import numpy as np
import pytest


class PlainModel:
    """Symbol data as lists."""

    def __init__(self, model):
        self.digest, self.levels, self.skip, self.version = (
            model.digest,
            model.fsq_levels,
            model.skip_index,
            model.version,
        )
        self.channels, self.rows = model.y_channels, model.rows
        cdf, lengths = model.tables.cdf.tolist(), model.tables.cdf_length.tolist()
        self.low = model.tables.offset.tolist()
        self.tables = [row[:length] for row, length in zip(cdf, lengths, strict=True)]  # cumulative counts
        self.high = [low + len(table) - 3 for low, table in zip(self.low, self.tables, strict=True)]
        self.z_tables = None if model.hyper_tables is None else model.hyper_tables.tolist()


def cumulative(counts):
    return [0, *accumulate(counts)]


def uniform(symbols):
    return cumulative([2**16 // symbols + (k < 2**16 % symbols) for k in range(symbols)])


class PlainDecoder:
    def __init__(self, stream):
        self.stream, self.position, self.range = stream, 8, 2**64 - 1
        self.d = int.from_bytes(stream[:8].ljust(8, b"\0"), "big")

    def __call__(self, table):
        s = self.range // 2**24
        q = self.d // s
        if q >= 2**24:
            raise ValueError("invalid stream")
        k = bisect_right(table, q // 2**8) - 1
        self.d -= s * table[k] * 2**8
        self.range = s * (table[k + 1] - table[k]) * 2**8
        if self.range < 2**32:
            word = self.stream[self.position : self.position + 4].ljust(4, b"\0")
            self.range, self.d = self.range * 2**32, self.d * 2**32 + int.from_bytes(word, "big")
            self.position += 4
        return k


class PlainEncoder:
    def __init__(self):
        self.low, self.range, self.words = 0, 2**64 - 1, 0

    def __call__(self, table, k):
        s = self.range // 2**24
        self.low += s * table[k] * 2**8
        self.range = s * (table[k + 1] - table[k]) * 2**8
        if self.range < 2**32:
            self.low, self.range, self.words = self.low * 2**32, self.range * 2**32, self.words + 1
        return k

    def finish(self, least):
        """The shortest byte string in the interval, and the smallest that short: tried from no byte at all upwards."""
        digits = 8 + 4 * self.words
        for length in range(digits + 1):
            unit = 256 ** (digits - length)
            v = (self.low + unit - 1) // unit
            if v * unit < self.low + self.range:
                return v.to_bytes(length, "big") + bytes(max(0, least - length))
        raise AssertionError


class Walk:
    """Visits the symbols of a file in order; `code(table, symbol)` codes one, and a decoder ignores that symbol."""

    def __init__(self, model, code, header, width, height):
        self.model, self.code = model, code
        self.z_rows, self.z_columns = (height + 63) // 64, (width + 63) // 64
        self.crc = zlib.crc32(model.digest + header)

    def check(self, size):
        """Whether the check's bytes are those of the CRC so far."""
        expected = self.crc.to_bytes(4, "big")[:size]
        return all(self.code(uniform(256), byte) == byte for byte in expected)

    def hyper(self, coded, codes):
        levels, border = self.model.levels, max(self.model.levels)
        digits = [[None] * self.z_columns for _ in range(self.z_rows)]
        result = []
        for y in range(self.z_rows):
            for x in range(self.z_columns):
                rest = codes[y][x] if codes else 0
                digits[y][x], previous, code, basis = [], border, 0, 1
                for k, level in enumerate(levels):
                    table = uniform(level)
                    if coded:
                        left = digits[y][x - 1][k] if x else border
                        above = digits[y - 1][x][k] if y else border
                        table = cumulative(self.model.z_tables[k][previous][left][above][:level])
                    previous = self.code(table, rest % level)
                    rest //= level
                    digits[y][x].append(previous)
                    code += previous * basis
                    basis *= level
                result.append(code)
                self.crc = zlib.crc32(code.to_bytes(4, "little"), self.crc)
        return result

    def one_pass(self, scale_index, symbols):
        step = max(1, 1024 // self.z_columns)
        channels, columns = self.model.channels // 4, 4 * self.z_columns
        found = [[[None] * columns for _ in range(4 * self.z_rows)] for _ in range(channels)]
        for first in range(0, self.z_rows, step):
            rows = range(4 * first, 4 * min(first + step, self.z_rows))
            places = [(c, y, x) for c in range(channels) for y in rows for x in range(columns)]
            self.unit(places, scale_index, symbols, found)
            for c, y, x in places:
                self.crc = zlib.crc32(found[c][y][x].to_bytes(2, "little", signed=True), self.crc)
        return found

    def unit(self, places, scale_index, symbols, found):
        model, escaped = self.model, []
        wanted = (lambda c, y, x: symbols[c][y][x]) if symbols else (lambda c, y, x: 0)
        order = sorted(places, key=lambda p: -scale_index[p[0]][p[1]][p[2]])  # Python's sort is stable
        skipped = {p for p in places if scale_index[p[0]][p[1]][p[2]] < model.skip}
        in_skip_group = False
        for place in order:
            c, y, x = place
            index = scale_index[c][y][x]
            if place in skipped and not in_skip_group:
                in_skip_group = True
                if not self.code([0, 65535, 65536], int(any(wanted(*p) for p in skipped))):
                    for p in skipped:
                        found[p[0]][p[1]][p[2]] = 0
                    break
            low, high, symbol = model.low[index], model.high[index], wanted(*place)
            entry = symbol - low if low <= symbol <= high else high - low + 1
            entry = self.code(model.tables[index], entry)
            found[c][y][x] = low + entry
            if entry == high - low + 1:
                escaped.append((place, low, high))
        for (c, y, x), low, high in escaped:
            symbol = wanted(c, y, x)
            excess = 2 * (symbol - high - 1) if symbol > high else 2 * (low - 1 - symbol) + 1
            digits = f"{excess + 1:b}" if symbols else ""
            excess = self.exp_golomb([int(bit) for bit in "0" * (len(digits) - 1) + digits]) - 1
            found[c][y][x] = low - 1 - excess // 2 if excess % 2 else high + 1 + excess // 2

    def exp_golomb(self, bits):
        bits = iter(bits)
        bit = uniform(2)
        p = 0
        while self.code(bit, next(bits, 0)) == 0:
            p += 1
            assert p <= 16
        v = 1
        for _ in range(p):
            v = 2 * v + self.code(bit, next(bits, 0))
        return v


def plain_leb128(data, offset):
    value = shift = 0
    while True:
        byte = data[offset]
        value, shift, offset = value + ((byte & 127) << shift), shift + 7, offset + 1
        if byte < 128:
            return value, offset


def plain_read(model, data, scale_indexes):
    assert data[:2] == b"\xf1\xdc" and zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "big")
    flags = data[2]
    version, size_class, kind, coded, extended = flags >> 6, flags >> 4 & 3, flags >> 2 & 3, flags >> 1 & 1, flags & 1
    assert version == model.version
    bits = [8, 12, 16, 24][size_class]
    offset = 3 + bits // 4
    sides = int.from_bytes(data[3:offset], "big")
    width, height = sides // 2**bits + 1, sides % 2**bits + 1
    assert data[offset : offset + 2] == model.digest[:2]
    offset += 2 + (kind >= 2)
    header = data[:offset]
    length = len(data) - 4 - offset
    if kind or extended:
        length, offset = plain_leb128(data, offset)
    stream, offset = data[offset : offset + length], offset + length
    extensions = []
    while offset < len(data) - 4:
        size, start = plain_leb128(data, offset + 1)
        extensions.append((data[offset], data[start : start + size]))
        offset = start + size
    decode = PlainDecoder(stream)
    walk = Walk(model, lambda table, _: decode(table), header, width, height)
    codes = walk.hyper(coded, None)
    assert walk.check(2 if kind else 1)
    passes = [walk.one_pass(one.tolist(), None) for one in scale_indexes] if kind else []
    assert not kind or walk.check(1)
    return width, height, codes, passes, tuple(extensions)


def plain_write(model, width, height, codes, passes, coded, quality_row):
    """A file without extensions."""
    z_only = not passes
    size_class = next(i for i, bits in enumerate([8, 12, 16, 24]) if max(width, height) <= 2**bits)
    bits = [8, 12, 16, 24][size_class]
    kind = 0 if z_only else 1 if model.rows == 1 else 2
    header = b"\xf1\xdc" + bytes([model.version * 64 + size_class * 16 + kind * 4 + coded * 2])
    header += ((width - 1) * 2**bits + height - 1).to_bytes(bits // 4, "big") + model.digest[:2]
    header += bytes([quality_row]) if kind == 2 else b""
    encoder = PlainEncoder()
    walk = Walk(model, encoder, header, width, height)
    walk.hyper(coded, codes)
    walk.check(1 if z_only else 2)
    for symbols, scale_index in passes:
        walk.one_pass(scale_index.tolist(), symbols.tolist())
    if not z_only:
        walk.check(1)
    digits, positions, product = len(model.levels), walk.z_rows * walk.z_columns, int(np.prod(model.levels))
    floor_log2 = max(k for k in range(64) if 2**k <= product)
    stream = encoder.finish(positions * digits // 86 if coded else positions * floor_log2 // 8)
    if not z_only:
        length, value = b"", len(stream)
        while value >= 128:
            length, value = length + bytes([value % 128 + 128]), value // 128
        header += length + bytes([value])
    return header + stream + zlib.crc32(header + stream).to_bytes(4, "big")


def _cases(odc):
    mixed = odc.make_model(fsq_levels=(8, 5, 3, 2))
    skipping = odc.make_model(hyper_tables=odc.hyper_tables, skip_index=60)
    unusual = odc.make_picture(skipping, 200, 100)
    for number, (symbols, scale_index) in enumerate(unusual.passes):
        symbols.flat[number] = 1000 - number  # escapes
        symbols.flat[-1 - number] = (-1) ** number * 32767
        if number % 2:  # a skip group with a symbol that is not zero
            scale_index.flat[50 + number], symbols.flat[50 + number] = 3, number
    hard = odc.make_picture(odc.plain, 65, 300, mean_index=240)  # many escapes
    return {
        "raw z": (odc.plain, odc.make_picture(odc.plain, 100, 60)),
        "one level": (odc.one_level, odc.make_picture(odc.one_level, 64, 65)),
        "coded z, skip group, escapes": (skipping, unusual),
        "wide scales": (odc.plain, hard),
        "mixed levels": (mixed, odc.make_picture(mixed, 300, 200)),
    }


@pytest.mark.parametrize("case", ["raw z", "one level", "coded z, skip group, escapes", "wide scales", "mixed levels"])
@pytest.mark.parametrize("z_only", [False, True], ids=["y", "z_only"])
def test_two_implementations_read_and_write_the_same_bytes(odc, case, z_only):
    model, picture = _cases(odc)[case]
    data = odc.write(model, picture, z_only=z_only)
    plain, passes = PlainModel(model), [] if z_only else picture.passes
    codes = picture.z_index.tolist()
    coded = int(odc.read(model, data, [i for _, i in picture.passes]).header.z_coded)
    assert coded == (case.startswith("coded"))
    assert plain_write(plain, picture.width, picture.height, codes, passes, coded, model.rows // 2) == data
    width, height, found, symbols, _ = plain_read(plain, data, [scale_index for _, scale_index in picture.passes])
    assert (width, height, found) == (picture.width, picture.height, picture.z_index.ravel().tolist())
    assert symbols == [one.tolist() for one, _ in passes]


def test_the_oracle_reads_several_coding_units_and_extensions(odc):
    model = odc.make_model(y_channels=4, skip_index=20)
    picture = odc.make_picture(model, 64 * 350, 64 * 3 - 1)  # units of 2 and 1 rows
    data = odc.write(model, picture, extensions=[(2, b"abc"), (6, b"")])
    scale_indexes = [scale_index for _, scale_index in picture.passes]
    _, _, codes, symbols, extensions = plain_read(PlainModel(model), data, scale_indexes)
    assert codes == picture.z_index.ravel().tolist()
    assert symbols == [one.tolist() for one, _ in picture.passes]
    assert extensions == ((2, b"abc"), (6, b""))
