"""The `.odc` file format: specification, writer and reader.

This text is the format's only definition; MUST, MAY and SHOULD are meant as in RFC 2119. A second implementation can be
written from it alone, together with a model's *symbol data*, which is not in a file:

    digest    32 bytes that identify the model's entropy path
    version   0 = float entropy path, 1 = exact integer entropy path
    levels    number of values of each digit of z: l_0 ... l_(D-1)
    C         channels of y, a multiple of 4
    rows      number of quality rows, 1 to 256
    y tables  for each scale index from 0 up: the lowest symbol, and counts
    z tables  static tables of z's digits, or none
    skip      scale indexes below it form the skip group; 0 = there is none

and, while y is read, the scale index of every symbol, which the model's networks compute from what was read before.

All integers are unsigned. "Big-endian" means most significant byte first. Bits of a byte are numbered 7 (most
significant) to 0. CRC-32 is that of zlib and PNG (polynomial 0x04C11DB7 reflected, initial value and final XOR
0xFFFFFFFF). Lengths are in bytes. A decoder MUST refuse a file that breaks any MUST below, and MUST NOT reserve memory
in proportion to a stated size or length before it has compared it with the bytes that are there.


1. Layout
---------

    offset  bytes  field
    0       2      magic: F1 DC
    2       1      flags: bits 7-6 version, 5-4 size class, 3-2 kind, 1 z mode, 0 extended
    .       0, 1   version byte, only if flags' version is 3
    .       2-6    W - 1, H - 1
    .       2      model id: the first two bytes of the digest
    .       0, 1   quality row, only in kinds 2 and 3
    .       0-9    stream length, absent in kind 0 unless extended
    .       n      stream
    .       .      extensions, only if extended
    end-4   4      CRC-32, big-endian, of every byte before it; nothing may follow it

version  0: before release 1.0 (float entropy path); 1: as version 0, with an exact integer entropy path. 2 is not
         assigned. 3: the version byte holds the version and MUST be 3 or more. The layout of other versions is unknown:
         a decoder MUST stop here. A decoder MAY refuse version 0.
size     W and H are the picture's width and height in pixels, before padding. Size class 0, 1, 2, 3: W - 1 and H - 1
         take 8, 12, 16, 24 bits each; W - 1 first; the two together are one big-endian number of 2, 3, 4, 6 bytes. The
         smallest class that holds both MUST be used.
kind     0: z only, every symbol of y is 0; 1: z and y of a model with one quality row; 2: z and y of a model with
         several, written with the stated one; 3: as 2, with a quality map. Kind 1 MUST be used where rows is 1, kind 2
         where it is more, and the quality row MUST be below rows. Kind 3 is reserved; a decoder MUST refuse it.
z mode   0: z is raw; 1: z is coded by the model's z tables. An encoder SHOULD write raw whenever that is not longer. 1
         MUST NOT occur with a model without z tables.
length   the stream length n as unsigned LEB128: 7 bits a byte, least significant first, bit 7 says that another byte
         follows; at most 9 bytes, without superfluous ones (the last byte is not 0 unless it is the only one). Where it
         is absent, n is what the CRC-32 leaves. Without extensions, n MUST leave exactly the CRC-32.
order    of refusal: magic, header, missing or surplus bytes, CRC-32, extensions, kind 3, version (one that is known,
         but not the model's), model id, the rest. A file whose CRC-32 does not hold MUST NOT be reported as another
         model's.


2. Range coder
--------------

The stream is one number v, 0 <= v < 1: its bytes are the digits of v in base 256 after the point, and zeros follow its
last byte for ever.

A table gives each symbol k = 0, 1, ... a count of at least 1; counts sum to 2^16. Let c_k be the sum of the counts of
symbols below k and w_k the count of k. Below, c and w are multiplied by 2^8, which brings them to the coder's 24 bits:
c = 2^8 c_k, w = 2^8 w_k.

Encoder: low = 0, range = 2^64 - 1, words = 0. For each symbol:

    s = floor(range / 2^24);  low = low + s * c;  range = s * w
    if range < 2^32:  low = low * 2^32;  range = range * 2^32;  words = words + 1

`low` is a number of any length here: carries run through all of it. At the end, every v with
low <= v * 2^(64 + 32 words) < low + range decodes to the symbols. The stream is the shortest byte string whose v does,
and of several that short the one with the smallest v (it does not end in a zero byte; it may be empty). Then zero bytes
are appended until it has at least `least` bytes:

    z raw:    least = floor(P * floor(log2(l_0 * ... * l_(D-1))) / 8)         P = number of z positions
    z coded:  least = floor(P * D / 86)

The stream MUST be exactly this string. (The minimum bounds the picture's size by the file's. It is what z costs anyway;
the zeros are there only for a v that ends in many zeros by chance. A decoder compares n with `least` before it
allocates anything, and MUST refuse a shorter stream.)

Decoder: d = the first 8 bytes of the stream as a big-endian number, range = 2^64 - 1. For each symbol:

    s = floor(range / 2^24);  q = floor(d / s);  q >= 2^24: refuse
    k = the symbol with c <= q < c + w;  d = d - s * c;  range = s * w
    if range < 2^32:  range = range * 2^32;  d = d * 2^32 + the next 4 bytes of the stream as a big-endian number

*Uniform* over m symbols means the table with counts floor(2^16 / m), one more for the first 2^16 mod m symbols.


3. The stream's symbols
-----------------------

In this order, without separators:

    z; check A; and in kinds 1 and 2: y of pass 0, 1, 2, 3; check B

z. The picture is padded on the right and at the bottom to multiples of 64: Zw = ceil(W / 64), Zh = ceil(H / 64). Each
of the Zh x Zw positions has a code of D digits; digit k has l_k values; code = d_0 + d_1 l_0 + d_2 l_0 l_1 + ... (digit
0 is the least significant). Positions come in raster order (row by row, left to right), within a position digits 0 to D
- 1. Raw: each digit is uniform over l_k. Coded: digit k has the table [k, previous, left, above], where previous =
digit k - 1 of the same position, left and above = digit k of the position to the left and above, and the value L =
max(l_0 ... l_(D-1)) stands for what does not exist (previous of digit 0; left in the first column; above in the first
row). Counts of z tables are 1 to 61440 for the l_k values of the digit.

Check A. Two bytes, in kind 0 one byte, each a symbol uniform over 256: the most significant bytes, most significant
first, of the CRC-32 over

    digest (32 bytes), the header from the magic to the model id or, where there is one, the quality row, every code of
    z as 4 bytes little-endian in raster order.

y. A pass has C/4 channels of 4 Zh rows and 4 Zw columns. A *coding unit* is all channels of one pass over u = max(1,
floor(1024 / Zw)) rows of z positions, that is 4 u rows of y, fewer in the last unit; units come top to bottom, passes
outermost. In a unit, raster order means channel by channel, row by row, left to right. Its symbols are coded in *coding
order*: descending scale index, and raster order among equal scale indexes. Each is coded by the table of its scale
index: symbols low ... high have entries 0 ... high - low, one more entry is the escape. After all of them, for each
escape, in coding order, its excess follows: 2 (symbol - high - 1) for a symbol above high, 2 (low - 1 - symbol) + 1 for
one below low, as an Exp-Golomb code of order 0: with v = excess + 1, of p + 1 binary digits, p zeros and then the
digits of v, most significant first; each bit is a symbol uniform over 2. p MUST be at most 16. Symbols MUST lie in
-32767 ... 32767; an encoder clamps them, and rebuilds its own y from the clamped ones.

Skip group. The symbols of a unit whose scale index is below skip are the last in coding order. If there are any, one
symbol with counts 65535, 1 comes before them: 0 = all of them are 0, and they are not coded; 1 = at least one is not 0
(this MUST be so), and they follow as above.

Check B. One byte, uniform over 256: the most significant byte of the CRC-32 of check A continued over every symbol of y
as 2 bytes little-endian (two's complement), unit by unit, in raster order within a unit.


4. Extensions
-------------

If the extended bit is set, at least one extension MUST follow the stream: tag (1 byte), length (LEB128 as above),
content; they end where the CRC-32 begins. Tags MUST ascend strictly, so that none comes twice; tag 0 MUST NOT be used.
Odd tags are critical: a decoder MUST refuse a file with an odd tag that it does not know. It MAY ignore even ones.
Each of these is a zlib stream (RFC 1950):

    2  alpha   inflates to exactly W * H bytes: the alpha channel, row by row, each byte less the one above it modulo
               256 (the first row as it is)
    4  EXIF    as in a JPEG's APP1 segment, from "Exif" on; 6 XMP: the packet; 8 ICC: the profile the picture had. The
               picture itself is sRGB and upright. Together they inflate to at most 2^22 bytes.

These name, in 4 bytes each, what was at hand when the file was written. They are for a warning only: a decoder with
something else at hand rebuilds the picture all the same, from the same symbols, and its synthesised detail may differ.

    10  decoder  the first bytes of a digest of the networks that act after the symbols (of those as they were trained,
                 without an adapter)
    14  adapter  the first bytes of a digest of the LoRA adapter, or adapters, on those networks

Reserved, and not defined yet: 12 restart points.


5. What is not promised
-----------------------

The checks find accidents, not attacks: whoever can compute a CRC-32 can make a file that decodes to any symbols. A
prefix of a file's stream is a prefix of its symbols' digits, so what a cut file still determines can be decoded (decode
with 00 and with FF following; symbols up to the first difference are certain); only z is then proved, by check A.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np

from ..errors import Corrupt, UnsupportedFeature, UnsupportedVersion, WrongModel
from .checks import SymbolCheck
from .entropy import SymbolDecoder, SymbolEncoder
from .header import (
    KNOWN_CRITICAL_TAGS,
    MAX_SIDE,
    Header,
    Kind,
    Sections,
    inspect,
    pack_extensions,
    pack_header,
    pack_leb128,
    parse_header,
    parse_sections,
)
from .hyper import least_bytes, split_digits, table_bits
from .order import Y_PER_Z, CodingOrder, coding_order, unit_row_slices
from .tables import SYMBOL_LIMIT, SymbolModel

__all__ = ["BitstreamReader", "BitstreamWriter", "Header", "Kind", "inspect", "parse_header"]

PASSES = 4
CHECK_A_BYTES = 2
CHECK_A_BYTES_Z_ONLY = 1
CHECK_B_BYTES = 1


def _check_bytes(kind: Kind) -> int:
    return CHECK_A_BYTES_Z_ONLY if kind == Kind.Z_ONLY else CHECK_A_BYTES


def _integers(name: str, array: np.ndarray, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Check an argument: integers of this shape in low ... high."""
    array = np.asarray(array)
    if array.dtype.kind not in "iu" or array.shape != shape:
        raise ValueError(f"{name} must be integers {list(shape)}, not {array.dtype} {list(array.shape)}.")
    if array.min() < low or array.max() > high:
        raise ValueError(f"{name} must lie in {low} ... {high}, but it holds {array.min()} ... {array.max()}.")
    return array


def _unit_order(model: SymbolModel, scale_index: np.ndarray) -> CodingOrder:
    """Coding order of one unit, from its scale indexes [C/4, rows, 4 Zw]."""
    return coding_order(scale_index.ravel(), model.tables.scales, model.skip_index)


class _Units:
    """Where in the passes a writer or reader stands."""

    def __init__(self, model: SymbolModel, z_shape: tuple[int, int], passes: int) -> None:
        self._channels, self._columns = model.y_channels // 4, Y_PER_Z * z_shape[1]
        self._rows = [rows.stop - rows.start for rows in unit_row_slices(*z_shape)] if passes else []
        self._next, self._total = 0, passes * len(self._rows)

    @property
    def left(self) -> int:
        """Units that are still to come."""
        return self._total - self._next

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the next unit."""
        return self._channels, self._rows[self._next % len(self._rows)], self._columns

    def advance(self) -> None:
        self._next += 1


class BitstreamWriter:
    """Writes one file: `write_hyper`, then `write_unit` for each coding unit of passes 0 to 3, then `finish`.

    A z-only file has no units.

    Shapes: C = channels of y; Zh, Zw = ceil(height / 64), ceil(width / 64).

    Args:
        symbol_model (`SymbolModel`): tables and layout of the model.
        width (`int`): width of the picture in pixels, 1 to 2^24.
        height (`int`): height of the picture in pixels, 1 to 2^24.
        quality_row (`int`, *optional*): the row of gains that made the symbols, 0 to rows - 1. Needed when the model
            has several rows and the file is not z-only; not stored otherwise.
        z_only (`bool`, *optional*, defaults to `False`): the file holds the hyper-latent alone.
        extensions (iterable of `(int, bytes)`, *optional*): tag and content of each extension (`Tag`).

    Raises:
        `ValueError`: an argument is out of range.
    """

    def __init__(
        self,
        symbol_model: SymbolModel,
        *,
        width: int,
        height: int,
        quality_row: int | None = None,
        z_only: bool = False,
        extensions: Iterable[tuple[int, bytes]] = (),
    ) -> None:
        model = symbol_model
        for name, side in (("width", width), ("height", height)):
            if not 1 <= side <= MAX_SIDE:
                raise ValueError(f"{name} is {side} pixels; an .odc file holds pictures of 1 to {MAX_SIDE}.")
        self._kind = Kind.Z_ONLY if z_only else Kind.ONE_LEVEL if model.rows == 1 else Kind.QUALITY_ROW
        if (
            self._kind == Kind.QUALITY_ROW
            and quality_row is None
            or quality_row is not None
            and not 0 <= quality_row < model.rows
        ):
            raise ValueError(f"quality_row is {quality_row}; this model has rows 0 to {model.rows - 1}.")
        self._model = model
        self._width, self._height = width, height
        self._quality_row = quality_row if self._kind == Kind.QUALITY_ROW else None
        self._extensions = pack_extensions(extensions)
        self._z_shape = (-(-height // 64), -(-width // 64))
        self._units = _Units(model, self._z_shape, 0 if z_only else PASSES)
        self._header = b""  # known with z's mode
        self._least_bytes = 0
        self._check: SymbolCheck | None = None  # begins with the header
        self._finished = False
        self._encoder = SymbolEncoder(model)

    def write_hyper(self, z_index: np.ndarray) -> None:
        """Write the codes of z.

        Args:
            z_index (`np.ndarray`): int [Zh, Zw], each in [0, product of levels).
        """
        if self._check is not None:
            raise RuntimeError("write_hyper was called twice. A writer writes one file: make a new one.")
        model, levels = self._model, self._model.fsq_levels
        z_index = _integers("z_index", z_index, self._z_shape, 0, int(np.prod(levels)) - 1)
        z_coded = False
        if model.hyper_tables is not None:
            digits = split_digits(z_index, levels)
            raw_bits = z_index.size * float(np.log2(levels).sum())
            z_coded = table_bits(digits, model.hyper_tables) < raw_bits
        self._header = pack_header(
            version=model.version,
            width=self._width,
            height=self._height,
            kind=self._kind,
            quality_row=self._quality_row,
            digest=model.digest,
            z_coded=z_coded,
            extended=bool(self._extensions),
        )
        self._least_bytes = least_bytes(z_index.size, levels, z_coded)
        self._check = SymbolCheck(model.digest, self._header)
        self._check.add_hyper(z_index)
        self._encoder.encode_hyper(z_index, z_coded)
        self._encoder.encode_bytes(self._check.top_bytes(_check_bytes(self._kind)))

    def write_unit(self, symbols: np.ndarray, scale_index: np.ndarray) -> None:
        """Write the symbols of the next coding unit.

        Args:
            symbols (`np.ndarray`): int [C/4, rows, 4 Zw] within +-32767 (`clamp_symbols`); rows as `unit_row_slices`
                gives them.
            scale_index (`np.ndarray`): int, same shape, each in [0, scales).
        """
        if self._check is None or not self._units.left:
            raise RuntimeError("write_unit comes after write_hyper, for four passes, and not in a z-only file.")
        shape = self._units.shape
        symbols = _integers("symbols", symbols, shape, -SYMBOL_LIMIT, SYMBOL_LIMIT)
        scale_index = _integers("scale_index", scale_index, shape, 0, self._model.tables.scales - 1)
        self._check.add_unit(symbols)
        self._encoder.encode_unit(symbols.ravel(), _unit_order(self._model, scale_index))
        self._units.advance()

    def finish(self) -> bytes:
        """End the stream and return the whole file."""
        if self._check is None or self._units.left:
            raise RuntimeError("finish comes after write_hyper and, unless the file is z-only, every unit of y.")
        if self._finished:
            raise RuntimeError("finish was called twice. A writer writes one file: make a new one.")
        self._finished = True
        if self._kind != Kind.Z_ONLY:
            self._encoder.encode_bytes(self._check.top_bytes(CHECK_B_BYTES))
        stream = self._encoder.finish(self._least_bytes)
        length = b"" if self._kind == Kind.Z_ONLY and not self._extensions else pack_leb128(len(stream))
        body = self._header + length + stream + self._extensions
        return body + zlib.crc32(body).to_bytes(4, "big")


class BitstreamReader:
    """Reads one file: `read_hyper`, then `read_unit` for each coding unit of passes 0 to 3, then `finish`.

    A z-only file has no units.

    On construction the container is checked as a whole: magic, version, lengths, CRC-32, extensions, model id, and the
    declared size against the bytes that are there. Nothing in proportion to the declared size is allocated before that.
    While it reads, it codes the symbols again, so that `finish` can tell that the stream is exactly the one an encoder
    writes, with nothing left over.

    Args:
        data (`bytes`): the file; or, from `sections_before_cut`, its sections.
        symbol_model (`SymbolModel`): tables and layout of the model at hand.

    Raises:
        `BitstreamError`: one of its subclasses; `WrongModel` only for a file whose CRC-32 holds, or for sections.
    """

    def __init__(self, data: bytes | bytearray | memoryview | Sections, symbol_model: SymbolModel) -> None:
        self._holds_crc = not isinstance(data, Sections)
        sections = data if isinstance(data, Sections) else parse_sections(data)
        _check_fits(sections, symbol_model)
        self.header: Header = sections.header
        self.extensions: tuple[tuple[int, bytes], ...] = sections.extensions
        self._model = symbol_model
        self._stream = sections.stream
        self._z_shape = (self.header.z_rows, self.header.z_columns)
        self._units = _Units(symbol_model, self._z_shape, 0 if self.header.kind == Kind.Z_ONLY else PASSES)
        self._hyper_done = self._finished = False
        self._check = SymbolCheck(symbol_model.digest, self.header.checked_bytes)
        self._decoder = SymbolDecoder(sections.stream, symbol_model)
        self._encoder = SymbolEncoder(symbol_model)  # writes again what was read

    def read_hyper(self) -> np.ndarray:
        """Read the codes of z and prove them by check A.

        Returns:
            `np.ndarray`: int32 [Zh, Zw], each in [0, product of levels).

        Raises:
            `Corrupt`: they are not what the encoder wrote.
        """
        if self._hyper_done:
            raise RuntimeError("read_hyper was called twice. A reader reads one file once: make a new one.")
        z_index = self._decoder.decode_hyper(*self._z_shape, self.header.z_coded)
        self._check.add_hyper(z_index)
        self._encoder.encode_hyper(z_index, self.header.z_coded)
        self._compare_check("A", "z", _check_bytes(self.header.kind))
        self._hyper_done = True
        return z_index

    def read_unit(self, scale_index: np.ndarray) -> np.ndarray:
        """Read the symbols of the next coding unit. They are proved only by `finish`.

        Args:
            scale_index (`np.ndarray`): int [C/4, rows, 4 Zw], each in [0, scales); rows as `unit_row_slices` gives
                them.

        Returns:
            `np.ndarray`: int32, same shape.
        """
        if not self._hyper_done or not self._units.left:
            raise RuntimeError("read_unit comes after read_hyper, for four passes, and not in a z-only file.")
        shape = self._units.shape
        scale_index = _integers("scale_index", scale_index, shape, 0, self._model.tables.scales - 1)
        order = _unit_order(self._model, scale_index)
        symbols = self._decoder.decode_unit(order)
        self._encoder.encode_unit(symbols, order)
        symbols = symbols.reshape(shape)
        self._check.add_unit(symbols)
        self._units.advance()
        return symbols

    def finish(self) -> None:
        """Prove the symbols of y by check B, and that the stream holds nothing else.

        Raises:
            `Corrupt`: the symbols are not what the encoder wrote, or the stream is not in its one valid form.
        """
        if not self._hyper_done or self._units.left:
            raise RuntimeError("finish comes after read_hyper and, unless the file is z-only, every unit of y.")
        if self._finished:
            raise RuntimeError("finish was called twice. A reader reads one file once: make a new one.")
        self._finished = True
        if self.header.kind != Kind.Z_ONLY:
            self._compare_check("B", "y", CHECK_B_BYTES)
        positions = self._z_shape[0] * self._z_shape[1]
        least = least_bytes(positions, self._model.fsq_levels, self.header.z_coded)
        if self._encoder.finish(least) != self._stream:
            raise Corrupt(
                f"The stream of {len(self._stream)} bytes from byte {self.header.stream_start} is not the one that its "
                "symbols give. The file is invalid, or written with other tables than this model's."
            )

    def _compare_check(self, name: str, section: str, count: int) -> None:
        computed = self._check.top_bytes(count)
        if self._decoder.decode_bytes(count) != computed:
            if not self._holds_crc:
                raise Corrupt(
                    f"Check {name} does not match the {section} section, and the file's CRC-32 does not hold: it was "
                    "changed since it was written. Get it again."
                )
            raise Corrupt(
                f"Check {name} does not match the {section} section: what was decoded is not what was encoded. The "
                "file's CRC-32 holds, so the model's tables or parameters differ from those that wrote it (model "
                f"{self.header.model_id}). Install the model again, or use the device and version that wrote the file."
            )
        self._encoder.encode_bytes(computed)


def _check_fits(sections: Sections, model: SymbolModel) -> None:
    """Raise unless a whole file can be decoded with `model`, by what the container alone tells."""
    header = sections.header
    if header.kind == Kind.QUALITY_MAP:
        raise UnsupportedFeature(
            "The file holds a quality map, which this release of onedc-hf cannot read. Update onedc-hf."
        )
    for tag, _ in sections.extensions:
        if tag & 1 and tag not in KNOWN_CRITICAL_TAGS:
            raise UnsupportedFeature(
                f"The file needs extension {tag}, which this release of onedc-hf does not know. Update onedc-hf."
            )
    if header.version != model.version:
        raise UnsupportedVersion(
            f"The file has version {header.version} of the format (model {header.model_id}), the model at hand codes "
            f"version {model.version}. Version 0 was written by early releases of onedc-hf, whose entropy path was in "
            "floats and is withdrawn: compress the original again, or decode with the release that wrote it."
        )
    if header.model_id != model.model_id:
        raise WrongModel(header.model_id, model.model_id)
    if header.kind == Kind.ONE_LEVEL and model.rows != 1 or header.kind == Kind.QUALITY_ROW and model.rows == 1:
        raise Corrupt(
            f"The file is of kind {header.kind.value}, which model {model.model_id} with {model.rows} quality row(s) "
            "does not write."
        )
    if header.quality_row is not None and header.quality_row >= model.rows:
        raise Corrupt(
            f"The file states quality row {header.quality_row}, but model {model.model_id} has rows 0 to "
            f"{model.rows - 1}."
        )
    if header.z_coded and model.hyper_tables is None:
        raise Corrupt(f"The file states that z is coded by static tables, but model {model.model_id} has none.")
    least = least_bytes(header.z_rows * header.z_columns, model.fsq_levels, header.z_coded)
    if len(sections.stream) < least:
        raise Corrupt(
            f"The header states a picture of {header.width}x{header.height} pixels, whose stream takes at least "
            f"{least} bytes, but it has {len(sections.stream)}. The file is invalid."
        )
