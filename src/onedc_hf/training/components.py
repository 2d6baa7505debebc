"""Makes, loads and saves the components that training changes."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMScheduler

from ..models import OneDCAutoencoder, OneDCCodec, OneDCCodecConfig, OneDCGenerator, OneDCGeneratorConfig
from ..pipeline import OneDCPipeline
from .config import model_settings
from .model import TrainableOneDC

__all__ = ["load_model", "make_model", "save_pipeline"]


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


def load_model(source: str, rate_estimate: str = "straight_through") -> TrainableOneDC:
    """The components of a saved pipeline, in float32, ready to train."""
    pipe = OneDCPipeline.from_pretrained(source or None, dtype=torch.float32)
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
