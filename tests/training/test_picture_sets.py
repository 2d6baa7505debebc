"""Which pictures of a folder a run learns from, and what it says of the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from onedc_hf.training.config import TrainConfig
from onedc_hf.training.picture_sets import excluded_names, open_pictures

HEIC = b"\0\0\0\x18ftypheic" + bytes(20)


@pytest.fixture
def folder(photographs: Path, tmp_path: Path) -> Path:
    """A folder with one picture that is read, and what lies beside such ones."""
    shutil.copyfile(min(photographs.rglob("*.png")), tmp_path / "lake.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "lake.heic").write_bytes(HEIC)
    return tmp_path


def test_kinds_of_pictures_that_are_not_read_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(open_pictures(str(folder))) == 1 and not caplog.records
    (folder / "raw").mkdir()
    (folder / "raw" / "b.nef").write_bytes(b"II*\0" + bytes(20))
    (folder / "a.heic").write_bytes(HEIC)
    assert len(open_pictures(str(folder))) == 1
    (record,) = caplog.records
    said = record.getMessage()
    assert "2 pictures, such as a.heic, of kinds that training does not read, which are left out" in said
    assert "Save them as JPEG or PNG" in said


@pytest.mark.parametrize("beside", [None, "a.heic"])
def test_a_folder_without_a_picture_is_refused_and_named(tmp_path: Path, beside: str | None) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    text = "holds no picture that training reads\\.$"
    if beside:
        (tmp_path / beside).write_bytes(HEIC)
        text = "but 1 picture, such as a.heic, of kinds that training does not read. Save them as JPEG"
    with pytest.raises(ValueError, match=text) as caught:
        open_pictures(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_list_of_names_that_is_not_there_is_named_with_its_setting(tmp_path: Path) -> None:
    config = TrainConfig(train_data_dir=str(tmp_path), exclude=["box-heldout.txt", str(tmp_path / "names.txt")])
    with pytest.raises(FileNotFoundError, match=r"`exclude`: there is no file .*names\.txt"):
        excluded_names(config)
    (tmp_path / "names.txt").write_text("one.jpg\n")
    assert "one.jpg" in excluded_names(config)
