"""What a file may carry beside the picture: alpha without loss, EXIF, XMP, a colour profile (bitstream.py, section 4).

Everything is deflated, and inflated with a bound that is known before: H x W bytes of alpha, 4 MiB of metadata in all.

Shapes: H, W rows and columns of the picture in pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np

from ..errors import Corrupt
from .header import Tag

__all__ = ["METADATA_LIMIT", "pack_alpha", "pack_metadata", "unpack_alpha", "unpack_metadata"]

METADATA_LIMIT = 4 << 20
METADATA_TAGS = {Tag.EXIF: "exif", Tag.XMP: "xmp", Tag.ICC: "icc_profile"}
"""Extension to the key that Pillow uses for it."""


def pack_alpha(alpha: np.ndarray) -> bytes:
    """Deflates an alpha channel, `uint8` `[H, W]`: differences from the row above, modulo 256."""
    filtered = np.diff(alpha, axis=0, prepend=np.zeros((1, alpha.shape[1]), np.uint8))
    return zlib.compress(filtered.astype(np.uint8).tobytes(), 9)


def unpack_alpha(data: bytes, height: int, width: int) -> np.ndarray:
    """Inverse of `pack_alpha`: `uint8` `[H, W]`.

    Raises:
        `Corrupt`: it does not inflate to exactly H x W bytes.
    """
    filtered = np.frombuffer(_inflate(data, height * width, "alpha"), np.uint8)
    if filtered.size != height * width:
        raise Corrupt(f"The alpha channel holds {filtered.size} pixels, the picture {height * width}.")
    return np.add.accumulate(filtered.reshape(height, width), axis=0, dtype=np.uint8)


def pack_metadata(metadata: dict[str, bytes]) -> list[tuple[int, bytes]]:
    """Extensions of the parts that are there, by Pillow's keys.

    Raises:
        `ValueError`: they are larger than 4 MiB together.
    """
    total = sum(len(content) for content in metadata.values())
    if total > METADATA_LIMIT:
        raise ValueError(f"The picture's metadata has {total:,} bytes, more than {METADATA_LIMIT:,}; strip it first.")
    return [(int(tag), zlib.compress(metadata[key], 9)) for tag, key in METADATA_TAGS.items() if metadata.get(key)]


def unpack_metadata(extensions: Iterable[tuple[int, bytes]]) -> dict[str, bytes]:
    """Inverse of `pack_metadata`; other extensions are passed over.

    Raises:
        `Corrupt`: a part cannot be inflated, or they are larger than 4 MiB together.
    """
    found: dict[str, bytes] = {}
    for tag, content in extensions:
        if tag in METADATA_TAGS:
            room = METADATA_LIMIT - sum(len(part) for part in found.values())
            found[METADATA_TAGS[Tag(tag)]] = _inflate(content, room, "metadata")
    return found


def _inflate(data: bytes, limit: int, what: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise Corrupt(f"The {what} extension cannot be inflated ({error}). The file is invalid.") from error
    if len(content) > limit or not inflater.eof or inflater.unused_data:
        raise Corrupt(f"The {what} extension is cut, or larger than the {limit:,} bytes it may have.")
    return content
