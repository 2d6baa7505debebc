"""The parser of `onedc` and what it does with errors.

Exit codes: 0 all done; 1 something failed, the rest was done; 2 the command line makes no sense; 130 interrupted.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from .. import __version__
from ..errors import OneDCError
from . import (
    bd_rate,
    benchmark_repo,
    compress,
    convert,
    decompress,
    demo,
    env,
    evaluate,
    info,
    plot,
    quantize_entropy,
    report,
    train,
    transcode,
    verify,
)
from .files import UsageError, complain, leave_stdout

__all__ = ["build_parser", "main"]

COMMANDS: dict[str, ModuleType] = {
    "compress": compress,
    "decompress": decompress,
    "info": info,
    "verify": verify,
    "convert": convert,
    "transcode": transcode,
    "quantize-entropy": quantize_entropy,
    "evaluate": evaluate,
    "bd-rate": bd_rate,
    "plot": plot,
    "report": report,
    "benchmark-repo": benchmark_repo,
    "demo": demo,
    "env": env,
    "train": train,
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser with all commands; `arguments.run(arguments)` then runs the one that was chosen."""
    parser = argparse.ArgumentParser(
        prog="onedc",
        description="OneDC: photographs in a few hundred bytes, rebuilt in one diffusion step.",
        epilog="`onedc COMMAND --help` says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"onedc-hf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary, _, more = (module.__doc__ or "").partition("\n")
        summary = summary.partition(": ")[2]  # docstrings begin with "`onedc name`: "
        command = commands.add_parser(
            name,
            help=summary[0].lower() + summary[1:].rstrip("."),
            description=summary + more,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=name != "train",
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `onedc` with these arguments (those of the process by default) and return its exit code.

    Raises:
        `SystemExit`: from argparse, after `--help` and `--version` (0) and for arguments it does not understand (2).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["train"]:  # it has a parser of its own, which also answers --help
        arguments = argparse.Namespace(run=train.run, arguments=argv[1:])
    else:
        arguments = build_parser().parse_args(argv)
    try:
        with _plain_warnings():
            return arguments.run(arguments)
    except UsageError as error:
        arguments.parser.print_usage(sys.stderr)
        complain(str(error))
        return 2
    except (OneDCError, OSError, ModuleNotFoundError) as error:
        if isinstance(error, BrokenPipeError):  # `onedc info ... | head`
            leave_stdout()
            return 1
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        complain("interrupted; files that were finished are whole, no other was begun")
        return 130


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a `UserWarning`, which is meant for the person at the keyboard, as one line, without its place in code."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        usual = warnings.showwarning

        def show(message: Any, category: Any, *place: Any, **more: Any) -> None:
            if issubclass(category, UserWarning):
                complain(f"warning: {message}")
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())
