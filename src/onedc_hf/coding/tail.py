"""Between the range coder's 32-bit words and the bytes of a file.

The coder ends with an interval [lower, lower + range); any number in it, written as the digits after a binary point,
decodes to the same symbols. constriction's own ending takes one or two whole words. A file keeps the shortest byte
string that lies in the interval when zeros follow it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["stream_bytes", "stream_words"]

_STATE_BITS = 64
_WORD_BITS = 32


def stream_bytes(encoder: Any, least: int = 0) -> bytes:
    """The bytes of everything that `encoder` was given.

    As few as decode with zeros following (of several that short, the smallest), but at least `least`: zeros are
    appended.
    """
    position, (lower, width) = encoder.pos()
    # `lower` has only the last 64 bits of the interval's lower end, and words before them may still await a carry. The
    # sealed words lie in the interval, so the whole lower end is the sealed number less its distance from `lower`,
    # which is below 2^64.
    total_bits = position * _WORD_BITS + _STATE_BITS
    words = encoder.get_compressed()
    sealed = int.from_bytes(words.astype(">u4").tobytes(), "big") << (total_bits - _WORD_BITS * len(words))
    start = sealed - ((sealed - lower) % (1 << _STATE_BITS))
    # The lower end, rounded up to as many zero bytes as the interval allows (`start` itself lies in it).
    rounded_up = (-(-start >> dropped) << dropped for dropped in range(_STATE_BITS, -1, -8))
    shortest = next(number for number in rounded_up if number < start + width)
    return shortest.to_bytes(total_bits // 8, "big").rstrip(b"\0").ljust(least, b"\0")


def stream_words(stream: bytes | memoryview) -> np.ndarray:
    """Bytes -> the words that constriction's decoder wants (uint32 [n]), zeros following."""
    padded = bytes(stream) + bytes(-len(stream) % 4 + 8)
    return np.frombuffer(padded, dtype=">u4").astype(np.uint32)
