"""Teaches hyper-latent and entropy model what the analysis already says: the fast half of a new entropy path.

    python -m onedc_hf.training.hyper_latent --train_data_dir photos --output_dir hyper
    onedc train --config box-stage2 --train_data_dir photos --init_from ./hyper/pipeline

The analysis transform stays as it is. So what it says of a crop is computed once, and from then on a step costs only
what lives at 1/16 and 1/64 of the picture: on two CPU cores ninety crops a second, where the whole model trains on
three. Then the decoder side learns to make pictures of it (stage 2).

A reader, which is thrown away, makes a thumbnail of the semantic map. Its error says what the whole model's pixel loss
hardly does: that a few bits are to hold the colours, too.

Shapes: B crops, S side of a crop, N channels of `y`, C channels of the semantic map; rows and columns: Y = S/16 of `y`,
Z = S/64 of semantic maps, T = S/8 of thumbnails.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..hub.inherited import carry_licences
from .components import load_model, save_pipeline
from .config import TrainConfig
from .crops import Crops, Share, crop_batches
from .losses import OPPONENTS
from .model import TrainableOneDC, z_excess
from .publish import ORIGINS, origins
from .stage1 import geometric
from .standalone import exit_code, picture_arguments, stop_on_signals
from .steps import FiniteSteps

__all__ = ["AnalysedCrops", "ThumbnailReader", "analyse", "main", "thumbnails", "train_hyper_latent"]

logger = logging.getLogger(__name__)

_LEARNS = ("codec.hyper_enc", "codec.entropy", "codec.semantic_adaptor")
_LIGHTNESS = (0.299, 0.587, 0.114)  # BT.601
_CHANNEL_WEIGHTS = (1.0, 6.0, 12.0)  # of lightness, blue to orange, magenta to green: in all about as much of each
# What a bit per pixel of `y` counts beside the thumbnail's error, at quality 0 and at 100; geometric in between.
_RATE_WEIGHTS = (5.2, 0.42)
_KNOWN_MAP_WEIGHT = 0.01  # of the distance from the semantic map that the decoder side knows
_Z_RANGE_WEIGHT = 0.02
_ANALYSED_BATCH = 16


class AnalysedCrops(NamedTuple):
    """What is known of crops before anything learns, in float16.

    Args:
        y (`torch.Tensor` of shape `[B, N, Y, Y]`): the latent, not rounded.
        semantic (`torch.Tensor` of shape `[B, C, Z, Z]`): the analysis' semantic map.
        known (`torch.Tensor` of shape `[B, C, Z, Z]`): the semantic map that the decoder side was trained with.
        thumbnail (`torch.Tensor` of shape `[B, 3, T, T]`): lightness and the two opponent colours of 8x8 pixels.
    """

    y: Tensor
    semantic: Tensor
    known: Tensor
    thumbnail: Tensor

    def take(self, index: Tensor, device: torch.device) -> AnalysedCrops:
        """Some of the crops, in float32, on a device."""
        return AnalysedCrops(*(tensor[index].to(device, torch.float32) for tensor in self))


class ThumbnailReader(nn.Module):
    """Makes thumbnails of semantic maps.

    Args:
        channels (`int`): C.
        width (`int`): of its one hidden layer.
    """

    def __init__(self, channels: int, width: int = 128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 1), nn.GELU(), nn.Conv2d(width, 3 * 64, 1), nn.PixelShuffle(8)
        )

    def forward(self, semantic: Tensor) -> Tensor:
        """Semantic map `[B, C, Z, Z]` to lightness and opponent colours `[B, 3, T, T]`."""
        return self.layers(semantic)


def thumbnails(pixels: Tensor) -> Tensor:
    """Lightness and opponent colours `[B, 3, S/8, S/8]` of crops `[B, 3, S, S]` in [-1, 1]."""
    axes = torch.tensor((_LIGHTNESS, *OPPONENTS), device=pixels.device)
    return torch.einsum("kc,bcyx->bkyx", axes, F.avg_pool2d(pixels, 8))


@torch.no_grad()
def analyse(model: TrainableOneDC, batches: Iterable[Tensor], count: int) -> AnalysedCrops:
    """Analyses crops, on the model's device.

    Args:
        model (`TrainableOneDC`): with its float entropy model.
        batches: of crops `[B, 3, S, S]` in [-1, 1].
        count (`int`): how many crops, at least.

    Returns:
        `AnalysedCrops`: on the CPU.

    Raises:
        ValueError: if there are fewer.
    """
    codec, device = model.codec, model.gain_anchors.device
    found: list[AnalysedCrops] = []
    got = 0
    for batch in batches:
        pixels = batch.to(device)
        y, semantic = codec.enc(pixels, model.encode_latent(pixels))
        known = codec.adapt(codec.float_entropy.semantic_seed(codec.hyper_analyse(y, semantic)))
        found.append(AnalysedCrops(*(part.half().cpu() for part in (y, semantic, known, thumbnails(pixels)))))
        got += len(pixels)
        if got >= count:
            return AnalysedCrops(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    raise ValueError(f"`batches` ended after {got} crops; {count} were asked for.")


def train_hyper_latent(
    model: TrainableOneDC,
    crops: AnalysedCrops,
    *,
    steps: int = 2000,
    batch: int = 48,
    rate_batch: int = 16,
    learning_rate: float = 1e-3,
    warmup_steps: int = 100,
    logging_steps: int = 100,
    seed: int = 0,
    log: Callable[[dict[str, float]], None] = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Trains hyper-analysis, entropy model and semantic adaptor, in place, on the model's device.

    Everything else stays as it is, and the tables of the hyper-latent, which no longer fit, are emptied: a release fits
    new ones. Whoever saves the model freezes `gain_anchors` first, or the gain rows are read off them anew.

    Args:
        model (`TrainableOneDC`): with its float entropy model.
        crops (`AnalysedCrops`): by `analyse` of the same model.
        steps (`int`): of AdamW.
        batch (`int`): crops of a step.
        rate_batch (`int`): crops among them whose `y` is estimated in bits, which is most of the work.
        learning_rate (`float`): after the warm-up; falls to zero by a cosine.
        warmup_steps (`int`): steps in which it grows from zero.
        logging_steps (`int`): between two lines of the log; there is one after the last step, too.
        seed (`int`): of the reader, of crops and qualities.
        log (`Callable`): gets, since the line before, the means of `thumbnail` (weighted squared error), `known`
            (distance from the semantic map that was, in its variances) and `bpp` of `y` over all qualities.
        stop (`Callable`): asked after every step; True ends the training.

    Raises:
        ValueError: for counts below 1, or a learning rate that is not above 0.
        TrainingError: if gradients stay infinite or no numbers.
    """
    counts = {"steps": steps, "batch": batch, "rate_batch": rate_batch, "logging_steps": logging_steps}
    for name, value in (counts | {"learning_rate": learning_rate}).items():
        if value <= 0:
            raise ValueError(f"`{name}` must be above 0; got {value}.")
    codec, device = model.codec, model.gain_anchors.device
    entropy = codec.float_entropy
    torch.manual_seed(seed)
    draws = torch.Generator().manual_seed(seed)
    reader = ThumbnailReader(codec.config.semantic_channels).to(device)
    learned = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(_LEARNS))
    parameters = [p for p in model.parameters() if p.requires_grad] + list(reader.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98))

    def pace(step: int) -> float:
        return min(1.0, (step + 1) / max(1, warmup_steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, pace)
    weights = torch.tensor(_CHANNEL_WEIGHTS, device=device).view(1, 3, 1, 1)
    spread = crops.known.float().std(dim=(0, 2, 3), keepdim=True).to(device) + 1e-3
    area = 256 * crops.y.shape[2] * crops.y.shape[3]  # pixels of a crop
    seen: dict[str, list[float]] = {"thumbnail": [], "known": [], "bpp": []}
    finite = FiniteSteps("the hyper-latent", "Start again with a smaller `--learning_rate`.")
    try:
        for step in range(1, steps + 1):
            chosen = crops.take(torch.randint(len(crops.y), (batch,), generator=draws), device)
            z = codec.hyper_enc(chosen.y, chosen.semantic)
            codes = codec.z_vq(z)
            semantic = codec.adapt(entropy.semantic_seed(codes))
            thumbnail = ((reader(semantic) - chosen.thumbnail).square() * weights).mean()
            known = ((semantic - chosen.known) / spread).square().mean()
            quality = (torch.rand(min(batch, rate_batch), generator=draws) * 100).to(device)
            few = len(quality)
            _, _, bits = model.code(chosen.y[:few], codes[:few], quality, nearest=True)
            bpp = bits / area
            loss = thumbnail + _KNOWN_MAP_WEIGHT * known + _Z_RANGE_WEIGHT * z_excess(z)
            loss = loss + (geometric(*_RATE_WEIGHTS, quality) * bpp).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if finite.may(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))):
                optimizer.step()
                schedule.step()
                for name, value in {"thumbnail": thumbnail, "known": known, "bpp": bpp.mean()}.items():
                    seen[name].append(float(value.detach()))
            stopped = stop()
            if step % logging_steps == 0 or step == steps or stopped:
                log({"step": step} | {name: fmean(values) for name, values in seen.items() if values})
                seen = {name: [] for name in seen}
            if stopped:
                break
    finally:
        optimizer.zero_grad(set_to_none=True)
        entropy.z_counts.zero_()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learned[name])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m onedc_hf.training.hyper_latent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[picture_arguments("pipeline to start from")],
    )
    parser.add_argument("--crops", type=int, default=8000, help="that are analysed; in the box 49 kB of memory each")
    parser.add_argument("--max_train_steps", type=int, default=2000)
    parser.add_argument("--train_batch_size", type=int, default=48)
    parser.add_argument("--rate_batch_size", type=int, default=16, help="crops among them whose bits are estimated")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    asked = parser.parse_args(argv)
    for name in ("crops", "max_train_steps", "train_batch_size", "rate_batch_size", "learning_rate"):
        if getattr(asked, name) <= 0:
            parser.error(f"--{name} must be above 0; got {getattr(asked, name)}.")
    return asked


def main(argv: Sequence[str] | None = None) -> int:
    """Trains as the arguments say, on the CPU; SIGTERM and Ctrl-C end it with everything saved.

    Writes `log.jsonl`, `pipeline` (for `--init_from`), and for the card of the next run `made_from.json` to the output
    folder.

    Returns:
        `int`: the exit code.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    asked = _arguments(argv)
    if asked.num_threads:
        torch.set_num_threads(asked.num_threads)
    return exit_code("hyper_latent", "Pipeline", lambda: _train(asked))


def _train(asked: argparse.Namespace) -> Path:
    output: Path = asked.output_dir
    config = TrainConfig(
        train_data_dir=asked.train_data_dir, exclude=asked.exclude, resolution=asked.resolution, seed=asked.seed
    )
    if (output / "pipeline").exists():
        raise ValueError(f"{output} holds the pipeline of an earlier run: give this one another --output_dir.")
    output.mkdir(parents=True, exist_ok=True)
    model = load_model(asked.model)
    made_from = origins({"init_from": asked.model, "stage": 2})  # none is the model in the box, as there
    (output / ORIGINS).write_text(json.dumps(made_from) + "\n", encoding="utf-8")
    model.gain_anchors.requires_grad_(False)  # so that the gain rows are saved as they are
    pixels = (Crops.of(batch).pixels for batch in crop_batches(config, Share(_ANALYSED_BATCH)))
    crops = analyse(model, pixels, asked.crops)
    logger.info("%d crops analysed", len(crops.y))
    # From here on there is something to save.
    with stop_on_signals() as stop, (output / "log.jsonl").open("w", encoding="utf-8") as file:

        def log(line: dict[str, float]) -> None:
            logger.info("%s", line)
            file.write(json.dumps(line) + "\n")
            file.flush()

        train_hyper_latent(
            model,
            crops,
            steps=asked.max_train_steps,
            batch=asked.train_batch_size,
            rate_batch=asked.rate_batch_size,
            learning_rate=asked.learning_rate,
            seed=asked.seed,
            log=log,
            stop=stop,
        )
        save_pipeline(model, output / "pipeline")
        carry_licences(made_from, asked.model, output / "pipeline")
    return output / "pipeline"


if __name__ == "__main__":
    sys.exit(main())
