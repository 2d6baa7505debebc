"""Two training steps of the paper's model at full size, with seeded random weights: do they run, in what memory?

    python benchmarks/train_full_size.py --work /somewhere/with/40GB --resolution 512

Runs `onedc train` with `sd15-stage1`, then `sd15-stage2` on what came out, each in a process of its own. Nothing is
downloaded: VAE, tokenizer, VGG, teacher and text encoder have random weights of the right shapes. Writes
benchmarks/results/train_full_size.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from onedc_hf.training.config_files import model_settings
from onedc_hf.training.vqgan import MaskGITVQGAN

RESULTS = Path(__file__).parent / "results" / "train_full_size.json"
STEPS = 2  # torch allocates the optimiser's state in the first
VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
VGG = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of the convolutions, in torchvision's numbering


def make_parts(work: Path) -> dict[str, str]:
    """Random weights that stage 1 and stage 2 load, once; paths by setting."""
    torch.manual_seed(0)
    paths = {name: work / name for name in ("vae", "teacher", "pictures", "vgg.safetensors", "tokenizer.safetensors")}
    if not paths["pictures"].is_dir():
        AutoencoderKL(**VAE).save_pretrained(paths["vae"])
        save_file(dict(MaskGITVQGAN().state_dict()), paths["tokenizer.safetensors"])
        state, channels = {}, 3
        for place, width in zip(VGG_PLACES, VGG, strict=True):
            state[f"features.{place}.weight"] = torch.randn(width, channels, 3, 3) / (9 * channels) ** 0.5
            state[f"features.{place}.bias"] = torch.zeros(width)
            channels = width
        save_file(state, paths["vgg.safetensors"])
        settings = model_settings("sd15-model")
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        unet.save_pretrained(paths["teacher"] / "unet")
        DDPMScheduler(**settings["scheduler"]).save_pretrained(paths["teacher"] / "scheduler")
        text = CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408
        )
        CLIPTextModel(text).save_pretrained(paths["teacher"] / "text_encoder")
        make_text_tokenizer(paths["teacher"] / "tokenizer")
        settings["pretrained"] = {"vae": {"repository": str(work), "subfolder": "vae"}}
        (work / "model.json").write_text(json.dumps(settings), encoding="utf-8")
        rng = np.random.default_rng(0)
        paths["pictures"].mkdir()
        for i in range(2):
            small = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            small.resize((640, 640), Image.Resampling.BICUBIC).save(paths["pictures"] / f"{i}.png")
        rows = [json.dumps({"file_name": f"{i}.png", "text": "a"}) for i in range(2)]
        (paths["pictures"] / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return {name: str(path) for name, path in paths.items()} | {"model": str(work / "model.json")}


def make_text_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer of three words: captions say nothing else here."""
    folder.mkdir(parents=True)
    words = {"a</w>": 0, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def train(config: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Runs a config for a few steps; seconds, peak memory, losses."""
    command = [sys.executable, "-m", "onedc_hf.training.cli", "--config", config]
    for name, value in settings.items():
        command += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    started = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{config} ended with status {status}.")
    lines = (Path(settings["output_dir"]) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line) for line in lines[-STEPS:]]
    seconds = [settings["train_batch_size"] / line["crops_per_second"] for line in losses]
    return {
        "config": config,
        "resolution": settings["resolution"],
        "batch": settings["train_batch_size"],
        "mixed_precision": settings["mixed_precision"],
        "optimizer": settings.get("optimizer", "adamw"),
        "seconds_per_step": [round(s, 1) for s in seconds],
        "seconds_in_all": round(time.monotonic() - started, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "last_losses": losses[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for weights and runs; about 40 GB")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--mixed_precision", default="bf16", choices=["no", "bf16"])
    parser.add_argument("--optimizer", default="adafactor", help="of stage 2; adamw needs 8 bytes a weight more")
    parser.add_argument("--stages", type=int, nargs="*", default=[1, 2])
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    # If memory runs out, this is what should go.
    Path("/proc/self/oom_score_adj").write_text("900", encoding="ascii") if Path("/proc/self").is_dir() else None
    parts = make_parts(arguments.work)
    common = {
        "train_data_dir": parts["pictures"],
        "resolution": arguments.resolution,
        "train_batch_size": 1,
        "max_train_steps": STEPS,
        "logging_steps": 1,
        "mixed_precision": arguments.mixed_precision,
        "vgg_weights": parts["vgg.safetensors"],
    }
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for stage in arguments.stages:
        output = arguments.work / f"stage{stage}"
        own: dict[str, Any] = {"model": parts["model"], "tokenizer": parts["tokenizer.safetensors"]}
        if stage == 2:
            first = arguments.work / "stage1" / "pipeline"
            own = {"init_from": str(first), "teacher": parts["teacher"], "generator_every": 1}
            own |= {"optimizer": arguments.optimizer, "caption_column": "text"}
        result = train(f"sd15-stage{stage}", common | own | {"output_dir": str(output)})
        result |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
        found[f"stage{stage}"] = result
        print(json.dumps(result, indent=2))
        RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
