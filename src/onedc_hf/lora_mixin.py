"""What a pipeline offers of adapters, by diffusers' names."""

from __future__ import annotations

import math
import os
from typing import Any

from .lora import adapter_id, delete_adapters, load_adapter, save_adapter, unload_adapters
from .lora_acting import active_adapters, choose_adapters
from .models import OneDCGenerator
from .models.adapters import added_adapters

__all__ = ["LoraMixin"]


class LoraMixin:
    """Adapters of a pipeline with a `generator`."""

    generator: OneDCGenerator

    def load_lora_weights(
        self,
        pretrained_model_name_or_path: str | os.PathLike[str],
        weight_name: str | None = None,
        adapter_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Loads a LoRA adapter of the generator; adapters that are loaded already stay and add up.

        It changes how files look, not which files can be read. Files that are written while it is loaded name it
        (`adapter_id`), and a pipeline without it says so when it decodes them. Needs peft.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): folder, `.safetensors` file, or repository id.
            weight_name (`str`, *optional*): the file's name, if it is not `pytorch_lora_weights.safetensors`.
            adapter_name (`str`, *optional*): what to call it; by default `"default"`, or `"beside"` where the model
                owns an adapter of that name.
            kwargs: `subfolder`, `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            ModelError: if there is no such file, it does not fit this model, or the name is taken.
        """
        load_adapter(self.generator, pretrained_model_name_or_path, weight_name, adapter_name, pipeline=self, **kwargs)

    def unload_lora_weights(self) -> None:
        """Takes all loaded adapters off: the model is then what it was before, bit for bit."""
        unload_adapters(self.generator)

    def save_lora_weights(self, save_directory: str | os.PathLike[str], adapter_name: str | None = None) -> None:
        """Saves a loaded or trained adapter as `pytorch_lora_weights.safetensors`, which `load_lora_weights` reads.

        Args:
            save_directory (`str` or `os.PathLike`): made if it does not exist.
            adapter_name (`str`, *optional*): which one, where there are several.

        Raises:
            ModelError: if there is no such adapter, or a file where the folder is to be.
        """
        save_adapter(self.generator, save_directory, adapter_name)

    def set_adapters(self, adapter_names: str | list[str], adapter_weights: float | list[float] | None = None) -> None:
        """Chooses which of the loaded adapters act, and how strongly; the others are silent, and stay loaded.

        An adapter that the model owns is a part of it and goes on as before. So do parts that an adapter replaced whole
        (`conv_in`, `vae_reduction`), at any strength: `delete_adapters` puts back what was there.

        Args:
            adapter_names (`str` or `list[str]`): those that are to act; an empty list silences all.
            adapter_weights (`float` or `list[float]`, *optional*): factors of the strengths that they were trained
                with, one for all or one each; by default 1.

        Raises:
            ModelError: if no such adapter is loaded, or one was fused into the weights.
            ValueError: if there are not as many weights as names, or one is no finite number.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        choose_adapters(self.generator, dict(zip(names, _weights(adapter_weights, len(names)), strict=True)))

    def get_active_adapters(self) -> list[str]:
        """Names of the loaded adapters that act; one that the model owns is not among them."""
        return active_adapters(self.generator)

    def get_list_adapters(self) -> dict[str, list[str]]:
        """Names of the loaded adapters under `"unet"`, as diffusers gives them; an empty dictionary without any."""
        names = list(added_adapters(self.generator))
        return {"unet": names} if names else {}

    def delete_adapters(self, adapter_names: str | list[str]) -> None:
        """Takes some adapters off and puts back what they replaced; the others stay.

        Raises:
            ModelError: if no such adapter is loaded, or one was fused into the weights.
        """
        delete_adapters(self.generator, [adapter_names] if isinstance(adapter_names, str) else list(adapter_names))

    @property
    def adapter_id(self) -> str | None:
        """SHA-256 of the LoRA adapters that act, 64 hex digits; `None` without one."""
        return adapter_id(self.generator)


def _weights(given: float | list[float] | None, count: int) -> list[float]:
    if isinstance(given, dict) or (isinstance(given, list | tuple) and any(isinstance(one, dict) for one in given)):
        raise ValueError("`adapter_weights` are numbers; by block, `generator.unet.set_adapters` sets strengths.")
    weights = list(given) if isinstance(given, list | tuple) else [given] * count
    if len(weights) != count:
        raise ValueError(
            f"`adapter_weights` has {len(weights)} numbers for {count} names: give one each, or one for all."
        )
    weights = [1.0 if weight is None else float(weight) for weight in weights]
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"`adapter_weights` must be finite numbers; got {given}.")
    return weights
