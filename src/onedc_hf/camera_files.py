"""What cameras write beside pictures that everybody reads: raw files, which hold no finished picture, and HEIF.

A raw file is often a TIFF whose first page is a preview of a few hundred pixels. Whoever opens it as a TIFF gets that
preview, without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["CAMERA_SUFFIXES", "DEVELOP", "SAVE_AS_JPEG", "is_heif", "is_raw_start", "is_raw_tiff"]

DEVELOP = "camera raw: develop it first, to a TIFF, PNG or JPEG; it holds no finished picture but a small preview"
SAVE_AS_JPEG = (
    "HEIF (.heic), which Pillow does not read by itself: save it as JPEG or PNG, or register pillow-heif with Pillow"
)

# fmt: off
CAMERA_SUFFIXES = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".hif", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf",
    ".rw2", ".srw",
})
# fmt: on
_RAW_STARTS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW")  # ORF, RW2, RAF
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706  # tags of TIFF and DNG


def is_raw_start(head: bytes) -> bool:
    """Whether the first 16 bytes of a file are those of a raw file; NEF, ARW and DNG begin like any TIFF."""
    cr2 = head[:4] == b"II*\0" and head[8:10] == b"CR"
    return head.startswith(_RAW_STARTS) or cr2 or head[4:12] == b"ftypcrx "


def is_heif(head: bytes) -> bool:
    """Whether the first 16 bytes of a file are those of a HEIF picture."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def is_raw_tiff(picture: Image.Image) -> bool:
    """Whether an opened TIFF is a raw file: a DNG, or a preview with the picture in a directory below it."""
    tags: Any = getattr(picture, "tag_v2", None)
    if picture.format != "TIFF" or tags is None:
        return False
    kind = tags.get(_SUBFILE_TYPE, 0)
    is_preview = isinstance(kind, int) and kind & 1 == 1
    return _DNG_VERSION in tags or (is_preview and _SUB_IFDS in tags)
