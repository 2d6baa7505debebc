"""`onedc train`: Train or fine-tune a model; `onedc train --help` lists its options."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take everything: the trainer has a parser of its own."""
    parser.add_argument("arguments", nargs=argparse.REMAINDER)


def run(arguments: argparse.Namespace) -> int:
    """Hand the rest of the command line to the trainer."""
    from ..training.cli import main

    return main(list(arguments.arguments))
