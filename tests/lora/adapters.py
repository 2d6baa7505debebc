"""What tests of adapters share beside fixtures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from onedc_hf import OneDCGenerator, OneDCPipeline

Picture = Callable[..., np.ndarray]
NAME = "pytorch_lora_weights.safetensors"
PARTS = ("conv_in", "vae_reduction")


def learn(generator: OneDCGenerator, steps: int = 3) -> None:
    """Steps on random features, large enough to be seen."""
    parameters = [p for p in generator.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    draw = torch.Generator().manual_seed(1)
    detail, tokens = torch.randn(2, 8, 16, 16, generator=draw), torch.randn(2, 4, 16, generator=draw)
    for _ in range(steps):
        optimizer.zero_grad()
        generator(detail, tokens, torch.tensor([50.0, -1.0])).square().mean().backward()
        optimizer.step()


def contents(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and settings of an adapter's file."""
    with safe_open(folder / NAME, framework="pt") as file:
        return load_file(folder / NAME), json.loads(file.metadata()["lora_adapter_metadata"])


def pixels(pipe: OneDCPipeline, data: bytes) -> np.ndarray:
    return np.asarray(pipe.decompress(data))
