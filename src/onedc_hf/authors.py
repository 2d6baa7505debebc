"""Files of the authors' program: their symbols by the float entropy model, which a converted model keeps for this.

Their program decides symbols by floats, so a file decodes where the arithmetic agrees with that of the machine that
wrote it (spec section 11.1). Here it is float32 on the CPU, wherever the rest of the model runs; a file that was
written by other arithmetic is noticed at its end, and refused.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from .coding.authors import AuthorsFile, read_authors_file
from .coding.header import MAGIC, Header, Kind
from .coding.rans import RansDecoder
from .coding.tables import paper_tables
from .models import OneDCCodec
from .models.context import CodingPass, fold, unfold

__all__ = ["decode_authors_file", "header_of", "is_authors_file"]

# The float entropy model is not coded in strips and the entropy coder is plain Python: the program's own files are of
# photographs, and a few bytes must not ask for all memory.
MAX_PIXELS = 1 << 25


def is_authors_file(data: bytes | bytearray | memoryview, codec: OneDCCodec) -> bool:
    """Whether bytes are to be read as a file of the authors' program: the model can, and they are no `.odc` file."""
    return codec.authors_entropy is not None and bytes(data[:2]) != MAGIC


def decode_authors_file(
    data: bytes, codec: OneDCCodec, *, max_pixels: int | None = None, preview: bool = False
) -> tuple[AuthorsFile, Tensor, Tensor]:
    """Decodes a `.bin` file without rebuilding the picture.

    Args:
        data (`bytes`): the file.
        codec (`OneDCCodec`): of a converted model, with `authors_entropy`.
        max_pixels (`int`, *optional*): larger pictures are refused, and those of more than 33 megapixels always.
        preview (`bool`): stop after the hyper-latent; every pass then takes its means.

    Returns:
        `tuple`: what the file holds, the rebuilt latent `[1, N, Y, X]`, and the semantic seed `[1, N, Z, V]`; float32
        on the CPU.

    Raises:
        BitstreamError: for a file that is damaged, or was written with another model or by other arithmetic.
    """
    entropy = codec.authors_entropy
    assert entropy is not None, "see `is_authors_file`"
    limit = min(max_pixels or MAX_PIXELS, MAX_PIXELS)
    file = read_authors_file(data, codec.z_vq.levels, limit)
    if entropy.gain_steps.device.type != "cpu":
        entropy = copy.deepcopy(entropy).to("cpu")
    codes = codec.z_vq.index_to_codes(torch.from_numpy(file.z_index)[None]).to(entropy.dtype)
    hyper = entropy.hyper_synthesis(codes)
    decoder = RansDecoder(file.y_stream, paper_tables())

    def code(step: CodingPass) -> Tensor | None:
        if preview:
            return None
        index = fold(entropy.scale_index(step.scales, 0), step.index)[0]  # [N/4, Y, X]
        symbols = torch.from_numpy(decoder.read(index.numpy()))[None]
        return unfold(symbols.to(step.means), step.index)

    y_hat = entropy.run_passes(hyper, entropy.gain(0), code)
    if not preview:
        decoder.finish()
    return file, y_hat.float(), hyper.semantic_seed.float()


def header_of(file: AuthorsFile) -> Header:
    """The facts of a `.bin` file in the form that those of an `.odc` file have."""
    return Header(
        width=file.width,
        height=file.height,
        kind=Kind.ONE_LEVEL,
        quality_row=None,
        model_id="",
        version=0,
        z_coded=False,
        extended=False,
        size=file.size,
        checked_bytes=b"",
        stream_start=0,
        stream_bytes=None,
    )
