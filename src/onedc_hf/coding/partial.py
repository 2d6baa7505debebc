"""Reads what arrived of a file that was cut.

The received bytes are decoded twice, as if only 00 and as if only FF followed. The true stream lies between the two, so
every symbol on which they agree, up to the first difference, is certain (given the model): 0 of 400 cuts gave a wrong
one. The hyper-latent is proved by check A; nothing proves the rest, since check B has not arrived.

Shapes: C = channels of y; Zh, Zw = positions of z; n = symbols of a coding unit.
"""

from __future__ import annotations

import numpy as np

from ..errors import Corrupt, Truncated
from .bitstream import _check_bytes, _check_fits, _unit_order
from .checks import SymbolCheck
from .entropy import SymbolDecoder
from .header import CRC_BYTES, Header, Sections, Tag, holds_crc, leading_extensions, parse_header
from .metadata import METADATA_TAGS, unpack_alpha, unpack_metadata
from .tables import SymbolModel

__all__ = ["PartialReader", "is_cut", "readable_extensions", "sections_before_cut"]

# Bytes that are filled in: far more than the coder looks ahead, so that nothing but a stream which goes on with as many
# FF could lie beyond. Not the declared length, which a damaged file may put at any size.
_FILLED = 64
_READABLE = frozenset((Tag.ALPHA, Tag.IDENTITY, Tag.ADAPTER, *METADATA_TAGS))


def is_cut(data: bytes | bytearray | memoryview) -> bool:
    """Whether a file is strictly shorter than its header declares.

    Raises:
        `BitstreamError`: not even the header is there, or it is no `.odc` file.
    """
    header = parse_header(data)
    return header.stream_bytes is not None and header.size < header.stream_start + header.stream_bytes + CRC_BYTES


def sections_before_cut(data: bytes | bytearray | memoryview) -> Sections | None:
    """Sections of a file that is whole to the end of its stream, but not of its extensions; `None` of any other.

    The stream proves itself (checks A and B, and that it is what an encoder writes). Of the extensions those are there
    whose tag is known; nothing proves them (`readable_extensions`). Whether the file was cut or damaged cannot always
    be told.

    Raises:
        `BitstreamError`: not even the header is there, or it is no `.odc` file.
    """
    header = parse_header(data)
    if not header.extended or header.stream_bytes is None or holds_crc(data):
        return None
    view, stop = memoryview(data).cast("B"), header.stream_start + header.stream_bytes
    if header.size < stop:
        return None
    known = tuple((tag, content) for tag, content in leading_extensions(view, stop) if tag in _READABLE)
    return Sections(header, view[header.stream_start : stop], known)


def readable_extensions(sections: Sections) -> tuple[tuple[int, bytes], ...]:
    """Those extensions of `sections_before_cut` that can be read.

    To be called once the stream has proved the header: alpha is unpacked to the size that it states.
    """
    return tuple((tag, content) for tag, content in sections.extensions if _is_readable(tag, content, sections.header))


def _is_readable(tag: int, content: bytes, header: Header) -> bool:
    try:
        if tag == Tag.ALPHA:
            unpack_alpha(content, header.height, header.width)
        elif tag in METADATA_TAGS:
            unpack_metadata([(tag, content)])
        else:
            return len(content) == 4
    except Corrupt:
        return False
    return True


class PartialReader:
    """Reads a cut file: `read_hyper`, then `read_unit` until it returns `None`.

    Args:
        data (`bytes`): the beginning of a file, for which `is_cut` holds.
        symbol_model (`SymbolModel`): tables and layout of the model at hand.

    Attributes:
        certain (`int`): symbols of `y` that are certain so far.
        whole_size (`int`): bytes of the whole file (without extensions).

    Raises:
        `BitstreamError`: as for a whole file, from what the header tells.
    """

    def __init__(self, data: bytes | bytearray | memoryview, symbol_model: SymbolModel) -> None:
        header = parse_header(data)
        if header.stream_bytes is None:
            raise Truncated("A file of the hyper-latent alone is of no use when it is cut. Get the whole file again.")
        stream = memoryview(data).cast("B")[header.stream_start : header.stream_start + header.stream_bytes]
        if header.model_id != symbol_model.model_id:
            raise Truncated(
                f"The file is cut, and its model id {header.model_id} is not that of the model at hand "
                f"({symbol_model.model_id}): it was written by another model, or is damaged. Get the whole file again."
            )
        _check_fits(Sections(header, stream, ()), symbol_model)
        self.header: Header = header
        self.whole_size = header.stream_start + header.stream_bytes + CRC_BYTES
        self.certain = 0
        self._model = symbol_model
        self._z_shape = (header.z_rows, header.z_columns)
        received = bytes(stream)
        self._decoders = [SymbolDecoder(received + fill * _FILLED, symbol_model) for fill in (b"\0", b"\xff")]
        self._ended = False

    def read_hyper(self) -> np.ndarray:
        """Read the codes of z, int32 [Zh, Zw], and prove them by check A.

        Raises:
            `Truncated`: they did not arrive whole.
            `Corrupt`: they are not what the encoder wrote.
        """
        cut = "The file was cut before the end of its hyper-latent; nothing can be rebuilt. Get it again."
        try:
            low, high = (decoder.decode_hyper(*self._z_shape, self.header.z_coded) for decoder in self._decoders)
            checks = [decoder.decode_bytes(_check_bytes(self.header.kind)) for decoder in self._decoders]
        except Corrupt as error:  # one of the two fillings leads nowhere
            raise Truncated(cut) from error
        if checks[0] != checks[1] or not np.array_equal(low, high):
            raise Truncated(cut)
        check = SymbolCheck(self._model.digest, self.header.checked_bytes)
        check.add_hyper(low)
        if check.top_bytes(len(checks[0])) != checks[0]:
            raise Corrupt("Check A does not match the z section: the file is damaged as well as cut. Get it again.")
        return low

    def read_unit(self, scale_index: np.ndarray) -> np.ndarray | None:
        """Read the certain symbols of the next coding unit.

        Args:
            scale_index (`np.ndarray`): int [C/4, rows, 4 Zw], each in [0, scales).

        Returns:
            `np.ndarray`: int32, same shape, 0 (the mean) where nothing is certain; `None` if nothing at all is.
        """
        if self._ended:
            return None
        order, tables = _unit_order(self._model, scale_index), self._model.tables
        low, high = (decoder.decode_surely(order) for decoder in self._decoders)
        both = min(len(low), len(high))
        different = low[:both] != high[:both]
        known = int(np.argmax(different)) if different.any() else both
        used = order.scale_index[:known]
        ordered = np.zeros(len(order.places), dtype=np.int32)
        ordered[:known] = low[:known] + tables.offset[used]
        escaped = np.flatnonzero(low[:known] == tables.entries[used])
        # The excesses of escapes come after all entries of a unit.
        whole = known == len(ordered)
        if len(escaped):
            excesses = self._excesses(used[escaped]) if whole else None
            ordered[escaped] = 0 if excesses is None else excesses
            whole = excesses is not None
        self._ended = not whole
        self.certain += known if whole else known - len(escaped)
        if not known:
            return None
        symbols = np.empty_like(ordered)
        symbols[order.places] = ordered
        return symbols.reshape(scale_index.shape)

    def _excesses(self, scale_index: np.ndarray) -> np.ndarray | None:
        """Symbols of a unit's escapes, `None` if they are not certain."""
        try:
            low, high = (decoder.decode_excesses(scale_index) for decoder in self._decoders)
        except Corrupt:
            return None
        return low if np.array_equal(low, high) else None
