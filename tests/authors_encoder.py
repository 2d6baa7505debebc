"""The authors' entropy encoder and container (spec sections 3.4 to 3.6), which the package only reads.

Written for the tests: what it writes must be the reference's bytes, and what the package reads of them its symbols.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onedc_hf.coding.tables import GaussianTables


def rans_bytes(symbols: Sequence[int], indexes: Sequence[int], tables: GaussianTables) -> bytes:
    """One stream; an index of -1 codes nothing."""
    steps: list[tuple[int, int, bool]] = []  # start, frequency, raw
    for symbol, index in zip(symbols, indexes, strict=True):
        if index < 0:
            continue
        cdf, length = tables.cdf[index], int(tables.cdf_length[index])
        regular, value = length - 2, int(symbol) - int(tables.offset[index])
        entry = value if 0 <= value < regular else regular
        steps.append((int(cdf[entry]), int(cdf[entry + 1]) - int(cdf[entry]), False))
        if entry == regular:
            excess = -2 * value - 1 if value < 0 else 2 * (value - regular)
            groups = -(-excess.bit_length() // 2)
            count = groups
            while count >= 3:
                steps.append((3, 0, True))
                count -= 3
            steps.append((count, 0, True))
            steps.extend((excess >> 2 * place & 3, 0, True) for place in range(groups))
    state, out = 1 << 23, bytearray()
    for start, frequency, raw in reversed(steps):
        limit = 1 << 29 if raw else frequency << 15
        while state >= limit:
            out.append(state & 255)
            state >>= 8
        state = state << 2 | start if raw else state // frequency * 65536 + state % frequency + start
    return state.to_bytes(4, "little") + bytes(reversed(out))


def container(height: int, width: int, stream: bytes, z_index: np.ndarray, bits: int = 14) -> bytes:
    """A whole `.bin` file of one stream."""
    whole = 0
    for index in z_index.reshape(-1).tolist():
        whole = whole << bits | index
    z_stream = whole.to_bytes(-(-z_index.size * bits // 8), "big")
    head = b"".join(n.to_bytes(4, "big") for n in (height, width, len(stream) + 1, 0))
    return head + b"\x01" + stream + z_stream
