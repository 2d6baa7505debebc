"""What the wheel holds, and what the project's own files promise about environments."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import onedc_hf

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built without isolation where the build back end is at hand."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_wheel_holds_everything_the_package_reads(wheel):
    names = set(wheel.namelist())
    package = ROOT / "src" / "onedc_hf"
    for path in package.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert path.relative_to(package.parent).as_posix() in names
    assert {"onedc_hf/py.typed", "onedc_hf/coding/gaussian_cdf.npz"} <= names
    assert any(name.startswith("onedc_hf/box/") and name.endswith(".safetensors") for name in names)


def test_wheel_holds_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"onedc_hf", f"onedc_hf-{onedc_hf.__version__}.dist-info"}


@pytest.mark.parametrize(("part", "mebibytes"), [("model", 24), ("earlier", 16)])
def test_box_weights_stay_small(wheel, part, mebibytes):
    weights = [item for item in wheel.infolist() if item.filename.endswith((".safetensors", ".safetensors.xz"))]
    sizes = [item.file_size for item in weights if item.filename.startswith(f"onedc_hf/box/{part}/")]
    assert 0 < sum(sizes) < mebibytes * 2**20


def test_wheel_holds_no_other_models(wheel):
    weights = [item.filename for item in wheel.infolist() if ".safetensors" in item.filename]
    elsewhere = [name for name in weights if not name.startswith(("onedc_hf/box/model/", "onedc_hf/box/earlier/"))]
    data = "onedc_hf/training/data"
    assert set(elsewhere) == {f"{data}/box-tokenizer.safetensors", f"{data}/box-discriminators.safetensors"}
    assert sum(wheel.getinfo(name).file_size for name in elsewhere) < 2**20


def test_wheel_states_licence_and_command(wheel):
    info = f"onedc_hf-{onedc_hf.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "onedc = onedc_hf.cli.main:main" in wheel.read(f"{info}/entry_points.txt").decode()


def pins(name: str) -> dict[str, str]:
    """Read a constraint file: normalised name -> version."""
    lines = (ROOT / "constraints" / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normalised(package): version for package, version in pairs}


def normalised(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


@pytest.mark.parametrize("name", ["newest.txt", "oldest.txt"])
def test_constraints_are_exact_and_leave_torch_to_the_makefile(name):
    constraints = pins(name)
    assert not {"torch", "torchvision", "onedc-hf"} & set(constraints)
    text = (ROOT / "constraints" / name).read_text(encoding="utf-8")
    assert not re.search(r"^\s*-|://|@", text, re.MULTILINE)


def test_oldest_pins_are_the_lower_bounds_of_the_project():
    oldest = pins("oldest.txt")
    for requirement in PROJECT["dependencies"]:
        match = re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", requirement)
        assert match is not None, requirement
        package, bound = normalised(match[1]), match[2]
        if package != "torch":
            assert oldest[package].startswith(bound), f"{package}: {bound} in pyproject.toml, {oldest[package]} tested"


def test_newest_pins_cover_every_dependency():
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + [line for extra in ("train", "eval", "space", "test") for line in extras[extra]]
    for requirement in wanted:
        package = normalised(re.match(r"[A-Za-z0-9_.-]+", requirement)[0])
        assert package == "torch" or package in pins("newest.txt"), requirement


@pytest.mark.parametrize("extra", ["train", "eval", "space", "test"])
def test_no_extra_that_make_installs_asks_for_torchvision(extra):
    assert not [line for line in PROJECT["optional-dependencies"][extra] if "torchvision" in line or "lpips>" in line]


def test_no_torchvision_is_installed():
    from importlib.util import find_spec

    assert find_spec("torchvision") is None
