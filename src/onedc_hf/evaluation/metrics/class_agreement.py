"""Does a classifier still see the same thing? Top-1 agreement of EfficientNet-Lite0 between original and rebuilt.

A measure of semantic consistency: no labels are needed, the original's own answer is the reference. The shorter side is
brought to 224 pixels, and three square windows (both ends and the middle of the longer side) are classified; the value
is the share of windows with the same ImageNet class. Higher is better, 1 for equal pictures. Lite0 is reserved for
measuring: nothing here is trained with it.
"""

from functools import lru_cache

import numpy as np
from PIL import Image

from ._common import check_pair
from ._lite0 import lite0

SIDE = 224


def class_agreement_lite0(original: np.ndarray, rebuilt: np.ndarray) -> float:
    """Return the share of three windows that keep their class, of two `uint8` `[H, W, 3]` pictures: 0 to 1.

    Raises:
        `ModuleNotFoundError`: the network's packages are not installed (`pip install 'onedc-hf[eval]'`).
        `PictureError`: the pictures differ in size.
    """
    check_pair(original, rebuilt)
    wanted = _original_classes(original.shape, original.tobytes())
    return float(np.mean([a == b for a, b in zip(wanted, _classes(rebuilt), strict=True)]))


@lru_cache(maxsize=2)
def _original_classes(shape: tuple[int, ...], pixels: bytes) -> tuple[int, ...]:
    return _classes(np.frombuffer(pixels, np.uint8).reshape(shape))


def _classes(picture: np.ndarray) -> tuple[int, ...]:
    import torch

    from ...pictures import to_tensor

    height, width = picture.shape[:2]
    scale = SIDE / min(height, width)
    size = (max(SIDE, round(width * scale)), max(SIDE, round(height * scale)))
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    room = max(small.shape[:2]) - SIDE
    windows = []
    for start in (0, room // 2, room):
        across = small.shape[1] >= small.shape[0]
        windows.append(small[:SIDE, start : start + SIDE] if across else small[start : start + SIDE, :SIDE])
    with torch.inference_mode():
        scores = lite0("class_agreement_lite0").classify(torch.cat([to_tensor(w) for w in windows]))  # [3, 1000]
    return tuple(scores.argmax(dim=1).tolist())
