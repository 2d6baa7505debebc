"""LoRA adapters of the generator: load, unload, save, and their id.

The file is read in lora_file.py, which adapters act is kept track of in lora_acting.py; lora_mixin.py is what a
pipeline offers of all this. Where they were trained with the adapter (spec section 4), `unet.conv_in.*` and
`vae_reduction.*` are replaced whole.

An adapter changes pixels and never symbols: with it and without it a pipeline reads the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from .adapter_base import BASE_FIELD, name_base, warn_of_another_base
from .errors import ModelError
from .identity import update_digest
from .lora_acting import Acting, beside_others, lora_layers, refuse_fused, refuse_unknown
from .lora_file import LORA_A, LORA_B, METADATA_KEY, UNET, WEIGHTS_NAME, known_settings, read_adapter
from .memory_layout import settle
from .models import OneDCGenerator
from .models.adapters import BESIDE_ADAPTER, OWN_ADAPTER, PARTS, Adapter, added_adapters, base_state, wrappable_layers
from .saving import make_folder, write_atomically
from .sources import fetch_weights

if TYPE_CHECKING:
    from peft import LoraConfig

__all__ = [
    "adapter_id",
    "check_name",
    "delete_adapters",
    "load_adapter",
    "make_lora_config",
    "part_names",
    "save_adapter",
    "unload_adapters",
]


def make_lora_config(**options: Any) -> LoraConfig:
    """A `LoraConfig` of peft.

    Raises:
        ModelError: if peft is not installed, or does not know an option.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ModelError("LoRA adapters need peft: pip install 'onedc-hf[train]'.") from error
    try:
        return LoraConfig(**options)
    except (TypeError, ValueError) as error:
        raise ModelError(f"This is no LoRA that peft can make: {error}") from error


def part_names(generator: OneDCGenerator, part: str) -> list[str]:
    """Names, in the generator's state dict, of the tensors of one of `PARTS`."""
    return [name for name, _ in generator.named_parameters() if name.startswith(PARTS[part])]


# Loading --------------------------------------------------------------------------------------------------------------


def load_adapter(
    generator: OneDCGenerator,
    source: str | os.PathLike[str],
    weight_name: str | None = None,
    adapter_name: str | None = None,
    pipeline: Any = None,
    **hub: Any,
) -> None:
    """Puts an adapter from a file onto a generator; with others that are there, it adds up.

    Args:
        generator (`OneDCGenerator`): changed in place.
        source (`str` or `os.PathLike`): folder, file, or repository id.
        weight_name (`str`, *optional*): the file's name, if it is not `pytorch_lora_weights.safetensors`.
        adapter_name (`str`, *optional*): what to call it; by default `"default"`, or `"beside"` where the model owns an
            adapter of that name.
        pipeline (`OneDCPipeline`, *optional*): whose hooks (CPU offload) diffusers takes off and puts on again.
        hub: `subfolder`, `revision`, `token` and other arguments of `hf_hub_download`.

    Raises:
        ModelError: if there is no such file, it is no adapter, or it does not fit; the generator is then as it was.
    """
    config_of_none = make_lora_config()  # without peft nothing is downloaded
    if adapter_name is None:  # a file does not say beside what it goes, nor do the command line or a model's card
        adapter_name = OWN_ADAPTER if generator.config.lora is None else BESIDE_ADAPTER
    _check_free(generator, adapter_name)
    _check_at_hand(generator)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"An adapter is loaded from a folder, a file or a repository; got {type(source).__name__}.")
    path = fetch_weights(os.fspath(source), weight_name or WEIGHTS_NAME, **hub)
    tensors, settings = read_adapter(path)
    layers = {name: tensor for name, tensor in tensors.items() if name.endswith((LORA_A, LORA_B))}
    parts = {name: tensor for name, tensor in tensors.items() if name not in layers}
    _check_fit(generator, layers, parts, path)
    if settings is not None:
        warn_of_another_base(settings.get(BASE_FIELD), generator, path)
        settings = known_settings(settings, config_of_none.to_dict(), layers, path)
    unet, acting = generator.unet, Acting(generator)
    try:
        with beside_others():
            unet.load_lora_adapter(
                layers,
                prefix=UNET.rstrip("."),
                adapter_name=adapter_name,
                metadata=None if settings is None else {f"{UNET}{name}": value for name, value in settings.items()},
                _pipeline=pipeline,
            )
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        _delete(generator, adapter_name)
        _unwrap(generator)
        said = str(error.__context__ or error).strip().splitlines()  # diffusers' own clean-up may fail, too
        raise ModelError(f"{path}: peft cannot put this adapter onto the model: {' '.join(said[:2])}") from error
    finally:
        acting.restore()
    settle(generator, (p for name, p in unet.named_parameters() if f".{adapter_name}." in name))
    state = generator.state_dict()
    replaced = {name: state[name].detach().clone() for name in parts}
    _set(generator, parts)
    generator.adapters[adapter_name] = Adapter(_digest(tensors), replaced, acting.own)


def check_name(name: str) -> None:
    """Raises `ModelError` if an adapter cannot be called that."""
    if name in "lora_" or "." in name:  # peft finds an adapter's tensors by their names
        raise ModelError(f"`adapter_name` must be a word without dots, other than parts of 'lora_'; got {name!r}.")


def _check_free(generator: OneDCGenerator, name: str) -> None:
    check_name(name)
    if name in (*getattr(generator.unet, "peft_config", {}), *generator.adapters):
        if generator.config.lora is not None and name == OWN_ADAPTER:
            raise ModelError(
                f"This model has an adapter {name!r} of its own, beside its weights: give yours another `adapter_name`."
            )
        raise ModelError(
            f"An adapter {name!r} is loaded already: give another `adapter_name`, or `unload_lora_weights()` first."
        )


def _check_at_hand(generator: OneDCGenerator) -> None:
    if any(parameter.is_meta for parameter in generator.parameters()):
        raise ModelError(
            "The generator's weights are not at hand (offloaded one by one): load and unload adapters before "
            "`enable_sequential_cpu_offload`."
        )


def _check_fit(generator: OneDCGenerator, layers: dict[str, Tensor], parts: dict[str, Tensor], path: Path) -> None:
    """Raises `ModelError` with everything that is in the file and not in the model, or in another shape."""
    problems = []
    inside = {f"{UNET}{name}": layer.weight.shape for name, layer in wrappable_layers(generator.unet)}
    for name in sorted({name.removesuffix(LORA_A).removesuffix(LORA_B) for name in layers}):
        a, b = layers.get(name + LORA_A), layers.get(name + LORA_B)
        if a is None or b is None:
            problems.append(f"{name} has only one half of its adapter")
        elif name not in inside:
            problems.append(f"the model has no layer {name}")
        elif a.shape[1:] != inside[name][1:] or b.shape[:2] != (inside[name][0], a.shape[0]):
            problems.append(f"{name} is {list(inside[name])}, its adapter {list(a.shape)} and {list(b.shape)}")
        if any(part.startswith(f"{name}.") for part in parts):  # which would have another name once it is wrapped
            problems.append(f"{name} has an adapter and is replaced whole")
        for other, adapter in added_adapters(generator).items():
            if any(part.startswith(f"{name}.") for part in adapter.replaced):
                problems.append(f"{name} was replaced by the adapter {other!r} already")
    state = generator.state_dict()
    for name, tensor in parts.items():
        if name not in state:
            problems.append(f"the model has no {name}")
        elif state[name].shape != tensor.shape:
            problems.append(f"{name} is {list(state[name].shape)}, in the file {list(tensor.shape)}")
        for other, adapter in added_adapters(generator).items():
            if name in adapter.replaced:
                problems.append(f"{name} was replaced by the adapter {other!r} already")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(
            f"{path} is an adapter of another model, or does not go with what is loaded: {'; '.join(problems[:3])}"
            f"{more}. Load the model that it was trained for."
        )


@torch.no_grad()
def _set(generator: OneDCGenerator, values: dict[str, Tensor]) -> None:
    """Writes tensors into the generator, in place: layout, device and number format stay."""
    state = generator.state_dict()
    for name, value in values.items():
        state[name].copy_(value)


# Unloading ------------------------------------------------------------------------------------------------------------


def unload_adapters(generator: OneDCGenerator) -> None:
    """Takes every added adapter off and restores what they replaced: the generator is then what it was, bit for bit.

    An adapter that the model owns keeps its strength; one that was silenced only since then acts again.

    Raises:
        ModelError: if one was fused into the weights, which are no longer at hand as they were.
    """
    added = added_adapters(generator)
    if not added and base_state(generator).keys() == generator.state_dict().keys():
        return
    refuse_fused(generator, added)
    if not added:
        _unwrap(generator)
        return
    own_acted = next(iter(added.values())).own_acted
    delete_adapters(generator, list(added))
    layers = [layer for layer in lora_layers(generator) if OWN_ADAPTER in layer.scaling]
    if own_acted and not all(OWN_ADAPTER in layer.active_adapters for layer in layers):
        for layer in layers:
            layer.set_adapter([OWN_ADAPTER], inference_mode=True)


def delete_adapters(generator: OneDCGenerator, names: Sequence[str]) -> None:
    """Takes some adapters off and restores what they replaced; the others stay and act as they did.

    Raises:
        ModelError: if there is no such adapter, or one was fused into the weights.
    """
    added = added_adapters(generator)
    refuse_unknown(generator, names)
    refuse_fused(generator, names)
    _check_at_hand(generator)
    acting = Acting(generator)
    for name in dict.fromkeys(names):
        if name in getattr(generator.unet, "peft_config", {}):
            _delete(generator, name)
        _set(generator, added[name].replaced)
        generator.adapters.pop(name, None)
    _unwrap(generator)
    acting.restore()


def _delete(generator: OneDCGenerator, name: str) -> None:
    """Takes an adapter out of the U-Net, and out of layers that know of it where it was put on only in part."""
    for layer in lora_layers(generator):  # silent first: peft would let another one act in its place, and warn of it
        layer.set_adapter([other for other in layer.active_adapters if other != name])
    generator.unet.delete_adapters(name)


def _unwrap(generator: OneDCGenerator) -> None:
    """Puts layers that no adapter acts on any more back in their place."""
    from peft.tuners.lora import LoraLayer

    empty = [(name, layer) for name, layer in generator.unet.named_modules() if isinstance(layer, LoraLayer)]
    for name, layer in empty:
        if not layer.r:
            generator.unet.set_submodule(name, layer.get_base_layer())
    if not getattr(generator.unet, "peft_config", None):
        generator.unet._hf_peft_config_loaded = False


# Saving ---------------------------------------------------------------------------------------------------------------


def save_adapter(generator: OneDCGenerator, folder: str | os.PathLike[str], adapter_name: str | None = None) -> Path:
    """Writes an adapter, and the parts that were trained whole with it, to `folder/pytorch_lora_weights.safetensors`.

    Args:
        generator (`OneDCGenerator`): that carries it.
        folder (`str` or `os.PathLike`): made if it does not exist.
        adapter_name (`str`, *optional*): which one, where there are several.

    Returns:
        `Path`: of the file.

    Raises:
        ModelError: if there is no such adapter, or several and no name, or a file where the folder is to be.
    """
    added = added_adapters(generator)
    if adapter_name is None and len(added) == 1:
        adapter_name = next(iter(added))
    if adapter_name not in added or adapter_name not in getattr(generator.unet, "peft_config", {}):
        there = ", ".join(map(repr, added)) or "none"
        raise ModelError(f"There is no adapter {adapter_name!r} to save; this generator carries: {there}.")
    # Sets become sorted lists: what is written must not depend on the order of hashes.
    settings = json.loads(json.dumps(generator.unet.peft_config[adapter_name].to_dict(), default=sorted))
    settings[BASE_FIELD] = name_base(generator)
    settings = {f"{UNET}{name}": value for name, value in settings.items()}
    tensors = _tensors(generator, adapter_name)
    make_folder(folder)
    path = Path(folder, WEIGHTS_NAME)
    write_atomically(  # as diffusers writes it, which would leave half a file where the disk is full
        path,
        to_safetensors(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            {"format": "pt", METADATA_KEY: json.dumps(settings, indent=2, sort_keys=True)},
        ),
    )
    return path


def _tensors(generator: OneDCGenerator, adapter_name: str) -> dict[str, Tensor]:
    """Everything that an adapter's file holds, by its name there."""
    from peft.utils import get_peft_model_state_dict

    layers = get_peft_model_state_dict(generator.unet, adapter_name=adapter_name)
    state = generator.state_dict()
    parts = added_adapters(generator)[adapter_name].replaced
    return {f"{UNET}{name}": tensor for name, tensor in layers.items()} | {name: state[name] for name in parts}


# Identity -------------------------------------------------------------------------------------------------------------


def adapter_id(generator: OneDCGenerator) -> str | None:
    """SHA-256 of the added adapters that act, and of how strongly: 64 hex digits; `None` where there are none."""
    sha, acting = hashlib.sha256(), False
    for name, adapter in sorted(added_adapters(generator).items(), key=lambda item: item[0]):
        strengths = _strengths(generator, name)
        if adapter.replaced or any(strength for _, strength in strengths):
            acting = True
            sha.update(_weights_digest(generator, name, adapter).encode())
            for layer, strength in strengths:
                sha.update(f"{layer}={strength!r}\n".encode())
    return sha.hexdigest() if acting else None


def _weights_digest(generator: OneDCGenerator, name: str, adapter: Adapter) -> str:
    if adapter.weights_digest is not None:
        return adapter.weights_digest
    if name in getattr(generator.unet, "peft_config", {}):
        return _digest(_tensors(generator, name))
    state = generator.state_dict()  # its layers were taken away, what it had replaced was not put back
    return _digest({name: state[name] for name in adapter.replaced})


def _strengths(generator: OneDCGenerator, adapter_name: str) -> list[tuple[str, float]]:
    """By layer, the factor alpha / rank by which an adapter acts now."""
    from peft.tuners.lora import LoraLayer

    found = []
    for name, layer in generator.unet.named_modules():
        if isinstance(layer, LoraLayer) and adapter_name in layer.scaling:
            active = adapter_name in layer.active_adapters and not layer.disable_adapters
            active |= adapter_name in layer.merged_adapters  # fused into the weights
            found.append((name, float(layer.scaling[adapter_name]) if active else 0.0))
    return sorted(found)


def _digest(tensors: dict[str, Tensor]) -> str:
    sha = hashlib.sha256()
    update_digest(sha, sorted(tensors.items()))
    return sha.hexdigest()
