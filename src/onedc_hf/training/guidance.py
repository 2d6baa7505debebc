"""What tells the generator of stage 2 where to go, and keeps learning itself: one interface for two ways.

- `PictureGuidance`: losses on the picture, with an adversary on pretrained features among them if there is one.
- `LatentGuidance`: distribution matching and a GAN on the fake score network's middle (paper, section 3.3).

Shapes: B batch, L latent channels, h w rows and columns of a latent, S side of a crop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .config import TrainConfig
from .latent_gan import DiffusionDiscriminator, discriminator_loss, fitting_layers, generator_loss
from .losses import l1_loss, take_into
from .matching import distribution_matching_loss, fake_score_loss
from .model import TrainableOneDC
from .objective import RunLosses
from .run import TrainingRun
from .scores import Teacher, load_teacher
from .steps import OptimizerStep

__all__ = ["Guidance", "LatentGuidance", "PictureGuidance", "Update", "View", "make_latent_guidance"]


class View(NamedTuple):
    """What a guidance looks at.

    Args:
        latent (`torch.Tensor` of shape `[B, L, h, w]`): rebuilt, scaled as the generator gives it.
        picture (`torch.Tensor` of shape `[B, 3, S, S]`): rebuilt, about [-1, 1]; empty, where no guidance asks for it.
        original (`torch.Tensor` of shape `[B, 3, S, S]`): in [-1, 1].
        captions (`list[str]`, *optional*): of the originals.
        quality (`torch.Tensor` of shape `[B]`, *optional*): that the crops were sent at; -1: only `z`.
        encoded (`torch.Tensor` of shape `[B, L, h, w]`, *optional*): latent of the originals, if it is known already.
    """

    latent: Tensor
    picture: Tensor
    original: Tensor
    captions: Sequence[str] | None = None
    quality: Tensor | None = None
    encoded: Tensor | None = None

    def detach(self) -> View:
        """The same, without a way back to the generator."""
        return self._replace(latent=self.latent.detach(), picture=self.picture.detach())


class Guidance(Protocol):
    """What stage 2 does with a guidance: now and then `generator_loss`, and in every iteration `learn`."""

    def generator_loss(self, view: View) -> tuple[Tensor, dict[str, float]]:
        """What to send back from a view with gradient, weighted; and each loss's own value, for the log.

        The networks of the guidance are done with when it returns: no gradient reaches them, and only one at the
        latent or the picture is kept.
        """
        ...

    def learn(self, view: View, step: int) -> dict[str, float]:
        """Its own update on the (detached) view of the same iteration; values for the log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, beside prepared optimisers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        ...


class PictureGuidance:
    """The losses on pictures of a run; their state is in its checkpoints already.

    Args:
        losses (`RunLosses`): from `picture_losses`.
    """

    def __init__(self, losses: RunLosses):
        self.losses, self._looked = losses, False

    def generator_loss(self, view: View) -> tuple[Tensor, dict[str, float]]:
        """Balanced or weighted losses, as the settings say."""
        picture = view.picture.float()
        gradient, values = self.losses(picture.detach(), view.original, view.quality)
        self._looked = True
        return (picture * gradient).sum(), values

    def learn(self, view: View, step: int) -> dict[str, float]:
        """A step of the adversary's discriminators, if there is one and it is their turn."""
        perceptual = self.losses.perceptual
        if perceptual is not None and not self._looked:  # the generator had no turn: nobody has seen this picture yet
            with torch.no_grad():
                perceptual(view.picture.float(), view.original)
        self._looked = False
        return dict(self.losses.learn(step))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: `picture_losses` has registered its parts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""


class Update:
    """One step of an optimiser for networks that accelerate does not wrap.

    They are used by other ways than `forward`, which torch's wrapper for several processes does not allow; so gradients
    are averaged here.

    Args:
        accelerator (`Accelerator`): of the run.
        parameters: what learns.
        optimizer, scheduler: theirs, prepared.
        max_norm (`float`): of the gradient; longer ones are shortened (5.0 in the paper), with 0 none.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        parameters: Sequence[nn.Parameter],
        optimizer: Any,
        scheduler: Any = None,
        max_norm: float = 5.0,
    ):
        self.accelerator, self.parameters = accelerator, list(parameters)
        self._step = OptimizerStep(
            accelerator, self.parameters, optimizer, scheduler, max_norm=max_norm, what="the guidance"
        )

    @contextmanager
    def learning(self) -> Iterator[None]:
        """The parameters take gradients in here, and nowhere else."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(False)

    def __call__(self, loss: Tensor) -> None:
        """Back-propagates; steps where gradient accumulation says so."""
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients and self.accelerator.num_processes > 1:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad.div_(self.accelerator.num_processes)
        self._step()


class LatentGuidance:
    """Distribution matching with a teacher, and a GAN on the fake network's middle.

    Args:
        teacher (`Teacher`): real and fake networks; on the run's device.
        discriminator (`DiffusionDiscriminator`, *optional*): the head; without one there is no GAN.
        model (`TrainableOneDC`): whose latents they are; only its VAE is used.
        update (`Update`): of fake network and discriminator.
        matching_weight, gan_weight (`float`): of the generator's losses.
        discriminator_weight (`float`): of the discriminator's loss beside the fake scores'.
        balance (`bool`): the generator's weights are ratios of gradient norms at the latent against the pixel loss, as
            in `BalancedLosses`; otherwise they multiply the losses, as in the paper. Of distribution matching the norm
            is that of a direction of size 1: it is normalised already, and how far it falls short of that says how
            near the generator has come (at the start, with equal networks, it is zero).
        timesteps (`tuple[int, int]`): of distribution matching.
        every, momentum: of the balance, as in `BalancedLosses`.
        reduce (`Callable`): makes of this process's gradient norm that of all processes together.
    """

    def __init__(
        self,
        teacher: Teacher,
        discriminator: DiffusionDiscriminator | None,
        model: TrainableOneDC,
        update: Update,
        *,
        matching_weight: float = 1.0,
        gan_weight: float = 1e-3,
        discriminator_weight: float = 1e-2,
        balance: bool = False,
        timesteps: tuple[int, int] = (20, 640),
        every: int = 25,
        momentum: float = 0.7,
        reduce: Callable[[float], float] = lambda norm: norm,
    ):
        self.teacher, self.discriminator, self.model, self.update = teacher, discriminator, model, update
        self.weights = {"matching": matching_weight, "latent_gan": gan_weight if discriminator is not None else 0.0}
        self.discriminator_weight, self.timesteps = discriminator_weight, timesteps
        self.balance, self.every, self.momentum, self.reduce = balance, every, momentum, reduce
        self.norms: dict[str, float] = {}
        self._calls = 0

    def _condition(self, view: View) -> Tensor | None:
        captions = self.teacher.captions
        return None if captions is None else captions(view.captions or [""] * len(view.latent))

    def generator_loss(self, view: View) -> tuple[Tensor, dict[str, float]]:
        """Distribution matching and softplus(-D(x)), each times its weight, as a gradient at the latent."""
        teacher, condition = self.teacher, self._condition(view)
        leaf = view.latent.detach().float().requires_grad_(True)
        x = teacher.scale.standardise(leaf)
        losses: dict[str, Tensor] = {}
        values: dict[str, float] = {}
        if self.weights["matching"]:
            losses["matching"], values = distribution_matching_loss(
                x, teacher.real, teacher.fake, teacher.schedule, condition, timesteps=self.timesteps
            )
        if self.discriminator is not None and self.weights["latent_gan"]:
            with self.update.accelerator.autocast():
                losses["latent_gan"] = generator_loss(self.discriminator(x, teacher.fake, condition))
        pulls = {name: torch.autograd.grad(loss, leaf, retain_graph=True)[0] for name, loss in losses.items()}
        factors = self.weights
        if self.balance:
            (unit,) = torch.autograd.grad(x.mean(), leaf)
            factors = self._factors(pulls | ({"matching": unit} if "matching" in pulls else {}), view)
        gradient = sum((factors[name] * pull for name, pull in pulls.items()), torch.zeros_like(leaf))
        values |= {name: float(loss.detach()) for name, loss in losses.items()}
        return (view.latent.float() * gradient).sum(), values

    def _factors(self, measured: Mapping[str, Tensor], view: View) -> dict[str, float]:
        """What the weights stand for: multiples of the pixel loss's gradient norm at the latent."""
        # Again, too, where a norm was never finite.
        if self._calls % self.every == 0 or not {"pixel", *measured} <= self.norms.keys():
            leaf = view.latent.detach().requires_grad_(True)
            with torch.enable_grad():
                (pixel,) = torch.autograd.grad(l1_loss(self.model.decode_latent(leaf), view.original), leaf)
            for name, gradient in (*measured.items(), ("pixel", pixel)):
                take_into(self.norms, name, self.reduce(float(gradient.norm())), self.momentum)
        self._calls += 1
        known = {"pixel", *measured} <= self.norms.keys()
        return {
            n: self.weights[n] * self.norms["pixel"] / max(self.norms[n], 1e-12) if known else 0.0 for n in measured
        }

    def learn(self, view: View, step: int) -> dict[str, float]:
        """One step of the fake network and the discriminator: scores of rebuilt latents, and telling them from real."""
        teacher, condition = self.teacher, self._condition(view)
        with torch.no_grad():
            rebuilt = teacher.scale.standardise(view.latent.float())
            encoded = self.model.encode_latent(view.original) if view.encoded is None else view.encoded.detach()
            original = teacher.scale.standardise(encoded.float())
        with self.update.learning():
            with self.update.accelerator.autocast():
                loss = fake_score_loss(rebuilt, teacher.fake, teacher.schedule, condition)
                values = {"fake_score": float(loss.detach())}
                if self.discriminator is not None and self.weights["latent_gan"]:
                    fake, real = (self.discriminator(x, teacher.fake, condition) for x in (rebuilt, original))
                    told_apart = discriminator_loss(fake, real)
                    loss = loss + self.discriminator_weight * told_apart
                    right = (fake < 0).float().mean() + (real > 0).float().mean()
                    values |= {"latent_discriminator": float(told_apart.detach()), "latent_right": float(right) / 2}
            self.update(loss)
        return values

    def state_dict(self) -> dict[str, Any]:
        """The networks that learn, and the running norms; the real network never changes."""
        return {
            "fake": self.teacher.fake.state_dict(),
            "discriminator": {} if self.discriminator is None else self.discriminator.state_dict(),
            "norms": dict(self.norms),
            "calls": self._calls,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.teacher.fake.load_state_dict(state["fake"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
        self.norms, self._calls = dict(state["norms"]), int(state["calls"])


_STEPS = 1000  # of a noise schedule: what timesteps are drawn from


def make_latent_guidance(config: TrainConfig, run: TrainingRun, model: TrainableOneDC) -> LatentGuidance:
    """Loads the teacher of a run's settings, makes the discriminator, and has both in the run's checkpoints.

    Raises:
        ModelError, ValueError: if the teacher cannot be loaded, is one of other latents, or is guided by captions that
            the data does not have; or for a number format of the launcher's that cannot work.
    """
    config.check_precision(run.accelerator.mixed_precision)
    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
    teacher = load_teacher(
        config.teacher,
        guidance_scale=config.guidance_scale,
        real_dtype=mixed.get(run.accelerator.mixed_precision, torch.float32),
        device=run.device,
    )
    if len(teacher.schedule) != _STEPS:
        raise ValueError(
            f"`teacher`: the noise schedule of {config.teacher} has {len(teacher.schedule)} steps, and stage 2 is made "
            f"for {_STEPS}, as Stable Diffusion has them."
        )
    latents, expected = model.generator.config.latent_channels, teacher.fake.unet.config.in_channels
    if latents != expected:
        raise ValueError(
            f"`teacher`: {config.teacher} is one of latents of {expected} channels; the model has {latents}."
        )
    if teacher.captions is not None and not config.caption_column and config.guidance_scale != 1:
        # Of empty captions both noises are the same one: the scale would do nothing, at the price of a second pass.
        raise ValueError(
            f"`teacher`: {config.teacher} is guided by captions (`guidance_scale` {config.guidance_scale}), and the "
            "run reads none: name the column that holds them as `caption_column`, or train on empty captions, without "
            "guidance, by `guidance_scale` 1."
        )
    if config.gradient_checkpointing:
        teacher.fake.unet.enable_gradient_checkpointing()
        teacher.fake.train()  # diffusers checkpoints in training mode only
    discriminator = None
    learning = list(teacher.fake.parameters())
    if config.latent_gan_weight:
        side = config.resolution // 8 // teacher.fake.middle_reduction
        discriminator = DiffusionDiscriminator(
            teacher.fake.middle_channels,
            teacher.schedule,
            layers=fitting_layers(side),
            groups=teacher.fake.unet.config.norm_num_groups,
        ).to(run.device)
        learning += discriminator.requires_grad_(False).parameters()
    optimizer, scheduler = run.optimise(learning, config.guidance_learning_rate)
    guidance = LatentGuidance(
        teacher,
        discriminator,
        model,
        Update(run.accelerator, learning, optimizer, scheduler, config.max_grad_norm),
        matching_weight=config.matching_weight,
        gan_weight=config.latent_gan_weight,
        balance=config.balance_losses,
        reduce=run.norm_over_all,
    )
    run.keep(guidance)
    return guidance
