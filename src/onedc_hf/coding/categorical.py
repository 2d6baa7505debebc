"""Probability tables in the form the range coder wants, built on first use.

The only place that touches constriction's names. Nothing but integer counts reaches them: `Categorical(counts,
perfect=True)` with counts of at least 1 that sum to 2^16 keeps a table exactly (each count times 2^8 of the coder's
2^24); without `perfect=True` it is off by a few parts in 2^24.
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np

_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue] (it has no type stubs)

__all__ = [
    "TABLE_BITS",
    "TABLE_TOTAL",
    "CategoricalCache",
    "categorical",
    "range_decoder",
    "range_encoder",
    "uniform_counts",
]

TABLE_BITS = 16
TABLE_TOTAL = 1 << TABLE_BITS
"""What the counts of every table sum to."""

ANY_NON_ZERO_COUNTS = (TABLE_TOTAL - 1, 1)
"""Table of the symbol in front of the skip group: 0 = all zero, 1 = at least one is not (order.py)."""


def categorical(counts: np.ndarray) -> Any:
    """A constriction model with exactly these counts (sum 2^16, each at least 1)."""
    return _stream.model.Categorical(np.asarray(counts, dtype=np.float64), perfect=True)


def range_encoder() -> Any:
    """A fresh range encoder: 64 bits of state, words of 32 bits."""
    return _stream.queue.RangeEncoder()


def range_decoder(words: np.ndarray) -> Any:
    """A range decoder at the start of `words`, uint32 [n]."""
    return _stream.queue.RangeDecoder(words)


def uniform_counts(size: int) -> np.ndarray:
    """Counts of the uniform table over `size` symbols, int64 [size].

    Each is 2^16 // size; the first 2^16 mod size are one more.
    """
    counts = np.full(size, TABLE_TOTAL // size, dtype=np.int64)
    counts[: TABLE_TOTAL % size] += 1
    return counts


class CategoricalCache:
    """The coder models of one symbol model, each built the first time it is needed.

    Building 256 of them takes some milliseconds. The cache belongs to its `SymbolModel`: no state is shared between
    models. Two threads that fill the same entry build equal models; the last one stays.

    Args:
        cdf (`np.ndarray`): int32 [scales, entries], cumulative counts (tables.py).
        cdf_length (`np.ndarray`): int32 [scales], entries in use.
        hyper_tables (`np.ndarray`, *optional*): int32 counts of the hyper-latent digits (hyper.py).
    """

    def __init__(self, cdf: np.ndarray, cdf_length: np.ndarray, hyper_tables: np.ndarray | None) -> None:
        self._cdf = cdf
        self._cdf_length = cdf_length
        self._scales: list[Any] = [None] * len(cdf_length)
        self._uniform: dict[int, Any] = {}
        self._any_non_zero: Any = None
        self._hyper_counts: list[np.ndarray] = []
        self._hyper: list[list[Any]] = []
        if hyper_tables is not None:
            digits, *contexts, symbols = hyper_tables.shape
            flat = hyper_tables.reshape(digits, int(np.prod(contexts)), symbols)
            self._hyper_counts = list(flat)
            self._hyper = [[None] * flat.shape[1] for _ in range(digits)]

    def scale(self, index: int) -> Any:
        """Model of scale `index`: entries 0 ... n-1 are the symbols of the table, entry n is its escape."""
        model = self._scales[index]
        if model is None:
            counts = np.diff(self._cdf[index, : self._cdf_length[index]])
            model = self._scales[index] = categorical(counts)
        return model

    def uniform(self, size: int) -> Any:
        """Model that gives each of `size` symbols the same probability (`uniform_counts`)."""
        model = self._uniform.get(size)
        if model is None:
            model = self._uniform[size] = categorical(uniform_counts(size))
        return model

    def any_non_zero(self) -> Any:
        """Model of the symbol in front of the skip group."""
        if self._any_non_zero is None:
            self._any_non_zero = categorical(np.array(ANY_NON_ZERO_COUNTS))
        return self._any_non_zero

    def hyper(self, digit: int, context: int) -> Any:
        """Model of hyper-latent digit `digit` in the flat context `context` (`hyper.context_index`)."""
        model = self._hyper[digit][context]
        if model is None:
            counts = self._hyper_counts[digit][context]
            model = self._hyper[digit][context] = categorical(counts[counts > 0])
        return model
