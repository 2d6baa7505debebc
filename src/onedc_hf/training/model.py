"""The model as training sees it: VAE, codec and generator in one module, with soft rounding and a gain per crop.

Shapes: B batch, S side of a crop, N channels of `y`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..models import OneDCAutoencoder, OneDCCodec, OneDCGenerator
from ..models.codec import semantic_tokens
from ..models.context import GAIN_STEP, CodingPass
from ..models.exact import CodingUnit, ExactEntropyModel
from .rate import choose_through, gaussian_bits
from .straight_through import exact_weights

__all__ = ["Rebuilt", "TrainableOneDC", "TrainableVAE", "z_excess"]

TrainableVAE = AutoencoderKL | AutoencoderTiny | OneDCAutoencoder

_GAIN_ANCHORS = 6
# Anchors are kept in hundreds of steps of the scale table, so that a usual learning rate moves them at a usual pace.
_STEPS_PER_UNIT = 100
_Z_RANGE = 2.0  # beyond it FSQ's tanh is nearly flat


def z_excess(z: Tensor) -> Tensor:
    """How far `z`, before FSQ, lies outside its range: a scalar to be kept small, since no gradient passes there."""
    return (z.abs() - _Z_RANGE).clamp_min(0).square().mean()


class Rebuilt(NamedTuple):
    """What `TrainableOneDC` makes of a batch of crops.

    Args:
        picture (`torch.Tensor` of shape `[B, 3, S, S]`): the rebuilt crops, about [-1, 1]; empty, where nobody looks.
        bpp (`torch.Tensor` of shape `[B]`): bits per pixel of `y` for each crop.
        z_excess (`torch.Tensor`): see the function of that name.
        latent (`torch.Tensor` of shape `[B, L, S/8, S/8]`): the generator's clean latent, scaled as the generator sees
            latents.
        distilled (`dict`): losses of the semantic distillation, where there is one.
        encoded (`torch.Tensor` of the shape of `latent`): the originals' latent.
    """

    picture: Tensor
    bpp: Tensor
    z_excess: Tensor
    latent: Tensor
    distilled: dict[str, Tensor]
    encoded: Tensor


class TrainableOneDC(nn.Module):
    """Everything from pixels to pixels, differentiable.

    Gains are learned at a few anchors along the quality scale, for each channel; the integer table of the codec's
    quality rows is read off them by `write_gains`.

    Args:
        codec, generator, vae, scheduler: the pipeline's components; the scheduler is only kept, for saving.
        rate_estimate (`str`): `noise` (additive uniform, the paper's) or `straight_through` (rounded symbols: a dead
            symbol then costs what it really costs, not the 0.14 bit that noise makes of it).
        exact_weights (`bool`): the entropy model computes with weights on the exact path's grid (straight_through.py).

    Attributes:
        distillation (`SemanticDistillation`, *optional*): the code predictor on the semantic map; set by stage 1.
        gradient_checkpointing (`bool`): networks are computed again on the way back instead of being kept.
    """

    distillation: nn.Module | None

    def __init__(
        self,
        codec: OneDCCodec,
        generator: OneDCGenerator,
        vae: TrainableVAE,
        scheduler: DDPMScheduler,
        rate_estimate: str = "straight_through",
        exact_weights: bool = False,
    ):
        super().__init__()
        self.exact_weights = exact_weights
        if rate_estimate not in ("noise", "straight_through"):
            raise ValueError(f"`rate_estimate` must be 'noise' or 'straight_through'; got {rate_estimate!r}.")
        self.codec, self.generator, self.vae, self.scheduler = codec, generator, vae, scheduler
        if codec.authors_entropy is not None:  # only reads the authors' files: no loss sees it
            codec.authors_entropy.requires_grad_(False)
        self.distillation, self.gradient_checkpointing = None, False
        self.rate_estimate = rate_estimate
        steps = codec.entropy.gain_steps.float()  # [R, N]
        positions = torch.linspace(0, len(steps) - 1, _GAIN_ANCHORS).round().long()
        anchors = steps[positions] / _STEPS_PER_UNIT  # [A, N]
        self.gain_anchors = nn.Parameter(anchors, requires_grad=len(steps) > 1)  # a one-rate model keeps its zeros

    def gain_steps(self, quality: Tensor) -> Tensor:
        """Learned gain steps `[B, N]` at qualities `[B]` in [0, 100], by linear interpolation between anchors."""
        position = quality.clamp(0, 100) / 100 * (_GAIN_ANCHORS - 1)
        low = position.floor().long().clamp(max=_GAIN_ANCHORS - 2)
        share = (position - low).unsqueeze(1)
        anchors = self.gain_anchors * _STEPS_PER_UNIT
        return anchors[low] * (1 - share) + anchors[low + 1] * share

    @torch.no_grad()
    def set_gains(self, first: float, last: float) -> None:
        """Spreads gains evenly between two numbers of steps, the same for every channel."""
        self.gain_anchors.copy_(torch.linspace(first, last, _GAIN_ANCHORS)[:, None] / _STEPS_PER_UNIT)
        self.write_gains()

    @torch.no_grad()
    def write_gains(self) -> None:
        """Writes the integer gain table of the codec's quality rows; a one-rate model keeps its row of zeros.

        Frozen gains are left alone: reading them off their anchors again could move a step, and with it the identity.
        """
        rows = self.codec.entropy.quality_rows
        if rows > 1 and self.gain_anchors.requires_grad:
            qualities = torch.linspace(0, 100, rows, device=self.gain_anchors.device)
            self.codec.entropy.gain_steps.copy_(self.gain_steps(qualities).round().to(torch.int32))

    def enable_gradient_checkpointing(self) -> None:
        """Keeps only the borders of networks in memory, for about a third more time."""
        self.gradient_checkpointing = True
        self.generator.unet.enable_gradient_checkpointing()
        if not isinstance(self.vae, OneDCAutoencoder):
            self.vae.enable_gradient_checkpointing()

    def _apart(self, network: Callable[..., Any], *inputs: Tensor) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(network, *inputs, use_reentrant=False)
        return network(*inputs)

    @property
    def latent_scale(self) -> float:
        """What latents of the VAE are multiplied by before anything else sees them."""
        return self.vae.config.scaling_factor  # type: ignore[union-attr]

    def encode_latent(self, pixels: Tensor) -> Tensor:
        """The VAE's latent of pictures, scaled, `[B, L, S/8, S/8]`: the posterior's mean, where there is a posterior.

        Always in float32, as in the paper: a latent is the finest thing that the model works on.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            encoded: Any = self.vae.encode(pixels.to(self.vae.dtype))
        latent = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latent * self.latent_scale

    def decode_latent(self, latent: Tensor) -> Tensor:
        """Pictures `[B, 3, S, S]` of scaled latents, in float32."""
        noise: dict[str, Tensor] = {}
        channels = getattr(self.vae.config, "noise_channels", 0)
        if channels and self.training:  # ever new noise; otherwise that of the place
            noise["noise"] = torch.randn(latent.shape[0], channels, *latent.shape[-2:], device=latent.device)
        with torch.autocast(latent.device.type, enabled=False):
            decoded: Any = self.vae.decode((latent / self.latent_scale).to(self.vae.dtype), **noise)
        return decoded.sample

    def forward(self, pixels: Tensor, quality: Tensor, tokens: Any = None, decode: bool = True) -> Rebuilt:
        """Rebuilds crops at given qualities.

        Args:
            pixels (`torch.Tensor` of shape `[B, 3, S, S]`): in [-1, 1].
            quality (`torch.Tensor` of shape `[B]`): 0 to 100, or -1 for a crop of which only `z` is sent.
            tokens (`Tokens`, *optional*): the tokenizer's view of the crops, for the distillation.
            decode (`bool`): make the picture of the latent, too; at full size that is a good part of the work.
        """
        codec, encoded = self.codec, self._encode(pixels)
        y, semantic = self._apart(codec.enc, pixels, encoded)
        z = codec.hyper_enc(y, semantic)
        coded = self._code_exactly if isinstance(codec.entropy, ExactEntropyModel) else self.code
        gridded = exact_weights(codec.entropy) if self.exact_weights else nullcontext()
        with gridded, torch.autocast(y.device.type, enabled=False):  # rates in bfloat16 would be wrong by percents
            y_hat, seed, bits = coded(y.float(), codec.z_vq(z.float()), quality)
        semantic = codec.adapt(seed)
        detail = self._apart(codec.synthesise, y_hat, semantic)
        latent = self.generator(detail, semantic_tokens(semantic), quality)
        distilled = {} if self.distillation is None or tokens is None else self.distillation(semantic, tokens)
        bpp = bits / (pixels.shape[-1] * pixels.shape[-2])
        picture = self.decode_latent(latent) if decode else pixels.new_empty(0)
        return Rebuilt(picture, bpp, z_excess(z), latent, distilled, encoded)

    def _encode(self, pixels: Tensor) -> Tensor:
        learns = any(parameter.requires_grad for parameter in self.vae.parameters())
        with nullcontext() if learns else torch.no_grad():
            return self.encode_latent(pixels)

    def code(self, y: Tensor, codes: Tensor, quality: Tensor, nearest: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The float entropy model, differentiable, in float32.

        Args:
            y (`torch.Tensor` of shape `[B, N, S/16, S/16]`): not rounded.
            codes (`torch.Tensor` of shape `[B, K, S/64, S/64]`): of the hyper-latent.
            quality (`torch.Tensor` of shape `[B]`): 0 to 100, or -1.
            nearest (`bool`): take the nearest symbols whatever their bits, where no loss sees the error of others.

        Returns:
            `tuple`: rebuilt latent, of the shape of `y`; semantic seed `[B, N, S/64, S/64]`; bits of each crop `[B]`.
        """
        entropy = self.codec.float_entropy
        hyper = entropy.hyper_synthesis(codes)
        gain = torch.exp(self.gain_steps(quality) * GAIN_STEP)[:, :, None, None]  # [B, N, 1, 1]
        sent = (quality >= 0).to(y.dtype).view(-1, 1, 1, 1)
        weight = 0.0 if nearest else self.codec.rate_weight(quality).view(-1, 1, 1, 1)
        bits = y.new_zeros(len(y))

        def code_pass(step: CodingPass) -> Tensor:
            nonlocal bits
            residual = (y - step.means) * step.gain
            symbols = choose_through(residual, step.deviations, weight)
            measured = symbols
            if self.rate_estimate == "noise":
                measured = residual + torch.rand_like(residual) - 0.5
            cost = gaussian_bits(measured, step.scales * step.gain) * step.mask
            bits = bits + (cost * sent).sum(dim=(1, 2, 3))
            return symbols * sent

        return entropy.run_passes(hyper, gain, code_pass), hyper.semantic_seed, bits

    @torch.no_grad()
    def _code_exactly(self, y: Tensor, codes: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The exact entropy model, as files have it; nothing flows back through it."""
        entropy = cast(ExactEntropyModel, self.codec.entropy)
        hyper = entropy.hyper_synthesis(codes)
        rows = (quality.clamp(0, 100) / 100 * (entropy.quality_rows - 1)).round().long()
        sent = (quality >= 0).to(torch.float64).view(-1, 1, 1, 1)
        weight = self.codec.rate_weight(100 * rows / max(1, entropy.quality_rows - 1)).view(-1, 1, 1, 1)
        bits = y.new_zeros(len(y))

        def code(unit: CodingUnit) -> Tensor:
            nonlocal bits
            symbols = unit.quantise(y, weight)
            bits = bits + (gaussian_bits(symbols, unit.scales) * sent).sum(dim=(1, 2, 3)).to(bits.dtype)
            return symbols * sent

        return entropy.code(hyper, entropy.gain(rows), code), hyper.semantic_seed, bits
