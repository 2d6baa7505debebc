"""A GAN on the middle of the fake score network (paper, section 3.3): is a noised latent that of a real picture?

Shapes: B batch, L latent channels, h w rows and columns of a latent, C h' w' the map of the network's middle block.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .scores import NoiseSchedule, ScoreNetwork

__all__ = ["PAPER_LAYERS", "DiffusionDiscriminator", "discriminator_loss", "fitting_layers", "generator_loss"]

# Kernel, stride and padding of each convolution: a map of 8x8 (crops of 512) becomes one logit, 16x16 becomes 2x2.
PAPER_LAYERS = ((4, 2, 1), (4, 4, 0))


def fitting_layers(
    side: int, layers: Sequence[tuple[int, int, int]] = PAPER_LAYERS
) -> tuple[tuple[int, int, int], ...]:
    """The first of some layers, as far as a map of this side allows them."""
    fitting: list[tuple[int, int, int]] = []
    for kernel, stride, padding in layers:
        if side + 2 * padding < kernel:
            break
        side = (side + 2 * padding - kernel) // stride + 1
        fitting.append((kernel, stride, padding))
    return tuple(fitting)


class DiffusionDiscriminator(nn.Module):
    """Noises latents, looks at them through the fake network, and judges its middle block's output.

    The network is not part of the module: it learns with the fake scores, and is shared.

    Args:
        channels (`int`): C, of the network's middle block.
        schedule (`NoiseSchedule`): of the network.
        width (`int`, *optional*): channels of the head; C by default.
        layers: kernel, stride and padding of each convolution before the last 1x1 one; the paper's by default. Small
            maps need fewer (`fitting_layers`).
        groups (`int`): of the normalisation.
        timesteps (`tuple[int, int]`): first and last one that is drawn.
    """

    def __init__(
        self,
        channels: int,
        schedule: NoiseSchedule,
        *,
        width: int | None = None,
        layers: Sequence[tuple[int, int, int]] = PAPER_LAYERS,
        groups: int = 32,
        timesteps: tuple[int, int] = (0, 999),
    ):
        super().__init__()
        self.schedule, self.timesteps = schedule, timesteps
        widths = [channels, *[width or channels] * len(layers)]
        parts: list[nn.Module] = []
        for (before, after), (kernel, stride, padding) in zip(pairwise(widths), layers, strict=True):
            parts += [nn.Conv2d(before, after, kernel, stride, padding), nn.GroupNorm(groups, after), nn.SiLU()]
        self.cls_pred_branch = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 1))

    def judge(self, middle: Tensor) -> Tensor:
        """Logits `[B, 1, ...]`, in float32, of a middle block's output `[B, C, h', w']`: above 0 is real."""
        with torch.autocast(middle.device.type, enabled=False):
            return self.cls_pred_branch(middle.float())

    def forward(
        self,
        latent: Tensor,
        network: ScoreNetwork,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Logits of standardised latents `[B, L, h, w]`, at timesteps and with noise drawn anew."""
        timesteps, noise = self.schedule.draw(latent, *self.timesteps, generator)
        noised = self.schedule.add_noise(latent.float(), noise, timesteps)
        return self.judge(network.middle(noised, timesteps, condition))


def generator_loss(logits: Tensor) -> Tensor:
    """Mean softplus(-D(x)) over rebuilt latents: low where they pass for real."""
    return F.softplus(-logits).mean()


def discriminator_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Mean softplus(D(fake)) + mean softplus(-D(real)); 2 ln 2 while nothing is told apart."""
    return F.softplus(fake).mean() + F.softplus(-real).mean()
