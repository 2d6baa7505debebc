"""Fréchet distance of feature statistics against known cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onedc_hf.evaluation.frechet import FeatureStatistics


def _statistics(vectors: np.ndarray) -> FeatureStatistics:
    found = FeatureStatistics()
    for part in np.split(vectors, 4):
        found.add(torch.from_numpy(part.T.copy()).view(1, vectors.shape[1], 5, -1))
    return found


def test_statistics_are_mean_and_covariance() -> None:
    vectors = np.random.default_rng(0).standard_normal((400, 3)) @ np.array([[1, 0.5, 0], [0, 2, 0], [0, 0, 1]])
    found = _statistics(vectors)
    assert np.allclose(found.mean, vectors.mean(axis=0))
    assert np.allclose(found.covariance, np.cov(vectors.T, bias=True))


def test_the_distance_of_known_gaussians() -> None:
    vectors = np.random.default_rng(1).standard_normal((400, 4))
    original = _statistics(vectors)
    variance = np.trace(original.covariance)
    assert original.distance_from(original) == pytest.approx(0, abs=1e-9)
    assert _statistics(vectors + 3).distance_from(original) == pytest.approx(4 * 9 / variance)
    assert _statistics(vectors * 0.5).distance_from(_statistics(vectors)) == pytest.approx(
        0.25 + (0.25 * original.mean @ original.mean) / variance
    )
