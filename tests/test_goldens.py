"""Files of the box model that were written by `make release-box`, and the pixels they decoded to then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onedc_hf import OneDCPipeline
from onedc_hf.coding import parse_header
from onedc_hf.training.release import symbols_digest

FOLDER = Path(__file__).parent / "fixtures" / "box"
FACTS = json.loads((FOLDER / "facts.json").read_text())
FILES = sorted(path.stem for path in FOLDER.glob("*.odc"))


@pytest.fixture(scope="module")
def box() -> OneDCPipeline:
    return OneDCPipeline.from_pretrained(dtype=torch.float32)


def test_there_are_files_of_both_kinds() -> None:
    kinds = {parse_header((FOLDER / f"{name}.odc").read_bytes()).kind.name for name in FILES}
    assert kinds == {"Z_ONLY", "QUALITY_ROW"}


def test_the_box_is_the_model_that_wrote_them(box: OneDCPipeline) -> None:
    assert box.model_id == FACTS["model_id"]


@pytest.mark.parametrize("name", FILES)
def test_a_kept_file_decodes_to_the_symbols_and_the_pixels_of_its_day(box: OneDCPipeline, name: str) -> None:
    data = (FOLDER / f"{name}.odc").read_bytes()
    assert symbols_digest(box.read_symbols(data)) == FACTS["symbols"][name]
    rebuilt = np.asarray(box.decompress(data), dtype=int)
    expected = np.asarray(Image.open(FOLDER / f"{name}.png"), dtype=int)
    assert np.abs(rebuilt - expected).max() <= 2


def test_z_only_files_are_within_their_budget() -> None:
    for name in FILES:
        data = (FOLDER / f"{name}.odc").read_bytes()
        header = parse_header(data)
        if header.kind.name == "Z_ONLY":
            assert len(data) <= header.z_rows * header.z_columns * 14 / 8 + 14


def test_the_box_is_listed_among_the_released(box: OneDCPipeline) -> None:
    from importlib import resources

    released = json.loads((resources.files("onedc_hf") / "box" / "released.json").read_text())
    assert {"model_id": box.model_id, "format_version": 1} in [
        {key: one[key] for key in ("model_id", "format_version")} for one in released
    ]
