"""What ships: float16 values, tables of the hyper-latent, an identity that holds, and a refusal of worse weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from onedc_hf import OneDCPipeline
from onedc_hf.errors import ModelError
from onedc_hf.training import release
from onedc_hf.training.adversary import DISCRIMINATORS, Adversary
from onedc_hf.training.features import LiteFeatures
from onedc_hf.training.held_out import HeldOut
from onedc_hf.training.release import Refused, finish_weights, measure_models


def _with_decoder_times(model: Path, factor: float, folder: Path) -> Path:
    """A copy of a model that rebuilds other pictures from the same files."""
    pipe = OneDCPipeline.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        for parameter in pipe.vae.decoder.parameters():
            parameter.mul_(factor)
    pipe.save_pretrained(folder)
    return folder


def _decoder_size(folder: Path) -> float:
    """A number that says whose decoder lies in a folder."""
    weights = load_file(next((folder / "vae").glob("*.safetensors")))
    return max(float(weight.abs().max()) for name, weight in weights.items() if name.startswith("decoder."))


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _Shop:
    """A box with a model in place, pictures, and a repository to write to; measuring and showing are stubs.

    A model's score is the size of its decoder's weights: the smaller the better.
    """

    def __init__(self, folder: Path, model: Path, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch):
        self.box, self.photographs, self.repository = folder / "box", folder / "photographs", folder / "repository"
        self.shown: list[float] = []  # the decoder in the box when it was shown
        for path in (self.photographs / "held.jpg", self.photographs / "used.jpg", self.box / "pictures" / "a.jpg"):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph).save(path)
        self.repository.mkdir()
        shutil.copytree(model, self.box / "model")
        for module in ("releases", "loading", "training.release"):  # each has the name by value
            monkeypatch.setattr(f"onedc_hf.{module}.BOX", self.box)
        names = {"box-heldout.txt": frozenset({"held.jpg"}), "box-excluded.txt": frozenset()}
        monkeypatch.setattr(release, "read_names", lambda path: names[Path(path).name])
        monkeypatch.setattr(release, "measure_models", self._measure)
        monkeypatch.setattr(release, "show_box", lambda *_: self.shown.append(_decoder_size(self.box / "model")))

    def _measure(self, models: dict[str, Path], pictures: list[Path]) -> dict[str, HeldOut]:
        assert models.keys() == {"candidate", "in place"} and pictures == [self.photographs / "held.jpg"]
        return {name: HeldOut(_decoder_size(folder), {}, {}) for name, folder in models.items()}

    def release(self, candidate: Path) -> None:
        release.release(str(candidate), self.photographs, self.photographs, self.repository)


@pytest.fixture
def shop(
    tiny_folder: Path, tmp_path: Path, picture: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> _Shop:
    return _Shop(tmp_path / "shop", tiny_folder, picture(128, 128), monkeypatch)


def test_weights_that_score_worse_do_not_ship(shop: _Shop, tiny_folder: Path, tmp_path: Path) -> None:
    worse = _with_decoder_times(tiny_folder, 1.5, tmp_path / "worse")
    before = _contents(tmp_path / "shop")
    with pytest.raises(Refused, match="worse than"):
        shop.release(worse)
    assert _contents(tmp_path / "shop") == before and not shop.shown


def test_weights_that_score_better_take_the_place_of_the_others(shop: _Shop, tiny_folder: Path, tmp_path: Path) -> None:
    earlier = OneDCPipeline.from_pretrained(tiny_folder).model_id
    shop.release(_with_decoder_times(tiny_folder, 0.5, tmp_path / "better"))
    assert shop.shown == [pytest.approx(0.5 * _decoder_size(tiny_folder), rel=1e-3)]
    later = OneDCPipeline.from_pretrained().model_id  # another one: tables of the hyper-latent were fitted
    assert [one["model_id"] for one in json.loads((shop.box / "released.json").read_text())] == [later]
    assert later != earlier and [path.name for path in (shop.box / "earlier").iterdir()] == [earlier[:8]]
    fixtures = shop.repository / "tests" / "fixtures"
    assert json.loads((fixtures / "box" / "facts.json").read_text())["model_id"] == later
    assert [fact["model_id"] for fact in json.loads((fixtures / "kept" / "facts.json").read_text())] == [later]


def test_weights_that_are_too_large_do_not_ship(
    shop: _Shop, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    better = _with_decoder_times(tiny_folder, 0.5, tmp_path / "better")
    monkeypatch.setattr(release, "MAX_BYTES", 100_000)
    before = _contents(tmp_path / "shop")
    with pytest.raises(Refused, match="MiB may ship"):
        shop.release(better)
    assert _contents(tmp_path / "shop") == before and not shop.shown


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
    brighter = _with_decoder_times(tiny_folder, 3, tmp_path / "brighter")
    found = measure_models({"one": tiny_folder, "brighter": brighter}, [tmp_path / "a.png"])
    assert 0 < found["one"].score < 10 and found["brighter"].score != found["one"].score


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
