"""Where a pipeline comes from and goes to: folders and the Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import CommitInfo

from .coding.limits import MAX_PIXELS, check_limit
from .errors import ModelError
from .loading import check_bounds, check_stock_vae, model_source, one_error
from .models import OneDCGenerator
from .models.adapters import refuse_adapters
from .precision import default_dtype
from .saving import forget_origin, make_folder, saved_over
from .tiling import Tiling

if TYPE_CHECKING:
    from .pipeline import OneDCPipeline

__all__ = ["StorageMixin"]

# Of `save_pretrained(push_to_hub=True)`.
_HUB_OPTIONS = ("repo_id", "card", "license", "commit_message", "private", "token", "create_pr")


class StorageMixin(DiffusionPipeline):
    """`from_pretrained`, `from_pipe`, `save_pretrained` and `push_to_hub` of `OneDCPipeline`."""

    max_pixels: int | None = MAX_PIXELS  # larger pictures are refused; `None` or 0: no limit

    generator: OneDCGenerator
    _tiling: Tiling | None

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        max_pixels: int | None = MAX_PIXELS,
        **kwargs: Any,
    ) -> OneDCPipeline:
        """Loads a pipeline from a folder or the Hub; without an argument, the model in the box.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`, *optional*): folder or repository id.
            dtype (`torch.dtype` or its name, *optional*): number format of everything but the entropy model and the
                last layers of generator and VAE, which stay in float32 (with a `device_map`, the VAE's do not); by
                default, and for "auto", what suits this machine's CPU (`default_dtype`).
            max_pixels (`int`, *optional*, defaults to 268,435,456): larger pictures are refused, also those that a file
                states; `None` or 0: no limit. The attribute of the same name can be changed later.
            kwargs: further arguments of `DiffusionPipeline.from_pretrained` (`revision`, `variant`, `token`, ...).

        Raises:
            ModelError: if there is no OneDC pipeline at that place, or its weights are not those of its model id.
            TypeError, ValueError: for a `max_pixels` that is no number, or below 0; a `dtype` that is no name of one.
        """
        check_limit(max_pixels)
        if kwargs.get("subfolder"):
            raise ModelError(
                f"A pipeline is loaded from a folder of its own, and not from a `subfolder` ({kwargs['subfolder']!r}): "
                "give that folder's path, on the Hub after `huggingface_hub.snapshot_download(repository)`."
            )
        source = model_source(pretrained_model_name_or_path)
        given = kwargs.pop("torch_dtype", None)
        given = kwargs.pop("dtype", None) or given
        kwargs["dtype"] = _dtype_named(given) if given is None or isinstance(given, str) else given
        with one_error(source):
            pipe: Any = super().from_pretrained(source, **kwargs)
            if "vae" not in kwargs:
                check_stock_vae(pipe.vae, kwargs.get("variant"), kwargs.get("use_safetensors"))
        pipe.model_digest()  # an altered entropy model is found now, not in a broken picture
        check_bounds(pipe.codec, source)
        pipe.max_pixels = max_pixels
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> OneDCPipeline:
        """As in diffusers: a pipeline of the components of another; its `max_pixels` and tiling hold here, too.

        Its number format as well, unless another one is asked for: the components are the same ones, and diffusers
        would make them float32.
        """
        if isinstance(pipeline, StorageMixin) and kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs["dtype"] = pipeline.dtype
        pipe: Any = super().from_pipe(pipeline, **kwargs)
        if isinstance(pipeline, StorageMixin):
            pipe.max_pixels, pipe._tiling = pipeline.max_pixels, pipeline._tiling
        return pipe

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves the pipeline to a folder, which `from_pretrained` reads; arguments are those of `DiffusionPipeline`.

        Of a model that is in the folder already the weight files are replaced, those of another `variant` kept.
        Texts in the folder `licences` of the folder that it was loaded from go along; those of a repository on the Hub
        are not fetched, and are yours to pass on. With `push_to_hub=True` it is also pushed, by `push_to_hub` and with
        its card, to `repo_id` (by default the folder's name); `variant` counts for both, and `card`, `license`,
        `commit_message`, `private`, `token` and `create_pr` are those of `push_to_hub`.

        Raises:
            ModelError: if an adapter is loaded, which is no part of the model, or for a file where the folder is to be.
        """
        from .hub.inherited import carry_licences

        refuse_adapters(self.generator)
        make_folder(save_directory)
        push = kwargs.pop("push_to_hub", False)
        hub = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
        variant = kwargs.get("variant", args[1] if len(args) > 1 else None)
        origin = Path(self.config.get("_name_or_path") or "", "model_index.json")
        with saved_over(Path(save_directory), variant) as staged:
            super().save_pretrained(staged, *args, **kwargs)
            carry_licences((), str(origin.parent) if origin.is_file() else "", staged)
            forget_origin(staged)
        if push:
            if variant is not None:
                hub["variant"] = variant
            self.push_to_hub(hub.pop("repo_id", None) or Path(save_directory).resolve().name, **hub)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> CommitInfo:  # type: ignore[override]
        """Saves and uploads the pipeline in one commit, with a card that says what it is.

        Args:
            repo_id (`str`): where to; created if it does not exist. A card that is there already is kept.
            kwargs: `card`, `license`, `commit_message`, `private`, `token`, `create_pr`, `variant`, `subfolder`; see
                `onedc_hf.hub.push_pipeline`.
        """
        from .hub import push_pipeline

        return push_pipeline(cast("OneDCPipeline", self), repo_id, **kwargs)


def _dtype_named(name: str | None) -> torch.dtype:
    """A number format by its name, as transformers has it; diffusers would take float32 instead, with a line in a log.

    Raises:
        ValueError: for a name of none.
    """
    if name in (None, "auto"):
        return default_dtype()
    found = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"`dtype` must be a number format such as torch.float32, or its name; got {name!r}.")
    return found
