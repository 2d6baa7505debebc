"""The pictures that a run learns from: a folder, or a data set here or on the Hub, and lists of those it leaves out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import PictureError
from ..picture_kinds import is_picture
from ..pictures import load_picture, load_picture_bytes
from .config import TrainConfig
from .config_files import package_file

__all__ = [
    "check_folder",
    "check_lists",
    "excluded_names",
    "is_picture_folder",
    "name_of",
    "names_in",
    "open_own",
    "open_pictures",
    "open_split",
    "own_lists",
    "read_names",
    "read_record",
]

logger = logging.getLogger(__name__)


def read_names(path: str | Path) -> frozenset[str]:
    """File names, one a line; empty lines and lines that begin with `#` are ignored."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def open_pictures(
    source: str,
    *,
    split: str = "train",
    image_column: str = "image",
    caption_column: str = "",
    name: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    streaming: bool = False,
    limit: int = 0,
) -> Any:
    """A `datasets.Dataset` (or `IterableDataset`) of undecoded pictures from a local folder or the Hub.

    Args:
        source (`str`): an existing folder of pictures (sub-folders included), or a data set: its Hub id, or a folder of
            Parquet files.
        split (`str`, *optional*): of the data set; a folder of pictures has none.
        image_column (`str`, *optional*): of the data set; a folder's is always `image`.
        name (`str`, *optional*): configuration of the data set.
        revision (`str`, *optional*): of the Hub data set.
        caption_column (`str`, *optional*): a column of texts to keep, as `caption`; a folder may have one by a
            `metadata.jsonl`, as `datasets` describes it.
        cache_dir (`str`, *optional*): where `datasets` keeps what it downloads.
        streaming (`bool`, *optional*): read a Hub data set while it is used, without storing it.
        limit (`int`, *optional*): keep this many pictures; 0 keeps all.

    Returns:
        `datasets.Dataset`: with a column `image` of `{"bytes", "path"}` and, if asked for, `caption`.

    Raises:
        ValueError: if a column or a split is missing, there is no picture, or a folder of pictures is to be streamed.
    """
    import datasets

    if is_picture_folder(source):
        if streaming:
            raise ValueError(
                f"{source!r} is a folder of pictures, of which nothing has to be streamed: name it as "
                "`train_data_dir`, without `streaming`."
            )
        _check_kinds(source)
        # Every file: else names such as `steam-train.jpg` make splits for the library, and the rest is left out.
        data = datasets.load_dataset(
            "imagefolder",
            data_dir=source,
            data_files={"train": "**"},
            split="train",
            drop_labels=True,
            drop_metadata=not caption_column,  # pictures that it does not list would be left out
            cache_dir=cache_dir,
        )
        if caption_column:
            _count_left_out(source, len(data))
        image_column = "image"
    else:
        data = datasets.load_dataset(
            source, name, split=split, revision=revision, cache_dir=cache_dir, streaming=streaming
        )
    wanted = {image_column: "image"} | ({caption_column: "caption"} if caption_column else {})
    missing = [column for column in wanted if column not in (data.column_names or wanted)]
    if missing:
        raise ValueError(f"{source!r} has no column {missing[0]!r}; it has {data.column_names}.")
    # Before the name changes: a streamed column that is renamed first is decoded, and loses its files' names.
    data = data.cast_column(image_column, datasets.Image(decode=False)).select_columns(list(wanted))
    data = data.rename_columns({old: new for old, new in wanted.items() if old != new})
    if limit:
        data = data.take(limit) if streaming else data.select(range(min(limit, len(data))))
    if not streaming and not len(data):
        raise ValueError(f"{source!r} holds no picture.")
    return data


def _check_kinds(source: str) -> None:
    """Says which pictures of a folder `datasets` passes over without a word, such as those of telephones (HEIC).

    Raises:
        ValueError: if there is no other.
    """
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    read, passed_over = frozenset(ImageFolder.EXTENSIONS), []
    some = False
    for path in Path(source).rglob("*"):
        if _is_hidden(path.relative_to(source)) or not path.is_file():
            continue
        if path.suffix.lower() in read:
            some = True
        elif is_picture(path):
            passed_over.append(path)
    if passed_over:
        count = f"{len(passed_over):,} pictures" if len(passed_over) > 1 else "1 picture"
        found = f"{count}, such as {min(passed_over).name}, of kinds that training does not read"
        convert = "Save them as JPEG or PNG, under names that say so."
    if not some:
        raise ValueError(
            f"{source!r} holds no picture that training reads{f', but {found}. {convert}' if passed_over else '.'}"
        )
    if passed_over:
        logger.warning("%s: %s, which are left out. %s", source, found, convert)


def _is_hidden(path: Path) -> bool:
    """Whether `datasets` leaves out a file of a folder for its name, or for that of a folder above."""
    return any(part.startswith((".", "__")) for part in path.parts)


def _count_left_out(source: str, found: int) -> None:
    """Says how many pictures of a folder have no row in its table of captions, and so are not among those found."""
    suffixes = Image.registered_extensions()
    paths = (path.relative_to(source) for path in Path(source).rglob("*") if path.suffix.lower() in suffixes)
    left_out = sum(not _is_hidden(path) for path in paths) - found
    if left_out > 0:
        logger.warning("%s: %d pictures have no row in `metadata.jsonl`, and are left out.", source, left_out)


def is_picture_folder(source: str) -> bool:
    """Whether pictures lie in a folder as files; one of Parquet files and no pictures is a data set."""
    folder = Path(source)
    if not folder.is_dir():
        return False
    suffixes = {path.suffix.lower() for path in folder.rglob("*") if path.name != "metadata.parquet"}
    return ".parquet" not in suffixes or not suffixes.isdisjoint(Image.registered_extensions())


def read_record(record: dict[str, Any] | None) -> np.ndarray:
    """The picture of a row's column `image`, `uint8` `[H, W, 3]`.

    Raises:
        PictureError: if it cannot be read, or there is none.
    """
    if not record or not (record["bytes"] or record["path"]):
        raise PictureError("a row without a picture")
    if not record["bytes"]:
        return load_picture(record["path"])
    return load_picture_bytes(record["bytes"], name_of(record) or "a picture without a name")


def name_of(record: dict[str, Any] | None) -> str:
    """The file name of a row's column `image`, empty where it has none."""
    return Path((record or {}).get("path") or "").name


def names_in(pictures: Any) -> list[str]:
    """File names of a data set that is not streamed, without reading the pictures: it may have a million."""
    import pyarrow.compute

    column = pictures.with_format("arrow")[:]["image"]
    return [Path(path or "").name for path in pyarrow.compute.struct_field(column, "path").to_pylist()]


def check_folder(config: TrainConfig) -> None:
    """Refuses a folder of pictures that is not there: its name could be that of somebody's data set on the Hub.

    Raises:
        FileNotFoundError: naming it.
    """
    if config.train_data_dir and not Path(config.train_data_dir).is_dir():
        raise FileNotFoundError(
            f"`train_data_dir`: there is no folder {config.train_data_dir!r}. A data set of the Hub is `dataset_name`."
        )


def open_split(config: TrainConfig, split: str = "", limit: int = 0, streaming: bool = False) -> Any:
    """Pictures of a run's folder or data set: `open_pictures` with the run's settings.

    Args:
        config (`TrainConfig`): the run's.
        split (`str`, *optional*): in place of the one to train on.
        limit (`int`, *optional*): keep this many; 0 keeps all.
        streaming (`bool`, *optional*): see `open_pictures`.

    Raises:
        ValueError: for a split of a folder of pictures, which has none.
    """
    check_folder(config)
    source = config.train_data_dir or config.dataset_name
    if split and is_picture_folder(source):
        raise ValueError(f"{source!r} is a folder of pictures, without splits: give `validation_images` a folder.")
    return open_pictures(
        source,
        split=split or config.dataset_split,
        image_column=config.image_column,
        caption_column="" if split else config.caption_column,
        name=config.dataset_config_name or None,
        revision=config.dataset_revision or None,
        cache_dir=config.cache_dir or None,
        streaming=streaming,
        limit=limit,
    )


def open_own(config: TrainConfig) -> tuple[Any, frozenset[str]]:
    """A run's pictures, and the names among them that it leaves out."""
    return open_split(config, "", config.max_train_samples, config.streaming), excluded_names(config)


def excluded_names(config: TrainConfig) -> frozenset[str]:
    """File names that a run does not train on.

    Raises:
        FileNotFoundError: if there is no such list.
    """
    for name in config.exclude:
        if package_file(name) is None and not Path(name).is_file():
            raise FileNotFoundError(f"`exclude`: there is no file {name!r} of names to leave out.")
    return frozenset[str]().union(*(read_names(package_file(name) or name) for name in config.exclude))


def own_lists(config: TrainConfig) -> list[str]:
    """Lists of `exclude` that are the user's; of the package's most data have none."""
    return [name for name in config.exclude if Path(name).name != name or package_file(name) is None]


def check_lists(config: TrainConfig, pictures: Any) -> None:
    """Says where a list of the user's leaves nothing out: what was to be kept for a test would be trained on.

    Raises:
        ValueError: if it cannot, since no picture has a name.
    """
    lists = own_lists(config)
    there = set(names_in(pictures)) - {""} if lists else set()
    if lists and not there:
        raise ValueError(
            f"`exclude`: {lists[0]} lists file names, and the pictures of these data have none: leave the list out, or "
            "name a split or a folder without the pictures that are not to be trained on."
        )
    for name in lists:
        if there.isdisjoint(read_names(name)):
            logger.warning(
                "`exclude`: %s leaves nothing out: none of its names is that of a picture. The data have names such "
                "as %r.",
                name,
                min(there),
            )
