"""`log.jsonl`: what a run's losses were, one line for each step that is written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..saving import write_atomically

__all__ = ["LOG", "forget_later_lines", "write_line"]

LOG = "log.jsonl"  # in a run's folder


def write_line(path: Path, step: int, values: Mapping[str, float]) -> None:
    """Adds the line of a step."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step} | {name: round(value, 5) for name, value in values.items()}) + "\n")


def forget_later_lines(path: Path, step: int) -> None:
    """Takes away the lines of steps after this one, which a run that goes on from here takes again.

    A run that was killed may have come further than its last checkpoint, and have left half a line.
    """
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if _is_until(line, step)]
    if kept != lines:
        write_atomically(path, "".join(kept).encode())


def _is_until(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
