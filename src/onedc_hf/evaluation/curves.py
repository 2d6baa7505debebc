"""Rate curves of a result file, and the BD-rate between two of them (by the package `bjontegaard`)."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from ..errors import OneDCError
from .metrics import ALL_METRICS
from .tables import codec_title, summarise

__all__ = ["BDRate", "Curve", "bd_rate", "bd_rate_interval", "check_same_pictures", "curve_of", "told_apart"]

_DRAWS = 200  # of pictures, for an interval
_SURE = 0.9  # share of the draws that must have a BD-rate


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


def check_same_pictures(records: Sequence[dict[str, Any]]) -> None:
    """Refuse to compare results of different pictures.

    Raises:
        `OneDCError`: they are of different pictures.
    """
    if len({frozenset(row["sha256"] for row in results["rows"]) for results in records}) > 1:
        raise OneDCError("the results were measured on different pictures; compare results of one data set")


def curve_of(results: dict[str, Any], metric: str, codec: str = "onedc") -> Curve:
    """The mean curve of one codec in a result file. Points of the same rate (a codec at its floor) count as their mean.

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
    points = _merged([(line["bpp"], line[metric]) for line in lines])
    title = f"OneDC ({results['model']['name']})" if codec == "onedc" else codec_title(codec)
    return Curve(title, metric, tuple(points))


def told_apart(curves: Sequence[Curve], records: Sequence[dict[str, Any]]) -> list[Curve]:
    """The curves, with their models' weights in the titles of those that would be called the same.

    Args:
        curves (`Sequence[Curve]`): of one metric.
        records (`Sequence[dict]`): the results that each is from.
    """
    titles = [curve.title for curve in curves]
    return [
        replace(curve, title=f"{curve.title}, weights {record['model']['weights'][:6]}")
        if titles.count(curve.title) > 1 and curve.title.startswith("OneDC")
        else curve
        for curve, record in zip(curves, records, strict=True)
    ]


def _merged(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """By rising rate; points whose rates differ by less than a thousandth are one, whose value is their mean."""
    groups: list[list[tuple[float, float]]] = []
    for point in sorted(points):
        if groups and point[0] <= groups[-1][0][0] * 1.001:
            groups[-1].append(point)
        else:
            groups.append([point])
    return [(group[0][0], fmean(value for _, value in group)) for group in groups]


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


def bd_rate_interval(results: dict[str, Any], metric: str, anchor: str) -> tuple[float, float] | None:
    """How far OneDC's BD-rate against a codec depends on the pictures: from the 5th to the 95th percentile, in percent.

    The pictures are drawn anew 200 times, as many as there are and with replacement (bootstrap).

    Returns:
        `tuple[float, float]`, or None where too many of the draws have no BD-rate for the figure to mean much.

    Raises:
        `OneDCError`: the metric is one of whole sets, of which no draws can be made.
    """
    if metric not in results["metrics"]:
        raise OneDCError(f"no interval for {metric}: it has no values for single pictures")
    pictures = sorted({row["picture"] for row in results["rows"]})
    points: dict[str, dict[str, np.ndarray]] = {
        anchor: {},
        "onedc": {},
    }  # by codec and setting: [picture, (bpp, value)]
    for row in results["rows"]:
        if row["codec"] in points:
            values = points[row["codec"]].setdefault(row["setting"], np.zeros((len(pictures), 2)))
            values[pictures.index(row["picture"])] = row["bpp"], row[metric]
    random, found = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        drawn = random.integers(len(pictures), size=len(pictures))
        means = {codec: [tuple(values[drawn].mean(0)) for values in points[codec].values()] for codec in points}
        curves = {codec: Curve(codec, metric, tuple(_merged(means[codec]))) for codec in points}
        with suppress(OneDCError):
            found.append(bd_rate(curves[anchor], curves["onedc"]).percent)
    if len(found) < _SURE * _DRAWS:
        return None
    low, high = np.percentile(found, (5, 95))
    return float(low), float(high)


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
