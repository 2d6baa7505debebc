"""What several files of this folder use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onedc_hf import OneDCPipeline


@pytest.fixture(scope="module")
def many_rates(tiny_folder: Path) -> OneDCPipeline:
    """The tiny model with a spread of gains, as training gives it: another entropy model, with its own id."""
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.codec.make_float()
    steps = torch.linspace(-40, 140, 101).round().int()
    pipe.codec.entropy.gain_steps.copy_(steps[:, None].expand(-1, 8))
    pipe.quantize_entropy([np.zeros((64, 64, 3), np.uint8)])
    return pipe
