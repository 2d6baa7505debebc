"""The MaskGIT-VQGAN's encoder and codebook (Chang et al., 2022): the tokenizer of the paper's semantic distillation.

Its decoder is not needed to make targets, so it is not here, and `decoder.*` in a file of weights is passed over.

Shapes: B batch, S1 and S2 sides of a picture, h = S1/16 and w = S2/16 positions, C channels of a code, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import ModelError
from ..models.blocks import ResnetBlock

__all__ = ["MaskGITVQGAN", "load_vqgan", "nearest_code", "read_state"]

_SHOWN = 4  # names in a message


def nearest_code(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the entry of a codebook `[K, C]` that lies nearest to each vector, the first of equals.

    Args:
        vectors (`torch.Tensor` of shape `[..., C]`): what is quantised.
        codebook (`torch.Tensor` of shape `[K, C]`): the entries.

    Returns:
        `torch.Tensor`: of shape `[...]`, int64.
    """
    squares = vectors.square().sum(-1, keepdim=True) + codebook.square().sum(-1)
    return (squares - 2 * vectors @ codebook.T).argmin(-1)


class _Level(nn.Module):
    """The resnet blocks of one resolution."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int):
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        self.block = nn.Sequential(*(ResnetBlock(widths[i], widths[i + 1], groups) for i in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class _Encoder(nn.Module):
    def __init__(self, width: int, multipliers: Sequence[int], layers: int, latent_channels: int, groups: int):
        super().__init__()
        widths = [width, *(width * multiplier for multiplier in multipliers)]
        self.conv_in = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.down = nn.ModuleList(_Level(widths[i], widths[i + 1], layers, groups) for i in range(len(multipliers)))
        self.mid = nn.Sequential(*(ResnetBlock(widths[-1], widths[-1], groups) for _ in range(2)))
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], latent_channels, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        hidden = self.conv_in(pictures)
        for i, level in enumerate(self.down):
            hidden = level(hidden if i == 0 else F.avg_pool2d(hidden, 2))
        return self.conv_out(F.silu(self.norm_out(self.mid(hidden))))


class _Quantizer(nn.Module):
    def __init__(self, codes: int, channels: int):
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)


class MaskGITVQGAN(nn.Module):
    """Pictures to codes, as the published weights do it (spec section 7). The defaults are the published size.

    Args:
        width (`int`): channels at the first level.
        multipliers (`Sequence[int]`): of the width, one a level; each level but the first has half the resolution.
        layers (`int`): resnet blocks a level.
        latent_channels (`int`): C.
        codes (`int`): K.
        groups (`int`): of every GroupNorm.
    """

    def __init__(
        self,
        width: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        layers: int = 2,
        latent_channels: int = 256,
        codes: int = 1024,
        groups: int = 32,
    ):
        super().__init__()
        self.factor = 2 ** (len(multipliers) - 1)
        self.encoder = _Encoder(width, multipliers, layers, latent_channels, groups)
        self.quantize = _Quantizer(codes, latent_channels)

    @property
    def codebook(self) -> Tensor:
        """The codes, `[K, C]`."""
        return self.quantize.embedding.weight

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Quantises pictures.

        Args:
            pictures (`torch.Tensor` of shape `[B, 3, S1, S2]`): in [0, 1], sides multiples of 16 (`factor`).

        Returns:
            `tuple`: indices `[B, h, w]`, and the codes that they stand for, `[B, C, h, w]`.
        """
        latent = self.encoder(pictures).permute(0, 2, 3, 1)  # [B, h, w, C]
        indices = nearest_code(latent, self.codebook)
        return indices, F.embedding(indices, self.codebook).permute(0, 3, 1, 2)


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name, of a safetensors file or of one that torch wrote (read without running anything in it).

    Raises:
        ModelError: if there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ModelError(f"{path} is no file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(
            f"{path} could not be read as weights ({type(error).__name__}). It must be a whole safetensors file, or a "
            "torch file with nothing but tensors in it."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ModelError(f"{path} holds no plain mapping of names to tensors.")
    return state


def load_vqgan(path: str | Path, **settings: int | Sequence[int]) -> MaskGITVQGAN:
    """Reads weights of a MaskGIT-VQGAN; everything but its decoder must be there and fit.

    Args:
        path (`str` or `Path`): a safetensors file, or a torch file of tensors.
        settings: sizes, where they are not the published ones; see `MaskGITVQGAN`.

    Raises:
        ModelError: if the file cannot be read, or is of something else.
    """
    state = {name: tensor for name, tensor in read_state(Path(path)).items() if not name.startswith("decoder.")}
    model = MaskGITVQGAN(**settings)  # type: ignore[arg-type]
    own = model.state_dict()
    strange = sorted(state.keys() ^ own.keys()) or [name for name in own if own[name].shape != state[name].shape]
    if strange:
        raise ModelError(
            f"{path} is no MaskGIT-VQGAN of this size: {len(strange)} names are missing, unknown or of another shape "
            f"({', '.join(strange[:_SHOWN])}{', ...' if len(strange) > _SHOWN else ''})."
        )
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)
