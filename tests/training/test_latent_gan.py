"""The discriminator on noised latents: shapes at full size, losses, learning."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import UNet2DConditionModel

from onedc_hf.training.latent_gan import (
    PAPER_LAYERS,
    DiffusionDiscriminator,
    discriminator_loss,
    fitting_layers,
    generator_loss,
)
from onedc_hf.training.scores import ScoreNetwork

from .toy_teacher import schedule, tiny_unet


def test_the_full_size_head_sees_512_pixels_as_one() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(attention_head_dim=8, cross_attention_dim=768)  # Stable Diffusion 1.5
        network, head = ScoreNetwork(unet), DiffusionDiscriminator(1280, schedule())
        for pixels, logits in ((512, 1), (1024, 2)):
            latent = torch.zeros(1, 4, pixels // 8, pixels // 8)
            middle = network.middle(latent, torch.zeros(1, dtype=torch.long), torch.zeros(1, 77, 768))
            assert middle.shape == (1, 1280, pixels // 64, pixels // 64)
            assert head.cls_pred_branch(middle).shape == (1, 1, logits, logits)
    shapes = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items() if tensor.ndim == 4}
    assert shapes == {
        "cls_pred_branch.0.weight": (1280, 1280, 4, 4),
        "cls_pred_branch.3.weight": (1280, 1280, 4, 4),
        "cls_pred_branch.6.weight": (1, 1280, 1, 1),
    }
    assert all(part.eps == 1e-5 for part in head.modules() if isinstance(part, torch.nn.GroupNorm))


def test_small_maps_take_the_layers_that_fit() -> None:
    assert fitting_layers(8) == PAPER_LAYERS and fitting_layers(16) == PAPER_LAYERS
    assert fitting_layers(4) == PAPER_LAYERS[:1] and fitting_layers(1) == ()
    for side in (8, 4, 1):
        head = DiffusionDiscriminator(16, schedule(), width=8, layers=fitting_layers(side), groups=4)
        assert head.judge(torch.randn(2, 16, side, side)).shape[:2] == (2, 1)


def test_losses_are_softplus_of_the_logits() -> None:
    fake, real = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0])
    assert generator_loss(fake).item() == pytest.approx((math.log(2) + math.log1p(math.exp(-2))) / 2)
    expected = (math.log(2) + math.log1p(math.exp(2))) / 2 + math.log1p(math.exp(-1))
    assert discriminator_loss(fake, real).item() == pytest.approx(expected)
    assert discriminator_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(2 * math.log(2))


def test_the_gradient_goes_through_a_frozen_network_to_the_latent() -> None:
    network = ScoreNetwork(tiny_unet()).requires_grad_(False)
    head = DiffusionDiscriminator(16, schedule(), layers=fitting_layers(4), groups=4).requires_grad_(False)
    latent = torch.randn(2, 2, 8, 8, requires_grad=True)
    generator_loss(head(latent, network)).backward()
    assert latent.grad is not None and latent.grad.abs().sum() > 0
    assert all(p.grad is None for p in [*network.parameters(), *head.parameters()])


def test_the_head_judges_in_float32_under_autocast() -> None:
    network = ScoreNetwork(tiny_unet())
    head = DiffusionDiscriminator(16, schedule(), layers=fitting_layers(4), groups=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(torch.randn(2, 2, 8, 8), network).dtype == torch.float32


def test_it_learns_to_tell_shifted_latents_apart() -> None:
    torch.manual_seed(0)
    network = ScoreNetwork(tiny_unet())
    head = DiffusionDiscriminator(16, schedule(), layers=fitting_layers(4), groups=4, timesteps=(0, 300))
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=3e-3)
    seen = []
    for _ in range(40):
        fake, real = torch.randn(8, 2, 8, 8), torch.randn(8, 2, 8, 8) + 1
        loss = discriminator_loss(head(fake, network), head(real, network))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert sum(seen[-5:]) / 5 < 0.6 * sum(seen[:5]) / 5
