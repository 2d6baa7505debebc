"""The range coder: symbols of z and y to bytes and back.

`SymbolEncoder` and `SymbolDecoder` mirror each other method by method, and share tables, order (order.py) and escapes
(escapes.py). Symbols are handed to constriction one group of equal scale indexes at a time.

Shapes: Zh, Zw = positions of z; D = digits of a code; n = symbols of a coding unit, in raster order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..errors import BitstreamError, Corrupt
from .categorical import range_decoder, range_encoder
from .escapes import escape_bits, excess_length, join_excess, read_excess, split_excess
from .hyper import context_index, join_digits, split_digits
from .order import CodingOrder
from .tables import SYMBOL_LIMIT, GaussianTables, SymbolModel
from .tail import stream_bytes, stream_words

__all__ = ["SymbolDecoder", "SymbolEncoder", "clamp_symbols", "ideal_bits"]


def clamp_symbols(symbols: np.ndarray) -> np.ndarray:
    """Clamp symbols to +-32767, what a file can hold.

    The encoder rebuilds its `y_hat` from the clamped values, as the decoder will.

    Args:
        symbols (`np.ndarray`): whole numbers, of an integer or a floating type; infinities are clamped.

    Returns:
        `np.ndarray`: int32, same shape.

    Raises:
        `ValueError`: a symbol is not a number.
    """
    symbols = np.asarray(symbols)
    if symbols.dtype.kind == "f" and np.isnan(symbols).any():
        raise ValueError(
            "symbols holds NaN: the model's parameters or the picture are broken. Check the weights and the dtype."
        )
    return np.clip(symbols, -SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int32)


def ideal_bits(symbols: np.ndarray, scale_index: np.ndarray, tables: GaussianTables, skip_index: int = 0) -> float:
    """Length in bits that the tables give to symbols of y: what coding them adds to a file, without checks and tail.

    Args:
        symbols (`np.ndarray`): int, any shape.
        scale_index (`np.ndarray`): int, same shape, each in [0, scales).
        tables (`GaussianTables`): the tables.
        skip_index (`int`, *optional*, defaults to 0): indexes below it form the skip group, which costs next to nothing
            while all of it is zero. Exact for arrays that are one coding unit.
    """
    symbols = np.asarray(symbols).astype(np.int64, copy=False).ravel()
    scale_index = np.asarray(scale_index).ravel()
    bits = 0.0
    if skip_index:
        coded = scale_index >= skip_index
        if np.any(symbols[~coded]):
            bits += 16.0
        else:
            symbols, scale_index = symbols[coded], scale_index[coded]
    entry, escaped = _entries(symbols, scale_index, tables)
    bits += float(tables.bits[scale_index, entry].sum())
    if escaped.any():
        bits += float(excess_length(_excess(symbols[escaped], scale_index[escaped], tables)).sum())
    return bits


def _entries(symbols: np.ndarray, scale_index: np.ndarray, tables: GaussianTables) -> tuple[np.ndarray, np.ndarray]:
    """Table entry of each symbol (int32), and which of them are escapes (bool)."""
    entry = symbols - tables.offset[scale_index]
    regular = tables.entries[scale_index]
    escaped = (entry < 0) | (entry >= regular)
    return np.where(escaped, regular, entry).astype(np.int32), escaped


def _table_range(scale_index: np.ndarray, tables: GaussianTables) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest regular symbol of each scale index."""
    low = tables.offset[scale_index].astype(np.int64)
    return low, low + tables.entries[scale_index] - 1


def _excess(symbols: np.ndarray, scale_index: np.ndarray, tables: GaussianTables) -> np.ndarray:
    return split_excess(symbols, *_table_range(scale_index, tables))


@contextmanager
def _coder_errors(doing: str) -> Iterator[None]:
    """Turn whatever constriction raises into `Corrupt`.

    That is AssertionError, KeyError, ValueError, TypeError, and panics of its Rust code.
    """
    try:
        yield
    except (BitstreamError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # pyo3's PanicException derives from BaseException
        raise Corrupt(
            f"The range coder failed while {doing} ({type(error).__name__}: {error}). The bytes or the tables are "
            "damaged: get the file again, or install the model again."
        ) from error


class SymbolEncoder:
    """Writes symbols into one range-coder stream.

    Args:
        model (`SymbolModel`): tables and layout.
    """

    def __init__(self, model: SymbolModel) -> None:
        self._model = model
        self._coder = range_encoder()

    def encode_hyper(self, z_index: np.ndarray, coded: bool) -> None:
        """Codes [Zh, Zw], raster order, digit 0 first; `coded`: by static tables, else raw."""
        digits = split_digits(z_index, self._model.fsq_levels)  # [Zh, Zw, D]
        models = self._model.categoricals
        encode = self._coder.encode
        with _coder_errors("writing z"):
            if not coded:
                for k, digit in _raw_runs(digits, self._model.fsq_levels):
                    encode(digit, models.uniform(self._model.fsq_levels[k]))
                return
            contexts = context_index(digits, max(self._model.fsq_levels)).reshape(-1, digits.shape[-1])
            for position, context in zip(digits.reshape(contexts.shape).tolist(), contexts.tolist(), strict=True):
                for k, digit in enumerate(position):
                    encode(digit, models.hyper(k, context[k]))

    def encode_bytes(self, data: bytes) -> None:
        """Bytes as uniform symbols, first byte first."""
        with _coder_errors("writing a check"):
            self._coder.encode(
                np.frombuffer(data, dtype=np.uint8).astype(np.int32), self._model.categoricals.uniform(256)
            )

    def encode_unit(self, symbols: np.ndarray, order: CodingOrder) -> None:
        """One coding unit: symbols int [n] within +-32767, in raster order."""
        tables, models = self._model.tables, self._model.categoricals
        ordered = symbols[order.places].astype(np.int64)
        entry, escaped = _entries(ordered, order.scale_index, tables)
        with _coder_errors("writing y"):
            for index, start, stop in order.groups:
                if start == order.skip_start:
                    any_non_zero = bool(ordered[start:].any())
                    self._coder.encode(int(any_non_zero), models.any_non_zero())
                    if not any_non_zero:
                        break
                self._coder.encode(entry[start:stop], models.scale(index))
            if escaped.any():
                excess = _excess(ordered[escaped], order.scale_index[escaped], tables)
                self._coder.encode(escape_bits(excess.tolist()), models.uniform(2))

    def finish(self, least: int = 0) -> bytes:
        """The stream (tail.py), at least `least` bytes."""
        with _coder_errors("ending the stream"):
            return stream_bytes(self._coder, least)


class SymbolDecoder:
    """Reads symbols from one range-coder stream; zeros follow its bytes for ever.

    Args:
        stream (`bytes`): the stream.
        model (`SymbolModel`): tables and layout of the model that wrote it.
    """

    def __init__(self, stream: bytes | memoryview, model: SymbolModel) -> None:
        self._model = model
        self._coder = range_decoder(stream_words(stream))

    def decode_hyper(self, rows: int, columns: int, coded: bool) -> np.ndarray:
        """Codes int32 [Zh, Zw] for `rows`, `columns` = Zh, Zw."""
        levels, models = self._model.fsq_levels, self._model.categoricals
        decode, depth, border = self._coder.decode, len(levels), max(levels)
        with _coder_errors("reading z"):
            if not coded:
                digits = np.empty((rows, columns, depth), dtype=np.int32)
                for k, place in _raw_runs(digits, levels):
                    place[...] = decode(models.uniform(levels[k]), place.size)
                return join_digits(digits, levels)
            base = border + 1
            above_row = [[border] * depth] * columns
            decoded = []
            for _ in range(rows):
                row, left = [], [border] * depth
                for column in range(columns):
                    above, position, digit = above_row[column], [], border
                    for k in range(depth):
                        digit = decode(models.hyper(k, (digit * base + left[k]) * base + above[k]))
                        position.append(digit)
                    row.append(position)
                    left = position
                decoded.append(row)
                above_row = row
        return join_digits(np.array(decoded, dtype=np.int64), levels)

    def decode_bytes(self, count: int) -> bytes:
        """`count` bytes that were written as uniform symbols."""
        with _coder_errors("reading a check"):
            return bytes(self._coder.decode(self._model.categoricals.uniform(256), count).tolist())

    def decode_unit(self, order: CodingOrder) -> np.ndarray:
        """One coding unit: symbols int32 [n], in raster order."""
        tables = self._model.tables
        with _coder_errors("reading y"):
            entry = self._decode_entries(order)  # fewer than n where the skip group is all zero
            used = order.scale_index[: len(entry)]
            ordered = np.zeros(len(order.places), dtype=np.int32)
            ordered[: len(entry)] = entry + tables.offset[used]
            escaped = np.flatnonzero(entry == tables.entries[used])
            if len(escaped):
                ordered[escaped] = self._decode_escapes(used[escaped])
        symbols = np.empty_like(ordered)
        symbols[order.places] = ordered
        return symbols

    def decode_surely(self, order: CodingOrder, chunk: int = 32) -> np.ndarray:
        """As many table entries of a unit as can be decoded, int32 [m], m <= n, in coding order; for a cut stream.

        Where a stream was filled up with bytes that lead nowhere, decoding fails at some point; the last few symbols
        before it, `chunk` at most, are lost.
        """
        models, entry, done = self._model.categoricals, np.zeros(len(order.places), dtype=np.int32), 0
        zero = -self._model.tables.offset
        try:
            with _coder_errors("reading y"):
                for index, start, stop in order.groups:
                    if start == order.skip_start and not self._coder.decode(models.any_non_zero()):
                        entry[start:] = zero[order.scale_index[start:]]
                        return entry
                    model = models.scale(index)
                    for first in range(start, stop, chunk):
                        last = min(first + chunk, stop)
                        entry[first:last] = self._coder.decode(model, last - first)
                        done = last
        except Corrupt:
            return entry[:done]
        return entry

    def decode_excesses(self, scale_index: np.ndarray) -> np.ndarray:
        """Symbols [m] of the escapes of a unit, after `decode_surely` gave all of its entries."""
        with _coder_errors("reading y"):
            return self._decode_escapes(scale_index)

    def _decode_entries(self, order: CodingOrder) -> np.ndarray:
        """Table entries of a unit, int32 [m], in coding order; m < n where the skip group is all zero."""
        models = self._model.categoricals
        entry = np.empty(len(order.places), dtype=np.int32)
        for index, start, stop in order.groups:
            if start == order.skip_start and not self._coder.decode(models.any_non_zero()):
                return entry[:start]
            entry[start:stop] = self._coder.decode(models.scale(index), stop - start)
        return entry

    def _decode_escapes(self, scale_index: np.ndarray) -> np.ndarray:
        """Symbols [m] of the escapes of a unit, in coding order."""
        decode, bit = self._coder.decode, self._model.categoricals.uniform(2)
        excess = [read_excess(lambda: decode(bit), lambda count: decode(bit, count)) for _ in range(len(scale_index))]
        symbols = join_excess(np.array(excess, dtype=np.int64), *_table_range(scale_index, self._model.tables))
        if np.abs(symbols).max() > SYMBOL_LIMIT:
            raise Corrupt(f"A symbol of y lies beyond +-{SYMBOL_LIMIT}: the y section is damaged. Get the file again.")
        return symbols


def _raw_runs(digits: np.ndarray, levels: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray]]:
    """Digits [Zh, Zw, D] in coding order, as runs with one number of levels.

    Yields pairs: an index into `levels`, and a run of digits (int32; a view, if `digits` is int32).
    """
    flat = digits if digits.dtype == np.int32 else digits.astype(np.int32)
    if len(set(levels)) == 1:
        yield 0, flat.reshape(-1)
    else:
        for position in flat.reshape(-1, len(levels)):
            for k in range(len(levels)):
                yield k, position[k : k + 1]
