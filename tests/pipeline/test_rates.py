"""Qualities and targets: what a rate argument means, and what the search for a row finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from onedc_hf import OneDCPipeline, TargetError
from onedc_hf.coder import SymbolCoder
from onedc_hf.coding import Tag
from onedc_hf.rate_search import search_row

Picture = Callable[..., np.ndarray]


def test_quality_is_a_rate_scale(many_rates: OneDCPipeline, picture: Picture) -> None:
    sizes = [len(many_rates.compress(picture(128, 128), quality=q)) for q in (0, 25, 50, 75, 100)]
    assert sizes == sorted(sizes) and sizes[-1] > 2 * sizes[0]


def test_a_byte_target_is_met_from_below_and_closely(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(128, 192)
    sizes = {q: len(many_rates.compress(rgb, quality=q)) for q in (30, 70)}
    for wanted in (sizes[30], sizes[70], (sizes[30] + sizes[70]) // 2):
        found = len(many_rates.compress(rgb, target_bytes=wanted))
        assert 0.93 * wanted <= found <= wanted


@pytest.mark.parametrize("beside", [0, 60_000])
def test_the_quality_above_would_not_fit(many_rates: OneDCPipeline, picture: Picture, beside: int) -> None:
    extensions = ((Tag.EXIF, np.random.default_rng(0).bytes(beside)),) if beside else ()
    with torch.inference_mode():
        analysed = dataclasses.replace(many_rates._analyse(picture(128, 192)), extensions=extensions)
        files = [many_rates._coder.write(analysed, row) for row in range(101)]
        for wanted in range(len(files[0]), len(files[-1]), (len(files[-1]) - len(files[0])) // 12):
            found = many_rates._coder.write_within(analysed, wanted)
            row = files.index(found)
            assert len(found) <= wanted < len(files[row + 1])
        assert many_rates._coder.write_within(analysed, len(files[-1])) == files[-1]


def test_a_bpp_target_counts_the_pictures_own_pixels(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(100, 130)
    wanted = len(many_rates.compress(rgb, quality=50)) * 8 / rgb[..., 0].size
    data = many_rates.compress(rgb, target_bpp=wanted)
    assert 0.9 * wanted <= len(data) * 8 / rgb[..., 0].size <= wanted
    assert data == many_rates.compress(rgb, target_bytes=int(wanted * 100 * 130 / 8))


@pytest.mark.parametrize("rate", [{"target_bpp": 1e308}, {"target_bpp": np.float16(60000)}, {"target_bytes": 10**400}])
def test_a_target_above_every_file_gives_the_best(many_rates: OneDCPipeline, picture: Picture, rate: Any) -> None:
    rgb = picture(64, 64)
    assert many_rates.compress(rgb, **rate) == many_rates.compress(rgb, quality=100)


def test_the_default_quality_is_the_middle_of_the_scale(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(128, 128)
    data = many_rates.compress(rgb)
    assert data == many_rates.compress(rgb, quality=50) != many_rates.compress(rgb, quality=49)


@pytest.mark.parametrize(("rows", "expected"), [(101, [0, 50, 100]), (51, [0, 25, 50]), (2, [0, 0, 1]), (1, [0] * 3)])
def test_qualities_spread_over_the_rows_that_a_model_has(
    tiny_pipeline: OneDCPipeline, rows: int, expected: list[int]
) -> None:
    entropy: Any = SimpleNamespace(quality_rows=rows)
    coder = SymbolCoder(tiny_pipeline.codec, entropy, tiny_pipeline._symbols)
    assert [coder.row(quality) for quality in (0, 50, 100)] == expected
    assert [coder.quality(row) for row in (0, rows - 1)] == [0, 100 if rows > 1 else 0]
    assert coder.quality(None) == -1


def test_a_target_below_the_smallest_file_says_what_is_possible(many_rates: OneDCPipeline, picture: Picture) -> None:
    smallest = len(many_rates.compress(picture(64, 64), z_only=True))
    with pytest.raises(TargetError, match=str(smallest)) as caught:
        many_rates.compress(picture(64, 64), target_bytes=smallest - 1)
    assert caught.value.smallest == smallest
    assert len(many_rates.compress(picture(64, 64), target_bytes=smallest)) == smallest


def test_a_z_only_file_is_the_hyper_latent_and_little_more(tiny_pipeline: OneDCPipeline, picture: Picture) -> None:
    data = tiny_pipeline.compress(picture(128, 192), z_only=True)
    assert len(data) <= 6 * 14 / 8 + 14
    assert tiny_pipeline.decompress(data).size == (192, 128)


@pytest.mark.parametrize("trials", [1, 3, 5, 20])
def test_the_row_search_never_returns_a_row_known_to_be_too_large(trials: int) -> None:
    for budget in (5, 100, 150, 1000, 10_000):
        asked: dict[int, float] = {}

        def estimate(row: int, asked: dict[int, float] = asked) -> float:
            asked[row] = 100 * 1.03**row
            return asked[row]

        row = search_row(estimate, 101, budget, trials)
        assert len(asked) <= trials
        assert row == 0 or asked.get(row, 0) <= budget
        if trials >= 5 and 100 <= budget <= 1900:
            assert 0.9 * budget < 100 * 1.03**row <= budget


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"quality": 101}, ValueError, "0 to 100"),
        ({"quality": -1}, ValueError, "0 to 100"),
        ({"quality": 50.0}, TypeError, "integer"),
        ({"quality": True}, TypeError, "integer"),
        ({"target_bytes": 0}, ValueError, "at least 1"),
        ({"target_bpp": float("nan")}, ValueError, "positive"),
        ({"target_bpp": -1}, ValueError, "positive"),
        ({"target_bpp": "0.1"}, TypeError, "number"),
        ({"target_bpp": True}, TypeError, "number"),
        ({"quality": 50, "target_bytes": 100}, ValueError, "one of"),
        ({"quality": 50, "z_only": True}, ValueError, "one of"),
    ],
)
def test_rate_arguments_are_checked(
    tiny_pipeline: OneDCPipeline, picture: Picture, arguments: dict, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        tiny_pipeline.compress(picture(8, 8), **arguments)
