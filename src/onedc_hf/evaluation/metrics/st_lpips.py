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
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np

from ._common import check_pair, check_side, need, unit_tensor

SMALLEST_SIDE = 32  # below, the blur-pooled nets have less than a pixel left to reflect
# Features take about 1 kB a pixel, so larger pictures are measured in tiles; the result is the same, but for rounding.
TILE = 1024  # pixels a side; pictures up to its square are one tile
_STRIDES = {"vgg": (1, 2, 4, 8, 16), "alex": (2, 4, 8, 8, 8)}  # of the five feature maps
_HALO = 128  # pixels around what counts of a tile: VGG-16 with its blur pools sees 121 on either side

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
        if original.shape[0] * original.shape[1] <= TILE**2:
            ours = _original_features(net, original.shape, original.tobytes())
            return float(torch.stack([layer.mean() for layer in _layers(model, ours, _features(model, rebuilt))]).sum())
        return _in_tiles(net, original, rebuilt)


def _layers(model: Any, ours: list[Any], theirs: list[Any]) -> list[Any]:
    """The distance by place at each of the five layers, `[1, 1, h, w]`."""
    return [linear((a - b).square()) for linear, a, b in zip(model.lins, ours, theirs, strict=True)]


def _in_tiles(net: str, original: np.ndarray, rebuilt: np.ndarray, tile: int = TILE) -> float:
    """The same sum of means, tile by tile: each counts the places of its own part, and sees the halo around it."""
    model, height, width = _load(net), *original.shape[:2]
    sums, counts = [0.0] * len(model.lins), [0] * len(model.lins)
    for rows, columns in product(_parts(height, tile), _parts(width, tile)):
        top, left = max(0, rows.start - _HALO), max(0, columns.start - _HALO)
        seen = np.s_[top : rows.stop + _HALO, left : columns.stop + _HALO]
        layers = _layers(model, _features(model, original[seen]), _features(model, rebuilt[seen]))
        for number, (layer, stride) in enumerate(zip(layers, _STRIDES[net], strict=True)):
            # Maps have a place more than the picture has strides; it belongs to the last part.
            bottom = None if rows.stop == height else (rows.stop - top) // stride
            right = None if columns.stop == width else (columns.stop - left) // stride
            own = layer[..., (rows.start - top) // stride : bottom, (columns.start - left) // stride : right]
            sums[number] += float(own.double().sum())
            counts[number] += own.numel()
    return sum(total / count for total, count in zip(sums, counts, strict=True))


def _parts(side: int, tile: int) -> list[slice]:
    """What counts of each tile along a side; the last one may be narrower, but not so narrow that a net fails."""
    step = tile - 2 * _HALO
    starts = range(0, max(1, side - _HALO), step)
    return [slice(start, side if start == starts[-1] else start + step) for start in starts]


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
