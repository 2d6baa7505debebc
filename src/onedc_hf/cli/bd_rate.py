"""`onedc bd-rate`: How many percent of the bits a codec saves at equal quality (negative: B needs fewer than A).

A and B are result files of `onedc evaluate`, or one of their other codecs: results.json:avif.

onedc bd-rate before/results.json after/results.json --metric ms_ssim
onedc bd-rate runs/kodak/results.json:avif runs/kodak/results.json --metric st_lpips_vgg
"""

import argparse
from pathlib import Path
from typing import Any

from .files import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("anchor", metavar="A", help="results.json, or results.json:codec")
    parser.add_argument("tested", metavar="B", help="what is compared with A")
    parser.add_argument("--metric", required=True, metavar="NAME", help="of both files, such as ms_ssim")


def run(arguments: argparse.Namespace) -> int:
    """Print the BD-rate and the range it holds for; where there is none, say why and return 1."""
    from ..evaluation.curves import bd_rate, check_same_pictures, curve_of, told_apart
    from ..evaluation.metrics import ALL_METRICS

    sides = [read_results(text) for text in (arguments.anchor, arguments.tested)]
    check_same_pictures([results for results, _ in sides])
    curves = [curve_of(results, arguments.metric, codec) for results, codec in sides]
    anchor, tested = told_apart(curves, [results for results, _ in sides])
    found = bd_rate(anchor, tested)
    say(
        f"{tested.title} against {anchor.title}: {found.percent:+.1f} % bits at equal "
        f"{ALL_METRICS[arguments.metric].title}, over {found.low:.4g} to {found.high:.4g} "
        f"({100 * found.overlap:.0f} % of what the two curves cover together)"
    )
    return 0


def read_results(text: str) -> tuple[dict[str, Any], str]:
    """Read `results.json` or `results.json:codec`, or a run's folder in its place: the record, and the codec meant."""
    from ..evaluation.run import load_results

    path, codec = Path(text), "onedc"
    if not path.exists() and ":" in text:
        name, _, codec = text.rpartition(":")
        path = Path(name)
    return load_results(path / "results.json" if path.is_dir() else path), codec
