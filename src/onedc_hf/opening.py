"""A picture's file, opened by one of Pillow's plug-ins; whatever goes wrong is one error that names the file.

`Image.open` is not used: it measures every file by `Image.MAX_IMAGE_PIXELS`, a global of the whole program that nobody
can set from a shell, while our own limit is an argument (pictures.py). It also tries every format there is, and some
are no pictures of pixels.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from typing import IO, TypeVar

from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from ._register import MAGIC
from .camera_files import DEVELOP, SAVE_AS_JPEG, is_heif, is_raw_start
from .errors import PictureError

__all__ = ["IS_ODC", "guarded", "load_pixels", "open_plain", "seekable"]

Result = TypeVar("Result")

_HEAD = 16  # bytes by which formats are told apart
IS_ODC = "this is a OneDC file, already compressed: rebuild the picture with `onedc decompress` or decompress()"

# EPS is a program, which Pillow hands to Ghostscript; WMF is drawn by Windows; of the others Pillow knows the name.
_LEFT_OUT = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
_DRAWINGS = (b"%!PS", b"\xc5\xd0\xd3\xc6", b"\xd7\xcd\xc6\x9a")  # EPS, EPS with a preview, WMF

# What a plug-in raises where a file is not of its format after all; the next is tried, as `Image.open` does.
_NOT_MINE = (SyntaxError, IndexError, TypeError, struct.error)

# What reading damaged files raises, beside `OSError`; some of it in Pillow by accident.
_DAMAGED = (
    ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, RuntimeError, AttributeError,
    AssertionError, struct.error,
)  # fmt: skip


def open_plain(file: IO[bytes], name: str = "") -> ImageFile.ImageFile:
    """Opens a picture without its pixels, however many they are.

    Args:
        file (open binary file): at its beginning; has `seek`.
        name (`str`, *optional*): its path, if it has one.

    Raises:
        `PictureError`: It is a raw file of a camera.
        `UnidentifiedImageError`: No plug-in knows it.
    """
    head = file.read(_HEAD)
    if is_raw_start(head):
        raise PictureError(DEVELOP)
    tried: set[str] = set()
    for enter_formats in (Image.preinit, Image.init):  # the second takes longer, and is seldom needed
        enter_formats()
        for format_name in [known for known in Image.ID if known not in tried | _LEFT_OUT]:
            tried.add(format_name)
            factory, accept = Image.OPEN[format_name]
            try:
                accepted = True if accept is None else accept(head)
                if not accepted or isinstance(accepted, str):  # a text says which library is missing
                    continue
                file.seek(0)
                return factory(file, name)
            except _NOT_MINE:
                continue
    raise UnidentifiedImageError(_instead(head))


def load_pixels(picture: Image.Image) -> None:
    """Unpacks a picture whose size was found to be right, also where it is above Pillow's own limit.

    Of the formats that people use, only TIFF compares its size with that limit once more, before it asks for the memory
    of the pixels. It is given that memory here, so that the limit, which is everybody's, need not be changed.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if isinstance(picture, TiffImagePlugin.TiffImageFile) and limit is not None:
        stored = (picture.tag_v2[ExifTags.Base.ImageWidth], picture.tag_v2[ExifTags.Base.ImageLength])
        if limit < math.prod(picture.size) == math.prod(stored) and picture.tile:  # the sides may be exchanged
            picture.im = Image.new(picture.mode, stored).im
    picture.load()


def guarded(read: Callable[[], Result], where: str) -> Result:
    """Pillow's many ways to fail on a bad file, as one error that names the file."""
    try:
        return read()
    except PictureError as error:
        if str(error).startswith(where):
            raise
        raise PictureError(f"{where}: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(
            f"{where}: it unpacks to more pixels than it says at its beginning ({error}). If you trust the file, save "
            "it again in another format."
        ) from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{where}: {error}") from error
    except MemoryError as error:
        raise PictureError(f"{where}: not enough memory to unpack it; scale it down first") from error
    except OSError as error:
        if isinstance(error, PermissionError):
            raise PictureError(f"{where}: no permission to read it") from error
        raise PictureError(f"{where}: damaged or cut short, could not be decoded ({error})") from error
    except _DAMAGED as error:
        raise PictureError(f"{where}: damaged, could not be decoded ({type(error).__name__}: {error})") from error


def _instead(head: bytes) -> str:
    """What a file is that no plug-in knows, by its first bytes."""
    if head.startswith(MAGIC):
        return IS_ODC
    if not head:
        return "the file is empty"
    if is_heif(head):
        return SAVE_AS_JPEG
    if head.startswith(_DRAWINGS):
        return "a drawing (EPS, WMF), not a picture of pixels: draw it as PNG first"
    return "not a picture that Pillow can read (PNG, JPEG, WebP, AVIF, TIFF and many more work)"


def seekable(file: IO[bytes]) -> IO[bytes]:
    """A file that is read from its beginning; what cannot be wound back is read into memory."""
    try:
        file.seek(0)
    except (AttributeError, io.UnsupportedOperation):
        return io.BytesIO(file.read())
    return file
