"""The released checkpoints, as far as one can know them: every name, shape and dtype, at full size, without memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from transformers import PreTrainedConfig

from onedc_hf.conversion.codec import codec_config, codec_recipes
from onedc_hf.conversion.generator import generator_config, generator_recipes
from onedc_hf.conversion.source import Source, check
from onedc_hf.models import OneDCCodec, OneDCCodecConfig, OneDCGenerator, OneDCGeneratorConfig

KEYS = Path(__file__).parents[1] / "fixtures" / "checkpoint_keys"
COUNTS = json.loads((KEYS / "param_counts.json").read_text())


class Inventory(Source):
    """A file of which only names and shapes are known."""

    def __init__(self, name: str):
        self.path, self.what = KEYS / f"{name}.json", name
        entries = json.loads(self.path.read_text())
        self.shapes = {key: tuple(shape) for key, (shape, _) in entries.items()}
        self.dtypes = {dtype for _, dtype in entries.values()}


def _differences(config: PreTrainedConfig, default: PreTrainedConfig) -> dict:
    return {key: value for key, value in config.to_diff_dict().items() if default.to_dict().get(key) != value}


def test_the_codec() -> None:
    source = Inventory("codec")
    config = codec_config(source)
    assert _differences(config, OneDCCodecConfig()) == {}
    with torch.device("meta"):
        codec = OneDCCodec(config)
        for name, buffer in list(codec.entropy.named_buffers()):
            setattr(codec.entropy, name, torch.zeros(buffer.shape, dtype=buffer.dtype, device="cpu"))
    check(codec, codec_recipes(source), source)
    assert sum(p.numel() for p in codec.parameters()) == COUNTS["codec"]["elements"]
    assert source.dtypes == {"float32"} == {str(p.dtype).removeprefix("torch.") for p in codec.parameters()}


@pytest.mark.parametrize("lora", ["merge", "keep"])
def test_the_generator(lora: str) -> None:
    source, counts = Inventory("generator_lora"), COUNTS["generator_lora"]
    config = generator_config(source, lora=lora, lora_alpha=8.0)
    assert config.unet["block_out_channels"] == OneDCGeneratorConfig().unet["block_out_channels"]
    with torch.device("meta"):
        generator, default = OneDCGenerator(config), OneDCGenerator(OneDCGeneratorConfig())
    check(generator, generator_recipes(source, lora=lora, lora_alpha=8.0), source)
    total = sum(p.numel() for p in generator.parameters())
    if lora == "merge":
        assert {k: v.shape for k, v in generator.state_dict().items()} == {
            k: v.shape for k, v in default.state_dict().items()
        }
        assert total == counts["base_elements_without_lora"]
    else:
        assert total == counts["elements"] and config.lora["r"] == 64
        assert len(config.lora["target_modules"]) == counts["lora_wrapped_modules"]


def test_the_vae_is_the_stock_one() -> None:
    source = Inventory("vae_sd21")
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    assert {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()} == source.shapes
