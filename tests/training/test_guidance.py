"""Guidances of stage 2: where gradients go, what learns when, weights, and a toy generator that follows."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from onedc_hf.training.adversary import Adversary
from onedc_hf.training.guidance import LatentGuidance, PictureGuidance, Update, View
from onedc_hf.training.latent_gan import DiffusionDiscriminator, fitting_layers
from onedc_hf.training.losses import BalancedLosses, PerceptualLosses, l1_loss
from onedc_hf.training.objective import RunLosses
from onedc_hf.training.scores import LatentScale, ScoreNetwork, Teacher

from .toy_teacher import Gaussian, schedule, tiny_unet

_MEAN = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
Make = Callable[..., LatentGuidance]


class _ToyVAE:
    """Latents `[B, 2, h, w]` are the mean red and green of 8x8 blocks."""

    def encode_latent(self, pixels: Tensor) -> Tensor:
        return F.avg_pool2d(pixels[:, :2], 8)

    def decode_latent(self, latent: Tensor) -> Tensor:
        return F.interpolate(F.pad(latent, (0, 0, 0, 0, 0, 1)), scale_factor=8)


@pytest.fixture
def make() -> Make:
    """A guidance whose real scores are those of N((1, -1), 0.25), with a tiny fake network."""

    def build(scale: LatentScale | None = None, learning_rate: float = 2e-3, **settings: object) -> LatentGuidance:
        fake = ScoreNetwork(tiny_unet()).requires_grad_(False)
        head = DiffusionDiscriminator(16, schedule(), layers=fitting_layers(4), groups=4).requires_grad_(False)
        parameters = [*fake.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=learning_rate)
        return LatentGuidance(
            Teacher(Gaussian(_MEAN, 0.25), fake, schedule(), scale or LatentScale()),
            head,
            _ToyVAE(),  # type: ignore[arg-type]
            Update(Accelerator(cpu=True), parameters, optimizer),
            **settings,  # type: ignore[arg-type]
        )

    return build


def _original(count: int) -> Tensor:
    """Pictures `[B, 3, 64, 64]` whose latents are N((1, -1), 0.25)."""
    return _ToyVAE().decode_latent(_MEAN + 0.5 * torch.randn(count, 2, 8, 8))


def _view(latent: Tensor) -> View:
    return View(latent, _ToyVAE().decode_latent(latent), _original(len(latent)))


def _copies(guidance: LatentGuidance) -> list[Tensor]:
    return [p.detach().clone() for p in guidance.update.parameters]


def test_the_generators_turn_leaves_the_networks_alone(make: Make) -> None:
    torch.manual_seed(0)
    guidance = make(gan_weight=1.0)
    before = _copies(guidance)
    bias = torch.zeros(1, 2, 1, 1, requires_grad=True)
    loss, values = guidance.generator_loss(_view(bias + torch.randn(4, 2, 8, 8)))
    loss.backward()
    assert bias.grad is not None and bias.grad.abs().min() > 0
    assert {"matching", "latent_gan", "score_real", "score_fake", "matching_gradient"} == set(values)
    assert all(p.grad is None and not p.requires_grad for p in guidance.update.parameters)
    assert all(torch.equal(a, b) for a, b in zip(before, guidance.update.parameters, strict=True))


def test_the_guidances_turn_leaves_the_generator_alone(make: Make) -> None:
    torch.manual_seed(0)
    guidance = make()
    before = _copies(guidance)
    bias = torch.zeros(1, 2, 1, 1, requires_grad=True)
    values = guidance.learn(_view(bias + torch.randn(4, 2, 8, 8)).detach(), 0)
    assert bias.grad is None
    assert {"fake_score", "latent_discriminator", "latent_right"} == set(values)
    # Fake network and head both learn, and stop taking gradients when the turn is over.
    assert all(not torch.equal(a, b) for a, b in zip(before, guidance.update.parameters, strict=True))
    assert all(p.grad is None and not p.requires_grad for p in guidance.update.parameters)


def test_weights_multiply_the_losses(make: Make) -> None:
    gradients = {}
    for name, weights in {"both": (1.0, 0.5), "matching": (1.0, 0.0), "gan": (0.0, 1.0)}.items():
        guidance = make(matching_weight=weights[0], gan_weight=weights[1])
        latent = torch.linspace(-1, 1, 256).view(2, 2, 8, 8).requires_grad_(True)
        if name == "gan":  # the draws that the GAN's turn has after those of the other loss
            torch.manual_seed(3)
            schedule().draw(latent, 20, 640)
        else:
            torch.manual_seed(3)
        view = View(latent, latent, latent.detach())
        (gradients[name],) = torch.autograd.grad(guidance.generator_loss(view)[0], latent)
    assert torch.allclose(gradients["both"], gradients["matching"] + 0.5 * gradients["gan"], atol=1e-7)


def test_balanced_weights_are_ratios_of_norms_at_the_latent(make: Make) -> None:
    torch.manual_seed(0)
    latent = torch.randn(4, 2, 8, 8, requires_grad=True)
    view = _view(latent)
    (pixel,) = torch.autograd.grad(l1_loss(view.picture, view.original), latent, retain_graph=True)
    guidance = make(balance=True, matching_weight=0.0, gan_weight=2.0)
    (pulled,) = torch.autograd.grad(guidance.generator_loss(view)[0], latent)
    assert float(pulled.norm() / pixel.norm()) == pytest.approx(2.0, rel=1e-4)
    # Distribution matching counts by the root mean square of its direction: 1 is as strong as the weight says.
    guidance = make(LatentScale((0.0, 0.0), (3.0, 3.0)), balance=True, matching_weight=2.0, gan_weight=0.0)
    loss, values = guidance.generator_loss(view)
    (pulled,) = torch.autograd.grad(loss, latent)
    size = (2 * values["matching"]) ** 0.5
    assert float(pulled.norm() / pixel.norm()) == pytest.approx(2.0 * size, rel=1e-4)


def test_equal_networks_do_not_pull_when_balanced_either(make: Make) -> None:
    torch.manual_seed(0)
    guidance = make(balance=True, gan_weight=0.0)
    guidance.teacher.real = guidance.teacher.fake
    latent = torch.randn(4, 2, 8, 8, requires_grad=True)
    for _ in range(2):
        (pulled,) = torch.autograd.grad(guidance.generator_loss(_view(latent))[0], latent)
        assert not pulled.abs().any()
    with torch.no_grad():  # nearly equal: nearly no pull
        guidance.teacher.fake = ScoreNetwork(tiny_unet()).requires_grad_(False)
        guidance.teacher.fake.unet.conv_out.bias.add_(1e-6)
    loss, _ = guidance.generator_loss(_view(latent))
    (pulled,) = torch.autograd.grad(loss, latent)
    assert 0 < float(pulled.norm()) < 1e-4 * guidance.norms["pixel"]


def test_the_teachers_scale_applies_to_every_latent(make: Make) -> None:
    scale = LatentScale((1.0, 1.0), (2.0, 2.0))
    scaled, plain = make(scale), make()
    latent = torch.randn(2, 2, 8, 8)
    gradients = []
    for guidance, x in ((scaled, 2 * latent + 1), (plain, latent)):
        torch.manual_seed(0)
        x = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(guidance.generator_loss(View(x, x, x))[0], x)
        gradients.append(gradient)
    assert torch.allclose(2 * gradients[0], gradients[1], atol=1e-5)


def test_a_toy_generator_follows_to_the_real_latents(make: Make) -> None:
    torch.manual_seed(0)
    guidance = make()
    bias = torch.zeros(1, 2, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([bias], lr=0.1)
    seen: list[dict[str, float]] = []
    for step in range(80):
        view = _view(bias + 0.5 * torch.randn(4, 2, 8, 8))
        values: dict[str, float] = {}
        if step % 2 == 0 and step >= 20:  # the fake network has learned a little by then
            loss, values = guidance.generator_loss(view)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seen.append(values | guidance.learn(view.detach(), step))
    assert (bias - _MEAN).abs().max() < 0.3  # from 1
    early, late = ([values["fake_score"] for values in seen[part]] for part in (slice(0, 10), slice(-10, None)))
    assert sum(late) < 0.6 * sum(early)


def test_memory_for_time_changes_nothing(make: Make) -> None:
    gradients, learned = [], []
    for checkpointing in (False, True):
        guidance = make(gan_weight=1.0)
        if checkpointing:
            guidance.teacher.fake.unet.enable_gradient_checkpointing()
            guidance.teacher.fake.train()
        torch.manual_seed(0)
        view = _view(torch.randn(2, 2, 8, 8, requires_grad=True))
        gradients.append(torch.autograd.grad(guidance.generator_loss(view)[0], view.latent)[0])
        guidance.learn(view.detach(), 0)
        learned.append(_copies(guidance))
    assert torch.allclose(*gradients, atol=1e-7)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*learned, strict=True))


def test_processes_learn_from_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    accelerator = Accelerator(cpu=True)
    update = Update(accelerator, [weight], torch.optim.SGD([weight], lr=1.0), max_norm=100.0)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda gradient: gradient.add_(torch.tensor([3.0, 2.0])))
    with update.learning():
        update((torch.tensor([1.0, 0.0]) * weight).sum())
    assert weight.tolist() == [-2.0, -1.0]


def test_long_gradients_are_shortened() -> None:
    weight = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    update = Update(Accelerator(cpu=True), [weight], torch.optim.SGD([weight], lr=1.0), max_norm=5.0)
    with update.learning():
        update((torch.tensor([30.0, 40.0]) * weight).sum())
    assert torch.allclose(weight, torch.tensor([-3.0, -4.0]), atol=1e-4)


def test_its_state_comes_back(make: Make) -> None:
    torch.manual_seed(0)
    first, second = make(balance=True, gan_weight=1.0), make(balance=True, gan_weight=1.0)
    latent = torch.randn(2, 2, 8, 8, requires_grad=True)
    first.generator_loss(_view(latent))
    first.learn(_view(latent).detach(), 0)
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(_copies(first), _copies(second), strict=True))
    assert first.norms == second.norms and first.norms


class _Colours:
    """A feature network of one map: the picture."""

    channels = (3,)

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(pictures, 4)]


def test_an_adversary_on_pictures_is_a_guidance_too() -> None:
    torch.manual_seed(0)
    adversary = Adversary(_Colours.channels, 1e-2)
    perceptual = PerceptualLosses(_Colours(), adversary)  # type: ignore[arg-type]
    settings = SimpleNamespace(adversary_warmup_steps=0, adversary_every=1)
    balance = BalancedLosses([perceptual], {"adversary": 1.0})
    guidance = PictureGuidance(RunLosses(settings, balance, perceptual))  # type: ignore[arg-type]
    before = [p.detach().clone() for p in adversary.heads.parameters()]
    latent = torch.randn(2, 2, 8, 8, requires_grad=True)
    loss, values = guidance.generator_loss(_view(latent))
    loss.backward()
    assert latent.grad is not None and latent.grad.abs().sum() > 0 and "adversary" in values
    assert all(torch.equal(a, b) for a, b in zip(before, adversary.heads.parameters(), strict=True))
    # Its own turn, on the same pictures and on some that the generator had no turn with.
    for step in range(2):
        assert set(guidance.learn(_view(latent).detach(), step)) == {"discriminator", "discriminator_right"}
    assert not all(torch.equal(a, b) for a, b in zip(before, adversary.heads.parameters(), strict=True))
