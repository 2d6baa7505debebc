"""Score networks that are known in closed form, and a U-Net that computes in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from onedc_hf.training.scores import NoiseSchedule

from .conftest import SCHEDULER

TINY_UNET: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}
TINY_CAPTIONED_UNET = TINY_UNET | {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 8,
}


def schedule() -> NoiseSchedule:
    """Stable Diffusion's."""
    return NoiseSchedule(DDPMScheduler(**SCHEDULER))


def tiny_unet(channels: int = 2, settings: dict[str, Any] = TINY_UNET, seed: int = 0) -> UNet2DConditionModel:
    """Seeded random weights."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(in_channels=channels, out_channels=channels, **settings)


class Gaussian:
    """The best noise estimate for independent Gaussians: sqrt(1-a) (x_t - sqrt(a) m) / (a v + 1 - a)."""

    def __init__(self, mean: Tensor, variance: float):
        self.mean, self.variance, self.alphas = mean, variance, schedule().alphas_cumprod

    def predict_noise(self, noised: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        a = self.alphas[timesteps].view(-1, 1, 1, 1)
        return ((1 - a).sqrt() * (noised - a.sqrt() * self.mean) / (a * self.variance + 1 - a)).float()


def captioned_folder(folder: Path, channels: int = 2) -> Path:
    """A folder as Stable Diffusion's: another scheduler's config, and CLIP."""
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "cat</w>", "c", "a", "t", "t</w>", "ca"]
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 7, "tokenizer_class": "CLIPTokenizer"})
    )
    settings = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    text = CLIPTextConfig(vocab_size=len(words), max_position_embeddings=7, **settings, **tokens)
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    tiny_unet(channels, TINY_CAPTIONED_UNET).save_pretrained(folder / "unet")
    PNDMScheduler(**SCHEDULER, skip_prk_steps=True, set_alpha_to_one=False).save_pretrained(folder / "scheduler")
    return folder
