"""What learns when a generator is trained by LoRA (spec section 4): the adapter, and on request two small parts whole.

`add_adapter` makes a new one (or `load_adapter` and `continue_adapter` take one up again), the loop trains what
requires gradients, `save_adapter` writes the file that `OneDCPipeline.load_lora_weights` reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..lora import check_name, load_adapter, make_lora_config, part_names, save_adapter
from ..lora_acting import Acting, beside_others
from ..models import OneDCGenerator
from ..models.adapters import OWN_ADAPTER, PARTS, Adapter, wrappable_layers

__all__ = ["TARGETS", "add_adapter", "continue_adapter", "load_adapter", "save_adapter"]

TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
"""The paper's layers, by the ends of their names."""


def add_adapter(
    generator: OneDCGenerator,
    rank: int = 64,
    alpha: float = 8.0,
    targets: Sequence[str] | None = None,
    *,
    train_also: Sequence[str] = (),
    adapter_name: str = "default",
) -> None:
    """Puts a new adapter onto the U-Net, in place; it learns, and of the rest only what `train_also` names.

    The generator computes what it did before, until the adapter learns: A is drawn from torch's global random numbers
    (Kaiming uniform), B is zero. It acts by alpha / rank.

    Args:
        generator (`OneDCGenerator`): in float32; half precision is for autocast.
        rank (`int`): of every layer's adapter.
        alpha (`float`): strength.
        targets (sequence of `str`, *optional*): layers, by their names or the ends of them after a dot; by default
            those of `TARGETS` that the U-Net has.
        train_also (sequence of `str`): `"conv_in"`, `"vae_reduction"`: parts that learn whole, and are saved with the
            adapter. The paper trains both.
        adapter_name (`str`): what to call it, as for `load_adapter`.

    Raises:
        ValueError: if a target matches no layer, for a part that nobody knows, or for a name that is taken.
        ModelError: if peft is not installed, or for a name that no adapter can have.
    """
    names = [name for name, _ in wrappable_layers(generator.unet)]
    found = {t: [n for n in names if n == t or n.endswith(f".{t}")] for t in (TARGETS if targets is None else targets)}
    nothing = [target for target, matches in found.items() if not matches]
    if targets is None:
        found = {target: matches for target, matches in found.items() if matches}  # small U-Nets lack some
    elif nothing:
        raise ValueError(
            f"`targets`: no linear layer or convolution of this U-Net is called {', '.join(map(repr, nothing))}. Give "
            f"names such as {names[len(names) // 2]!r}, or their ends, such as {', '.join(map(repr, TARGETS))}."
        )
    if not found:
        raise ValueError("`targets` names no layer: an adapter must act somewhere.")
    check_name(adapter_name)
    if adapter_name in getattr(generator.unet, "peft_config", {}):
        own = generator.config.lora is not None and adapter_name == OWN_ADAPTER
        raise ValueError(
            f"`adapter_name`: this generator carries an adapter {adapter_name!r} "
            + ("of its own, as a part of the model. Give another name." if own else "already: `continue_adapter`.")
        )
    for part in _check_parts(train_also):
        if hit := [n for matches in found.values() for n in matches if f"unet.{n}.".startswith(PARTS[part])]:
            raise ValueError(f"`targets` covers {hit[0]!r}, which `train_also` trains whole: name it in one of both.")
    config = make_lora_config(r=rank, lora_alpha=alpha, target_modules=sorted(found))
    acting = Acting(generator)
    with beside_others():
        generator.unet.add_adapter(config, adapter_name)
    acting.restore()  # alone, `add_adapter` would silence the others
    generator.adapters.setdefault(adapter_name, Adapter()).own_acted = acting.own
    continue_adapter(generator, adapter_name, train_also=train_also)


def continue_adapter(
    generator: OneDCGenerator, adapter_name: str = "default", *, train_also: Sequence[str] = ()
) -> None:
    """Lets an adapter that is there learn, with the parts that came with it or are named, and nothing else.

    Args:
        generator (`OneDCGenerator`): changed in place.
        adapter_name (`str`): as it was loaded, or added; or `"default"` for the one that the model owns, which is
            saved with the model, not by `save_adapter`.
        train_also (sequence of `str`): as in `add_adapter`.

    Raises:
        ValueError: if there is no such adapter, or for a part that nobody knows.
    """
    _check_parts(train_also)
    if adapter_name not in getattr(generator.unet, "peft_config", {}):
        raise ValueError(f"This generator carries no adapter {adapter_name!r}: `add_adapter` makes one.")
    whole = {name for part in train_also for name in part_names(generator, part)}
    if generator.config.lora is None or adapter_name != OWN_ADAPTER:
        adapter = generator.adapters.setdefault(adapter_name, Adapter())
        adapter.weights_digest = None
        state = generator.state_dict()
        for name in whole - adapter.replaced.keys():
            adapter.replaced[name] = state[name].detach().clone()
        whole |= adapter.replaced.keys()
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_(name in whole or ".lora_" in name and f".{adapter_name}." in name)


def _check_parts(train_also: Sequence[str]) -> Sequence[str]:
    unknown = [part for part in train_also if part not in PARTS]
    if isinstance(train_also, str) or unknown:
        raise ValueError(f"`train_also` takes a list of {', '.join(map(repr, PARTS))}; got {train_also!r}.")
    return train_also
