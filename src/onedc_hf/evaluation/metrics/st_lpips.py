"""Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022), nets VGG and Alex; lower is better, 0 for equal pictures.

Weights come with the package `stlpips-pytorch`, nothing is downloaded. Parts of that package carry a non-commercial
header: it is for measuring only, lives in the extra `eval`, and never serves as a loss.

The package imports three libraries that the shift-tolerant nets never call (torchvision, IPython, torchsummary). Where
they are missing, empty modules stand in while it is imported and are removed afterwards: left in `sys.modules`, an
empty torchvision breaks diffusers and transformers.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from ._common import check_pair, check_side, need, unit_tensor

SMALLEST_SIDE = 32  # below, the blur-pooled nets have less than a pixel left to reflect

# module -> the name that is imported from it
_STAND_INS = {"torchvision": "models", "IPython": "embed", "torchsummary": "summary"}


def st_lpips_vgg(original: np.ndarray, rebuilt: np.ndarray) -> float:
    """Return ST-LPIPS with the VGG-16 net of two `uint8` `[H, W, 3]` pictures: 0 for equal ones, up to about 1.

    Raises:
        `ModuleNotFoundError`: stlpips-pytorch is not installed (`pip install 'onedc-hf[eval]'`).
        `PictureError`: the pictures differ in size, or a side is shorter than 32 pixels.
    """
    return _distance("vgg", original, rebuilt)


def st_lpips_alex(original: np.ndarray, rebuilt: np.ndarray) -> float:
    """Return ST-LPIPS with the AlexNet net of two `uint8` `[H, W, 3]` pictures; otherwise as `st_lpips_vgg`."""
    return _distance("alex", original, rebuilt)


def _distance(net: str, original: np.ndarray, rebuilt: np.ndarray) -> float:
    import torch

    check_pair(original, rebuilt)
    check_side(original, SMALLEST_SIDE, "ST-LPIPS")
    model = _load(net)
    with torch.inference_mode():
        # The nets run for minutes over a set, and a codec is measured at many rates against one original: its features
        # are kept. Otherwise this is the package's own forward (a test compares the two).
        ours = _original_features(net, original.shape, original.tobytes())
        theirs = _features(model, rebuilt)
        layers = [linear((a - b).square()) for linear, a, b in zip(model.lins, ours, theirs, strict=True)]
        return float(torch.stack([layer.mean() for layer in layers]).sum())


def _features(model: Any, picture: np.ndarray) -> list[Any]:
    """Five feature maps `[1, C, h, w]`, scaled to unit length over the channels."""
    x = model.scaling_layer(unit_tensor(picture) * 2 - 1)
    return [f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in model.net.forward(x)]


@lru_cache(maxsize=2)
def _original_features(net: str, shape: tuple[int, ...], pixels: bytes) -> list[Any]:
    return _features(_load(net), np.frombuffer(pixels, np.uint8).reshape(shape))


@lru_cache(maxsize=2)
def _load(net: str) -> Any:
    with _stand_ins():
        package = need("stlpips_pytorch.stlpips", f"st_lpips_{net}")
    import torch

    model = package.LPIPS(net=net, variant="shift_tolerant", verbose=False).eval().requires_grad_(False)
    return model.to(memory_format=torch.channels_last)  # a quarter less time for VGG


@contextmanager
def _stand_ins() -> Iterator[None]:
    missing = [name for name in _STAND_INS if name not in sys.modules and find_spec(name) is None]
    for name in missing:
        module = ModuleType(name)
        setattr(module, _STAND_INS[name], None)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
