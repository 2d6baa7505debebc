"""The VAE's attention in patches, as the paper's program applies it (spec section 5).

The one attention layer in the middle of an `AutoencoderKL`, with its GroupNorm and its skip, sees patches of 16x16
latent positions from the top left, smaller ones at the right and lower edge, and nothing beyond them. So a large
picture builds no huge attention matrix.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

__all__ = ["PatchAttnProcessor", "attend_in_patches"]


class PatchAttnProcessor:
    """Applies an attention layer to each patch of a map by itself.

    Args:
        patch (`int`): side of a patch, in positions.
    """

    def __init__(self, patch: int):
        self.patch = patch
        self._whole = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """`[B, C, h, w]` to the same shape; the other arguments are those of every processor, and stay unused."""
        result = torch.empty_like(hidden_states)
        for top in range(0, hidden_states.shape[2], self.patch):
            for left in range(0, hidden_states.shape[3], self.patch):
                place = (..., slice(top, top + self.patch), slice(left, left + self.patch))
                result[place] = self._whole(attn, hidden_states[place].contiguous(), temb=temb)
        return result


def attend_in_patches(vae: AutoencoderKL, patch: int) -> None:
    """Makes the attention of encoder and decoder patch-wise, in place; `patch` 0 leaves it as it is."""
    for half in (vae.encoder, vae.decoder):
        for attention in half.mid_block.attentions if patch else ():
            if attention is not None:
                attention.set_processor(PatchAttnProcessor(patch))
