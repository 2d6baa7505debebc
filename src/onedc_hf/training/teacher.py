"""A small latent diffusion model, trained here, that teaches stage 2 what latents of pictures look like.

    python -m onedc_hf.training.teacher --train_data_dir photos --output_dir teacher --max_train_steps 20000
    onedc train --config box-stage2 --train_data_dir photos --teacher ./teacher --matching_weight 0.3

It predicts the noise in a model's latents and sees nothing else: no caption, no class. It is saved as a diffusers
`UNet2DConditionModel` with its scheduler, and beside them the scale of the latents (`latents.json`).

Shapes: B batch, L latent channels, h w rows and columns of a latent, S side of a crop.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor

from .components import DECIDES_SYMBOLS, load_model
from .config import TrainConfig
from .crops import Cropping, Share, crop_batches
from .matching import fake_score_loss
from .picture_sets import excluded_names, open_split
from .scores import LatentScale, NoiseSchedule, ScoreNetwork
from .standalone import exit_code, picture_arguments, stop_on_signals
from .steps import FiniteSteps
from .validation_pictures import named_pictures

__all__ = ["TEACHER_UNET", "main", "train_teacher"]

logger = logging.getLogger(__name__)

# Self-attention only at 1/32, where it costs nothing; 6 M parameters, 27 crops of 128 pixels a second on one CPU core.
TEACHER_UNET: dict[str, Any] = {
    "block_out_channels": [64, 128, 192],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "attention_head_dim": 32,
    "norm_num_groups": 32,
}
_SCALE_BATCHES = 16  # that the latents' scale is measured on
_LOOK_REPEATS = 4  # draws of timestep and noise for each picture held out
_LOOK_PICTURES = 16  # at most, where a folder holds pictures that are not trained on


def _save(unet: UNet2DConditionModel, scheduler: DDPMScheduler, scale: LatentScale, output: Path) -> None:
    unet.save_pretrained(output / "unet")
    scheduler.save_pretrained(output / "scheduler")
    scale.save(output)


@torch.no_grad()
def _held_out_loss(network: ScoreNetwork, schedule: NoiseSchedule, latents: Tensor) -> float:
    """The loss on latents, at timesteps and with noise that are always the same."""
    draws = torch.Generator().manual_seed(0)
    last = len(schedule) - 1
    network.eval()
    losses = [
        float(fake_score_loss(latents, network, schedule, timesteps=(0, last), generator=draws))
        for _ in range(_LOOK_REPEATS)
    ]
    network.train()
    return fmean(losses)


def train_teacher(
    pictures: Iterable[Tensor],
    encode: Callable[[Tensor], Tensor],
    output: str | Path,
    *,
    scheduler: DDPMScheduler,
    unet: Mapping[str, Any] | None = None,
    init_from: str | Path = "",
    max_steps: int = 100_000,
    learning_rate: float = 3e-4,
    warmup_steps: int = 500,
    weight_decay: float = 0.01,
    max_grad_norm: float = 1.0,
    ema_decay: float = 0.999,
    logging_steps: int = 100,
    saving_steps: int = 2000,
    held_out: Tensor | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Trains the teacher of one VAE's latents; the VAE stays as it is.

    Args:
        pictures: batches of crops `[B, 3, S, S]` in [-1, 1], as many as there are steps and a few more; for instance
            `crop_batches`. S is a multiple of 8 x 2 to the number of the U-Net's levels less one.
        encode: crops to latents `[B, L, h, w]`: `TrainableOneDC.encode_latent`.
        output (`str` or `Path`): folder; gets `unet`, `scheduler`, `latents.json` and `log.jsonl`.
        scheduler (`DDPMScheduler`): the noise schedule; that of the model whose stage 2 it is for.
        unet (`Mapping`, *optional*): arguments of `UNet2DConditionModel`, beside channels; `TEACHER_UNET` by default.
        init_from (`str` or `Path`, *optional*): such a folder to go on from: averaged weights and scale, fresh
            optimiser.
        max_steps (`int`): optimiser steps; constant learning rate after the warm-up.
        learning_rate (`float`): of AdamW.
        warmup_steps (`int`): steps in which it grows from zero.
        weight_decay (`float`): of AdamW.
        max_grad_norm (`float`): longer gradients are shortened.
        ema_decay (`float`): of the averaged weights, which are the ones that are saved.
        logging_steps (`int`): between two lines of the log.
        saving_steps (`int`): between two saves.
        held_out (`torch.Tensor` of shape `[N, 3, S, S]`, *optional*): crops whose loss (averaged weights) is logged at
            every save, with the same timesteps and noise each time.
        seed (`int`): of weights, timesteps and noise.
        device (`torch.device`): where the network lives.
        stop (`Callable`): asked after every step; True ends the training, with everything saved.

    Returns:
        `Path`: the folder, for `load_teacher`.

    Raises:
        ValueError: for a U-Net that wants captions, too few pictures, or a folder that holds another teacher.
        TrainingError: if gradients stay infinite or no numbers; nothing more is saved then.
    """
    output = Path(output)
    if (output / "unet").exists() and not (init_from and output.resolve() == Path(init_from).resolve()):
        raise ValueError(
            f"{output} holds a teacher already: give this one another folder, or go on with that one by `init_from`."
        )
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    schedule = NoiseSchedule(scheduler)
    last = len(schedule) - 1
    stream = iter(pictures)

    @torch.no_grad()
    def next_latents() -> Tensor:
        pixels = next(stream, None)
        if pixels is None:
            raise ValueError("`pictures` ended before `max_steps`: give an endless stream, or fewer steps.")
        return encode(pixels.to(device)).float()  # [B, L, h, w]

    # Network and scale of the latents
    if init_from:
        scale = LatentScale.load(Path(init_from))
        model = UNet2DConditionModel.from_pretrained(init_from, subfolder="unet")
    else:
        sample = torch.cat([next_latents() for _ in range(_SCALE_BATCHES)])
        scale = LatentScale.of(sample)
        channels = sample.shape[1]
        settings = dict(TEACHER_UNET if unet is None else unet)
        model = UNet2DConditionModel(in_channels=channels, out_channels=channels, **settings)
    network = ScoreNetwork(model.to(device).train())
    if network.wants_captions:
        raise ValueError("`unet`: this teacher sees no captions; use blocks without cross-attention.")
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))
    ema = EMAModel(parameters, decay=ema_decay)
    ema.to(device)
    unseen = None
    if held_out is not None:
        with torch.no_grad():
            unseen = scale.standardise(encode(held_out.to(device)).float())

    losses: list[float] = []
    finite = FiniteSteps("the teacher", "What it saved last is from before. Try a smaller learning rate.")
    started = time.monotonic()
    step, stopped = 0, False
    while step < max_steps and not stopped:
        latents = scale.standardise(next_latents())
        loss = fake_score_loss(latents, network, schedule, timesteps=(0, last))
        loss.backward()
        if finite.may(float(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm))):
            optimizer.step()
            warm_up.step()
            ema.step(parameters)
            losses.append(float(loss.detach()))
        optimizer.zero_grad(set_to_none=True)
        step += 1
        stopped = stop()

        line: dict[str, float] = {}
        if step % logging_steps == 0 and losses:
            line = {
                "loss": fmean(losses),
                "crops_per_second": len(losses) * len(latents) / (time.monotonic() - started),
            }
            losses.clear()
        if step % saving_steps == 0 or step == max_steps or stopped:
            ema.store(parameters)
            ema.copy_to(parameters)
            if unseen is not None:
                line["held_out_loss"] = _held_out_loss(network, schedule, unseen)
            _save(model, scheduler, scale, output)
            ema.restore(parameters)
        if line:
            logger.info("step %d: %s", step, line)
            with (output / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step} | {name: round(value, 5) for name, value in line.items()}) + "\n")
        if step % logging_steps == 0:
            started = time.monotonic()
    return output


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m onedc_hf.training.teacher",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[picture_arguments("pipeline whose latents it learns")],
    )
    parser.add_argument("--max_train_steps", type=int, default=100_000)
    parser.add_argument("--train_batch_size", type=int, default=8)
    parser.add_argument("--width", type=int, default=TEACHER_UNET["block_out_channels"][0], help="a multiple of 32")
    asked = parser.parse_args(argv)
    if asked.width < 1 or asked.width % 32:
        parser.error(f"--width must be a multiple of 32, for groups and attention heads; got {asked.width}.")
    return asked


def _held_out(config: TrainConfig) -> Tensor | None:
    """The middles `[N, 3, S, S]` of some pictures that lie in the folder but are not trained on."""
    names = excluded_names(config)
    found = named_pictures(open_split(config), names, _LOOK_PICTURES) if names else {}
    crop, unused = Cropping(config.resolution, center=True, flip=False), np.random.default_rng(0)
    return torch.stack([crop(picture, unused) for picture in found.values()]) if found else None


def main(argv: Sequence[str] | None = None) -> int:
    """Trains a teacher as the arguments say; from its first step SIGTERM and Ctrl-C end it with everything saved.

    The output folder is for the setting `teacher` of stage 2.

    Returns:
        `int`: the exit code.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    asked = _arguments(argv)
    if asked.num_threads:
        torch.set_num_threads(asked.num_threads)
    return exit_code("teacher", "Teacher", lambda: _train(asked))


def _train(asked: argparse.Namespace) -> Path:
    config = TrainConfig(
        train_data_dir=asked.train_data_dir,
        exclude=asked.exclude,
        resolution=asked.resolution,
        train_batch_size=asked.train_batch_size,
        seed=asked.seed,
    )
    batches, held_out = crop_batches(config, Share(config.train_batch_size)), _held_out(config)
    model = load_model(asked.model, freeze=DECIDES_SYMBOLS).eval()
    with stop_on_signals() as stop:
        return train_teacher(
            batches,
            model.encode_latent,
            asked.output_dir,
            scheduler=model.scheduler,
            unet=TEACHER_UNET | {"block_out_channels": [asked.width, 2 * asked.width, 3 * asked.width]},
            max_steps=asked.max_train_steps,
            held_out=held_out,
            seed=asked.seed,
            stop=stop,
        )


if __name__ == "__main__":
    sys.exit(main())
