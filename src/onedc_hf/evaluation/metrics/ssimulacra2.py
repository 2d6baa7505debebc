"""SSIMULACRA 2 (Sneyers, 2022) by the package `ssimulacra2`; higher is better, 100 for equal pictures.

A hand-made measure without a network: multi-scale structure in a perceptual colour space, fitted to human opinions of
compressed photographs. Made for medium and high quality (90: no visible loss, 30: low quality); it goes far below zero
at the rates of this codec, where it mostly counts infidelity.
"""

import io

import numpy as np
from PIL import Image

from ._common import check_pair, check_side, need

SMALLEST_SIDE = 8


def ssimulacra2(original: np.ndarray, rebuilt: np.ndarray) -> float:
    """Return the SSIMULACRA 2 score of two `uint8` `[H, W, 3]` sRGB pictures: at most 100, without a lower bound.

    Raises:
        `ModuleNotFoundError`: ssimulacra2 is not installed (`pip install 'onedc-hf[eval]'`).
        `PictureError`: the pictures differ in size, or a side is shorter than 8 pixels.
    """
    check_pair(original, rebuilt)
    check_side(original, SMALLEST_SIDE, "SSIMULACRA 2")
    package = need("ssimulacra2", "ssimulacra2")
    return float(package.compute_ssimulacra2(_as_file(original), _as_file(rebuilt)))


def _as_file(picture: np.ndarray) -> io.BytesIO:
    """The package opens files, nothing else."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "BMP")
    file.seek(0)
    return file
