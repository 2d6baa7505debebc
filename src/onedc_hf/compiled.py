"""Modules that `torch.compile` has wrapped."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

__all__ = ["plain"]

Module = TypeVar("Module", bound=nn.Module)


def plain(module: Module) -> Module:
    """The module that `torch.compile` was given, or the module itself: its class and the names of its weights."""
    return getattr(module, "_orig_mod", module)
