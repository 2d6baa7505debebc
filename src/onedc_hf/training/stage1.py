"""Stage 1 (paper, section 3.3): the whole model on pictures, pixel + perceptual loss + lambda x rate.

The loop is visible: crops, loss, step, log. It runs under `accelerate launch` on any number of processes.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.utils.data import DataLoader

from .adversary import Adversary
from .components import load_model, make_model, save_pipeline
from .config import TrainConfig, package_file
from .data import CropStream, open_pictures, read_names
from .features import LiteFeatures
from .losses import BalancedLosses, PerceptualLosses, PictureLosses, grid_loss, ms_ssim_loss
from .model import TrainableOneDC
from .start import start_as_transform_codec

__all__ = ["train"]

logger = logging.getLogger(__name__)

_START_CROPS = 400  # crops that the transform-codec start looks at


def rate_weight(config: TrainConfig, quality: Tensor, step: int) -> Tensor:
    """Lambda of each crop, `[B]`: geometric in quality, growing with the square of the step at first."""
    share = quality.clamp(0, 100) / 100
    target = config.lambda_low * (config.lambda_high / config.lambda_low) ** share
    ramp = min(1.0, step / config.lambda_ramp_steps) if config.lambda_ramp_steps else 1.0
    return 1e-4 + ramp**2 * (target - 1e-4)


def draw_quality(config: TrainConfig, count: int, generator: torch.Generator) -> Tensor:
    """Qualities of a batch, `[B]`: uniform in [0, 100], and -1 (only `z` is sent) for a share of the crops."""
    quality = torch.rand(count, generator=generator) * 100
    z_only = torch.rand(count, generator=generator) < config.z_only_share
    return torch.where(z_only, torch.tensor(-1.0), quality)


def _make_stream(config: TrainConfig, rank: int, start: int) -> CropStream:
    source = config.train_data_dir or config.dataset_name
    pictures = open_pictures(
        source,
        image_column=config.image_column,
        revision=config.dataset_revision or None,
        limit=config.max_train_samples,
    )
    exclude: frozenset[str] = frozenset()
    for name in config.exclude:
        exclude |= read_names(package_file(name) or name)
    return CropStream(
        pictures,
        config.resolution,
        config.seed + 1000 * rank,
        smallest_scale=config.smallest_scale,
        start=start,
        exclude=exclude,
    )


def _latest_checkpoint(output: Path, wanted: str) -> Path:
    found = sorted(output.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    if wanted != "latest":
        found = [p for p in found if p.name == Path(wanted).name]
    if not found:
        raise FileNotFoundError(f"No checkpoint {wanted!r} in {output}; start without --resume_from_checkpoint.")
    return found[-1]


class _Run:
    """What a checkpoint must hold besides model, optimiser and scheduler: the position in the run."""

    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def _save_checkpoint(accelerator: Accelerator, config: TrainConfig, output: Path, run: _Run) -> None:
    if accelerator.is_main_process:
        found = sorted(output.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        for old in found[: max(0, len(found) - config.checkpoints_total_limit + 1)]:
            for file in sorted(old.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            old.rmdir()
    accelerator.wait_for_everyone()
    accelerator.save_state(str(output / f"checkpoint-{run.step}"))


def _save_weights(model: TrainableOneDC, ema: EMAModel | None, output: Path) -> None:
    """Writes the averaged weights as a pipeline to `output/pipeline`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if ema is not None:
        ema.store(parameters)
        ema.copy_to(parameters)
    save_pipeline(model, output / "pipeline")
    if ema is not None:
        ema.restore(parameters)


def train(config: TrainConfig) -> Path:
    """Runs stage 1 and returns the folder of the trained pipeline.

    SIGTERM and SIGINT end the run after the step at hand, with everything saved.

    Raises:
        ValueError, FileNotFoundError: for settings that cannot work, before any work is done.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    accelerator = Accelerator(
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        mixed_precision=config.mixed_precision,
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=config.output_dir,
    )
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    set_seed(config.seed)
    run = _Run()

    # Model
    if config.init_from:
        model = load_model(config.init_from, config.rate_estimate, config.freeze)
    else:
        model = make_model(config.model, config.rate_estimate)
        crops = torch.stack(list(islice(_make_stream(config, 0, 0), _START_CROPS)))
        start_as_transform_codec(model, crops)
    model.exact_weights = config.exact_weights
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(name.startswith(prefix) for prefix in config.freeze))
    if model.codec.hyper_enc.fusion[-1].weight.requires_grad:
        model.codec.entropy.z_counts.zero_()  # tables of another hyper-latent; a release fits new ones
    model.to(memory_format=torch.channels_last).train()
    trainable = [p for p in model.parameters() if p.requires_grad]

    # Losses
    perceptual, adversary = None, None
    functions: list[PictureLosses] = [ms_ssim_loss] if config.ms_ssim_weight else []
    if config.grid_weight:
        functions.append(grid_loss)
    if config.feature_weight or config.adversary_weight:
        features = LiteFeatures(config.feature_network).to(accelerator.device)
        if config.adversary_weight:
            adversary = Adversary(features.channels, config.adversary_learning_rate, accelerator.device)
        perceptual = PerceptualLosses(features, adversary)
        functions.append(perceptual)
    weights = {
        "ms_ssim": config.ms_ssim_weight,
        "grid": config.grid_weight,
        "features": config.feature_weight,
        "adversary": config.adversary_weight,
    }
    losses = BalancedLosses(functions, weights)

    # Optimiser
    optimizer = torch.optim.AdamW(
        trainable,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
    )
    # accelerate steps a prepared scheduler once per process: counts are given in those steps.
    scale = accelerator.num_processes
    scheduler = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps * scale,
        num_training_steps=config.max_train_steps * scale,
    )
    ema = EMAModel(trainable, decay=config.ema_decay) if config.ema_decay else None
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    accelerator.register_for_checkpointing(run)
    if ema is not None:
        ema.to(accelerator.device)
        accelerator.register_for_checkpointing(ema)
    accelerator.register_for_checkpointing(losses)
    if adversary is not None:
        accelerator.register_for_checkpointing(adversary)
    if config.resume_from_checkpoint:
        accelerator.load_state(str(_latest_checkpoint(output, config.resume_from_checkpoint)))
    bare: TrainableOneDC = accelerator.unwrap_model(model)
    if accelerator.is_main_process:
        (output / "train_config.json").write_text(config.to_json(), encoding="utf-8")
    if config.report_to != "none":
        accelerator.init_trackers("onedc")

    # Data: the stream continues where the run stands.
    done = run.step * config.train_batch_size * config.gradient_accumulation_steps
    stream = _make_stream(config, accelerator.process_index, done)
    batches = iter(DataLoader(stream, batch_size=config.train_batch_size))

    stop = False

    def ask_to_stop(*_: object) -> None:
        nonlocal stop
        stop = True

    handlers = {sig: signal.signal(sig, ask_to_stop) for sig in (signal.SIGTERM, signal.SIGINT)}
    logged: dict[str, list[float]] = defaultdict(list)  # since the last line; the adversary's are not of every step
    since, started = 0, time.monotonic()
    while run.step < config.max_train_steps and not stop:
        # One generator a step, so that a run that continues draws what the unbroken run would have drawn.
        seed = config.seed + 7919 * run.step + 104729 * accelerator.process_index
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        warming_up = adversary is not None and run.step < config.adversary_warmup_steps
        for _ in range(config.gradient_accumulation_steps):
            with accelerator.accumulate(model):
                pixels = next(batches).to(accelerator.device, memory_format=torch.channels_last)  # [B, 3, S, S]
                quality = draw_quality(config, len(pixels), generator).to(pixels.device)  # [B]
                with accelerator.autocast(), torch.set_grad_enabled(not warming_up):
                    rebuilt, bpp, excess = model(pixels, quality)
                gradient, values = losses(rebuilt.float(), pixels)
                rate = (rate_weight(config, quality, run.step) * bpp).mean()
                if not warming_up:
                    accelerator.backward((rebuilt.float() * gradient).sum() + rate + config.z_range_weight * excess)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(trainable, config.max_grad_norm)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad(set_to_none=True)
                if perceptual is not None and (warming_up or run.step % config.adversary_every == 0):
                    values |= perceptual.learn()
        run.step += 1
        if ema is not None and not warming_up:
            ema.step(trainable)

        values["z_excess"] = float(excess.detach())
        values["rate"] = float(rate.detach())
        values["bpp"] = float(bpp.detach().mean())
        since += 1
        for name, value in values.items():
            logged[name].append(value)
        if run.step % config.logging_steps == 0:
            log = {name: fmean(found) for name, found in logged.items()}
            log["crops_per_second"] = since * config.train_batch_size * scale / (time.monotonic() - started)
            accelerator.log(log, step=run.step)
            if accelerator.is_main_process:
                with (output / "log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": run.step} | {k: round(v, 5) for k, v in log.items()}) + "\n")
            logged.clear()
            since, started = 0, time.monotonic()
        if run.step % config.checkpointing_steps == 0:
            _save_checkpoint(accelerator, config, output, run)
            if accelerator.is_main_process:
                _save_weights(bare, ema, output)
    for sig, handler in handlers.items():
        signal.signal(sig, handler)

    accelerator.wait_for_everyone()
    if not (output / f"checkpoint-{run.step}").is_dir():
        _save_checkpoint(accelerator, config, output, run)
    if accelerator.is_main_process:
        _save_weights(bare, ema, output)
    accelerator.end_training()
    return output / "pipeline"
