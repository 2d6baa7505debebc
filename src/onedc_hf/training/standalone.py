"""What trainers with a command of their own share: arguments about pictures, and how they are asked to stop."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["picture_arguments", "stop_on_signals"]


def picture_arguments(what: str) -> argparse.ArgumentParser:
    """A parent parser: model, folder of pictures, output, seed, threads.

    Args:
        what (`str`): what the pipeline named by `--model` is to this trainer, for the help.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", default="", help=f"{what}, folder or Hub id; default: the box")
    parser.add_argument("--train_data_dir", required=True, help="folder of pictures")
    parser.add_argument(
        "--exclude",
        nargs="*",
        default=["box-excluded.txt", "box-heldout.txt"],
        help="files of picture names to leave out, as in training; without a name: none",
    )
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--resolution", type=int, default=256, help="side of a crop, a multiple of 64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_threads", type=int, default=0)
    return parser


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM and Ctrl-C end nothing by themselves: the function says whether one of them came."""
    came: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(sig, lambda number, _: came.append(number)) for sig in signals]
    try:
        yield lambda: bool(came)
    finally:
        for sig, handler in zip(signals, before, strict=True):
            signal.signal(sig, handler)
