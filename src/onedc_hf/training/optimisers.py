"""Optimisers and their schedules: made as a run's settings say, also where the run goes on from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from .config import TrainConfig

__all__ = ["Optimisation"]


class Optimisation:
    """An optimiser and its schedule, not prepared by accelerate yet.

    Args:
        config (`TrainConfig`): the run's settings.
        parameters: what learns; or groups, `{"params": ..., "lr_scale": factor on the learning rate}`.
        rate (`float`): the learning rate after warm-up.
        warmup_steps, steps (`int`): of the schedule, in calls of its `step`.
    """

    def __init__(
        self,
        config: TrainConfig,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        rate: float,
        *,
        warmup_steps: int,
        steps: int,
    ):
        groups: list[Any] = list(parameters)
        if isinstance(groups[0], dict):
            groups = [{"params": group["params"], "lr": rate * group["lr_scale"]} for group in groups]
        self.optimizer: torch.optim.Optimizer
        if config.optimizer == "adafactor":
            self.optimizer = torch.optim.Adafactor(groups, lr=rate, weight_decay=config.adam_weight_decay)
        else:
            self.optimizer = torch.optim.AdamW(
                groups,
                lr=rate,
                betas=(config.adam_beta1, config.adam_beta2),
                eps=config.adam_epsilon,
                weight_decay=config.adam_weight_decay,
            )
        self.scheduler: Any = get_scheduler(
            config.lr_scheduler, self.optimizer, num_warmup_steps=warmup_steps, num_training_steps=steps
        )
        self._settings = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            for group in self.optimizer.param_groups
        ]

    def apply_settings(self) -> None:
        """Makes the settings count again, after a checkpoint has brought those that it was written with.

        Where nothing was changed, every number stays exactly what it was.
        """
        rates = [settings["initial_lr"] for settings in self._settings]
        self.scheduler.base_lrs = list(rates)
        factors = [at(self.scheduler.last_epoch) for at in self.scheduler.lr_lambdas]
        now = [rate * factor for rate, factor in zip(rates, factors, strict=True)]
        for group, settings, rate in zip(self.optimizer.param_groups, self._settings, now, strict=True):
            group.update(settings, lr=rate)
        self.scheduler._last_lr = now
