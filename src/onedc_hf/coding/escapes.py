"""Symbols outside their table: which excess they have, and the bits that write it.

The excess of a symbol s over a table of the symbols low ... high is a number of at least 0, alternating between the two
sides: 2 (s - high - 1) above, 2 (low - 1 - s) + 1 below. It is written as an Exp-Golomb code of order 0: with v =
excess + 1, which has p + 1 binary digits, first p zeros, then those digits, most significant first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ..errors import Corrupt

__all__ = ["MAX_PREFIX", "escape_bits", "excess_length", "join_excess", "read_excess", "split_excess"]

MAX_PREFIX = 16
"""Most zeros in front of an Exp-Golomb code; symbols of 16 bits never need more."""


def split_excess(symbols: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Excess of symbols that lie outside low ... high; int64, all arrays of one shape."""
    return np.where(symbols > high, 2 * (symbols - high - 1), 2 * (low - 1 - symbols) + 1)


def join_excess(excess: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Symbols that have this excess: the inverse of `split_excess`."""
    half = excess >> 1
    return np.where(excess & 1, low - 1 - half, high + 1 + half)


def excess_length(excess: np.ndarray) -> np.ndarray:
    """Bits of the Exp-Golomb code of each excess, 2 p + 1."""
    return 2 * (np.frexp(np.asarray(excess, dtype=np.float64) + 1.0)[1] - 1) + 1


def escape_bits(excess: Iterable[int]) -> np.ndarray:
    """Exp-Golomb codes of all excesses, one after another; int32 zeros and ones."""
    bits: list[int] = []
    for number in excess:
        value = number + 1
        prefix = value.bit_length() - 1
        bits.extend([0] * prefix)
        bits.extend((value >> shift) & 1 for shift in range(prefix, -1, -1))
    return np.array(bits, dtype=np.int32)


def read_excess(read_bit: Callable[[], int], read_bits: Callable[[int], np.ndarray]) -> int:
    """Read one Exp-Golomb code.

    Args:
        read_bit (callable): gives the next bit.
        read_bits (callable): gives the next `count` bits as an array.

    Raises:
        `Corrupt`: more than `MAX_PREFIX` zeros in front.
    """
    prefix = 0
    while not read_bit():
        prefix += 1
        if prefix > MAX_PREFIX:
            raise Corrupt(
                f"An escape code begins with more than {MAX_PREFIX} zeros: the y section is damaged. Get the file "
                "again."
            )
    value = 1
    if prefix:
        for bit in read_bits(prefix).tolist():
            value = value << 1 | bit
    return value - 1
