"""Models of CompressAI as codecs to compare with, where that package is installed: `compressai:<model>`.

`compressai:mbt2018-mean`, `compressai:cheng2020-anchor`, ... : keys of `compressai.zoo.models`. Their weights are
fetched at first use. CompressAI has no file format, so the strings are kept in a small container whose bytes all count:
model and quality (4), height and width (4), shape of the latent (4), a length (4) before each string.
"""

import struct
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import PictureError
from .classical import Encoded

__all__ = ["LearnedLadder", "is_learned"]

PREFIX = "compressai:"
MULTIPLE = 64  # sides are padded to this for the hyperprior


def is_learned(codec: str) -> bool:
    """Whether a codec's name means a model of CompressAI."""
    return codec.startswith(PREFIX)


class LearnedLadder:
    """The files of one picture at the qualities of one model, each written once, when it is first needed.

    Args:
        picture (`np.ndarray`): `uint8` `[H, W, 3]`.
        codec (`str`): `compressai:<model>`.

    Raises:
        `ModuleNotFoundError`: CompressAI is not installed.
        `ValueError`: it has no such model.
    """

    def __init__(self, picture: np.ndarray, codec: str) -> None:
        self.codec = codec
        self._picture = picture
        self._files: dict[int, bytes] = {}
        self._highest = _qualities(codec)

    def at(self, quality: int) -> bytes:
        """Return the file at one quality, 1 ... 6 or 8."""
        if quality not in self._files:
            self._files[quality] = _compress(self._picture, self.codec, quality)
        return self._files[quality]

    def nearest(self, target_bytes: int) -> Encoded:
        """Return the file whose size is nearest to `target_bytes`; there are only a few."""
        floor = len(self.at(1))
        if floor >= target_bytes:
            return Encoded(self.codec, 1, self.at(1), at_floor=floor > target_bytes)
        best = 1
        for quality in range(2, self._highest + 1):
            if abs(len(self.at(quality)) - target_bytes) <= abs(len(self.at(best)) - target_bytes):
                best = quality
            if len(self.at(quality)) >= target_bytes:
                break
        return Encoded(self.codec, best, self.at(best), at_floor=False)

    @staticmethod
    def decode(data: bytes) -> np.ndarray:
        """Decode a file to `uint8` `[H, W, 3]`."""
        return _decompress(data)


def _zoo() -> Any:
    try:
        from compressai import zoo  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "codecs named compressai:... need CompressAI, which is not installed: pip install compressai",
            name=error.name,
        ) from error
    return zoo


def _names() -> list[str]:
    return sorted(_zoo().models)


def _qualities(codec: str) -> int:
    name = codec.removeprefix(PREFIX)
    if name not in _names():
        raise ValueError(f"codecs: CompressAI has no model {name!r}; it has {', '.join(_names())}")
    return 6 if name.startswith("cheng2020") else 8


@lru_cache(maxsize=2)
def _model(name: str, quality: int) -> Any:
    model = _zoo().models[name](quality=quality, metric="mse", pretrained=True).eval()
    model.update()
    return model


def _compress(picture: np.ndarray, codec: str, quality: int) -> bytes:
    import torch
    import torch.nn.functional as F

    name = codec.removeprefix(PREFIX)
    height, width = picture.shape[:2]
    pixels = torch.from_numpy(picture.transpose(2, 0, 1).copy())[None].float() / 255  # [1, 3, H, W]
    pixels = F.pad(pixels, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
    with torch.inference_mode():
        coded = _model(name, quality).compress(pixels)
    data = struct.pack(">HHHHHH", _names().index(name), quality, height, width, *coded["shape"])
    for strings in coded["strings"]:
        data += struct.pack(">I", len(strings[0])) + strings[0]
    return data


def _decompress(data: bytes) -> np.ndarray:
    import torch

    try:
        index, quality, height, width, *shape = struct.unpack_from(">HHHHHH", data)
        strings, place = [], struct.calcsize(">HHHHHH")
        while place < len(data):
            (length,) = struct.unpack_from(">I", data, place)
            strings.append([data[place + 4 : place + 4 + length]])
            place += 4 + length
    except struct.error as error:
        raise PictureError(f"no file of a CompressAI model ({error})") from error
    with torch.inference_mode():
        pixels = _model(_names()[index], quality).decompress(strings, tuple(shape))["x_hat"]
    rebuilt = (pixels[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return rebuilt[:height, :width]
