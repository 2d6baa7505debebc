"""The score that decides about a release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from onedc_hf import OneDCPipeline
from onedc_hf.errors import PictureError
from onedc_hf.training.held_out import HeldOut, measure_held_out


def test_a_broken_model_scores_worse(photographs: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(dtype=torch.float32)
    pictures = sorted((Path(__file__).parents[2] / "src" / "onedc_hf" / "box" / "pictures").glob("*.jpg"))[:1]
    good = measure_held_out(pipe, pictures)
    with torch.no_grad():
        for parameter in pipe.vae.decoder.parameters():
            parameter.mul_(0.5)
    bad = measure_held_out(pipe, pictures)
    assert 0 < good.score < bad.score
    assert not good.refusal(None) and "scores" in bad.refusal(good)


def test_a_grid_that_the_score_does_not_see_is_measured(picture: Callable[..., np.ndarray], tmp_path: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(dtype=torch.float32)
    path = tmp_path / "picture.png"
    Image.fromarray(picture(192, 192)).save(path)
    plain = measure_held_out(pipe, [path])
    decode = pipe.vae.decode

    def with_a_screen_door(latent: torch.Tensor, **place: Any) -> Any:
        decoded = decode(latent, **place)
        decoded.sample[..., ::2] += 0.03
        return decoded

    pipe.vae.decode = with_a_screen_door
    marred = measure_held_out(pipe, [path])
    assert all(marred.grid[setting] > 2 * plain.grid[setting] for setting in ("0.06", "0.15"))
    assert "grid at" in marred._replace(score=plain.score).refusal(plain)


def test_wallpaper_is_measured_and_small_pictures_are_refused(
    picture: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    pipe = OneDCPipeline.from_pretrained(dtype=torch.float32)
    path = tmp_path / "picture.png"
    Image.fromarray(picture(256, 256)).save(path)
    plain = measure_held_out(pipe, [path])
    decode = pipe.vae.decode
    cell = 0.1 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def papered(latent: torch.Tensor, **place: Any) -> Any:
        decoded = decode(latent, **place)
        decoded.sample.add_(cell.tile(1, 1, *(side // 64 for side in decoded.sample.shape[-2:])))
        return decoded

    pipe.vae.decode = papered
    marred = measure_held_out(pipe, [path])
    assert all(marred.repeated[setting] > plain.repeated[setting] + 0.3 for setting in plain.repeated)
    assert "repeats from cell to cell" in marred._replace(score=plain.score, grid=plain.grid).refusal(plain)
    Image.fromarray(picture(96, 256)).save(path)
    with pytest.raises(PictureError, match="128 pixels"):
        measure_held_out(pipe, [path])


def test_what_is_refused() -> None:
    def found(score: float, z_only: float, low: float, repeated: float = 0.0) -> HeldOut:
        return HeldOut(score, {"z-only": z_only, "0.02": low}, {"z-only": repeated})

    in_place = found(0.2, 80.0, 1.5)
    assert not found(0.2, 80.0, 1.5).refusal(in_place) and not found(0.1, 3.0, 1.0).refusal(in_place)
    assert "scores 0.21" in found(0.21, 1.0, 1.0).refusal(in_place)
    # One rate does not make up for another.
    assert "0.02: 1.60" in found(0.1, 1.0, 1.6).refusal(in_place)
    assert "z-only: 80.10" in found(0.1, 80.1, 1.0).refusal(in_place)
    assert not found(0.1, 1.19, 1.19).refusal(found(0.2, 1.0, 1.0))
    papered = found(0.1, 1.0, 1.0, repeated=0.3)
    assert "z-only: 0.300" in papered.refusal(found(0.2, 1.0, 1.0, repeated=0.29))
    assert not papered.refusal(found(0.2, 1.0, 1.0, repeated=0.31))
    assert not found(0.1, 1.0, 1.0, repeated=0.04).refusal(found(0.2, 1.0, 1.0))
