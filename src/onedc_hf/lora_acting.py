"""Which adapters act on a generator's U-Net, and how strongly."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .models import OneDCGenerator
from .models.adapters import OWN_ADAPTER

__all__ = ["Acting", "beside_others", "lora_layers"]


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
