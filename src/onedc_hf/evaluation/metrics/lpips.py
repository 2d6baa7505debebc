"""LPIPS (Zhang et al., 2018), nets Alex and VGG, by the authors' package `lpips`; lower is better, 0 means equal.

The figure that papers print. The backbones' ImageNet weights are fetched from the net by torchvision at first use, so
this lives in the extra `eval-full`; `st_lpips.py` works offline. LPIPS-VGG is another number than LPIPS-Alex.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from ._common import check_pair, check_side, fetched, need, unit_tensor

SMALLEST_SIDE = 32


def lpips_alex(original: np.ndarray, rebuilt: np.ndarray) -> float:
    """Return LPIPS with AlexNet (version 0.1) of two `uint8` `[H, W, 3]` pictures: 0 for equal ones, up to about 1.

    Raises:
        `ModuleNotFoundError`: lpips or torchvision is not installed (`pip install 'onedc-hf[eval-full]'`).
        `PictureError`: the pictures differ in size, or a side is shorter than 32 pixels.
    """
    return _distance("alex", original, rebuilt)


def lpips_vgg(original: np.ndarray, rebuilt: np.ndarray) -> float:
    """Return LPIPS with VGG-16 (version 0.1); otherwise as `lpips_alex`."""
    return _distance("vgg", original, rebuilt)


def _distance(net: str, original: np.ndarray, rebuilt: np.ndarray) -> float:
    import torch

    check_pair(original, rebuilt)
    check_side(original, SMALLEST_SIDE, "LPIPS")
    with torch.inference_mode():
        return float(_load(net)(unit_tensor(original) * 2 - 1, unit_tensor(rebuilt) * 2 - 1))


@lru_cache(maxsize=2)
def _load(net: str) -> Any:
    package = need("lpips", f"lpips_{net}", extra="eval-full")
    return fetched(lambda: package.LPIPS(net=net, verbose=False).eval(), f"lpips_{net}")
