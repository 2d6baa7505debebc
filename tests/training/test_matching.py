"""Distribution matching and the fake network's loss against closed forms."""

from __future__ import annotations

import pytest
import torch

from onedc_hf.training.matching import distribution_matching_loss, fake_score_loss
from onedc_hf.training.scores import ScoreNetwork

from .toy_teacher import Gaussian, schedule, tiny_unet


def test_the_direction_of_two_gaussians_is_known() -> None:
    """With one variance v, p_real - p_fake = (1-a) / (a v + 1-a) (m_fake - m_real), whatever the noise."""
    torch.manual_seed(0)
    m_real, m_fake, v, t = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1), torch.zeros(1, 2, 1, 1), 0.25, 300
    latent = torch.randn(3, 2, 4, 4, requires_grad=True)
    draws = torch.Generator().manual_seed(5)
    noises, timesteps = schedule(), (t, t)
    loss, values = distribution_matching_loss(
        latent, Gaussian(m_real, v), Gaussian(m_fake, v), noises, timesteps=timesteps, generator=draws
    )
    loss.backward()
    # By hand, with the noise that was drawn.
    x = latent.detach().double()
    drawn, noise = noises.draw(latent, t, t, torch.Generator().manual_seed(5))
    a = float(noises.alphas_cumprod[t])
    noised = a**0.5 * x + (1 - a) ** 0.5 * noise
    posterior_mean = m_real + a**0.5 * v / (a * v + 1 - a) * (noised - a**0.5 * m_real)
    size = (x - posterior_mean).abs().mean(dim=(1, 2, 3), keepdim=True)
    direction = (1 - a) / (a * v + 1 - a) * (m_fake - m_real) / size
    assert drawn.tolist() == [t] * 3
    assert latent.grad is not None
    assert torch.allclose(latent.grad.double(), (direction / latent.numel()).expand_as(x), rtol=1e-4)
    assert loss.item() == pytest.approx(0.5 * float(direction.expand_as(x).square().mean()), rel=1e-4)
    assert values["score_real"] == pytest.approx(float(size.mean()), rel=1e-5)
    assert values["matching_gradient"] == pytest.approx(float(direction.expand_as(x).abs().mean()), rel=1e-4)


def test_equal_scores_do_not_pull() -> None:
    network = Gaussian(torch.zeros(1, 2, 1, 1), 1.0)
    latent = torch.randn(2, 2, 4, 4, requires_grad=True)
    loss, _ = distribution_matching_loss(latent, network, network, schedule())
    loss.backward()
    assert loss.item() == 0 and latent.grad is not None and not latent.grad.abs().any()


class _ToldTheLatent:
    """Sees the exact noise, and so the exact latent: |p_real| = 0; or nothing but NaN."""

    def __init__(self, latent: torch.Tensor, broken: bool = False):
        self.latent, self.broken, self.noises = latent, broken, schedule()

    def predict_noise(
        self, noised: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        if self.broken:
            return torch.full_like(noised, torch.nan)
        a = self.noises.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return (noised - a.sqrt() * self.latent) / (1 - a).sqrt()


def test_a_direction_that_is_no_number_does_not_pull() -> None:
    latent = torch.zeros(2, 2, 4, 4)
    other = Gaussian(torch.ones(1, 2, 1, 1), 1.0)
    for real, fake in ((_ToldTheLatent(latent, broken=True), other), (other, _ToldTheLatent(latent, broken=True))):
        loss, _ = distribution_matching_loss(latent.requires_grad_(True), real, fake, schedule())
        (gradient,) = torch.autograd.grad(loss, latent)
        assert loss.item() == 0 and not gradient.abs().any()


def test_the_fake_network_is_asked_for_the_noise() -> None:
    latent = torch.full((2, 2, 4, 4), 3.0)
    assert fake_score_loss(latent, _ToldTheLatent(latent), schedule()).item() < 1e-9
    # A network that sees no noise at all is wrong by its variance.
    big = torch.zeros(64, 2, 16, 16)

    class Silent:
        def predict_noise(
            self, noised: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor | None = None
        ) -> torch.Tensor:
            return torch.zeros_like(noised)

    torch.manual_seed(0)
    assert fake_score_loss(big, Silent(), schedule()).item() == pytest.approx(1, rel=0.02)


def test_gradients_reach_only_what_each_loss_is_for() -> None:
    real, fake = ScoreNetwork(tiny_unet(seed=0)), ScoreNetwork(tiny_unet(seed=1))
    latent = torch.randn(2, 2, 8, 8, requires_grad=True)
    distribution_matching_loss(latent, real, fake, schedule())[0].backward()
    assert latent.grad is not None and latent.grad.abs().sum() > 0
    assert all(p.grad is None for network in (real, fake) for p in network.parameters())
    latent.grad = None
    fake_score_loss(latent, fake, schedule()).backward()
    assert latent.grad is None
    assert all(p.grad is not None for p in fake.parameters())


def test_timesteps_stay_in_their_range() -> None:
    seen: list[int] = []

    class Watching(Gaussian):
        def predict_noise(
            self, noised: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor | None = None
        ) -> torch.Tensor:
            seen.extend(timesteps.tolist())
            return super().predict_noise(noised, timesteps)

    torch.manual_seed(0)
    watching = Watching(torch.zeros(1, 1, 1, 1), 1.0)
    distribution_matching_loss(torch.zeros(5000, 1, 1, 1), watching, watching, schedule())
    assert (min(seen), max(seen)) == (20, 640)
    seen.clear()
    fake_score_loss(torch.zeros(10000, 1, 1, 1), watching, schedule())
    assert (min(seen), max(seen)) == (0, 999)
