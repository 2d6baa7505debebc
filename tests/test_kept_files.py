"""Files outlive models: one file of every release of the box, and the symbols it meant on its day."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from onedc_hf import OneDCPipeline
from onedc_hf.training.release import symbols_digest

FOLDER = Path(__file__).parent / "fixtures" / "kept"
FACTS = json.loads((FOLDER / "facts.json").read_text())


@pytest.mark.parametrize("fact", FACTS, ids=[fact["file"] for fact in FACTS])
def test_a_file_of_every_release_decodes_to_its_symbols(fact: dict) -> None:
    box = OneDCPipeline.from_pretrained(dtype=torch.float32)  # hands files of earlier releases on (releases.py)
    data = (FOLDER / fact["file"]).read_bytes()
    assert symbols_digest(box.read_symbols(data)) == fact["symbols"]
    assert min(box.decompress(data).size) > 100


def test_no_release_is_without_a_kept_file() -> None:
    released = json.loads((files("onedc_hf") / "box" / "released.json").read_text(encoding="utf-8"))
    # Version 0 of the format, of early development, was withdrawn as a whole.
    assert {one["model_id"] for one in released if one["format_version"] >= 1} == {fact["model_id"] for fact in FACTS}
