"""One step of an optimiser: its gradients unscaled and shortened, and left out where they are no numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..errors import OneDCError

__all__ = ["FiniteSteps", "OptimizerStep", "TrainingError"]

logger = logging.getLogger(__name__)

# A single crop may overflow. In float16 a new scale of the loss, 65,536, takes up to 16 halvings to fit.
_MOST_IN_A_ROW = 25
_RESUME = (
    "The checkpoints are from before: go on from one by `--resume_from_checkpoint latest`, with a smaller "
    "`--learning_rate`, or with `--mixed_precision no` or `bf16` in place of `fp16`."
)


class TrainingError(OneDCError, RuntimeError):
    """A run cannot go on: what it computes are no numbers any more."""


class FiniteSteps:
    """Which steps may be taken: one gradient that is not finite would make NaN of every weight.

    Args:
        what (`str`): whose gradients, for warning and error.
        advice (`str`, *optional*): what to do, for the error; default: what `onedc train` can do.
    """

    def __init__(self, what: str, advice: str = _RESUME):
        self.what, self.advice, self._in_a_row = what, advice, 0

    def may(self, norm: float) -> bool:
        """Whether the step with a gradient of this norm may be taken.

        Raises:
            TrainingError: where it was not for so many steps in a row that it will not get better by itself.
        """
        if math.isfinite(norm):
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        logger.warning("The gradient of %s is not finite: no step (%d in a row).", self.what, self._in_a_row)
        if self._in_a_row >= _MOST_IN_A_ROW:
            raise TrainingError(
                f"The gradient of {self.what} was not finite in {self._in_a_row} steps in a row, and the run ends "
                f"without saving. {self.advice}"
            )
        return False


class OptimizerStep:
    """The step of one optimiser after its gradients were back-propagated.

    Args:
        accelerator (`Accelerator`): of the run.
        parameters: what learns.
        optimizer, scheduler: theirs, prepared.
        max_norm (`float`): of the gradient; longer ones are shortened, with 0 none.
        what (`str`): whose gradients, for warning and error.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        parameters: Iterable[nn.Parameter],
        optimizer: Any,
        scheduler: Any = None,
        *,
        max_norm: float,
        what: str = "the model",
    ):
        self.accelerator, self.parameters = accelerator, list(parameters)
        self.optimizer, self.scheduler, self.max_norm = optimizer, scheduler, max_norm or math.inf
        self._finite = FiniteSteps(what)

    def __call__(self) -> None:
        """Steps where gradient accumulation says so; the gradients are gone afterwards.

        Raises:
            TrainingError: see `FiniteSteps`.
        """
        taken = True
        if self.accelerator.sync_gradients:
            # accelerate's own clipping unscales the gradients of every optimiser, while others may still gather theirs.
            self.accelerator.unscale_gradients(self.optimizer)
            taken = self._finite.may(float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)))
        if taken or self.accelerator.scaler is not None:  # which leaves the step out itself, and then lowers its scale
            self.optimizer.step()
            if self.scheduler is not None:
                self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
