"""`onedc convert --push-to-hub`: what is said where the repository cannot be written to, or the upload fails."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import httpx

from onedc_hf import conversion
from onedc_hf.cli.main import main


def _convert(out: Path, repo: str) -> int:
    files = ["--codec", "c.safetensors", "--generator", "g.safetensors", "--vae", "v"]
    return main(["convert", *files, "--out", str(out), "--push-to-hub", repo])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were made by a conversion, which here writes no more than a card."""
    folders: list[Path] = []

    def convert(codec: str, generator: str, vae: str, out: str, **_: object) -> dict[str, object]:
        Path(out).mkdir()
        Path(out, "README.md").write_text("THIS/REPOSITORY")
        folders.append(Path(out))
        return {"sources": [], "model_id": "0" * 64}

    monkeypatch.setattr(conversion, "convert_checkpoint", convert)
    return folders


def _fail(*_: object, **__: object) -> None:
    raise httpx.ConnectError("no route to host")


@pytest.mark.parametrize("failing", ["create_repo", "preupload_lfs_files"])
def test_a_repository_that_cannot_be_written_to_is_found_before_the_work(
    made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, failing: str
) -> None:
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **__: SimpleNamespace(repo_id=f"me/{name}"))
    monkeypatch.setattr(HfApi, failing, _fail)
    assert _convert(tmp_path / "out", "mine") == 1 and not made
    assert "'mine' cannot be written to: no route to host" in capsys.readouterr().err


def test_an_id_that_is_none_is_one_clear_error(made: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert _convert(tmp_path / "out", "not an id!") == 1 and not made
    assert "'not an id!' cannot be written to" in capsys.readouterr().err


def test_who_could_not_upload_is_told_how_to_go_on(
    made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **__: SimpleNamespace(repo_id=name))
    monkeypatch.setattr(HfApi, "preupload_lfs_files", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "upload_folder", _fail)
    assert _convert(tmp_path / "out", "me/mine") == 1
    assert "complete, but could not be uploaded to 'me/mine': no route to host" in (said := capsys.readouterr().err)
    assert f"hf upload me/mine {tmp_path / 'out'}" in said and made[0].is_dir()
