"""Perceptual losses by name, each a function of (rebuilt, original) as `BalancedLosses` takes them (losses.py).

| name             | what                                        | weights                                             |
|------------------|---------------------------------------------|-----------------------------------------------------|
| `lite1`, `lite2` | feature distance on EfficientNet-Lite       | in the packages of the extra `train`; Apache-2.0    |
| `lpips`          | LPIPS-VGG (Zhang et al., 2018), the paper's | VGG-16 from a file or the Hub, heads from a package |
| `dists`          | DISTS (Ding et al., 2020)                   | VGG-16 as above, alpha and beta from a file         |

ST-LPIPS is none of them: it measures what this package publishes, and a model that trained on it would be measured
wrongly; it also rewards fine stripes over everything.

Shapes: B batch, S side of a crop, C channels and h x w positions of a feature map. Pictures are `[B, 3, S, S]` in
[-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn

from ..errors import ModelError
from .adversary import Adversary
from .features import LiteFeatures
from .losses import PerceptualLosses
from .vqgan import read_state

__all__ = ["DISTS", "LPIPS", "VGGFeatures", "make_perceptual"]

_LITE = ("lite1", "lite2")
_VGG_REPOSITORY = "timm/vgg16.tv_in1k"
_VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_VGG_REST = ("classifier.", "head.", "pre_logits.")  # of torchvision's and timm's files: not needed
# Packages that ship the heads of LPIPS; found without being imported (`lpips` would import torchvision).
_HEADS = (("lpips", "weights/v0.1/vgg.pth"), ("torchmetrics", "functional/image/lpips_models/vgg.pth"))
_DISTS = ("DISTS_pytorch", "weights.pt")
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, on the [0, 1] scale


class _Files(Protocol):
    """Where weights are; `TrainConfig` is one. Empty: where the table above says."""

    @property
    def vgg_weights(self) -> str: ...
    @property
    def lpips_heads(self) -> str: ...
    @property
    def dists_weights(self) -> str: ...


class _Hanning(nn.Module):
    """Halves a map by the root of the locally averaged squares (DISTS, equation 4), without aliasing."""

    def forward(self, x: Tensor) -> Tensor:
        taps = x.new_tensor([0.25, 0.5, 0.25])  # a Hanning window without its zeros
        kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 3, 3)
        return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


_POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "average": lambda: nn.AvgPool2d(2),
    "hanning": _Hanning,
}


class VGGFeatures(nn.Module):
    """Frozen VGG-16 (Simonyan and Zisserman, 2014): maps after the last ReLU of each stage, at strides 1 to 16.

    Args:
        state (`dict[str, torch.Tensor]`): weights under torchvision's and timm's names, `features.0.weight`, ...
        pooling (`"average"` or `"hanning"`): between stages, in place of the maximum that the network learned with.
        stages (`Sequence[Sequence[int]]`, *optional*): widths of the convolutions of each stage; VGG-16's by default.

    Raises:
        ModelError: if the weights are not those of such a network.
    """

    def __init__(
        self,
        state: dict[str, Tensor],
        pooling: Literal["average", "hanning"],
        stages: Sequence[Sequence[int]] = _VGG_STAGES,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        channels, self.taps = 3, []
        for stage in stages:
            if layers:
                layers.append(_POOLINGS[pooling]())
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self.taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)  # numbered as in torchvision
        own = self.state_dict()
        kept = {name: tensor for name, tensor in state.items() if not name.startswith(_VGG_REST)}
        strange = sorted(kept.keys() ^ own.keys()) or [name for name in own if own[name].shape != kept[name].shape]
        if strange:
            raise ModelError(
                f"These are no weights of VGG-16 as torchvision and timm name them: {strange[0]!r} is missing, unknown "
                f"or of another shape. {_vgg_help()}"
            )
        self.load_state_dict(kept)
        self.mean, self.deviation = (
            nn.Buffer(torch.tensor(x).view(3, 1, 1), persistent=False) for x in (_MEAN, _DEVIATION)
        )
        self.channels = [stage[-1] for stage in stages]
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> VGGFeatures:
        """Stays in evaluation mode: the network is frozen."""
        return super().train(False)

    def forward(self, unit: Tensor) -> list[Tensor]:
        """Pictures `[B, 3, S, S]`, nominally in [0, 1], to one map `[B, C, h, w]` a stage."""
        hidden = (unit - self.mean) / self.deviation
        maps = []
        for i, layer in enumerate(self.features):
            hidden = layer(hidden)
            if i in self.taps:
                maps.append(hidden)
        return maps


class LPIPS(nn.Module):
    """LPIPS-VGG as the paper trains with it: average pooling, pictures on the [0, 1] scale (spec section 7).

    That differs a little from the package `lpips`, whose figures papers print (evaluation/metrics/lpips.py): maximum
    pooling there.

    Args:
        features (`VGGFeatures`): with average pooling.
        heads (`Sequence[torch.Tensor]`): a non-negative weight for each channel, `[C]`, of each map.

    Raises:
        ModelError: if heads and maps do not belong together.
    """

    def __init__(self, features: VGGFeatures, heads: Sequence[Tensor]):
        super().__init__()
        sizes = [head.numel() for head in heads]
        if sizes != features.channels:
            raise ModelError(f"LPIPS needs heads of {features.channels} weights; got {sizes}. {_heads_help()}")
        self.features = features
        self.heads = nn.ParameterList(nn.Parameter(head.float().reshape(-1), requires_grad=False) for head in heads)

    def forward(self, rebuilt: Tensor, original: Tensor) -> dict[str, Tensor]:
        """`lpips`, the mean over the batch; 0 for equal pictures. Not clamped, so that overshoot is corrected."""
        with torch.no_grad():
            wanted = self.features(original * 0.5 + 0.5)
        total = rebuilt.new_zeros(())
        for head, found, target in zip(self.heads, self.features(rebuilt * 0.5 + 0.5), wanted, strict=True):
            difference = (_unit_length(found) - _unit_length(target)).square()
            total = total + (difference * head.view(-1, 1, 1)).sum(1).mean()
        return {"lpips": total}


def _unit_length(features: Tensor) -> Tensor:
    # `vector_norm` has the gradient 0 at 0, where the root of a sum of squares has none.
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)


class DISTS(nn.Module):
    """Structure and texture similarity (Ding et al., 2020): means and correlations of whole feature maps.

    Tolerant of texture that is made anew rather than copied. The picture itself counts as the first map.

    Args:
        features (`VGGFeatures`): with Hanning pooling.
        alpha (`torch.Tensor`): weights of the maps' means, 3 + sum of C of them.
        beta (`torch.Tensor`): weights of their correlations, as many.

    Raises:
        ModelError: if weights and maps do not belong together.
    """

    _STABLE = 1e-6  # c1 and c2 of equations 5 and 6

    def __init__(self, features: VGGFeatures, alpha: Tensor, beta: Tensor):
        super().__init__()
        self.widths = [3, *features.channels]
        if alpha.numel() != sum(self.widths) or beta.numel() != sum(self.widths):
            raise ModelError(
                f"DISTS needs {sum(self.widths)} weights `alpha` and as many `beta`; got {alpha.numel()} and "
                f"{beta.numel()}. {_dists_help()}"
            )
        self.features = features
        total = (alpha.sum() + beta.sum()).float()
        self.alpha, self.beta = (
            nn.Parameter(weights.float().reshape(-1) / total, requires_grad=False) for weights in (alpha, beta)
        )

    def forward(self, rebuilt: Tensor, original: Tensor) -> dict[str, Tensor]:
        """`dists`, the mean over the batch; 0 for equal pictures."""
        unit = original * 0.5 + 0.5
        with torch.no_grad():
            wanted = [unit, *self.features(unit)]
        unit = rebuilt * 0.5 + 0.5
        similarity = rebuilt.new_zeros(len(rebuilt))
        parts = zip(
            [unit, *self.features(unit)],
            wanted,
            self.alpha.split(self.widths),
            self.beta.split(self.widths),
            strict=True,
        )
        for found, target, alpha, beta in parts:
            x, y = found.flatten(2), target.flatten(2)  # [B, C, h*w]
            mean_x, mean_y = x.mean(2), y.mean(2)
            variance_x, variance_y = x.var(2, correction=0), y.var(2, correction=0)
            covariance = (x * y).mean(2) - mean_x * mean_y
            texture = (2 * mean_x * mean_y + self._STABLE) / (mean_x.square() + mean_y.square() + self._STABLE)
            structure = (2 * covariance + self._STABLE) / (variance_x + variance_y + self._STABLE)
            similarity = similarity + (alpha * texture + beta * structure).sum(1)
        return {"dists": (1 - similarity).mean()}


def make_perceptual(
    name: str, files: _Files | None = None, adversary: Adversary | None = None
) -> PerceptualLosses | LPIPS | DISTS:
    """Makes a perceptual loss, frozen, on the CPU; `.to(device)` moves it.

    Args:
        name (`str`): `lite1`, `lite2`, `lpips` or `dists`.
        files (`TrainConfig`, *optional*): says by `vgg_weights`, `lpips_heads` and `dists_weights` where weights are
            that no package ships.
        adversary (`Adversary`, *optional*): discriminators on the maps of `lite1` or `lite2`; the losses then have a
            method `learn`.

    Returns:
        A function of `(rebuilt, original)`, both `[B, 3, S, S]` in [-1, 1], to losses by name: `features` and perhaps
        `adversary`, `lpips`, or `dists`. Gradients reach `rebuilt` and nothing else.

    Raises:
        ValueError: for another name, or an adversary on maps that it cannot use.
        ModelError: if weights are missing or of another network; the message says where to get them.
        ImportError: if the packages of the extra `train` are missing.
    """
    plain = name.lower().replace("-", "").replace("_", "")
    if plain.startswith("stlpips"):
        raise ValueError(
            "ST-LPIPS is not a loss here: it is reserved for measuring, and as a loss it paints a faint screen door "
            "over the whole picture while its own figure improves. Use 'lite1', 'lite2', 'lpips' or 'dists'."
        )
    if name in _LITE:
        return PerceptualLosses(LiteFeatures(name), adversary)
    if name not in ("lpips", "dists"):
        reserved = " EfficientNet-Lite0 is reserved for measuring." if name == "lite0" else ""
        raise ValueError(f"Unknown perceptual loss {name!r}; choose from lite1, lite2, lpips, dists.{reserved}")
    if adversary is not None:
        raise ValueError(f"An adversary works on the maps of lite1 or lite2, not on those of {name}.")
    vgg = "" if files is None else files.vgg_weights
    if name == "lpips":
        heads = _lpips_heads("" if files is None else files.lpips_heads)
        return LPIPS(VGGFeatures(_vgg_state(vgg), "average"), heads)
    weights = _dists_weights("" if files is None else files.dists_weights)
    return DISTS(VGGFeatures(_vgg_state(vgg), "hanning"), weights["alpha"], weights["beta"])


def _vgg_state(source: str) -> dict[str, Tensor]:
    """VGG-16's weights from a file, or from `model.safetensors` of a Hub repository."""
    if source and (Path(source).is_file() or Path(source).suffix in (".safetensors", ".pth", ".pt", ".bin")):
        if not Path(source).is_file():
            raise ModelError(f"`vgg_weights`: there is no file {source!r}. {_vgg_help()}")
        return read_state(Path(source))
    try:
        return read_state(Path(hf_hub_download(source or _VGG_REPOSITORY, "model.safetensors")))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"The weights of VGG-16 could not be fetched from {source or _VGG_REPOSITORY!r} on the Hub. {_vgg_help()}"
        ) from error


def _lpips_heads(source: str) -> list[Tensor]:
    """The five linear heads, from a file or from a package that ships them."""
    paths = [Path(source)] if source else [path for place in _HEADS if (path := _in_package(*place)) is not None]
    if not paths or not paths[0].is_file():
        what = f"`lpips_heads`: there is no file {source!r}" if source else "The heads of LPIPS-VGG were not found"
        raise ModelError(f"{what}. {_heads_help()}")
    state = read_state(paths[0])
    heads = [state.get(f"lin{i}.model.1.weight") for i in range(len(_VGG_STAGES))]
    if any(head is None for head in heads):
        raise ModelError(f"{paths[0]} holds no `lin0.model.1.weight` to `lin4.model.1.weight`. {_heads_help()}")
    return [head for head in heads if head is not None]


def _dists_weights(source: str) -> dict[str, Tensor]:
    path = Path(source) if source else _in_package(*_DISTS)
    if path is None or not path.is_file():
        what = f"`dists_weights`: there is no file {source!r}" if source else "The weights of DISTS were not found"
        raise ModelError(f"{what}. {_dists_help()}")
    state = read_state(path)
    if not {"alpha", "beta"} <= state.keys():
        raise ModelError(f"{path} holds no `alpha` and `beta`. {_dists_help()}")
    return state


def _in_package(package: str, file: str) -> Path | None:
    """A data file of an installed package, found without importing it."""
    spec = find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((Path(folder) / file for folder in folders if (Path(folder) / file).is_file()), None)


def _vgg_help() -> str:
    return (
        f"Download `model.safetensors` of {_VGG_REPOSITORY!r} (BSD-3-Clause) and give its path as --vgg_weights; "
        "torchvision's `vgg16-397923af.pth` is the same."
    )


def _heads_help() -> str:
    return (
        "`pip install torchmetrics` (or `lpips`, which need not be importable) brings them; or give the path of the "
        "LPIPS authors' `weights/v0.1/vgg.pth` as --lpips_heads."
    )


def _dists_help() -> str:
    return (
        "Give the path of the DISTS authors' `weights.pt` (tensors `alpha` and `beta`) as --dists_weights, or "
        "`pip install DISTS-pytorch`, which brings it."
    )
