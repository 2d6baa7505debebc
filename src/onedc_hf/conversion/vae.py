"""The Stable Diffusion VAE: stock, from a folder or the Hub, where it stands alone or in a subfolder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from huggingface_hub import try_to_load_from_cache

from ..errors import ConversionError

__all__ = ["load_vae", "vae_files"]

_PLACES = ("vae", "")  # subfolders of a repository where it may be
_WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_vae(source: str) -> AutoencoderKL:
    """Loads the VAE of a folder or repository, in float32.

    Raises:
        ConversionError: if there is none.
    """
    folder = Path(source)
    if folder.is_dir() and not any((folder / place / "config.json").is_file() for place in _PLACES):
        raise ConversionError(f"vae: {source} holds no config.json, nor does its subfolder vae.")
    options: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32}
    failure: Exception | None = None
    for place in _PLACES:
        if folder.is_dir() and not (folder / place / "config.json").is_file():
            continue
        try:
            return AutoencoderKL.from_pretrained(source, subfolder=place or None, **options)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            failure = failure or error
    raise ConversionError(f"vae: no AutoencoderKL could be loaded from {source!r} ({failure})") from failure


def vae_files(source: str) -> list[tuple[Path, dict[str, str]]]:
    """The weight files that `load_vae` has read, each with the repository and revision it came from, if any."""
    folder = Path(source)
    for place in _PLACES:
        if folder.is_dir():
            if (folder / place / "config.json").is_file():
                return [(path, {}) for path in sorted((folder / place).glob("diffusion_pytorch_model*.safetensors"))]
            continue
        cached = try_to_load_from_cache(source, f"{place}/{_WEIGHTS}" if place else _WEIGHTS)
        if isinstance(cached, str):
            parts = Path(cached).parts
            return [(Path(cached), {"repository": source, "revision": parts[parts.index("snapshots") + 1]})]
    return []
