"""Rate curves of a result file, and the BD-rate between two of them (by the package `bjontegaard`)."""

import math
from dataclasses import dataclass
from typing import Any

from ..errors import OneDCError
from .metrics import ALL_METRICS
from .tables import codec_title, summarise

__all__ = ["BDRate", "Curve", "bd_rate", "curve_of"]


@dataclass(frozen=True)
class Curve:
    """A codec's points on one set of pictures.

    Args:
        title (`str`): what it is.
        metric (`str`): key of `ALL_METRICS`.
        points (`tuple`): `(bpp, value)`, means over the set, by rising bpp.
    """

    title: str
    metric: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class BDRate:
    """The average difference in rate at equal quality, and what it was averaged over.

    Args:
        percent (`float`): of the anchor's rate; negative where the tested curve needs fewer bits.
        low, high (`float`): the range of the metric that both curves cover.
        overlap (`float`): that range over the range which either covers, 0 to 1.
    """

    percent: float
    low: float
    high: float
    overlap: float


def curve_of(results: dict[str, Any], metric: str, codec: str = "onedc") -> Curve:
    """The mean curve of one codec in a result file. Points of the same rate (a codec at its floor) count once.

    Raises:
        `OneDCError`: the file has no such codec or metric, or the metric is missing on some picture.
    """
    if metric not in ALL_METRICS:
        raise OneDCError(f"metric: expected one of {', '.join(ALL_METRICS)}, got {metric!r}")
    lines = [line for line in summarise(results) if line["codec"] == codec]
    if not lines:
        have = ", ".join(sorted({row["codec"] for row in results["rows"]}))
        raise OneDCError(f"the results hold no codec {codec!r}; they hold {have}")
    if metric in (*results["metrics"], *results.get("set_metrics", ())) and any(line[metric] is None for line in lines):
        raise OneDCError(f"{metric} has no value on some picture (too small for it, or equal to the original)")
    if any(line.get(metric) is None for line in lines):
        raise OneDCError(
            f"the results of {codec} lack {metric} at some rate; run `onedc evaluate --metrics {metric} ...`"
        )
    points = sorted({(line["bpp"], line[metric]) for line in lines})
    title = f"OneDC ({results['model']['name']})" if codec == "onedc" else codec_title(codec)
    return Curve(title, metric, tuple(points))


def bd_rate(anchor: Curve, tested: Curve) -> BDRate:
    """How many more bits, in percent, `tested` needs than `anchor` at equal quality, over the range both cover.

    Piecewise cubic interpolation (PCHIP) of log rate over the metric, as JCT-VC recommends for curves of more than four
    points. For metrics that fall with quality the sign is turned.

    Raises:
        `OneDCError`: the curves share no quality, a curve is not monotone, or it has fewer than two points.
        `ModuleNotFoundError`: bjontegaard is not installed (`pip install 'onedc-hf[eval]'`).
    """
    try:
        import bjontegaard
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "BD-rate needs `bjontegaard`: pip install 'onedc-hf[eval]'", name=error.name
        ) from error
    sign = 1.0 if ALL_METRICS[anchor.metric].higher_is_better else -1.0
    sides = [_monotone(curve, sign) for curve in (anchor, tested)]
    ranges = [(quality[0], quality[-1]) for _, quality in sides]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    shown = [f"{curve.title} {_range(curve)}" for curve in (anchor, tested)]
    if low >= high:
        raise OneDCError(
            f"no BD-rate in {anchor.metric}: the curves share no quality ({'; '.join(shown)}); measure at more rates"
        )
    overlap = (high - low) / (max(r[1] for r in ranges) - min(r[0] for r in ranges))
    percent = bjontegaard.bd_rate(*sides[0], *sides[1], method="pchip", require_matching_points=False, min_overlap=0)
    assert isinstance(percent, float)  # a tuple only where interpolators are asked for
    if not math.isfinite(percent):
        raise OneDCError(f"no BD-rate in {anchor.metric}: it cannot be computed for {'; '.join(shown)}")
    ends = sorted((sign * low, sign * high))
    return BDRate(float(percent), ends[0], ends[1], overlap)


def _monotone(curve: Curve, sign: float) -> tuple[list[float | int], list[float | int]]:
    rates: list[float | int] = [rate for rate, _ in curve.points]
    quality: list[float | int] = [sign * value for _, value in curve.points]
    if len(rates) < 2:
        raise OneDCError(f"no BD-rate: {curve.title} has {len(rates)} point; it takes two or more rates")
    for index in range(1, len(rates)):
        if quality[index] <= quality[index - 1]:
            raise OneDCError(
                f"no BD-rate: {curve.title} does not get better in {curve.metric} from {rates[index - 1]:.4f} to "
                f"{rates[index]:.4f} bpp, so a quality does not stand for one rate"
            )
    return rates, quality


def _range(curve: Curve) -> str:
    values = [value for _, value in curve.points]
    return f"{min(values):.4g} to {max(values):.4g}"
