"""How good a model is on pictures held out from training: what decides whether new weights may ship.

    score = 1/2 (1 - MS-SSIM) + 1/2 Fréchet distance,    mean over three rates; lower is better

Fidelity and realism, since each alone can be gamed: blur is faithful, and invented texture is realistic. The Fréchet
distance compares the Gaussian statistics of feature maps of EfficientNet-Lite2 over all positions of all pictures,
divided by the variance that the originals have: 0 means the same statistics, 1 is as far as the originals are wide. (An
earlier score took the L1 distance of features in its place. It prefers blur: on this model it rose while an adversary
lowered the Fréchet distance and pictures became sharper to the eye; docs/training-log.md.)

Uses nothing that is reserved for measuring (Kodak, ST-LPIPS, EfficientNet-Lite0).

Shapes: P positions, C channels of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..evaluation.metrics import METRICS
from ..pictures import load_picture, to_tensor
from ..pipeline import OneDCPipeline
from .features import LiteFeatures

__all__ = ["SCORE_BPP", "FeatureStatistics", "held_out_score"]

SCORE_BPP = (0.02, 0.06, 0.15)


class FeatureStatistics:
    """Running mean and covariance of the vectors of a feature map."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: np.ndarray | float = 0.0
        self._products: np.ndarray | float = 0.0

    def add(self, features: Tensor) -> None:
        """Takes in a map `[1, C, h, w]`: h x w vectors."""
        vectors = features[0].flatten(1).T.double().numpy()  # [P, C]
        self._count += len(vectors)
        self._sum = self._sum + vectors.sum(axis=0)
        self._products = self._products + vectors.T @ vectors

    @property
    def mean(self) -> np.ndarray:
        """`[C]`."""
        return np.asarray(self._sum) / self._count

    @property
    def covariance(self) -> np.ndarray:
        """`[C, C]`."""
        return np.asarray(self._products) / self._count - np.outer(self.mean, self.mean)

    def distance_from(self, original: FeatureStatistics) -> float:
        """Fréchet distance of the two Gaussians over the variance of `original`."""
        ours, theirs = self.covariance, original.covariance
        values, vectors = np.linalg.eigh(theirs)
        root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
        mixed = np.sqrt(np.linalg.eigvalsh(root @ ours @ root).clip(0)).sum()
        total = np.square(self.mean - original.mean).sum() + np.trace(ours) + np.trace(theirs) - 2 * mixed
        return float(total / np.trace(theirs))


@torch.inference_mode()
def held_out_score(pipe: OneDCPipeline, pictures: Sequence[Path]) -> float:
    """The score of a model; see above.

    Args:
        pipe (`OneDCPipeline`): the model.
        pictures (`Sequence[Path]`): files that no training saw.
    """
    network, structure = LiteFeatures("lite2"), METRICS["ms_ssim"]
    levels = len(network.channels) - 1  # without the finest, which sees little more than edges
    originals = [FeatureStatistics() for _ in range(levels)]
    rebuilt = {bpp: [FeatureStatistics() for _ in range(levels)] for bpp in SCORE_BPP}
    dissimilarity = 0.0
    for path in pictures:
        picture = load_picture(path)
        for statistics, features in zip(originals, network(to_tensor(picture))[1:], strict=True):
            statistics.add(features)
        for bpp in SCORE_BPP:
            again = np.asarray(pipe.decompress(pipe.compress(picture, target_bpp=bpp)))
            dissimilarity += 1 - structure.compute(picture, again)
            for statistics, features in zip(rebuilt[bpp], network(to_tensor(again))[1:], strict=True):
                statistics.add(features)
    pairs = [pair for bpp in SCORE_BPP for pair in zip(rebuilt[bpp], originals, strict=True)]
    distance = float(np.mean([ours.distance_from(theirs) for ours, theirs in pairs]))
    return 0.5 * dissimilarity / (len(pictures) * len(SCORE_BPP)) + 0.5 * distance
