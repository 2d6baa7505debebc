"""Random crops of the pictures that a run learns from, in batches for each of its processes.

Shapes: S side of a crop in pixels.
"""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..errors import PictureError
from .config import TrainConfig
from .picture_sets import check_lists, name_of, names_in, open_own, own_lists, read_record

__all__ = ["CropStream", "Cropping", "Crops", "Share", "StreamedCrops", "crop_batches", "steps_of_epochs"]

logger = logging.getLogger(__name__)

_SHUFFLE_BUFFER = 200  # pictures of a streamed data set among which the next one is drawn


def _one_caption(row: dict[str, Any], rng: np.random.Generator) -> str:
    """A picture's caption: one of them where it has several, the empty one where it has none."""
    caption = row["caption"]
    if isinstance(caption, list):
        caption = caption[rng.integers(len(caption))] if caption else ""
    return str(caption or "")


@dataclass(frozen=True)
class Cropping:
    """How a crop is taken from a picture: scaled by a random factor, so that fine and coarse structure are both seen.

    Args:
        resolution (`int`): side S of a crop in pixels, a multiple of 64.
        smallest_scale, largest_scale (`float`): pictures are scaled by a factor drawn from between these. Enlarged
            ones (above 1) have nothing in their highest frequencies, like many photographs of large cameras.
        center (`bool`): crops lie in the middle, at the smallest reduction that fits: nothing is drawn.
        flip (`bool`): half of the crops are mirrored.
        interpolation (`str`): of Pillow's `Resampling`, in any case.
    """

    resolution: int
    smallest_scale: float = 0.5
    largest_scale: float = 1.0
    center: bool = False
    flip: bool = True
    interpolation: str = "lanczos"

    def __post_init__(self) -> None:
        if self.resolution <= 0 or self.resolution % 64:
            raise ValueError(f"`resolution` must be a multiple of 64; got {self.resolution}.")
        names = [one.name.lower() for one in Image.Resampling]
        if self.interpolation.lower() not in names:
            raise ValueError(f"`image_interpolation_mode` is one of {', '.join(names)}; got {self.interpolation!r}.")

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> Tensor:
        """A crop `[3, S, S]` in [-1, 1] of a picture, uint8 `[H, W, 3]`; pictures that are too small are enlarged."""
        height, width, _ = pixels.shape
        shorter = min(height, width)
        drawn = 1.0 if self.center else rng.uniform(self.smallest_scale, self.largest_scale)
        scale = max(drawn, self.resolution / shorter)
        side = min(round(self.resolution / scale), height, width)  # side of the region that becomes the crop
        if self.center:
            side = shorter
            top, left = (height - side) // 2, (width - side) // 2
        else:
            top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        region = pixels[top : top + side, left : left + side]
        if side != self.resolution:
            size = (self.resolution, self.resolution)
            method = Image.Resampling[self.interpolation.upper()]
            region = np.asarray(Image.fromarray(region).resize(size, method))
        if self.flip and rng.random() < 0.5:
            region = region[:, ::-1]
        return torch.from_numpy(region.copy()).permute(2, 0, 1).float() / 127.5 - 1


class Crops(NamedTuple):
    """A batch as the loops see it.

    Args:
        pixels (`torch.Tensor` of shape `[B, 3, S, S]`): in [-1, 1].
        captions (`list[str]`, *optional*): where the data set has them.
    """

    pixels: Tensor
    captions: list[str] | None = None

    @classmethod
    def of(cls, batch: Tensor | dict[str, Any]) -> Crops:
        """What `crop_batches` gives, with captions or without."""
        return cls(batch["pixels"], batch["caption"]) if isinstance(batch, dict) else cls(batch)

    def to(self, device: torch.device) -> Crops:
        """The same on a device, in the layout that convolutions like."""
        return self._replace(pixels=self.pixels.to(device, memory_format=torch.channels_last))


@dataclass(frozen=True)
class Share:
    """Which crops of the stream are this process's: `batch` of every `batch x processes`, after `start` such rounds.

    Two processes with half the batch see together, step by step, what one process with the whole batch sees.

    Args:
        batch (`int`): crops of a round for each process.
        rank, processes (`int`): this process, and how many there are.
        start (`int`): rounds to skip, for a run that continues.
    """

    batch: int = 1
    rank: int = 0
    processes: int = 1
    start: int = 0

    def positions(self) -> Iterator[int]:
        """Positions in the stream, endless; a worker of a `DataLoader` takes every n-th round."""
        worker = get_worker_info()
        first, every = (0, 1) if worker is None else (worker.id, worker.num_workers)
        turn = self.start + first
        while True:
            begin = (turn * self.processes + self.rank) * self.batch
            yield from range(begin, begin + self.batch)
            turn += every


class CropStream(IterableDataset):
    """An endless stream of random crops; reproducible for a seed and a position in the stream.

    Yields crops, or with captions `{"pixels", "caption"}`.

    Args:
        pictures: a data set from `open_pictures`, not a streamed one.
        cropping (`Cropping`): how crops are taken.
        seed (`int`): the stream's seed, the same in every process.
        share (`Share`): which of the crops.
        exclude (`frozenset[str]`): file names left out.
        cache_bytes (`int`): decoded pictures (3 bytes a pixel) are kept in memory up to so many. Crops are drawn at
            random, so which ones are kept does not matter, and none makes way for another.
    """

    def __init__(
        self,
        pictures: Any,
        cropping: Cropping,
        seed: int,
        *,
        share: Share | None = None,
        exclude: frozenset[str] = frozenset(),
        cache_bytes: int = 1 << 30,
    ):
        super().__init__()
        names = names_in(pictures) if exclude else []
        kept = [i for i, name in enumerate(names) if name not in exclude] if exclude else range(len(pictures))
        self.pictures, self.indices = pictures, list(kept)
        if not self.indices:
            raise ValueError("Every picture is excluded; nothing is left to train on.")
        self.cropping, self.seed, self.share = cropping, seed, share or Share()
        self._cache: dict[int, np.ndarray] = {}
        self._cache_left = cache_bytes
        self._unreadable: set[int] = set()
        self._captions = "caption" in pictures.column_names

    def _pixels(self, index: int) -> np.ndarray:
        if index in self._cache:
            return self._cache[index]
        pixels = read_record(self.pictures[index]["image"])
        if pixels.nbytes <= self._cache_left:
            self._cache[index] = pixels
            self._cache_left -= pixels.nbytes
        return pixels

    def _draw(self, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """Number and pixels of a picture that can be read; one that cannot costs a warning, not the run."""
        while len(self._unreadable) < len(self.indices):
            index = self.indices[rng.integers(len(self.indices))]
            if index in self._unreadable:
                continue
            try:
                return index, self._pixels(index)
            except PictureError as error:
                self._unreadable.add(index)
                logger.warning("Left out: %s", error)
        raise PictureError(f"None of the {len(self.indices):,} pictures can be read.")

    def __iter__(self) -> Iterator[Any]:
        for position in self.share.positions():
            rng = np.random.default_rng([self.seed, position])
            index, pixels = self._draw(rng)
            crop = self.cropping(pixels, rng)
            yield {"pixels": crop, "caption": _one_caption(self.pictures[index], rng)} if self._captions else crop


class StreamedCrops(IterableDataset):
    """An endless stream of random crops from a data set that is read over the network, one from each picture.

    Every process has pictures of its own. It reads no others where the number of the data set's shards is a multiple of
    that of processes; otherwise each reads all and keeps one of so many. A run that continues skips what it has seen,
    which reads it again.

    Args:
        pictures: a streamed data set from `open_pictures`.
        cropping (`Cropping`): how crops are taken.
        seed (`int`): of order and crops.
        share (`Share`): which of the crops.
        exclude (`frozenset[str]`): file names left out.
        expect_names (`bool`): warn of the first picture without a name, which no list leaves out.
    """

    def __init__(
        self,
        pictures: Any,
        cropping: Cropping,
        seed: int,
        *,
        share: Share | None = None,
        exclude: frozenset[str] = frozenset(),
        expect_names: bool = False,
    ):
        super().__init__()
        self._expect_names = expect_names
        from datasets.distributed import split_dataset_by_node

        self.share, self.cropping, self.seed, self.exclude = share or Share(), cropping, seed, exclude
        shuffled = pictures.shuffle(seed=seed, buffer_size=_SHUFFLE_BUFFER)
        self.pictures = split_dataset_by_node(shuffled, rank=self.share.rank, world_size=self.share.processes)

    def __iter__(self) -> Iterator[Any]:
        position, epoch, skip = 0, 0, self.share.start * self.share.batch
        while True:
            self.pictures.set_epoch(epoch)
            found = 0
            for record in self.pictures:
                name = name_of(record["image"])
                if name in self.exclude:
                    continue
                if self._expect_names and not name:
                    logger.warning("`exclude`: the data have pictures without file names, which no list leaves out.")
                    self._expect_names = False
                position += 1
                if position <= skip:
                    found += 1
                    continue
                rng = np.random.default_rng([self.seed, self.share.rank, position])
                try:
                    pixels = read_record(record["image"])
                except PictureError as error:  # a run that continues then repeats as many crops as there were of these
                    logger.warning("Left out: %s", error)
                    continue
                found += 1
                crop = self.cropping(pixels, rng)
                yield {"pixels": crop, "caption": _one_caption(record, rng)} if "caption" in record else crop
            if not found:
                raise ValueError("The streamed data set gave this process no picture that can be read.")
            epoch += 1


def steps_of_epochs(config: TrainConfig, processes: int) -> int:
    """Steps in which `num_train_epochs` times as many crops are taken as there are pictures.

    Raises:
        ValueError: for a streamed data set, whose length nobody knows.
    """
    if config.streaming:
        raise ValueError("The length of a streamed data set is unknown: give `max_train_steps`, not epochs.")
    pictures, exclude = open_own(config)
    count = len(CropStream(pictures, Cropping(config.resolution), 0, exclude=exclude).indices)
    return math.ceil(
        config.num_train_epochs * count / (config.train_batch_size * config.gradient_accumulation_steps * processes)
    )


def _cache_share(config: TrainConfig) -> int:
    """Bytes of decoded pictures for one stream: every worker of every process on this machine has one of its own."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as launchers set it
    return (config.picture_cache_mib << 20) // (processes * max(1, config.dataloader_num_workers))


def crop_batches(config: TrainConfig, share: Share) -> DataLoader[Any]:
    """Endless batches of crops `[B, 3, S, S]` in [-1, 1] (or `{"pixels", "caption"}`) of a run's data.

    Raises:
        ValueError: if there is nothing to train on, or a list of names to leave out and no picture has one.
    """
    pictures, exclude = open_own(config)
    cropping = Cropping(
        config.resolution,
        config.smallest_scale,
        config.largest_scale,
        config.center_crop,
        config.random_flip,
        config.image_interpolation_mode,
    )
    stream: IterableDataset[Any]
    if config.streaming:
        stream = StreamedCrops(
            pictures, cropping, config.seed, share=share, exclude=exclude, expect_names=bool(own_lists(config))
        )
    else:
        check_lists(config, pictures)
        stream = CropStream(
            pictures, cropping, config.seed, share=share, exclude=exclude, cache_bytes=_cache_share(config)
        )
    return DataLoader(
        stream, batch_size=share.batch, num_workers=config.dataloader_num_workers, worker_init_fn=_leave_signals
    )


def _leave_signals(_: int) -> None:
    """A worker goes on when the run is told to stop: launchers tell all of its processes, and the run saves first."""
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, signal.SIG_IGN)
