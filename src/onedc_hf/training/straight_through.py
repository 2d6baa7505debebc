"""The entropy model's weights on the grid of the exact path, while they learn: quantisation-aware fine-tuning.

The exact entropy path (models/exact.py) has integer weights of 11 bits with a scale for each output channel. With
`exact_weights` the float model computes with exactly such weights, and gradients pass through the rounding, so that
what is learned is what the integers will say.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..models.integer import SPLIT_SUM_LIMIT, WEIGHT_LIMIT

__all__ = ["exact_weights", "on_grid"]


def on_grid(weight: Tensor) -> Tensor:
    """A convolution's weight `[O, I, k, k]`, rounded to 2047 levels for each output channel; straight through."""
    rows = weight.detach().abs().flatten(1)
    room = torch.maximum(rows.amax(dim=1) / WEIGHT_LIMIT, rows.sum(dim=1) / SPLIT_SUM_LIMIT).clamp_min(2.0**-40)
    unit = (room * 1.001).view(-1, *[1] * (weight.dim() - 1))
    return weight + (torch.round(weight.detach() / unit) * unit - weight.detach())


@contextmanager
def exact_weights(model: nn.Module) -> Iterator[None]:
    """Lets every convolution of a model compute with `on_grid` of its weight; its parameters stay what they are."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    kept = [layer.weight for layer in layers]
    try:
        for layer, weight in zip(layers, kept, strict=True):
            # In place of the parameter, not as an attribute beside it: the order of parameters must not change.
            layer._parameters["weight"] = on_grid(weight)  # type: ignore[assignment]
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer._parameters["weight"] = weight
