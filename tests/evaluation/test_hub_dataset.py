"""`onedc evaluate` on a data set that lies on a (loopback) Hub, and by two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from onedc_hf.cli.main import main

from ..hub.loopback import LoopbackHub

PIPELINE = Path(__file__).parents[2] / "pipelines" / "evaluate_onedc.py"
OPTIONS = ["--rates", "0.5", "--metrics", "psnr", "--codecs", "webp"]


@pytest.fixture
def folder(tmp_path, picture):
    (tmp_path / "photographs").mkdir()
    for index in range(3):
        Image.fromarray(picture(64, 80, seed=index)).save(tmp_path / "photographs" / f"p{index}.png")
    return tmp_path / "photographs"


def evaluate(arguments, environment=None, launcher=()):
    command = [sys.executable, *launcher, *([] if launcher else ["-m", "onedc_hf.cli.main", "evaluate"]), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((Path(arguments[arguments.index("--out") + 1]) / "results.json").read_text())


def facts(results):
    return [{name: value for name, value in row.items() if not name.endswith("_seconds")} for row in results["rows"]]


@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_a_data_set_on_the_hub_gives_the_rows_of_the_folder(folder, tmp_path, tiny_folder, kind):
    model = ["--model", str(tiny_folder)]
    local = evaluate(["--dataset", str(folder), *model, "--out", str(tmp_path / "local"), *OPTIONS])
    repo = tmp_path / "repo"
    if kind == "parquet":
        assert main(["benchmark-repo", "photographs", str(folder), "--out", str(repo)]) == 0
    else:
        (repo / "test").mkdir(parents=True)
        for path in folder.iterdir():
            (repo / "test" / path.name).write_bytes(path.read_bytes())
    with LoopbackHub({"hf_alice": "alice"}) as hub:
        hub.upload("alice/photographs", repo, kind="datasets")
        environment = hub.environment(tmp_path / "home")
        arguments = ["--dataset", "alice/photographs", *model, "--out", str(tmp_path / "hub"), *OPTIONS]
        remote = evaluate(arguments, environment)
        assert any("/datasets/alice/photographs" in path for _, path in hub.requests)
    assert facts(remote) == facts(local)
    assert remote["dataset"] == {
        "name": "alice/photographs", "title": "alice/photographs", "split": "test", "pictures": 3,
        "limited": False, "limit": None, "benchmark": None,
        "revision": hub.repos["datasets", "alice/photographs"].at("main").sha,
    }  # fmt: skip


def test_a_data_set_that_is_not_there_is_an_error(tmp_path, tiny_folder):
    with LoopbackHub() as hub:
        command = [sys.executable, "-m", "onedc_hf.cli.main", "evaluate", "--dataset", "alice/none"]
        done = subprocess.run(
            [*command, "--model", str(tiny_folder), "--out", str(tmp_path / "out"), *OPTIONS],
            env=hub.environment(tmp_path / "home"), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert done.returncode == 1 and "alice/none" in done.stderr and "Traceback" not in done.stderr


def test_two_processes_give_the_rows_of_one(folder, tmp_path, tiny_folder):
    arguments = ["--dataset", str(folder), "--model", str(tiny_folder), *OPTIONS]
    one = evaluate([*arguments, "--out", str(tmp_path / "one")])
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(PIPELINE)]
    two = evaluate([*arguments, "--out", str(tmp_path / "two")], environment, launcher)
    assert facts(two) == facts(one) and len(two["rows"]) == 3 * 2 * 2
    assert {path.name for path in (tmp_path / "two").glob("rows-*.jsonl")} == {"rows-0.jsonl", "rows-1.jsonl"}
