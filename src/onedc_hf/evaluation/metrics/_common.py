"""What the metrics share: checking a pair of pictures, and saying which extra a missing library comes with."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ...errors import OneDCError, PictureError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def check_pair(original: np.ndarray, rebuilt: np.ndarray) -> None:
    """Refuse anything but two `uint8` `[H, W, 3]` arrays of equal size with a `PictureError`."""
    for name, picture in (("original", original), ("rebuilt", rebuilt)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise PictureError(
                f"{name}: expected uint8 [H, W, 3], got {picture.dtype} {list(picture.shape)}; use load_picture first"
            )
    if original.shape != rebuilt.shape:
        raise PictureError(
            f"the pictures differ in size: original {original.shape[1]}x{original.shape[0]}, "
            f"rebuilt {rebuilt.shape[1]}x{rebuilt.shape[0]}"
        )


def check_side(picture: np.ndarray, smallest: int, metric: str) -> None:
    """Refuse a picture with a side shorter than `smallest` pixels with a `PictureError`."""
    height, width = picture.shape[:2]
    if min(height, width) < smallest:
        raise PictureError(
            f"{metric} needs {smallest} pixels a side, the picture is {width}x{height}; use PSNR or enlarge both"
        )


def need(module: str, metric: str, extra: str = "eval") -> ModuleType:
    """Import an optional library, or say how to get it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or (not module.startswith(error.name) and error.name != "torchvision"):
            raise
        raise ModuleNotFoundError(
            f"the metric {metric} needs {error.name}, which is not installed: pip install 'onedc-hf[{extra}]'",
            name=error.name,
        ) from error


def fetched(load: Callable[[], T], metric: str) -> T:
    """Run what may download a network's weights; a `OneDCError` says which metric wanted them and what to do."""
    try:
        return load()
    except (OSError, RuntimeError) as error:  # no network, or a download that was cut short
        raise OneDCError(
            f"the metric {metric} fetches its network's weights at first use, and could not ({error}); run it once "
            "with a network connection, or choose metrics that need none"
        ) from error


def unit_tensor(picture: np.ndarray) -> "torch.Tensor":
    """Turn `uint8` `[H, W, 3]` into `float32` `[1, 3, H, W]` in [0, 1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].float().div_(255)
