"""The entropy model in integers: the networks of context.py, with one result on every device.

    hyper_synthesis(codes) -> ExactHyper                     seed, parameters of pass 0, context of the others
    code(hyper, gain, code_unit) -> y_hat                    the four passes, coding unit by coding unit

Made from a float `EntropyModel` by quantize.py. Weights are integer buffers, which casts to half precision leave alone.
Activations have zero point 0 and a power of two for a scale, given as *fractional bits*: v stands for v / 2^bits.

The networks only look a few positions around, so a picture is coded in strips with a halo and gives the same integers
as in one piece: memory for activations does not grow with the picture's height.

Shapes: as in context.py, y_rows = rows of a strip at 1/16; inside, activations are channels last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..coding.order import UNIT_POSITIONS, Y_PER_Z, unit_row_slices
from .context import GAIN_STEP, LOG_SCALE_MIN, PASSES, EntropyBase, fold, unfold_into
from .integer import ACTIVATION_LIMIT, IntegerConv, choose_kernel, dyadic_slope, leaky, pixel_shuffle, rescale
from .rounding import round_for_rate

__all__ = ["CodingUnit", "ExactEntropyModel", "ExactGain", "ExactHyper"]

_HYPER_HALO = 3  # z rows; the hyper path's 3x3 layers reach 1 + 2/2 + 4/4 of them
_STRIP_POSITIONS = 512  # of z, that the hyper path of a large picture works on at a time, beside the halo
_Y_HAT_LIMIT = 1 << 30


class ExactGain(NamedTuple):
    """Gain of a quality row as both sides need it, `[B or 1, N, 1, 1]` each.

    Attributes:
        factor: float64, multiplies residuals before rounding. It only chooses symbols, so it need not be exact.
        inverse: float64 integers; a symbol times it, over 2^`gain_bits`, is the symbol's share of the rebuilt latent.
        steps: int32, what the gain adds to a scale index.
    """

    factor: Tensor
    inverse: Tensor
    steps: Tensor


@dataclass(frozen=True)
class ExactHyper:
    """What the hyper-latent says.

    Attributes:
        semantic_seed (`[B, N, Y/4, X/4]`): input of the semantic adaptor, real numbers.
        scales, means (`[B, N/4, Y, X]` float32): integers, parameters of pass 0, folded.
        reduced (`[B, N, Y, X]` int16): context of passes 1 to 3.
    """

    semantic_seed: Tensor
    scales: Tensor
    means: Tensor
    reduced: Tensor


@dataclass(frozen=True)
class CodingUnit:
    """A strip of one pass, as both directions see it; folded to a quarter of the channels.

    Attributes:
        index (`int`): the pass, 0 to 3.
        rows (`slice`): rows of `y`, a multiple of 4 of them.
        means (`[B, N/4, y_rows, X]` float64): exact, in the domain of `y`.
        scale_index (`[B, N/4, y_rows, X]` int32): into the scale table, gain included.
        factor (`[B, N/4, y_rows, X]` float64): gain that multiplies residuals before rounding.
    """

    index: int
    rows: slice
    means: Tensor
    scale_index: Tensor
    factor: Tensor

    @property
    def scales(self) -> Tensor:
        """Standard deviations of the symbols, `[B, N/4, y_rows, X]` float64, to within what floats can say."""
        return torch.exp(LOG_SCALE_MIN + self.scale_index.double() * GAIN_STEP)

    def quantise(self, y: Tensor, rate_weight: Tensor | float = 0.0) -> Tensor:
        """Symbols of `y`, whole numbers that are not clamped.

        Args:
            y (`torch.Tensor` of shape `[B, N, Y, X]`): of the whole picture.
            rate_weight (`torch.Tensor` of shape `[B, 1, 1, 1]`, or `float`): what a bit is worth (rounding.py); 0
                rounds, halves to even.

        Returns:
            `torch.Tensor` of shape `[B, N/4, y_rows, X]`, float64.
        """
        residual = (fold(y[:, :, self.rows], self.index).double() - self.means) * self.factor
        return round_for_rate(residual, self.scales, rate_weight)


class _Block(nn.Module):
    """`DepthConvBlock` in integers. All residual sums of the block have the fractional bits of its output."""

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, slopes: Sequence[float], wide: bool = False
    ):
        super().__init__()
        inner = expansion * out_channels
        self.slope, self.first_slope = slopes
        self.conv1 = IntegerConv(in_channels, in_channels)
        self.depth_conv = IntegerConv(in_channels, in_channels, 3, depthwise=True)
        self.conv2 = IntegerConv(in_channels, out_channels)
        self.adaptor = IntegerConv(in_channels, out_channels) if in_channels != out_channels else None
        self.expand = IntegerConv(out_channels, inner)
        self.project = IntegerConv(inner // 2, out_channels, wide=wide)
        # Bits by which the skip of each half is scaled up to its sum.
        self.register_buffer("skip_bits", torch.zeros(2, dtype=torch.int32))

    def forward(self, x: Tensor, kernel: str) -> Tensor:
        """`[B, H, W, C]` to the new width."""
        first, second = self.skip_bits.tolist()
        h = self.depth_conv(leaky(self.conv1(x, kernel), self.slope))
        skip = rescale(x, first) if self.adaptor is None else self.adaptor(x, kernel)
        x = (self.conv2(h, kernel) + skip).clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)
        low, high = self.expand(x, kernel).chunk(2, dim=-1)
        h = leaky(low, self.first_slope) + leaky(high, self.slope)
        h = self.project(h.clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT), kernel)
        return (h + rescale(x, second, self.project.limit)).clamp_(-self.project.limit, self.project.limit)


class _Upsample(nn.Module):
    """`ResidualUpsample` in integers."""

    def __init__(self, in_channels: int, out_channels: int, slopes: Sequence[float]):
        super().__init__()
        self.slope, self.second_slope = slopes
        self.subpel_conv = IntegerConv(in_channels, 4 * out_channels)
        self.conv = IntegerConv(out_channels, out_channels, 3)
        self.upsample = IntegerConv(in_channels, 4 * out_channels)

    def forward(self, x: Tensor, kernel: str) -> Tensor:
        """`[B, H, W, C]` to `[B, 2H, 2W, C]`."""
        h = leaky(pixel_shuffle(self.subpel_conv(x, kernel)), self.slope)
        h = leaky(self.conv(h, kernel), self.second_slope) + pixel_shuffle(self.upsample(x, kernel))
        return h.clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


class ExactEntropyModel(EntropyBase):
    """Hyper-synthesis and four-pass context model in integer arithmetic; arguments as for `EntropyModel`."""

    version = 1

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
        n, slopes = y_channels, tuple(dyadic_slope(slope) for slope in slopes)
        self.slopes, self.expansion = slopes, expansion

        def block(in_channels: int, out_channels: int, wide: bool = False) -> _Block:
            return _Block(in_channels, out_channels, expansion, slopes, wide)

        self.feat_in = IntegerConv(len(fsq_levels), n)
        self.to_entropy = nn.ModuleList(
            [block(n, n), _Upsample(n, n, slopes), block(n, n), _Upsample(n, n, slopes), block(n, n)]
        )
        self.prior_fusion = nn.ModuleList([block(n, 2 * n), block(2 * n, 2 * n, wide=True)])
        self.reduction = IntegerConv(2 * n, n)
        self.adaptors = nn.ModuleList([block(2 * n, 2 * n) for _ in range(PASSES - 1)])
        self.spatial_prior = nn.ModuleList(
            [block(2 * n, 2 * n, wide=i == spatial_prior_layers - 1) for i in range(spatial_prior_layers)]
        )
        # Fractional bits of: the semantic seed, the parameters (and y_hat), their narrow copy, the context.
        self.register_buffer("bits", torch.zeros(4, dtype=torch.int32))
        self.register_buffer("thresholds", torch.zeros(255, dtype=torch.int32))  # of scales, for the indexes from 1 on
        self.register_buffer("gain_inverse", torch.zeros(quality_rows, n, dtype=torch.int32))
        self.register_buffer("gain_bits", torch.zeros(1, dtype=torch.int32))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of means and of the rebuilt latent: float64 holds their integers."""
        return torch.float64

    @property
    def device(self) -> torch.device:
        """Where the integers are."""
        return self.gain_steps.device

    def check_bounds(self) -> None:
        """Proves every layer exact, at load; see `IntegerConv.check_bounds`."""
        for module in self.modules():
            if isinstance(module, IntegerConv):
                module.check_bounds()

    # Networks -----------------------------------------------------------------------------------------------------

    def hyper_synthesis(self, codes: Tensor) -> ExactHyper:
        """FSQ codes `[B, K, Y/4, X/4]` in [-1, 1] to what they say."""
        halves = torch.tensor([level // 2 for level in self.fsq_levels], dtype=torch.float32, device=codes.device)
        digits = (codes.float() * halves.view(1, -1, 1, 1)).round()  # the codes' integers, for four levels -2 to 1
        seed_bits, wide_bits, narrow_bits, _ = self.bits.tolist()
        kernel = choose_kernel(codes.device)
        batch, _, z_rows, z_columns = codes.shape
        n = self.gain_steps.shape[1]
        shape = (batch, n, z_rows * Y_PER_Z, z_columns * Y_PER_Z)
        # With its dtype: torch's default one is the whole program's, and loading another model changes it for a while.
        scales = torch.empty(batch, n // 4, *shape[2:], dtype=torch.float32, device=codes.device)
        means, reduced = torch.empty_like(scales), torch.empty(shape, dtype=torch.int16, device=codes.device)
        with torch.autocast(device_type=codes.device.type, enabled=False):
            seed = leaky(self.feat_in(digits.permute(0, 2, 3, 1), kernel), self.slopes[0])
            for rows, strip, inside in _strips(z_rows, z_columns, _HYPER_HALO):
                h = seed[:, strip]
                for layer in (*self.to_entropy, *self.prior_fusion):
                    h = layer(h, kernel)
                h = h[:, inside]
                context = self.reduction(rescale(h, narrow_bits - wide_bits), kernel)
                reduced[:, :, rows] = context.permute(0, 3, 1, 2).to(torch.int16)
                scales[:, :, rows], means[:, :, rows] = (
                    fold(part, 0) for part in h.permute(0, 3, 1, 2).chunk(2, dim=1)
                )
        real = (seed * math.ldexp(1.0, -seed_bits)).permute(0, 3, 1, 2)
        return ExactHyper(real, scales, means, reduced)

    def _pass_parameters(self, index: int, rows: slice, hyper: ExactHyper, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and means of a unit of a pass, folded integers of `bits[1]` fractional bits, as `y_hat` has."""
        if index == 0:
            return hyper.scales[:, :, rows], hyper.means[:, :, rows]
        z_rows, z_columns = (side // Y_PER_Z for side in y_hat.shape[2:])
        height = rows.stop - rows.start
        if z_rows * z_columns > UNIT_POSITIONS:
            height = Y_PER_Z * max(1, _STRIP_POSITIONS // z_columns)
        starts = range(rows.start, rows.stop, height)
        parts = [self._strip_parameters(index, slice(s, min(s + height, rows.stop)), hyper, y_hat) for s in starts]
        scales, means = (torch.cat(part, dim=2) for part in zip(*parts, strict=True))
        return scales, means

    def _strip_parameters(self, index: int, rows: slice, hyper: ExactHyper, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        _, wide_bits, _, context_bits = self.bits.tolist()
        kernel = choose_kernel(y_hat.device)
        halo = 1 + len(self.spatial_prior)
        top, bottom = max(0, rows.start - halo), min(y_hat.shape[2], rows.stop + halo)
        known = rescale(y_hat[:, :, top:bottom].double(), context_bits - wide_bits).float()
        with torch.autocast(device_type=y_hat.device.type, enabled=False):
            h = torch.cat([known, hyper.reduced[:, :, top:bottom].float()], dim=1).permute(0, 2, 3, 1)
            for layer in (self.adaptors[index - 1], *self.spatial_prior):
                h = layer(h, kernel)
        h = h[:, rows.start - top : rows.stop - top].permute(0, 3, 1, 2)
        scales, means = (fold(part, index) for part in h.chunk(2, dim=1))
        return scales, means

    def code(self, hyper: ExactHyper, gain: ExactGain, code_unit: Callable[[CodingUnit], Tensor | None]) -> Tensor:
        """The four passes of both directions, unit by unit in the order of the file.

        Args:
            hyper (`ExactHyper`): from `hyper_synthesis`.
            gain (`ExactGain`): from `gain`.
            code_unit (`Callable`): gives the unit's symbols `[B, N/4, y_rows, X]`. An encoder quantises and writes, a
                decoder reads; `None` takes the means alone.

        Returns:
            `torch.Tensor` of shape `[B, N, Y, X]`: the rebuilt latent, float32.
        """
        wide_bits, share = int(self.bits[1]), math.ldexp(1.0, -int(self.gain_bits))
        y_hat = torch.zeros_like(hyper.reduced, dtype=torch.int32)  # integers of `wide_bits` fractional bits
        units = list(unit_row_slices(y_hat.shape[2] // Y_PER_Z, y_hat.shape[3] // Y_PER_Z))
        coded = torch.empty_like(hyper.scales, dtype=torch.int32)  # a pass of them
        for index in range(PASSES):
            for rows in units:
                scales, means = self._pass_parameters(index, rows, hyper, y_hat)
                factor, inverse, steps = (fold(g.expand(-1, -1, *scales.shape[2:]), index) for g in gain)
                real = means.double() * math.ldexp(1.0, -wide_bits)
                symbols = code_unit(CodingUnit(index, rows, real, self.scale_index(scales, steps), factor))
                values = means.double()  # which may be `means` itself
                if symbols is not None:
                    values = values + (symbols.double() * inverse * share + 0.5).floor_()
                coded[:, :, rows] = values.clamp(-_Y_HAT_LIMIT, _Y_HAT_LIMIT)
            unfold_into(y_hat, coded, index)  # after the pass: its own values are no context, wherever a unit ends
        result = y_hat.view(torch.float32)  # in place: of a large picture, a second copy would be much of the memory
        for rows in units:
            result[:, :, rows] = y_hat[:, :, rows].float() * math.ldexp(1.0, -wide_bits)
        return result

    # Scales and gains ---------------------------------------------------------------------------------------------

    def gain(self, row: int | Tensor) -> ExactGain:
        """Gain of a quality row, or of one row for each item of a batch (int64 `[B]`)."""
        rows = torch.as_tensor(row, device=self.gain_steps.device).reshape(-1)
        inverse, steps = (table[rows][:, :, None, None] for table in (self.gain_inverse.double(), self.gain_steps))
        return ExactGain(math.ldexp(1.0, int(self.gain_bits) + int(self.bits[1])) / inverse, inverse, steps)

    def scale_index(self, scales: Tensor, steps: Tensor) -> Tensor:
        """Index into the scale table, int32 in 0 to 255: how many thresholds a scale reaches, moved by the gain."""
        index = torch.bucketize(scales.contiguous(), self.thresholds.float(), right=True, out_int32=True)
        return (index + steps).clamp_(0, self.cdf.shape[0] - 1)


def _strips(z_rows: int, z_columns: int, halo: int) -> Iterator[tuple[slice, slice, slice]]:
    """Strips of a picture: rows of `y`, the rows of `z` with halo, and where in their result the former lie.

    Where they end changes nothing but memory, so they need not be coding units: a large picture has lower ones.
    """
    step = z_rows if z_rows * z_columns <= UNIT_POSITIONS else max(1, _STRIP_POSITIONS // z_columns)
    for start in range(0, z_rows, step):
        stop = min(start + step, z_rows)
        top, bottom = max(0, start - halo), min(z_rows, stop + halo)
        rows = slice(start * Y_PER_Z, stop * Y_PER_Z)
        yield rows, slice(top, bottom), slice((start - top) * Y_PER_Z, (stop - top) * Y_PER_Z)
