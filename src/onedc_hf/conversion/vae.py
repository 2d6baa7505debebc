"""The Stable Diffusion VAE: stock, from a folder or the Hub, where it stands alone or in a subfolder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from huggingface_hub import try_to_load_from_cache

from ..errors import ConversionError
from ..models.whole import weight_files

__all__ = ["load_vae", "vae_files"]

_PLACES = ("vae", "")  # subfolders of a repository where it may be
_WEIGHTS = ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors")
_SHOWN = 8  # names in a message


def load_vae(source: str) -> AutoencoderKL:
    """Loads the VAE of a folder or repository, in float32.

    Raises:
        ConversionError: if there is none, or its weights are not exactly those of the model.
    """
    folder = Path(source)
    if folder.is_dir() and not any((folder / place / "config.json").is_file() for place in _PLACES):
        raise ConversionError(f"vae: {source} holds no config.json, nor does its subfolder vae.")
    options: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    failure: Exception | None = None
    for place in _PLACES:
        if folder.is_dir() and not (folder / place / "config.json").is_file():
            continue
        try:
            loaded: Any = AutoencoderKL.from_pretrained(source, subfolder=place or None, **options)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            failure = failure or error
            if folder.is_dir():  # what `vae_files` names is what is loaded, or nothing
                break
            continue
        vae, info = loaded
        _refuse(source, info)
        return vae
    raise ConversionError(f"vae: no AutoencoderKL could be loaded from {source!r} ({failure})") from failure


def _refuse(source: str, info: dict[str, Any]) -> None:
    """Refuses what diffusers only warns of: tensors that are missing, which it fills at random, or left over."""
    found = {
        "lacks": sorted(info["missing_keys"]),
        "has in another shape": sorted(name for name, *_ in info["mismatched_keys"]),
        "holds tensors that have no place here:": sorted(info["unexpected_keys"]),
    }
    told = [
        f"{what} {', '.join(names[:_SHOWN])}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for what, names in found.items()
        if names
    ]
    if told:
        raise ConversionError(
            f"vae: {source} does not hold exactly the weights that its config.json asks for: it {', and '.join(told)}. "
            "Get its files again; is it the VAE of Stable Diffusion?"
        )


def vae_files(source: str) -> list[tuple[Path, dict[str, str]]]:
    """The weight files that `load_vae` has read, each with the repository and revision it came from, if any."""
    folder = Path(source)
    for place in _PLACES:
        if folder.is_dir():
            if (folder / place / "config.json").is_file():
                return [(path, {}) for path in weight_files(folder / place, kinds=["safetensors"])]
            continue
        for name in _WEIGHTS:
            cached = try_to_load_from_cache(source, f"{place}/{name}" if place else name)
            if isinstance(cached, str):
                parts = Path(cached).parts
                origin = {"repository": source, "revision": parts[parts.index("snapshots") + 1]}
                return [(path, origin) for path in weight_files(Path(cached).parent, kinds=["safetensors"])]
    return []
