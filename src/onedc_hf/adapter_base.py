"""Which generator an adapter was trained for: noted in its file, and a warning where it is put onto another one.

The next release of a model has layers of the same shapes, so an adapter of this one fits it, and nobody has seen what
comes out. The note is the mean magnitude of some tensors and no digest: those of one model differ by 1e-5 between
number formats, those of two trainings by far more.
"""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

from .models import OneDCGenerator
from .models.adapters import PARTS, base_state
from .user_warning import warn_user

__all__ = ["BASE_FIELD", "name_base", "warn_of_another_base"]

BASE_FIELD = "base_model_name_or_path"  # of peft's `LoraConfig`
_PREFIX = "onedc generator "
_TENSORS, _LARGEST = 16, 1 << 16  # how many are noted, and their largest number of values
_SAME = 5e-4  # relative


def name_base(generator: OneDCGenerator) -> str:
    """What stands for a generator, without its added adapters, in an adapter's settings."""
    return _PREFIX + " ".join(_marks(generator))


def warn_of_another_base(named: Any, generator: OneDCGenerator, path: Path) -> None:
    """A `UserWarning` where an adapter's settings name another generator; none where they name none that we know."""
    if not (isinstance(named, str) and named.startswith(_PREFIX)):
        return  # another program wrote it, or an earlier version of this one
    theirs, ours = named.removeprefix(_PREFIX).split(), _marks(generator)
    if len(theirs) != len(ours) or not all(map(_is_close, theirs, ours)):
        warn_user(
            f"{path}: this adapter was trained for another generator than this model's: it fits, but what it makes of "
            "these weights nobody has seen. Load the model that it was trained for."
        )


def _marks(generator: OneDCGenerator) -> list[str]:
    whole = tuple(PARTS.values())  # may have been trained with the adapter
    state = sorted(base_state(generator).items())
    weights = (t for name, t in state if t.ndim > 1 and t.numel() <= _LARGEST and not name.startswith(whole))
    return [f"{float(tensor.float().abs().mean()):.6g}" for tensor in islice(weights, _TENSORS)]


def _is_close(first: str, second: str) -> bool:
    try:
        return math.isclose(float(first), float(second), rel_tol=_SAME)
    except ValueError:
        return False
