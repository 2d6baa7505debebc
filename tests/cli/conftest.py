"""The command line against a pipeline without weights, and pictures to feed it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onedc_hf.cli.main import main

from ..fake_pipeline import fake_pipeline  # noqa: F401


@pytest.fixture
def photos(tmp_path: Path, picture: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a.png (70x50), b.png (40x30) and a text file, in the working folder `tmp_path`."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("a.png", (50, 70)), ("b.png", (30, 40))):
        Image.fromarray(picture(*size)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return Path("photos")


@pytest.fixture
def onedc(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs `onedc` with arguments and returns exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = int(exit.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run
