"""Between what the networks say of a picture and its file: the exact half of the pipeline, without pixels.

    write:  latent, codes of the hyper-latent -> context model, quality row -> coding -> bytes
    read:   bytes -> coding -> context model -> rebuilt latent, semantic seed

Shapes: Y X rows and columns of the latent at 1/16, Z V at 1/64, N channels of `y`, R quality rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .beside import check_beside
from .coding import (
    BitstreamReader,
    BitstreamWriter,
    Header,
    Kind,
    PartialReader,
    SymbolModel,
    clamp_symbols,
    ideal_bits,
    is_cut,
    readable_extensions,
    sections_before_cut,
)
from .coding.limits import too_large
from .errors import BitstreamError, Corrupt, EncodeError, TargetError, TooLarge, Truncated, WrongModel
from .models import OneDCCodec
from .models.context import PASSES, unfold_into
from .models.exact import CodingUnit, ExactEntropyModel, ExactHyper
from .rate_search import ANY_SIZE, search_row
from .releases import where_to_get
from .user_warning import warn_user

__all__ = ["Analysed", "Chosen", "SymbolCoder", "Symbols"]

_OVERHEAD_BYTES = 20  # header, checks and coder tail, on average (coding/bitstream.py)
_Z_ONLY_OVERHEAD_BYTES = 13


@dataclass(frozen=True)
class Analysed:
    """What the encoder knows of a picture before it chooses a rate.

    Args:
        width, height (`int`): of the picture, in pixels.
        y (`torch.Tensor` of shape `[1, N, Y, X]`): the latent, not rounded.
        z_index (`np.ndarray` of shape `[Z, V]`): codes of the hyper-latent.
        hyper (`ExactHyper`): what these say about the latent.
        extensions (`tuple`): tag and content of what goes beside the picture.
    """

    width: int
    height: int
    y: Tensor
    z_index: np.ndarray
    hyper: ExactHyper
    extensions: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True)
class Chosen:
    """What an encoder chose at a quality row, `[1, N, Y, X]` float32 each.

    Args:
        y_hat (`torch.Tensor`): the rebuilt latent.
        symbols (`torch.Tensor`): whole numbers.
        scales (`torch.Tensor`): standard deviations of the symbols.
        steps (`torch.Tensor`): what a symbol's step is in the domain of `y`.
        bits (`float`): of all symbols, by the coder's tables.
    """

    y_hat: Tensor
    symbols: Tensor
    scales: Tensor
    steps: Tensor
    bits: float


@dataclass(frozen=True)
class Symbols:
    """What a file says, decoded and checked.

    Args:
        header (`Header`): its front.
        row (`int`, *optional*): quality row; `None` where only the hyper-latent is known.
        y_hat (`torch.Tensor` of shape `[1, N, Y, X]`): the rebuilt latent, float32.
        semantic_seed (`torch.Tensor` of shape `[1, N, Z, V]`): input of the semantic adaptor.
        received (`float`): share of the file's bytes that are there; below 1 only for a file that was cut within its
            symbols.
        extensions (`tuple`): tag and content of what the file carries beside the picture.
    """

    header: Header
    row: int | None
    y_hat: Tensor
    semantic_seed: Tensor
    received: float = 1.0
    extensions: tuple[tuple[int, bytes], ...] = ()


class SymbolCoder:
    """Writes and reads the files of one model.

    Args:
        codec (`OneDCCodec`): whose FSQ names the hyper-latent's codes.
        entropy (`ExactEntropyModel`): its entropy model, on the device where that computes.
        symbols (`Callable`): gives the integers that coding needs, and the model's digest; asked for when a file is
            written or read.
    """

    def __init__(self, codec: OneDCCodec, entropy: ExactEntropyModel, symbols: Callable[[], SymbolModel]):
        self.codec, self.entropy, self._symbols = codec, entropy, symbols

    @cached_property
    def model(self) -> SymbolModel:
        """The integers that coding needs, and the model's digest."""
        return self._symbols()

    def hyper_synthesis(self, z_index: np.ndarray) -> ExactHyper:
        """What codes `[Z, V]` of the hyper-latent say."""
        codes = self.codec.z_vq.index_to_codes(torch.from_numpy(z_index)[None])
        return self.entropy.hyper_synthesis(codes.to(self.entropy.device))

    def row(self, quality: int) -> int:
        """Quality 0 to 100 to a row of gains."""
        return round(int(quality) * (self.entropy.quality_rows - 1) / 100)

    def quality(self, row: int | None) -> float:
        """A row of gains (`None`: z-only) to what the generator's quality embedding sees: 0 to 100, or -1."""
        if row is None:
            return -1.0
        return 100.0 * row / max(1, self.entropy.quality_rows - 1)

    # Write --------------------------------------------------------------------------------------------------------

    def encode_units(
        self, analysed: Analysed, row: int, write: Callable[[np.ndarray, np.ndarray], None], nearest: bool = False
    ) -> None:
        """Chooses symbols of `y` unit by unit at a quality row and hands them and scale indexes to `write`."""
        self._encode(analysed, row, lambda unit, symbols: write(symbols, unit.scale_index[0].cpu().numpy()), nearest)

    def _encode(
        self, analysed: Analysed, row: int, take: Callable[[CodingUnit, np.ndarray], None], nearest: bool = False
    ) -> Tensor:
        """The same, with the whole unit to `take`; the rebuilt latent `[1, N, Y, X]`."""
        weight = 0.0 if nearest else self.codec.rate_weight(torch.tensor(self.quality(row), dtype=torch.float32))

        def code(unit: CodingUnit) -> Tensor:
            symbols = clamp_symbols(unit.quantise(analysed.y, weight)[0].cpu().numpy())  # int32 [N/4, rows, X]
            take(unit, symbols)
            return torch.from_numpy(symbols)[None].to(unit.means.device)

        return self.entropy.code(analysed.hyper, self.entropy.gain(row), code)

    @torch.no_grad()
    def choose(self, analysed: Analysed, row: int) -> Chosen:
        """What `write` would code at a quality row, without writing it."""
        options = {"dtype": torch.float32, "device": analysed.hyper.means.device}
        folded = torch.empty(PASSES, 3, *analysed.hyper.means.shape, **options)
        bits = 0.0

        def take(unit: CodingUnit, symbols: np.ndarray) -> None:
            nonlocal bits
            index = unit.scale_index[0].cpu().numpy()
            bits += ideal_bits(symbols, index, self.model.tables, self.model.skip_index)
            parts = (torch.from_numpy(symbols), unit.scales, 1 / unit.factor)
            for part, values in zip(folded[unit.index], parts, strict=True):
                part[:, :, unit.rows] = values.to(part)

        y_hat = self._encode(analysed, row, take)
        whole = torch.empty(3, *analysed.y.shape, **options)
        for index in range(PASSES):
            for values, part in zip(whole, folded[index], strict=True):
                unfold_into(values, part, index)
        return Chosen(y_hat.clone(), *whole, bits=bits)

    def write(self, analysed: Analysed, row: int | None, nearest: bool = False) -> bytes:
        """One whole file at a quality row; `None` writes the hyper-latent alone.

        Args:
            analysed (`Analysed`): the picture.
            row (`int`, *optional*): the quality row.
            nearest (`bool`): take the nearest symbols, whatever their bits: for a latent that was quantised before.
        """
        writer = BitstreamWriter(
            self.model,
            width=analysed.width,
            height=analysed.height,
            quality_row=row if self.entropy.quality_rows > 1 else None,
            z_only=row is None,
            extensions=analysed.extensions,
        )
        writer.write_hyper(analysed.z_index)
        if row is not None:
            self.encode_units(analysed, row, writer.write_unit, nearest)
        return writer.finish()

    def write_within(self, analysed: Analysed, budget: int) -> bytes:
        """The best file of at most `budget` bytes: search on table bits, then step down until it really fits.

        Raises:
            TargetError: if even the smallest file is larger.
        """
        smallest = self.write(analysed, None)
        budget = min(budget, ANY_SIZE)
        if len(smallest) > budget:
            raise TargetError(
                f"The target of {budget} bytes is too small for this {analysed.width}x{analysed.height} picture: the "
                f"smallest file possible has {len(smallest)} bytes.",
                smallest=len(smallest),
            )
        if self.codec.config.z_only:
            return smallest

        def estimate(row: int) -> float:
            bits = 0.0

            def count(symbols: np.ndarray, index: np.ndarray) -> None:
                nonlocal bits
                bits += ideal_bits(symbols, index, self.model.tables, self.model.skip_index)

            self.encode_units(analysed, row, count)
            expected[row] = bits / 8 + len(bare) + _OVERHEAD_BYTES - _Z_ONLY_OVERHEAD_BYTES
            return expected[row]

        # What comes beside the picture is the same in every row, and would hide how sizes grow from row to row.
        bare = self.write(replace(analysed, extensions=()), None)
        room = budget - (len(smallest) - len(bare))
        expected: dict[int, float] = {}
        row = search_row(estimate, self.entropy.quality_rows, room)
        best, over = smallest, self.entropy.quality_rows
        while 0 <= row < over and expected.get(row, 0.0) <= 1.005 * room + 8:  # as far as an estimate may be off
            data = self.write(analysed, row)
            if len(data) <= budget:
                best, row = data, row + 1
            elif best is smallest:
                over, row = row, row - 1
            else:
                break
        return best

    def prove(self, data: bytes, analysed: Analysed) -> None:
        """Decodes the symbols of a file that was just written.

        Raises:
            EncodeError: if they are not what was coded.
        """
        try:
            reader = BitstreamReader(data, self.model)
            if not np.array_equal(reader.read_hyper(), analysed.z_index):
                raise Corrupt("The hyper-latent differs.")
            # The same codes give the same parameters; what the passes make of them is computed once more.
            if reader.header.kind != Kind.Z_ONLY:
                self._decode_units(reader, reader.header.quality_row or 0, analysed.hyper)
            reader.finish()
        except BitstreamError as error:
            raise EncodeError(
                f"The file that was just written does not decode on this machine, so it is not handed out ({error}) "
                "Try another device, and check memory and installation."
            ) from error

    # Read ---------------------------------------------------------------------------------------------------------

    def read(
        self,
        data: bytes | bytearray | memoryview,
        allow_partial: bool = False,
        preview: bool = False,
        max_pixels: int | None = None,
    ) -> Symbols:
        """Decodes and checks everything in a file; tensors are on the entropy model's device.

        Args:
            data (`bytes`): the file.
            allow_partial (`bool`): also read what arrived of a file that was cut, with a warning.
            preview (`bool`): stop after the hyper-latent.
            max_pixels (`int`, *optional*): the largest picture that is read.

        Raises:
            BitstreamError: for bytes that this model cannot decode; the subclass and text say why.
        """
        sections = sections_before_cut(data) if allow_partial else None
        cut = allow_partial and sections is None and is_cut(data)
        try:
            reader = PartialReader(data, self.model) if cut else BitstreamReader(sections or data, self.model)
        except WrongModel as error:
            if sections is not None:
                raise Truncated(
                    f"The end of the file is missing or damaged, and its model id {error.wanted} is not that of the "
                    f"model at hand ({error.at_hand}): it was written by another model, or is damaged there, too."
                ) from None
            raise WrongModel(error.wanted, error.at_hand, where_to_get(error.wanted)) from None
        header = reader.header
        if (reason := too_large(header.width, header.height, max_pixels)) is not None:
            raise TooLarge(
                f"The file states a picture of {reason}. If you trust it, set the pipeline's `max_pixels` (or "
                "--max-pixels)."
            )
        if isinstance(reader, BitstreamReader) and sections is None:  # a damaged end is taken as far as it goes
            check_beside(reader.extensions, header.height, header.width)
        hyper = self.hyper_synthesis(reader.read_hyper())
        row = None if header.kind == Kind.Z_ONLY or preview else (header.quality_row or 0)
        y_hat = self._decode_units(reader, row, hyper)
        received = 1.0
        if isinstance(reader, PartialReader):
            received = header.size / reader.whole_size
            row = row if reader.certain else None
            warn_user(
                f"The file is cut: {header.size:,} of its {reader.whole_size:,} bytes are there ({received:.0%}); the "
                "rest is filled in by the model. Only the hyper-latent is verified."
            )
        elif not preview:
            reader.finish()
        extensions = () if isinstance(reader, PartialReader) else reader.extensions
        if sections is not None:
            extensions = readable_extensions(sections)
            of = "Of" if preview else "The picture is whole; of"
            warn_user(
                f"The end of the file is missing or damaged. {of} what comes beside it (alpha, metadata) there is only "
                "what arrived, unverified."
            )
        return Symbols(header, row, y_hat, hyper.semantic_seed, received, extensions)

    def _decode_units(self, reader: BitstreamReader | PartialReader, row: int | None, hyper: ExactHyper) -> Tensor:
        """Reads the four passes of `y` at a quality row; `None`: every pass takes its means."""

        def code(unit: CodingUnit) -> Tensor | None:
            if row is None:
                return None
            symbols = reader.read_unit(unit.scale_index[0].cpu().numpy())  # [N/4, rows, X]
            return None if symbols is None else torch.from_numpy(symbols)[None].to(unit.means.device)

        return self.entropy.code(hyper, self.entropy.gain(row or 0), code)
