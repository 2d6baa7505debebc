"""`onedc plot`: Draw rate curves of result files, readable without colour.

onedc plot runs/kodak/results.json -o curves.svg
onedc plot mine/results.json box/results.json --metrics ms_ssim --published OneDC StableCodec -o curves.png
"""

import argparse
from pathlib import Path

from .files import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="results.json of `onedc evaluate`")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=".svg, .png or .pdf")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="default: all in the first file")
    parser.add_argument(
        "--published", nargs="+", default=(), metavar="CODEC",
        help="add points that others published for this data set (`all`: every codec); their evaluators differ",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Draw, and name the sources of published points."""
    from ..evaluation.plots import rate_plot
    from ..evaluation.published import published_source
    from ..evaluation.run import load_results

    records = [load_results(path) for path in arguments.results]
    sources = rate_plot(records, arguments.output, metrics=arguments.metrics, published=arguments.published)
    say(f"{arguments.output}")
    for key in sources:
        say(f"published points ({key}): {published_source(key)}")
    return 0
