"""Which adapters act on a generator's U-Net, and how strongly."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .errors import ModelError
from .models import OneDCGenerator
from .models.adapters import OWN_ADAPTER, added_adapters

__all__ = [
    "Acting",
    "active_adapters",
    "beside_others",
    "choose_adapters",
    "lora_layers",
    "refuse_fused",
    "refuse_unknown",
]


@contextmanager
def beside_others() -> Iterator[None]:
    """Several adapters at once are meant; peft warns of the second one, and where diffusers takes it off again."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted", UserWarning)
        yield


class Acting:
    """Which adapters act now, how strongly, and what learns: diffusers and peft reset it when one comes or goes.

    Args:
        generator (`OneDCGenerator`): whose adapters are meant.
    """

    def __init__(self, generator: OneDCGenerator) -> None:
        self._generator = generator
        self._names = set(getattr(generator.unet, "peft_config", {}))
        self._layers = {
            layer: (list(layer.active_adapters), dict(layer.scaling), layer.disable_adapters)
            for layer in lora_layers(generator)
        }
        self._learning = [parameter for parameter in generator.parameters() if parameter.requires_grad]

    @property
    def own(self) -> bool:
        """Whether the adapter that the model owns is among those that act, wherever it could."""
        return all(OWN_ADAPTER in active for active, scaling, _ in self._layers.values() if OWN_ADAPTER in scaling)

    def restore(self) -> None:
        """Makes it so again for the adapters that are still there; those that came since act, too.

        Where adapters are switched off altogether (`unet.disable_adapters()`), new ones are as well, in all layers.
        """
        there = getattr(self._generator.unet, "peft_config", {})
        new = [name for name in there if name not in self._names]
        others = next((active for active, _, _ in self._layers.values()), [])
        all_off = bool(self._layers) and all(off for _, _, off in self._layers.values())
        for layer in lora_layers(self._generator):
            active, scaling, off = self._layers.get(layer, (others, {}, all_off))
            layer.set_adapter([name for name in active if name in there] + new)
            layer.enable_adapters(not off)
            layer.scaling.update({name: value for name, value in scaling.items() if name in layer.scaling})
        # peft lets adapters learn and nothing else: what learned goes on learning, what is only loaded does not
        self._generator.requires_grad_(False)
        for parameter in self._learning:
            if not parameter.is_inference():  # offloading moved it in inference mode: it cannot learn any more
                parameter.requires_grad_(True)


def lora_layers(generator: OneDCGenerator) -> list[Any]:
    """Layers that an adapter acts on; none where peft is not installed."""
    if not getattr(generator.unet, "peft_config", None):
        return []
    from peft.tuners.lora import LoraLayer

    return [layer for layer in generator.unet.modules() if isinstance(layer, LoraLayer)]


def active_adapters(generator: OneDCGenerator) -> list[str]:
    """Names of the added adapters that act on some layer, whatever their strength there."""
    layers = [layer for layer in lora_layers(generator) if not layer.disable_adapters]
    return [
        name
        for name in added_adapters(generator)
        if any(name in layer.scaling and name in layer.active_adapters for layer in layers)
    ]


def choose_adapters(generator: OneDCGenerator, weights: Mapping[str, float]) -> None:
    """Lets these added adapters act, each with a factor of its trained strength, and no others.

    An adapter that the model owns goes on as before, and what learned goes on learning.

    Raises:
        ModelError: if there is no such adapter, or one was fused into the weights.
    """
    refuse_unknown(generator, weights)
    added = added_adapters(generator)
    refuse_fused(generator, added)
    learning = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    for layer in lora_layers(generator):
        own = [name for name in layer.active_adapters if name not in added]
        layer.set_adapter([*own, *weights], inference_mode=True)
        layer.enable_adapters(True)  # also where `unet.disable_adapters()` had switched all off
        for name, weight in weights.items():
            layer.set_scale(name, weight)
    generator.requires_grad_(False)
    for parameter in learning:
        if not parameter.is_inference():  # see `Acting.restore`
            parameter.requires_grad_(True)


def refuse_unknown(generator: OneDCGenerator, names: Iterable[str]) -> None:
    """Raises `ModelError` if one of these is no adapter that was added."""
    added = added_adapters(generator)
    for name in names:
        if name in added:
            continue
        if name == OWN_ADAPTER and generator.config.lora is not None:
            raise ModelError(f"The adapter {name!r} is a part of this model, not one that was loaded onto it.")
        there = ", ".join(map(repr, added)) or "none"
        raise ModelError(f"There is no adapter {name!r}; loaded: {there}.")


def refuse_fused(generator: OneDCGenerator, names: Iterable[str]) -> None:
    """Raises `ModelError` if one of these adapters was fused into the weights."""
    fused = {name for layer in lora_layers(generator) for name in layer.merged_adapters} & set(names)
    if fused:
        raise ModelError(
            f"The adapter {', '.join(map(repr, sorted(fused)))} was fused into the weights: "
            "`generator.unet.unfuse_lora()` takes it out again, but for rounding; for the model as it was, load it "
            "anew."
        )
