"""DISTS (Ding et al., 2020) by the authors' package `DISTS-pytorch`; lower is better, 0 for equal pictures.

Structure and texture similarity on VGG-16 features: tolerant of texture that is resampled rather than copied. VGG-16 is
fetched by torchvision at first use, so this lives in the extra `eval-full`.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from ._common import check_pair, check_side, fetched, need, unit_tensor

SMALLEST_SIDE = 32


def dists(original: np.ndarray, rebuilt: np.ndarray) -> float:
    """Return DISTS of two `uint8` `[H, W, 3]` pictures at full size: 0 for equal ones, up to about 1.

    Raises:
        `ModuleNotFoundError`: DISTS-pytorch or torchvision is not installed (`pip install 'onedc-hf[eval-full]'`).
        `PictureError`: the pictures differ in size, or a side is shorter than 32 pixels.
    """
    import torch

    check_pair(original, rebuilt)
    check_side(original, SMALLEST_SIDE, "DISTS")
    with torch.inference_mode():
        return float(_load()(unit_tensor(original), unit_tensor(rebuilt)))


@lru_cache(maxsize=1)
def _load() -> Any:
    package = need("DISTS_pytorch", "dists", extra="eval-full")
    # The package also looks for a file of its own in sys.prefix, where not every pip puts it: another OSError.
    return fetched(lambda: package.DISTS().eval(), "dists")
