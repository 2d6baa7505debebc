"""Layers whose result is one and the same integer on every device: the arithmetic of the exact entropy path.

Activations are integers held in float32 (at most 16 bits, or 24 where a layer's output is *wide*), weights are int16
buffers. A layer computes

    accumulator = sum of weight x activation                     exact, in any order
    output      = floor((accumulator + bias) x multiplier / 2^shift + 1/2), clamped

and every intermediate fits float64's 53 bits (`check_bounds`), so that no rounding ever happens before the floor. Two
kernels compute the accumulator:

| kernel      | how                                                      | exact because                              |
|-------------|----------------------------------------------------------|--------------------------------------------|
| `reference` | one float64 matrix product                               | every partial sum is an integer below 2^53 |
| `split`     | a = 256 hi + lo, two float32 products, joined in float64 | every partial sum is an integer below 2^24 |

`split` is for devices whose float64 is slow (GPUs). Weights are as wide as it allows, 11 bits, and not the 7 bits that
an int8 kernel would need: that costs no time (on a CPU without VNNI `torch._int_mm` takes ten times as long as float64)
and saves the bytes that coarse weights lose. Convolutions are sums of shifted products: library convolutions may
transform (Winograd) and round.

Shapes: B batch, H and W rows and columns, C channels; activations are channels last, `[B, H, W, C]`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ACTIVATION_LIMIT",
    "WIDE_LIMIT",
    "IntegerConv",
    "dyadic_slope",
    "leaky",
    "matmul_reference",
    "matmul_split",
    "rescale",
    "self_test",
]

ACTIVATION_LIMIT = (1 << 15) - 1
WIDE_LIMIT = (1 << 23) - 1  # float32 holds every integer up to 2^24
WEIGHT_LIMIT = (1 << 10) - 1
SPLIT_SUM_LIMIT = (1 << 17) - 1  # sum of |weight| of an output: x 128 stays below 2^24
_ACCUMULATOR_LIMIT = 1 << 36
_MULTIPLIER_BITS = 16
_LARGEST_SHIFT = 52
_SLOPE_BITS = 8  # of a slope's numerator: 16-bit activations times it are exact in float32


# Kernels ----------------------------------------------------------------------------------------------------------


def matmul_reference(activations: Tensor, weight: Tensor) -> Tensor:
    """Integers `[P, K]` float32 times `[K, O]` int16, `[P, O]` float64: one float64 product."""
    return activations.double() @ weight.double()


def matmul_split(activations: Tensor, weight: Tensor) -> Tensor:
    """The same through two float32 products of at most eight bits times eleven."""
    wide = weight.float()
    high = (activations * (1 / 256)).round_()  # -128 ... 128
    low = torch.sub(activations, high, alpha=256)  # -128 ... 128
    return (high @ wide).double().mul_(256).add_(low @ wide)


KERNELS = {"reference": matmul_reference, "split": matmul_split}


@functools.lru_cache(maxsize=64)
def self_test(kernel: str, device: torch.device, precision: str) -> bool:
    """Whether a kernel gives the exact result for the most extreme values a layer may hold.

    Args:
        kernel (`str`): a key of `KERNELS`.
        device (`torch.device`): where.
        precision (`str`): torch's setting for float32 products, which may trade exactness away; part of the key.
    """
    del precision
    rows, count = 33, SPLIT_SUM_LIMIT // WEIGHT_LIMIT  # as many of the largest weights as a sum may hold
    generator = torch.Generator().manual_seed(0)
    activations = torch.randint(-ACTIVATION_LIMIT, ACTIVATION_LIMIT + 1, (rows, count), generator=generator)
    activations[:4] = torch.tensor([ACTIVATION_LIMIT, -ACTIVATION_LIMIT, 32640, -32641])[:, None]
    weight = torch.randint(-WEIGHT_LIMIT, WEIGHT_LIMIT + 1, (count, 40), generator=generator)
    weight[:, :4] = torch.tensor([WEIGHT_LIMIT, -WEIGHT_LIMIT, WEIGHT_LIMIT - 1, 1])
    expected = activations.numpy() @ weight.numpy()  # int64
    found = KERNELS[kernel](activations.float().to(device), weight.to(torch.int16).to(device))
    return bool((found.cpu().numpy() == expected).all())


def choose_kernel(device: torch.device) -> str:
    """The faster exact kernel of a device: `split` on accelerators if it passes its self-test, else `reference`.

    On a CPU the two take the same time (two float32 products against one of half the speed).
    """
    if device.type == "cpu":
        return "reference"
    return "split" if self_test("split", device, _matmul_precision()) else "reference"


def _matmul_precision() -> str:
    """What float32 products of this process are made of, which may change: a test holds for one of them."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by torch's newer interface, and the older one refuses to tell
        return f"{torch.backends.cuda.matmul.fp32_precision}"


# Elementwise ------------------------------------------------------------------------------------------------------


def rescale(values: Tensor, bits: int, limit: int = ACTIVATION_LIMIT) -> Tensor:
    """Integers times 2^bits, rounded (halves up) and clamped to +-limit; float32 in and out (or float64)."""
    if bits < 0:
        values = (values * math.ldexp(1.0, bits)).add_(0.5).floor_()
    elif bits > 0:
        values = values * math.ldexp(1.0, bits)
    return values.clamp(-limit, limit)


def dyadic_slope(slope: float) -> float:
    """The nearest fraction of eight significant bits: `leaky` is then exact in float32.

    Raises:
        ValueError: for a slope outside (0, 1).
    """
    if not 0 < slope < 1:
        raise ValueError(f"A negative slope must lie between 0 and 1; got {slope}.")
    mantissa, exponent = math.frexp(slope)
    return math.ldexp(round(math.ldexp(mantissa, _SLOPE_BITS)), exponent - _SLOPE_BITS)


def leaky(values: Tensor, slope: float) -> Tensor:
    """LeakyReLU of integers, rounded down; `slope` from `dyadic_slope`."""
    return F.leaky_relu(values, slope).floor_()


# Layers -----------------------------------------------------------------------------------------------------------


def _units(room: np.ndarray, bits_in: int, bits_out: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Real values of a weight unit `[O]` of at least `room`, the multipliers `[O]` they belong to, and the shift."""
    scale = np.ldexp(room, bits_out - bits_in)  # real factor of an accumulator unit in output units
    # The largest shift at which every multiplier has at most 16 bits; of weights that are all zero there is none.
    shift = min(_MULTIPLIER_BITS - 1 - int(np.frexp(scale.max())[1]), _LARGEST_SHIFT)
    multiplier = np.ceil(np.ldexp(scale, shift)).astype(np.int64)
    while multiplier.max() >= 1 << _MULTIPLIER_BITS:
        shift -= 1
        multiplier = np.ceil(np.ldexp(scale, shift)).astype(np.int64)
    return np.ldexp(multiplier.astype(np.float64), bits_in - bits_out - shift), multiplier, shift


class IntegerConv(nn.Module):
    """A 1x1, 3x3 or depthwise 3x3 convolution with zero padding and stride 1.

    Args:
        in_channels (`int`): I.
        out_channels (`int`): O.
        kernel_size (`int`): 1 or 3.
        depthwise (`bool`): each channel by itself.
        wide (`bool`): the output may have 24 bits; it must not be another layer's input then.
    """

    weight: Tensor
    bias: Tensor
    multiplier: Tensor
    shift: Tensor
    bits: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, depthwise: bool = False, wide: bool = False
    ):
        super().__init__()
        self.taps, self.depthwise = kernel_size**2, depthwise
        self.limit = WIDE_LIMIT if wide else ACTIVATION_LIMIT
        inner = 1 if depthwise else in_channels
        self.register_buffer("weight", torch.zeros(out_channels, self.taps, inner, dtype=torch.int16))
        self.register_buffer("bias", torch.zeros(out_channels, dtype=torch.int64))
        self.register_buffer("multiplier", torch.zeros(out_channels, dtype=torch.int32))
        self.register_buffer("shift", torch.zeros(1, dtype=torch.int32))
        # Fractional bits of input and output: not needed to run, but to know what the integers stand for.
        self.register_buffer("bits", torch.zeros(2, dtype=torch.int32))

    @torch.no_grad()
    def quantise(self, weight: np.ndarray, bias: np.ndarray | None, bits_in: int, bits_out: int) -> None:
        """Takes a float convolution over: its input has `bits_in` fractional bits, its output `bits_out`.

        The multiplier of a channel is the smallest integer that lets its weights fit, and the weights are rounded for
        exactly that multiplier, so that the multiplier itself loses nothing. Only IEEE-exact operations are used: the
        same floats give the same integers on every machine.

        Args:
            weight (`np.ndarray` of shape `[O, I, k, k]`): float64.
            bias (`np.ndarray` of shape `[O]`, *optional*): float64.
            bits_in (`int`): fractional bits of the input's integers.
            bits_out (`int`): fractional bits of the output's.

        Raises:
            ValueError: if the result would not be exact (see `check_bounds`), or a weight is not finite.
        """
        if not np.isfinite(weight).all() or (bias is not None and not np.isfinite(bias).all()):
            raise ValueError("A weight or bias is not a finite number.")
        rows = weight.reshape(len(weight), -1)  # [O, I * taps]
        # Of weight units (per unit of multiplier, at shift 0) so that |w| and the sum of |w| keep to their limits.
        room = np.maximum(np.abs(rows).max(axis=1) / WEIGHT_LIMIT, np.abs(rows).sum(axis=1) / SPLIT_SUM_LIMIT)
        room = np.maximum(room, 2.0**-40) * 1.001  # rounding may add half a unit to every weight
        bias = np.zeros(len(weight)) if bias is None else bias
        unit, multiplier, shift = _units(room, bits_in, bits_out)
        offset = np.rint(np.ldexp(bias / unit, bits_in))
        crowded = np.abs(offset) >= _ACCUMULATOR_LIMIT - SPLIT_SUM_LIMIT * ACTIVATION_LIMIT
        if crowded.any():  # a bias far beyond the weights, such as that of a channel that is cut off
            needed = np.ldexp(np.abs(bias), bits_in) / (_ACCUMULATOR_LIMIT >> 1)
            room = np.where(crowded, np.maximum(room, needed), room)
            unit, multiplier, shift = _units(room, bits_in, bits_out)
            offset = np.rint(np.ldexp(bias / unit, bits_in))
        integers = np.rint(rows / unit[:, None])
        integers = integers.reshape(len(weight), -1, self.taps).transpose(0, 2, 1)  # [O, taps, I]
        self.weight.copy_(torch.from_numpy(integers.astype(np.int16)))
        self.bias.copy_(torch.from_numpy(offset.astype(np.int64)))
        self.multiplier.copy_(torch.from_numpy(multiplier.astype(np.int32)))
        self.shift.fill_(shift)
        self.bits.copy_(torch.tensor([bits_in, bits_out]))
        self.check_bounds()

    def dequantise(self) -> tuple[Tensor, Tensor]:
        """Weight `[O, I, k, k]` and bias `[O]` of the float convolution that the integers stand for, float32."""
        bits_in, bits_out = self.bits.tolist()
        unit = self.multiplier.double() * math.ldexp(1.0, bits_in - bits_out - int(self.shift))  # [O]
        size = math.isqrt(self.taps)
        weight = self.weight.double().transpose(1, 2).unflatten(2, (size, size)) * unit[:, None, None, None]
        return weight.float(), (self.bias.double() * unit * math.ldexp(1.0, -bits_in)).float()

    def check_bounds(self) -> None:
        """Proves that no intermediate of this layer can leave the range in which floats hold every integer.

        Raises:
            ValueError: if one can: these weights were not made by `quantise`.
        """
        weight, bias = self.weight.cpu().numpy().astype(np.int64), self.bias.cpu().numpy()
        total = np.abs(weight).reshape(len(weight), -1).sum(axis=1)
        largest = int((total * ACTIVATION_LIMIT + np.abs(bias)).max(initial=0))
        multiplier = self.multiplier.cpu().numpy()
        checks = {
            "weight": np.abs(weight).max(initial=0) <= WEIGHT_LIMIT,
            "sum of weights": total.max(initial=0) <= SPLIT_SUM_LIMIT,
            "accumulator": largest < _ACCUMULATOR_LIMIT,
            "multiplier": multiplier.min(initial=0) >= 0 and multiplier.max(initial=0) < 1 << _MULTIPLIER_BITS,
            "shift": -_MULTIPLIER_BITS <= int(self.shift) <= _LARGEST_SHIFT,
        }
        failed = [name for name, good in checks.items() if not good]
        if failed:
            raise ValueError(f"An integer layer is out of bounds ({', '.join(failed)}); quantise the model again.")

    def _requantise(self, accumulator: Tensor) -> Tensor:
        """`[..., O]` float64 accumulators (overwritten) to float32 integers."""
        factor = self.multiplier.double() * math.ldexp(1.0, -int(self.shift))  # [O], exact
        offset = self.bias.double() * factor + 0.5  # exact: fewer than 53 bits
        return accumulator.mul_(factor).add_(offset).floor_().clamp_(-self.limit, self.limit).float()

    def forward(self, x: Tensor, kernel: str = "reference") -> Tensor:
        """`[B, H, W, I]` to `[B, H, W, O]`."""
        if self.depthwise:
            return self._requantise(self._depthwise(x))
        multiply = KERNELS[kernel]
        batch, height, width, channels = x.shape
        if self.taps == 1:
            total = multiply(x.reshape(-1, channels), self.weight[:, 0].t())
        else:
            padded = F.pad(x, (0, 0, 1, 1, 1, 1))
            total = torch.zeros((), dtype=torch.float64, device=x.device)
            for tap in range(self.taps):
                row, column = divmod(tap, 3)
                part = padded[:, row : row + height, column : column + width].reshape(-1, channels)
                total = total + multiply(part, self.weight[:, tap].t())
        return self._requantise(total).view(batch, height, width, -1)

    def _depthwise(self, x: Tensor) -> Tensor:
        """Nine shifted products in int32: a sum of nine stays below 2^29."""
        _, height, width, _ = x.shape
        padded = F.pad(x.to(torch.int32), (0, 0, 1, 1, 1, 1))
        weight = self.weight[:, :, 0].t().to(torch.int32)  # [taps, C]
        total = torch.zeros_like(x, dtype=torch.int32)
        for tap in range(self.taps):
            row, column = divmod(tap, 3)
            total.addcmul_(padded[:, row : row + height, column : column + width], weight[tap])
        return total.double()


def pixel_shuffle(x: Tensor) -> Tensor:
    """`nn.PixelShuffle(2)` of `[B, H, W, 4C]`: `[B, 2H, 2W, C]`."""
    return F.pixel_shuffle(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def largest_exponent(values: Sequence[float], limit: int, margin: float = 4.0, most: int = 14) -> int:
    """Fractional bits for numbers of up to the largest magnitude in `values`: a power of two with room to spare.

    The steps are coarse on purpose: last-bit differences between machines do not change them.
    """
    largest = max(max(values), 2.0**-20) * margin
    bits = most
    while bits > -8 and math.ldexp(largest, bits) > limit:
        bits -= 1
    return bits
