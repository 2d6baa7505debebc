"""What a run has saved."""

from __future__ import annotations

from pathlib import Path

import torch

from onedc_hf import OneDCPipeline


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a saved pipeline, by component and name, in float32."""
    pipe = OneDCPipeline.from_pretrained(folder, dtype=torch.float32)
    parts = {"codec": pipe.codec, "generator": pipe.generator, "vae": pipe.vae}
    return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
