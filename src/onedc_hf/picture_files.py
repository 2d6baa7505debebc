"""Rebuilt pictures as files: near enough to lossless, with what they say of themselves and with kept metadata.

Pillow's own `save` leaves out what is in `Image.info`, which differs between formats; after a colour profile was kept
its pixels then mean other colours.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, cast

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .pictures import exif_facts
from .provenance import provenance_xmp
from .saving import write_atomically
from .user_warning import warn_user

__all__ = ["encode_picture", "picture_format", "save_picture"]

# A codec's own artefacts must not pass for ours: lossless where the format can, very nearly so where not.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 95, "subsampling": 0},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}

_TIFF_XMP = 700  # number of the tag
_JPEG_SEGMENT = 65_000  # bytes of EXIF or XMP that fit into a JPEG, with a little room


def save_picture(picture: Image.Image, path: str | os.PathLike[str], provenance: bool = True) -> None:
    """Writes a picture that `OneDCPipeline.decompress` rebuilt, with everything that came with it.

    That is a note (XMP) that detail was synthesised, and, if the file kept them, EXIF, XMP and the colour profile. WebP
    is lossless, JPEG and AVIF have quality 95. The file is there whole or not at all; one that is there is replaced.

    Args:
        picture (`PIL.Image.Image`): any picture; without the facts of a rebuilt one in its `info` it gets no note.
        path (`str` or `os.PathLike`): its suffix names the format.
        provenance (`bool`, *optional*): `False` leaves out the note.

    Raises:
        ValueError: if no format has this suffix.
        OSError: if the file cannot be written.
    """
    write_atomically(Path(path), encode_picture(picture, Path(path), provenance))


def encode_picture(picture: Image.Image, path: Path, provenance: bool = True) -> bytes:
    """The bytes that `save_picture` writes. What a format cannot hold is left out with a warning.

    Raises:
        ValueError: if no format has this suffix.
    """
    picture.load()  # an .odc file that Pillow opened knows only then what came with it
    name, info = picture_format(path), cast(dict[str, Any], picture.info)
    options = dict(_SAVE_OPTIONS.get(name, {}))
    kept = {key: info[key] for key in ("exif", "icc_profile") if key in info}
    if name == "JPEG" and len(kept.get("exif", b"")) > _JPEG_SEGMENT:
        warn_user(f"{path}: EXIF is left out, a JPEG cannot hold so much")
        del kept["exif"]
    facts = _facts(kept.get("exif", b""))
    if facts is None:
        warn_user(f"{path}: the kept EXIF is left out, it is damaged")
        del kept["exif"]
    xmp = _packet(info, path, name, provenance)
    if picture.mode == "RGBA" and name == "JPEG":  # it has no alpha
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
    picture = picture.copy()
    picture.info = {}  # some formats would write it, each in its own way
    if name in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF"):
        options |= kept
    if xmp is not None and name == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif name == "TIFF":
        # Among the tags of its pixels, which must not be those of another file.
        tags = facts or Image.Exif()
        if xmp is not None:
            tags[_TIFF_XMP] = xmp
        options["exif"] = tags.tobytes()
    elif xmp is not None and name in ("JPEG", "WEBP", "AVIF"):
        options["xmp"] = xmp
    buffer = io.BytesIO()
    picture.save(buffer, name, **options)
    return buffer.getvalue()


def _packet(info: dict[str, Any], path: Path, name: str, provenance: bool) -> bytes | None:
    """The XMP to write: what was kept with the note in it, or the note alone where the format cannot hold both."""
    kept, noted = info.get("xmp"), provenance and "onedc:DigitalSourceType" in info
    xmp = provenance_xmp(info, kept) if noted else kept
    if noted and kept and xmp == provenance_xmp(info):
        warn_user(f"{path}: the kept XMP is left out, it is no packet that the note can join")
    if xmp is not None and (name == "JPEG" and len(xmp) > _JPEG_SEGMENT or not _is_text(xmp)):
        warn_user(f"{path}: the kept XMP is left out, this format cannot hold it")
        return provenance_xmp(info) if noted else None
    return xmp


def _facts(exif: bytes) -> Image.Exif | None:
    """What EXIF says of the photograph; `None` if it cannot be read."""
    given = Image.Exif()
    try:
        given.load(exif)
        facts = exif_facts(given)
        facts.tobytes()
    except Exception:  # other programs' tags can be anything, and so is what Pillow raises
        return None
    return facts


def _is_text(packet: bytes) -> bool:
    try:
        packet.decode()
    except UnicodeDecodeError:
        return False
    return True


def picture_format(path: Path) -> str:
    """Pillow's name of the format for a suffix.

    Raises:
        ValueError: if no format has it.
    """
    known = Image.registered_extensions()
    name = known.get(path.suffix.lower())
    if name is None or name not in Image.SAVE:
        raise ValueError(f"{path}: no picture format has this suffix; use .png, .webp, .jpg, .avif or .tif")
    return name
