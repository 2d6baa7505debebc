"""What `from_pretrained` of a pipeline asks: where a model lies, and whether it is one, whole and unaltered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError

from .errors import ModelError
from .models import OneDCCodec, OneDCGenerator
from .models.exact import ExactEntropyModel
from .models.whole import WholeWeights, check_stored, weight_files
from .releases import BOX
from .sources import looks_like_path

__all__ = ["check_bounds", "check_components", "check_stock_vae", "model_source", "one_error"]

# What loading raises for files that are damaged, or are of something else.
_BROKEN = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)
# What components are asked for in their configurations.
_ASKED = {
    "vae": ("latent_channels",),
    "codec": ("latent_channels", "detail_channels", "semantic_channels"),
    "generator": ("latent_channels", "detail_channels", "unet", "timestep", "alpha_cumprod"),
}


def model_source(name: str | os.PathLike[str] | None) -> str:
    """The folder or repository that a name stands for; without one, the model in the box.

    Raises:
        ModelError: if it is a folder that holds no pipeline.
    """
    if name is None:
        box = BOX / "model"
        if not (box / "model_index.json").is_file():
            raise ModelError(f"This installation has no model in the box ({box}); name a folder or repository.")
        return str(box)
    source = os.fspath(name)
    if not looks_like_path(source):
        return source
    folder = Path(source).expanduser()
    if not (folder / "model_index.json").is_file():
        there = "does not exist"
        if folder.exists():
            there = "holds no model_index.json" if folder.is_dir() else "is a file"
        raise ModelError(
            f"{source!r} {there}: give the folder that `save_pretrained` wrote, or a repository id `org/name`."
        )
    return str(folder)


@contextmanager
def one_error(source: str) -> Iterator[None]:
    """Makes one `ModelError` that names the source of all that goes wrong while it is loaded."""
    try:
        yield
    except ModelError:
        raise
    except (OSError, HFValidationError) as error:
        raise ModelError(
            f"No OneDC pipeline could be loaded from {source!r}: {error.__cause__ or error} Check the name, the "
            "revision, the `variant` (of weights such as model.fp16.safetensors), your access, and the network."
        ) from error
    except _BROKEN as error:  # a pipeline of another kind, for one
        raise ModelError(
            f"{source!r} holds no OneDC pipeline that can be loaded: {type(error).__name__}: {error}"
        ) from error


def check_bounds(codec: OneDCCodec, source: str) -> None:
    """Refuses an exact entropy model whose integers could overflow.

    Raises:
        ModelError: naming the source.
    """
    if isinstance(codec.entropy, ExactEntropyModel):
        try:
            codec.entropy.check_bounds()
        except ValueError as error:
            raise ModelError(f"{source!r}: {error}") from error


def check_stock_vae(vae: Any, variant: str | None = None, use_safetensors: bool | None = None) -> None:
    """Refuses a VAE of diffusers that was loaded from files which are not whole: diffusers fills it at random.

    Raises:
        ModelError: naming a tensor that is missing.
    """
    folder = Path(getattr(vae.config, "_name_or_path", ""))
    if isinstance(vae, WholeWeights) or not folder.is_dir():  # ours has looked itself
        return
    files = weight_files(folder, variant, ["bin"] if use_safetensors is False else ["safetensors", "bin"])
    if files:
        check_stored(vae, files)


def check_components(vae: Any, codec: OneDCCodec, generator: OneDCGenerator, scheduler: DDPMScheduler) -> None:
    """Refuses components of other kinds, or of different models: their channels, or the noise schedule, do not fit.

    Raises:
        ModelError: naming the one that is of another kind, or the two that differ.
    """
    for (name, asked), part in zip(_ASKED.items(), (vae, codec, generator), strict=True):
        config = getattr(part, "config", None)
        lacking = [attribute for attribute in asked if getattr(config, attribute, None) is None]
        if lacking:
            raise ModelError(
                f"The {name} is a {type(part).__name__} whose configuration has no {', '.join(lacking)}: give the "
                f"{name} of a OneDC pipeline."
            )
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        raise ModelError(
            f"The scheduler is a {type(scheduler).__name__}, which has no cumulative alphas: OneDC needs the "
            "DDPMScheduler that the generator was made for."
        )
    semantic = codec.config.semantic_channels
    for name, left, right in (
        ("latent channels of vae and codec", vae.config.latent_channels, codec.config.latent_channels),
        ("latent channels of vae and generator", vae.config.latent_channels, generator.config.latent_channels),
        ("detail channels of codec and generator", codec.config.detail_channels, generator.config.detail_channels),
        ("semantic channels of codec and generator", semantic,
         generator.config.unet.get("cross_attention_dim", semantic)),
    ):  # fmt: skip
        if left != right:
            raise ModelError(f"These components do not fit together: {name} are {left} and {right}.")
    timestep, made_for = generator.config.timestep, generator.config.alpha_cumprod
    if not isinstance(timestep, int) or not 0 <= timestep < len(alphas):
        raise ModelError(
            f"The generator's timestep is {timestep!r}, but the scheduler has the steps 0 to {len(alphas) - 1}. Get "
            "the model's configuration files again."
        )
    alpha = float(alphas[timestep])
    if abs(alpha - made_for) > 1e-6:
        raise ModelError(
            f"The scheduler's cumulative alpha at t = {timestep} is {alpha:.8f}, but the generator was made for "
            f"{made_for:.8f}."
        )
