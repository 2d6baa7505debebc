"""What validation looks at: files, a split of a data set, or pictures of the run's own that it does not learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..pictures import load_picture
from .config import TrainConfig
from .picture_sets import excluded_names, open_split, read_record

__all__ = ["named_pictures", "pictures_to_look_at", "source_of_pictures", "split_pictures", "validation_pictures"]

_SUFFIXES = frozenset({".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def pictures_to_look_at(config: TrainConfig) -> dict[str, np.ndarray]:
    """What a run's validation looks at, by name; nothing where no validation is asked for.

    Raises:
        FileNotFoundError, PictureError: as `validation_pictures`.
        ValueError: if there is no such split, or nothing to look at.
    """
    if config.validation_images:
        return validation_pictures(config.validation_images)
    if config.validation_split:
        count = config.max_validation_samples
        return split_pictures(open_split(config, config.validation_split, count, config.streaming))
    if not config.validation_steps:
        return {}
    names, pictures = excluded_names(config), {}
    if names and config.train_data_dir:
        pictures = named_pictures(open_split(config), names)
    if not pictures:
        raise ValueError(
            "`validation_steps` is set, but there is nothing to look at: name files or folders as "
            "`validation_images`, or a split of the data set as `validation_split`."
        )
    return pictures


def source_of_pictures(config: TrainConfig) -> str:
    """Where `pictures_to_look_at` come from, in words."""
    if config.validation_images:
        return ", ".join(config.validation_images)
    data = config.train_data_dir or config.dataset_name
    return f"the split {config.validation_split} of {data}" if config.validation_split else data


def validation_pictures(sources: Sequence[str]) -> dict[str, np.ndarray]:
    """Pictures of files and folders (with sub-folders), by name.

    Args:
        sources (`Sequence[str]`): paths.

    Returns:
        `dict[str, np.ndarray]`: name without suffix -> `uint8` `[H, W, 3]`.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder holds no picture.
        PictureError: if a file is no picture.
    """
    paths: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found = sorted(path for path in source.rglob("*") if path.suffix.lower() in _SUFFIXES)
            if not found:
                raise FileNotFoundError(f"`validation_images`: the folder {str(source)!r} holds no picture.")
            paths += found
        elif source.is_file():
            paths.append(source)
        else:
            raise FileNotFoundError(f"`validation_images`: {str(source)!r} is neither a file nor a folder.")
    return {_free(path.stem, paths[:i]): load_picture(path) for i, path in enumerate(paths)}


def _free(stem: str, before: Sequence[Path]) -> str:
    """The stem, numbered where earlier files have it too."""
    earlier = sum(path.stem == stem for path in before)
    return stem if not earlier else f"{stem} ({earlier + 1})"


def named_pictures(data: Any, names: frozenset[str], limit: int = 8) -> dict[str, np.ndarray]:
    """Pictures of the run's own data that it leaves out by name, for a run that was given no `validation_images`.

    Args:
        data: a data set from `open_pictures`, not a streamed one.
        names (`frozenset[str]`): file names that training excludes.
        limit (`int`): at most so many, evenly spread.

    Returns:
        `dict[str, np.ndarray]`: as `validation_pictures`; empty where the data hold none of them.
    """
    found = [record for record in data["image"] if record and Path(record["path"] or "").name in names]
    return _by_name(found[:: max(1, math.ceil(len(found) / limit))])


def split_pictures(data: Any) -> dict[str, np.ndarray]:
    """All pictures of a data set from `open_pictures`, streamed or not, by the name of their file or their number.

    Raises:
        PictureError: if one cannot be read.
    """
    return _by_name([row["image"] for row in data])


def _by_name(records: Sequence[dict[str, Any] | None]) -> dict[str, np.ndarray]:
    paths = [Path((record or {}).get("path") or f"picture {i + 1}") for i, record in enumerate(records)]
    return {_free(path.stem, paths[:i]): read_record(records[i]) for i, path in enumerate(paths)}
