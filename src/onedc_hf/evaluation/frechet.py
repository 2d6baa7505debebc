"""Fréchet distance of the Gaussian statistics of feature maps (Heusel et al., 2017), relative to the originals' width.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)),    divided by tr(C2)

Every position of every picture is a sample, so that a few dozen pictures are enough for a full covariance: 0 means the
same statistics, 1 is as far as the originals are wide.

Shapes: P positions, C channels of a feature map.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

__all__ = ["FeatureStatistics"]


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
