"""A faint grid is found, whatever the picture under it; blur and noise are none."""

import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from onedc_hf.errors import PictureError
from onedc_hf.evaluation.spectrum import (
    PERIODS,
    GridReport,
    grid_report,
    locked_gradient,
    mean_report,
    period_energy,
    repeated_share,
)

LIMIT = 1.2  # what a model may have over the original


@pytest.fixture(scope="module")
def photograph():
    """Spectrum of a photograph: amplitude falls as 1 / frequency, and faster towards the end, as through a lens."""
    height, width = 256, 384
    rows, columns = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / width)
    noise = np.random.default_rng(3).normal(size=(3, height, width))
    planes = np.fft.ifft2(np.fft.fft2(noise) * amplitude).real
    return blur(np.clip(128 + 45 * planes / planes.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0).copy(), 0.8)


def blur(picture, radius=2.0):
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def with_lines(picture, period, strength, axis):
    """Every `period`-th line is brighter by `strength` of 255."""
    result = picture.astype(np.float32)
    (result if axis == 0 else result.swapaxes(0, 1))[::period] += strength
    return result.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", ["same", "blur 1", "blur 4", "noise", "darker", "half size"])
def test_blur_noise_and_tone_are_no_grid(photograph, change):
    changed = {
        "same": lambda: photograph,
        "blur 1": lambda: blur(photograph, 1),
        "blur 4": lambda: blur(photograph, 4),
        "noise": lambda: np.clip(photograph + np.random.default_rng(0).normal(0, 8, photograph.shape), 0, 255).astype(
            "u1"
        ),
        "darker": lambda: photograph // 2,
        "half size": lambda: np.asarray(Image.fromarray(photograph).resize((192, 128)).resize((384, 256))),
    }[change]()
    limit = 1.35 if change == "half size" else LIMIT  # resampling by 2 is position-locked, a little
    assert grid_report(photograph, changed).worst < limit


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sharp", [True, False])
def test_a_faint_grid_is_found_on_sharp_and_on_blurred_pictures(photograph, period, axis, sharp):
    rebuilt = with_lines(photograph if sharp else blur(photograph), period, 4 if sharp else 1, axis)
    assert grid_report(photograph, rebuilt).worst > 2 * LIMIT


@pytest.mark.parametrize("period", [4, 8, 16])
def test_a_smooth_wave_shows_under_its_own_period(photograph, period):
    wave = np.cos(np.arange(photograph.shape[1]) * 2 * np.pi / period)[None, :, None]
    rebuilt = (blur(photograph) + 2.5 * wave).round().clip(0, 255).astype(np.uint8)
    energy = grid_report(photograph, rebuilt).energy
    assert max(energy, key=energy.__getitem__) == period and energy[period] > LIMIT


@pytest.mark.parametrize("block", [8, 16])
def test_block_borders_show_in_the_locked_gradient(photograph, block):
    height, width = photograph.shape[:2]
    steps = np.random.default_rng(1).normal(0, 6, (height // block, width // block)).repeat(block, 0).repeat(block, 1)
    rebuilt = (blur(photograph) + steps[..., None]).round().clip(0, 255).astype(np.uint8)
    assert grid_report(photograph, rebuilt).gradient[block] > LIMIT
    assert locked_gradient(photograph, block) < LIMIT


def wallpaper(height, width, cell=64):
    """Grain that every cell repeats, as diagonal strokes: rows and columns by themselves see next to nothing of it."""
    grain = np.random.default_rng(5).normal(size=(cell, cell))
    smooth = sum(np.roll(grain, (-i, i), (0, 1)) for i in range(8)) / 8**0.5
    return np.tile(smooth, (height // cell, width // cell))[..., None]


@pytest.mark.parametrize("strength", [1.5, 4])
def test_diagonal_strokes_that_cells_repeat_are_found(photograph, strength):
    papered = (blur(photograph) + strength * wallpaper(256, 384)).round().clip(0, 255).astype(np.uint8)
    grain = np.random.default_rng(0).normal(0, strength, photograph.shape)
    grainy = (blur(photograph) + grain).round().clip(0, 255).astype(np.uint8)
    assert grid_report(photograph, papered).repeated > 0.4
    assert abs(grid_report(photograph, grainy).repeated) < 0.03
    assert grid_report(papered, papered).repeated == 0  # the original may have it


def test_the_repeated_share_counts_cells():
    paper = (128 + 20 * wallpaper(192, 256)[..., 0]).clip(0, 255).astype(np.uint8)
    assert repeated_share(paper) > 0.95
    half = paper.copy()
    half[:, 128:] = (128 + 20 * np.random.default_rng(1).normal(size=(192, 128))).clip(0, 255)
    assert 0.15 < repeated_share(half) < 0.35  # a mean of two kinds has a quarter of the energy of one
    assert repeated_share(np.full((512, 768, 3), 99, np.uint8)) == 0
    with pytest.raises(PictureError, match="128 pixels a side"):
        repeated_share(paper[:127])


def test_flat_pictures_have_no_grid_and_tiny_ones_are_refused():
    flat = np.full((64, 80, 3), 99, np.uint8)
    assert set(period_energy(flat).values()) == {1.0}
    with pytest.raises(PictureError, match="64 pixels a side"):
        grid_report(flat[:63], flat[:63])


def test_the_mean_over_a_set_is_taken_of_each_reading():
    first = GridReport({2: 1.0, 4: 2.0, 8: 3.0, 16: 4.0}, {8: 1.0, 16: 2.0})
    second = GridReport({2: 3.0, 4: 2.0, 8: 1.0, 16: 2.0}, {8: 2.0, 16: 2.0})
    assert mean_report([first, second]) == GridReport({2: 2.0, 4: 2.0, 8: 2.0, 16: 3.0}, {8: 1.5, 16: 2.0})
    assert mean_report([first, second]).worst == 3
    known = GridReport(first.energy, first.gradient, 0.25)
    assert mean_report([known, known]).repeated == 0.25
    assert mean_report([first, known]).repeated is None  # a mean over some would be of another set


def test_readings_survive_json():
    report = GridReport({2: 1.23456, 4: 2.0}, {8: 1.0, 16: 2.0})
    assert GridReport.from_row(json.loads(json.dumps(report.to_row()))) == GridReport(
        {2: 1.2346, 4: 2.0}, report.gradient
    )
    report = GridReport({2: 1.0}, {8: 1.0}, 0.5)
    assert GridReport.from_row(json.loads(json.dumps(report.to_row()))) == report
    assert GridReport.from_row({"energy": {"2": 1.0}, "gradient": {"8": 1.0}}).repeated is None  # as once written
