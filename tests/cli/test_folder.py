"""A folder of pictures: a process that is killed half way, and two at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onedc_hf import OneDCPipeline

COUNT = 40
# `onedc`, but before the fourth file is written it waits, for ever: whoever kills it does so in the middle.
WAITS = """
import sys
from onedc_hf.cli import compress
from onedc_hf.cli.main import main

write, done = compress.write_output, []

def wait_or_write(job, data):
    done.append(job)
    return write(job, data) if len(done) <= 3 else sys.stdin.read()

compress.write_output = wait_or_write
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Many pictures of different sizes."""
    rng = np.random.default_rng(0)
    (tmp_path / "many").mkdir()
    for i in range(COUNT):
        noise = Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8))
        noise.resize((60 + i, 50), Image.Resampling.BICUBIC).save(tmp_path / "many" / f"{i:02}.png")
    return tmp_path / "many"


def _start(folder: Path, model: Path, program: tuple[str, str] = ("-m", "onedc_hf.cli.main")) -> subprocess.Popen[str]:
    command = [sys.executable, *program, "compress", str(folder), "-o", f"{folder}/../small/"]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*command, "--resume", "--model", str(model)], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def _written(folder: Path) -> list[Path]:
    return sorted((folder.parent / "small").glob("*.odc"))


def test_a_killed_process_leaves_whole_files_and_the_next_one_goes_on(folder: Path, tiny_folder: Path) -> None:
    process = _start(folder, tiny_folder, ("-c", WAITS))
    while len(_written(folder)) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    first = {path: path.read_bytes() for path in _written(folder)}
    assert len(first) == 3
    for data in first.values():
        pipe.read_symbols(data)  # raises for anything but a whole file
    process = _start(folder, tiny_folder)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert f"{len(first)} file" in out and "there already" in out
    assert len(_written(folder)) == COUNT
    assert {path: path.read_bytes() for path in first} == first


def test_two_processes_at_one_folder_do_not_clash(folder: Path, tiny_folder: Path) -> None:
    both = [_start(folder, tiny_folder) for _ in range(2)]
    for process in both:
        _, err = process.communicate()
        assert process.returncode == 0 and "Traceback" not in err, err
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    assert len(_written(folder)) == COUNT
    for path in _written(folder):
        assert pipe.read_symbols(path).header.width == 60 + int(path.stem)
    assert not list((folder.parent / "small").glob(".*"))  # no temporary file is left
