"""LoRA adapters of the generator: load, unload, save, and their id.

File: diffusers' `pytorch_lora_weights.safetensors`. `unet.X.lora_A.weight` and `unet.X.lora_B.weight` for each wrapped
layer X of the U-Net, peft's `LoraConfig` as JSON in the metadata; beside them whole, where they were trained with the
adapter (spec section 4), `unet.conv_in.*` and `vae_reduction.*`.

An adapter changes pixels and never symbols: with it and without it a pipeline reads the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from .adapter_base import BASE_FIELD, name_base, warn_of_another_base
from .errors import ModelError
from .identity import update_digest
from .memory_layout import settle
from .models import OneDCGenerator
from .models.adapters import BESIDE_ADAPTER, OWN_ADAPTER, PARTS, Adapter, added_adapters, wrappable_layers
from .saving import make_folder, write_atomically
from .sources import fetch_weights

if TYPE_CHECKING:
    from peft import LoraConfig

__all__ = [
    "WEIGHTS_NAME",
    "Acting",
    "LoraMixin",
    "adapter_id",
    "beside_others",
    "check_name",
    "load_adapter",
    "make_lora_config",
    "part_names",
    "refuse_adapters",
    "save_adapter",
    "unload_adapters",
]

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
_UNET = "unet."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_METADATA_KEY = "lora_adapter_metadata"  # diffusers' name
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
            for layer in _lora_layers(generator)
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
        for layer in _lora_layers(self._generator):
            active, scaling, off = self._layers.get(layer, (others, {}, all_off))
            layer.set_adapter([name for name in active if name in there] + new)
            layer.enable_adapters(not off)
            layer.scaling.update({name: value for name, value in scaling.items() if name in layer.scaling})
        # peft lets adapters learn and nothing else: what learned goes on learning, what is only loaded does not
        self._generator.requires_grad_(False)
        for parameter in self._learning:
            if not parameter.is_inference():  # offloading moved it in inference mode: it cannot learn any more
                parameter.requires_grad_(True)


def _lora_layers(generator: OneDCGenerator) -> list[Any]:
    """Layers that an adapter acts on; none where peft is not installed."""
    if not getattr(generator.unet, "peft_config", None):
        return []
    from peft.tuners.lora import LoraLayer

    return [layer for layer in generator.unet.modules() if isinstance(layer, LoraLayer)]


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
    path = fetch_weights(os.fspath(source), weight_name or WEIGHTS_NAME, **hub)
    tensors, settings = _read(path)
    layers = {name: tensor for name, tensor in tensors.items() if name.endswith((_A, _B))}
    parts = {name: tensor for name, tensor in tensors.items() if name not in layers}
    _check_fit(generator, layers, parts, path)
    if settings is not None:
        warn_of_another_base(settings.get(BASE_FIELD), generator, path)
        settings = _known_settings(settings, config_of_none.to_dict(), layers, path)
    unet, acting = generator.unet, Acting(generator)
    try:
        with beside_others():
            unet.load_lora_adapter(
                layers,
                prefix=_UNET.rstrip("."),
                adapter_name=adapter_name,
                metadata=None if settings is None else {f"{_UNET}{name}": value for name, value in settings.items()},
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
    if name in getattr(generator.unet, "peft_config", {}):
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


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors of an adapter's file, and its `LoraConfig` as a dictionary (`None`: other programs may not write it)."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        settings = json.loads(metadata[_METADATA_KEY]) if _METADATA_KEY in metadata else None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no whole safetensors file ({error}). Get it again.") from error
    if settings is not None:
        if not isinstance(settings, dict):
            raise ModelError(f"{path}: the settings in its metadata are no JSON object. Get or save it again.")
        settings = {key.removeprefix(_UNET): value for key, value in settings.items() if key.startswith(_UNET)}
    known = tuple(PARTS.values())
    strange = [n for n in tensors if not n.startswith(known) and not (n.startswith(_UNET) and n.endswith((_A, _B)))]
    if strange or not any(name.endswith(_B) for name in tensors):
        what = f"{len(strange)} tensors such as {strange[0]!r}" if strange else "no `unet.*.lora_B.weight`"
        raise ModelError(
            f"{path} holds {what}: it is no adapter of a OneDC generator. `save_lora_weights` writes one, and so does "
            "training with LoRA."
        )
    return tensors, settings


def _check_fit(generator: OneDCGenerator, layers: dict[str, Tensor], parts: dict[str, Tensor], path: Path) -> None:
    """Raises `ModelError` with everything that is in the file and not in the model, or in another shape."""
    problems = []
    inside = {f"{_UNET}{name}": layer.weight.shape for name, layer in wrappable_layers(generator.unet)}
    for name in sorted({name.removesuffix(_A).removesuffix(_B) for name in layers}):
        a, b = layers.get(name + _A), layers.get(name + _B)
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


def _known_settings(
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
    ranks = {name.removeprefix(_UNET).removesuffix(_A): len(a) for name, a in layers.items() if name.endswith(_A)}
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
    """
    if not (added := added_adapters(generator)):
        return
    _check_at_hand(generator)
    acting = Acting(generator)
    own_acted = next(iter(added.values())).own_acted
    for name, adapter in added.items():
        _delete(generator, name)
        _set(generator, adapter.replaced)
        generator.adapters.pop(name, None)
    _unwrap(generator)
    acting.restore()
    if own_acted and not acting.own:
        for layer in _lora_layers(generator):
            layer.set_adapter([OWN_ADAPTER], inference_mode=True)


def _delete(generator: OneDCGenerator, name: str) -> None:
    """Takes an adapter out of the U-Net, and out of layers that know of it where it was put on only in part."""
    for layer in _lora_layers(generator):  # silent first: peft would let another one act in its place, and warn of it
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


def refuse_adapters(generator: OneDCGenerator) -> None:
    """Raises `ModelError` if adapters are on a generator that is about to be saved whole."""
    if added := list(added_adapters(generator)):
        raise ModelError(
            f"The adapter {', '.join(map(repr, added))} is on the generator, and no part of a saved model: keep it "
            "with `save_lora_weights`, and call `unload_lora_weights()` before saving the model."
        )


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
    if adapter_name not in added:
        there = ", ".join(map(repr, added)) or "none"
        raise ModelError(f"There is no adapter {adapter_name!r} to save; this generator carries: {there}.")
    # Sets become sorted lists: what is written must not depend on the order of hashes.
    settings = json.loads(json.dumps(generator.unet.peft_config[adapter_name].to_dict(), default=sorted))
    settings[BASE_FIELD] = name_base(generator)
    settings = {f"{_UNET}{name}": value for name, value in settings.items()}
    tensors = _tensors(generator, adapter_name)
    make_folder(folder)
    path = Path(folder, WEIGHTS_NAME)
    write_atomically(  # as diffusers writes it, which would leave half a file where the disk is full
        path,
        to_safetensors(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            {"format": "pt", _METADATA_KEY: json.dumps(settings, indent=2, sort_keys=True)},
        ),
    )
    return path


def _tensors(generator: OneDCGenerator, adapter_name: str) -> dict[str, Tensor]:
    """Everything that an adapter's file holds, by its name there."""
    from peft.utils import get_peft_model_state_dict

    layers = get_peft_model_state_dict(generator.unet, adapter_name=adapter_name)
    state = generator.state_dict()
    parts = added_adapters(generator)[adapter_name].replaced
    return {f"{_UNET}{name}": tensor for name, tensor in layers.items()} | {name: state[name] for name in parts}


# Identity -------------------------------------------------------------------------------------------------------------


def adapter_id(generator: OneDCGenerator) -> str | None:
    """SHA-256 of the added adapters that act, and of how strongly: 64 hex digits; `None` where there are none."""
    sha, acting = hashlib.sha256(), False
    for name, adapter in sorted(added_adapters(generator).items(), key=lambda item: item[0]):
        strengths = _strengths(generator, name)
        if adapter.replaced or any(strength for _, strength in strengths):
            acting = True
            sha.update((adapter.weights_digest or _digest(_tensors(generator, name))).encode())
            for layer, strength in strengths:
                sha.update(f"{layer}={strength!r}\n".encode())
    return sha.hexdigest() if acting else None


def _strengths(generator: OneDCGenerator, adapter_name: str) -> list[tuple[str, float]]:
    """By layer, the factor alpha / rank by which an adapter acts now."""
    from peft.tuners.lora import LoraLayer

    found = []
    for name, layer in generator.unet.named_modules():
        if isinstance(layer, LoraLayer) and adapter_name in layer.scaling:
            active = adapter_name in layer.active_adapters and not layer.disable_adapters
            found.append((name, float(layer.scaling[adapter_name]) if active else 0.0))
    return sorted(found)


def _digest(tensors: dict[str, Tensor]) -> str:
    sha = hashlib.sha256()
    update_digest(sha, sorted(tensors.items()))
    return sha.hexdigest()


# The pipeline's side --------------------------------------------------------------------------------------------------


class LoraMixin:
    """What a pipeline with a `generator` offers, by diffusers' names."""

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

    @property
    def adapter_id(self) -> str | None:
        """SHA-256 of the LoRA adapters that act, 64 hex digits; `None` without one."""
        return adapter_id(self.generator)
