"""Refinement of latents: what it brings down, what it never makes worse, and what it leaves alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from PIL import Image

from onedc_hf import OneDCPipeline
from onedc_hf.coding import inspect, parse_header
from onedc_hf.distance import PictureDistance
from onedc_hf.pictures import load_picture, to_tensor
from onedc_hf.refinement import _Price

Picture = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def box() -> OneDCPipeline:
    return OneDCPipeline.from_pretrained(dtype=torch.float32)


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """`[192, 256, 3]`, of one of the pictures that come with the package."""
    path = Path(str(resources.files("onedc_hf") / "box" / "pictures" / "temple.jpg"))
    return np.ascontiguousarray(load_picture(path)[100:292, 100:356])


@pytest.fixture(scope="module")
def one_rate(tiny_folder: Path) -> OneDCPipeline:
    """The tiny model with a single row of gains."""
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.codec.make_float()
    pipe.codec.entropy.gain_steps = torch.full((1, 8), 60, dtype=torch.int32)
    pipe.codec.config.quality_rows = 1
    pipe.quantize_entropy([np.zeros((64, 64, 3), np.uint8)])
    return pipe


def cost(pipe: OneDCPipeline, rgb: np.ndarray, data: bytes) -> float:
    """The distance and 1.3 times the logarithm of the size."""
    return distance(pipe, rgb, data) + 1.3 * math.log(len(data))


def distance(pipe: OneDCPipeline, rgb: np.ndarray, data: bytes) -> float:
    return float(PictureDistance(to_tensor(rgb))(to_tensor(np.asarray(pipe.decompress(data)))))


# What it does ---------------------------------------------------------------------------------------------------------


def test_what_is_chosen_is_what_is_written(many_rates: OneDCPipeline, picture: Picture) -> None:
    with torch.inference_mode():
        analysed = many_rates._analyse(picture(100, 140))
        chosen = many_rates._coder.choose(analysed, 70)
        data = many_rates._coder.write(analysed, 70)
        read = many_rates._coder.read(data)
    assert torch.equal(chosen.y_hat, read.y_hat)
    assert torch.equal(chosen.symbols, chosen.symbols.round()) and chosen.symbols.any()
    beside = len(many_rates._coder.write(analysed, None))
    assert 8 * (len(data) - beside) == pytest.approx(chosen.bits, abs=8 * 16)
    # A symbol more is a step more of the rebuilt latent, wherever it lies.
    mean = chosen.y_hat - chosen.symbols * chosen.steps
    residual = (analysed.y - mean) / chosen.steps
    assert (residual - chosen.symbols).abs().max() <= 1.01


@pytest.mark.parametrize("quality", [20, 60, 95])
def test_effort_pays(box: OneDCPipeline, photograph: np.ndarray, quality: int) -> None:
    plain, refined = (box.compress(photograph, quality=quality, effort=effort) for effort in (0, 6))
    assert parse_header(refined).quality_row == parse_header(plain).quality_row
    assert cost(box, photograph, refined) < cost(box, photograph, plain) - 0.03


def test_more_effort_is_never_worse(box: OneDCPipeline, photograph: np.ndarray) -> None:
    costs = []
    with torch.inference_mode():
        analysed = box._analyse(photograph)
    refiner = box._refiner(photograph, analysed)
    for effort in (0, 2, 5):
        refined = refiner.refine(analysed, 50, effort)
        trial = refiner._try(refined.y, refined, 50, _Price(1.3, 1200, math.inf))
        costs.append(trial.cost)
    assert costs[2] < costs[1] < costs[0]


def test_a_step_that_helps_nothing_is_taken_back(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(64, 64)
    with torch.inference_mode():
        analysed = many_rates._analyse(rgb)
    refiner = many_rates._refiner(rgb, analysed)
    worse = iter(range(1, 100))
    honest = refiner._try
    refiner._try = lambda *a: replace(honest(*a), cost=float(next(worse)))  # type: ignore[method-assign]
    assert torch.equal(refiner.refine(analysed, 60, 5).y, analysed.y)


def test_a_target_is_kept_and_what_is_saved_is_spent(box: OneDCPipeline, photograph: np.ndarray) -> None:
    target = len(box.compress(photograph, quality=50)) + 3
    plain, refined = (box.compress(photograph, target_bytes=target, effort=effort) for effort in (0, 6))
    assert 0.93 * target < len(refined) <= target
    errors = [distance(box, photograph, data) for data in (plain, refined)]
    assert errors[1] < errors[0] - 0.03


def test_what_refinement_should_save_lets_higher_rows_be_tried(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(90, 130)
    with torch.inference_mode():
        analysed = many_rates._analyse(rgb)
    sizes = [len(many_rates._coder.write(analysed, row)) for row in range(101)]
    refiner = many_rates._refiner(rgb, analysed)
    assert refiner._row_above(analysed, 60, 10, math.inf) == 60
    found = refiner._row_above(analysed, 60, 10, sizes[60])
    assert sizes[found] <= 1.06 * sizes[60] < sizes[found + 1]
    assert refiner._row_above(analysed, 60, 1, sizes[60]) <= found
    assert refiner._row_above(analysed, 60, 10, 10 * sizes[100]) == 100


def test_a_row_that_does_not_fit_after_all_gives_way(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(90, 130)
    with torch.inference_mode():
        analysed = many_rates._analyse(rgb)
    refiner = many_rates._refiner(rgb, analysed)
    plain = many_rates.compress(rgb, quality=60)
    refiner._row_above = lambda *_: 90  # type: ignore[method-assign]
    data = refiner.write(analysed, plain, 2, len(plain))
    assert len(data) <= len(plain) and parse_header(data).quality_row == 60 and data != plain


@pytest.mark.parametrize(("quality", "effort"), [(5, 1), (5, 5), (20, 2), (50, 2), (80, 1)])
def test_at_a_target_nothing_is_taken_that_is_further_away(
    box: OneDCPipeline, photograph: np.ndarray, quality: int, effort: int
) -> None:
    rgb = np.ascontiguousarray(photograph[:128])
    plain = box.compress(rgb, quality=quality)
    refined = box.compress(rgb, target_bytes=len(plain), effort=effort)
    assert len(refined) <= len(plain)
    assert distance(box, rgb, refined) <= distance(box, rgb, plain) + 0.01  # a file's pixels are whole levels


def test_any_target_is_a_target(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(64, 64)
    assert many_rates.compress(rgb, target_bytes=10**400, effort=1)
    assert many_rates.compress(rgb, target_bpp=1e300, effort=1)


@pytest.mark.parametrize("share", [0.3, 0.6, 1.5])
def test_no_target_is_passed(many_rates: OneDCPipeline, picture: Picture, share: float) -> None:
    rgb = picture(90, 130, seed=3)
    target = int(share * len(many_rates.compress(rgb, quality=80)))
    assert len(many_rates.compress(rgb, target_bytes=target, effort=3)) <= target


def test_what_comes_beside_the_picture_stays(many_rates: OneDCPipeline, picture: Picture) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (64, 96, 1), dtype=np.uint8)
    rgba = np.concatenate([picture(64, 96), alpha], axis=-1)
    target = len(many_rates.compress(rgba, quality=60)) + 20
    refined = many_rates.compress(rgba, target_bytes=target, effort=5)
    assert len(refined) <= target
    assert np.array_equal(np.asarray(many_rates.decompress(refined))[..., 3:], alpha)
    assert refined != many_rates.compress(rgba, target_bytes=target)
    assert inspect(refined)["extensions"] == inspect(many_rates.compress(rgba, quality=60))["extensions"]


def test_tiles_are_refined_together(box: OneDCPipeline, photograph: np.ndarray) -> None:
    whole = OneDCPipeline(**box.components)
    tiled = OneDCPipeline(**box.components)
    tiled.enable_tiling(tile_size=128, overlap=64)
    with torch.inference_mode():
        analysed = whole._analyse(photograph)
    gradients = []
    for pipe in (whole, tiled):
        refiner = pipe._refiner(photograph, analysed)
        trial = refiner._try(analysed.y.clone(), analysed, 50, _Price(0.9, 1000, math.inf))
        gradients.append(torch.autograd.grad(trial.error, trial.y_hat)[0].flatten())
    similarity = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert 0.8 < similarity < 0.99999  # a tile knows less of what is around it
    plain, refined = (tiled.compress(photograph, quality=60, effort=effort) for effort in (0, 4))
    assert cost(tiled, photograph, refined) < cost(tiled, photograph, plain)


@pytest.mark.parametrize("tiling", [None, (4096, 256), (512, 64)])
def test_gradients_never_need_larger_tiles(
    many_rates: OneDCPipeline, picture: Picture, tiling: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = OneDCPipeline(**many_rates.components)
    if tiling:
        pipe.enable_tiling(*tiling)
    seen: list[int] = []
    honest = pipe._rebuild_tile

    def record(y_hat: torch.Tensor, semantic: torch.Tensor, row: int, rows: slice, columns: slice) -> torch.Tensor:
        seen.extend((rows.stop - rows.start, columns.stop - columns.start))
        return honest(y_hat, semantic, row, rows, columns)

    rgb = picture(1000, 130)
    with torch.inference_mode():
        analysed = pipe._analyse(rgb)
    refiner = pipe._refiner(rgb, analysed)
    monkeypatch.setattr(pipe, "_rebuild_tile", record)
    refiner._distance(analysed, 50)
    assert max(seen) <= 12 and len(seen) >= 4


def test_refinement_is_the_same_every_time_and_leaves_no_trace(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(70, 100)
    state = torch.get_rng_state()
    first, second = (many_rates.compress(rgb, quality=70, effort=3) for _ in range(2))
    assert first == second
    assert torch.equal(state, torch.get_rng_state())
    parameters = [p for part in (many_rates.vae, many_rates.codec, many_rates.generator) for p in part.parameters()]
    assert all(p.grad is None for p in parameters)
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (12, 12), (65, 170)])
def test_any_size_is_refined(many_rates: OneDCPipeline, picture: Picture, size: tuple[int, int]) -> None:
    assert many_rates.decompress(many_rates.compress(picture(*size), effort=1)).size == size[::-1]


def test_half_precision_is_refined(tiny_folder: Path, picture: Picture) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    rgb = picture(64, 130)
    plain, refined = (pipe.compress(rgb, quality=100, effort=effort) for effort in (0, 4))
    assert refined != plain and cost(pipe, rgb, refined) < cost(pipe, rgb, plain) + 0.05


def test_a_list_is_refined_one_by_one(many_rates: OneDCPipeline, picture: Picture) -> None:
    pictures = [picture(64, 64), picture(40, 90)]
    assert many_rates.compress(pictures, effort=2) == [many_rates.compress(one, effort=2) for one in pictures]


def test_a_z_only_file_has_nothing_to_refine(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(64, 64)
    assert many_rates.compress(rgb, z_only=True, effort=5) == many_rates.compress(rgb, z_only=True)
    smallest = len(many_rates.compress(rgb, z_only=True))
    assert len(many_rates.compress(rgb, target_bytes=smallest, effort=5)) == smallest


def test_a_model_of_one_rate_is_refined(one_rate: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(64, 130)
    plain, refined = (one_rate.compress(rgb, effort=effort) for effort in (0, 4))
    assert cost(one_rate, rgb, refined) <= cost(one_rate, rgb, plain)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("effort", "kind"), [(-1, ValueError), (True, TypeError), (2.5, TypeError), ("5", TypeError)])
def test_an_effort_is_a_count(many_rates: OneDCPipeline, picture: Picture, effort: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="`effort` must be"):
        many_rates.compress(Image.fromarray(picture(64, 64)), effort=effort)


def test_weights_without_gradients_are_refused(tiny_folder: Path, picture: Picture) -> None:
    with torch.inference_mode():
        pipe = OneDCPipeline.from_pretrained(tiny_folder)
    assert pipe.compress(picture(64, 64))
    with pytest.raises(ValueError, match="inference_mode"):
        pipe.compress(picture(64, 64), effort=1)


def test_parts_that_are_put_away_cannot_refine(tiny_folder: Path, picture: Picture) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    add_hook_to_module(pipe.generator, ModelHook())  # as every offloading does
    assert pipe.compress(picture(64, 64))
    with pytest.raises(ValueError, match="offload"):
        pipe.compress(picture(64, 64), effort=1)
    assert pipe.compress(picture(64, 64), z_only=True, effort=1)  # nothing to refine
