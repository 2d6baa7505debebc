"""What ships: float16 values, tables of the hyper-latent, an identity that holds, and a refusal of worse weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onedc_hf import OneDCPipeline
from onedc_hf.errors import ModelError
from onedc_hf.training import release
from onedc_hf.training.adversary import DISCRIMINATORS, Adversary
from onedc_hf.training.features import LiteFeatures
from onedc_hf.training.release import Refused, finish_weights, measure_models


def test_finished_weights_keep_their_identity_and_code(
    tiny_folder: Path, photographs: Path, picture: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    finish_weights(pipe, sorted(photographs.glob("*.png")))
    counts = pipe.codec.entropy.z_counts.view(7, -1, 4)
    assert (counts.sum(-1) == 2**16).all() and counts.min() >= 1
    pipe.save_pretrained(tmp_path)
    loaded = OneDCPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert loaded.model_id == pipe.model_id == pipe.codec.config.model_id
    assert loaded.generator.unet.conv_in.weight.dtype == torch.float32
    assert torch.equal(loaded.generator.unet.conv_in.weight.half().float(), loaded.generator.unet.conv_in.weight)
    data = loaded.compress(picture(64, 96), quality=60)
    assert loaded.decompress(data).size == (96, 64)
    # Tables that are there are kept: fitting them again would be another model.
    again = OneDCPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    finish_weights(again, [])
    assert again.model_id == pipe.model_id


def test_pictures_that_are_missing_stop_a_release(tiny_folder: Path, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="held-out"):
        release.release(str(tiny_folder), photographs, photographs, tmp_path)
    assert not list(tmp_path.iterdir())


def test_models_are_measured_side_by_side(
    tiny_folder: Path, tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    Image.fromarray(picture(192, 192)).save(tmp_path / "a.png")
    found = measure_models({"one": tiny_folder, "other": tiny_folder}, [tmp_path / "a.png"])
    assert found["one"] == found["other"] and 0 < found["one"].score < 10


def test_a_release_takes_the_runs_discriminators_if_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    box, run = tmp_path / "box.safetensors", tmp_path / DISCRIMINATORS
    box.write_bytes(b"earlier")
    monkeypatch.setattr(release, "BOX_DISCRIMINATORS", box)
    release.keep_discriminators(run)
    assert box.read_bytes() == b"earlier" and "earlier run" in capsys.readouterr().out
    Adversary([8, 16], 1e-3).save(run)
    with pytest.raises(ModelError, match="channels"):
        release.keep_discriminators(run)
    assert box.read_bytes() == b"earlier"
    Adversary(LiteFeatures().channels, 1e-3).save(run)
    release.keep_discriminators(run)
    assert box.read_bytes() == run.read_bytes()
