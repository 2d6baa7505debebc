"""A `UserWarning` that points at the user's own line, however deep in this package the cause was found."""

from __future__ import annotations

import os
import sys
import warnings

__all__ = ["warn_user"]

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_DECORATOR = os.path.join("torch", "utils", "_contextlib.py")  # `inference_mode` around a method


def warn_user(message: str) -> None:
    """Warns, at the nearest line on the way here that is neither this package's nor torch's `inference_mode`."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_inside(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def _is_inside(file: str) -> bool:
    return file.startswith(_PACKAGE) or file.endswith(_DECORATOR)
