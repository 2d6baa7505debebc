"""`onedc benchmark-repo`: Make a data set repository from a folder of pictures, ready to push.

onedc benchmark-repo kodak photographs/kodak --out kodak-repo
hf upload ORG/kodak kodak-repo --repo-type dataset
"""

import argparse
from pathlib import Path

from .files import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="kodak, clic2020, div2k, tecnick (checked), or a name of your own")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the pictures")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the repository is made")


def run(arguments: argparse.Namespace) -> int:
    """Write Parquet, card and eval.yaml."""
    from ..evaluation.benchmark_repo import make_benchmark_repo

    for path in make_benchmark_repo(arguments.name, arguments.folder, arguments.out):
        say(str(path))
    say(f"Read {arguments.out / 'README.md'}; then: hf upload ORG/{arguments.name} {arguments.out} --repo-type dataset")
    return 0
