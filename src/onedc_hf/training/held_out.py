"""How good a model is on pictures held out from training: what decides whether new weights may ship.

    score = 1/2 (1 - MS-SSIM) + 1/2 Fréchet distance,    mean over three rates; lower is better

Fidelity and realism, since each alone can be gamed: blur is faithful, and invented texture is realistic. The Fréchet
distance compares the Gaussian statistics of feature maps of EfficientNet-Lite2 over all positions of all pictures,
divided by the variance that the originals have: 0 means the same statistics, 1 is as far as the originals are wide. (An
earlier score took the L1 distance of features in its place. It prefers blur: on this model it rose while an adversary
lowered the Fréchet distance and pictures became sharper to the eye; docs/training-log.md.)

Neither of the two sees a faint screen door over everything, and an adversary likes to paint one; nor one pattern in all
cells of the hyper-latent. The checks of `evaluation.spectrum` are read beside the score, and have a say of their own.

Uses nothing that is reserved for measuring (Kodak, ST-LPIPS, EfficientNet-Lite0).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..errors import PictureError
from ..evaluation.frechet import FeatureStatistics
from ..evaluation.metrics import METRICS
from ..evaluation.spectrum import CELL, GridReport, grid_report, mean_report
from ..pictures import load_picture, to_tensor
from ..pipeline import OneDCPipeline
from .features import LiteFeatures

__all__ = ["GRID_LIMIT", "REPEATED_LIMIT", "SCORE_BPP", "HeldOut", "measure_held_out"]

SCORE_BPP = (0.02, 0.06, 0.15)
GRID_LIMIT = 1.2  # up to here nobody sees a pattern
REPEATED_LIMIT = 0.05  # mean share of detail that repeats from cell to cell


class HeldOut(NamedTuple):
    """What was found.

    Attributes:
        score (`float`): see above.
        grid (`dict[str, float]`): by setting (`z-only` and the rates of the score) the grid check's largest mean over
            the pictures; 1 where no pattern was added.
        repeated (`dict[str, float]`): by setting, the share of detail that repeats from cell to cell, beyond the
            originals'; 0 where no pattern was added.
    """

    score: float
    grid: dict[str, float]
    repeated: dict[str, float]

    def refusal(self, in_place: HeldOut | None) -> str:
        """Why weights that measure so may not take the place of others (or of none); empty if they may."""
        if in_place is None:
            return ""
        if self.score > in_place.score:
            return f"The candidate scores {self.score:.5f}, worse than {in_place.score:.5f} of those in place."
        for what, readings, theirs, limit in (
            ("The candidate's pictures show more of a grid", self.grid, in_place.grid, GRID_LIMIT),
            (
                "More of the candidate's detail repeats from cell to cell",
                self.repeated,
                in_place.repeated,
                REPEATED_LIMIT,
            ),
        ):
            for setting, found in readings.items():
                if found > max(limit, theirs[setting]):
                    return (
                        f"{what} at {setting}: {found:.3f}, and {theirs[setting]:.3f} of those in place (up to {limit} "
                        "passes). Train on with a larger `texture_weight`."
                    )
        return ""


@torch.inference_mode()
def measure_held_out(pipe: OneDCPipeline, pictures: Sequence[Path]) -> HeldOut:
    """Measures a model; see above.

    Args:
        pipe (`OneDCPipeline`): the model.
        pictures (`Sequence[Path]`): files that no training saw, of 128 pixels a side or more.

    Raises:
        PictureError: for a smaller one.
    """
    network, structure = LiteFeatures("lite2"), METRICS["ms_ssim"]
    levels = len(network.channels) - 1  # without the finest, which sees little more than edges
    originals = [FeatureStatistics() for _ in range(levels)]
    rebuilt = {bpp: [FeatureStatistics() for _ in range(levels)] for bpp in SCORE_BPP}
    grids: dict[str, list[GridReport]] = {setting: [] for setting in ("z-only", *map(str, SCORE_BPP))}
    dissimilarity = 0.0
    for path in pictures:
        picture = load_picture(path)
        if min(picture.shape[:2]) < 2 * CELL:
            raise PictureError(f"{path.name}: held-out pictures need {2 * CELL} pixels a side or more")
        for statistics, features in zip(originals, network(to_tensor(picture))[1:], strict=True):
            statistics.add(features)
        for bpp in SCORE_BPP:
            again = np.asarray(pipe.decompress(pipe.compress(picture, target_bpp=bpp)))
            grids[str(bpp)].append(grid_report(picture, again))
            dissimilarity += 1 - structure.compute(picture, again)
            for statistics, features in zip(rebuilt[bpp], network(to_tensor(again))[1:], strict=True):
                statistics.add(features)
        again = np.asarray(pipe.decompress(pipe.compress(picture, z_only=True)))
        grids["z-only"].append(grid_report(picture, again))
    pairs = [pair for bpp in SCORE_BPP for pair in zip(rebuilt[bpp], originals, strict=True)]
    distance = float(np.mean([ours.distance_from(theirs) for ours, theirs in pairs]))
    reports = {setting: mean_report(found) for setting, found in grids.items()}
    return HeldOut(
        score=0.5 * dissimilarity / (len(pictures) * len(SCORE_BPP)) + 0.5 * distance,
        grid={setting: report.worst for setting, report in reports.items()},
        repeated={setting: report.repeated or 0.0 for setting, report in reports.items()},
    )
