"""The generator's file (`model.safetensors`): the U-Net with its LoRA, and the reduction block (spec section 4)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..errors import ConversionError
from ..models import OneDCGenerator, OneDCGeneratorConfig
from .source import Recipe, Source, fill

__all__ = ["generator_config", "generator_recipes", "make_generator", "merge"]

_OWN = ("vae_reduction.",)  # names that begin so are ours as they are; all others lie below `unet.`
_BASE, _A, _B = ".base_layer.weight", ".lora_A.default.weight", ".lora_B.default.weight"


def generator_config(source: Source, *, lora: str, lora_alpha: float) -> OneDCGeneratorConfig:
    """The configuration that fits a file's shapes; of the released weights, the defaults.

    Args:
        source (`Source`): the generator's file.
        lora (`"merge"` or `"keep"`): what becomes of its LoRA.
        lora_alpha (`float`): numerator of the LoRA's factor alpha / rank, which no file states.

    Raises:
        ConversionError: if the file lacks a tensor that says how wide the model is.
    """

    def shape(name: str) -> tuple[int, ...]:
        wrapped = name.replace(".weight", _BASE)
        return source.shape(wrapped if wrapped in source.shapes else name)

    levels = source.count("down_blocks.{}.")
    attends = [source.count(f"down_blocks.{i}.attentions.{{}}.") > 0 for i in range(levels)]
    if not any(attends):
        raise ConversionError(f"{source.what}: {source.path} has no cross-attention; is it another kind of file?")
    first = attends.index(True)
    adapter = sorted(name for name in source.shapes if name.endswith(_A))
    unet = {
        "block_out_channels": [shape(f"down_blocks.{i}.resnets.0.conv2.weight")[0] for i in range(levels)],
        "down_block_types": ["CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)],
        "layers_per_block": source.count("down_blocks.0.resnets.{}."),
        "attention_head_dim": 8,
        "cross_attention_dim": shape(f"down_blocks.{first}.attentions.0.transformer_blocks.0.attn2.to_k.weight")[1],
    }
    return OneDCGeneratorConfig(
        detail_channels=shape("conv_in.weight")[1],
        latent_channels=shape("conv_out.weight")[0],
        unet=unet,
        lora={
            "r": source.shape(adapter[0])[0],
            "lora_alpha": lora_alpha,
            "target_modules": [name.removesuffix(_A) for name in adapter],
        }
        if lora == "keep" and adapter
        else None,
    )


def make_generator(source: Source, *, lora: str = "merge", lora_alpha: float = 8.0) -> OneDCGenerator:
    """The generator, in float32, one tensor after another.

    Raises:
        ConversionError: for tensors that are missing, of a wrong shape, or left over.
    """
    config = generator_config(source, lora=lora, lora_alpha=lora_alpha)
    with torch.device("meta"):
        generator = OneDCGenerator(config)
    fill(generator, generator_recipes(source, lora=lora, lora_alpha=lora_alpha), source)
    return generator.eval()


def generator_recipes(source: Source, *, lora: str, lora_alpha: float) -> dict[str, Recipe]:
    """What each of our tensors is made from: one of theirs, or three, where a LoRA is merged."""
    recipes = {}
    for name in source.shapes:
        if lora == "keep":
            recipes[_our_name(name)] = Recipe((name,))
        elif name.endswith(_BASE):
            module = name.removesuffix(_BASE)
            names = (name, module + _A, module + _B)
            factor = lora_alpha / source.shape(names[1])[0]
            recipes[_our_name(f"{module}.weight")] = Recipe(names, partial(merge, factor=factor))
        elif not name.endswith((_A, _B)):
            recipes[_our_name(name.replace(".base_layer.", "."))] = Recipe((name,))
    return recipes


def merge(base: Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
    """W + factor B A, in float64; of a convolution, B is 1x1 and A has the kernel."""
    change = b.double().flatten(1) @ a.double().flatten(1)
    return (base.double() + factor * change.view(base.shape)).float()


def _our_name(name: str) -> str:
    return name if name.startswith(_OWN) else f"unet.{name}"
