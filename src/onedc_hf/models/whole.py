"""Refuses weights that are not all there: a layer that nobody trained would give pictures that are wrong in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ..errors import ModelError

__all__ = ["WholeWeights", "check_stored", "weight_files"]

_STEM = "diffusion_pytorch_model"
# Attention in older files; diffusers renames it on loading, but not in sharded ones.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"\.(query|key|value|proj_attn)\.(weight|bias)$")


class WholeWeights:
    """A mixin before `PreTrainedModel` or `ModelMixin`, which only log what is missing and start it at random."""

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in the library that it stands before.

        Raises:
            ModelError: if the file has no weights for some layer, and nobody asked for the list of them
                (`output_loading_info`).
        """
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        if output_loading_info:
            return loaded
        model, info = loaded
        _refuse(cls.__name__, info["missing_keys"])
        return model


def _refuse(name: str, missing: Iterable[str]) -> None:
    names = sorted(missing)
    if names:
        raise ModelError(
            f"The weights of this {name} are not whole: {len(names)} tensors are missing, among them {names[0]}. Get "
            "the file again, or save the model again."
        )


def weight_files(folder: Path, variant: str | None = None, kinds: Sequence[str] = ("safetensors", "bin")) -> list[Path]:
    """The files that diffusers reads a model of its own from: of a kind, the shards of an index, or else one file.

    Args:
        folder (`Path`): with the model's `config.json`.
        variant (`str`, *optional*): such as `fp16`; where there are no such files, the plain ones are read.
        kinds (list of `str`): in their order.
    """
    for kind in kinds:
        for middle in [f".{variant}"] * bool(variant) + [""]:
            index = folder / f"{_STEM}.{kind}.index{middle}.json"
            if index.is_file():
                places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                return [folder / name for name in sorted(set(places.values()))]
            if (folder / f"{_STEM}{middle}.{kind}").is_file():
                return [folder / f"{_STEM}{middle}.{kind}"]
    return []


def check_stored(model: nn.Module, files: Sequence[Path]) -> None:
    """As `WholeWeights`, for a model of a class that is not ours and was loaded already; reads names alone.

    Args:
        model (`nn.Module`): the model.
        files (list of `Path`): what it was loaded from.

    Raises:
        ModelError: if the files have no weights for some layer.
    """
    stored = {name for path in files for name in _names(path)}
    if len(files) == 1:
        stored |= {_OLD_NAME.sub(lambda old: f".{_OLD_NAMES[old[1]]}.{old[2]}", name) for name in stored}
    _refuse(type(model).__name__, (name for name, _ in model.named_parameters() if name not in stored))


def _names(path: Path) -> list[str]:
    if path.suffix == ".safetensors":
        with safe_open(str(path), "pt") as file:
            return list(file.keys())
    return list(torch.load(path, map_location="meta", weights_only=True))
