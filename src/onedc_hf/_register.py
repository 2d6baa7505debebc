"""Make diffusers, transformers and Pillow know the classes of this package, without importing any of them.

Four places need an entry, and none of them may cost an import of torch when somebody only wants a file's header:

=====================================  =============================================================================
diffusers' table of loadable           so that `model_index.json` names a component as `["onedc_hf", "OneDCCodec"]`
libraries                              (short, stable when a class moves to another file) and the Hub path accepts it
`diffusers.OneDCPipeline`              so that `DiffusionPipeline.from_pretrained` finds the class a repository names
`AutoConfig` and `AutoModel`           so that `AutoModel.from_pretrained(repo, subfolder="codec")` works
Pillow's formats                       so that `Image.open("picture.odc")` works
=====================================  =============================================================================

`install` runs when `onedc_hf` is imported. A module that is already there gets its entry at once; for the others a
finder on `sys.meta_path` waits until they have been imported, and goes away after the last. What is entered is light: a
name that loads our class when it is asked for. Nothing heavy may be imported from such a hook, because it runs in the
middle of somebody else's import (transformers' auto classes, for one, are loaded by peft while diffusers is half done).
`register` runs at the end of `onedc_hf.models` and puts the real config and model classes in place.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LIBRARY = "onedc_hf"
PIPELINE = "OneDCPipeline"
FORMAT, MAGIC = "ODC", b"\xf1\xdc"
# What diffusers may call on a component of ours; the two names are looked up in the namespace of this package.
BASE_CLASSES = {
    "PreTrainedModel": ["save_pretrained", "from_pretrained"],
    "ModelMixin": ["save_pretrained", "from_pretrained"],
}
# model type -> names of its config and its model
MODEL_TYPES = {
    "onedc_codec": ("OneDCCodecConfig", "OneDCCodec"),
    "onedc_generator": ("OneDCGeneratorConfig", "OneDCGenerator"),
}


def install() -> None:
    """Enter the light names now where their library is loaded, and after its import where it is not yet."""
    pending = {}
    for name, action in _ACTIONS.items():
        module = sys.modules.get(name)
        if module is None:
            pending[name] = action
        else:
            action(module)
    if pending and not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport(pending))


def register() -> None:
    """Register the real configs and models with `AutoConfig` and `AutoModel`; called by `onedc_hf.models`."""
    from transformers import AutoConfig, AutoModel

    install()
    package = importlib.import_module(LIBRARY)
    for model_type, (config_name, model_name) in MODEL_TYPES.items():
        config_class = getattr(package, config_name)
        AutoConfig.register(model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, getattr(package, model_name), exist_ok=True)


def _offer_pipeline(diffusers: ModuleType) -> None:
    """Let `diffusers.OneDCPipeline` mean ours, unless diffusers itself has one."""
    if PIPELINE in dir(diffusers):
        return
    earlier = vars(diffusers).get("__getattr__")

    def __getattr__(name: str) -> Any:  # PEP 562; Python asks it before the lazy loader of diffusers, which goes on
        if name == PIPELINE:
            value = getattr(importlib.import_module(LIBRARY), PIPELINE)
            setattr(diffusers, PIPELINE, value)
            return value
        if earlier is not None:
            return earlier(name)
        raise AttributeError(f"module {diffusers.__name__!r} has no attribute {name!r}")

    vars(diffusers)["__getattr__"] = __getattr__


def _allow_components(loading_utils: ModuleType) -> None:
    """Enter this package among the libraries that diffusers loads components from.

    The table is no documented interface. Without it folders still load, because `OneDCPipeline` imports its components.
    """
    table = getattr(loading_utils, "LOADABLE_CLASSES", None)
    if isinstance(table, dict):
        table.setdefault(LIBRARY, BASE_CLASSES)


def _offer_configs(configuration_auto: ModuleType) -> None:
    """Give `AutoConfig` a stand-in for each of our configs, until `register` brings the real one."""
    for model_type, (config_name, _) in MODEL_TYPES.items():
        if model_type not in configuration_auto.CONFIG_MAPPING:
            configuration_auto.AutoConfig.register(model_type, _stand_in(model_type, config_name))


def _stand_in(model_type: str, config_name: str) -> type:
    """Build a class that loads the real config class when it is called or read from a file."""

    def real() -> Any:
        return getattr(importlib.import_module(LIBRARY), config_name)

    return type(
        config_name,
        (),
        {
            "__doc__": f"Stand-in for `onedc_hf.{config_name}`, which is loaded at first use.",
            "__new__": lambda cls, *args, **kwargs: real()(*args, **kwargs),
            "model_type": model_type,
            "from_dict": staticmethod(lambda *args, **kwargs: real().from_dict(*args, **kwargs)),
            "from_pretrained": staticmethod(lambda *args, **kwargs: real().from_pretrained(*args, **kwargs)),
        },
    )


def _offer_format(image: ModuleType) -> None:
    """Let Pillow open `.odc` files; what opens them is imported with the first one."""

    def open_file(file: Any, filename: str) -> Any:
        return importlib.import_module(f"{LIBRARY}.odc_image").OdcImageFile(file, filename)

    image.register_open(FORMAT, open_file, lambda prefix: prefix.startswith(MAGIC))
    image.register_extension(FORMAT, ".odc")
    image.register_mime(FORMAT, "image/x-odc")


_ACTIONS: dict[str, Callable[[ModuleType], None]] = {
    "PIL.Image": _offer_format,
    "diffusers": _offer_pipeline,
    "diffusers.pipelines.pipeline_loading_utils": _allow_components,
    "transformers.models.auto.configuration_auto": _offer_configs,
}


class _AfterImport(MetaPathFinder):
    """Runs an action once a module has been executed; finds nothing by itself."""

    def __init__(self, pending: dict[str, Callable[[ModuleType], None]]):
        self._pending = pending

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._pending:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(fullname, path, target)
            if spec is not None:
                break
        else:
            return None
        loader = spec.loader
        if loader is None or not hasattr(loader, "exec_module"):
            return spec
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            action = self._pending.pop(fullname, None)
            if not self._pending and self in sys.meta_path:
                sys.meta_path.remove(self)
            if action is not None:
                # diffusers replaces itself in sys.modules while it is executed
                action(sys.modules.get(fullname, module))

        # On the instance, so that whoever looks at the loader (inspect, importlib.resources) still sees its own class.
        loader.exec_module = exec_module
        return spec
