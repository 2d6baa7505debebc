"""What travels beside the coded picture: alpha and metadata, from a picture into a file's extensions and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from .coding import Tag
from .coding.metadata import pack_alpha, pack_metadata, unpack_alpha, unpack_metadata
from .colour import from_srgb
from .errors import Corrupt, PictureError
from .exif import without_orientation
from .pictures import OpenedPicture

__all__ = [
    "NAME_BYTES",
    "Extensions",
    "check_beside",
    "check_name",
    "kept_metadata",
    "pack_beside",
    "with_alpha",
    "with_metadata",
]

Extensions = tuple[tuple[int, bytes], ...]
"""Tag and content of each extension of a file."""
NAME_BYTES = 4
"""Bytes of the digest of a decoder or an adapter by which a file names it."""


def pack_beside(opened: OpenedPicture, keep_metadata: bool) -> Extensions:
    """Extensions of a picture: alpha where it has any, metadata where it is asked for.

    Raises:
        PictureError: if the metadata is larger than a file may hold.
    """
    try:
        found = pack_metadata(opened.metadata) if keep_metadata else []
    except ValueError as error:
        raise PictureError(str(error)) from error
    if opened.alpha is not None:
        found.append((int(Tag.ALPHA), pack_alpha(opened.alpha)))
    return tuple(sorted(found))


def check_beside(extensions: Extensions, height: int, width: int) -> None:
    """Unpacks what a file carries, before anybody works on the picture itself.

    Raises:
        Corrupt: if an extension is damaged.
    """
    for tag, of in ((Tag.IDENTITY, "decoder"), (Tag.ADAPTER, "adapter")):
        if (named := dict(extensions).get(tag)) is not None:
            check_name(named, of)
    unpack_metadata(extensions)
    if (alpha := dict(extensions).get(Tag.ALPHA)) is not None:
        unpack_alpha(alpha, height, width)


def check_name(named: bytes, of: str) -> None:
    """Looks at the name of a decoder or an adapter in a file (`identity.py`).

    Raises:
        Corrupt: if it is damaged.
    """
    if len(named) != NAME_BYTES:
        raise Corrupt(f"The file names its {of} with {len(named)} bytes instead of {NAME_BYTES}.")


def with_alpha(rgb: np.ndarray, extensions: Extensions) -> np.ndarray:
    """`uint8` `[H, W, 3]` with the alpha channel of a file, `[H, W, 4]`; unchanged where it has none.

    Raises:
        Corrupt: if the extension is damaged.
    """
    alpha = dict(extensions).get(Tag.ALPHA)
    if alpha is None:
        return rgb
    return np.concatenate([rgb, unpack_alpha(alpha, *rgb.shape[:2])[..., None]], axis=2)


def kept_metadata(extensions: Extensions) -> dict[str, bytes]:
    """The metadata of a file, by Pillow's keys; EXIF without a word of how pixels lie, which are upright in every file.

    Raises:
        Corrupt: if an extension is damaged.
    """
    metadata = unpack_metadata(extensions)
    if "exif" in metadata and (exif := without_orientation(metadata.pop("exif"))):
        metadata["exif"] = exif
    return metadata


def with_metadata(picture: Any, extensions: Extensions) -> Any:
    """A PIL image with the metadata of a file in its `info`, and in the colours of its profile.

    Raises:
        Corrupt: if an extension is damaged.
    """
    metadata = kept_metadata(extensions)
    profile = metadata.pop("icc_profile", None)
    if profile is not None:
        picture = from_srgb(picture, profile)
    picture.info |= metadata
    return picture
