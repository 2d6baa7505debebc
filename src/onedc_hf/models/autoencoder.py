"""OneDCAutoencoder: a small VAE for a CPU, with the calls and config names of diffusers' autoencoders.

Shapes: B batch, H and W rows and columns of the picture (multiples of 8), h = H/8, w = W/8, L latent channels.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from ..errors import ModelError
from .blocks import Float32Conv2d, LiteBlock
from .noise import position_noise
from .whole import WholeWeights

__all__ = ["OneDCAutoencoder"]


_FAINT = 0.1  # deviation of new noise among the features; about 3 levels of 255 in a picture of the box


class _Residual3x3(nn.Module):
    """Two dense 3x3 convolutions around a skip: for the few channels at half size, in float32."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = Float32Conv2d(channels, channels, 3, padding=1)
        self.conv2 = Float32Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(x)))


class OneDCAutoencoder(WholeWeights, ModelMixin, ConfigMixin):
    """Patch-embedding encoder and pixel-shuffle decoder around `LiteBlock`s at 1/8; no posterior, no attention.

    Nearly all work is done at 1/8; a thin head of dense convolutions stands at 1/2, nothing at full size
    (full-size layers cost out of all proportion on a CPU). The head stays in float32 whatever the rest is in: with its
    weights rounded to bfloat16, errors differ between the four pixels of a 2x2 block, which is a fine screen over
    everything (docs/training-log.md).

    Args:
        latent_channels (`int`, *optional*, defaults to 16): L.
        encoder_channels, decoder_channels (`int`): widths at 1/8.
        encoder_layers, decoder_layers (`int`): blocks at 1/8.
        head_channels, head_layers (`int`): width and blocks of the head at 1/2.
        expansion (`int`, *optional*, defaults to 3): inner width of the blocks.
        scaling_factor (`float`, *optional*, defaults to 1.0): latents are multiplied by it outside, as in diffusers.
        noise_channels (`int`, *optional*, defaults to 0): channels of noise beside the latent, for texture (noise.py).
        noise_before (`int`, *optional*): the decoder's block at 1/8, counted from 1, in front of which the noise comes
            in; by default the last.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        encoder_channels: int = 96,
        encoder_layers: int = 2,
        decoder_channels: int = 112,
        decoder_layers: int = 3,
        head_channels: int = 24,
        head_layers: int = 1,
        expansion: int = 3,
        scaling_factor: float = 1.0,
        noise_channels: int = 0,
        noise_before: int | None = None,
    ):
        super().__init__()
        if noise_before is not None and not 1 <= noise_before <= decoder_layers:
            raise ValueError(f"`noise_before` names one of {decoder_layers} `decoder_layers`; got {noise_before}.")
        self.encoder = nn.Sequential(
            nn.Conv2d(3, encoder_channels, 8, stride=8),
            *[LiteBlock(encoder_channels, expansion) for _ in range(encoder_layers)],
            nn.Conv2d(encoder_channels, latent_channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, decoder_channels, 3, padding=1),
            *[LiteBlock(decoder_channels, expansion) for _ in range(decoder_layers)],
            Float32Conv2d(decoder_channels, 16 * head_channels, 1),
            nn.PixelShuffle(4),
            *[_Residual3x3(head_channels) for _ in range(head_layers)],
            Float32Conv2d(head_channels, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        if noise_channels:
            self.noise_in = nn.Conv2d(noise_channels, decoder_channels, 3, padding=1, bias=False)
            self.noise_gate = nn.Conv2d(decoder_channels, decoder_channels, 1)
            # Faint, but not zero: the gradient at zero is that of a mean over noise, and zero.
            nn.init.normal_(self.noise_in.weight, std=_FAINT / (9 * noise_channels) ** 0.5)
            nn.init.zeros_(self.noise_gate.weight)
            nn.init.ones_(self.noise_gate.bias)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers, but for the head, whose weights a half-precision `dtype` does not reach.

        With a `device_map` or a `quantization_config` diffusers alone decides, and the head is rounded like the rest.
        """
        named = "dtype" if kwargs.get("dtype") is not None else "torch_dtype"
        dtype = kwargs.get(named)
        if not isinstance(dtype, torch.dtype) or kwargs.get("device_map") or kwargs.get("quantization_config"):
            return super().from_pretrained(*args, **kwargs)
        loaded = super().from_pretrained(*args, **(kwargs | {named: torch.float32}))
        # Not diffusers' `to`, which warns that casting spoils what has to stay in float32: here it cannot.
        nn.Module.to(loaded[0] if isinstance(loaded, tuple) else loaded, dtype)
        return loaded

    def to_json_string(self) -> str:
        """The config as it is saved: without the place that it was loaded from, which nobody else needs to know."""
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    @property
    def _noise_before(self) -> int:
        return self.config.noise_before or max(1, self.config.decoder_layers)

    def with_noise(self, channels: int) -> OneDCAutoencoder:
        """This autoencoder with noise beside the latent; itself if it has that already.

        New noise is so faint that pictures hardly change: a start for training.

        Raises:
            ModelError: if this one has noise in another number of channels.
        """
        has = self.config.noise_channels
        if has == channels:
            return self
        if has:
            raise ModelError(
                f"The autoencoder has {has} channels of noise and cannot get {channels}: set `noise_channels` to "
                f"{has}, or to 0, which keeps what there is."
            )
        return self._grown(self.state_dict(), noise_channels=channels)

    def with_decoder_layers(self, count: int) -> OneDCAutoencoder:
        """This autoencoder with so many blocks at 1/8 in its decoder; itself if it has as many.

        New blocks stand behind those that are there, and do nothing yet: pictures stay what they are, and training
        starts from there.

        Raises:
            ModelError: if this one has more.
        """
        return self._deeper("decoder_layers", count, 1 + self.config.decoder_layers, noise_before=self._noise_before)

    def with_head_layers(self, count: int) -> OneDCAutoencoder:
        """This autoencoder with so many blocks at 1/2 in its decoder's head, as `with_decoder_layers` does at 1/8.

        Raises:
            ModelError: if this one has more.
        """
        first = 3 + self.config.decoder_layers + self.config.head_layers
        return self._deeper("head_layers", count, first)

    def _deeper(self, setting: str, count: int, first: int, **kept: Any) -> OneDCAutoencoder:
        """One whose decoder has `count` blocks of a kind; new ones come in at index `first`, and do nothing yet."""
        has = self.config[setting]
        if has == count:
            return self
        if has > count:
            raise ModelError(
                f"The autoencoder has {has} `{setting}` and cannot get {count}: set it to {has} or more, or to 0, "
                "which keeps what there is."
            )
        moved = {}
        for name, tensor in self.state_dict().items():
            part, _, rest = name.partition(".")
            index, _, leaf = rest.partition(".")
            if part == "decoder" and int(index) >= first:
                name = f"decoder.{int(index) + count - has}.{leaf}"
            moved[name] = tensor
        deeper = self._grown(moved, **{setting: count}, **kept)
        for index in range(first, first + count - has):
            block: Any = deeper.decoder[index]
            last = block.project if isinstance(block, LiteBlock) else block.conv2
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        return deeper

    def _grown(self, weights: dict[str, Tensor], **settings: Any) -> OneDCAutoencoder:
        """One with other settings and these weights; what they do not name is new."""
        own = {key: value for key, value in self.config.items() if not key.startswith("_")}
        copy = type(self)(**(own | settings))
        copy.load_state_dict(copy.state_dict() | weights)
        nn.Module.to(copy, self.device, self.dtype)
        return copy.train(self.training)

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderTinyOutput | tuple[Tensor]:
        """Pictures `[B, 3, H, W]` in [-1, 1] to latents `[B, L, h, w]` (unscaled)."""
        latents = self.encoder(x)
        return AutoencoderTinyOutput(latents=latents) if return_dict else (latents,)

    @apply_forward_hook
    def decode(
        self,
        z: Tensor,
        return_dict: bool = True,
        *,
        origin: tuple[int, int] = (0, 0),
        noise: Tensor | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Latents `[B, L, h, w]` (unscaled) to pictures `[B, 3, H, W]` in float32, about [-1, 1], not clamped.

        Args:
            z (`torch.Tensor`): the latents.
            return_dict (`bool`, *optional*, defaults to `True`): whether to wrap the pictures.
            origin (`tuple[int, int]`, *optional*): row and column of the picture's latent at which `z` starts, for a
                tile: its noise is that part of the picture's.
            noise (`torch.Tensor` of shape `[B, noise_channels, h, w]`, *optional*): in place of the position's own, for
                training, which should see ever new noise.
        """
        channels = self.config.noise_channels
        if channels:
            hidden = self.decoder[: self._noise_before](z)
            if noise is None:
                noise = position_noise(channels, z.shape[-2], z.shape[-1], origin)
            # The features say how much of it belongs here: none in a sky, a great deal in a meadow.
            hidden = hidden + self.noise_in(noise.to(z)) * self.noise_gate(hidden)
            sample = self.decoder[self._noise_before :](hidden)
        else:
            sample = self.decoder(z)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Encodes and decodes."""
        return self.decode(self.encode(sample).latents, return_dict=return_dict)
