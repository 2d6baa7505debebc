"""A folder of pictures -> a data set repository that is ready to push: Parquet, card, `eval.yaml`.

The pictures' original bytes go in, with their SHA-256, so that `onedc evaluate --dataset <the repository>` can tell
whether what arrives is what was put in. `eval.yaml` names the tasks that models are ranked by (model_page.py gives a
model's values): all of them are better when higher, which is what leaderboards expect.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import DatasetCardData

from ..errors import OneDCError
from ..saving import staged_folder
from .benchmarks import benchmarks, check_pictures
from .model_page import TASKS
from .originals import Original, find_pictures

__all__ = ["make_benchmark_repo"]

_CARD = """---
{data}
---

# {title}

{count} pictures for measuring image codecs. {provenance}

The column `image` holds the original files, unchanged; `sha256` is the hash of each file, `name` its name.

```bash
pip install 'onedc-hf[eval]'
onedc evaluate --dataset ORG/{name} --out runs/{name}
```

`onedc evaluate` checks every hash. The values that `eval.yaml` asks for come from `onedc report --benchmark`.
"""
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)  # of the Hub's classes, those that a folder can have


def make_benchmark_repo(name: str, folder: Path, out: Path) -> list[Path]:
    """Write the repository's files.

    Args:
        name (`str`): a key of `benchmarks()`, whose pictures are then checked against the record; or a new name.
        folder (`Path`): the pictures.
        out (`Path`): made; must not exist or be empty.

    Returns:
        `list[Path]`: the files written.

    Raises:
        `PictureError`: a known benchmark that is incomplete or changed, or a file that is no picture.
        `OneDCError`: `out` is in use.
        `ModuleNotFoundError`: `datasets` is not installed (`pip install 'onedc-hf[eval]'`).
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OneDCError(f"{out} exists and is not empty; name another folder, or empty it")
    try:
        import yaml
        from datasets import Dataset, Features, Image, Value, disable_progress_bars
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Parquet needs `datasets`: pip install 'onedc-hf[eval]'", name=error.name) from error
    pictures = [Original.of_file(path) for path in find_pictures(folder)]
    record = benchmarks().get(name)
    if record is not None:
        check_pictures(record, pictures)
    sizes = {picture.name: picture.pixels().shape[:2] for picture in pictures}  # so that a broken one stops here

    def generate() -> Iterator[dict[str, Any]]:
        for picture in pictures:
            height, width = sizes[picture.name]
            yield {
                "image": {"bytes": picture.read(), "path": picture.name},
                "name": picture.name,
                "sha256": picture.sha256,
                "width": width,
                "height": height,
            }

    columns = {"image": Image(), "name": Value("string"), "sha256": Value("string")}
    columns |= {"width": Value("int32"), "height": Value("int32")}
    disable_progress_bars()
    title = record.title if record else name
    provenance = f"From {record.source}; licence: {record.licence}." if record else "Say here where they are from."
    card = _CARD.format(
        name=name,
        title=title,
        data=_card_data(title, record.licence if record else None, len(pictures)).to_yaml(),
        count=len(pictures),
        provenance=provenance,
    )
    tasks = "; ".join(f"{task.id}: {task.description}" for task in TASKS.values())
    described = {
        "name": title,
        "description": (
            f"Image compression on {len(pictures)} pictures. Every rate is that of a real file that was really "
            f"decoded. Tasks: {tasks}."
        ),
        "evaluation_framework": "onedc-hf",
        "tasks": [{"id": task, "config": "default", "split": "test"} for task in TASKS],
    }
    table = Path("data", "test-00000-of-00001.parquet")
    out.parent.mkdir(parents=True, exist_ok=True)
    with staged_folder(out) as staged:
        (staged / "data").mkdir()
        with TemporaryDirectory() as cache:
            data = Dataset.from_generator(generate, features=Features(columns), cache_dir=cache)
            data.to_parquet(staged / table, batch_size=16)  # type: ignore[union-attr]
        (staged / "README.md").write_text(card, encoding="utf-8")
        written = yaml.safe_dump(described, sort_keys=False, width=120)
        (staged / "eval.yaml").write_text(written, encoding="utf-8")
    return [out / name for name in (table, "README.md", "eval.yaml")]


def _card_data(title: str, licence: str | None, pictures: int) -> DatasetCardData:
    """The card's front matter; without a licence where none is known, which is for the one who pushes to say."""
    stated: dict[str, Any] = {}
    if licence is not None:
        stated = {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")}
    return DatasetCardData(
        pretty_name=title,
        **stated,
        task_categories=["image-to-image"],
        tags=["image-compression"],
        size_categories=[next((size for limit, size in _SIZES if pictures < limit), "10M<n<100M")],
        configs=[{"config_name": "default", "data_files": [{"split": "test", "path": "data/test-*"}]}],
    )
