"""How good a model is on pictures held out from training: what decides whether new weights may ship.

    score = 1/2 (1 - MS-SSIM) + 1/2 Fréchet distance,    mean over three rates; lower is better

Fidelity and realism, since each alone can be gamed: blur is faithful, and invented texture is realistic. The Fréchet
distance compares the Gaussian statistics of feature maps of EfficientNet-Lite2 over all positions of all pictures,
divided by the variance that the originals have: 0 means the same statistics, 1 is as far as the originals are wide. (An
earlier score took the L1 distance of features in its place. It prefers blur: on this model it rose while an adversary
lowered the Fréchet distance and pictures became sharper to the eye; docs/training-log.md.)

Uses nothing that is reserved for measuring (Kodak, ST-LPIPS, EfficientNet-Lite0).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..evaluation.frechet import FeatureStatistics
from ..evaluation.metrics import METRICS
from ..pictures import load_picture, to_tensor
from ..pipeline import OneDCPipeline
from .features import LiteFeatures

__all__ = ["SCORE_BPP", "held_out_score"]

SCORE_BPP = (0.02, 0.06, 0.15)


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
