"""The codec's file (`model_1.safetensors`): names are ours but for the entropy model, which is a module of its own."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..errors import ConversionError
from ..models import OneDCCodec, OneDCCodecConfig
from .source import Recipe, Source, fill

__all__ = ["codec_config", "codec_recipes", "make_codec"]

_ENTROPY = ("hyper_dec.", "y_prior_fusion.", "y_spatial_prior")  # names that begin so are ours below `entropy.`


def codec_config(source: Source, *, z_only: bool = False) -> OneDCCodecConfig:
    """The configuration that fits a file's shapes; of the released weights, the defaults.

    Args:
        source (`Source`): the codec's file.
        z_only (`bool`): a model of the hyper-latent alone.

    Raises:
        ConversionError: if the file lacks a tensor that says how wide the model is.
    """

    def width(name: str) -> int:
        return source.shape(name)[0]

    embedded = width("enc.pix_emb.weight")
    settings: dict[str, Any] = dict(
        latent_channels=source.shape("enc.pix_fusion.weight")[1] - embedded,
        y_channels=width("y_spatial_prior_reduction.weight"),
        fsq_levels=[4] * width("hyper_enc.fusion.5.weight"),
        pixel_embedding_channels=embedded,
        fused_channels=width("enc.pix_fusion.weight"),
        trunk_channels=[width(f"enc.unet.down_blocks.{i}.resnets.0.conv2.weight") for i in range(3)],
        trunk_layers=[source.count("enc.unet.down_blocks.0.resnets.{}.")],
        hyper_channels=[width(f"hyper_enc.fusion.{i}.block.1.conv_out.weight") for i in (0, 2, 4)],
        spatial_prior_layers=source.count("y_spatial_prior.{}."),
        synthesis_channels=[width("dec.trans_coding.0.block.1.conv_out.weight"), width("dec.blocks.5.weight")],
        semantic_upsample_channels=[width(f"dec.sem_up.{i}.conv.weight") for i in (0, 2, 4)],
        detail_channels=width("dec.conv_out.block.1.conv_out.weight"),
        z_only=z_only,
    )
    try:
        return OneDCCodecConfig(**settings)
    except StrictDataclassError as error:
        raise ConversionError(f"{source.what}: {source.path} has widths that no codec has ({error})") from error


def make_codec(source: Source, *, z_only: bool = False) -> OneDCCodec:
    """The codec with a float entropy model, in float32, one tensor after another.

    Raises:
        ConversionError: for tensors that are missing, of a wrong shape, or left over.
    """
    with torch.device("meta"):
        codec = OneDCCodec(codec_config(source, z_only=z_only))
    entropy = codec.entropy
    for name, buffer in list(entropy.named_buffers()):
        if buffer.is_meta:  # the gain row of a model of one rate, and no tables of the hyper-latent: zeros
            setattr(entropy, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
    fill(codec, codec_recipes(source), source)
    return codec.eval()


def codec_recipes(source: Source) -> dict[str, Recipe]:
    """What each of our tensors is made from."""
    return {_our_name(name): Recipe((name,)) for name in source.shapes}


def _our_name(name: str) -> str:
    return f"entropy.{name}" if name.startswith(_ENTROPY) else name
