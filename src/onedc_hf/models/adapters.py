"""Adapters (LoRA) that were put onto a generator after it was made: which they are, and the generator without them.

A generator may also *own* an adapter, as a part of the model (`OneDCGeneratorConfig.lora`): that one is saved and
loaded with the weights, and is not meant by anything here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..errors import ModelError

if TYPE_CHECKING:
    from .generator import OneDCGenerator

__all__ = [
    "BESIDE_ADAPTER",
    "OWN_ADAPTER",
    "PARTS",
    "Adapter",
    "added_adapters",
    "base_state",
    "refuse_adapters",
    "wrappable_layers",
]

OWN_ADAPTER = "default"
"""Name of the adapter that a generator with `config.lora` owns."""

BESIDE_ADAPTER = "beside"
"""Name of one that is put onto such a generator without a name of its own."""

PARTS = {"conv_in": "unet.conv_in.", "vae_reduction": "vae_reduction."}
"""Parts that may be trained whole beside an adapter, and their prefixes in the generator's state dict."""

_WRAPPED = ".base_layer."


@dataclass
class Adapter:
    """What is known of an adapter beside its layers in the U-Net.

    Args:
        weights_digest (`str`, *optional*): SHA-256 of its weights as they lay in its file; `None` while it learns.
        replaced (`dict`): the former values of the parts that it brought whole, by their names in the state dict.
        own_acted (`bool`): whether the adapter that the model owns acted when this one came.
    """

    weights_digest: str | None = None
    replaced: dict[str, Tensor] = field(default_factory=dict)
    own_acted: bool = True


def added_adapters(generator: OneDCGenerator) -> dict[str, Adapter]:
    """The adapters on a generator, by name, without its own.

    One that diffusers' `delete_adapters` took away is among them until `unload_lora_weights` has put back the parts
    that it had replaced.
    """
    names = dict.fromkeys([*getattr(generator.unet, "peft_config", {}), *generator.adapters])
    own = OWN_ADAPTER if generator.config.lora is not None else None
    return {name: generator.adapters.get(name, Adapter()) for name in names if name != own}


def refuse_adapters(generator: OneDCGenerator) -> None:
    """Raises `ModelError` if adapters, or what is left of them, are on a generator that is about to be saved whole."""
    added = list(added_adapters(generator))
    if added or base_state(generator).keys() != generator.state_dict().keys():
        named = f"The adapter {', '.join(map(repr, added))}" if added else "What is left of an adapter"
        raise ModelError(
            f"{named} is on the generator, and no part of a saved model: keep it with `save_lora_weights`, and call "
            "`unload_lora_weights()` before saving the model."
        )


def wrappable_layers(unet: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Names and layers of a U-Net that an adapter can act on, whether one does already or not."""
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and ".lora_" not in name:
            yield name.removesuffix(".base_layer"), module


def base_state(generator: OneDCGenerator) -> dict[str, Tensor]:
    """The generator's state dict as it would be without the added adapters."""
    added = added_adapters(generator)
    state: dict[str, Tensor] = generator.state_dict()
    if not added and not any(_WRAPPED in name for name in state):
        return state
    state = {name: tensor for name, tensor in state.items() if _adapter_of(name) not in added}
    wrapped = {name.split(".lora_")[0] for name in state if _adapter_of(name) is not None}  # by its own adapter
    bare = {name: name.replace(_WRAPPED, ".") if name.split(_WRAPPED)[0] not in wrapped else name for name in state}
    state = {bare[name]: tensor for name, tensor in state.items()}
    for adapter in added.values():
        state |= adapter.replaced
    return state


def _adapter_of(name: str) -> str | None:
    """The adapter that a tensor of a state dict belongs to: `X.lora_A.NAME.weight`."""
    found = re.search(r"\.lora_\w+\.([^.]+)", name)
    return found[1] if found else None
