"""The authors' entropy decoder: byte-wise rANS with a 32-bit state (spec section 3.4). Reads only; speed is no aim.

A stream is the state (4 bytes, little-endian), then the bytes that refill it. Every read is checked against the end.
The encoder works backwards from a fixed state, so a stream that was decoded rightly ends in that state, with no byte
left.
"""

from __future__ import annotations

import numpy as np

from ..errors import Corrupt, Truncated
from .tables import GaussianTables

__all__ = ["RansDecoder"]

_LOWER = 1 << 23
_PRECISION = 16
_LARGEST_GROUPS = 8  # 2-bit groups of an excess: the program clamps symbols to +-30000


class RansDecoder:
    """Decodes symbols from one stream, pass after pass.

    Args:
        data (`bytes`): state and refill bytes.
        tables (`GaussianTables`): cumulative counts of 16 bits for each scale, the escape entry last.

    Raises:
        Truncated: if not even the state is there.
    """

    def __init__(self, data: bytes, tables: GaussianTables):
        if len(data) < 4:
            raise Truncated(f"The rANS stream has {len(data)} bytes; its state alone has 4.")
        self._data, self._place = data, 4
        self._state = int.from_bytes(data[:4], "little")
        rows = zip(tables.cdf, tables.cdf_length, strict=True)
        self._cdf = [np.asarray(row[: int(length)], dtype=np.int64) for row, length in rows]
        self._offset = [int(offset) for offset in tables.offset]

    def read(self, indexes: np.ndarray) -> np.ndarray:
        """Decodes one symbol for each scale index.

        Args:
            indexes (`np.ndarray`): int, any shape, in [0, scales); the order is raster order.

        Returns:
            `np.ndarray`: int32, of the same shape.

        Raises:
            Truncated: if the stream ends before its last symbol.
            Corrupt: for an excess that no encoder writes.
        """
        symbols = [self._symbol(index) for index in indexes.reshape(-1).tolist()]
        return np.array(symbols, dtype=np.int32).reshape(indexes.shape)

    def finish(self) -> None:
        """Checks that the stream ended where its encoder began.

        Raises:
            Corrupt: if it did not: what was read is noise.
        """
        if self._state != _LOWER or self._place != len(self._data):
            raise Corrupt(
                "The rANS stream does not end where it should: the file was written with another model or by other "
                "arithmetic (such as bf16 on a GPU), or it is damaged."
            )

    def _byte(self) -> int:
        if self._place >= len(self._data):
            raise Truncated("The rANS stream ends before its last symbol: bytes are missing, or the model is another.")
        self._place += 1
        return self._data[self._place - 1]

    def _symbol(self, index: int) -> int:
        cdf, state = self._cdf[index], self._state
        low = state & ((1 << _PRECISION) - 1)
        entry = int(np.searchsorted(cdf, low, side="right")) - 1
        start, stop = int(cdf[entry]), int(cdf[entry + 1])
        state = (stop - start) * (state >> _PRECISION) + low - start
        while state < _LOWER:
            state = state << 8 | self._byte()
        self._state = state
        regular = len(cdf) - 2
        value = entry if entry < regular else self._escaped(regular)
        return value + self._offset[index]

    def _escaped(self, regular: int) -> int:
        """A value outside the table: number of 2-bit groups in base 3, then the groups, least significant first."""
        groups = part = self._raw()
        while part == 3:
            part = self._raw()
            groups += part
            if groups > _LARGEST_GROUPS:
                raise Corrupt(
                    "The rANS stream has a symbol beyond 30000, which no encoder writes: another model, or damage."
                )
        excess = 0
        for place in range(groups):
            excess |= self._raw() << 2 * place
        return -(excess >> 1) - 1 if excess & 1 else (excess >> 1) + regular

    def _raw(self) -> int:
        value = self._state & 3
        self._state >>= 2
        if self._state < _LOWER:
            self._state = self._state << 8 | self._byte()
        return value
