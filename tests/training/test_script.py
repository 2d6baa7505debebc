"""`train_onedc.py` alone in an empty folder: trains, is killed and goes on, publishes; and what its header asks for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from packaging.requirements import Requirement
from PIL import Image

import onedc_hf
from onedc_hf import OneDCPipeline
from tests.hub.conftest import hub
from tests.hub.loopback import LoopbackHub

__all__ = ["hub"]  # a fixture

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / "pipelines" / f"{name}_onedc.py" for name in ("train", "evaluate")]


def _header(script: Path) -> dict:
    """The script's PEP 723 block, read as that specification says."""
    pattern = r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$"
    (block,) = re.finditer(pattern, script.read_text(encoding="utf-8"))
    return tomllib.loads("".join(line[2:] + "\n" for line in block["content"].splitlines()))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_asks_for_this_release_and_for_extras_that_exist(script: Path) -> None:
    header = _header(script)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (requirement,) = map(Requirement, header["dependencies"])
    assert requirement.name == project["name"] and requirement.specifier.contains(onedc_hf.__version__, True)
    assert requirement.extras and requirement.extras <= project["optional-dependencies"].keys()
    assert header["requires-python"] == project["requires-python"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_hub_jobs_accept_a_script(script: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("hf")), "jobs", "uv", "run", "--dry-run", "--format", "human"]
    # A header that asks for a secret takes it from the environment.
    own = {"HF_TOKEN": "hf_nobody", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "NO_COLOR": "1"}
    done = subprocess.run(
        [*command, str(script), "--config", "box-stage1"],
        env=os.environ | own, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = dict(re.findall(r"^ +(\w+) +(.*)$", done.stdout + done.stderr, re.MULTILINE))
    table = _header(script)["tool"]["hf-jobs"]
    assert shown["flavor"] == f"{table['flavor']} (from script)"
    assert shown["timeout"] == f"{table['timeout']} (from script)" and int(table["timeout"].rstrip("h")) >= 6
    assert shown["secrets"].startswith("HF_TOKEN=***") and shown["args"] == "--config box-stage1"


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """An empty folder with the script in it."""
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copyfile(SCRIPTS[0], folder / "train_onedc.py")
    return folder


@pytest.fixture
def arguments(photographs: Path, tiny_config: Path, tmp_path: Path) -> list[str]:
    """Arguments of a run of the tiny model on the four pictures."""
    settings = {
        "model": str(tiny_config), "train_data_dir": str(photographs), "output_dir": "run", "resolution": 64,
        "train_batch_size": 2, "feature_weight": 0.0, "ms_ssim_weight": 0.0, "logging_steps": 1, "num_threads": 1,
    }  # fmt: skip
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    return ["train_onedc.py", "--config", str(path)]


def _logged(folder: Path) -> list[int]:
    log = folder / "run" / "log.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def test_the_script_is_killed_and_goes_on(
    alone: Path, arguments: list[str], tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, *arguments, "--checkpointing_steps", "5"]
    with subprocess.Popen(
        [*command, "--max_train_steps", "1000000"], cwd=alone, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while process.poll() is None and not list((alone / "run").glob("checkpoint-*")):
            time.sleep(0.1)
        process.kill()
        error = process.communicate()[1]
    assert process.returncode < 0, error  # by the signal, not by itself
    reached = max(int(path.name.split("-")[1]) for path in (alone / "run").glob("checkpoint-*"))
    before = len(_logged(alone))

    end = reached + 2
    done = subprocess.run(
        [*command, "--max_train_steps", str(end), "--resume_from_checkpoint", "latest"],
        cwd=alone, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert _logged(alone)[before:] == [reached + 1, end]
    assert (alone / "run" / f"checkpoint-{end}").is_dir()
    pipe = OneDCPipeline.from_pretrained(alone / "run" / "pipeline")
    assert pipe.decompress(pipe.compress(picture(64, 64), quality=80)).size == (64, 64)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_script_validates_and_publishes(
    hub: LoopbackHub, alone: Path, arguments: list[str], photographs: Path, tmp_path: Path, processes: int
) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if processes == 2 else []
    wanted = ["--max_train_steps", "2", "--validation_images", str(photographs), "--validation_steps", "1"]
    wanted += ["--validation_bpp", "0.5", "--report_to", "tensorboard", "--tracker_project_name", "holiday"]
    wanted += ["--push_to_hub", "--hub_model_id", "alice/trained", "--hub_private_repo"]
    done = subprocess.run(
        [sys.executable, *launcher, *arguments, *wanted],
        cwd=alone, env=hub.environment(tmp_path / "home") | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    repo, files = hub.repos["models", "alice/trained"], hub.files("alice/trained")
    assert repo.private and len(repo.commits) == 2 and not [name for name in files if name.startswith("checkpoint-")]
    card = ModelCard(files["README.md"].decode())
    assert "| Steps | 2 |" in card.text and "| 0.5 bpp |" in card.text
    assert [path.name for path in sorted((alone / "run" / "validation").glob("*.png"))] == [
        "step-000001.png", "step-000002.png",
    ]  # fmt: skip
    (tmp_path / "sheet.png").write_bytes(files["validation.png"])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 300

    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (project,) = (path for path in (alone / "run").rglob("holiday") if path.is_dir())
    found = accumulators.EventAccumulator(str(project)).Reload()
    assert [event.step for event in found.Images("validation/sheet")] == [1, 2]
    assert [event.step for event in found.Scalars("validation/bpp/0.5 bpp")] == [1, 2]
    assert [event.step for event in found.Scalars("pixel")] == [1, 2]

    (tmp_path / "model").mkdir()
    for name, content in files.items():
        target = tmp_path / "model" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    pipe = OneDCPipeline.from_pretrained(tmp_path / "model")
    assert pipe.codec.config.entropy_path == "exact" and pipe.model_id in card.text


def test_a_run_that_cannot_be_published_is_refused_before_the_first_step(
    hub: LoopbackHub, alone: Path, arguments: list[str], tmp_path: Path
) -> None:
    hub.upload("bob/there", SCRIPTS[0].parent)
    done = subprocess.run(
        [sys.executable, *arguments, "--push_to_hub", "--hub_model_id", "bob/there"],
        cwd=alone, env=hub.environment(tmp_path / "home"), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 1 and "published as 'bob/there'" in done.stderr and "Traceback" not in done.stderr
    assert _logged(alone) == [] and not list(alone.rglob("checkpoint-*"))


def test_the_script_publishes_an_adapter(
    hub: LoopbackHub, alone: Path, arguments: list[str], tiny_folder: Path, tmp_path: Path
) -> None:
    wanted = ["--max_train_steps", "1", "--init_from", str(tiny_folder), "--freeze", "codec", "gain_anchors", "vae"]
    wanted += ["--train_lora", "--rank", "2", "--push_to_hub", "--hub_model_id", "alice/adapter"]
    done = subprocess.run(
        [sys.executable, *arguments, *wanted],
        cwd=alone, env=hub.environment(tmp_path / "home"), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = hub.files("alice/adapter")
    assert {"README.md", "pytorch_lora_weights.safetensors", "train_config.json"} <= set(files)
    card = ModelCard(files["README.md"].decode())
    assert "lora" in card.data.tags and 'load_lora_weights("alice/adapter")' in card.text
    assert str(tiny_folder) not in files["README.md"].decode() + files["train_config.json"].decode()
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(files["pytorch_lora_weights.safetensors"])
    OneDCPipeline.from_pretrained(tiny_folder).load_lora_weights(tmp_path)
