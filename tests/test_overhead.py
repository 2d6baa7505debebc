"""The box model's files keep to the promised overhead on the photographs at hand; Kodak's figures are a benchmark."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from pathlib import Path

from onedc_hf import OneDCPipeline

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "overhead.py"


def _benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_overhead", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_of_photographs_keep_to_the_promised_overhead():
    overhead = _benchmark()
    pipe = OneDCPipeline.from_pretrained()
    folder = files("onedc_hf") / "box" / "pictures"
    rows = [overhead.overheads(pipe, path, (0, 50, 100)) for path in Path(str(folder)).glob("*.jpg")]
    assert len(rows) == 3
    assert overhead.over_limit(overhead.summary(rows)) == []
    assert all(value > 10 for row in rows for value in row.values()), "header and checks alone are 13 bytes"
