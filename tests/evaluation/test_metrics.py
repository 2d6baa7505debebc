"""Metrics against hand-made cases, and what they say when they cannot be computed."""

import math
import sys

import numpy as np
import pytest
from PIL import Image, ImageFilter

from onedc_hf.errors import PictureError
from onedc_hf.evaluation.metrics import METRICS, OFFLINE_METRICS, ms_ssim, psnr, st_lpips, st_lpips_alex, st_lpips_vgg

SIDE = 176
ENOUGH = {"psnr": 64, "ms_ssim": SIDE, "st_lpips_vgg": 64, "st_lpips_alex": 64, "ssimulacra2": 64}
SMALLEST = {
    "psnr": 1, "ms_ssim": 176, "st_lpips_vgg": 32, "st_lpips_alex": 32, "ssimulacra2": 8, "class_agreement_lite0": 1,
}  # fmt: skip
OFFLINE = [name for name in METRICS if name in OFFLINE_METRICS]


@pytest.fixture(scope="module")
def original(picture):
    return picture(SIDE, SIDE)


def blurred(picture, radius):
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def test_psnr_by_hand():
    black = np.zeros((2, 2, 3), np.uint8)
    assert psnr(black, black) == math.inf
    assert psnr(black, black + 255) == 0
    one = black.copy()
    one[0, 0, 0] = 12  # mean square 144 / 12
    assert psnr(black, one) == pytest.approx(10 * math.log10(255**2 / 12))


def test_ms_ssim_is_one_for_equal_pictures_and_the_product_of_luminance_for_flat_ones():
    flat = np.full((SIDE, SIDE, 3), 100, np.uint8)
    assert ms_ssim(flat, flat) == pytest.approx(1)
    a, b, c1 = 100 / 255, 150 / 255, 0.01**2
    # Flat pictures have no contrast or structure to lose: only luminance at the coarsest scale counts, weight 0.1333.
    assert ms_ssim(flat, flat + 50) == pytest.approx(((2 * a * b + c1) / (a * a + b * b + c1)) ** 0.1333, abs=1e-3)


def test_ms_ssim_counts_only_windows_that_lie_in_the_picture(original):
    """The definition, written out once more: contrast and structure at five scales, luminance at the last."""
    import torch
    import torch.nn.functional as F

    taps = torch.exp(-(torch.arange(11.0) - 5).square() / (2 * 1.5**2)).double()
    window = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    other = blurred(original, 2)
    x, y = (torch.from_numpy(p.transpose(2, 0, 1)[:, None] / 255) for p in (original[:, :SIDE], other[:, :SIDE]))
    value = torch.ones(3, dtype=torch.float64)
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mx, my, xx, yy, xy = (F.conv2d(p, window) for p in (x, y, x * x, y * y, x * y))
        term = (2 * (xy - mx * my) + 0.03**2) / (xx - mx * mx + yy - my * my + 0.03**2)
        if scale == 4:
            term = term * (2 * mx * my + 0.01**2) / (mx * mx + my * my + 0.01**2)
        value *= term.mean((1, 2, 3)) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    assert ms_ssim(original[:, :SIDE], other[:, :SIDE]) == pytest.approx(float(value.mean()), abs=1e-5)


@pytest.mark.parametrize("name", ENOUGH)
def test_every_metric_prefers_the_original_and_less_blur(name, original):
    metric = METRICS[name]
    original = original[: ENOUGH[name], : ENOUGH[name]]
    pictures = [original, blurred(original, 1), blurred(original, 4)]
    values = [metric.compute(original, rebuilt) for rebuilt in pictures]
    assert values == sorted(values, reverse=metric.higher_is_better)
    assert len(set(values)) == 3
    assert metric.heading.endswith("↑" if metric.higher_is_better else "↓")


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_st_lpips_equals_the_packages_own_forward(net, picture):
    import torch

    a, b = picture(48, 64), picture(48, 64, seed=1)
    x, y = (torch.from_numpy(p.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for p in (a, b))
    with torch.no_grad():
        expected = st_lpips._load(net)(x, y).item()
    assert expected > 0.05
    assert {"alex": st_lpips_alex, "vgg": st_lpips_vgg}[net](a, b) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_st_lpips_in_tiles_is_that_of_the_whole(net, picture):
    a, b = picture(325, 290), picture(325, 290, seed=1)
    whole = {"alex": st_lpips_alex, "vgg": st_lpips_vgg}[net](a, b)
    assert len(st_lpips._parts(325, 400)) == 2 == len(st_lpips._parts(290, 400))
    assert st_lpips._in_tiles(net, a, b, 400) == pytest.approx(whole, rel=1e-5)


def test_st_lpips_of_a_large_picture_is_taken_in_tiles(picture, monkeypatch):
    seen = []
    monkeypatch.setattr(st_lpips, "TILE", 64)
    monkeypatch.setattr(st_lpips, "_in_tiles", lambda net, a, b: seen.append(net) or 0.5)
    assert st_lpips_alex(picture(64, 65), picture(64, 65, seed=1)) == 0.5 and seen == ["alex"]
    assert st_lpips_alex(picture(64, 64), picture(64, 64, seed=1)) != 0.5


def test_loading_st_lpips_leaves_no_stand_ins_behind(original):
    st_lpips_alex(original, original)
    for name in ("torchvision", "torchsummary"):
        assert getattr(sys.modules.get(name), "__spec__", "absent") is not None


@pytest.mark.parametrize("name", OFFLINE)
def test_a_picture_too_small_or_of_another_size_is_an_error(name, original):
    with pytest.raises(PictureError, match="differ in size"):
        METRICS[name].compute(original, original[:-1])
    with pytest.raises(PictureError, match=r"expected uint8 \[H, W, 3\]"):
        METRICS[name].compute(original, original / 255)
    smallest = SMALLEST[name]
    small = original[:smallest, :smallest]
    METRICS[name].compute(small, small)
    if smallest > 1:
        small = original[: smallest - 1]
        with pytest.raises(PictureError, match=f"needs {smallest} pixels a side"):
            METRICS[name].compute(small, small)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("ms_ssim", "pytorch_msssim"),
        ("st_lpips_vgg", "stlpips_pytorch.stlpips"),
        ("ssimulacra2", "ssimulacra2"),
        ("class_agreement_lite0", "efficientnet_lite_pytorch"),
    ],
)
def test_a_missing_library_names_the_extra(name, module, original, monkeypatch):
    st_lpips._load.cache_clear()
    for loaded in [key for key in sys.modules if key.startswith(module.partition(".")[0])]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    original = original[:SIDE, :SIDE]
    with pytest.raises(ModuleNotFoundError, match=r"onedc-hf\[eval\]"):
        METRICS[name].compute(original, blurred(original, 2))
