"""Which files of a folder are meant as pictures: told by suffix and first bytes, before anything is read."""

from __future__ import annotations

from pathlib import Path

from .camera_files import CAMERA_SUFFIXES, is_heif, is_raw_start

__all__ = ["first_bytes", "is_picture", "says_picture"]

# fmt: off
_PICTURE_SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpeg", ".jpg", ".jxl", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".psd", ".qoi", ".tga", ".tif", ".tiff", ".webp",
})
_PICTURE_STARTS = (  # JPEG, PNG, GIF, TIFF, JPEG XL, JPEG 2000, QOI
    b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\xff\x0a",
    b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ", b"qoif",
)
# fmt: on


def is_picture(path: Path) -> bool:
    """Whether a file in a folder is meant: by its suffix, or by its first bytes where it has another or none.

    What a camera writes and we cannot read is meant, too: whoever reads it says so, and nobody misses it years later.
    """
    if says_picture(path):
        return True
    head = first_bytes(path, 16)
    known = head.startswith(_PICTURE_STARTS) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP")
    return known or head[4:12] == b"ftypavif" or is_heif(head) or is_raw_start(head)


def says_picture(path: Path) -> bool:
    """Whether a file, which need not exist, has the suffix of a picture."""
    return path.suffix.lower() in _PICTURE_SUFFIXES | CAMERA_SUFFIXES


def first_bytes(path: Path, size: int) -> bytes:
    """The beginning of a file; nothing where it cannot be read, which is for whoever reads it to say."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""
