"""Standard input and output in the place of files."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from onedc_hf.coding import inspect

from ..fake_pipeline import FakePipeline

_RUN = f"""
import sys, types
from {FakePipeline.__module__} import FakePipeline
sys.modules["onedc_hf.pipeline"] = types.ModuleType("onedc_hf.pipeline")
sys.modules["onedc_hf.pipeline"].OneDCPipeline = FakePipeline
from onedc_hf.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments: str, given: bytes = b"", into: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    """`onedc` in a process of its own, with the model that needs no weights."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    command: Sequence[str] = [sys.executable, "-c", _RUN, *arguments]
    return subprocess.run(command, input=given, stdout=into, stderr=subprocess.PIPE, env=environment)


def test_a_picture_goes_through_pipes_and_comes_back(photos: Path) -> None:
    packed = run("compress", "-", given=(photos / "a.png").read_bytes())
    assert packed.returncode == 0 and inspect(packed.stdout)["valid"] and b"70x50" not in packed.stdout
    assert packed.stderr.startswith(b"- -> /dev/stdout  ")
    rebuilt = run("decompress", "-", given=packed.stdout)
    assert rebuilt.returncode == 0
    with Image.open(io.BytesIO(rebuilt.stdout)) as picture:
        assert (picture.format, picture.size) == ("PNG", (70, 50))
    assert b"70x50" in run("info", "-", given=packed.stdout).stdout
    assert not list(Path().glob("*.odc")) and not list(Path().glob("-*"))


def test_one_side_may_be_a_file(photos: Path) -> None:
    given = (photos / "a.png").read_bytes()
    assert run("compress", "-", "-o", "a.odc", given=given).returncode == 0
    again = run("compress", "-", "-o", "a.odc", given=given)
    assert again.returncode == 1 and b"a.odc exists" in again.stderr
    assert run("compress", "/dev/stdin", "-o", "a.odc", "--resume", given=given).returncode == 0
    assert run("compress", str(photos / "a.png"), "-o", "-").stdout == Path("a.odc").read_bytes()
    assert run("decompress", "-", "-o", "a.jpg", given=Path("a.odc").read_bytes()).returncode == 0
    with Image.open("a.jpg") as picture:
        assert picture.format == "JPEG"


@pytest.mark.parametrize("output", ["-", "/dev/stdout"])
def test_no_report_gets_into_what_is_handed_on(photos: Path, output: str) -> None:
    with open("a.odc", "wb") as file:
        done = run("compress", "photos/a.png", "-o", output, into=file.fileno())
    assert inspect(Path("a.odc").read_bytes())["valid"] and b"photos/a.png -> /dev/stdout  " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["compress", "-", "photos/a.png"], 2, b"give it alone"),
        (["compress", "photos", "-o", "-"], 2, b"for a folder: -o FOLDER/"),
        (["compress", "photos/a.png", "photos/b.png", "-o", "-"], 2, b"one file"),
        (["compress", "photos/none.png", "-o", "-"], 1, b"photos/none.png: no such file"),
        (["compress", "-"], 1, b"-: "),  # nothing arrives
        (["decompress", "-"], 1, b"-: The file has 0 byte(s)"),
    ],
)
def test_what_cannot_be_handed_on_is_one_line_and_no_output(
    photos: Path, arguments: list[str], code: int, says: bytes
) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, b"") and says in done.stderr
    assert b"Traceback" not in done.stderr


def test_nobody_reading_is_one_line(photos: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run("compress", "photos/a.png", "-o", "-", into=writer)
    os.close(writer)
    assert done.returncode == 1 and b"cannot be written: Broken pipe" in done.stderr and b"Traceback" not in done.stderr


def test_a_terminal_gets_no_bytes(photos: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    try:
        done = run("compress", "photos/a.png", "-o", "-", into=theirs)
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 2 and b"nothing for a terminal" in done.stderr
