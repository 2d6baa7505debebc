"""Captions as a diffusion model's U-Net sees them: CLIP's last hidden state.

Shapes: B batch, T tokens (77), E width (768 for Stable Diffusion 1.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPTextModel

__all__ = ["CaptionEncoder"]


class CaptionEncoder:
    """Tokenizer and frozen text encoder.

    Args:
        tokenizer (`CLIPTokenizer`): texts are padded, or cut, to its `model_max_length`.
        encoder (`CLIPTextModel`): frozen here.
    """

    def __init__(self, tokenizer: Any, encoder: CLIPTextModel):
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> CaptionEncoder:
        """From the sub-folders `tokenizer` and `text_encoder` of a diffusers model."""
        from transformers import CLIPTextModel, CLIPTokenizer

        encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", dtype=torch.float32)
        return cls(CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"), encoder.to(device))

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """The texts' embeddings, `[B, T, E]`."""
        tokens = self.tokenizer(
            list(captions),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return self.encoder(tokens.input_ids.to(self.encoder.device)).last_hidden_state
