"""Validation: real files, honest figures, and a model that is afterwards what it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from onedc_hf import OneDCPipeline
from onedc_hf.calibration import calibration_pictures
from onedc_hf.errors import ModelError, PictureError
from onedc_hf.evaluation.metrics import METRICS
from onedc_hf.pictures import load_picture
from onedc_hf.training.components import DECIDES_SYMBOLS, load_model, make_model, save_pipeline
from onedc_hf.training.config import TrainConfig
from onedc_hf.training.model import TrainableOneDC
from onedc_hf.training.picture_sets import open_pictures, open_split
from onedc_hf.training.validation import Validator, as_codec, rate_gap, validate
from onedc_hf.training.validation_pictures import named_pictures, split_pictures, validation_pictures


@pytest.fixture
def model(tiny_config: Path) -> TrainableOneDC:
    torch.manual_seed(0)
    return make_model(str(tiny_config)).train()


@pytest.fixture
def pictures(picture: Callable[..., np.ndarray]) -> dict[str, np.ndarray]:
    return {"wide": picture(180, 200, 0), "tall": picture(190, 176, 1)}


def test_figures_are_those_of_real_files(tiny_pipeline: OneDCPipeline, pictures: dict[str, np.ndarray]) -> None:
    result = validate(tiny_pipeline, pictures, bpp=[0.5])
    assert [point.setting for point in result.points] == ["z-only", "0.5 bpp"] and result.pictures == 2
    for point, rate in zip(result.points, ({"z_only": True}, {"target_bpp": 0.5}), strict=True):
        rates, fidelities, structures = [], [], []
        for one in pictures.values():
            data = tiny_pipeline.compress(one, **rate)
            rebuilt = np.asarray(tiny_pipeline.decompress(data))
            rates.append(8 * len(data) / (one.shape[0] * one.shape[1]))
            fidelities.append(METRICS["psnr"].compute(one, rebuilt))
            structures.append(METRICS["ms_ssim"].compute(one, rebuilt))
        assert point.bpp == pytest.approx(np.mean(rates)) and point.psnr == pytest.approx(np.mean(fidelities))
        assert point.ms_ssim == pytest.approx(np.mean(structures))
    assert result.values()["validation/bpp/0.5 bpp"] == result.points[1].bpp
    assert f"| 0.5 bpp | {result.points[1].bpp:.4f} |" in result.table()


def test_the_sheet_shows_originals_and_rebuilt_pictures(
    tiny_pipeline: OneDCPipeline, pictures: dict[str, np.ndarray]
) -> None:
    sheet = np.asarray(validate(tiny_pipeline, pictures, bpp=[0.5]).sheet)
    rebuilt = np.asarray(tiny_pipeline.decompress(tiny_pipeline.compress(pictures["wide"], z_only=True)))
    for shown in (pictures["wide"], rebuilt):
        height, width = shown.shape[:2]
        corners = np.argwhere((sheet[:-height, :-width] == shown[0, 0]).all(-1))
        assert any((sheet[y : y + height, x : x + width] == shown).all() for y, x in corners)


def test_small_pictures_have_no_ms_ssim_and_a_rate_that_is_too_low_gives_the_smallest_file(
    tiny_pipeline: OneDCPipeline, picture: Callable[..., np.ndarray]
) -> None:
    result = validate(tiny_pipeline, {"small": picture(64, 64)}, bpp=[1e-4])
    z_only, asked = result.points
    assert asked.bpp == z_only.bpp > 1e-3 and asked.ms_ssim is None
    assert not any("ms_ssim" in name for name in result.values()) and "–" in result.table()


def test_a_model_of_one_rate_is_measured_at_that_one(
    tiny_pipeline: OneDCPipeline, picture: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny_pipeline.codec.entropy), "quality_rows", property(lambda self: 1))
    monkeypatch.setattr(tiny_pipeline, "compress", lambda image, **rate: (asked.append(rate), file)[1])
    asked: list[dict[str, Any]] = []
    file = OneDCPipeline.compress(tiny_pipeline, picture(64, 64), z_only=True)
    assert [point.setting for point in validate(tiny_pipeline, {"a": picture(64, 64)}).points] == ["z-only", "its rate"]
    assert asked == [{"z_only": True}, {}]


def _state(model: TrainableOneDC) -> dict[str, Any]:
    state: dict[str, Any] = {name: (p.data_ptr(), p.stride(), p.clone()) for name, p in model.named_parameters()}
    state |= {name: module.training for name, module in model.named_modules()}
    return state | {"config": model.codec.config.to_dict(), "entropy": model.codec.entropy}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return one[:2] == other[:2] and torch.equal(one[2], other[2])
    return one is other if isinstance(one, torch.nn.Module) else one == other


def test_a_model_is_a_codec_for_a_moment_and_learns_on_afterwards(
    model: TrainableOneDC, picture: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    # Not the layout of a pipeline: it must be the same afterwards.
    model.to(memory_format=torch.contiguous_format)
    before = _state(model)
    with as_codec(model, [picture(64, 64)]) as pipe:
        assert pipe.codec.config.entropy_path == "exact" and not model.codec.training
        data, model_id = pipe.compress(picture(64, 64), quality=60), pipe.model_id
        assert pipe.decompress(data).size == (64, 64)
    after = _state(model)
    assert [name for name in before if not _same(before[name], after[name])] == []
    model(torch.zeros(1, 3, 64, 64), torch.tensor([50.0]))[1].sum().backward()
    assert model.codec.entropy.hyper_dec["feat_in"][0].weight.grad is not None

    save_pipeline(model, tmp_path / "saved")  # what it says of itself is what the saved pipeline will be
    saved = OneDCPipeline.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    saved.quantize_entropy([picture(64, 64)])
    assert saved.model_id == model_id and saved.compress(picture(64, 64), quality=60) == data


def test_a_model_whose_weights_burst_is_still_put_back(model: TrainableOneDC) -> None:
    with torch.no_grad():
        model.codec.float_entropy.y_spatial_prior_reduction.weight.fill_(float("nan"))
    entropy = model.codec.entropy
    with pytest.raises(ModelError, match="exact"), as_codec(model, [np.zeros((64, 64, 3), np.uint8)]):
        raise AssertionError("not reached")
    assert model.codec.entropy is entropy and model.codec.training and model.codec.config.entropy_path == "float"


def test_an_exact_entropy_path_stays_as_it_is(tiny_folder: Path, tiny_pipeline: OneDCPipeline) -> None:
    model = load_model(str(tiny_folder), freeze=DECIDES_SYMBOLS)
    entropy = model.codec.entropy
    with as_codec(model) as pipe:
        assert pipe.codec.entropy is entropy and pipe.model_id == tiny_pipeline.model_id


def test_a_validator_writes_and_logs(model: TrainableOneDC, picture: Callable[..., np.ndarray], tmp_path: Path) -> None:
    class Seen:
        pictures: list[tuple[str, Image.Image, int, str]] = []

        def log_pictures(self, tag: str, pictures: list[Image.Image], step: int, captions: list[str]) -> None:
            self.pictures.append((tag, pictures[0], step, captions[0]))

    seen: Any = Seen()
    validator = Validator(model, {"a": picture(64, 64)}, [0.5], tmp_path, seen)
    values = validator(20)
    assert validator.last is not None and values == validator.last.values()
    ((tag, sheet, step, caption),) = seen.pictures
    assert (tag, step) == ("validation/sheet", 20) and caption.startswith("z-only: 0.") and "0.5 bpp: " in caption
    assert np.array_equal(np.asarray(Image.open(tmp_path / "validation" / "step-000020.png")), np.asarray(sheet))
    assert json.loads((tmp_path / "validation" / "latest.json").read_text()) == {"step": 20, "pictures": 1, **values}
    with pytest.raises(PictureError, match="validation_images"):
        Validator(model, {}, [0.5], tmp_path)


def test_pictures_come_from_files_and_folders(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    found = validation_pictures([str(photographs), str(photographs / "2.png")])
    assert list(found) == ["0", "1", "2", "3", "2 (2)"] and found["0"].shape == (96, 112, 3)
    assert np.array_equal(found["2"], found["2 (2)"])
    with pytest.raises(FileNotFoundError, match="holds no picture"):
        validation_pictures([str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        validation_pictures([str(tmp_path / "nowhere")])
    with pytest.raises(PictureError):
        validation_pictures([str(tmp_path / "notes.txt")])


def test_pictures_left_out_of_training_may_validate_it(photographs: Path) -> None:
    data = open_pictures(str(photographs))
    assert list(named_pictures(data, frozenset({"1.png", "3.png", "9.png"}))) == ["1", "3"]
    assert list(named_pictures(data, frozenset(f"{i}.png" for i in range(4)), limit=2)) == ["0", "2"]
    assert named_pictures(data, frozenset()) == {}
    embedded = {"image": [{"bytes": (photographs / "1.png").read_bytes(), "path": f"{i}/1.png"} for i in range(2)]}
    found = named_pictures(embedded, frozenset({"1.png"}))
    assert list(found) == ["1", "1 (2)"] and np.array_equal(found["1"], load_picture(photographs / "1.png"))


def test_a_split_of_the_data_may_validate(parquet_folder: Path, photographs: Path) -> None:
    config = TrainConfig(train_data_dir=str(parquet_folder), image_column="photo", validation_split="test")
    assert len(open_split(config)) == 3
    for streaming in (False, True):
        found = split_pictures(open_split(config, "test", limit=5, streaming=streaming))
        assert list(found) == ["3"] and np.array_equal(found["3"], load_picture(photographs / "3.png"))
    assert list(split_pictures(open_split(config, "train", limit=2))) == ["0", "1"]
    unnamed = [{"image": {"bytes": (photographs / "1.png").read_bytes(), "path": None}}] * 2
    assert list(split_pictures(unnamed)) == ["picture 1", "picture 2"]
    with pytest.raises(ValueError, match="tset"):
        open_split(config, "tset")
    with pytest.raises(ValueError, match="without splits"):
        open_split(TrainConfig(train_data_dir=str(photographs)), "test")
    with pytest.raises(ValueError, match="either `validation_images`"):
        TrainConfig(train_data_dir="x", validation_images=["y"], validation_split="test")


def test_a_folder_of_pictures_may_hold_a_table_of_captions(photographs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photographs, tmp_path / "some"))
    datasets.Dataset.from_list([{"file_name": f"{i}.png", "text": str(i)} for i in range(4)]).to_parquet(
        folder / "metadata.parquet"
    )
    assert len(open_pictures(str(folder))) == 4
    assert [row["caption"] for row in open_pictures(str(folder), caption_column="text")] == list("0123")


def test_pictures_that_a_table_of_captions_lacks_are_left_out_only_where_captions_are_asked_for(
    photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(photographs, tmp_path / "some"))
    (folder / "metadata.jsonl").write_text('{"file_name": "2.png", "text": "two"}\n')
    assert len(open_pictures(str(folder))) == 4 and not caplog.text
    assert [row["caption"] for row in open_pictures(str(folder), caption_column="text")] == ["two"]
    assert "3 pictures have no row" in caplog.text


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_rate_of_training_is_that_of_files(one_thread: None) -> None:
    gap = rate_gap(load_model(""), list(islice(calibration_pictures(), 2)), (30, 60, 90))
    assert gap.real_bits > 10_000 and abs(gap.relative) < 0.03


def test_noise_overstates_the_rate_and_the_gap_shows_it(one_thread: None) -> None:
    torch.manual_seed(0)
    gap = rate_gap(load_model("", "noise"), calibration_pictures()[:1], (10,))
    assert gap.relative > 0.2  # symbols that are nearly always zero: 0.14 bit each by this estimate
