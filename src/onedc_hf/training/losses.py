"""Losses on pictures, and their balance.

Each loss is a function of the rebuilt picture alone, so its gradient at the picture is computed by itself; the sum of
these gradients then goes back through the model once. Losses are balanced by the *norm* of that gradient: a weight
says how strong a loss pulls compared with the pixel loss, whatever its own unit is, and stays true while it drifts.

Shapes: B batch, S side of a crop. Pictures are `[B, 3, S, S]` in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .features import LiteFeatures, jitter

__all__ = ["BalancedLosses", "feature_loss", "l1_loss", "ms_ssim_loss"]

PictureLoss = Callable[[Tensor, Tensor], Tensor]


def l1_loss(rebuilt: Tensor, original: Tensor) -> Tensor:
    """Mean absolute error on the [0, 1] scale (paper, section 3.3); not clamped, so that overshoot is corrected."""
    return (rebuilt - original).abs().mean() / 2


def ms_ssim_loss(rebuilt: Tensor, original: Tensor) -> Tensor:
    """1 - MS-SSIM with three scales of the halved picture (the first scale of five costs most and says least)."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    small = [F.avg_pool2d(x * 0.5 + 0.5, 2) for x in (rebuilt, original)]
    return 1 - ms_ssim(small[0], small[1], data_range=1.0, kernel_size=7, sigma=1.0, betas=(0.3, 0.4, 0.3))


def feature_loss(features: LiteFeatures) -> PictureLoss:
    """L1 distance between feature maps, each channel divided by its deviation over the originals of the batch."""

    def loss(rebuilt: Tensor, original: Tensor) -> Tensor:
        moved = jitter([rebuilt, original])
        with torch.no_grad():
            targets = features(moved[1])
        total = rebuilt.new_zeros(())
        for found, target in zip(features(moved[0]), targets, strict=True):
            deviation = target.std(dim=(0, 2, 3), keepdim=True, correction=0) + 1e-3
            total = total + ((found - target).abs() / deviation).mean()
        return total / len(targets)

    return loss


class BalancedLosses:
    """Sums the gradients of several picture losses, each scaled to a share of the pixel loss's gradient norm.

    Args:
        pixel (`PictureLoss`): the loss that sets the scale; weight 1, unscaled.
        others (`Mapping[str, tuple[float, PictureLoss]]`): name to (weight, loss); weight 0 switches one off.
        momentum (`float`): of the running norms.
    """

    def __init__(self, pixel: PictureLoss, others: Mapping[str, tuple[float, PictureLoss]], momentum: float = 0.95):
        self.pixel, self.momentum = pixel, momentum
        self.others = {name: entry for name, entry in others.items() if entry[0] > 0}
        self.norms: dict[str, float] = {}

    def _running(self, name: str, gradient: Tensor) -> float:
        norm = float(gradient.norm())
        self.norms[name] = self.momentum * self.norms.get(name, norm) + (1 - self.momentum) * norm
        return self.norms[name]

    def __call__(self, rebuilt: Tensor, original: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The gradient to send back from `rebuilt`, and each loss's value for the log."""
        leaf = rebuilt.detach().requires_grad_(True)
        loss = self.pixel(leaf, original)
        (total,) = torch.autograd.grad(loss, leaf)
        values = {"pixel": float(loss.detach())}
        scale = self._running("pixel", total)
        for name, (weight, function) in self.others.items():
            loss = function(leaf, original)
            (gradient,) = torch.autograd.grad(loss, leaf)
            values[name] = float(loss.detach())
            total = total + gradient * (weight * scale / max(self._running(name, gradient), 1e-12))
        return total, values
