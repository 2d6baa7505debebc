"""The front of an `.odc` file and its sections, readable without a model (bitstream.py specifies every byte).

`parse_header` needs only the first bytes; `parse_sections` wants a whole file and checks it; `inspect` reports whatever
can be known.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import BitstreamError, Corrupt, NotOneDC, Truncated, UnsupportedVersion

__all__ = [
    "MAGIC",
    "Header",
    "Kind",
    "Sections",
    "Tag",
    "holds_crc",
    "inspect",
    "leading_extensions",
    "pack_extensions",
    "pack_header",
    "pack_leb128",
    "parse_header",
    "parse_sections",
]

MAGIC = b"\xf1\xdc"
CRC_BYTES = 4
SUPPORTED_VERSIONS = (0, 1)
SIZE_BITS = (8, 12, 16, 24)
"""Bits of width - 1 and of height - 1 in each size class."""
MAX_SIDE = 1 << SIZE_BITS[-1]
LEB128_MAX_BYTES = 9

FOREIGN = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"RIFF", "a WebP picture or another RIFF file"),
    (b"BM", "a BMP picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"%PDF", "a PDF document"),
)


class Kind(enum.IntEnum):
    """What a file holds."""

    Z_ONLY = 0
    """The hyper-latent alone; every symbol of y is 0."""
    ONE_LEVEL = 1
    """z and y of a model with one quality row."""
    QUALITY_ROW = 2
    """z and y, written with one of the model's quality rows."""
    QUALITY_MAP = 3
    """As `QUALITY_ROW`, with a row offset for every position of z. Reserved: not read or written by this version."""


class Tag(enum.IntEnum):
    """Numbers of extensions (bitstream.py, section 4). An odd number would be critical."""

    ALPHA = 2
    EXIF = 4
    XMP = 6
    ICC = 8
    IDENTITY = 10
    RESTART_POINTS = 12
    ADAPTER = 14


KNOWN_CRITICAL_TAGS: frozenset[int] = frozenset()
_NAMING_TAGS = frozenset({Tag.IDENTITY, Tag.ADAPTER})


@dataclass(frozen=True)
class Header:
    """Facts from the front of a file.

    Args:
        width (`int`): width of the picture in pixels, 1 to 2^24.
        height (`int`): height of the picture in pixels, 1 to 2^24.
        kind (`Kind`): what the file holds.
        quality_row (`int`, *optional*): 0 to 255 in kinds 2 and 3, else `None`.
        model_id (`str`): 4 hex digits, the first two bytes of the digest of the model that wrote the file.
        version (`int`): version of the format.
        z_coded (`bool`): z is coded by static tables, else raw.
        extended (`bool`): extensions follow the stream.
        size (`int`): bytes of the file.
        checked_bytes (`bytes`): the header up to the quality row, as check A covers it.
        stream_start (`int`): offset of the stream.
        stream_bytes (`int`, *optional*): length of the stream where the header states it, else `None` (it reaches to
            the CRC-32).
    """

    width: int
    height: int
    kind: Kind
    quality_row: int | None
    model_id: str
    version: int
    z_coded: bool
    extended: bool
    size: int
    checked_bytes: bytes
    stream_start: int
    stream_bytes: int | None

    @property
    def bpp(self) -> float:
        """Bits of the whole file for each pixel of the picture."""
        return 8 * self.size / (self.width * self.height)

    @property
    def z_rows(self) -> int:
        """Zh, rows of z positions."""
        return -(-self.height // 64)

    @property
    def z_columns(self) -> int:
        """Zw, columns of z positions."""
        return -(-self.width // 64)


@dataclass(frozen=True)
class Sections:
    """A whole file in its parts: the header, the range-coder stream, and (tag, content) of every extension."""

    header: Header
    stream: memoryview
    extensions: tuple[tuple[int, bytes], ...]


def pack_header(
    *,
    version: int,
    width: int,
    height: int,
    kind: Kind,
    quality_row: int | None,
    digest: bytes,
    z_coded: bool,
    extended: bool,
) -> bytes:
    """The header up to the quality row (what check A covers)."""
    largest = max(width, height) - 1
    size_class = next(i for i, bits in enumerate(SIZE_BITS) if largest < 1 << bits)
    bits = SIZE_BITS[size_class]
    flags = version << 6 | size_class << 4 | kind << 2 | z_coded << 1 | extended
    sides = ((width - 1) << bits | (height - 1)).to_bytes(2 * bits // 8, "big")
    row = b"" if quality_row is None else bytes([quality_row])
    return MAGIC + bytes([flags]) + sides + digest[:2] + row


def pack_leb128(value: int) -> bytes:
    """Unsigned LEB128: 7 bits a byte, least significant first, the top bit says that another byte follows."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack_extensions(extensions: Iterable[tuple[int, bytes]]) -> bytes:
    """Extensions in ascending order of tag: tag, LEB128 length, content.

    Raises:
        `ValueError`: a tag is out of 1 to 255 or comes twice.
    """
    out, last = bytearray(), 0
    for tag, content in sorted(extensions, key=lambda item: item[0]):
        if not last < tag <= 255:
            raise ValueError(
                f"extensions: tag {tag} comes twice or is out of range; expected different tags of 1 to 255."
            )
        out += bytes([tag]) + pack_leb128(len(content)) + content
        last = tag
    return bytes(out)


def _as_view(data: bytes | bytearray | memoryview) -> memoryview:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"data must be the bytes of an .odc file, not {type(data).__name__}. Read the file first: "
            "Path(...).read_bytes()."
        )
    return memoryview(data).cast("B")


class _Cursor:
    """Reads forward through bytes and says what is missing when they end."""

    def __init__(self, data: memoryview, offset: int = 0) -> None:
        self.data = data
        self.offset = offset

    def take(self, count: int, what: str) -> bytes:
        end = self.offset + count
        if end > len(self.data):
            raise Truncated(
                f"The file ends at byte {len(self.data)}, inside {what} (bytes {self.offset} to {end}). It was cut "
                "short: get the whole file again."
            )
        chunk = bytes(self.data[self.offset : end])
        self.offset = end
        return chunk

    def leb128(self, what: str) -> int:
        start, value, shift = self.offset, 0, 0
        while True:
            byte = self.take(1, what)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= 7 * LEB128_MAX_BYTES:
                raise Corrupt(
                    f"{what} at byte {start} is longer than {LEB128_MAX_BYTES} bytes. The file is damaged: get it "
                    "again."
                )
        if byte == 0 and shift > 7:
            raise Corrupt(f"{what} at byte {start} is not in its shortest form. The file is damaged: get it again.")
        return value


def _check_magic(data: memoryview) -> None:
    start = bytes(data[:16])
    if MAGIC.startswith(start[:2]) and len(start) < 2:
        raise Truncated(
            f"The file has {len(start)} byte(s), too few for an .odc file. Check the path, or get the file again."
        )
    if start[:2] == MAGIC:
        return
    looks_like = next((name for magic, name in FOREIGN if start.startswith(magic)), "")
    if start[4:8] == b"ftyp":
        looks_like = "an AVIF or HEIF picture"
    if looks_like:
        raise NotOneDC(f"This is {looks_like}, not an .odc file. To make one of a picture, use `onedc compress`.")
    raise NotOneDC(
        f"This is not an .odc file: it begins with {start[:4].hex(' ')}, expected f1 dc. Check that it is the right "
        "file."
    )


def parse_header(data: bytes | bytearray | memoryview, *, size: int | None = None) -> Header:
    """Read the header, without a model, and without checking what follows it.

    Args:
        data (`bytes`): a file, or at least its first 32 bytes.
        size (`int`, *optional*): bytes of the whole file, when `data` is only its beginning.

    Raises:
        `NotOneDC`, `Truncated`, `UnsupportedVersion`, `Corrupt`: see errors.py.
    """
    view = _as_view(data)
    _check_magic(view)
    cursor = _Cursor(view, len(MAGIC))
    flags = cursor.take(1, "the flags")[0]
    version = flags >> 6
    if version == 3:
        version = cursor.take(1, "the version")[0]
        if version < 3:
            raise Corrupt(
                f"The version {version} at byte 3 is not in its shortest form. The file is damaged: get it again."
            )
    if version not in SUPPORTED_VERSIONS:
        raise UnsupportedVersion(
            f"The file states version {version} of the .odc format (byte 2 is {flags:#04x}); this release of onedc-hf "
            f"reads versions {' and '.join(map(str, SUPPORTED_VERSIONS))}. Update onedc-hf, or get the file again in "
            "case it is damaged."
        )
    size_class, kind = flags >> 4 & 3, Kind(flags >> 2 & 3)
    bits = SIZE_BITS[size_class]
    sides = int.from_bytes(cursor.take(2 * bits // 8, "the picture's size"), "big")
    width, height = (sides >> bits) + 1, (sides & ((1 << bits) - 1)) + 1
    if size_class and max(width, height) <= 1 << SIZE_BITS[size_class - 1]:
        raise Corrupt(
            f"The size {width}x{height} at byte 3 is not in its shortest form. The file is damaged: get it again."
        )
    model_id = cursor.take(2, "the model id").hex()
    quality_row = cursor.take(1, "the quality row")[0] if kind in (Kind.QUALITY_ROW, Kind.QUALITY_MAP) else None
    checked_bytes = bytes(view[: cursor.offset])
    extended = bool(flags & 1)
    stream_bytes = cursor.leb128("the length of the stream") if kind != Kind.Z_ONLY or extended else None
    return Header(
        width=width,
        height=height,
        kind=kind,
        quality_row=quality_row,
        model_id=model_id,
        version=version,
        z_coded=bool(flags & 2),
        extended=extended,
        size=len(view) if size is None else size,
        checked_bytes=checked_bytes,
        stream_start=cursor.offset,
        stream_bytes=stream_bytes,
    )


def parse_sections(data: bytes | bytearray | memoryview) -> Sections:
    """Take a whole file apart and check its CRC-32. Nothing is allocated but views and extensions.

    Raises:
        `NotOneDC`, `Truncated`, `UnsupportedVersion`, `Corrupt`: see errors.py.
    """
    view = _as_view(data)
    header = parse_header(view)
    end = len(view) - CRC_BYTES
    available = end - header.stream_start
    length = available if header.stream_bytes is None else header.stream_bytes
    if available < 0 or length > available:
        raise Truncated(
            f"The file has {len(view)} bytes, at least {header.stream_start + max(length, 0) + CRC_BYTES} expected "
            "from its header. It was cut short (or the header is damaged): get the whole file again."
        )
    if length < available and not header.extended:
        raise Corrupt(
            f"The file has {len(view)} bytes, {header.stream_start + length + CRC_BYTES} expected from its header. "
            "Something was appended, or the header is damaged: get the file again."
        )
    if not holds_crc(view):
        stored, computed = int.from_bytes(view[end:], "big"), zlib.crc32(view[:end])
        raise Corrupt(
            f"The CRC-32 at byte {end} is {stored:08x}, but the bytes before it give {computed:08x}: the file was "
            "changed or cut short since it was written. Get it again."
        )
    start, stop = header.stream_start, header.stream_start + length
    return Sections(header, view[start:stop], _parse_extensions(view[:end], stop) if header.extended else ())


def holds_crc(data: bytes | bytearray | memoryview) -> bool:
    """Whether the last four bytes are the CRC-32 of those before."""
    view = _as_view(data)
    end = max(len(view) - CRC_BYTES, 0)
    return int.from_bytes(view[end:], "big") == zlib.crc32(view[:end])


def _take_content(cursor: _Cursor, tag: int) -> bytes:
    return cursor.take(cursor.leb128("an extension's length"), f"extension {tag}")


def leading_extensions(data: memoryview, offset: int) -> tuple[tuple[int, bytes], ...]:
    """The extensions from `offset` on that are there whole, of a file that was cut among them."""
    cursor, found, last = _Cursor(data, offset), [], 0
    try:
        while (tag := cursor.take(1, "an extension's tag")[0]) > last:
            found.append((tag, _take_content(cursor, tag)))
            last = tag
    except (Truncated, Corrupt):
        pass  # here it was cut
    return tuple(found)


def _parse_extensions(data: memoryview, offset: int) -> tuple[tuple[int, bytes], ...]:
    """Extensions from `offset` to the end of `data`, which the CRC-32 has already proved whole."""
    cursor, found, last = _Cursor(data, offset), [], 0
    try:
        while cursor.offset < len(data) or not found:
            tag = cursor.take(1, "an extension's tag")[0]
            if tag <= last:
                raise Corrupt(
                    f"Extension tag {tag} before byte {cursor.offset} follows tag {last}; tags must ascend. The file "
                    "is invalid."
                )
            found.append((tag, _take_content(cursor, tag)))
            last = tag
    except Truncated as error:
        raise Corrupt(
            f"The extensions from byte {offset} on do not end at the CRC-32 (byte {len(data)}). The file is invalid."
        ) from error
    return tuple(found)


def inspect(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    """What can be known about a file without a model: `onedc info` prints it.

    Returns:
        `dict`: `width`, `height`, `bytes`, `bpp`, `kind` (name in lower case), `quality_row`, `model_id`, `version`,
        `z_coded`, `sections` (bytes of `header`, `stream`, `extensions`, `crc`, as far as they are known), `extensions`
        (list of `tag`, `name`, `bytes`, and of those that name something `id`, in hex digits), `valid` (the file is
        whole and its CRC-32 holds), `problem` (what is wrong, or `None`).

    Raises:
        `NotOneDC`, `Truncated`, `UnsupportedVersion`, `Corrupt`: the header itself cannot be read.
    """
    view = _as_view(data)
    header = parse_header(view)
    problem, extensions, sections = None, (), {"header": header.stream_start, "crc": CRC_BYTES}
    try:
        parts = parse_sections(view)
    except BitstreamError as error:
        problem = str(error)
        if header.stream_bytes is not None:
            sections["stream"] = header.stream_bytes
    else:
        extensions = parts.extensions
        sections["stream"] = len(parts.stream)
        sections["extensions"] = len(view) - header.stream_start - len(parts.stream) - CRC_BYTES
    return {
        "width": header.width,
        "height": header.height,
        "bytes": header.size,
        "bpp": header.bpp,
        "kind": header.kind.name.lower(),
        "quality_row": header.quality_row,
        "model_id": header.model_id,
        "version": header.version,
        "z_coded": header.z_coded,
        "sections": {name: sections[name] for name in ("header", "stream", "extensions", "crc") if name in sections},
        "extensions": [_extension_facts(tag, content) for tag, content in extensions],
        "valid": problem is None,
        "problem": problem,
    }


def _extension_facts(tag: int, content: bytes) -> dict[str, Any]:
    name = next((known.name.lower() for known in Tag if known == tag), "unknown")
    facts: dict[str, Any] = {"tag": tag, "name": name, "bytes": len(content)}
    return facts | {"id": content.hex()} if tag in _NAMING_TAGS else facts
