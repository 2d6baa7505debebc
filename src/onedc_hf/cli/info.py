"""`onedc info`: Show what .odc files say about themselves, without a model.

With --json: one object for one file, a list for several.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import OneDCError
from .files import complain, find_inputs, is_odc, read, say
from .text import table

_NAMED = {"identity": "decoder id", "adapter": "adapter id"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="FILE", help=".odc files, glob patterns, folders, or -")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the facts of every file; the exit code is 1 if one cannot be read or is damaged."""
    paths, problems = find_inputs(arguments.inputs, is_odc)
    facts = []
    for path in paths:
        try:
            facts.append(read_facts(path))
        except (OneDCError, OSError) as error:
            message = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            problems.append(message if message.startswith(str(path)) else f"{path}: {message}")
        else:
            if not facts[-1]["valid"]:
                problems.append(f"{path}: {facts[-1]['problem']}")
    if facts and arguments.json:
        one = len(paths) == 1 and len(arguments.inputs) == 1
        say(json.dumps(facts[0] if one else facts, indent=2))
    elif len(facts) == 1:
        say("\n".join(f"{name + ':':<12} {value}" for name, value in _lines(facts[0])))
    elif facts:
        headings = ("file", "kind", "quality", "size", "bytes", "bpp", "model", "version")
        say(table(headings, [_row(fact) for fact in facts]))
    for problem in problems:
        complain(problem)
    return 1 if problems else 0


def read_facts(path: Path) -> dict[str, Any]:
    """Return what is known about one file, ready for JSON.

    Returns:
        `dict`: `file`, then the keys of `onedc_hf.coding.inspect`, and `quality`, the same number as `quality_row`.

    Raises:
        `OneDCError`: the file cannot be read, or its header makes no sense.
    """
    from ..coding import inspect

    facts = inspect(read(path))
    return {"file": str(path), **facts, "quality": facts["quality_row"]}


def _lines(fact: dict[str, Any]) -> list[tuple[str, str]]:
    sections = ", ".join(f"{name} {size}" for name, size in fact["sections"].items() if size)
    lines = [
        ("file", fact["file"]),
        ("picture", f"{fact['width']}x{fact['height']} pixels"),
        ("size", f"{fact['bytes']:,} bytes, {fact['bpp']:.4f} bpp"),
        ("kind", fact["kind"].replace("_", " ")),
        ("quality", _quality(fact)),
        ("model id", fact["model_id"]),
        ("version", f"{fact['version']}"),
        *((_NAMED.get(found["name"], found["name"]), found["id"]) for found in fact["extensions"] if "id" in found),
        ("beside", _beside(fact)),
        ("sections", f"{sections} bytes"),
        ("valid", "yes" if fact["valid"] else "no"),
    ]
    return [line for line in lines if line[1] != "-"]


def _beside(fact: dict[str, Any]) -> str:
    """What the file carries beside the picture, and how much of it is that; `-` for nothing."""
    parts = [f"{found['name']} {found['bytes']:,}" for found in fact["extensions"] if "id" not in found]
    return f"{', '.join(parts)} bytes" if parts else "-"


def _row(fact: dict[str, Any]) -> list[str]:
    return [
        fact["file"],
        fact["kind"].replace("_", " "),
        _quality(fact),
        f"{fact['width']}x{fact['height']}",
        f"{fact['bytes']:,}",
        f"{fact['bpp']:.4f}",
        fact["model_id"],
        f"{fact['version']}",
    ]


def _quality(fact: dict[str, Any]) -> str:
    return "-" if fact["quality"] is None else f"{fact['quality']}"
