"""The README's examples run as they stand, its links lead somewhere, and its generated block can be filled."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PICTURES = ROOT / "src" / "onedc_hf" / "box" / "pictures"


def examples(language: str) -> list[str]:
    """Return the code blocks that are marked to be run."""
    return re.findall(rf"<!-- run -->\n```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """A folder with a photo.jpg, as the reader would have."""
    shutil.copy(sorted(PICTURES.glob("*.jpg"))[0], tmp_path / "photo.jpg")
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_example_runs(folder):
    (code,) = examples("python")
    printed = run([sys.executable, "-c", code], folder)
    assert int(printed.split()[0]) <= 1500
    with Image.open(folder / "photo.jpg") as original, Image.open(folder / "rebuilt.png") as rebuilt:
        assert original.size == rebuilt.size


def test_command_line_example_runs(folder):
    (code,) = examples("bash")
    printed = run(["bash", "-euo", "pipefail", "-c", code], folder)
    facts = json.loads(printed[printed.index("{") :])
    with Image.open(folder / "photo.jpg") as original, Image.open(folder / "b.png") as rebuilt:
        assert original.size == rebuilt.size == (facts["width"], facts["height"])
    size = (folder / "a.odc").stat().st_size
    assert facts["bytes"] == size
    assert facts["bpp"] == 8 * size / (facts["width"] * facts["height"])


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "model_cards/README.md",
        "benchmarks/README.md",
        "spaces/onedc/README.md",
        *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
    ],
)
def test_local_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def test_every_path_in_the_tables_exists():
    cells = re.findall(r"^\| (`[^|]+`) \|", README, re.MULTILINE)
    rows = [re.findall(r"`([\w./-]+)`", cell) for cell in cells]
    rows = [row for row in rows if "/" in row[0]]  # of other tables, commands
    assert len(rows) > 15 and max(map(len, rows)) > 3
    for first, *others in rows:
        assert (ROOT / first).exists(), first
        for other in others:  # beside the first one, or with a path of its own
            assert (ROOT / first).parent.joinpath(other).exists() or (ROOT / other).exists(), other


def test_kodak_block_can_be_filled():
    assert README.count("<!-- kodak:begin -->") == README.count("<!-- kodak:end -->") == 1
    assert README.index("<!-- kodak:begin -->") < README.index("<!-- kodak:end -->")


@pytest.mark.parametrize("target", ["demo", "test", "test-oldest", "lint", "types", "bench", "release-box"])
def test_makefile_has_the_targets_the_pages_name(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
