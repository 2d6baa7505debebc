"""PSNR over the three sRGB channels together, in dB; higher is better."""

import math

import numpy as np

from ._common import check_pair


def psnr(original: np.ndarray, rebuilt: np.ndarray) -> float:
    """Return 10 log10(255^2 / MSE), the mean taken over all pixels and channels of `uint8` `[H, W, 3]` pictures.

    Infinite for equal pictures. Means over a set are means of dB, as is usual.

    Raises:
        `PictureError`: the two are not RGB pictures of equal size.
    """
    check_pair(original, rebuilt)
    difference = original.astype(np.float32) - rebuilt.astype(np.float32)
    mean_square = float(np.square(difference).mean(dtype=np.float64))
    return math.inf if mean_square == 0 else 10 * math.log10(255**2 / mean_square)
