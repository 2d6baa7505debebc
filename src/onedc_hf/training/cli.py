"""`onedc train`: one argument for each setting of `TrainConfig`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import OneDCError
from .config import ALIASES, TrainConfig
from .config_files import load_config

__all__ = ["main", "make_parser"]

_KINDS: dict[str, Any] = {"int": int, "float": float, "str": str}


def make_parser() -> argparse.ArgumentParser:
    """The argument parser, made from the fields of `TrainConfig`."""
    parser = argparse.ArgumentParser(
        prog="onedc train",
        description="Train a OneDC model. Settings come from --config; arguments override them.",
        epilog=TrainConfig.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", default="box-stage1", help="a config of the package, a JSON file, or org/repo/path.json on the Hub"
    )
    parser.add_argument(
        "--use_ema",
        action=argparse.BooleanOptionalAction,
        help="as in diffusers' scripts: --no-use_ema is --ema_decay 0",
    )
    for field in dataclasses.fields(TrainConfig):
        names = [f"--{field.name}", *([f"--{ALIASES[field.name]}"] if field.name in ALIASES else [])]
        kind = str(field.type)
        options: dict[str, Any] = {"default": None, "dest": field.name}
        if kind == "bool":
            options["action"] = argparse.BooleanOptionalAction
        elif kind.startswith("list"):
            options |= {"nargs": "*", "type": _KINDS[kind[5:-1]], "metavar": kind[5:-1].upper()}
        elif kind.startswith("dict"):
            options |= {"type": json.loads, "metavar": "JSON"}
        else:
            options |= {"type": _KINDS[kind], "metavar": kind.upper()}
        parser.add_argument(*names, **options)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, trains, prints where the pipeline lies. Returns the exit code: 2 for settings that make no sense."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments = vars(make_parser().parse_args(argv))
    name, use_ema = arguments.pop("config"), arguments.pop("use_ema")
    overrides = {key: value for key, value in arguments.items() if value is not None}
    if use_ema is False:
        overrides["ema_decay"] = 0.0
    try:
        config = load_config(name, overrides)
        if use_ema and not config.ema_decay:
            config = dataclasses.replace(config, ema_decay=TrainConfig.ema_decay)
        # torch only once the arguments are right
        if config.stage == 1:
            from .stage1 import train
        else:
            from .stage2 import train
        folder = train(config)
    except (ValueError, OSError, ImportError, OneDCError) as error:
        print(f"onedc train: {error}", file=sys.stderr)
        return 1 if isinstance(error, OneDCError) else 2
    except KeyboardInterrupt:
        print("onedc train: stopped before its first step; what an earlier run saved is as it was.", file=sys.stderr)
        return 130
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"Trained pipeline: {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
