"""Stage 2 (paper, section 3.3): what a file says is settled, the pictures made from it get better.

Everything that decides symbols is frozen. Each iteration rebuilds crops, every tenth one (`generator_every`) with
gradient, for an update of the generator; the guidances learn from every one. What surrounds the loop is `run.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from .components import DECIDES_SYMBOLS, choose_what_learns, load_start, save_result
from .config import TrainConfig
from .guidance import Guidance, PictureGuidance, View, make_latent_guidance
from .model import Rebuilt, TrainableOneDC
from .objective import picture_losses
from .run import TrainingRun
from .stage1 import qualities_of_step
from .steps import OptimizerStep

__all__ = ["ALL_BUT_THE_GENERATOR", "train"]

# What `freeze` stands for where it is empty: the paper trains nothing else in this stage.
ALL_BUT_THE_GENERATOR = ("codec", "gain_anchors", "vae")


def _refuse_new_symbols(model: TrainableOneDC) -> None:
    learns = [name for name, p in model.named_parameters() if p.requires_grad and name.startswith(DECIDES_SYMBOLS)]
    if learns:
        raise ValueError(
            f"Stage 2 has no rate term, so nothing that decides a file's bytes may learn, but {learns[0]} does: "
            f"`freeze` needs {' '.join(DECIDES_SYMBOLS)}."
        )


def train(config: TrainConfig) -> Path:
    """Runs stage 2 and returns the folder of the trained pipeline.

    Where the settings freeze nothing, everything but the generator is frozen; what decides symbols always has to be.

    Raises:
        TrainingError: if gradients stay infinite or no numbers; nothing is saved then.
        ValueError, OSError, OneDCError: for settings that cannot work, before any work is done.
    """
    if not config.freeze:
        config = dataclasses.replace(config, freeze=list(ALL_BUT_THE_GENERATOR))
    with TrainingRun(config) as run:
        # Model
        bare = load_start(config)
        trainable = choose_what_learns(bare, config)
        _refuse_new_symbols(bare)
        if config.gradient_checkpointing:
            bare.enable_gradient_checkpointing()
        bare.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]

        # Guidances and optimisers
        losses = picture_losses(config, run)
        guidances: list[Guidance] = [PictureGuidance(losses)]
        optimizer, scheduler = run.optimise(trainable, every=config.generator_every, idle=config.adversary_warmup_steps)
        take_step = OptimizerStep(run.accelerator, trainable, optimizer, scheduler, max_norm=config.max_grad_norm)
        run.average(trainable)
        model = run.wrap(bare)
        if config.teacher:
            guidances.append(make_latent_guidance(config, run, bare))

        def save(output: Path) -> Path:
            losses.save(output)
            return save_result(bare, output, config)

        run.begin(bare, save)

        for micro_batches in run.batches():
            qualities = qualities_of_step(config, run, len(micro_batches))
            warming_up = run.step < config.adversary_warmup_steps
            turn = run.step % config.generator_every == 0 and not warming_up  # the generator's
            for (pixels, captions), quality in zip(micro_batches, qualities, strict=True):
                values: dict[str, float] = {}
                with run.accelerator.accumulate(model):
                    with run.accelerator.autocast(), torch.set_grad_enabled(turn):
                        # Between the generator's turns only an adversary on pictures looks at them.
                        rebuilt: Rebuilt = model(pixels, quality, decode=turn or losses.perceptual is not None)
                    view = View(rebuilt.latent, rebuilt.picture, pixels, captions, quality, rebuilt.encoded)
                    if turn:
                        pulls = []
                        for guidance in guidances:
                            pull, found = guidance.generator_loss(view)
                            pulls.append(pull)
                            values |= found
                        run.accelerator.backward(torch.stack(pulls).sum())
                        take_step()
                    for guidance in guidances:
                        values |= guidance.learn(view.detach(), run.step)
                run.record(values | {"bpp": float(rebuilt.bpp.detach().mean())})
            if turn:
                run.update_average()
        return run.end()
