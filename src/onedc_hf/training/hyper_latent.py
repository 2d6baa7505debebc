"""Teaches hyper-latent and entropy model what the analysis already says: the fast half of a new entropy path.

    python -m onedc_hf.training.hyper_latent --train_data_dir photos --output_dir hyper
    onedc train --config box-stage2 --train_data_dir photos --init_from hyper/pipeline

The analysis transform stays as it is. So what it says of a crop is computed once, and from then on a step costs only
what lives at 1/16 and 1/64 of the picture: on two CPU cores a hundred crops a second, where the whole model trains on
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
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .components import load_model, save_pipeline
from .config import TrainConfig
from .data import Crops, Share, crop_batches
from .losses import OPPONENTS
from .model import TrainableOneDC

__all__ = ["Analysed", "ThumbnailReader", "analyse", "main", "thumbnails", "train_hyper_latent"]

logger = logging.getLogger(__name__)

_LEARNS = ("codec.hyper_enc", "codec.entropy", "codec.semantic_adaptor")
_LIGHTNESS = (0.299, 0.587, 0.114)  # BT.601
_CHANNEL_WEIGHTS = (1.0, 6.0, 12.0)  # of lightness, blue to orange, magenta to green: in all about as much of each
# What a bit per pixel of `y` counts beside the thumbnail's error, at quality 0 and at 100; geometric in between.
_RATE_WEIGHTS = (5.2, 0.42)
_KNOWN_MAP_WEIGHT = 0.01  # of the distance from the semantic map that the decoder side knows
_Z_RANGE_WEIGHT, _Z_RANGE = 0.02, 2.0
_ANALYSED_BATCH = 16


class Analysed(NamedTuple):
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

    def take(self, index: Tensor) -> Analysed:
        """Some of the crops, in float32."""
        return Analysed(*(tensor[index].float() for tensor in self))


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
def analyse(model: TrainableOneDC, batches: Iterable[Tensor], count: int) -> Analysed:
    """Analyses crops.

    Args:
        model (`TrainableOneDC`): with its float entropy model.
        batches: of crops `[B, 3, S, S]` in [-1, 1].
        count (`int`): how many crops, at least.

    Raises:
        ValueError: if there are fewer.
    """
    codec, found, got = model.codec, [], 0
    for pixels in batches:
        y, semantic = codec.enc(pixels, model.encode_latent(pixels))
        known = codec.semantic_adaptor(codec.float_entropy.semantic_seed(codec.hyper_analyse(y, semantic)))
        found.append(Analysed(*(part.half() for part in (y, semantic, known, thumbnails(pixels)))))
        got += len(pixels)
        if got >= count:
            return Analysed(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    raise ValueError(f"`batches` ended after {got} crops; {count} were asked for.")


def _rate_weight(quality: Tensor) -> Tensor:
    first, last = _RATE_WEIGHTS
    return first * (last / first) ** (quality / 100)


def train_hyper_latent(
    model: TrainableOneDC,
    crops: Analysed,
    *,
    steps: int = 2000,
    batch: int = 48,
    rate_batch: int = 16,
    learning_rate: float = 1e-3,
    warmup_steps: int = 100,
    logging_steps: int = 100,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Trains hyper-analysis, entropy model and semantic adaptor, in place; everything else stays.

    The tables of the hyper-latent, which no longer fit, are emptied: a release fits new ones.

    Args:
        model (`TrainableOneDC`): with its float entropy model.
        crops (`Analysed`): by `analyse` of the same model.
        steps (`int`): of AdamW.
        batch (`int`): crops of a step.
        rate_batch (`int`): crops among them whose `y` is estimated in bits, which is most of the work.
        learning_rate (`float`): after the warm-up; falls to zero by a cosine.
        warmup_steps (`int`): steps in which it grows from zero.
        logging_steps (`int`): between two lines.
        seed (`int`): of the reader, of crops and qualities.

    Returns:
        `list[dict]`: at every `logging_steps` the means of `thumbnail` (weighted squared error), `known` (distance from
        the semantic map that was, in its variances) and `bpp` of `y` over all qualities.
    """
    codec, device = model.codec, crops.y.device
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
    spread = crops.known.float().std(dim=(0, 2, 3), keepdim=True) + 1e-3
    area = 256 * crops.y.shape[2] * crops.y.shape[3]  # pixels of a crop
    lines: list[dict[str, float]] = []
    sums, started = dict.fromkeys(("thumbnail", "known", "bpp"), 0.0), time.monotonic()
    for step in range(steps):
        index = torch.randint(len(crops.y), (batch,), generator=draws)
        chosen = crops.take(index.to(device))
        z = codec.hyper_enc(chosen.y, chosen.semantic)
        codes = codec.z_vq(z)
        semantic = codec.semantic_adaptor(entropy.semantic_seed(codes))
        thumbnail = ((reader(semantic) - chosen.thumbnail).square() * weights).mean()
        known = ((semantic - chosen.known) / spread).square().mean()
        outside = (z.abs() - _Z_RANGE).clamp_min(0).square().mean()
        quality = (torch.rand(min(batch, rate_batch), generator=draws) * 100).to(device)
        few = len(quality)
        _, _, bits = model.code(chosen.y[:few], codes[:few], quality)
        bpp = bits / area
        rate = (_rate_weight(quality) * bpp).mean()
        loss = thumbnail + _KNOWN_MAP_WEIGHT * known + _Z_RANGE_WEIGHT * outside + rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        for name, value in {"thumbnail": thumbnail, "known": known, "bpp": bpp.mean()}.items():
            sums[name] += float(value.detach())
        if (step + 1) % logging_steps == 0:
            means = {name: total / logging_steps for name, total in sums.items()}
            lines.append({"step": step + 1} | means)
            logger.info("%s, %.0f crops a second", lines[-1], (step + 1) * batch / (time.monotonic() - started))
            sums = dict.fromkeys(sums, 0.0)
    entropy.z_counts.zero_()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learned[name])
    return lines


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m onedc_hf.training.hyper_latent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="", help="pipeline to start from, folder or Hub id; default: the box")
    parser.add_argument("--train_data_dir", required=True, help="folder of pictures")
    parser.add_argument(
        "--exclude",
        nargs="*",
        default=["box-excluded.txt", "box-heldout.txt"],
        help="files of picture names to leave out, as in training; without a name: none",
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="gets `pipeline` and `log.jsonl`")
    parser.add_argument("--crops", type=int, default=8000, help="that are analysed, 44 kB each in the box")
    parser.add_argument("--resolution", type=int, default=256, help="side of a crop, a multiple of 64")
    parser.add_argument("--max_train_steps", type=int, default=2000)
    parser.add_argument("--train_batch_size", type=int, default=48)
    parser.add_argument("--rate_batch_size", type=int, default=16, help="crops among them whose bits are estimated")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_threads", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Path:
    """Trains as the arguments say.

    Returns:
        `Path`: the pipeline's folder, for `--init_from`.

    Raises:
        ValueError, OSError: for a model, pictures or names that cannot be read.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    asked = _arguments(argv)
    if asked.num_threads:
        torch.set_num_threads(asked.num_threads)
    config = TrainConfig(
        train_data_dir=asked.train_data_dir,
        exclude=asked.exclude,
        resolution=asked.resolution,
        train_batch_size=_ANALYSED_BATCH,
        seed=asked.seed,
    )
    model = load_model(asked.model)
    model.gain_anchors.requires_grad_(False)  # so that the gain rows are saved as they are
    pixels = (Crops.of(batch).pixels for batch in crop_batches(config, Share(_ANALYSED_BATCH)))
    crops = analyse(model, pixels, asked.crops)
    lines = train_hyper_latent(
        model,
        crops,
        steps=asked.max_train_steps,
        batch=asked.train_batch_size,
        rate_batch=asked.rate_batch_size,
        learning_rate=asked.learning_rate,
        seed=asked.seed,
    )
    output: Path = asked.output_dir
    output.mkdir(parents=True, exist_ok=True)
    (output / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    save_pipeline(model, output / "pipeline")
    print(f"Pipeline: {output / 'pipeline'}")
    return output / "pipeline"


if __name__ == "__main__":
    main()
