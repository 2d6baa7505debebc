"""A few thousand damaged files; `benchmarks/fuzz.py` does hundreds of thousands."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from onedc_hf import OneDCPipeline

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"


def test_every_damaged_file_ends_in_a_typed_error_or_an_honest_part(tiny_pipeline: OneDCPipeline) -> None:
    spec = importlib.util.spec_from_file_location("benchmark_fuzz", BENCHMARK)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    happened = fuzz.fuzz(tiny_pipeline, count=5000, seconds=float("inf"), seed=1, limit=float("inf"))
    assert sum(happened.values()) == 5000
    assert happened.get("forgery accepted", 0) <= 5
    assert {"Corrupt", "Truncated", "NotOneDC", "WrongModel", "partial"} <= happened.keys()
