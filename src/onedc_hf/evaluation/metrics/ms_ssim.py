"""MS-SSIM (Wang, Simoncelli, Bovik 2003) by pytorch-msssim; higher is better, 1 for equal pictures."""

import numpy as np

from ._common import check_pair, check_side, need, unit_tensor

SMALLEST_SIDE = 176  # four halvings must leave room for the window of 11 pixels: 176 / 16


def ms_ssim(original: np.ndarray, rebuilt: np.ndarray) -> float:
    """Return the MS-SSIM of two `uint8` `[H, W, 3]` pictures: a value up to 1.

    Five scales with the paper's weights, 11 x 11 Gaussian window of sigma 1.5, K = (0.01, 0.03), data range 1, mean
    over the three sRGB channels, only where the window lies in the picture. This is the paper's evaluator, too (spec,
    section 9). Torchmetrics counts a reflected border on the coarsest scale, where it is most of a small picture.

    Raises:
        `ModuleNotFoundError`: pytorch-msssim is not installed (`pip install 'onedc-hf[eval]'`).
        `PictureError`: the pictures differ in size, or a side is shorter than 176 pixels.
    """
    check_pair(original, rebuilt)
    check_side(original, SMALLEST_SIDE, "MS-SSIM")
    library = need("pytorch_msssim", "ms_ssim")
    return float(library.ms_ssim(unit_tensor(rebuilt), unit_tensor(original), data_range=1.0))
