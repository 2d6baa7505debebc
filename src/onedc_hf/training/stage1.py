"""Stage 1 (paper, section 3.3): the whole model on pictures, pixel + perceptual loss + lambda x rate + distillation.

The loop is visible: crops, loss, step, log. What surrounds it is `run.py`. It runs under `accelerate launch` on any
number of processes.
"""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .components import DECIDES_SYMBOLS, choose_what_learns, grow_decoder, load_start, make_model, save_result
from .config import TrainConfig
from .crops import Crops, Share, crop_batches
from .distillation import make_distillation, semantics_learn
from .model import Rebuilt, TrainableOneDC
from .objective import picture_losses
from .run import TrainingRun
from .start import start_as_transform_codec
from .steps import OptimizerStep
from .tokenizers import load_tokenizer

__all__ = ["crop_weight", "draw_quality", "geometric", "learning_rates", "qualities_of_step", "rate_weight", "train"]

logger = logging.getLogger(__name__)

_START_BATCHES, _START_BATCH = 10, 40  # of crops that the transform-codec start looks at


def geometric(at_0: float, at_100: float, quality: Tensor) -> Tensor:
    """Between two positive numbers, in equal factors for equal steps of quality; qualities below 0 count as 0."""
    return at_0 * (at_100 / at_0) ** (quality.clamp(0, 100) / 100)


def rate_weight(config: TrainConfig, quality: Tensor, step: int) -> Tensor:
    """Lambda of each crop, `[B]`: geometric in quality, growing with the square of the step at first."""
    target = geometric(config.lambda_low, config.lambda_high, quality)
    ramp = min(1.0, step / config.lambda_ramp_steps) if config.lambda_ramp_steps else 1.0
    return 1e-4 + ramp**2 * (target - 1e-4)


def crop_weight(config: TrainConfig, quality: Tensor) -> Tensor:
    """What a crop of a quality counts, `[B]`: 1 in the middle of the scale; see `lambda_balance`."""
    share = quality.clamp(0, 100) / 100
    return (config.lambda_high / config.lambda_low) ** (config.lambda_balance * (0.5 - share))


def draw_quality(config: TrainConfig, count: int, generator: torch.Generator) -> Tensor:
    """Qualities of a batch, `[B]`: uniform in [0, 100], and -1 (only `z` is sent) for a share of the crops."""
    quality = torch.rand(count, generator=generator) * 100
    z_only = torch.rand(count, generator=generator) < config.z_only_share
    return torch.where(z_only, torch.tensor(-1.0), quality)


def qualities_of_step(config: TrainConfig, run: TrainingRun, micro_batches: int) -> list[Tensor]:
    """Qualities `[B]` of each of this process's micro-batches in the step at hand, as if one process drew for all."""
    everywhere = config.train_batch_size * run.accelerator.num_processes
    drawn = draw_quality(config, everywhere * micro_batches, run.shared_draws())
    return [run.my_part(part).to(run.device) for part in drawn.chunk(micro_batches)]


def learning_rates(
    model: TrainableOneDC, trainable: list[nn.Parameter], config: TrainConfig
) -> list[nn.Parameter] | list[dict[str, Any]]:
    """What learns, the analysis side in a group of its own where it learns at another pace."""
    if config.analysis_lr_scale == 1:
        return trainable
    analysis = {id(p) for part in (model.vae.encoder, model.codec.enc) for p in part.parameters()}
    slow = [p for p in trainable if id(p) in analysis]
    rest = [p for p in trainable if id(p) not in analysis]
    groups = ({"params": rest, "lr_scale": 1.0}, {"params": slow, "lr_scale": config.analysis_lr_scale})
    return [group for group in groups if group["params"]]


def _starting_model(config: TrainConfig) -> TrainableOneDC:
    if config.init_from:
        model = load_start(config)
    else:
        model = make_model(config.model, config.rate_estimate)
        if model.codec.config.trunk == "lite":
            batches = islice(crop_batches(config, Share(_START_BATCH)), _START_BATCHES)
            start_as_transform_codec(model, torch.cat([Crops.of(batch).pixels for batch in batches]))
        grow_decoder(model, config)
    model.exact_weights = config.exact_weights
    return model


def _refuse_two_lambdas(model: TrainableOneDC, config: TrainConfig) -> None:
    """A model of one rate has no quality that lambda could follow: each crop would be weighted at random."""
    if model.codec.entropy.quality_rows > 1 or config.lambda_low == config.lambda_high:
        return
    learns = [name for name, p in model.named_parameters() if p.requires_grad and name.startswith(DECIDES_SYMBOLS)]
    if learns or config.lambda_balance:
        raise ValueError(
            f"This model codes at one rate, so `lambda_low` ({config.lambda_low}) and `lambda_high` "
            f"({config.lambda_high}) must be one number, the rate's."
        )


def train(config: TrainConfig) -> Path:
    """Runs stage 1 and returns the folder of the trained pipeline.

    Raises:
        TrainingError: if gradients stay infinite or no numbers; nothing is saved then.
        ValueError, FileNotFoundError: for settings that cannot work, before any work is done.
    """
    with TrainingRun(config) as run:
        # Model
        distils = config.distillation_weight > 0 and semantics_learn(config)
        if config.distillation_weight and not distils:
            logger.info("All that makes the semantic map is frozen: there is no distillation (`distillation_weight`).")
        tokenizer = load_tokenizer(config.tokenizer) if distils else None
        bare = _starting_model(config)
        if tokenizer is not None:
            bare.distillation = make_distillation(config, bare.codec.config, tokenizer, resumes=run.resumes)
        trainable = choose_what_learns(bare, config)
        _refuse_two_lambdas(bare, config)
        if bare.codec.hyper_enc.fusion[-1].weight.requires_grad:
            bare.codec.entropy.z_counts.zero_()  # tables of another hyper-latent; a release fits new ones
        if config.gradient_checkpointing:
            bare.enable_gradient_checkpointing()
        bare.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]

        # Objective and optimiser
        losses = picture_losses(config, run)
        idle = config.adversary_warmup_steps if losses.warming_up(0) else 0
        optimizer, scheduler = run.optimise(learning_rates(bare, trainable, config), idle=idle)
        take_step = OptimizerStep(run.accelerator, trainable, optimizer, scheduler, max_norm=config.max_grad_norm)
        run.average(trainable)
        model = run.wrap(bare)

        def save(output: Path) -> Path:
            losses.save(output)
            return save_result(bare, output, config)

        run.begin(bare, save)

        for micro_batches in run.batches():
            qualities = qualities_of_step(config, run, len(micro_batches))
            warming_up = losses.warming_up(run.step)
            for (pixels, _), quality in zip(micro_batches, qualities, strict=True):
                with run.accelerator.accumulate(model):
                    tokens = None if bare.distillation is None else bare.distillation.targets(pixels)
                    with run.accelerator.autocast(), torch.set_grad_enabled(not warming_up):
                        rebuilt: Rebuilt = model(pixels, quality, tokens)
                    gradient, values = losses(rebuilt.picture.float(), pixels, quality)
                    weight = crop_weight(config, quality)
                    gradient = gradient * weight.view(-1, 1, 1, 1)
                    rate = (weight * rate_weight(config, quality, run.step) * rebuilt.bpp).mean()
                    total = (rebuilt.picture.float() * gradient).sum() + rate + config.z_range_weight * rebuilt.z_excess
                    if rebuilt.distilled:
                        total = total + config.distillation_weight * rebuilt.distilled["loss"]
                    if not warming_up:
                        run.accelerator.backward(total)
                        take_step()
                    values |= losses.learn(run.step)
                values |= {"rate": float(rate.detach()), "bpp": float(rebuilt.bpp.detach().mean())}
                values |= {name: float(loss.detach()) for name, loss in rebuilt.distilled.items() if name != "loss"}
                run.record(values | {"z_excess": float(rebuilt.z_excess.detach())})
            if not warming_up:
                run.update_average()
        return run.end()
