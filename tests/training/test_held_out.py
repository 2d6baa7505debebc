"""The score that decides about a release."""

from __future__ import annotations

from pathlib import Path

import torch

from onedc_hf import OneDCPipeline
from onedc_hf.training.held_out import held_out_score


def test_a_broken_model_scores_worse(photographs: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(dtype=torch.float32)
    pictures = sorted((Path(__file__).parents[2] / "src" / "onedc_hf" / "box" / "pictures").glob("*.jpg"))[:1]
    good = held_out_score(pipe, pictures)
    with torch.no_grad():
        for parameter in pipe.vae.decoder.parameters():
            parameter.mul_(0.5)
    assert 0 < good < held_out_score(pipe, pictures)
