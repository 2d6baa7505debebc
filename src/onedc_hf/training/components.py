"""Makes, loads and saves the components that training changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DDPMScheduler

from ..models import OneDCAutoencoder, OneDCCodec, OneDCCodecConfig, OneDCGenerator, OneDCGeneratorConfig
from ..pipeline import OneDCPipeline
from .config import model_settings
from .model import TrainableOneDC

# Prefixes of what decides symbols, given a picture.
DECIDES_SYMBOLS = ("codec.entropy", "codec.enc", "codec.hyper_enc", "gain_anchors", "vae.encoder")

__all__ = ["DECIDES_SYMBOLS", "load_model", "make_model", "save_pipeline"]


def make_model(name: str, rate_estimate: str = "straight_through") -> TrainableOneDC:
    """A model with random weights from a model config of the package."""
    settings = model_settings(name)
    return TrainableOneDC(
        OneDCCodec(OneDCCodecConfig(**settings["codec"])),
        OneDCGenerator(OneDCGeneratorConfig(**settings["generator"])),
        OneDCAutoencoder(**settings["vae"]),
        DDPMScheduler(**settings["scheduler"]),
        rate_estimate,
    )


def load_model(source: str, rate_estimate: str = "straight_through", freeze: Sequence[str] = ()) -> TrainableOneDC:
    """The components of a saved pipeline, in float32, ready to train.

    An exact entropy model stays as it is, and with it every file's identity, if `freeze` covers everything that decides
    symbols; otherwise it becomes the float one that it stands for.

    Args:
        source (`str`): folder or Hub id; empty: the model in the box.
        rate_estimate (`str`): see `TrainableOneDC`.
        freeze (`Sequence[str]`): prefixes of parameters that will not learn.
    """
    pipe = OneDCPipeline.from_pretrained(source or None, dtype=torch.float32)
    if not all(part.startswith(tuple(freeze)) for part in DECIDES_SYMBOLS):
        pipe.codec.make_float()
    return TrainableOneDC(pipe.codec, pipe.generator, pipe.vae, pipe.scheduler, rate_estimate)


def save_pipeline(model: TrainableOneDC, folder: str | Path, *, variant: str | None = None) -> OneDCPipeline:
    """Saves a pipeline that is ready to code: gain table written, identity computed.

    Returns:
        `OneDCPipeline`: the pipeline around the same (not copied) components.
    """
    model.write_gains()
    model.codec.config.model_id = model.codec.entropy.digest().hex()
    pipe = OneDCPipeline(model.vae, model.codec, model.generator, model.scheduler)
    pipe.save_pretrained(folder, variant=variant)
    return pipe
