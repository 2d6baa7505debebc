"""The running CRC-32 behind check A and check B: proof that decoded symbols are the encoder's.

Its input, in this order: the model's whole digest, the first header bytes (up to the quality row), the codes of z, then
the symbols of y unit by unit. The file's own CRC-32 guards the bytes; this one also notices a wrong table, a wrong
scale index or another model with the same two id bytes.
"""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["SymbolCheck"]


class SymbolCheck:
    """CRC-32 (as in zlib and PNG) over digest, header and symbols."""

    def __init__(self, digest: bytes, header: bytes) -> None:
        self._crc = zlib.crc32(header, zlib.crc32(digest))

    def add_hyper(self, z_index: np.ndarray) -> None:
        """Take in codes [Zh, Zw]: little-endian uint32, raster order."""
        self._crc = zlib.crc32(z_index.astype("<u4").tobytes(), self._crc)

    def add_unit(self, symbols: np.ndarray) -> None:
        """Take in one coding unit [C/4, rows, 4 Zw]: little-endian int16, raster order."""
        self._crc = zlib.crc32(symbols.astype("<i2").tobytes(), self._crc)

    def top_bytes(self, count: int) -> bytes:
        """The `count` most significant bytes of the CRC so far, most significant first."""
        return self._crc.to_bytes(4, "big")[:count]
