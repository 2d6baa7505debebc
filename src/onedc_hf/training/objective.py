"""The losses on pictures that a run's settings ask for, with the adversary that may be among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .adversary import DISCRIMINATORS, Adversary
from .config import TrainConfig
from .features import LiteFeatures
from .losses import (
    BalancedLosses,
    PerceptualLosses,
    PictureLosses,
    band_statistics_loss,
    colour_loss,
    grid_loss,
    ms_ssim_loss,
    texture_loss,
    wallpaper_loss,
)
from .run import TrainingRun

__all__ = ["RunLosses", "detail_share", "feature_share", "picture_losses"]

_ALL_DETAIL = 30.0  # quality from which on files say enough for texture: the box's 0.03 to 0.06 bpp
_OWN_DETAIL = 60.0  # and from which on they bring more and more of their own: the box's 0.09 bpp
_SURE_FEATURES = 80.0  # from which on features can be asked for: the box's 0.15 bpp
_ASK_FOR_DETAIL = ("band_statistics", "feature_statistics", "adversary")


def detail_share(config: TrainConfig, quality: Tensor) -> Tensor:
    """Share of the pull of losses that ask for detail, `[B]`.

    `low_rate_detail` at quality 0 and z-only, 1 from 30 to 60, `high_rate_detail` at 100, and linear in between.

    Where a file says little about a place, texture that is asked for all the same can only be made up; where it says
    much, texture is there already, and what is asked for beyond it replaces what was sent.
    """
    rise = (quality / _ALL_DETAIL).clamp(0, 1)
    fall = ((quality - _OWN_DETAIL) / (100 - _OWN_DETAIL)).clamp(0, 1)
    return config.low_rate_detail + (1 - config.low_rate_detail) * rise - (1 - config.high_rate_detail) * fall


def feature_share(config: TrainConfig, quality: Tensor) -> Tensor:
    """Factor on the pull of `feature_weight`, `[B]`: 1 up to quality 30, `high_rate_features` from 80, linear between.

    Where a file says little, the features that are nearest to all that could have been are those of blur. Where it says
    much, they are those of the original.
    """
    rise = ((quality - _ALL_DETAIL) / (_SURE_FEATURES - _ALL_DETAIL)).clamp(0, 1)
    return 1 + (config.high_rate_features - 1) * rise


class RunLosses:
    """`BalancedLosses` and the adversary's own learning.

    Args:
        config (`TrainConfig`): which losses, how strong.
        losses (`BalancedLosses`): their gradient at the picture.
        perceptual (`PerceptualLosses`, *optional*): the one that the adversary is part of.
    """

    def __init__(self, config: TrainConfig, losses: BalancedLosses, perceptual: PerceptualLosses | None):
        self.config, self.losses = config, losses
        self.perceptual = perceptual if perceptual is not None and perceptual.adversary is not None else None

    def __call__(
        self, rebuilt: Tensor, original: Tensor, quality: Tensor | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The gradient to send back from `rebuilt`, and each loss's value for the log.

        `quality` `[B]` (-1: only `z` is sent) is what `low_rate_detail`, `high_rate_detail` and `high_rate_features` go
        by; without it all crops count alike.
        """
        if quality is None:
            return self.losses(rebuilt, original)
        detail = detail_share(self.config, quality)
        shares = dict.fromkeys(_ASK_FOR_DETAIL, detail) | {"features": feature_share(self.config, quality)}
        return self.losses(rebuilt, original, shares)

    def warming_up(self, step: int) -> bool:
        """Whether only the discriminators learn in this step."""
        return self.perceptual is not None and step < self.config.adversary_warmup_steps

    def learn(self, step: int) -> Mapping[str, float]:
        """The discriminators' step on the crops of the last call, or their part in it, if it is their turn."""
        if self.perceptual is None or not (self.warming_up(step) or step % self.config.adversary_every == 0):
            return {}
        return self.perceptual.learn()

    def save(self, folder: Path) -> None:
        """Writes what the discriminators have learned: `discriminators.safetensors`. Without any, none stay there."""
        path = folder / DISCRIMINATORS
        path.unlink(missing_ok=True)
        if self.perceptual is not None and self.perceptual.adversary is not None:
            self.perceptual.adversary.save(path)


def picture_losses(config: TrainConfig, run: TrainingRun) -> RunLosses:
    """Makes the losses of a run and has their state in its checkpoints.

    Raises:
        ImportError, ValueError, ModelError: if the packages or files of a loss are missing.
    """
    functions: list[PictureLosses] = [ms_ssim_loss] if config.ms_ssim_weight else []
    if config.colour_weight:
        functions.append(colour_loss)
    if config.grid_weight:
        functions.append(grid_loss)
    if config.texture_weight:
        functions += [texture_loss, wallpaper_loss]
    if config.statistics_weight:
        functions.append(band_statistics_loss)
    perceptual = None
    if config.feature_weight or config.adversary_weight or config.statistics_weight:
        features = LiteFeatures(config.feature_network)
        features.to(device=run.device, memory_format=torch.channels_last)
        adversary = None
        if config.adversary_weight:
            accumulated = config.gradient_accumulation_steps
            rate, loss = config.adversary_learning_rate, config.adversary_loss
            adversary = Adversary(features.channels, rate, run.device, accumulated, loss)
            if config.discriminators and not run.resumes:  # a checkpoint has its own
                adversary.load(config.discriminators)
            run.keep(adversary)
        perceptual = PerceptualLosses(features, adversary, statistics=config.statistics_weight > 0)
        functions.append(perceptual)
    for name, weight in (("lpips", config.lpips_weight), ("dists", config.dists_weight)):
        if weight:
            from .perceptual import make_perceptual

            functions.append(make_perceptual(name, config).to(run.device))
    weights = {
        "ms_ssim": config.ms_ssim_weight,
        "colour": config.colour_weight,
        "grid": config.grid_weight,
        "period": config.texture_weight,
        "locked": config.texture_weight,
        "wallpaper": config.texture_weight,
        "band_statistics": config.statistics_weight,
        "feature_statistics": config.statistics_weight,
        "features": config.feature_weight,
        "lpips": config.lpips_weight,
        "dists": config.dists_weight,
        "adversary": config.adversary_weight,
    }
    balance = BalancedLosses(
        functions, weights, pixel_weight=config.pixel_weight, balance=config.balance_losses, reduce=run.norm_over_all
    )
    run.keep(balance)
    return RunLosses(config, balance, perceptual)
