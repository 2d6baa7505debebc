"""FID and KID over patches, by torchmetrics and torch-fidelity's Inception; lower is better.

The field's convention (HiFiC, MS-ILLM): pictures are cut into patches of 256x256 without overlap, and once more shifted
by half a patch, so that a small set gives enough samples. FID is biased for few samples: compare values of the same set
and protocol only. Inception's weights are fetched at first use, so this lives in the extra `eval-full`.
"""

import warnings
from typing import Any

import numpy as np

from ...errors import PictureError
from ._common import check_pair, check_side, fetched, need

PATCH = 256
KID_SUBSET = 1000


def patches(picture: np.ndarray) -> np.ndarray:
    """Cut `uint8` `[H, W, 3]` into `[N, 3, 256, 256]`: the grid from the corner, and the one from half a patch on."""
    height, width = picture.shape[:2]
    found = [
        picture[top : top + PATCH, left : left + PATCH].transpose(2, 0, 1)
        for start in (0, PATCH // 2)
        for top in range(start, height - PATCH + 1, PATCH)
        for left in range(start, width - PATCH + 1, PATCH)
    ]
    return np.stack(found) if found else np.zeros((0, 3, PATCH, PATCH), np.uint8)


class _PatchMetric:
    """The class `kind` of `torchmetrics.image.<name>` over patches."""

    name = kind = ""

    def __init__(self) -> None:
        module = need(f"torchmetrics.image.{self.name}", self.name, extra="eval-full")
        self._metric = _or_explain(lambda: getattr(module, self.kind)(feature=_inception()), self.name)
        self._patches = 0

    def add(self, original: np.ndarray, rebuilt: np.ndarray) -> None:
        """Take in a pair of `uint8` `[H, W, 3]` pictures.

        Raises:
            `PictureError`: the pictures differ in size, or hold no patch: without them it would be another set's value.
        """
        import torch

        check_pair(original, rebuilt)
        check_side(original, PATCH, self.name)
        for picture, real in ((original, True), (rebuilt, False)):
            cut = patches(picture)
            self._metric.update(torch.from_numpy(np.ascontiguousarray(cut)), real=real)
        self._patches += len(cut)

    def _need_patches(self) -> None:
        if self._patches < 2:
            raise PictureError(
                f"{self.name} needs at least two patches of {PATCH} pixels; these pictures are too small"
            )


class Fid(_PatchMetric):
    """Fréchet inception distance.

    Raises:
        `ModuleNotFoundError`: torch-fidelity is not installed (`pip install 'onedc-hf[eval-full]'`).
    """

    name, kind = "fid", "FrechetInceptionDistance"

    def compute(self) -> float:
        """The distance of what was taken in."""
        self._need_patches()
        return float(self._metric.compute())


class Kid(_PatchMetric):
    """Kernel inception distance (mean over random subsets of at most 1,000 patches).

    Raises:
        `ModuleNotFoundError`: torch-fidelity is not installed (`pip install 'onedc-hf[eval-full]'`).
    """

    name, kind = "kid", "KernelInceptionDistance"

    def compute(self) -> float:
        """The distance of what was taken in."""
        import torch

        self._need_patches()
        self._metric.subset_size = min(KID_SUBSET, self._patches)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the subsets are drawn: the same ones every time
            return float(self._metric.compute()[0])


def _inception() -> Any:
    """What torchmetrics takes as its network: 2048 means torch-fidelity's Inception. Tests put a small one here."""
    return 2048


def _or_explain(make: Any, metric: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that features are kept, which is what KID is made of
            return fetched(make, metric)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the metric {metric} needs torch-fidelity, which is not installed: pip install 'onedc-hf[eval-full]'",
            name="torch_fidelity",
        ) from error
