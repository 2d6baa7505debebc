"""Perceptual losses on tiny trunks whose features are known by hand; what is said when weights are missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from onedc_hf.errors import ModelError
from onedc_hf.training.adversary import Adversary
from onedc_hf.training.losses import BalancedLosses, PerceptualLosses
from onedc_hf.training.perceptual import DISTS, LPIPS, VGGFeatures, make_perceptual

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def copies_red(stages: tuple[tuple[int, ...], ...] = ((2,), (2,))) -> dict[str, Tensor]:
    """Weights under which a map's first channel is the red of the picture in [0, 1], the second a constant 1."""
    state, channels, layer = {}, 3, 0
    for i, stage in enumerate(stages):
        layer += i > 0  # the pooling
        for width in stage:
            weight = torch.zeros(width, channels, 3, 3)
            if channels == 3:
                weight[0, 0, 1, 1] = DEVIATION[0]  # undoes the normalisation
                bias = torch.tensor([float(MEAN[0]), 1.0])
            else:
                weight[0, 0, 1, 1] = weight[1, 1, 1, 1] = 1
                bias = torch.zeros(2)
            state |= {f"features.{layer}.weight": weight, f"features.{layer}.bias": bias}
            channels, layer = width, layer + 2
    return state


def trunk(pooling: Literal["average", "hanning"], stages: tuple[tuple[int, ...], ...] = ((2,), (2,))) -> VGGFeatures:
    return VGGFeatures(copies_red(stages), pooling, stages)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 8, 8, generator=draw) * 2 - 1, torch.rand(2, 3, 8, 8, generator=draw) * 2 - 1


def test_maps_lie_behind_the_last_relu_of_each_stage() -> None:
    unit = torch.rand(1, 3, 8, 8)
    maps = trunk("average", ((2, 2), (2,)))(unit)
    torch.testing.assert_close(maps[0][:, 0], unit[:, 0])
    torch.testing.assert_close(maps[1][:, 0], torch.nn.functional.avg_pool2d(unit[:, 0], 2))


def test_average_pooling_takes_the_mean_where_vggs_own_takes_the_maximum() -> None:
    unit = torch.zeros(1, 3, 4, 4)
    unit[0, 0, 0, 0] = 1.0
    assert trunk("average")(unit)[1][0, 0].tolist() == [[0.25, 0], [0, 0]]


def test_hanning_pooling_takes_the_root_of_weighted_squares() -> None:
    unit = torch.zeros(1, 3, 4, 4)
    unit[0, 0, 2, 2] = 0.5  # a centre of the window of position (1, 1): weight 1/4
    unit[0, 0, 0, 1] = 1.0  # beside the centres (0, 0) and (0, 2): 1/2 x 1/4
    pooled = trunk("hanning")(unit)[1][0, 0]
    expected = torch.tensor([[(1 / 8) ** 0.5, (1 / 8) ** 0.5], [0, 0.25]])
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=0)


def test_lpips_of_a_hand_computed_case() -> None:
    # Red of 0.75 against 0: unit vectors (0.6, 0.8) and (0, 1), in both maps since the pictures are flat.
    rebuilt, original = torch.zeros(1, 3, 4, 4), -torch.ones(1, 3, 4, 4)
    rebuilt[:, 0] = 0.5
    loss = LPIPS(trunk("average"), [torch.ones(2), torch.tensor([2.0, 0.0])])
    assert loss(rebuilt, original)["lpips"].item() == pytest.approx((0.36 + 0.04) + 2 * 0.36, rel=1e-5)


def test_lpips_is_a_mean_over_places_and_pictures_and_does_not_clamp() -> None:
    original = -torch.ones(2, 3, 2, 2)
    rebuilt = original.clone()
    rebuilt[0, 0, 0, 0] = 7 / 3  # red of 5/3, beyond the range: unit vector (0.857, 0.514)
    loss = LPIPS(trunk("average", ((2,),)), [torch.ones(2)])
    length = (25 / 9 + 1) ** 0.5
    expected = ((5 / 3 / length) ** 2 + (1 - 1 / length) ** 2) / 4 / 2
    assert loss(rebuilt, original)["lpips"].item() == pytest.approx(expected, rel=1e-5)


def test_dists_of_a_hand_computed_case() -> None:
    # Two flat pictures: the variances are 0, so structure is 1, and texture is 2xy / (x^2 + y^2) where they differ.
    rebuilt, original = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    rebuilt[:, 0] = -0.5  # 0.25 against 0.5, in the picture and in the first map
    alpha, beta = torch.tensor([1.0, 1, 1, 2, 1]), torch.tensor([2.0, 1, 1, 0, 0])
    loss = DISTS(trunk("hanning", ((2,),)), alpha, beta)
    texture = 2 * 0.125 / (0.0625 + 0.25)
    assert loss(rebuilt, original)["dists"].item() == pytest.approx((1 + 2) / 10 * (1 - texture), rel=1e-4)


def test_dists_structure_is_the_correlation() -> None:
    original = torch.zeros(1, 3, 4, 4)
    original[..., ::2] = 0.5
    rebuilt = -original  # negatively correlated; in [0, 1]: 0.75 and 0.25 around 0.5
    weights = torch.tensor([0.0, 0, 0, 0, 0]), torch.tensor([1.0, 1, 1, 0, 0])
    loss = DISTS(trunk("hanning", ((2,),)), *weights)
    assert loss(rebuilt, original)["dists"].item() == pytest.approx(2.0, rel=1e-3)


def losses_of(name: str) -> LPIPS | DISTS:
    if name == "lpips":
        return LPIPS(trunk("average"), [torch.ones(2)] * 2)
    return DISTS(trunk("hanning"), torch.ones(7), torch.ones(7))


@pytest.mark.parametrize("name", ["lpips", "dists"])
def test_equal_pictures_cost_nothing_and_only_the_rebuilt_one_gets_a_gradient(
    name: str, pair: tuple[Tensor, Tensor]
) -> None:
    loss, (rebuilt, original) = losses_of(name), pair
    assert loss(original, original)[name].item() == pytest.approx(0, abs=1e-6)
    rebuilt, original = rebuilt.requires_grad_(True), original.requires_grad_(True)
    value = loss(rebuilt, original)[name]
    assert value.item() > 0.01
    value.backward()
    assert rebuilt.grad is not None and rebuilt.grad.abs().sum() > 0 and rebuilt.grad.isfinite().all()
    assert all(p.grad is None for p in loss.parameters())
    assert not any(module.training for module in loss.train().features.modules())


def test_black_pictures_have_a_finite_gradient() -> None:
    """Where a feature vector is zero, its length has no derivative."""
    state = copies_red(((2,),)) | {"features.0.bias": torch.zeros(2)}
    dark = torch.full((1, 3, 4, 4), -1.0, requires_grad=True)
    loss = LPIPS(VGGFeatures(state, "average", ((2,),)), [torch.ones(2)])
    loss(dark, torch.ones(1, 3, 4, 4))["lpips"].backward()
    assert dark.grad is not None and dark.grad.isfinite().all()


def vgg16(tmp_path: Path, suffix: str = ".safetensors") -> Path:
    """Random weights of full size, with what else torchvision's file holds."""
    torch.manual_seed(0)
    widths = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256} | dict.fromkeys((17, 19, 21, 24, 26, 28), 512)
    state, channels = {"classifier.0.bias": torch.zeros(3)}, 3
    for layer, width in widths.items():
        state[f"features.{layer}.weight"] = torch.randn(width, channels, 3, 3) * (2 / 9 / channels) ** 0.5
        state[f"features.{layer}.bias"] = torch.zeros(width)
        channels = width
    path = tmp_path / f"vgg16{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    return path


def files(**changes: str) -> SimpleNamespace:
    return SimpleNamespace(**({"vgg_weights": "", "lpips_heads": "", "dists_weights": ""} | changes))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_lpips_at_full_size_from_files_and_with_the_published_heads(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics", reason="its package holds the heads")
    loss = make_perceptual("lpips", files(vgg_weights=str(vgg16(tmp_path, suffix)))).to("cpu")
    assert isinstance(loss, LPIPS)
    assert loss.features.taps == [3, 8, 15, 22, 29]  # torchvision's relu1_2, 2_2, 3_3, 4_3, 5_3
    assert [head.numel() for head in loss.heads] == [64, 128, 256, 512, 512]
    assert all((head > 0).all() for head in loss.heads)
    rebuilt, original = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    assert loss(original, original)["lpips"] == 0 < loss(rebuilt, original)["lpips"]


def test_dists_at_full_size_from_files(tmp_path: Path) -> None:
    weights = {"alpha": torch.full((1, 1475, 1, 1), 0.1), "beta": torch.full((1, 1475, 1, 1), 0.3)}
    torch.save(weights, tmp_path / "weights.pt")
    asked = files(vgg_weights=str(vgg16(tmp_path)), dists_weights=str(tmp_path / "weights.pt"))
    loss = make_perceptual("dists", asked)
    assert isinstance(loss, DISTS)
    assert float(loss.alpha.sum()) == pytest.approx(0.25) and float(loss.beta.sum()) == pytest.approx(0.75)
    picture = torch.rand(1, 3, 32, 32)
    assert loss(picture, picture)["dists"].item() == pytest.approx(0, abs=1e-5)


def test_the_pooling_between_stages_is_the_losss_own(tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics", reason="its package holds the heads")
    loss = make_perceptual("lpips", files(vgg_weights=str(vgg16(tmp_path))))
    assert isinstance(loss, LPIPS)
    assert [type(loss.features.features[i]) for i in (4, 9, 16, 23)] == [torch.nn.AvgPool2d] * 4


def test_missing_weights_say_where_to_get_them(tmp_path: Path) -> None:
    for name in ("lpips", "dists"):
        weights = {"alpha": torch.ones(1475), "beta": torch.ones(1475)}
        save_file(weights, tmp_path / "dists.safetensors")
        asked = files(dists_weights=str(tmp_path / "dists.safetensors"))
        with pytest.raises(ModelError, match=r"timm/vgg16.*--vgg_weights"):  # the Hub is offline in tests
            make_perceptual(name, asked)
        with pytest.raises(ModelError, match=r"no file 'x\.pth'.*timm/vgg16"):
            asked.vgg_weights = "x.pth"
            make_perceptual(name, asked)
    with pytest.raises(ModelError, match="--lpips_heads"):
        make_perceptual("lpips", files(lpips_heads="x.pth"))
    with pytest.raises(ModelError, match="--dists_weights"):
        make_perceptual("dists", files(dists_weights="x.pt"))
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="no weights of VGG-16"):
        make_perceptual("lpips", files(vgg_weights=str(tmp_path / "other.safetensors")))
    with pytest.raises(ModelError, match="lin0"):
        make_perceptual("lpips", files(lpips_heads=str(tmp_path / "other.safetensors")))


@pytest.mark.parametrize("name", ["st_lpips", "ST-LPIPS", "stlpips_vgg", "st_lpips_alex"])
def test_what_measures_is_no_loss(name: str) -> None:
    with pytest.raises(ValueError, match="reserved for measuring"):
        make_perceptual(name)


def test_other_names_are_refused_with_those_that_work() -> None:
    with pytest.raises(ValueError, match="lite1, lite2, lpips, dists"):
        make_perceptual("vgg19")
    with pytest.raises(ValueError, match="reserved for measuring"):
        make_perceptual("lite0")


@pytest.mark.parametrize("name", ["lite1", "lite2"])
def test_the_lite_networks_serve_an_adversary_too(name: str) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `train`")
    plain = make_perceptual(name)
    assert isinstance(plain, PerceptualLosses)
    losses = make_perceptual(name, adversary=Adversary(plain.features.channels, 1e-3)).to("cpu")
    assert isinstance(losses, PerceptualLosses)
    draw = torch.Generator().manual_seed(0)
    rebuilt, original = (torch.rand(1, 3, 64, 64, generator=draw) * 2 - 1 for _ in range(2))
    assert set(losses(rebuilt, original)) == {"features", "adversary"}
    assert losses.learn()["discriminator"] > 0
    with pytest.raises(ValueError, match="lite1 or lite2"):
        make_perceptual("lpips", adversary=losses.adversary)


def test_they_are_balanced_like_every_other_loss(pair: tuple[Tensor, Tensor]) -> None:
    balance = BalancedLosses([losses_of("lpips"), losses_of("dists")], {"lpips": 1.0, "dists": 0.5})
    gradient, values = balance(*pair)
    assert values.keys() == {"pixel", "lpips", "dists"} and gradient.abs().sum() > 0
