"""Perceptual features with weights that ship in a package: EfficientNet-Lite1 and -Lite2 (Apache-2.0).

EfficientNet-Lite0 is reserved for measuring and cannot be named here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..efficientnet import LiteNetwork

__all__ = ["LiteFeatures", "jitter"]

_NETWORKS = ("lite1", "lite2")


def jitter(pictures: list[Tensor], generator: torch.Generator | None = None) -> list[Tensor]:
    """The same random rescale (0.75 to 1.25), shift (0 to 7 pixels), flip and transposition for every picture.

    A feature network has preferred positions and sizes; without this a model paints its 8-pixel grid over everything.

    Args:
        pictures (`list[torch.Tensor]`): each `[B, 3, S, S]`.
        generator (`torch.Generator`, *optional*): source of the random draws.
    """

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    side = pictures[0].shape[-1]
    scaled = max(32, round(side * draw(0.75, 1.25)))
    top, left = (int(draw(0, 8)) for _ in range(2))
    flip, transpose = draw(0, 1) < 0.5, draw(0, 1) < 0.5
    result = []
    for picture in pictures:
        picture = F.interpolate(picture, size=(scaled, scaled), mode="bilinear", antialias=True, align_corners=False)
        picture = picture[..., top:, left:]
        picture = picture.flip(-1) if flip else picture
        result.append(picture.transpose(-1, -2) if transpose else picture)
    return result


class LiteFeatures(LiteNetwork):
    """A network that training may use.

    Args:
        name (`str`): `lite1` or `lite2`.

    Raises:
        ImportError: if the packages of the extra `train` are missing.
        ValueError: for any other network.
    """

    def __init__(self, name: str = "lite1"):
        if name not in _NETWORKS:
            raise ValueError(f"Unknown feature network {name!r}; choose from {', '.join(_NETWORKS)}.")
        try:
            super().__init__(name)
        except ImportError as error:
            raise ImportError("Perceptual losses need `pip install onedc-hf[train]`.") from error
