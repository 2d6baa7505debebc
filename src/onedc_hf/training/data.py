"""Random crops from a folder or a Hub data set of photographs.

Shapes: S side of a crop in pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from ..pictures import load_picture

__all__ = ["CropStream", "open_pictures", "read_names"]


def read_names(path: str | Path) -> frozenset[str]:
    """File names, one a line; empty lines and lines that begin with `#` are ignored."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def open_pictures(
    source: str, *, split: str = "train", image_column: str = "image", revision: str | None = None, limit: int = 0
) -> Any:
    """A `datasets.Dataset` of undecoded pictures from a local folder or the Hub.

    Args:
        source (`str`): an existing folder of pictures (sub-folders included), or a data set's Hub id.
        split (`str`, *optional*): of the Hub data set.
        image_column (`str`, *optional*): of the Hub data set.
        revision (`str`, *optional*): of the Hub data set.
        limit (`int`, *optional*): keep this many pictures; 0 keeps all.

    Returns:
        `datasets.Dataset`: with one column `image` of `{"bytes", "path"}`.

    Raises:
        ValueError: if the column is missing or there is no picture.
    """
    import datasets

    if Path(source).is_dir():
        data = datasets.load_dataset("imagefolder", data_dir=source, split="train", drop_labels=True)
        image_column = "image"
    else:
        data = datasets.load_dataset(source, split=split, revision=revision)
    if image_column not in data.column_names:
        raise ValueError(f"{source!r} has no column {image_column!r}; it has {data.column_names}.")
    data = data.select_columns([image_column]).rename_columns(
        {image_column: "image"} if image_column != "image" else {}
    )
    data = data.cast_column("image", datasets.Image(decode=False))
    if limit:
        data = data.select(range(min(limit, len(data))))
    if not len(data):
        raise ValueError(f"{source!r} holds no picture.")
    return data


class CropStream(IterableDataset):
    """An endless stream of random crops; reproducible for a seed and a position in the stream.

    Each crop is taken from a picture reduced by a random factor, so that fine and coarse structure are both seen.

    Args:
        pictures: a data set from `open_pictures`.
        resolution (`int`): side S of a crop in pixels, a multiple of 64.
        seed (`int`): the stream's seed; ranks of a multi-process run take different ones.
        smallest_scale (`float`): pictures are reduced by a factor drawn from [smallest_scale, 1].
        start (`int`): number of crops to skip, for a run that continues.
        exclude (`frozenset[str]`): file names left out.
        cache (`bool`): keep decoded pictures in memory (about 1.2 MB for a 768x512 one).
    """

    def __init__(
        self,
        pictures: Any,
        resolution: int,
        seed: int,
        *,
        smallest_scale: float = 0.5,
        start: int = 0,
        exclude: frozenset[str] = frozenset(),
        cache: bool = True,
    ):
        super().__init__()
        if resolution % 64:
            raise ValueError(f"`resolution` must be a multiple of 64; got {resolution}.")
        names = [Path(row["path"] or "").name for row in pictures["image"]] if exclude else []
        kept = [i for i, name in enumerate(names) if name not in exclude] if exclude else range(len(pictures))
        self.pictures, self.indices = pictures, list(kept)
        if not self.indices:
            raise ValueError("Every picture is excluded; nothing is left to train on.")
        self.resolution, self.seed, self.start = resolution, seed, start
        self.smallest_scale = smallest_scale
        self._cache: dict[int, np.ndarray] | None = {} if cache else None

    def _pixels(self, index: int) -> np.ndarray:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        record = self.pictures[index]["image"]
        source = Image.open(io.BytesIO(record["bytes"])) if record["bytes"] else record["path"]
        pixels = load_picture(source)
        if self._cache is not None:
            self._cache[index] = pixels
        return pixels

    def _crop(self, position: int) -> Tensor:
        rng = np.random.default_rng([self.seed, position])
        pixels = self._pixels(self.indices[rng.integers(len(self.indices))])
        height, width, _ = pixels.shape
        scale = max(rng.uniform(self.smallest_scale, 1.0), self.resolution / min(height, width))
        side = min(round(self.resolution / scale), height, width)  # side of the region that becomes the crop
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        region = pixels[top : top + side, left : left + side]
        if side != self.resolution:
            size = (self.resolution, self.resolution)
            region = np.asarray(Image.fromarray(region).resize(size, Image.Resampling.LANCZOS))
        if rng.random() < 0.5:
            region = region[:, ::-1]
        return torch.from_numpy(region.copy()).permute(2, 0, 1).float() / 127.5 - 1  # [3, S, S] in [-1, 1]

    def __iter__(self) -> Iterator[Tensor]:
        position = self.start
        while True:
            yield self._crop(position)
            position += 1
