"""Full-reference metrics, one a file. Names state the net, `Metric.heading` the direction.

Most compare two pictures: a function of two `uint8` `[H, W, 3]` arrays, original and rebuilt, listed in `METRICS`. Some
compare two sets: a class that takes pairs in by `add` and gives the value by `compute`, listed in `SET_METRICS`.

To add one: write `metrics/<name>.py` and list it below. Libraries beyond NumPy are imported inside the function, so
that a metric whose library is missing costs nothing until it is asked for, and then says what to install.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .class_agreement import class_agreement_lite0
from .dists import dists
from .fid import Fid, Kid
from .frechet_lite0 import FrechetLite0
from .lpips import lpips_alex, lpips_vgg
from .ms_ssim import ms_ssim
from .psnr import psnr
from .ssimulacra2 import ssimulacra2
from .st_lpips import st_lpips_alex, st_lpips_vgg

__all__ = [
    "ALL_METRICS",
    "METRICS",
    "OFFLINE_METRICS",
    "SET_METRICS",
    "Metric",
    "SetMeter",
    "SetMetric",
    "class_agreement_lite0",
    "dists",
    "lpips_alex",
    "lpips_vgg",
    "ms_ssim",
    "psnr",
    "ssimulacra2",
    "st_lpips_alex",
    "st_lpips_vgg",
]


@dataclass(frozen=True)
class _Named:
    """What every metric has.

    Args:
        name (`str`): key in result files; names the net where there is one.
        title (`str`): heading of its column, without the arrow.
        higher_is_better (`bool`): direction.
        digits (`int`): decimals worth printing.
        offline (`bool`): works without a download, once its packages are installed.
    """

    name: str
    title: str
    higher_is_better: bool
    digits: int
    offline: bool

    @property
    def heading(self) -> str:
        """Title with its direction, such as `PSNR ↑`."""
        return f"{self.title} {'↑' if self.higher_is_better else '↓'}"


@dataclass(frozen=True)
class Metric(_Named):
    """A metric of one pair of pictures.

    Args:
        compute (`Callable`): `(original, rebuilt) -> float`, both `uint8` `[H, W, 3]` of equal size.
    """

    compute: Callable[[np.ndarray, np.ndarray], float]


class SetMeter(Protocol):
    """A metric of two sets, at work."""

    def add(self, original: np.ndarray, rebuilt: np.ndarray) -> None:
        """Take in a pair of `uint8` `[H, W, 3]` pictures."""

    def compute(self) -> float:
        """The value for all pairs taken in."""
        ...


@dataclass(frozen=True)
class SetMetric(_Named):
    """A metric of two sets of pictures.

    Args:
        make (`Callable`): gives an empty `SetMeter`.
    """

    make: Callable[[], SetMeter]


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR (dB)", True, 2, True, psnr),
        Metric("ms_ssim", "MS-SSIM", True, 4, True, ms_ssim),
        Metric("st_lpips_vgg", "ST-LPIPS-VGG", False, 3, True, st_lpips_vgg),
        Metric("st_lpips_alex", "ST-LPIPS-Alex", False, 3, True, st_lpips_alex),
        Metric("ssimulacra2", "SSIMULACRA 2", True, 1, True, ssimulacra2),
        Metric("class_agreement_lite0", "class agreement, Lite0", True, 3, True, class_agreement_lite0),
        Metric("lpips_alex", "LPIPS-Alex", False, 4, False, lpips_alex),
        Metric("lpips_vgg", "LPIPS-VGG", False, 4, False, lpips_vgg),
        Metric("dists", "DISTS-VGG", False, 4, False, dists),
    )
}

SET_METRICS = {
    metric.name: metric
    for metric in (
        SetMetric("frechet_lite0", "Fréchet, Lite0", False, 3, True, FrechetLite0),
        SetMetric("fid", "FID", False, 1, False, Fid),
        SetMetric("kid", "KID", False, 4, False, Kid),
    )
}

ALL_METRICS: Mapping[str, Metric | SetMetric] = {**METRICS, **SET_METRICS}
OFFLINE_METRICS = tuple(name for name, metric in ALL_METRICS.items() if metric.offline)
