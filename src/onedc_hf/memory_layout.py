"""Where a model's weights lie in memory, and in which order."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .compiled import plain
from .models import OneDCAutoencoder

__all__ = ["settle"]


@torch.no_grad()
def settle(module: torch.nn.Module, parameters: Iterable[torch.nn.Parameter] | None = None) -> None:
    """Puts a model's CPU weights, or some of them, into fresh memory, in the layout that suits them.

    Weights read from a memory-mapped file lie at odd addresses, and CPU kernels then add in another order: without
    this a loaded model's pictures differ in the last bit from those of the model that was saved.

    Channels last is faster, but torch's GroupNorm for it sums without care: errors of 1e-4 of the largest magnitude in
    a VAE where the other layout keeps to 3e-6. So in float32 only models that were made for a CPU, with LayerNorms,
    have it. Half precision is coarser than that anyway, and on a processor without it the other layout takes 30 times
    as long (a 3x3 convolution of 128 channels on 64x64 positions in bfloat16: 4.3 s against 0.14 s on one AVX2 core).
    """
    module = plain(module)
    config = module.config
    made_for_cpu = (
        isinstance(module, OneDCAutoencoder)
        or getattr(config, "trunk", "") == "lite"
        or getattr(config, "norm", "") == "channel"
    )
    for parameter in module.parameters() if parameters is None else parameters:
        if parameter.device.type == "cpu":
            half = parameter.dtype in (torch.bfloat16, torch.float16)
            channels_last = (made_for_cpu or half) and parameter.dim() == 4
            layout = torch.channels_last if channels_last else torch.contiguous_format
            parameter.data = parameter.data.clone(memory_format=layout)
