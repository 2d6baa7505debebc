"""The hyper-latent z: codes and their digits, the contexts of a digit, and the static tables for them.

Shapes: Zh, Zw = positions of z (one for 64x64 pixels); D = digits of a code; L = the largest number of levels; border =
L.

A code of the finite scalar quantiser is a number with D digits, digit 0 the least significant (spec section 2.5: index
= sum of digit_k * levels_0 * ... * levels_(k-1)). Neighbouring codes share digits, so each digit is coded with a table
chosen by three digits that the decoder already has: the previous digit of its own code, and the same digit of the codes
to the left and above. Outside the picture, and before digit 0, the value `border` stands in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from .categorical import TABLE_TOTAL

__all__ = [
    "MAX_COUNT",
    "check_hyper_tables",
    "context_index",
    "fit_hyper_tables",
    "join_digits",
    "least_bytes",
    "split_digits",
    "table_bits",
]

MAX_COUNT = TABLE_TOTAL * 15 // 16
"""No probability above 15/16: a digit costs at least 0.0931 bit, so that a file's bytes bound its picture's size."""

DIGITS_PER_BYTE = 86
"""86 digits at probability 15/16 cost 8.007 bits: so many digits need at least one byte."""


def split_digits(z_index: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    """Codes [Zh, Zw] -> digits int64 [Zh, Zw, D], digit 0 the least significant."""
    rest = np.asarray(z_index, dtype=np.int64)
    digits = np.empty((*rest.shape, len(levels)), dtype=np.int64)
    for k, level in enumerate(levels):
        rest, digits[..., k] = np.divmod(rest, level)
    return digits


def join_digits(digits: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    """Digits [..., D] -> codes int32 [...]: the inverse of `split_digits`."""
    basis = np.array([prod(levels[:k]) for k in range(len(levels))], dtype=np.int64)
    return (np.asarray(digits, dtype=np.int64) @ basis).astype(np.int32)


def context_index(digits: np.ndarray, border: int) -> np.ndarray:
    """Flat context of every digit, int64 [Zh, Zw, D].

    It is (previous * (L + 1) + left) * (L + 1) + above, with L = border.
    """
    previous = np.full_like(digits, border)
    left = np.full_like(digits, border)
    above = np.full_like(digits, border)
    previous[:, :, 1:] = digits[:, :, :-1]
    left[:, 1:] = digits[:, :-1]
    above[1:] = digits[:-1]
    return (previous * (border + 1) + left) * (border + 1) + above


def least_bytes(positions: int, levels: Sequence[int], coded: bool) -> int:
    """The fewest bytes that `positions` codes of z take, with static tables (`coded`) or raw.

    No stream is shorter (bitstream.py, section 2).
    """
    if coded:
        return positions * len(levels) // DIGITS_PER_BYTE
    return positions * (prod(levels).bit_length() - 1) // 8


def table_bits(digits: np.ndarray, tables: np.ndarray) -> float:
    """Ideal length in bits of digits [Zh, Zw, D] under static tables [D, L+1, L+1, L+1, L]."""
    border = tables.shape[-1]
    context = context_index(digits, border)
    flat = tables.reshape(len(tables), -1, border)
    counts = flat[np.arange(len(tables)), context, digits]
    return float(np.sum(np.log2(TABLE_TOTAL / counts)))


def fit_hyper_tables(z_indices: Iterable[np.ndarray], levels: Sequence[int], strength: float = 8.0) -> np.ndarray:
    """Fit the static tables of the hyper-latent to example codes.

    Contexts are fine and examples few, so each table leans on coarser ones: the digit alone, then with the previous
    digit, then with the digit to the left, then with the one above; each step adds its own counts to `strength`
    examples drawn from the step before.

    Args:
        z_indices (iterable of `np.ndarray`): codes [Zh, Zw] of example pictures, each in [0, product of levels).
        levels (sequence of `int`): levels of each digit, digit 0 (the least significant) first.
        strength (`float`, *optional*, defaults to 8.0): weight of the coarser table, in examples.

    Returns:
        `np.ndarray`: int32 [D, L+1, L+1, L+1, L], axes (digit, previous digit, left, above, value); each table sums to
        2^16, has counts of at least 1 and at most 61440; values beyond a digit's own levels have count 0.
    """
    depth, border = len(levels), max(levels)
    seen = np.zeros((depth, (border + 1) ** 3, border), dtype=np.float64)
    for z_index in z_indices:
        digits = split_digits(np.atleast_2d(z_index), levels)
        if digits.min(initial=0) < 0 or np.any(np.asarray(z_index) >= prod(levels)):
            raise ValueError(
                f"z_index must lie in [0, {prod(levels)}), but it holds {np.min(z_index)} ... {np.max(z_index)}."
            )
        np.add.at(seen, (np.arange(depth), context_index(digits, border), digits), 1.0)
    seen = seen.reshape(depth, border + 1, border + 1, border + 1, border)

    tables = np.zeros(seen.shape, dtype=np.int32)
    for d, level in enumerate(levels):
        own = seen[d, ..., :level]
        estimate = np.full(level, 1.0 / level)
        # Coarse to fine: sum over (previous, left, above), over (left, above), over above, over nothing.
        for axes in ((0, 1, 2), (1, 2), (2,), ()):
            counts = own.sum(axis=axes, keepdims=True)
            estimate = (counts + strength * estimate) / (counts.sum(axis=-1, keepdims=True) + strength)
        tables[d, ..., :level] = _integer_counts(estimate)
    return tables


def _integer_counts(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities [..., symbols] -> counts that sum to 2^16, each in 1 ... 61440 (two symbols or more)."""
    symbols = probabilities.shape[-1]
    # One part in 16 is shared out evenly first where the largest would break the limit: the rest stays in proportion.
    largest = probabilities.max(axis=-1, keepdims=True)
    limit = (MAX_COUNT - symbols) / TABLE_TOTAL
    even = 1.0 / symbols
    mix = np.where(largest > limit, (largest - limit) / np.maximum(largest - even, 1e-12), 0.0)
    probabilities = (1.0 - mix) * probabilities + mix * even
    counts = np.floor(probabilities * (TABLE_TOTAL - symbols)).astype(np.int64) + 1
    top = counts.argmax(axis=-1)[..., None]
    rest = TABLE_TOTAL - counts.sum(axis=-1, keepdims=True)
    np.put_along_axis(counts, top, np.take_along_axis(counts, top, axis=-1) + rest, axis=-1)
    return counts


def check_hyper_tables(tables: np.ndarray, levels: Sequence[int]) -> None:
    """Raise `ValueError` unless `tables` are valid static tables for `levels` (see `fit_hyper_tables`)."""
    border = max(levels)
    shape = (len(levels), border + 1, border + 1, border + 1, border)
    if tables.shape != shape or tables.dtype != np.int32:
        raise ValueError(
            f"hyper_tables must be int32 {list(shape)} for levels {list(levels)}, not {tables.dtype} "
            f"{list(tables.shape)}."
        )
    for d, level in enumerate(levels):
        used, unused = tables[d, ..., :level], tables[d, ..., level:]
        if used.min() < 1 or used.max() > MAX_COUNT or unused.any() or np.any(used.sum(axis=-1) != TABLE_TOTAL):
            raise ValueError(
                f"hyper_tables[{d}]: each table must hold {level} counts of 1 to {MAX_COUNT} that sum to "
                f"{TABLE_TOTAL}, then zeros. Make them with fit_hyper_tables."
            )
