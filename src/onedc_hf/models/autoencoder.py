"""OneDCAutoencoder: a small VAE for a CPU, with the calls and config names of diffusers' autoencoders.

Shapes: B batch, H and W rows and columns of the picture (multiples of 8), h = H/8, w = W/8, L latent channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from .blocks import LiteBlock

__all__ = ["OneDCAutoencoder"]


class _Residual3x3(nn.Module):
    """Two dense 3x3 convolutions around a skip: for the few channels at half size."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(x)))


class OneDCAutoencoder(ModelMixin, ConfigMixin):
    """Patch-embedding encoder and pixel-shuffle decoder around `LiteBlock`s at 1/8; no posterior, no attention.

    Nearly all work is done at 1/8; a thin head of dense convolutions stands at 1/2, nothing at full size
    (full-size layers cost out of all proportion on a CPU).

    Args:
        latent_channels (`int`, *optional*, defaults to 16): L.
        encoder_channels, decoder_channels (`int`): widths at 1/8.
        encoder_layers, decoder_layers (`int`): blocks at 1/8.
        head_channels, head_layers (`int`): width and blocks of the head at 1/2.
        expansion (`int`, *optional*, defaults to 3): inner width of the blocks.
        scaling_factor (`float`, *optional*, defaults to 1.0): latents are multiplied by it outside, as in diffusers.
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
            nn.Conv2d(head_channels, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderTinyOutput | tuple[Tensor]:
        """Pictures `[B, 3, H, W]` in [-1, 1] to latents `[B, L, h, w]` (unscaled)."""
        latents = self.encoder(x)
        return AutoencoderTinyOutput(latents=latents) if return_dict else (latents,)

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Latents `[B, L, h, w]` (unscaled) to pictures `[B, 3, H, W]`, about [-1, 1], not clamped."""
        sample = self.decoder(z)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Encodes and decodes."""
        return self.decode(self.encode(sample).latents, return_dict=return_dict)
