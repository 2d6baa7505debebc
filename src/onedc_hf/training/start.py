"""A start that already codes pictures: the box model begins as a linear transform codec.

From random weights everything trained jointly stalls: `y` comes out so small that every symbol rounds to zero and no
gradient flows. Here the networks' residual branches begin at zero and their outer layers as transforms, so that the
whole model *is* PCA of 8x8 patches (VAE), Haar transform (codec), their inverses, and x0 = latent; training adds the
rest. Works for configs of `lite` blocks.

Shapes: L latent channels, P = 192 values of an 8x8 patch, N = 4 L channels of `y`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import OneDCAutoencoder, OneDCCodec, OneDCGenerator
from ..models.attention import AttentionBlock
from ..models.blocks import DepthConvBlock, LiteBlock
from .model import TrainableOneDC

__all__ = ["start_as_transform_codec", "start_hyper_analysis"]

# An orthonormal PCA of [-1, 1] pixels has a first component of deviation 4; networks like values near 1.
_LATENT_SCALE = 0.25
# `y` in units of the quantiser at gain 1: the lowest rates, where one step is about 0.8 of a picture's contrast.
_Y_SCALE = 1.2 / _LATENT_SCALE
# Middle and spread of the hyper-latent that use the four levels of FSQ alike.
_Z_CENTRE, _Z_DEVIATION = -0.35, 1.1
# Gain steps of the first and last quality row: from about 0.01 to 0.3 bpp once the entropy model has learned.
_FIRST_GAIN_STEPS, _LAST_GAIN_STEPS = -25, 90


def _patch_basis(crops: Tensor, channels: int) -> Tensor:
    """The first principal components of 8x8 patches (not centred), `[L, P]`, rows orthonormal, P as (c, dy, dx)."""
    patches = F.unfold(crops, 8, stride=8).transpose(1, 2).reshape(-1, 192).double()
    _, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    return vectors.flip(1)[:, :channels].T.float()


def _fill(layer: nn.Conv2d | nn.Linear, rows: slice, weight: Tensor) -> None:
    """Writes given rows of a layer, with zero bias; `weight` is `[rows, in, ...]` with the kernel's shape."""
    layer.weight[rows] = weight.reshape(layer.weight[rows].shape)
    if layer.bias is not None:
        layer.bias[rows] = 0


def _identity(layer: nn.Conv2d, count: int, gain: float = 1.0, zero_rest: bool = True) -> None:
    """Makes the first `count` outputs copies of the first `count` inputs (kernel centre), times `gain`."""
    centre = layer.kernel_size[0] // 2
    weight = torch.zeros_like(layer.weight)
    if not zero_rest:
        weight[count:] = layer.weight[count:]
    for i in range(count):
        weight[i, i, centre, centre] = gain
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.zero_()


def _quiet_branches(module: nn.Module) -> None:
    """Residual branches start at zero; their inner layers do not, so that gradients arrive at once."""
    for part in module.modules():
        if isinstance(part, LiteBlock):
            part.project.weight.zero_()
            part.project.bias.zero_()


def _haar(channels: int) -> Tensor:
    """2x2 Haar transform of each channel: `[4L, L, 2, 2]`, orthonormal, the four sums first."""
    patterns = torch.tensor([[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]) / 2
    weight = torch.zeros(4 * channels, channels, 2, 2)
    for band in range(4):
        for c in range(channels):
            # Quarters of the channels are coded in different passes at one position: mix bands and channels so that
            # every quarter holds all bands (the pattern of models/context.py).
            weight[(c % 4) * channels + (c // 4) * 4 + band, c] = patterns[band]
    return weight


def _start_vae(vae: OneDCAutoencoder, basis: Tensor) -> None:
    count = len(basis)
    patch, out = vae.encoder[0], vae.encoder[-1]
    _fill(patch, slice(0, count), basis.view(count, 3, 8, 8) * _LATENT_SCALE)
    _identity(out, count)
    _identity(vae.decoder[0], count, zero_rest=False)
    wide = next(m for m in vae.decoder if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
    last = [m for m in vae.decoder if isinstance(m, nn.Conv2d)][-1]
    _identity(last, 12)
    for block in vae.decoder:
        if hasattr(block, "conv2"):
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
    # The last shuffle makes 2x2 pixels of channels (colour, dy, dx), the one before 4x4 positions of head channels.
    pixels = (basis / _LATENT_SCALE).view(count, 3, 4, 2, 4, 2)  # [L, colour, by, dy, bx, dx]
    rows = pixels.permute(1, 3, 5, 2, 4, 0).reshape(12 * 16, count)  # head channel (colour, dy, dx), block (by, bx)
    weight = torch.zeros_like(wide.weight[: 12 * 16, :, 0, 0])
    weight[:, :count] = rows
    _fill(wide, slice(0, 12 * 16), weight)


def _start_codec(codec: OneDCCodec, channels: int) -> None:
    enc, dec, n = codec.enc, codec.dec, 4 * channels
    haar = _haar(channels)
    embedded = enc.pix_emb.out_channels
    fusion = torch.zeros_like(enc.pix_fusion.weight[:channels])
    for c in range(channels):
        fusion[c, embedded + c] = 1
    _fill(enc.pix_fusion, slice(0, channels), fusion)
    reduction = enc.unet.reductions[0]
    weight = torch.zeros_like(reduction.weight[:n])
    weight[:, :channels] = haar
    _fill(reduction, slice(0, n), weight)
    last = enc.trans_coding[-1]  # a depth_conv block that changes the width
    if not isinstance(last, DepthConvBlock) or last.block[0].adaptor is None:
        raise ValueError("The last analysis block must be a `depth_conv` that changes the width.")
    _identity(last.block[0].adaptor, n, gain=_Y_SCALE)
    _quiet_depth_conv(last)
    first = dec.trans_coding[0]
    _identity(first, n, gain=1 / _Y_SCALE, zero_rest=False)
    up = next(m for m in dec.blocks if isinstance(m, nn.Conv2d))
    # Pixel shuffle: output channel c at (dy, dx) is row 4 c + 2 dy + dx.
    weight = torch.zeros_like(up.weight[: 4 * channels])
    weight[:, :n, 0, 0] = haar.permute(1, 2, 3, 0).reshape(4 * channels, n)
    _fill(up, slice(0, 4 * channels), weight)
    _identity(dec.conv_out, channels, zero_rest=False)


def _start_generator(generator: OneDCGenerator, channels: int) -> None:
    reduction = generator.vae_reduction
    _identity(reduction.short_cut, channels, gain=generator.config.alpha_cumprod**0.5)
    for layer in (reduction.blocks[-1], generator.unet.conv_out):
        layer.weight.zero_()
        layer.bias.zero_()


def _quiet_depth_conv(block: DepthConvBlock) -> None:
    """Leaves a block's skip alone: its two branches start at zero."""
    for layer in (block.block[0].conv2, block.block[1].conv_out):
        layer.weight.zero_()
        layer.bias.zero_()


def _halve(layer: nn.Conv2d, differences: bool) -> None:
    """Makes a 3x3 convolution of stride 2 take 2x2 means.

    With `differences`, every second and third channel of four becomes the difference of columns, or of rows, of the
    first of the four (the sum band of `_haar`).
    """
    layer.weight.zero_()
    layer.bias.zero_()
    for c in range(layer.out_channels):
        source, signs = c, torch.ones(2, 2)
        if differences and c % 4 in (1, 2):
            source = c - c % 4
            signs[:, 1] = -1
            signs = signs if c % 4 == 1 else signs.T
        layer.weight[c, source, 1:, 1:] = signs / 4


@torch.no_grad()
def start_hyper_analysis(model: TrainableOneDC, crops: Tensor) -> None:
    """Starts the hyper-latent as the principal components of mean colours and their slopes over 64x64 pixels.

    From random weights its scale drifts until FSQ saturates; no gradient comes back from there.
    """
    codec = model.codec
    hyper, n = codec.hyper_enc, codec.config.y_channels
    first, halve, second, halve_again = hyper.y_trans_coding
    for block in (first, second):
        _quiet_depth_conv(block)
    _halve(halve, differences=False)
    _halve(halve_again, differences=True)
    for layer in list(hyper.fusion.children())[:-1]:
        if isinstance(layer, DepthConvBlock):
            _quiet_depth_conv(layer)
            if layer.block[0].adaptor is not None:
                _identity(layer.block[0].adaptor, n, zero_rest=False)
        elif isinstance(layer, AttentionBlock):
            layer.proj_out.weight.zero_()
            layer.proj_out.bias.zero_()
    y, semantic = codec.enc(crops, model.encode_latent(crops))
    features = hyper.fusion[:-1](torch.cat([hyper.y_trans_coding(y), semantic], dim=1))[:, :n]
    flat = features.permute(0, 2, 3, 1).reshape(-1, n).double()
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    digits = len(codec.config.fsq_levels)
    rows = (vectors.flip(1)[:, :digits] / values.flip(0)[:digits].clamp_min(1e-8).sqrt()).T * _Z_DEVIATION
    last = hyper.fusion[-1]
    last.weight.zero_()
    last.weight[:, :n, 0, 0] = rows.float()
    last.bias.copy_((_Z_CENTRE - rows @ mean).float())


@torch.no_grad()
def _start_entropy(model: TrainableOneDC, crops: Tensor) -> None:
    """Scales begin at the deviations found."""
    y, _ = model.codec.enc(crops, model.encode_latent(crops))
    scales = y.std(dim=(0, 2, 3))
    for block in (model.codec.entropy.y_prior_fusion[-1], model.codec.entropy.y_spatial_prior[-1]):
        layer = block.block[1].conv_out
        layer.bias[: len(scales)] = scales


@torch.no_grad()
def start_as_transform_codec(model: TrainableOneDC, crops: Iterable[Tensor] | Tensor) -> None:
    """Turns a freshly made model of `lite` blocks into a linear transform codec, in place.

    Args:
        model (`TrainableOneDC`): with N = 4 L channels of `y`.
        crops (`torch.Tensor` of shape `[B, 3, S, S]`): a few hundred training crops in [-1, 1].

    Raises:
        ValueError: if the config's blocks or widths do not allow it.
    """
    stack = crops if isinstance(crops, Tensor) else torch.stack(list(crops))
    codec, generator, vae = model.codec, model.generator, model.vae
    channels = codec.config.latent_channels
    if codec.config.y_channels != 4 * channels or codec.config.trunk != "lite":
        raise ValueError("This start needs a `lite` trunk and `y_channels` = 4 x `latent_channels`.")
    for module in (codec, generator, vae):
        _quiet_branches(module)
    _start_vae(vae, _patch_basis(stack, channels))
    _start_codec(codec, channels)
    _start_generator(generator, channels)
    start_hyper_analysis(model, stack)
    _start_entropy(model, stack)
    model.set_gains(_FIRST_GAIN_STEPS, _LAST_GAIN_STEPS)
