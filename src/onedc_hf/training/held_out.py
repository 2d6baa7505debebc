"""How good a model is on pictures held out from training: what decides whether new weights may ship.

    score = 1/2 (1 - MS-SSIM) + 1/2 Fréchet distance,    mean over three rates; lower is better

Fidelity and realism, since each alone can be gamed: blur is faithful, and invented texture is realistic. The Fréchet
distance compares the Gaussian statistics of feature maps of EfficientNet-Lite2 over all positions of all pictures,
divided by the variance that the originals have: 0 means the same statistics, 1 is as far as the originals are wide. (An
earlier score took the L1 distance of features in its place. It prefers blur: on this model it rose while an adversary
lowered the Fréchet distance and pictures became sharper to the eye; docs/training-log.md.)

Neither of the two sees a faint screen door over everything, and an adversary likes to paint one: the grid check
(`evaluation.spectrum`) is read beside the score, and has a say of its own.

Uses nothing that is reserved for measuring (Kodak, ST-LPIPS, EfficientNet-Lite0).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..evaluation.frechet import FeatureStatistics
from ..evaluation.metrics import METRICS
from ..evaluation.spectrum import GridReport, grid_report, mean_report
from ..pictures import load_picture, to_tensor
from ..pipeline import OneDCPipeline
from .features import LiteFeatures

__all__ = ["GRID_LIMIT", "SCORE_BPP", "HeldOut", "held_out_score"]

SCORE_BPP = (0.02, 0.06, 0.15)
GRID_LIMIT = 1.2  # what a picture may have more than its original; means over a set are steady to a few percent


class HeldOut(NamedTuple):
    """What was found.

    Attributes:
        score (`float`): see above.
        grid (`float`): the grid check's largest mean over the pictures, at z-only and the rates of the score; 1 where
            no pattern was added.
    """

    score: float
    grid: float

    def refusal(self, in_place: HeldOut | None) -> str:
        """Why weights that measure so may not take the place of others (or of none); empty if they may."""
        if in_place is None:
            return ""
        if self.score > in_place.score:
            return f"The candidate scores {self.score:.5f}, worse than {in_place.score:.5f} of those in place."
        if self.grid > max(GRID_LIMIT, in_place.grid):
            return f"The candidate's pictures show a grid: {self.grid:.2f}, and {in_place.grid:.2f} of those in place."
        return ""


@torch.inference_mode()
def held_out_score(pipe: OneDCPipeline, pictures: Sequence[Path]) -> HeldOut:
    """Measures a model; see above.

    Args:
        pipe (`OneDCPipeline`): the model.
        pictures (`Sequence[Path]`): files that no training saw.
    """
    network, structure = LiteFeatures("lite2"), METRICS["ms_ssim"]
    levels = len(network.channels) - 1  # without the finest, which sees little more than edges
    originals = [FeatureStatistics() for _ in range(levels)]
    rebuilt = {bpp: [FeatureStatistics() for _ in range(levels)] for bpp in SCORE_BPP}
    grids: dict[float, list[GridReport]] = {bpp: [] for bpp in (0.0, *SCORE_BPP)}  # 0: z-only
    dissimilarity = 0.0
    for path in pictures:
        picture = load_picture(path)
        for statistics, features in zip(originals, network(to_tensor(picture))[1:], strict=True):
            statistics.add(features)
        for bpp in SCORE_BPP:
            again = np.asarray(pipe.decompress(pipe.compress(picture, target_bpp=bpp)))
            grids[bpp].append(grid_report(picture, again))
            dissimilarity += 1 - structure.compute(picture, again)
            for statistics, features in zip(rebuilt[bpp], network(to_tensor(again))[1:], strict=True):
                statistics.add(features)
        again = np.asarray(pipe.decompress(pipe.compress(picture, z_only=True)))
        grids[0.0].append(grid_report(picture, again))
    pairs = [pair for bpp in SCORE_BPP for pair in zip(rebuilt[bpp], originals, strict=True)]
    distance = float(np.mean([ours.distance_from(theirs) for ours, theirs in pairs]))
    return HeldOut(
        score=0.5 * dissimilarity / (len(pictures) * len(SCORE_BPP)) + 0.5 * distance,
        grid=max(mean_report(found).worst for found in grids.values()),
    )
