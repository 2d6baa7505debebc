"""JPEG, WebP, AVIF and JPEG XL through Pillow, at the size nearest to a byte budget.

Settings are those a careful user would choose: JPEG with optimised tables, baseline or progressive, whichever is
smaller; WebP with method 6; AVIF at Pillow's default speed 6 (speed 4 saves another 5 to 10 % and takes five times as
long); JPEG XL at effort 7. Chroma subsampling is each codec's default (4:2:0 except for JPEG XL). No metadata is
written. Only the quality is searched.

`avif-half` is what a careful user does where even the smallest AVIF file is too large: halve the picture's sides, write
that, and enlarge what comes out of it (Lanczos both ways).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, features

from ..errors import PictureError
from ..opening import open_plain

__all__ = ["CODECS", "Codec", "Encoded", "Ladder", "available_codecs", "decode"]


@dataclass(frozen=True)
class Codec:
    """How one codec is called.

    Args:
        name (`str`): key in result files.
        title (`str`): its name for people.
        pillow_format (`str`): format name in Pillow.
        lowest (`int`): lowest quality.
        highest (`int`): highest quality that is not lossless.
        settings (`tuple`): keyword arguments of `Image.save` to try; the smallest file of them counts.
        halves (`bool`, *optional*, defaults to `False`): the file holds a picture of half as many pixels a side.
    """

    name: str
    title: str
    pillow_format: str
    lowest: int
    highest: int
    settings: tuple[dict[str, Any], ...]
    halves: bool = False


CODECS = {
    codec.name: codec
    for codec in (
        Codec("jpeg", "JPEG", "JPEG", 1, 100, ({"optimize": True}, {"optimize": True, "progressive": True})),
        Codec("webp", "WebP", "WEBP", 0, 100, ({"method": 6},)),
        Codec("avif", "AVIF", "AVIF", 0, 100, ({"speed": 6},)),
        Codec("jxl", "JPEG XL", "JXL", 1, 99, ({"effort": 7},)),
        Codec("avif-half", "AVIF, half size", "AVIF", 0, 100, ({"speed": 6},), halves=True),
    )
}


@dataclass(frozen=True)
class Encoded:
    """A picture as a file of a classical codec.

    Args:
        codec (`str`): key in `CODECS`.
        quality (`int`): the quality it was written with.
        data (`bytes`): the file.
        at_floor (`bool`): the target lies below what the codec reaches at its lowest quality, which this is.
    """

    codec: str
    quality: int
    data: bytes
    at_floor: bool


class Ladder:
    """The files of one picture at the qualities of one codec, each written once, when it is first needed.

    Args:
        picture (`np.ndarray`): `uint8` `[H, W, 3]`.
        codec (`str`): key in `CODECS`.

    Raises:
        `ValueError`: no such codec.
        `ModuleNotFoundError`: this Pillow cannot write it; the message says what to install.
    """

    def __init__(self, picture: np.ndarray, codec: str) -> None:
        if codec not in CODECS:
            raise ValueError(f"codec: expected one of {', '.join(CODECS)}, got {codec!r}")
        if codec not in available_codecs():
            remedy = "pip install 'onedc-hf[eval]'" if codec == "jxl" else "install a Pillow wheel from PyPI"
            raise ModuleNotFoundError(f"this Pillow cannot write {CODECS[codec].title}: {remedy}")
        self.codec = CODECS[codec]
        self._image = Image.fromarray(picture)
        if self.codec.halves:
            width, height = self._image.size
            self._image = self._image.resize(((width + 1) // 2, (height + 1) // 2), Image.Resampling.LANCZOS)
        self._files: dict[int, bytes] = {}

    def at(self, quality: int) -> bytes:
        """Return the file at one quality."""
        if quality not in self._files:
            files = []
            for settings in self.codec.settings:
                buffer = io.BytesIO()
                self._image.save(buffer, self.codec.pillow_format, quality=quality, **settings)
                files.append(buffer.getvalue())
            self._files[quality] = min(files, key=len)
        return self._files[quality]

    def nearest(self, target_bytes: int) -> Encoded:
        """Return the file whose size is nearest to `target_bytes`, above or below, by binary search over the quality.

        Sizes grow with quality from the smallest file on, but for a byte here and there, which the search does not
        mind.
        """
        low, high = self.codec.lowest, self.codec.highest
        # Of a small picture, AVIF at quality 0 can be larger than at 3.
        low = min(range(low, low + 4), key=lambda quality: len(self.at(quality)))
        floor = len(self.at(low))
        if floor >= target_bytes:
            return Encoded(self.codec.name, low, self.at(low), at_floor=floor > target_bytes)
        while high - low > 1:  # size(low) <= target, size(high) above it or never asked
            middle = (low + high) // 2
            low, high = (middle, high) if len(self.at(middle)) <= target_bytes else (low, middle)
        best = min((low, high), key=lambda quality: abs(len(self.at(quality)) - target_bytes))
        return Encoded(self.codec.name, best, self.at(best), at_floor=False)


def decode(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a file of any codec above to `uint8` `[H, W, 3]`.

    Args:
        data (`bytes`): the file.
        size (`tuple[int, int]`, *optional*): width and height of the original, to which a halved picture is enlarged.

    Raises:
        `PictureError`: it is no picture.
    """
    available_codecs()  # JPEG XL registers itself on import
    try:
        with open_plain(io.BytesIO(data)) as picture:  # Pillow's own limit plays no part: the original was let in
            rebuilt = picture.convert("RGB")
            if size is not None and rebuilt.size != size:
                rebuilt = rebuilt.resize(size, Image.Resampling.LANCZOS)
            return np.array(rebuilt)
    except OSError as error:
        raise PictureError(f"no picture that Pillow can decode ({error})") from error


@lru_cache(maxsize=1)
def available_codecs() -> Sequence[str]:
    """Return the keys of `CODECS` that can be written here."""
    formats = {"JPEG"} | {name.upper() for name in ("webp", "avif") if features.check(name)}
    try:
        import pillow_jxl  # noqa: F401  # type: ignore[import-not-found]

        formats.add("JXL")
    except ImportError:
        pass
    return tuple(name for name, codec in CODECS.items() if codec.pillow_format in formats)
