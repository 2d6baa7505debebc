"""The entropy model: everything that decides symbols, in one module.

Hyper-synthesis, the four-pass quadtree context model (paper, section 3.2), the scale table, the gain rows and the
static tables of the hyper-latent. A file depends on this module and on nothing else: its tensors are what the model id
is a digest of (see `digest`).

Shapes: B batch, N channels of the latent `y`, Y and X its rows and columns at 1/16 of the padded picture,
R quality rows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..coding.tables import GaussianTables, SymbolModel, paper_tables
from .blocks import DepthConvBlock, ResidualUpsample, keep_float32

__all__ = [
    "GAIN_STEP",
    "PASSES",
    "CodingPass",
    "EntropyBase",
    "EntropyModel",
    "HyperParameters",
    "fold",
    "pass_mask",
    "unfold",
    "unfold_into",
]

PASSES = 4
LOG_SCALE_MIN = -2.2072749131897207  # ln 0.11, the smallest scale of the table
GAIN_STEP = 0.02496532547666428  # (ln 64 - ln 0.11) / 255: one step of the scale table, and of the gains

# Which parity class each quarter of the channels codes in each pass: (row parity, column parity).
_A, _B, _C, _D = (0, 0), (0, 1), (1, 0), (1, 1)
_PATTERN = ((_A, _B, _C, _D), (_D, _C, _B, _A), (_C, _D, _A, _B), (_B, _A, _D, _C))


def pass_mask(index: int, like: Tensor) -> Tensor:
    """Mask of the positions that pass `index` codes, `[1, N, Y, X]`, in the dtype and on the device of `like`."""
    _, channels, rows, columns = like.shape
    mask = torch.zeros(1, channels, rows, columns, dtype=like.dtype, device=like.device)
    quarter = channels // 4
    for group, (row, column) in enumerate(_PATTERN[index]):
        mask[:, group * quarter : (group + 1) * quarter, row::2, column::2] = 1
    return mask


def fold(values: Tensor, index: int) -> Tensor:
    """Gathers the coded quarter of `[B, N, Y, X]` into `[B, N/4, Y, X]`; lossless, since the parities differ."""
    batch, channels, rows, columns = values.shape
    folded = values.new_empty(batch, channels // 4, rows, columns)
    quarter = channels // 4
    for group, (row, column) in enumerate(_PATTERN[index]):
        part = values[:, group * quarter : (group + 1) * quarter, row::2, column::2]
        folded[:, :, row::2, column::2] = part
    return folded


def unfold(folded: Tensor, index: int) -> Tensor:
    """Inverse of `fold`; zero where the pass codes nothing."""
    batch, quarter, rows, columns = folded.shape
    values = folded.new_zeros(batch, 4 * quarter, rows, columns)
    unfold_into(values, folded, index)
    return values


def unfold_into(values: Tensor, folded: Tensor, index: int) -> None:
    """Writes what pass `index` codes, `[B, N/4, Y, X]`, to its places in `[B, N, Y, X]`."""
    quarter = folded.shape[1]
    for group, (row, column) in enumerate(_PATTERN[index]):
        part = folded[:, :, row::2, column::2]
        values[:, group * quarter : (group + 1) * quarter, row::2, column::2] = part


@dataclass(frozen=True)
class HyperParameters:
    """What the hyper-latent says.

    Attributes:
        semantic_seed (`[B, N, Y/4, X/4]`): input of the semantic adaptor.
        params (`[B, 2N, Y, X]`): scales, then means, of pass 0.
        reduced (`[B, N, Y, X]`): context of passes 1 to 3.
    """

    semantic_seed: Tensor
    params: Tensor
    reduced: Tensor


@dataclass(frozen=True)
class CodingPass:
    """One of the four passes, as both directions see it.

    Attributes:
        index (`int`): 0 to 3.
        mask (`[1, N, Y, X]`): 1 where this pass codes.
        means, scales (`[B, N, Y, X]`): parameters at all positions, in the domain of `y` (without gain); scales are
            raw and may be negative, which means the smallest scale.
        gain (`[B or 1, N, 1, 1]`): multiplies residuals before rounding.
    """

    index: int
    mask: Tensor
    means: Tensor
    scales: Tensor
    gain: Tensor

    @property
    def deviations(self) -> Tensor:
        """Standard deviations of the symbols, not below the table's smallest: `[B, N, Y, X]`."""
        return (self.scales * self.gain).clamp_min(math.exp(LOG_SCALE_MIN))


class EntropyBase(nn.Module):
    """What the float and the exact entropy model share: tables, gain rows, identity.

    Args:
        y_channels (`int`): N, a multiple of 4.
        fsq_levels (`Sequence[int]`): levels of the hyper-latent's digits.
        quality_rows (`int`): R; 1 is the paper's one-rate model.
        skip_index (`int`): symbols of a smaller scale index are coded as one group (coding/entropy.py); 0: none.
    """

    version: int
    slopes: tuple[float, ...]
    gain_steps: Tensor
    cdf: Tensor
    cdf_length: Tensor
    cdf_offset: Tensor
    z_counts: Tensor

    def __init__(self, y_channels: int, fsq_levels: Sequence[int], quality_rows: int, skip_index: int):
        super().__init__()
        self.fsq_levels, self.skip_index = tuple(fsq_levels), skip_index
        tables = paper_tables()
        self.register_buffer("gain_steps", torch.zeros(quality_rows, y_channels, dtype=torch.int32))
        self.register_buffer("cdf", torch.from_numpy(tables.cdf.copy()).to(torch.int32))
        self.register_buffer("cdf_length", torch.from_numpy(tables.cdf_length.copy()).to(torch.int32))
        self.register_buffer("cdf_offset", torch.from_numpy(tables.offset.copy()).to(torch.int32))
        # Flat, because five dimensions would not survive `.to(memory_format=torch.channels_last)`.
        contexts, digits = (max(fsq_levels) + 1) ** 3, max(fsq_levels)
        self.register_buffer("z_counts", torch.zeros(len(fsq_levels), contexts * digits, dtype=torch.int32))

    @property
    def quality_rows(self) -> int:
        """R."""
        return int(self.gain_steps.shape[0])

    # Identity -----------------------------------------------------------------------------------------------------

    def digest(self) -> bytes:
        """SHA-256 over what decides symbols: sorted names, shapes and little-endian bytes, and the layout."""
        layout = {
            "fsq_levels": self.fsq_levels,
            "skip_index": self.skip_index,
            "passes": _PATTERN,
            "slopes": self.slopes,
        }
        sha = hashlib.sha256(json.dumps(layout, sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            array = tensor.detach().cpu().contiguous().numpy()
            # float64 runs of a float32 model keep its id
            kind = f"<i{array.dtype.itemsize}" if array.dtype.kind == "i" else "<f4"
            sha.update(f"{name}:{list(array.shape)}:{kind}\n".encode())
            sha.update(np.ascontiguousarray(array.astype(kind)).tobytes())
        return sha.digest()

    def symbol_model(self, digest: bytes) -> SymbolModel:
        """What the coder needs to know, as integers without torch."""
        tables = GaussianTables(
            cdf=self.cdf.cpu().numpy(), cdf_length=self.cdf_length.cpu().numpy(), offset=self.cdf_offset.cpu().numpy()
        )
        digits = max(self.fsq_levels)
        counts = self.z_counts.cpu().numpy().reshape(len(self.fsq_levels), *[digits + 1] * 3, digits)
        return SymbolModel(
            digest=digest,
            fsq_levels=self.fsq_levels,
            y_channels=self.gain_steps.shape[1],
            rows=self.quality_rows,
            tables=tables,
            hyper_tables=counts if counts.any() else None,
            skip_index=self.skip_index,
            version=self.version,
        )


class EntropyModel(EntropyBase):
    """Hyper-synthesis and four-pass context model.

    Runs in float32 (float64 if cast to it), whatever the rest of the model runs in: a last bit that differs between
    encoder and decoder destroys a file.

    Args:
        y_channels (`int`): N, a multiple of 4.
        fsq_levels (`Sequence[int]`): levels of the hyper-latent's digits.
        quality_rows (`int`): R; 1 is the paper's one-rate model.
        expansion (`int`): feed-forward width of the blocks.
        spatial_prior_layers (`int`): blocks shared by passes 1 to 3.
        slopes (`Sequence[float]`): negative slopes of the activations.
        skip_index (`int`): symbols of a smaller scale index are coded as one group (coding/entropy.py); 0: none.
    """

    version = 0

    def __init__(
        self,
        y_channels: int,
        fsq_levels: Sequence[int],
        quality_rows: int = 1,
        expansion: int = 4,
        spatial_prior_layers: int = 3,
        slopes: Sequence[float] = (0.01, 0.1),
        skip_index: int = 0,
    ):
        super().__init__(y_channels, fsq_levels, quality_rows, skip_index)
        n, options = y_channels, {"expansion": expansion, "slopes": slopes}
        self.slopes, self.expansion = tuple(slopes), expansion
        self.hyper_dec = nn.ModuleDict(
            {
                "feat_in": nn.Sequential(nn.Conv2d(len(fsq_levels), n, 1), nn.LeakyReLU(slopes[0])),
                "to_entropy": nn.Sequential(
                    DepthConvBlock(n, n, **options),
                    ResidualUpsample(n, n, slopes),
                    DepthConvBlock(n, n, **options),
                    ResidualUpsample(n, n, slopes),
                    DepthConvBlock(n, n, **options),
                ),
            }
        )
        self.y_prior_fusion = nn.Sequential(
            DepthConvBlock(n, 2 * n, **options), DepthConvBlock(2 * n, 2 * n, **options)
        )
        self.y_spatial_prior_reduction = nn.Conv2d(2 * n, n, 1)
        self.y_spatial_prior_adaptor_1 = DepthConvBlock(2 * n, 2 * n, **options)
        self.y_spatial_prior_adaptor_2 = DepthConvBlock(2 * n, 2 * n, **options)
        self.y_spatial_prior_adaptor_3 = DepthConvBlock(2 * n, 2 * n, **options)
        self.y_spatial_prior = nn.Sequential(
            *[DepthConvBlock(2 * n, 2 * n, **options) for _ in range(spatial_prior_layers)]
        )

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        return keep_float32(self, fn, recurse)

    @property
    def dtype(self) -> torch.dtype:
        """float32, or float64 after a cast to it."""
        return self.y_spatial_prior_reduction.weight.dtype

    # Networks -----------------------------------------------------------------------------------------------------

    def semantic_seed(self, codes: Tensor) -> Tensor:
        """FSQ codes `[B, K, Y/4, X/4]` in [-1, 1] to the semantic adaptor's input `[B, N, Y/4, X/4]`."""
        with torch.autocast(device_type=codes.device.type, enabled=False):
            return self.hyper_dec["feat_in"](codes.to(self.dtype))

    def hyper_synthesis(self, codes: Tensor) -> HyperParameters:
        """FSQ codes `[B, K, Y/4, X/4]` in [-1, 1] to the parameters they carry."""
        seed = self.semantic_seed(codes)
        with torch.autocast(device_type=codes.device.type, enabled=False):
            params = self.y_prior_fusion(self.hyper_dec["to_entropy"](seed))  # [B, 2N, Y, X]
            return HyperParameters(seed, params, self.y_spatial_prior_reduction(params))

    def pass_parameters(self, index: int, hyper: HyperParameters, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and means of one pass, `[B, N, Y, X]` each, from all that earlier passes gave."""
        if index == 0:
            params = hyper.params
        else:
            adaptor = getattr(self, f"y_spatial_prior_adaptor_{index}")
            with torch.autocast(device_type=y_hat.device.type, enabled=False):
                params = self.y_spatial_prior(adaptor(torch.cat([y_hat, hyper.reduced], dim=1)))
        scales, means = params.chunk(2, dim=1)
        return scales, means

    def run_passes(self, hyper: HyperParameters, gain: Tensor, code: Callable[[CodingPass], Tensor | None]) -> Tensor:
        """The four passes of both directions.

        Args:
            hyper (`HyperParameters`): from `hyper_synthesis`.
            gain (`torch.Tensor` of shape `[B or 1, N, 1, 1]`): from `gain`.
            code (`Callable`): gives the pass's symbols `[B, N, Y, X]` (values where the mask is 0 are ignored). An
                encoder chooses integers for `(y - means) * gain` (rounding.py) and writes; a decoder reads; `None`
                takes the means alone.

        Returns:
            `torch.Tensor` of shape `[B, N, Y, X]`: the rebuilt latent.
        """
        y_hat = torch.zeros_like(hyper.reduced)
        for index in range(PASSES):
            scales, means = self.pass_parameters(index, hyper, y_hat)
            mask = pass_mask(index, means)
            symbols = code(CodingPass(index, mask, means, scales, gain))
            values = means if symbols is None else symbols / gain + means
            y_hat = y_hat + values * mask
        return y_hat

    # Scales and gains ---------------------------------------------------------------------------------------------

    def gain(self, row: int) -> Tensor:
        """Gain of a quality row, `[1, N, 1, 1]`: exp(steps x GAIN_STEP); exactly 1 where the steps are 0."""
        steps = self.gain_steps[row].to(torch.float64)
        return torch.exp(steps * GAIN_STEP).to(self.dtype).view(1, -1, 1, 1)

    def scale_index(self, scales: Tensor, row: int) -> Tensor:
        """Index into the scale table, int32 in 0 to 255.

        It is that of the next *smaller* table scale (floor, not nearest), moved by the row's gain steps.
        """
        position = (scales.clamp_min(1e-5).log() - LOG_SCALE_MIN) / GAIN_STEP
        index = position.floor().to(torch.int32) + self.gain_steps[row].view(1, -1, 1, 1)
        return index.clamp(0, self.cdf.shape[0] - 1)
