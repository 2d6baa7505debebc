"""Where pictures to measure come from: a named benchmark, a data set on the Hub, or a folder.

Original bytes are kept as they are, so that their SHA-256 means something; decoding is `load_picture`'s, as everywhere
in this package (EXIF rotation, ICC profiles).
"""

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..coding.limits import MAX_PIXELS
from ..errors import PictureError
from ..picture_kinds import is_picture
from ..pictures import load_picture_bytes
from .benchmarks import Benchmark, benchmarks, check_pictures
from .classical import available_codecs

__all__ = ["Original", "Source", "file_name", "find_pictures", "open_source"]


@dataclass(frozen=True)
class Original:
    """One original file, read when it is needed.

    Args:
        name (`str`): unique within its set; a file name.
        read (`Callable`): returns the bytes of the file.
    """

    name: str
    read: Callable[[], bytes]

    @cached_property
    def sha256(self) -> str:
        """Hash of the file."""
        return hashlib.sha256(self.read()).hexdigest()

    @classmethod
    def of_file(cls, path: Path) -> "Original":
        """That of a file in a folder."""
        return cls(file_name(path), path.read_bytes)

    def pixels(self, max_pixels: int | None = MAX_PIXELS) -> np.ndarray:
        """The picture as `uint8` `[H, W, 3]`.

        Args:
            max_pixels (`int`, *optional*): larger pictures are refused; None or 0: no limit.

        Raises:
            `PictureError`: the file is no picture, a damaged one, or too large.
        """
        return load_picture_bytes(self.read(), self.name, max_pixels)


@dataclass(frozen=True)
class Source:
    """A set of pictures, and what to call it.

    Args:
        name (`str`): the benchmark, the Hub id, or the folder's own name (no path: results are passed on).
        title (`str`): for tables.
        revision (`str`, *optional*): of a Hub data set.
        split (`str`, *optional*): of a Hub data set.
        pictures (`Sequence[Original]`): in a fixed order.
        limit (`int`, *optional*): these are the first so many, and not all of them.
        benchmark (`str`, *optional*): the benchmark that these were found to be. A name alone says nothing: any folder
            can be called `kodak`.
    """

    name: str
    title: str
    revision: str | None
    split: str | None
    pictures: Sequence[Original]
    limit: int | None = None
    benchmark: str | None = None

    def first(self, limit: int | None) -> "Source":
        """The same with only the first so many pictures."""
        if limit is None or limit >= len(self.pictures):
            return self
        title = f"{self.title}, first {limit} pictures"
        return dataclasses.replace(self, title=title, pictures=self.pictures[:limit], limit=limit)


def open_source(
    dataset: str,
    *,
    data_dir: str | None = None,
    split: str | None = None,
    image_column: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> Source:
    """Find the pictures of a named benchmark, of a folder, or of a data set on the Hub.

    Args:
        dataset (`str`): one of `benchmarks()`, an existing folder, or a Hub id.
        data_dir (`str`, *optional*): for a benchmark, a folder that holds its pictures; for a Hub data set, a folder
            in its repository.
        split (`str`, *optional*): of a Hub data set (default: `test`); a benchmark has its own.
        image_column (`str`, *optional*): of a Hub data set (default: `image`); a benchmark has its own.
        revision (`str`, *optional*): of a Hub data set; a benchmark may have its own.
        limit (`int`, *optional*): only the first so many pictures. A benchmark is checked before they are counted off.

    Raises:
        `PictureError`: no pictures, an unknown column, or a benchmark that is incomplete or changed.
    """
    if limit is not None and limit < 1:
        raise PictureError(f"limit: expected at least 1, got {limit}")
    record = benchmarks().get(dataset)
    if record is not None:
        source = _benchmark(record, data_dir, split, image_column, revision)
        check_pictures(record, source.pictures)
        source = dataclasses.replace(source, benchmark=record.name)
    elif Path(dataset).is_dir():
        source = _folder(Path(dataset) / (data_dir or ""), image_column or "image")
    elif "/" not in dataset or dataset.startswith((".", "/", "~")):
        known = ", ".join(benchmarks())
        raise PictureError(f"{dataset}: neither a folder, nor a benchmark ({known}), nor a Hub id such as org/name")
    else:
        split = split or "test"
        pictures = _from_hub(dataset, data_dir, split, image_column or "image", revision)
        source = Source(dataset, dataset, _commit(dataset, revision), split, pictures)
    return source.first(limit)


def _folder(folder: Path, image_column: str) -> Source:
    name = file_name(folder.resolve())
    if any((folder / "data").glob("*.parquet")):  # a repository of benchmark_repo.py, not yet pushed
        # Named by its files: of a folder, `datasets` would hand out what it once cached for another of that name.
        files = str(folder / "data" / "*.parquet")
        return Source(name, name, None, None, _load(name, image_column, "parquet", data_files=files, split="train"))
    return Source(name, name, None, None, [Original.of_file(path) for path in find_pictures(folder)])


def _benchmark(
    record: Benchmark, data_dir: str | None, split: str | None, image_column: str | None, revision: str | None
) -> Source:
    if data_dir is not None:
        pictures = [Original.of_file(path) for path in find_pictures(Path(data_dir))]
        return Source(record.name, record.title, None, None, pictures)
    if record.hub_id is None:
        raise PictureError(
            f"{record.name}: no copy on the Hub is known to this version. Fetch the {record.pictures} pictures from "
            f"{record.source} and name their folder with --data-dir"
        )
    split, revision = split or record.split, revision or record.revision
    pictures = _from_hub(record.hub_id, record.data_dir, split, image_column or record.image_column, revision)
    return Source(record.name, record.title, _commit(record.hub_id, revision), split, pictures)


def _commit(repo: str, revision: str | None) -> str | None:
    """The commit that was read, for the record; None where the Hub does not say."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(repo, revision=revision).sha
    except Exception:  # the pictures are here; offline, or a Hub that does not tell, is no reason to stop
        return revision


def find_pictures(folder: Path) -> list[Path]:
    """Return the pictures directly in a folder, sorted by name: those that `onedc compress` would take.

    Some of them may turn out not to be readable: whoever reads them says so, and nobody misses them in the table.

    Raises:
        `PictureError`: it is no folder, or holds none.
    """
    if not folder.is_dir():
        raise PictureError(f"{folder}: no such folder")
    available_codecs()  # JPEG XL registers itself on import
    found = sorted(path for path in folder.iterdir() if path.name[0] != "." and _is_file(path) and is_picture(path))
    if not found:
        raise PictureError(f"{folder}: no pictures in this folder")
    return found


def _is_file(path: Path) -> bool:
    """Not a folder or a pipe; a link to nowhere is one that cannot be read."""
    return path.is_file() or not path.exists()


def file_name(path: Path) -> str:
    """A file's or folder's own name as text, which can be written also where the name is no UTF-8."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def _from_hub(repo: str, data_dir: str | None, split: str, column: str, revision: str | None) -> list[Original]:
    return _load(f"{repo}, split {split}", column, repo, data_dir=data_dir, split=split, revision=revision)


def _load(shown: str, column: str, *source: str, **options: Any) -> list[Original]:
    """The pictures of a data set that `datasets.load_dataset` finds; `shown` names it in messages."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a data set on the Hub needs `datasets`: pip install 'onedc-hf[eval]'") from error
    try:
        data: Any = datasets.load_dataset(*source, **options)
    except Exception as error:  # not found, no such split, a loading script, no network, a damaged file, ...
        raise PictureError(f"{shown}: {error}") from error
    if column not in data.column_names:
        raise PictureError(f"{shown}: no column {column!r}; there are {', '.join(data.column_names)} (--image-column)")
    ours = {"name", "sha256", "width", "height"} <= set(data.column_names)  # of benchmark_repo.py
    digests = list(data["sha256"]) if ours else []
    try:
        data = data.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # pyarrow has its own tree of exceptions
        raise PictureError(f"{shown}: the column {column!r} holds no pictures ({error})") from error
    pictures = list(_rows(data, column))
    for original, digest in zip(pictures, digests, strict=False):
        if original.sha256 != digest:
            raise PictureError(f"{shown}: {original.name} is not the file that its column sha256 says; fetch it again")
    return pictures


def _rows(data: Any, column: str) -> Iterator[Original]:
    names = _unique([_name(row, number) for number, row in enumerate(data[column])])
    for number, name in enumerate(names):
        yield Original(name, lambda number=number, name=name: _bytes_of(data[number][column], name))


def _name(row: dict[str, Any] | None, number: int) -> str:
    name = Path(((row or {}).get("path") or "").replace("\0", "")).name
    # A stranger's name reaches terminals, where control characters do things.
    return "".join(one if one.isprintable() else "\ufffd" for one in name) or f"{number:05d}"


def _unique(names: Sequence[str]) -> list[str]:
    """Names that are there several times get their number before them, again where another has that name."""
    seen, taken, unique = Counter(names), set(names), []
    for number, name in enumerate(names):
        if seen[name] > 1:
            while name in taken:
                name = f"{number:05d}-{name}"
            taken.add(name)
        unique.append(name)
    return unique


def _bytes_of(row: dict[str, Any] | None, name: str) -> bytes:
    if row is None or (row["bytes"] is None and not row["path"]):
        raise PictureError(f"{name}: there is no picture in this row")
    if row["bytes"] is not None:
        return row["bytes"]
    path = Path(row["path"]).resolve()
    if not path.is_file() or not any(path.is_relative_to(Path(cache).resolve()) for cache in _caches()):
        # A stranger's table could name any file of this machine, and results are made to be pushed.
        raise PictureError(f"{name}: the row names a file that does not belong to the data set")
    return path.read_bytes()


def _caches() -> tuple[str, ...]:
    from datasets import config
    from huggingface_hub import constants

    return (constants.HF_HOME, constants.HF_HUB_CACHE, str(config.HF_DATASETS_CACHE))
