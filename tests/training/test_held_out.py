"""The score that decides about a release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from onedc_hf import OneDCPipeline
from onedc_hf.training.held_out import HeldOut, held_out_score


def test_a_broken_model_scores_worse(photographs: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(dtype=torch.float32)
    pictures = sorted((Path(__file__).parents[2] / "src" / "onedc_hf" / "box" / "pictures").glob("*.jpg"))[:1]
    good = held_out_score(pipe, pictures)
    with torch.no_grad():
        for parameter in pipe.vae.decoder.parameters():
            parameter.mul_(0.5)
    bad = held_out_score(pipe, pictures)
    assert 0 < good.score < bad.score
    assert not good.refusal(None) and "scores" in bad.refusal(good)


def test_a_grid_that_the_score_does_not_see_is_measured(picture: Callable[..., np.ndarray], tmp_path: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(dtype=torch.float32)
    path = tmp_path / "picture.png"
    Image.fromarray(picture(192, 192)).save(path)
    plain = held_out_score(pipe, [path])
    decode = pipe.vae.decode

    def with_a_screen_door(latent: torch.Tensor) -> Any:
        decoded = decode(latent)
        decoded.sample[..., ::2] += 0.03
        return decoded

    pipe.vae.decode = with_a_screen_door
    assert held_out_score(pipe, [path]).grid > 2 * plain.grid


def test_what_is_refused() -> None:
    in_place = HeldOut(score=0.2, grid=1.5)
    assert not HeldOut(0.2, 1.5).refusal(in_place) and not HeldOut(0.1, 1.0).refusal(in_place)
    assert "scores 0.21" in HeldOut(0.21, 1.0).refusal(in_place)
    assert "1.60" in HeldOut(0.1, 1.6).refusal(in_place)
    assert not HeldOut(0.1, 1.19).refusal(HeldOut(0.2, 1.0))  # less than pictures differ by chance
