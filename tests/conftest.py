"""Shared fixtures: a tiny model with random weights, made once a session, and pictures of any size."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from onedc_hf import OneDCPipeline

# Read by the libraries when they are imported, so before any test module is. Tests that want a Hub start the loopback
# one and give its address to a process of its own.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

# Every part of the model, as narrow as it goes.
TINY_MODEL = {
    "codec": {
        "latent_channels": 4,
        "y_channels": 8,
        "quality_rows": 101,
        "groups": 4,
        "pixel_embedding_channels": 8,
        "fused_channels": 8,
        "trunk": "lite",
        "trunk_channels": [16, 16, 16],
        "trunk_layers": [1, 1, 1, 1],
        "analysis_blocks": ["lite", "depth_conv"],
        "hyper_channels": [16, 16, 16],
        "semantic_blocks": ["depth_conv"],
        "entropy_expansion": 1,
        "spatial_prior_layers": 1,
        "entropy_slopes": [0.0078125, 0.125],
        "synthesis_channels": [16, 16],
        "synthesis_input": [],
        "synthesis_blocks": ["lite"],
        "synthesis_upsample": "lite",
        "synthesis_upsampled_blocks": ["lite"],
        "semantic_upsample_channels": [8, 8, 8],
        "semantic_upsample_blocks": False,
        "detail_channels": 8,
        "output_block": "conv",
    },
    "generator": {
        "detail_channels": 8,
        "latent_channels": 4,
        "norm": "channel",
        "quality_embedding": True,
        "unet": {
            "block_out_channels": [8, 16],
            "layers_per_block": 1,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "norm_num_groups": 4,
            "only_cross_attention": True,
            "attention_head_dim": 2,
            "cross_attention_dim": 16,
        },
    },
    "vae": {
        "latent_channels": 4,
        "encoder_channels": 8,
        "encoder_layers": 1,
        "decoder_channels": 8,
        "decoder_layers": 1,
        "head_channels": 4,
        "head_layers": 1,
        "expansion": 1,
    },
}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model with random weights and an exact entropy path, as `save_pretrained` writes it; read-only."""
    import torch
    from diffusers import DDPMScheduler

    from onedc_hf import OneDCAutoencoder, OneDCCodec, OneDCCodecConfig, OneDCGenerator, OneDCGeneratorConfig
    from onedc_hf.training.components import save_pipeline
    from onedc_hf.training.config_files import model_settings
    from onedc_hf.training.model import TrainableOneDC

    folder = tmp_path_factory.mktemp("tiny") / "model"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TrainableOneDC(
            OneDCCodec(OneDCCodecConfig(**TINY_MODEL["codec"])),
            OneDCGenerator(OneDCGeneratorConfig(**TINY_MODEL["generator"])),
            OneDCAutoencoder(**TINY_MODEL["vae"]),
            DDPMScheduler(**model_settings("box-model")["scheduler"]),
        )
    pipe = save_pipeline(model, folder)
    pipe.quantize_entropy([np.zeros((64, 64, 3), np.uint8)])
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_folder: Path) -> OneDCPipeline:
    """The tiny model, loaded; treat it as read-only."""
    from onedc_hf import OneDCPipeline

    return OneDCPipeline.from_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    """A function `(height, width, seed=0)` that makes a smooth picture with some texture, uint8 `[H, W, 3]`."""

    def make(height: int, width: int, seed: int = 0) -> np.ndarray:
        random = np.random.default_rng(seed)
        rows, columns = np.mgrid[0:height, 0:width] / 64
        phases = random.uniform(0, 2 * np.pi, 3)
        planes = [np.sin(rows * (1 + i) + phase) * np.cos(columns * (3 - i)) for i, phase in enumerate(phases)]
        noise = random.normal(0, 4, (height, width, 3))
        return np.clip(128 + 90 * np.stack(planes, -1) + noise, 0, 255).astype(np.uint8)

    return make
