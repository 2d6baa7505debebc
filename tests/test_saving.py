"""A folder that is made in one step, wherever it is to be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from onedc_hf import OneDCError
from onedc_hf.saving import saved_over, staged_folder


def _fill(out: Path) -> None:
    with staged_folder(out) as staged:
        (staged / "part").mkdir()
        (staged / "part" / "file").write_text("x")


def _is_made(out: Path) -> bool:
    return [path.name for path in out.iterdir()] == ["part"] and (out / "part" / "file").read_text() == "x"


def test_what_a_killed_save_left_goes_with_the_next_one(tmp_path: Path) -> None:
    left, running, mine = (tmp_path / name for name in (".onedc-old", ".onedc-new", ".onedc"))
    for folder in (left, running, mine):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x")
    os.utime(left, (0, 0))
    os.utime(mine, (0, 0))
    with saved_over(tmp_path) as staged:
        (staged / "model_index.json").write_text("{}")
    assert not left.exists() and running.exists() and mine.exists() and (tmp_path / "model_index.json").exists()


def test_the_current_folder_is_filled_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "onedc"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = folder.stat().st_ino
    _fill(Path("."))
    assert _is_made(folder) and folder.stat().st_ino == before
    assert _is_made(Path(".")) and list(tmp_path.iterdir()) == [folder]


def test_a_mount_point_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == folder)
    monkeypatch.setattr(Path, "rmdir", _refusing(Path.rmdir, folder))
    _fill(folder)
    assert _is_made(folder) and list(tmp_path.iterdir()) == [folder]


def test_a_link_to_an_empty_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    _fill(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and _is_made(tmp_path / "there")


@pytest.mark.parametrize("mounted", [False, True])
def test_nothing_that_was_made_is_lost_where_it_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda _: mounted)
    with pytest.raises(OneDCError, match="move it from there") as error, staged_folder(out) as staged:
        (staged / "part").mkdir()
        (staged / "part" / "file").write_text("x")
        (out / "another").write_text("came in meanwhile")
    assert str(staged) in str(error.value) and _is_made(staged)


def test_nothing_is_left_where_making_it_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"), staged_folder(tmp_path / "out"):
        raise RuntimeError("broken")
    assert not list(tmp_path.iterdir())


def _refusing(rmdir: Callable[[Path], None], folder: Path) -> Callable[[Path], None]:
    def refuse(path: Path) -> None:
        if path == folder:
            raise OSError("Device or resource busy")
        rmdir(path)

    return refuse
