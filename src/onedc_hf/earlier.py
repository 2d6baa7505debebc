"""Files of earlier releases of the box: which pipeline or which tables read them, loaded once and kept in memory."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .coder import SymbolCoder
from .coding import SymbolModel, is_cut, parse_header, sections_before_cut
from .coding.header import parse_sections
from .eight_bits import expanded
from .errors import BitstreamError
from .releases import EarlierRelease, earlier_release, released_ids, with_tables

if TYPE_CHECKING:
    from .pipeline import OneDCPipeline

__all__ = ["EarlierReaders"]

logger = logging.getLogger(__name__)

Data = bytes | bytearray | memoryview


class EarlierReaders:
    """What one pipeline has loaded of earlier releases. A pipeline that is no release of the box never loads any.

    Attributes:
        pipelines (`dict`): by model id, 64 hex digits.
    """

    def __init__(self) -> None:
        self.pipelines: dict[str, OneDCPipeline] = {}
        self._symbols: dict[str, SymbolModel] = {}

    def pipeline_of(self, data: Data, pipe: OneDCPipeline, allow_partial: bool = False) -> OneDCPipeline | None:
        """The earlier release that reads a file, where it takes other networks than those at hand.

        Args:
            data (`bytes`): the file.
            pipe (`OneDCPipeline`): the pipeline that was asked; its limits, device and tiling hold for the other, too.
            allow_partial (`bool`): whether a file that was cut is read, too.

        Raises:
            BitstreamError: for a file that is damaged; nothing is loaded for one.
        """
        # A model id may have to be made (an entropy path in floats), so the file is asked first.
        if (wanted := _named(data)) is None or (kept := _kept(wanted, pipe.model_id)) is None:
            return None
        if kept.model_id == pipe.model_id:
            return None
        if kept.model_id not in self.pipelines:
            if not (allow_partial and (is_cut(data) or sections_before_cut(data) is not None)):
                parse_sections(data)  # a few bytes that only begin like a file must not cost seconds and memory
            logger.info("The file is of an earlier release of the model in the box, which is loaded to read it.")
            with expanded(kept.folder) as whole:
                self.pipelines[kept.model_id] = type(pipe).from_pretrained(whole, dtype=pipe.dtype)
        earlier = self.pipelines[kept.model_id].to(pipe._execution_device)
        earlier.max_pixels, earlier._tiling = pipe.max_pixels, pipe._tiling
        return earlier

    def coder_of(self, data: Data, coder: SymbolCoder) -> SymbolCoder:
        """What reads a file with the networks at hand.

        Args:
            data (`bytes`): the file.
            coder (`SymbolCoder`): the one at hand.

        Returns:
            `SymbolCoder`: `coder`, or one with the tables of the earlier release that wrote the file.
        """
        if (wanted := _named(data)) is None or (kept := _kept(wanted, coder.model.digest.hex())) is None:
            return coder
        entropy = with_tables(coder.entropy, kept.tables)
        if wanted not in self._symbols:
            self._symbols[wanted] = entropy.symbol_model(entropy.digest())
        return SymbolCoder(coder.codec, entropy, lambda: self._symbols[wanted])


def _named(data: Data) -> str | None:
    """First digits of the model id that a file names; `None` for a damaged header, of which its reader will tell."""
    try:
        return parse_header(data).model_id
    except BitstreamError:
        return None


def _kept(wanted: str, at_hand: str) -> EarlierRelease | None:
    """What the package has to read files of an earlier release, where the model at hand is a release (releases.py)."""
    if at_hand.startswith(wanted) or at_hand not in released_ids():
        return None
    return earlier_release(wanted, at_hand=at_hand)
