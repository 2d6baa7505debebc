"""Rate curves by matplotlib, readable without colour: every codec has its own marker and dashes.

Curves are means over a result file's pictures. Published points of other codecs (published.py) are hollow and not
joined to ours: their evaluators differ.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OneDCError
from .benchmarks import benchmarks, checked_benchmark
from .curves import Curve, check_same_pictures, curve_of, told_apart
from .metrics import ALL_METRICS
from .published import PUBLISHED_METRICS, comparable_curves
from .tables import summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["drawable_metrics", "rate_plot"]

# colour, marker, dashes
_OURS = (("#0b6e69", "o", "-"), ("#7a3b8f", "D", "-"), ("#1c1b19", "P", "-"))
_OTHERS = {
    "jpeg": ("#a3470f", "v", (0, (1, 1.2))),
    "webp": ("#b8860b", "s", (0, (4, 1.5))),
    "avif": ("#2f5d9b", "^", (0, (6, 1.5, 1, 1.5))),
    "avif-half": ("#2f5d9b", "+", (0, (2, 2, 6, 2))),
    "jxl": ("#6b6b6b", "x", (0, (3, 1, 1, 1, 1, 1))),
}
_LEARNED = ("#444444", "*", (0, (5, 4)))
_HOLLOW = ("h", "p", "8", "<", ">", "d")
_COLUMNS = 2


def rate_plot(
    results: Sequence[dict[str, Any]],
    path: Path,
    *,
    metrics: Sequence[str] | None = None,
    published: Sequence[str] = (),
) -> list[str]:
    """Draw one panel for each metric, rate along x (logarithmic), and write it as the suffix says.

    Args:
        results (`Sequence[dict]`): records of `run.collect`; the classical codecs of the first are drawn.
        path (`Path`): `.svg`, `.png` or `.pdf`.
        metrics (`Sequence[str]`, *optional*): defaults to all the first record has.
        published (`Sequence[str]`, *optional*): names of codecs with published points to add, such as `OneDC`; `all`
            adds every one.

    Returns:
        `list[str]`: keys of the sources of the published points drawn (`published.published_source`).

    Raises:
        `OneDCError`: results of different pictures, a metric that they lack, nothing to draw, or no such published
            points.
        `ModuleNotFoundError`: matplotlib is not installed (`pip install 'onedc-hf[eval]'`).
    """
    if path.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise OneDCError(f"{path}: expected a name that ends in .svg, .png or .pdf")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'onedc-hf[eval]'", name=error.name) from error
    check_same_pictures(results)
    first = results[0]
    names = list(metrics or drawable_metrics(first))
    if not names:
        raise OneDCError("no metric has a value on every picture: there is nothing to draw")
    _check_published(first["dataset"], published)
    rows = -(-len(names) // _COLUMNS)
    sources: list[str] = []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "onedc", "font.size": 9}):
        figure = Figure(figsize=(5.2 * min(_COLUMNS, len(names)), 3.6 * rows), layout="constrained")
        panels = figure.subplots(rows, min(_COLUMNS, len(names)), squeeze=False).flat
        for panel, metric in zip(panels, names, strict=False):
            _panel(panel, results, metric, published, sources)
        for panel in list(figure.axes)[len(names) :]:
            panel.remove()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}{path.suffix}")
        figure.savefig(temporary, dpi=130, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    os.replace(temporary, path)
    return sources


def drawable_metrics(results: dict[str, Any]) -> list[str]:
    """The metrics that have a value on every picture: not those that one is too small for."""
    lines = summarise(results)
    measured = [*results["metrics"], *results.get("set_metrics", ())]
    return [name for name in measured if all(line.get(name) is not None for line in lines)]


def _check_published(dataset: dict[str, Any], published: Sequence[str]) -> None:
    """Refuses points that cannot stand beside results of this data set."""
    if published and dataset.get("limited"):
        raise OneDCError(
            f"published points are of the whole set, and these results of a part of it ({dataset['title']}); measure "
            "without --limit, or draw without --published"
        )
    name = dataset["name"]
    if published and name in benchmarks() and checked_benchmark(dataset) is None:
        raise OneDCError(
            f"published points are of the benchmark {name}, and these results of a folder that is only called so; "
            f"measure with --dataset {name} --data-dir FOLDER, which checks the pictures"
        )
    known = {curve.codec for metric in PUBLISHED_METRICS for curve in comparable_curves(dataset, metric)}
    if unknown := set(published) - {"all"} - known:
        raise OneDCError(f"nobody published points of {', '.join(sorted(unknown))} for {name}")


def _panel(
    panel: "Axes", results: Sequence[dict[str, Any]], metric: str, published: Sequence[str], sources: list[str]
) -> None:
    ours = told_apart([curve_of(record, metric) for record in results], results)
    for curve, style in zip(ours, _OURS * len(results), strict=False):
        _line(panel, curve, style, width=1.8)
    for codec in results[0]["codecs"]:
        if codec != "onedc":
            _line(panel, curve_of(results[0], metric, codec), _OTHERS.get(codec, _LEARNED), width=1.1)
    markers = iter(_HOLLOW * 10)
    for curve in comparable_curves(results[0]["dataset"], metric):
        if "all" not in published and curve.codec not in published:
            continue
        rates, values = zip(*curve.points, strict=True)
        panel.plot(
            rates, values, next(markers), color="#1c1b19", markerfacecolor="none", markersize=5, linestyle="none",
            label=f"{curve.codec} (published{', ' + curve.status if curve.status else ''})",
        )  # fmt: skip
        if curve.source not in sources:
            sources.append(curve.source)
    panel.set_xscale("log")
    panel.set_xlabel("bits per pixel")
    panel.set_ylabel(ALL_METRICS[metric].heading.replace("↑", "(higher is better)").replace("↓", "(lower is better)"))
    panel.grid(True, which="both", linewidth=0.4, color="#dedad1")
    panel.set_axisbelow(True)
    panel.legend(fontsize=6, framealpha=0.8)


def _line(panel: "Axes", curve: Curve, style: tuple[str, str, Any], width: float) -> None:
    colour, marker, dashes = style
    rates, values = zip(*curve.points, strict=True)
    panel.plot(rates, values, color=colour, marker=marker, linestyle=dashes, linewidth=width, markersize=5,
               label=curve.title)  # fmt: skip
