"""Named sets of pictures, as data (`data/benchmarks.json`), and the check that one is complete and unchanged.

A benchmark is named by a record, not by a Hub id alone: repositories move and change. Where the SHA-256 of each picture
is known, a wrong or missing one stops the run, wherever the pictures came from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..errors import PictureError

if TYPE_CHECKING:
    from .originals import Original

__all__ = ["Benchmark", "benchmarks", "check_pictures", "checked_benchmark"]


@dataclass(frozen=True)
class Benchmark:
    """One set of pictures.

    Args:
        name (`str`): what `--dataset` is told.
        title (`str`): for tables and cards.
        pictures (`int`): how many there are.
        hub_id (`str`, *optional*): a copy on the Hub; None where no copy is known.
        revision (`str`, *optional*): pinned commit of that copy; None where none was ever checked.
        data_dir (`str`, *optional*): folder in that copy; None: all of it.
        split, image_column (`str`): where the pictures are in it.
        source (`str`): where the pictures come from, for people.
        licence (`str`): of the pictures.
        sha256 (`Mapping[str, str]`, *optional*): file name -> hash of the original file.
    """

    name: str
    title: str
    pictures: int
    hub_id: str | None
    revision: str | None
    data_dir: str | None
    split: str
    image_column: str
    source: str
    licence: str
    sha256: Mapping[str, str] | None


@lru_cache(maxsize=1)
def benchmarks() -> Mapping[str, Benchmark]:
    """The records, by name."""
    text = (files("onedc_hf.evaluation") / "data" / "benchmarks.json").read_text(encoding="utf-8")
    return {name: Benchmark(name=name, **record) for name, record in json.loads(text).items()}


def check_pictures(benchmark: Benchmark, pictures: Sequence["Original"]) -> None:
    """Compare pictures with the record: their number, and each one's hash where it is known.

    Names are not compared: a copy on the Hub may have lost or changed them.

    Raises:
        `PictureError`: something is missing, wrong or twice; says what, and where the set can be had.
    """
    where = f"the pictures of {benchmark.title} are at {benchmark.source}"
    if benchmark.sha256 is not None:
        found = {picture.sha256 for picture in pictures}
        missing = sorted(name for name, digest in benchmark.sha256.items() if digest not in found)
        wrong = sorted(picture.name for picture in pictures if picture.sha256 not in benchmark.sha256.values())
        if missing or wrong:
            parts = [f"missing: {_some(missing)}"] * bool(missing) + [f"not of this set: {_some(wrong)}"] * bool(wrong)
            raise PictureError(f"this is not {benchmark.name} ({'; '.join(parts)}); {where}")
    if len(pictures) != benchmark.pictures:
        raise PictureError(
            f"this is not {benchmark.name}: expected {benchmark.pictures} pictures, found {len(pictures)}; {where}"
        )


def checked_benchmark(dataset: Mapping[str, Any]) -> str | None:
    """The benchmark whose pictures the `dataset` of a result file was found to be; None where it is none.

    Records of earlier versions do not say it; there, the name has to do.
    """
    return dataset["benchmark"] if "benchmark" in dataset else dataset["name"]


def _some(names: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
