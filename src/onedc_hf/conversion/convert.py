"""The authors' files to a pipeline folder: read this to see what is made from what.

    model_1.safetensors  -> codec      -> its entropy model made exact with the package's pictures
    model.safetensors    -> generator     (LoRA merged, or kept beside the weights)
    folder or repository -> vae

The generator is by far the largest and is needed last, so it is read when the codec has been written: memory stays near
that of the larger of the two.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler

from .. import __version__
from ..errors import ConversionError
from ..hub import write_root_config
from ..models import OneDCGenerator
from ..pictures import PictureInput
from ..pipeline import OneDCPipeline
from ..saving import forget_origin, staged_folder
from .card import write_card
from .codec import make_codec
from .generator import generator_config, generator_recipes, make_generator
from .source import Source, check, sha256_of
from .vae import load_vae, vae_files

__all__ = ["RECORD", "convert_checkpoint"]

RECORD = "conversion.json"
_SHARD = "1GB"  # of a file: what is being written is in memory twice
_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


@torch.no_grad()
def convert_checkpoint(
    codec: str | os.PathLike[str],
    generator: str | os.PathLike[str],
    vae: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    lora: Literal["merge", "keep"] = "merge",
    lora_alpha: float = 8.0,
    dtype: torch.dtype = torch.float32,
    z_only: bool = False,
    calibrate: Sequence[PictureInput] | None = None,
    distillation: Sequence[str | os.PathLike[str]] = (),
) -> dict[str, Any]:
    """Converts the authors' checkpoint into a self-contained pipeline folder.

    Args:
        codec (path): `model_1.safetensors` of a checkpoint.
        generator (path): its `model.safetensors`.
        vae (path or Hub id): folder or repository of the Stable Diffusion VAE, or one with a subfolder `vae`.
        out (path): folder to make; it must not exist, or be empty. It is there whole or not at all.
        lora (`"merge"` or `"keep"`): add the generator's LoRA to its weights, or keep it as a peft adapter.
        lora_alpha (`float`): numerator of the LoRA's factor alpha / rank (spec section 4).
        dtype (`torch.dtype`): what weights are stored in; the entropy model and the last layers stay as they are.
        z_only (`bool`): the checkpoint is of the model that sends the hyper-latent alone.
        calibrate (list of pictures, *optional*): see `OneDCPipeline.quantize_entropy`; others give another model id.
        distillation (paths): safetensors files that training needs (code predictor, tokenizer); checked and copied to
            `distillation/`.

    Returns:
        `dict`: what `conversion.json` in the folder holds: model id, options, SHA-256 of every source.

    Raises:
        ConversionError: for a file that is missing, damaged, a pickle, or does not hold exactly the tensors of this
            model; it lists their names. Nothing is left behind.
        OneDCError: if the folder is made, but cannot be moved to its place; the text says where it lies.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConversionError(f"{out} exists already; name another folder, or remove it first.")
    names = [Path(path).name for path in distillation]
    if len(set(names)) < len(names):
        raise ConversionError(f"Two distillation files have one name ({', '.join(names)}); rename one.")
    for path in map(Path, distillation):
        Source(path, "distillation")
    place = out.resolve()
    if not place.parent.is_dir():
        raise ConversionError(f"There is no folder {place.parent} to make {place.name} in.")
    codec_file, generator_file = Source(Path(codec), "codec"), Source(Path(generator), "generator")
    parts = make_codec(codec_file, z_only=z_only), load_vae(os.fspath(vae))
    config = generator_config(generator_file, lora=lora, lora_alpha=lora_alpha)
    # Its shapes alone: a file that does not fit is found before anything is written.
    with torch.device("meta"):
        empty = OneDCGenerator(config)
    check(empty, generator_recipes(generator_file, lora=lora, lora_alpha=lora_alpha), generator_file)
    pipe = OneDCPipeline(parts[1], parts[0], empty, DDPMScheduler(**_SCHEDULE))
    pipe.quantize_entropy(calibrate, keep_float=True)
    has_lora = any(".lora_A." in name for name in generator_file.shapes)
    with staged_folder(out) as staged:
        record = {
            "made_by": f"onedc-hf {__version__}",
            "model_id": pipe.model_id,
            "lora": lora if has_lora else "none",
            "lora_alpha": lora_alpha if has_lora else None,
            "dtype": str(dtype).removeprefix("torch."),
            "z_only": z_only,
            "calibration": "pictures of the package" if calibrate is None else f"{len(calibrate)} other pictures",
            "sources": _sources(codec, generator, vae, distillation),
        }
        pipe.save_config(staged)
        pipe.scheduler.save_pretrained(staged / "scheduler")
        pipe.vae.to(dtype).save_pretrained(staged / "vae")
        # transformers wraps `to`, which confuses the type checker
        pipe.codec.to(dtype).save_pretrained(staged / "codec", max_shard_size=_SHARD)  # type: ignore[arg-type]
        write_root_config(pipe, staged)
        write_card(pipe, staged, record)
        del pipe, parts
        filled = make_generator(generator_file, lora=lora, lora_alpha=lora_alpha)
        filled.to(dtype).save_pretrained(staged / "generator", max_shard_size=_SHARD)  # type: ignore[arg-type]
        for path in map(Path, distillation):
            (staged / "distillation").mkdir(exist_ok=True)
            shutil.copyfile(path, staged / "distillation" / path.name)
        (staged / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        forget_origin(staged)
    return record


def _sources(codec: Any, generator: Any, vae: Any, distillation: Sequence[Any]) -> list[dict[str, str]]:
    """Name and SHA-256 of every file that was read; of a repository, its name and revision, too."""
    found = [("codec", Path(codec)), ("generator", Path(generator)), *(("distillation", Path(p)) for p in distillation)]
    record = [{"part": part, "file": path.name, "sha256": sha256_of(path)} for part, path in found]
    for path, origin in vae_files(os.fspath(vae)):
        record.append({"part": "vae", "file": path.name, "sha256": sha256_of(path)} | origin)
    return record
