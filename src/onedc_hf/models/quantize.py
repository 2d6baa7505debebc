"""Makes an `ExactEntropyModel` from a float one: calibration, rounding, proof of bounds.

Everything here is deterministic: statistics become powers of two with room to spare, weights are rounded with
IEEE-exact operations, exponentials are computed with decimals. Two people who convert the same checkpoint with the same
calibration pictures get the same digest.
"""

from __future__ import annotations

import decimal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .blocks import DepthConvBlock, ResidualUpsample
from .context import PASSES, EntropyModel
from .exact import ExactEntropyModel, _Block, _Upsample
from .integer import ACTIVATION_LIMIT, WIDE_LIMIT, IntegerConv, largest_exponent

__all__ = ["Ranges", "dequantise_entropy", "quantise_entropy", "set_gains"]

_TABLES = ("gain_steps", "cdf", "cdf_length", "cdf_offset", "z_counts")
_GAIN_MULTIPLIER_LIMIT = 1 << 30
_WIDE_BITS = 12  # of parameters, at most: the smallest scale is then 450 units


class Ranges:
    """Largest magnitudes seen in a float entropy model, by module, while it ran over calibration data.

    Args:
        model (`EntropyModel`): in float32 or float64.
    """

    def __init__(self, model: EntropyModel):
        self.model = model
        self.largest: dict[str, float] = defaultdict(float)

    def note(self, name: str, values: Tensor) -> None:
        """Remembers the largest magnitude of `values`."""
        self.largest[name] = max(self.largest[name], float(values.abs().max()))

    @contextmanager
    def watch(self) -> Iterator[None]:
        """While it lasts, every forward of the model's layers is seen."""
        handles = []
        for name, module in self.model.named_modules():

            def hook(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor):
                    self.note(name, output.detach())

            handles.append(module.register_forward_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def quantise_entropy(model: EntropyModel, ranges: Ranges) -> ExactEntropyModel:
    """The integer model of a float one.

    Args:
        model (`EntropyModel`): trained.
        ranges (`Ranges`): from calibration, with `y_hat` noted as well.

    Raises:
        ValueError: if nothing was seen, or weights are not finite.
    """
    return _Quantiser(model, ranges.largest).run()


def dequantise_entropy(exact: ExactEntropyModel) -> EntropyModel:
    """The float model that an exact one stands for: what training goes on from when its entropy path may change."""
    model = EntropyModel(
        exact.gain_steps.shape[1],
        exact.fsq_levels,
        exact.quality_rows,
        exact.expansion,
        len(exact.spatial_prior),
        exact.slopes,
        exact.skip_index,
    )
    for name in _TABLES:
        getattr(model, name).copy_(getattr(exact, name))
    first: Any = model.hyper_dec["feat_in"]
    halves = torch.tensor([level // 2 for level in exact.fsq_levels]).view(1, -1, 1, 1)
    _give(exact.feat_in, first[0])
    first[0].weight.data.mul_(halves)
    _give(exact.reduction, model.y_spatial_prior_reduction)
    adaptors = [getattr(model, f"y_spatial_prior_adaptor_{i}") for i in range(1, PASSES)]
    for layers, sources in (
        (exact.to_entropy, model.hyper_dec["to_entropy"]),
        (exact.prior_fusion, model.y_prior_fusion),
        (exact.adaptors, adaptors),
        (exact.spatial_prior, model.y_spatial_prior),
    ):
        for layer, source in zip(layers, sources, strict=True):  # type: ignore[arg-type]
            for integer, conv in _pairs(layer, source):
                _give(integer, conv)
    return model


@torch.no_grad()
def set_gains(exact: ExactEntropyModel, steps: Tensor) -> None:
    """Gives an exact model another gain table, in place: it then is another model, with another id.

    Args:
        exact (`ExactEntropyModel`): whose `bits` are known.
        steps (`torch.Tensor` of shape `[R, N]`): gains in steps of the scale table, integers.

    Raises:
        ValueError: for gains too small for integers, or a table of another shape.
    """
    if steps.shape != exact.gain_steps.shape or steps.is_floating_point():
        raise ValueError(f"Gains must be integers of shape {list(exact.gain_steps.shape)}; got {list(steps.shape)}.")
    inverse, gain_bits = gain_multipliers(steps.cpu().numpy(), int(exact.bits[1]))
    exact.gain_steps.copy_(steps)
    exact.gain_inverse.copy_(torch.from_numpy(inverse))
    exact.gain_bits.fill_(gain_bits)


def _pairs(layer: Any, source: Any) -> list[tuple[IntegerConv, nn.Conv2d]]:
    """Every integer convolution of a block, with the float one it is made from."""
    if isinstance(layer, _Upsample):
        return [
            (layer.subpel_conv, source.subpel_conv[0]),
            (layer.conv, source.conv),
            (layer.upsample, source.upsample[0]),
        ]
    first, second = source.block[0], source.block[1]
    pairs = [
        (layer.conv1, first.conv1[0]),
        (layer.depth_conv, first.depth_conv),
        (layer.conv2, first.conv2),
        (layer.expand, second.conv),
        (layer.project, second.conv_out),
    ]
    return pairs if layer.adaptor is None else [*pairs, (layer.adaptor, first.adaptor)]


@torch.no_grad()
def _give(integer: IntegerConv, conv: Any) -> None:
    weight, bias = integer.dequantise()
    conv.weight.copy_(weight)
    if conv.bias is not None:
        conv.bias.copy_(bias)


class _Quantiser:
    def __init__(self, model: EntropyModel, largest: dict[str, float]):
        missing = [name for name in ("y_hat", "y_spatial_prior_reduction") if not largest.get(name)]
        if missing:
            raise ValueError(f"Calibration has seen nothing of {', '.join(missing)}; run it on at least one picture.")
        self.model, self.largest = model, largest
        self.exact = ExactEntropyModel(
            model.gain_steps.shape[1],
            model.fsq_levels,
            model.quality_rows,
            model.expansion,
            len(model.y_spatial_prior),
            model.slopes,
            model.skip_index,
        )

    def bits(self, *names: str, limit: int = ACTIVATION_LIMIT, most: int = 14) -> int:
        return largest_exponent([self.largest[name] for name in names], limit, most=most)

    def run(self) -> ExactEntropyModel:
        model, exact = self.model, self.exact
        # Hyper-synthesis. Its input are the digits' integers: codes times half the number of levels.
        halves = np.array([level // 2 for level in model.fsq_levels], dtype=np.float64)
        first: Any = model.hyper_dec["feat_in"]
        seed_bits = self.bits("hyper_dec.feat_in.0")
        weight, bias = _floats(first[0])
        exact.feat_in.quantise(weight / halves[None, :, None, None], bias, 0, seed_bits)
        bits, last = seed_bits, len(model.y_prior_fusion) - 1
        wide = self.bits("y_prior_fusion", "y_spatial_prior", "y_hat", limit=WIDE_LIMIT, most=_WIDE_BITS)
        source: Any = model.hyper_dec["to_entropy"]
        for i, (layer, float_layer) in enumerate(zip(exact.to_entropy, source, strict=True)):
            bits = self.layer(layer, float_layer, f"hyper_dec.to_entropy.{i}", bits)
        for i, (layer, float_layer) in enumerate(zip(exact.prior_fusion, model.y_prior_fusion, strict=True)):
            bits = self.layer(layer, float_layer, f"y_prior_fusion.{i}", bits, wide if i == last else None)
        # Context.
        narrow = self.bits("y_prior_fusion")
        context = self.bits("y_hat", "y_spatial_prior_reduction")
        exact.reduction.quantise(*_floats(model.y_spatial_prior_reduction), narrow, context)
        # The three adaptors feed the same layers: one scale for all.
        joined = self.bits(*[f"y_spatial_prior_adaptor_{i}.block.{part}" for i in (1, 2, 3) for part in (0, 1)])
        for i, adaptor in enumerate(exact.adaptors, 1):
            name = f"y_spatial_prior_adaptor_{i}"
            self.block(adaptor, getattr(model, name), name, context, joined)  # type: ignore[arg-type]
        bits, last = joined, len(model.y_spatial_prior) - 1
        for i, (layer, float_layer) in enumerate(zip(exact.spatial_prior, model.y_spatial_prior, strict=True)):
            bits = self.layer(layer, float_layer, f"y_spatial_prior.{i}", bits, wide if i == last else None)
        exact.bits.copy_(torch.tensor([seed_bits, wide, narrow, context]))
        # Tables.
        for name in _TABLES:
            getattr(exact, name).copy_(getattr(model, name))
        exact.thresholds.copy_(torch.tensor(scale_thresholds(wide)))
        set_gains(exact, model.gain_steps)
        exact.check_bounds()
        return exact

    def layer(self, layer: Any, source: Any, name: str, bits_in: int, wide: int | None = None) -> int:
        if isinstance(layer, _Upsample):
            return self.upsample(layer, source, name, bits_in)
        bits_out = self.bits(f"{name}.block.0", f"{name}.block.1")
        return self.block(layer, source, name, bits_in, bits_out, wide)

    def block(
        self, layer: _Block, source: DepthConvBlock, name: str, bits_in: int, bits_out: int, wide: int | None = None
    ) -> int:
        """`bits_out` of the first sum (and of the second, unless that one is `wide`)."""
        first, second = source.block[0], source.block[1]
        path = f"{name}.block"
        hidden, deep = self.bits(f"{path}.0.conv1.0"), self.bits(f"{path}.0.depth_conv")
        inner = self.bits(f"{path}.1.conv") - 1  # two halves are added
        final = bits_out if wide is None else wide
        _take(layer.conv1, first.conv1[0], bits_in, hidden)  # type: ignore[union-attr,index]
        _take(layer.depth_conv, first.depth_conv, hidden, deep)
        _take(layer.conv2, first.conv2, deep, bits_out)
        if layer.adaptor is not None:
            _take(layer.adaptor, first.adaptor, bits_in, bits_out)
        _take(layer.expand, second.conv, bits_out, inner)
        _take(layer.project, second.conv_out, inner, final)
        layer.skip_bits.copy_(torch.tensor([bits_out - bits_in, final - bits_out]))
        return final

    def upsample(self, layer: _Upsample, source: ResidualUpsample, name: str, bits_in: int) -> int:
        hidden, bits_out = self.bits(f"{name}.subpel_conv"), self.bits(f"{name}.conv", f"{name}.upsample", name)
        _take(layer.subpel_conv, source.subpel_conv[0], bits_in, hidden)
        _take(layer.conv, source.conv, hidden, bits_out)
        _take(layer.upsample, source.upsample[0], bits_in, bits_out)
        return bits_out


def _floats(conv: Any) -> tuple[np.ndarray, np.ndarray | None]:
    bias = conv.bias
    return conv.weight.detach().cpu().double().numpy(), None if bias is None else bias.detach().cpu().double().numpy()


def _take(layer: IntegerConv, source: Any, bits_in: int, bits_out: int) -> None:
    layer.quantise(*_floats(source), bits_in, bits_out)


# Tables -----------------------------------------------------------------------------------------------------------

_CONTEXT = decimal.Context(prec=50)
_FIRST, _LAST, _SCALES = decimal.Decimal("0.11"), decimal.Decimal(64), 256


def _step() -> decimal.Decimal:
    return _CONTEXT.divide(_CONTEXT.subtract(_CONTEXT.ln(_LAST), _CONTEXT.ln(_FIRST)), decimal.Decimal(_SCALES - 1))


def scale_thresholds(bits: int) -> list[int]:
    """The least integer of `bits` fractional bits that reaches each scale of the table but the first (spec 3.2)."""
    step, found = _step(), []
    for i in range(1, _SCALES):
        scale = _CONTEXT.multiply(_FIRST, _CONTEXT.exp(_CONTEXT.multiply(step, decimal.Decimal(i))))
        found.append(int(_CONTEXT.multiply(scale, decimal.Decimal(2**bits)).to_integral_value(decimal.ROUND_CEILING)))
    return found


def gain_multipliers(steps: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """exp(-steps x GAIN_STEP) as integers of `bits` + the returned number of fractional bits, each below 2^30."""
    step = _step()
    values = {int(k): _CONTEXT.exp(_CONTEXT.multiply(step, decimal.Decimal(-int(k)))) for k in np.unique(steps)}
    extra = 16
    while extra > 0 and max(values.values()) * 2 ** (bits + extra) >= _GAIN_MULTIPLIER_LIMIT:
        extra -= 1
    integers = {k: int((v * 2 ** (bits + extra)).to_integral_value(decimal.ROUND_HALF_EVEN)) for k, v in values.items()}
    if max(integers.values()) >= 1 << 31:
        raise ValueError(f"A gain of {min(values)} steps is too small for integers; the gain table is damaged.")
    inverse = np.vectorize(integers.__getitem__, otypes=[np.int32])(steps)
    return inverse, extra
