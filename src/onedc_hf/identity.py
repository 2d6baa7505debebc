"""Which decoder side rebuilt a picture: a fact for those who keep files, and never a reason to refuse one.

A file depends on the entropy model alone; synthesis, generator and VAE decoder may be trained further, and old files
look better for it. Who wants to know whether a picture looks as it did on the day of compressing can have four bytes of
the decoder side's digest in the file (`compress(..., name_decoder=True)`); another decoder then says so in a warning.

A LoRA adapter (lora.py) is named apart from the decoder that it was put onto, and always: who loaded one for
compressing wants it for decompressing, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .beside import NAME_BYTES, check_name
from .coding import Tag
from .compiled import plain
from .errors import ModelError
from .models import OneDCGenerator
from .models.adapters import base_state
from .user_warning import warn_user

__all__ = [
    "decoder_digest",
    "pack_adapter",
    "pack_decoder",
    "update_digest",
    "warn_of_another_adapter",
    "warn_of_another_decoder",
    "weights_seen",
]

# By component, prefixes of the weights that act after decoding; empty: all of them.
_DECODER_SIDE = {
    "codec": ("semantic_adaptor.", "dec."),
    "generator": ("",),
    "vae": ("decoder.", "noise_", "post_quant_conv."),
}


def decoder_digest(components: dict[str, nn.Module]) -> str:
    """SHA-256 of the decoder side's weights, 64 hex digits; of a generator with a LoRA adapter, without it.

    Args:
        components (`dict`): a pipeline's `codec`, `generator` and `vae`.
    """
    sha = hashlib.sha256()
    for component, prefixes in _DECODER_SIDE.items():
        module = plain(components[component])
        state = base_state(module) if isinstance(module, OneDCGenerator) else module.state_dict()
        ours = ((f"{component}.{name}", tensor) for name, tensor in sorted(state.items()) if name.startswith(prefixes))
        update_digest(sha, ours)
    return sha.hexdigest()


def weights_seen(components: dict[str, nn.Module]) -> tuple[tuple[int, int], ...] | None:
    """Which tensors a decoder side consists of, and how often each was written to; `None` if some are put away."""
    tensors = [tensor for name in _DECODER_SIDE for tensor in components[name].state_dict(keep_vars=True).values()]
    if any(tensor.is_meta for tensor in tensors):
        return None
    return tuple((id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)


def update_digest(sha: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Hashes names, shapes and values of weights.

    They count as bfloat16, so that a model has one id in every precision it is loaded in. (One that is stored in
    float32 and loaded in float16 has another: rounded twice, it is another.)
    """
    for name, tensor in weights:
        if tensor.is_meta:
            raise ModelError(f"{name} is put away (sequential offload): ask for the id before offloading.")
        values = tensor.detach().cpu().to(torch.bfloat16).float().contiguous().numpy().astype("<f4")
        sha.update(f"{name}:{list(values.shape)}\n".encode())
        sha.update(np.ascontiguousarray(values).tobytes())


def pack_decoder(decoder_id: str) -> tuple[int, bytes]:
    """The extension that names a decoder side."""
    return int(Tag.IDENTITY), bytes.fromhex(decoder_id)[:NAME_BYTES]


def warn_of_another_decoder(named: bytes, decoder_id: str) -> None:
    """A `UserWarning` where the extension of a file names another decoder side.

    Raises:
        Corrupt: if the extension is damaged.
    """
    check_name(named, "decoder")
    if named != bytes.fromhex(decoder_id)[:NAME_BYTES]:
        warn_user(
            f"The file was checked against the decoder {named.hex()}, this one is {decoder_id[: 2 * NAME_BYTES]}: the "
            "picture is the same, its synthesised detail may look different."
        )


def pack_adapter(adapter_id: str) -> tuple[int, bytes]:
    """The extension that names a LoRA adapter."""
    return int(Tag.ADAPTER), bytes.fromhex(adapter_id)[:NAME_BYTES]


def warn_of_another_adapter(named: bytes, adapter_id: str | None) -> None:
    """A `UserWarning` where the extension of a file names another adapter than the one at hand (`None`: none).

    Raises:
        Corrupt: if the extension is damaged.
    """
    check_name(named, "adapter")
    if adapter_id is None or named != bytes.fromhex(adapter_id)[:NAME_BYTES]:
        at_hand = "this pipeline has none" if adapter_id is None else f"this one is {adapter_id[: 2 * NAME_BYTES]}"
        warn_user(
            f"The file was made with the adapter {named.hex()}, {at_hand}: the picture is the same, its synthesised "
            "detail may look different. Load the adapter with `load_lora_weights` (or --lora)."
        )
