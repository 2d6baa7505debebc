"""Trackers: names are checked before work begins, and pictures arrive in each of them."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image

from onedc_hf.training import trackers
from onedc_hf.training.trackers import TRACKERS, Trackers, tracker_names

SETTINGS = {"steps": 2, "rate": 0.5, "flag": True, "freeze": ["a", "b"], "predictor": {"x": 1}, "nothing": None}
SECRET = "hf_secret_token"

# A tracker reads its environment when it is imported, so each runs in a process of its own.
REPORT = """
import sys
import numpy as np
from PIL import Image
from accelerate import Accelerator
from onedc_hf.training.trackers import Trackers, tracker_names

name, folder = sys.argv[1:]
accelerator = Accelerator(log_with=tracker_names(name), project_dir=folder)
settings = {"steps": 2, "freeze": ["a", "b"], "hub_token": "hf_secret_token"}
trackers = Trackers(accelerator, "project", settings)
trackers.log({"loss": 1.5}, step=1)
first, second = (np.load(f"{folder}/{i}.npy") for i in range(2))
trackers.log_pictures("validation/sheet", [first, Image.fromarray(second)], 1, ["z-only", "0.03 bpp"])
trackers.log({"loss": 1.25}, step=2)
trackers.log_pictures("alone", [first], 2)
trackers.finish()
"""


@pytest.fixture
def pair(picture: Callable[..., np.ndarray]) -> list[np.ndarray]:
    """Two pictures of different sizes."""
    return [picture(20, 30, 0), picture(24, 16, 1)]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that says which packages are there."""

    def pretend(*names: str) -> None:
        monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: name if name in names else None)

    return pretend


def _report(name: str, folder: Path, pair: list[np.ndarray]) -> None:
    for i, array in enumerate(pair):
        np.save(folder / f"{i}.npy", array)
    # Neither may ask for anything outside the folder.
    own = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(folder / "trackio"), "HF_HUB_OFFLINE": "1"}
    own |= {
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_CONFIG_DIR": str(folder),
        "WANDB_CACHE_DIR": str(folder),
        "WANDB_DATA_DIR": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:onedc_hf", "-c", REPORT, name, str(folder)],
        env=os.environ | own, cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not any(SECRET.encode() in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_none_is_no_tracker() -> None:
    assert tracker_names("none") is None and tracker_names(["none"]) is None and tracker_names([]) is None


def test_one_or_several_or_all_that_are_there(installed: Callable[..., None]) -> None:
    installed("tensorboard", "wandb")
    assert tracker_names("wandb") == ["wandb"]
    assert tracker_names(["wandb", "tensorboard", "wandb"]) == ["wandb", "tensorboard"]
    assert tracker_names("all") == ["tensorboard", "wandb"]


def test_a_tracker_that_is_not_installed_is_an_error(installed: Callable[..., None]) -> None:
    installed("tensorboard")
    with pytest.raises(ImportError, match="pip install wandb"):
        tracker_names(["tensorboard", "wandb"])
    installed()
    with pytest.raises(ImportError, match="trackers"):
        tracker_names("all")


@pytest.mark.parametrize(
    ("names", "text"),
    [(["tensorbord"], "tensorbord"), (["none", "tensorboard"], "'none' alone"), (["wandb", "all"], "'all' alone")],
)
def test_names_that_make_no_sense_are_refused(names: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tracker_names(names)


@pytest.mark.parametrize("names", [["wandb"], ["all"]])
def test_wandb_is_refused_beside_a_token_in_the_arguments(names: list[str], installed: Callable[..., None]) -> None:
    installed(*TRACKERS)
    with pytest.raises(ValueError, match="hf auth login"):
        tracker_names(names, hub_token="hf_x")
    assert tracker_names(["tensorboard", "trackio"], hub_token="hf_x") == ["tensorboard", "trackio"]


def test_tensorboard_has_numbers_settings_and_pictures(tmp_path: Path, pair: list[np.ndarray]) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accelerator = Accelerator(log_with=tracker_names("tensorboard"), project_dir=str(tmp_path))
    opened = Trackers(accelerator, "project", SETTINGS | {"hub_token": SECRET})
    opened.log({"loss": 1.5}, step=1)
    opened.log_pictures("sheet", [pair[0], Image.fromarray(pair[1])], 1, ["z-only", "0.03 bpp"])
    opened.log_pictures("alone", [pair[0]], 2)
    opened.finish()

    found = accumulators.EventAccumulator(str(tmp_path / "project")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 1.5)]
    assert sorted(found.Tags()["images"]) == ["alone", "sheet/0", "sheet/1"]
    for tag, step, expected in (("sheet/0", 1, pair[0]), ("sheet/1", 1, pair[1]), ("alone", 2, pair[0])):
        (event,) = found.Images(tag)
        shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        assert event.step == step and np.array_equal(shown, expected)
    (text,) = found.Tensors("sheet/captions/text_summary")
    assert b"z-only" in text.tensor_proto.string_val[0]
    (hparams,) = tmp_path.rglob("hparams.yml")
    written = hparams.read_text()
    assert "freeze: a b" in written and "nothing" not in written
    assert not any(SECRET.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_trackio_has_numbers_settings_and_pictures(tmp_path: Path, pair: list[np.ndarray]) -> None:
    pytest.importorskip("trackio")
    _report("trackio", tmp_path, pair)
    connection = sqlite3.connect(tmp_path / "trackio" / "project.db")
    rows = [(step, json.loads(values)) for step, values in connection.execute("SELECT step, metrics FROM metrics")]
    (settings,) = connection.execute("SELECT config FROM configs").fetchone()
    connection.close()
    assert [(step, row["loss"]) for step, row in rows if "loss" in row] == [(1, 1.5), (2, 1.25)]
    assert json.loads(settings)["freeze"] == "a b"
    shown = {tag: (step, value) for step, row in rows for tag, value in row.items() if isinstance(value, dict)}
    expected = {"validation/sheet/0": (1, pair[0], "z-only"), "validation/sheet/1": (1, pair[1], "0.03 bpp")}
    expected["alone"] = (2, pair[0], "")
    assert sorted(shown) == sorted(expected)
    for tag, (step, array, caption) in expected.items():
        assert shown[tag][0] == step and (shown[tag][1]["caption"] or "") == caption
        file = tmp_path / "trackio" / "media" / shown[tag][1]["file_path"]
        assert np.array_equal(np.asarray(Image.open(file).convert("RGB")), array)  # it adds an alpha plane


def test_wandb_has_pictures(tmp_path: Path, pair: list[np.ndarray]) -> None:
    pytest.importorskip("wandb")
    _report("wandb", tmp_path, pair)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    shown = [np.asarray(Image.open(file)) for file in sorted((run / "files" / "media").rglob("*.png"))]
    assert len(shown) == 3
    for array, times in ((pair[0], 2), (pair[1], 1)):
        assert sum(np.array_equal(one, array) for one in shown) == times
    (record,) = run.glob("*.wandb")
    assert all(text in record.read_bytes() for text in (b"validation/sheet", b"z-only", b"alone", b"loss"))


def test_pictures_of_another_kind_are_refused(tmp_path: Path) -> None:
    opened = Trackers(Accelerator(project_dir=str(tmp_path)), "project")
    with pytest.raises(ValueError, match="uint8"):
        opened.log_pictures("a", [np.zeros((4, 4, 3), np.float32)], 1)
    with pytest.raises(ValueError, match="captions"):
        opened.log_pictures("a", [np.zeros((4, 4, 3), np.uint8)], 1, ["b", "c"])
