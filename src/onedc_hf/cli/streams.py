"""Standard input and output in the place of files: `-`."""

import sys
from pathlib import Path

from ..errors import OneDCError

__all__ = ["STDIN", "STDOUT", "read_stdin", "write_stdout"]

STDIN = Path("-")
"""An input that is read from standard input."""

STDOUT = Path("/dev/stdout")
"""An output that goes to standard output, also on systems that have no such file."""


def read_stdin() -> bytes:
    """Read all of standard input.

    Raises:
        `OneDCError`: it is closed.
    """
    if sys.stdin is None:
        raise OneDCError("standard input is closed")
    return sys.stdin.buffer.read()


def write_stdout(data: bytes) -> None:
    """Write to standard output, past all that is printed there.

    Raises:
        `OSError`: nobody reads it, or the disk there is full.
        `OneDCError`: it is closed.
    """
    if sys.stdout is None:
        raise OneDCError("standard output is closed")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
