"""Adapters of the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onedc_hf import OneDCPipeline
from onedc_hf.training.lora import add_adapter

from .adapters import PARTS, Picture, learn


@pytest.fixture
def pipe(tiny_folder: Path) -> OneDCPipeline:
    """The tiny model, for changing."""
    return OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def trained(tiny_folder: Path) -> OneDCPipeline:
    """The tiny model with an adapter that learned on it, and with it both parts; read-only."""
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        add_adapter(pipe.generator, rank=4, alpha=2.0, train_also=PARTS)
    learn(pipe.generator)
    return pipe


@pytest.fixture(scope="module")
def adapter(trained: OneDCPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder; read-only."""
    folder = tmp_path_factory.mktemp("adapter")
    trained.save_lora_weights(folder)
    return folder


@pytest.fixture(scope="module")
def plain_adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another adapter, without further parts."""
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        add_adapter(pipe.generator, rank=2, alpha=2.0, targets=["to_q", "conv1"])
    learn(pipe.generator)
    folder = tmp_path_factory.mktemp("plain")
    pipe.save_lora_weights(folder)
    return folder


@pytest.fixture(scope="module")
def data(tiny_pipeline: OneDCPipeline, picture: Picture) -> bytes:
    """A file that was written without an adapter."""
    return tiny_pipeline.compress(picture(70, 90))
