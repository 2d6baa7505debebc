"""Distribution matching (paper, section 3.3; Yin et al., 2024): two scores say where rebuilt latents should move.

Where the distribution of rebuilt latents differs from that of real ones, their scores differ, and the difference points
from one to the other. The fake network must therefore keep learning the rebuilt latents' scores.

Shapes: B batch, L latent channels, h w rows and columns of a latent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .scores import NoisePredictor, NoiseSchedule

__all__ = ["distribution_matching_loss", "fake_score_loss"]


def distribution_matching_loss(
    latent: Tensor,
    real: NoisePredictor,
    fake: NoisePredictor,
    schedule: NoiseSchedule,
    condition: Tensor | None = None,
    *,
    timesteps: tuple[int, int] = (20, 640),
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Half the mean square of a direction, so that its gradient at the latent *is* the direction, over the elements.

    Neither network gets a gradient. Both run outside autocast, in the number formats that they have.

    Args:
        latent (`torch.Tensor` of shape `[B, L, h, w]`): rebuilt latents, standardised.
        real (`NoisePredictor`): scores of real latents.
        fake (`NoisePredictor`): scores of rebuilt latents.
        schedule (`NoiseSchedule`): of both.
        condition (`torch.Tensor` of shape `[B, T, E]`, *optional*): captions.
        timesteps (`tuple[int, int]`): first and last one that is drawn; 2 to 64 % of the schedule: earlier ones say
            nothing, later ones only what the picture as a whole should be.
        generator (`torch.Generator`, *optional*): of timesteps and noise.

    Returns:
        `tuple`: the loss, and for the log the mean distances |x - x0| as the real and the fake network see them
        (`score_real`, `score_fake`) and the direction's mean size (`matching_gradient`).
    """
    with torch.no_grad(), torch.autocast(latent.device.type, enabled=False):
        x = latent.detach().float()
        drawn, noise = schedule.draw(x, *timesteps, generator)
        noised = schedule.add_noise(x, noise, drawn)
        away_real, away_fake = (
            x - schedule.to_clean(noised, network.predict_noise(noised, drawn, condition), drawn)
            for network in (real, fake)
        )
        size = away_real.abs().mean(dim=(1, 2, 3), keepdim=True)  # [B, 1, 1, 1]
        # A latent that the real network would not move at all has no size to divide by: it does not pull.
        direction = ((away_real - away_fake) / size).float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    loss = 0.5 * F.mse_loss(latent.float(), x - direction)
    return loss, {
        "score_real": float(away_real.abs().mean()),
        "score_fake": float(away_fake.abs().mean()),
        "matching_gradient": float(direction.abs().mean()),
    }


def fake_score_loss(
    latent: Tensor,
    fake: NoisePredictor,
    schedule: NoiseSchedule,
    condition: Tensor | None = None,
    *,
    timesteps: tuple[int, int] = (0, 999),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean square error of the noise that the fake network sees in rebuilt latents; nothing flows to the latents.

    The same loss trains the teacher, on real latents.

    Args:
        latent (`torch.Tensor` of shape `[B, L, h, w]`): standardised.
        fake (`NoisePredictor`): what learns.
        schedule (`NoiseSchedule`): of the network.
        condition (`torch.Tensor` of shape `[B, T, E]`, *optional*): captions.
        timesteps (`tuple[int, int]`): first and last one that is drawn.
        generator (`torch.Generator`, *optional*): of timesteps and noise.
    """
    x = latent.detach().float()
    drawn, noise = schedule.draw(x, *timesteps, generator)
    return F.mse_loss(fake.predict_noise(schedule.add_noise(x, noise, drawn), drawn, condition), noise)
