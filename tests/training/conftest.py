"""A folder of small pictures and a model config that trains in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState, PartialState
from PIL import Image

from onedc_hf.training.config import TrainConfig
from tests.conftest import TINY_MODEL

SCHEDULER = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps its settings for the whole process: each test begins without those of the one before."""
    yield
    AcceleratorState._reset_state(True)
    PartialState._reset_state()


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., np.ndarray]) -> Path:
    """Four pictures in a folder."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(4):
        Image.fromarray(picture(96, 112, seed)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a model config file, with as many channels of `y` as the transform-codec start needs."""
    model: dict[str, Any] = json.loads(json.dumps(TINY_MODEL)) | {"scheduler": SCHEDULER}
    model["codec"]["y_channels"] = 16
    for part, changes in {
        "codec": {"fused_channels": 16, "trunk_channels": [32, 16, 16], "synthesis_channels": [32, 16]},
        "vae": {"encoder_channels": 16, "decoder_channels": 16, "head_channels": 12},
    }.items():
        model[part] |= changes
    path = tmp_path_factory.mktemp("config") / "tiny.json"
    path.write_text(json.dumps(model))
    return path


@pytest.fixture
def config(photographs: Path, tiny_config: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Makes the settings of a run of two steps on the tiny model, with changes."""

    def make(**changes: object) -> TrainConfig:
        settings: dict[str, object] = {
            "model": str(tiny_config),
            "train_data_dir": str(photographs),
            "output_dir": str(tmp_path / "run"),
            "resolution": 64,
            "train_batch_size": 2,
            "max_train_steps": 2,
            "feature_weight": 0.0,
            "ms_ssim_weight": 0.0,
            "logging_steps": 1,
            "lr_warmup_steps": 0,
        }
        return TrainConfig(**(settings | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def parquet_folder(photographs: Path, tmp_path: Path) -> Path:
    """A data set as `push_to_hub` and `to_parquet` write it: three pictures to train on, one to test with."""
    import datasets

    folder = tmp_path / "photos"
    folder.mkdir()
    features = datasets.Features({"photo": datasets.Image()})
    for split, rows in (("train", range(3)), ("test", [3])):
        embedded = datasets.Dataset.from_list(
            [{"photo": {"bytes": (photographs / f"{i}.png").read_bytes(), "path": f"{i}.png"}} for i in rows],
            features=features,
        )
        embedded.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder
