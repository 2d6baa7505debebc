"""What trainers with a command of their own share: arguments about pictures, and how they stop and end."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OneDCError

__all__ = ["exit_code", "picture_arguments", "stop_on_signals"]


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


def exit_code(name: str, result: str, train: Callable[[], Path]) -> int:
    """Trains, says where the result lies or in one line what is wrong, and gives the code to exit with.

    Args:
        name (`str`): the command, for what it says.
        result (`str`): what it makes, for the line that says where.
        train (`Callable`): returns the folder; from its first step on it ends by itself when it is told to stop.
    """
    try:
        made = train()
    except (OneDCError, OSError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped before its first step; nothing was saved.", file=sys.stderr)
        return 130
    print(f"{result}: {made}")
    return 0
