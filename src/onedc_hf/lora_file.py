"""What an adapter's file holds, read with care: it may come from a stranger.

`pytorch_lora_weights.safetensors` of diffusers: `unet.X.lora_A.weight` and `unet.X.lora_B.weight` for each wrapped
layer X, whole tensors beside them, peft's `LoraConfig` as JSON in the metadata.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import ModelError
from .models.adapters import PARTS

__all__ = ["LORA_A", "LORA_B", "METADATA_KEY", "UNET", "WEIGHTS_NAME", "known_settings", "read_adapter"]

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
UNET = "unet."
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
METADATA_KEY = "lora_adapter_metadata"  # diffusers' name

# peft reads names as regular expressions, and one from a stranger's file could take for ever: these mean themselves.
_NAME = re.compile(r"\^?[\w.]+")
_LONGEST_NAME = 200
_LARGEST_ALPHA, _MOST_ALPHAS = 1e6, 500  # a U-Net has half as many layers
# Fields that mean nothing for an adapter that is loaded and only used, or that its tensors tell.
_IDLE_FIELDS = (
    "r", "target_modules", "exclude_modules", "rank_pattern", "layers_to_transform", "layers_pattern",
    "auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "lora_dropout", "peft_type",
    "peft_version", "revision", "task_type",
)  # fmt: skip


def read_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors of an adapter's file, and its `LoraConfig` as a dictionary (`None`: other programs may not write it)."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        settings = json.loads(metadata[METADATA_KEY]) if METADATA_KEY in metadata else None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no whole safetensors file ({error}). Get it again.") from error
    if settings is not None:
        if not isinstance(settings, dict):
            raise ModelError(f"{path}: the settings in its metadata are no JSON object. Get or save it again.")
        settings = {key.removeprefix(UNET): value for key, value in settings.items() if key.startswith(UNET)}
    known = tuple(PARTS.values())
    halves = {name for name in tensors if name.startswith(UNET) and name.endswith((LORA_A, LORA_B))}
    strange = [name for name in tensors if name not in halves and not name.startswith(known)]
    if strange or not any(name.endswith(LORA_B) for name in tensors):
        what = f"{len(strange)} tensors such as {strange[0]!r}" if strange else "no `unet.*.lora_B.weight`"
        raise ModelError(
            f"{path} holds {what}: it is no adapter of a OneDC generator. `save_lora_weights` writes one, and so does "
            "training with LoRA."
        )
    return tensors, settings


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST_ALPHA  # not so for NaN


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NAME and _NAME.fullmatch(value) is not None


def _is_alphas(value: Any) -> bool:
    few = isinstance(value, dict) and len(value) <= _MOST_ALPHAS
    return few and all(map(_is_name, value)) and all(map(_is_number, value.values()))


# Fields of peft's `LoraConfig` that say how strongly an adapter acts, and what they may be.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "lora_alpha": _is_number,
    "alpha_pattern": _is_alphas,
    "use_rslora": lambda value: isinstance(value, bool),
}


def known_settings(
    settings: dict[str, Any], defaults: dict[str, Any], layers: dict[str, Tensor], path: Path
) -> dict[str, Any]:
    """What counts of a `LoraConfig`; one that would do something else to the model is refused.

    On which layers an adapter acts, and with which ranks, its tensors say. So nothing of a file is handed to peft that
    peft would read as a regular expression, or make room for.

    Args:
        settings: from the file.
        defaults: of peft.
        layers: the file's tensors.
        path: of the file.
    """
    downs = {name.removesuffix(LORA_A): tensor for name, tensor in layers.items() if name.endswith(LORA_A)}
    ranks = {name.removeprefix(UNET): len(tensor) for name, tensor in downs.items()}
    for name, valid in _FIELDS.items():
        if name in settings and not valid(settings[name]):
            shown = repr(settings[name])
            raise ModelError(
                f"{path}: `{name}` of this adapter is {shown[:80]}{'...' * (len(shown) > 80)}, and that is not taken "
                "from a file: strengths are numbers, and the layers that they are for are named in full."
            )
    for name, value in settings.items():
        if name not in _FIELDS and name not in _IDLE_FIELDS and value and value != defaults.get(name):
            raise ModelError(
                f"{path}: this adapter uses `{name}` = {value!r} of peft, which is not supported here. A plain LoRA is."
            )
    rank = Counter(ranks.values()).most_common(1)[0][0]
    if not settings.get("rank_pattern") and set(ranks.values()) != {settings.get("r")}:
        found = sorted(set(ranks.values()))
        raise ModelError(f"{path}: this adapter has rank {found}, its settings say {settings.get('r')!r}.")
    targets = settings.get("target_modules")
    if not (isinstance(targets, list) and len(targets) <= len(ranks) and all(map(_is_name, targets))):
        targets = list(ranks)
    return {name: settings[name] for name in _FIELDS if name in settings} | {
        "r": rank,
        "rank_pattern": {f"^{name}": other for name, other in ranks.items() if other != rank},
        "target_modules": targets,
    }
