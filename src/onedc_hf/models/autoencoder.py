"""OneDCAutoencoder: a small VAE for a CPU, with the calls and config names of diffusers' autoencoders.

Shapes: B batch, H and W rows and columns of the picture (multiples of 8), h = H/8, w = W/8, L latent channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from .blocks import Float32Conv2d, LiteBlock
from .noise import position_noise

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


class OneDCAutoencoder(ModelMixin, ConfigMixin):
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
    ):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, encoder_channels, 8, stride=8),
            *[LiteBlock(encoder_channels, expansion) for _ in range(encoder_layers)],
            nn.Conv2d(encoder_channels, latent_channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, decoder_channels, 3, padding=1),
            *[LiteBlock(decoder_channels, expansion) for _ in range(decoder_layers)],
            nn.Conv2d(decoder_channels, 16 * head_channels, 1),
            nn.PixelShuffle(4),
            *[_Residual3x3(head_channels) for _ in range(head_layers)],
            Float32Conv2d(head_channels, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        if noise_channels:
            self.noise_in = nn.Conv2d(noise_channels, decoder_channels, 3, padding=1, bias=False)
            self.noise_gate = nn.Conv2d(decoder_channels, decoder_channels, 1)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers, but for the head, whose weights a half-precision `dtype` does not reach."""
        asked, older = kwargs.pop("dtype", None), kwargs.pop("torch_dtype", None)
        dtype = older if asked is None else asked
        loaded = super().from_pretrained(*args, **kwargs)  # in float32, whatever the file is in
        if isinstance(dtype, torch.dtype):
            # Not diffusers' `to`, which warns that casting spoils what has to stay in float32: here it cannot.
            nn.Module.to(loaded[0] if isinstance(loaded, tuple) else loaded, dtype)
        return loaded

    def with_noise(self, channels: int) -> OneDCAutoencoder:
        """A copy that has noise beside the latent, so faint as yet that pictures hardly change: a start for training.

        Raises:
            ValueError: if this one has noise already, in another number of channels.
        """
        if self.config.noise_channels not in (0, channels):
            raise ValueError(
                f"The autoencoder has {self.config.noise_channels} channels of noise and cannot get {channels}."
            )
        if self.config.noise_channels:
            return self
        settings = {key: value for key, value in self.config.items() if not key.startswith("_")}
        copy = type(self)(**(settings | {"noise_channels": channels}))
        copy.load_state_dict(self.state_dict(), strict=False)
        # Not zero, where no gradient would arrive: that of a mean over noise is zero there.
        torch.nn.init.normal_(copy.noise_in.weight, std=_FAINT / (9 * channels) ** 0.5)
        torch.nn.init.zeros_(copy.noise_gate.weight)
        torch.nn.init.ones_(copy.noise_gate.bias)
        return nn.Module.to(copy, self.dtype)

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
        """Latents `[B, L, h, w]` (unscaled) to pictures `[B, 3, H, W]`, about [-1, 1], not clamped.

        Args:
            z (`torch.Tensor`): the latents.
            return_dict (`bool`, *optional*, defaults to `True`): whether to wrap the pictures.
            origin (`tuple[int, int]`, *optional*): row and column of the picture's latent at which `z` starts, for a
                tile: its noise is that part of the picture's.
            noise (`torch.Tensor` of shape `[B, noise_channels, h, w]`, *optional*): in place of the position's own, for
                training, which should see ever new noise.
        """
        last = self.config.decoder_layers  # the index of the last block at 1/8
        hidden = self.decoder[:last](z)
        if self.config.noise_channels:
            if noise is None:
                noise = position_noise(self.config.noise_channels, z.shape[-2], z.shape[-1], origin)
            # The features say how much of it belongs here: none in a sky, a great deal in a meadow.
            hidden = hidden + self.noise_in(noise.to(z)) * self.noise_gate(hidden)
        sample = self.decoder[last:](hidden)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Encodes and decodes."""
        return self.decode(self.encode(sample).latents, return_dict=return_dict)
