"""Full-reference metrics. Each has a file of its own and takes two `uint8` `[H, W, 3]` arrays: original, rebuilt.

To add one: write `metrics/<name>.py` with such a function and list it below. Libraries beyond NumPy are imported inside
the function, so that a metric whose library is missing costs nothing until it is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .ms_ssim import ms_ssim
from .psnr import psnr
from .st_lpips import st_lpips_alex, st_lpips_vgg

__all__ = ["METRICS", "Metric", "ms_ssim", "psnr", "st_lpips_alex", "st_lpips_vgg"]


@dataclass(frozen=True)
class Metric:
    """One metric and how to read it.

    Args:
        name (`str`): key in result files; names the net where there is one.
        title (`str`): heading of its column, without the arrow.
        higher_is_better (`bool`): direction.
        digits (`int`): decimals worth printing.
        compute (`Callable`): `(original, rebuilt) -> float`, both `uint8` `[H, W, 3]` of equal size.
    """

    name: str
    title: str
    higher_is_better: bool
    digits: int
    compute: Callable[[np.ndarray, np.ndarray], float]

    @property
    def heading(self) -> str:
        """Title with its direction, such as `PSNR ↑`."""
        return f"{self.title} {'↑' if self.higher_is_better else '↓'}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR (dB)", True, 2, psnr),
        Metric("ms_ssim", "MS-SSIM", True, 4, ms_ssim),
        Metric("st_lpips_vgg", "ST-LPIPS-VGG", False, 3, st_lpips_vgg),
        Metric("st_lpips_alex", "ST-LPIPS-Alex", False, 3, st_lpips_alex),
    )
}
