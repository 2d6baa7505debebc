"""Rate-quality points that others have published, copied with their sources (`data/published.json`).

Evaluators differ: compare points of one data set only, and prefer one source for one comparison. The file says where
every point is from, and what was looked for and not found.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from .benchmarks import checked_benchmark

__all__ = ["PUBLISHED_METRICS", "PublishedCurve", "comparable_curves", "published_curves", "published_source"]

# Our metric -> the name it has there. ST-LPIPS and SSIMULACRA2 nobody publishes for these codecs.
PUBLISHED_METRICS = {
    "psnr": "psnr",
    "ms_ssim": "ms-ssim",
    "lpips_alex": "lpips-alex",
    "dists": "dists",
    "fid": "fid",
    "kid": "kid",
}


@dataclass(frozen=True)
class PublishedCurve:
    """Points of one codec from one source.

    Args:
        codec (`str`): its name there.
        source (`str`): key of `published_source`.
        status (`str`): a reservation, such as that the source was not found again; usually empty.
        points (`tuple`): `(bpp, value)`, by rising bpp.
    """

    codec: str
    source: str
    status: str
    points: tuple[tuple[float, float], ...]


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    text = (files("onedc_hf.evaluation") / "data" / "published.json").read_text(encoding="utf-8")
    return json.loads(text)


def published_curves(dataset: str, metric: str) -> list[PublishedCurve]:
    """The published curves of a data set in one of our metrics; empty where there are none.

    Args:
        dataset (`str`): `kodak`, `clic2020` or `div2k` (their full-size protocols), or an id of the file.
        metric (`str`): key of `METRICS` or `SET_METRICS`.
    """
    dataset = {"clic2020": "clic2020-test", "div2k": "div2k-val"}.get(dataset, dataset)
    name = PUBLISHED_METRICS.get(metric)
    return [
        PublishedCurve(
            record["codec"],
            record["source"],
            record.get("status", ""),
            tuple((point[0], point[1]) for point in record["points"]),
        )
        for record in _data()["curves"]
        if record["dataset"] == dataset and record["metric"] == name
    ]


def comparable_curves(dataset: Mapping[str, Any], metric: str) -> list[PublishedCurve]:
    """The published curves that results may stand beside: those of a whole benchmark that was checked.

    Args:
        dataset (`Mapping`): of a result file.
        metric (`str`): key of `METRICS` or `SET_METRICS`.
    """
    name = checked_benchmark(dataset)
    return [] if name is None or dataset.get("limited") else published_curves(name, metric)


def published_source(key: str) -> str:
    """One line on a source: repository, path and commit, or what is known instead."""
    source = _data()["sources"][key]
    if source.get("repository"):
        return f"{source['repository']}, {source['path']}, commit {source.get('commit', 'unknown')}"
    return source["note"]
