"""Frozen tokenizers: what the semantic tokens are taught to predict (paper, section 3.2).

A tokenizer looks at the original picture and names, for each block of 32x32 pixels, one of K codes. That is the grid
of the semantic map (1/64) doubled, which the code predictor stands on (code_predictor.py). Three kinds:

| kind                | where it comes from                                        | sees the picture          |
|---------------------|------------------------------------------------------------|---------------------------|
| `VQGANTokenizer`    | MaskGIT-VQGAN, the paper's; weights from a file            | halved                    |
| `VQModelTokenizer`  | any diffusers `VQModel`, from a folder or the Hub          | reduced to fit the grid   |
| `KMeansTokenizer`   | k-means of ImageNet features; one ships in the package     | as it was fitted          |

Shapes: B batch, S1 and S2 sides of a crop in pixels (multiples of 32), h = S1/32, w = S2/32, C channels of a code, K
codes, M channels of a feature map.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import ModelError
from .features import LiteFeatures
from .vqgan import MaskGITVQGAN, load_vqgan, nearest_code

__all__ = [
    "STRIDE",
    "KMeansTokenizer",
    "Tokenizer",
    "Tokens",
    "VQGANTokenizer",
    "VQModelTokenizer",
    "load_tokenizer",
]

STRIDE = 32  # pixels from one code to the next, in both directions
_KMEANS_FORMAT = "onedc-kmeans-1"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_WHERE = (
    "Give 'box' (the one of the package), a file of MaskGIT-VQGAN weights (safetensors, or a torch file of tensors: "
    "`encoder.*`, `quantize.embedding.weight`), a file that `python -m onedc_hf.training.fit_tokenizer` wrote, or the "
    "folder or Hub id of a diffusers `VQModel` ('org/name', 'org/name/subfolder', 'org/name/file.safetensors')."
)


class Tokens(NamedTuple):
    """What a tokenizer says of pictures.

    Attributes:
        indices (`torch.Tensor` of shape `[B, h, w]`): codes, int64.
        latent (`torch.Tensor` of shape `[B, C, h, w]`): the vectors that they stand for.
    """

    indices: Tensor
    latent: Tensor


class Tokenizer(Protocol):
    """A frozen tokenizer with one code for each block of 32x32 pixels."""

    @property
    def codebook(self) -> Tensor:
        """The codes' vectors, `[K, C]`."""
        ...

    def encode(self, pixels: Tensor) -> Tokens:
        """Codes of pictures `[B, 3, S1, S2]` in [-1, 1], sides multiples of 32; without gradient."""
        ...


def _check(pixels: Tensor) -> None:
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % STRIDE or pixels.shape[3] % STRIDE:
        raise ValueError(
            f"`pixels` must have the shape [B, 3, S1, S2] with sides that are multiples of {STRIDE}; got "
            f"{list(pixels.shape)}."
        )


class _Frozen(nn.Module):
    """A module that neither learns nor leaves evaluation mode."""

    def train(self, mode: bool = True) -> _Frozen:
        """Stays in evaluation mode."""
        return super().train(False)


class VQGANTokenizer(_Frozen):
    """The paper's tokenizer: MaskGIT-VQGAN on the halved picture (spec section 7).

    Args:
        network (`MaskGITVQGAN`): with its weights; it must reduce by 16.

    Raises:
        ModelError: if it reduces by another factor.
    """

    def __init__(self, network: MaskGITVQGAN):
        super().__init__()
        if network.factor != STRIDE // 2:
            raise ModelError(
                f"The VQGAN must reduce by {STRIDE // 2}, after the picture is halved; got {network.factor}."
            )
        self.network = network
        self.eval().requires_grad_(False)

    @property
    def codebook(self) -> Tensor:
        """The codes' vectors, `[K, C]`."""
        return self.network.codebook

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tokens:
        """Codes of pictures `[B, 3, S1, S2]` in [-1, 1], sides multiples of 32."""
        _check(pixels)
        # Without antialiasing, as in the paper's program: at exactly one half it is the mean of 2x2 pixels.
        half = F.interpolate(pixels, scale_factor=0.5, mode="bilinear", align_corners=False)
        return Tokens(*self.network(half * 0.5 + 0.5))


class VQModelTokenizer(_Frozen):
    """A diffusers `VQModel`, shown the picture at the size at which its grid is ours.

    Args:
        model (`diffusers.VQModel`): with its weights; it must reduce by 32 or less.

    Raises:
        ModelError: if it reduces by more: the picture would have to be enlarged.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.factor = 2 ** (len(model.config.block_out_channels) - 1)
        if self.factor > STRIDE:
            raise ModelError(
                f"This VQModel has one code for {self.factor}x{self.factor} pixels; distillation needs one for "
                f"{STRIDE}x{STRIDE} or less."
            )
        self.model = model
        self.eval().requires_grad_(False)

    @property
    def codebook(self) -> Tensor:
        """The codes' vectors, `[K, C]`."""
        return self.model.quantize.embedding.weight

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tokens:
        """Codes of pictures `[B, 3, S1, S2]` in [-1, 1], sides multiples of 32."""
        _check(pixels)
        height, width = (side // STRIDE for side in pixels.shape[2:])
        if self.factor != STRIDE:
            size = (height * self.factor, width * self.factor)
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        latent = self.model.encode(pixels).latents
        if latent.shape[2:] != (height, width):
            raise ModelError(
                f"This VQModel gave {latent.shape[2]}x{latent.shape[3]} codes where {height}x{width} were wanted: its "
                "layers do not reduce the picture as its config says."
            )
        latent, _, (_, _, indices) = self.model.quantize(latent)
        return Tokens(indices.reshape(len(pixels), height, width), latent)


class KMeansTokenizer(_Frozen):
    """Nearest of K centres, in a linear projection of one feature map of an ImageNet network (features.py).

    Args:
        network (`str`): `lite1` or `lite2`.
        level (`int`): which of its four maps (strides 4, 8, 16, 32), 0 to 3.
        scale (`float`): size of the picture as the network sees it, so that the map's stride is 32 in the original.
        mean (`torch.Tensor` of shape `[M]`): subtracted from the features.
        projection (`torch.Tensor` of shape `[M, C]`): applied then.
        codebook (`torch.Tensor` of shape `[K, C]`): the centres.

    Raises:
        ModelError: if level, scale and shapes contradict each other.
        ImportError: if the packages with the network are missing.
    """

    def __init__(self, network: str, level: int, scale: float, mean: Tensor, projection: Tensor, codebook: Tensor):
        super().__init__()
        self.network, self.level, self.scale = network, level, scale
        features = LiteFeatures(network)
        if level not in range(4) or 2 ** (level + 2) != STRIDE * scale:
            raise ModelError(f"Map {level} of a picture at scale {scale} has no stride of {STRIDE} pixels.")
        wanted = (features.channels[level], projection.shape[-1])
        if mean.shape != wanted[:1] or projection.shape != wanted or codebook.shape[1:] != wanted[1:]:
            raise ModelError(
                f"A codebook on map {level} of {network} has `mean` [{wanted[0]}], `projection` [{wanted[0]}, C] and "
                f"`codebook` [K, C]; got {list(mean.shape)}, {list(projection.shape)}, {list(codebook.shape)}."
            )
        features.taps = features.taps[: level + 1]  # what lies behind the map need not be computed
        self.features = features
        self.mean, self.projection, self._codebook = (
            nn.Buffer(tensor.float()) for tensor in (mean, projection, codebook)
        )
        self.eval().requires_grad_(False)

    @property
    def codebook(self) -> Tensor:
        """The codes' vectors, `[K, C]`."""
        return self._codebook

    @torch.no_grad()
    def project(self, pixels: Tensor) -> Tensor:
        """Projected features `[B, h, w, C]` of pictures `[B, 3, S1, S2]` in [-1, 1], before they are quantised."""
        _check(pixels)
        if self.scale != 1:
            size = [round(side * self.scale) for side in pixels.shape[2:]]
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        return (self.features(pixels)[self.level].permute(0, 2, 3, 1) - self.mean) @ self.projection

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tokens:
        """Codes of pictures `[B, 3, S1, S2]` in [-1, 1], sides multiples of 32."""
        indices = nearest_code(self.project(pixels), self.codebook)
        return Tokens(indices, F.embedding(indices, self.codebook).permute(0, 3, 1, 2))

    def save(self, path: str | Path, **notes: str) -> None:
        """Writes one safetensors file, in half precision; `notes` go into its metadata, to say how it was fitted."""
        tensors = {"mean": self.mean, "projection": self.projection, "codebook": self.codebook}
        said = {"network": self.network, "level": str(self.level), "scale": repr(self.scale)}
        metadata = notes | {"format": _KMEANS_FORMAT} | said
        save_file({name: tensor.half().contiguous().cpu() for name, tensor in tensors.items()}, path, metadata)

    @classmethod
    def load(cls, path: str | Path) -> KMeansTokenizer:
        """Reads what `save` wrote.

        Raises:
            ModelError: if the file is of another kind.
            ImportError: if the packages with the network are missing.
        """
        metadata = _metadata(Path(path))
        try:
            if metadata.get("format") != _KMEANS_FORMAT:
                raise KeyError("format")
            network, level, scale = metadata["network"], int(metadata["level"]), float(metadata["scale"])
            tensors = load_file(path)
            return cls(network, level, scale, **tensors)
        except (KeyError, TypeError) as error:
            raise ModelError(f"{path} is no file of `python -m onedc_hf.training.fit_tokenizer` ({error}).") from error


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(str(path), "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is no whole safetensors file ({error}).") from error


def load_tokenizer(name_or_path: str | Path, **settings: Any) -> Tokenizer:
    """Loads a tokenizer; what it is, the file or folder says.

    Args:
        name_or_path (`str` or `Path`): `box`, the k-means codes of the package; a file of MaskGIT-VQGAN weights or of
            k-means codes, or a folder with one; a folder of a diffusers `VQModel`; or on the Hub `org/name` or
            `org/name/subfolder` (a `VQModel`) or `org/name/path/to/file`.
        settings: of a MaskGIT-VQGAN of another size than the published one; see `MaskGITVQGAN`.

    Raises:
        ModelError: if nothing is found there, or it is no tokenizer.
        ImportError: if the packages of the extra `train` are missing.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name == "box":
        return KMeansTokenizer.load(Path(str(resources.files(__package__) / "data" / "box-tokenizer.safetensors")))
    if path.is_file():
        return _load_file(path, settings)
    if (path / "config.json").is_file():
        return _load_vq_model(str(path))
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _WEIGHTS)
        if len(files) != 1:
            raise ModelError(f"{path} holds {len(files)} files of weights; name the one that is the tokenizer.")
        return _load_file(files[0], settings)
    parts = name.split("/", 2)
    if path.is_absolute() or len(parts) < 2 or name.startswith((".", "~")):
        raise ModelError(f"No tokenizer {name!r}: there is no such file or folder. {_WHERE}")
    if path.suffix in _WEIGHTS:
        try:
            return _load_file(Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:]))), settings)
        except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
            raise ModelError(f"No tokenizer {name!r}, here or on the Hub: {error}. {_WHERE}") from error
    return _load_vq_model("/".join(parts[:2]), *parts[2:])


def _load_file(path: Path, settings: dict[str, Any]) -> Tokenizer:
    if path.suffix == ".safetensors" and "network" in _metadata(path):
        return KMeansTokenizer.load(path)
    return VQGANTokenizer(load_vqgan(path, **settings))


def _load_vq_model(source: str, subfolder: str | None = None) -> VQModelTokenizer:
    from diffusers import VQModel

    try:
        local = Path(source) / "config.json"
        config = local if local.is_file() else Path(hf_hub_download(source, "config.json", subfolder=subfolder))
        kind = json.loads(config.read_text(encoding="utf-8")).get("_class_name")
        if kind != "VQModel":
            raise ModelError(f"{source} is a {kind}, no VQModel. {_WHERE}")
        options: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
        model = VQModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **options)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(f"No VQModel could be loaded from {source!r}: {error}. {_WHERE}") from error
    return VQModelTokenizer(model)
