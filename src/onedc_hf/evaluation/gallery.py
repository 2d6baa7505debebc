"""OneDC's pictures of a run as Parquet: what a data set viewer shows.

One row for each picture and setting: the original, the rebuilt picture, the bytes of the `.odc` file, its size and
rate, and every metric.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .originals import Source

__all__ = ["save_gallery"]


def save_gallery(results: dict[str, Any], source: Source, folder: Path) -> Path | None:
    """Write `data/<split>.parquet` into a run's folder.

    Args:
        results (`dict`): the record of `run.collect`.
        source (`Source`): the originals.
        folder (`Path`): of the run, with the files that the rows speak of.

    Returns:
        `Path`: the file; None where there is no row.

    Raises:
        `ModuleNotFoundError`: `datasets` is not installed (`pip install 'onedc-hf[eval]'`).
    """
    try:
        from datasets import Dataset, Features, Image, Value, disable_progress_bars
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Parquet needs `datasets`: pip install 'onedc-hf[eval]'", name=error.name) from error
    rows = [row for row in results["rows"] if row["codec"] == "onedc"]
    if not rows:
        return None
    columns = {"original": Image(), "rebuilt": Image(), "picture": Value("string"), "setting": Value("string")}
    columns |= {"bytes": Value("int64"), "bpp": Value("float64")}
    columns |= {name: Value("float64") for name in results["metrics"]}
    columns |= {"odc": Value("binary"), "model_id": Value("string")}
    originals = {original.name: original for original in source.pictures}

    def generate() -> Iterator[dict[str, Any]]:
        for row in rows:
            file = folder / row["file"]
            yield {
                "original": {"bytes": originals[row["picture"]].read(), "path": row["picture"]},
                "rebuilt": {"bytes": file.with_suffix(".png").read_bytes(), "path": f"{file.stem}.png"},
                **{name: row[name] for name in columns if name in row},
                "odc": file.read_bytes(),
                "model_id": results["model"]["model_id"],
            }

    disable_progress_bars()
    path = folder / "data" / "test-00000-of-00001.parquet"
    path.parent.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=folder) as cache:
        data = Dataset.from_generator(generate, features=Features(columns), cache_dir=cache)
        data.to_parquet(path, batch_size=16)  # type: ignore[union-attr]
    return path
