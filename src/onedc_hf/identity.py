"""Which decoder side rebuilt a picture: a fact for those who keep files, and never a reason to refuse one.

A file depends on the entropy model alone; synthesis, generator and VAE decoder may be trained further, and old files
look better for it. Who wants to know whether a picture looks as it did on the day of compressing can have four bytes of
the decoder side's digest in the file (`compress(..., name_decoder=True)`); another decoder then says so in a warning.
"""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import torch
from torch import nn

from .coding import Tag
from .errors import Corrupt

__all__ = ["decoder_digest", "pack_decoder", "warn_of_another_decoder"]

_BYTES = 4
# By component, prefixes of the weights that act after decoding; empty: all of them.
_DECODER_SIDE = {"codec": ("semantic_adaptor.", "dec."), "generator": ("",), "vae": ("decoder.", "post_quant_conv.")}


def decoder_digest(components: dict[str, nn.Module]) -> str:
    """SHA-256 of the decoder side's weights, 64 hex digits.

    Weights count as bfloat16, so that a model has one id in every precision it is loaded in. (One that is stored in
    float32 and loaded in float16 has another: rounded twice, it is another.)

    Args:
        components (`dict`): a pipeline's `codec`, `generator` and `vae`.
    """
    sha = hashlib.sha256()
    for component, prefixes in _DECODER_SIDE.items():
        for name, tensor in sorted(components[component].state_dict().items()):
            if name.startswith(prefixes):
                values = tensor.detach().cpu().to(torch.bfloat16).float().contiguous().numpy().astype("<f4")
                sha.update(f"{component}.{name}:{list(values.shape)}\n".encode())
                sha.update(np.ascontiguousarray(values).tobytes())
    return sha.hexdigest()


def pack_decoder(decoder_id: str) -> tuple[int, bytes]:
    """The extension that names a decoder side."""
    return int(Tag.IDENTITY), bytes.fromhex(decoder_id)[:_BYTES]


def warn_of_another_decoder(named: bytes, decoder_id: str) -> None:
    """A `UserWarning` where the extension of a file names another decoder side.

    Raises:
        Corrupt: if the extension is damaged.
    """
    if len(named) != _BYTES:
        raise Corrupt(f"The file names its decoder with {len(named)} bytes instead of {_BYTES}.")
    if named != bytes.fromhex(decoder_id)[:_BYTES]:
        warnings.warn(
            f"The file was checked against the decoder {named.hex()}, this one is {decoder_id[: 2 * _BYTES]}: the "
            "picture is the same, its synthesised detail may look different.",
            stacklevel=3,
        )
