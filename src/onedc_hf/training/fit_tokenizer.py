"""Fits a `KMeansTokenizer` to pictures: `python -m onedc_hf.training.fit_tokenizer --train_data_dir ... --output FILE`.

Feature maps of random crops, each channel divided by its deviation, turned to principal components (of equal variance
with `--whiten`), and Lloyd's algorithm from k-means++ seeds. A few minutes on one core.

Shapes: N vectors, M channels of the feature map, C principal components, K clusters.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .config import TrainConfig
from .config_files import package_file
from .crops import Share, crop_batches
from .features import LiteFeatures
from .tokenizers import STRIDE, KMeansTokenizer
from .vqgan import nearest_code

__all__ = ["fit_kmeans", "fit_projection", "main"]

_SEEDS = 20  # vectors for each cluster among which k-means++ chooses
_CHUNK = 8192  # vectors whose distances are computed at once


def fit_projection(features: Tensor, components: int, whiten: bool) -> tuple[Tensor, Tensor]:
    """Mean `[M]`, and the projection `[M, C]` from centred features to principal components.

    Channels are divided by their deviation first: a few loud ones would otherwise decide every code.

    Args:
        features (`torch.Tensor` of shape `[N, M]`): a sample.
        components (`int`): C, those of largest variance are kept.
        whiten (`bool`): give each the variance 1, so that all count alike; otherwise they keep theirs.

    Raises:
        ValueError: if more components are wanted than there are channels.
    """
    if not 1 <= components <= features.shape[1]:
        raise ValueError(f"`components` must be 1 to {features.shape[1]}, the map's channels; got {components}.")
    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
    normed = (features - mean) / deviation
    variances, directions = torch.linalg.eigh(normed.T @ normed / len(normed))  # ascending
    kept = directions[:, -components:].flip(-1)  # [M, C]
    if whiten:
        kept = kept / variances[-components:].flip(-1).clamp_min(1e-6).sqrt()
    return mean, kept / deviation[:, None]


def fit_kmeans(vectors: Tensor, clusters: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Centres `[K, C]` of vectors `[N, C]`; a centre that loses its last vector starts again at a random one.

    Raises:
        ValueError: if there are fewer vectors than clusters.
    """
    if len(vectors) < clusters:
        raise ValueError(f"{clusters} clusters need at least as many vectors; the crops gave {len(vectors)}.")
    sample = vectors[torch.randperm(len(vectors), generator=generator)[: _SEEDS * clusters]]
    centres = _seeds(sample, clusters, generator)
    for _ in range(iterations):
        sums, counts = torch.zeros_like(centres), vectors.new_zeros(clusters)
        for part in vectors.split(_CHUNK):
            nearest = nearest_code(part, centres)
            sums.index_add_(0, nearest, part)
            counts += torch.bincount(nearest, minlength=clusters)
        empty = counts == 0
        centres = sums / counts.clamp_min(1)[:, None]
        if empty.any():
            again = torch.randint(len(vectors), (int(empty.sum()),), generator=generator)
            centres[empty] = vectors[again]
    return centres


def _seeds(sample: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii, 2007): each next seed is drawn by its squared distance from those before."""
    chosen = [int(torch.randint(len(sample), (), generator=generator))]
    distance = torch.full((len(sample),), math.inf)
    for _ in range(clusters - 1):
        distance = torch.minimum(distance, (sample - sample[chosen[-1]]).square().sum(1))
        # Where fewer different vectors than clusters exist, nothing is left to draw by.
        weights = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return sample[chosen]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    # The defaults were chosen by measurement for the box model (docs/training-log.md, "Tokenizer"): codes that another
    # network's features agree with, and that stay when the crop moves. More clusters explain hardly more and change
    # more often.
    parser = argparse.ArgumentParser(prog="python -m onedc_hf.training.fit_tokenizer", description=__doc__)
    parser.add_argument("--train_data_dir", required=True, help="folder of pictures")
    parser.add_argument("--output", required=True, type=Path, help="safetensors file to write")
    parser.add_argument("--clusters", type=int, default=256)
    parser.add_argument("--network", default="lite1", choices=("lite1", "lite2"))
    parser.add_argument("--level", type=int, default=3, choices=range(4), help="map of stride 4, 8, 16, 32")
    parser.add_argument("--components", type=int, default=64, help="principal components that are kept")
    parser.add_argument("--whiten", action="store_true", help="principal components of equal variance")
    parser.add_argument("--crops", type=int, default=2000)
    parser.add_argument("--resolution", type=int, default=256, help="side of a crop")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--exclude", nargs="*", default=[], help="files of picture names, as in training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_threads", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> KMeansTokenizer:
    """Fits, writes and returns a tokenizer; says what it is worth on crops that it did not see.

    Raises:
        ValueError: for a count that cannot be met.
    """
    asked = _arguments(argv)
    if asked.num_threads:
        torch.set_num_threads(asked.num_threads)
    batch = 16
    config = TrainConfig(
        train_data_dir=asked.train_data_dir,
        exclude=[str(package_file(name) or name) for name in asked.exclude],
        resolution=asked.resolution,
        train_batch_size=batch,
        seed=asked.seed,
    )
    scale = 2 ** (asked.level + 2) / STRIDE
    channels = LiteFeatures(asked.network).channels[asked.level]
    identity = torch.eye(channels)
    # Projecting by the identity, the tokenizer itself reads the features: nothing can differ between fit and use.
    reader = KMeansTokenizer(asked.network, asked.level, scale, torch.zeros(channels), identity, identity)
    generator = torch.Generator().manual_seed(asked.seed)
    crops = iter(crop_batches(config, Share(batch)))
    found = [reader.project(next(crops)).flatten(0, 2) for _ in range(math.ceil(asked.crops / batch))]
    unseen = torch.cat(found[-max(1, len(found) // 20) :])
    features = torch.cat(found[: len(found) - max(1, len(found) // 20)] or found)
    mean, projection = fit_projection(features, asked.components, asked.whiten)
    centres = fit_kmeans((features - mean) @ projection, asked.clusters, asked.iterations, generator)
    tokenizer = KMeansTokenizer(asked.network, asked.level, scale, mean, projection, centres)
    vectors = (unseen - mean) @ projection
    nearest = nearest_code(vectors, centres)
    left = float((vectors - centres[nearest]).square().sum() / (vectors - vectors.mean(0)).square().sum())
    share = torch.bincount(nearest, minlength=asked.clusters).float() / len(nearest)
    perplexity = float(torch.special.entr(share).sum().exp())
    print(f"{len(features)} vectors; on {len(unseen)} others: {1 - left:.3f} of variance, perplexity {perplexity:.0f}")
    tokenizer.save(
        asked.output,
        clusters=str(asked.clusters),
        components=str(asked.components),
        whiten=str(asked.whiten).lower(),
        fitted_on=f"{len(features)} vectors of {asked.crops} crops of {asked.resolution} pixels, seed {asked.seed}, "
        f"{asked.iterations} iterations of k-means",
    )
    return tokenizer


if __name__ == "__main__":
    main()
