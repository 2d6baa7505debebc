"""The container of the authors' program, `.bin` (spec section 3.6): read, never written.

    offset  bytes  field, big-endian
    0       4      height of the picture
    4       4      width
    8       4      n, length of the y stream
    12      4      length of a caption, always 0
    16      n      y stream: 1 for a single stream, then rANS bytes (rans.py)
    16+n    rest   indexes of z in row order, 14 bits each; the bits that fill the first byte up stand in front

It has no magic number, no version, no model id and no checksum. A wrong model or a damaged stream is noticed at the end
of the rANS stream (`RansDecoder.finish`), unless only raw bits were hit; damage to the indexes of z is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import Corrupt, NotOneDC, TooLarge, Truncated, UnsupportedFeature
from .limits import POSITION, too_large

__all__ = ["AuthorsFile", "read_authors_file"]

_HEADER = 16


@dataclass(frozen=True)
class AuthorsFile:
    """What a `.bin` file holds.

    Args:
        width (`int`): of the picture, in pixels.
        height (`int`): of the picture, in pixels.
        y_stream (`bytes`): rANS bytes of the latent.
        z_index (`np.ndarray`): int32 `[Z, V]`, codes of the hyper-latent.
        size (`int`): bytes of the file.
    """

    width: int
    height: int
    y_stream: bytes
    z_index: np.ndarray
    size: int


def read_authors_file(data: bytes, fsq_levels: Sequence[int], max_pixels: int | None = None) -> AuthorsFile:
    """Takes a `.bin` file apart; every length is checked before anything is made of it.

    Args:
        data (`bytes`): the file.
        fsq_levels (`Sequence[int]`): levels of the hyper-latent's digits, which say how many bits an index has.
        max_pixels (`int`, *optional*): larger pictures are refused.

    Raises:
        TooLarge: if the header states a larger picture.
        NotOneDC: if it cannot be such a file.
        Truncated: if bytes are missing.
        Corrupt: if bytes are left over, or bits that must be zero are not.
        UnsupportedFeature: for a file of several streams.
    """
    if len(data) < _HEADER:
        raise Truncated(f"The file has {len(data)} bytes; the header of the authors' format alone has {_HEADER}.")
    height, width, length, caption = (int.from_bytes(data[i : i + 4], "big") for i in range(0, _HEADER, 4))
    if caption or not 1 <= height < 1 << 24 or not 1 <= width < 1 << 24:
        raise NotOneDC("This is no file of the authors' program: its header makes no sense.")
    if (reason := too_large(width, height, max_pixels)) is not None:
        raise TooLarge(f"The file states a picture of {reason}.")
    rows, columns = -(-height // POSITION), -(-width // POSITION)
    bits = math.ceil(math.log2(math.prod(fsq_levels)))
    z_bytes = -(-rows * columns * bits // 8)
    expected = _HEADER + length + z_bytes
    if len(data) < expected:
        raise Truncated(f"The file has {len(data):,} bytes, but its header states {expected:,}.")
    if len(data) > expected:
        raise Corrupt(f"The file has {len(data) - expected:,} bytes more than its header states.")
    stream = data[_HEADER : _HEADER + length]
    if not stream:
        raise Corrupt("The file has no stream for the latent.")
    if stream[0] >> 4:
        raise UnsupportedFeature("The file has several rANS streams; only files of one are read.")
    flat = np.unpackbits(np.frombuffer(data[_HEADER + length :], np.uint8))
    padding = flat.size - rows * columns * bits
    if flat[:padding].any():
        raise Corrupt("Bits in front of the hyper-latent are not zero.")
    weights = 1 << np.arange(bits - 1, -1, -1, dtype=np.int32)
    z_index = (flat[padding:].reshape(rows, columns, bits) * weights).sum(axis=2, dtype=np.int32)
    if z_index.max() >= math.prod(fsq_levels):
        raise Corrupt("A code of the hyper-latent is larger than the codebook.")
    return AuthorsFile(width, height, stream[1:], z_index, len(data))
