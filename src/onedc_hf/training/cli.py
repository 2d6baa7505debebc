"""`onedc train`: one argument for each setting of `TrainConfig`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence

from .config import TrainConfig, load_config

__all__ = ["main", "make_parser"]


def make_parser() -> argparse.ArgumentParser:
    """The argument parser, made from the fields of `TrainConfig`."""
    parser = argparse.ArgumentParser(
        prog="onedc train",
        description="Train a OneDC model (stage 1). Settings come from --config; arguments override them.",
        epilog=TrainConfig.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="box-stage1", help="a config of the package or a JSON file")
    for field in dataclasses.fields(TrainConfig):
        kind = str(field.type)
        if kind.startswith("list"):
            parser.add_argument(f"--{field.name}", nargs="*", default=None, metavar="NAME")
        elif kind == "bool":
            parser.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, default=None)
        else:
            types = {"int": int, "float": float, "str": str}
            parser.add_argument(f"--{field.name}", type=types[kind], default=None, metavar=kind.upper())
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, trains, prints where the pipeline lies. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments = vars(make_parser().parse_args(argv))
    name = arguments.pop("config")
    try:
        config = load_config(name, {key: value for key, value in arguments.items() if value is not None})
        from .stage1 import train  # torch only once the arguments are right

        folder = train(config)
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"onedc train: {error}", file=sys.stderr)
        return 2
    print(f"Trained pipeline: {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
