"""Rebuilt pictures as files: near enough to lossless, with what they say of themselves and with kept metadata.

Pillow's own `save` leaves out what is in `Image.info`, which differs between formats; after a colour profile was kept
its pixels then mean other colours.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from .colour import is_rgb_profile, to_srgb
from .exif import exif_facts, orientation
from .provenance import provenance_xmp
from .saving import write_atomically
from .user_warning import warn_user

__all__ = ["check_side", "encode_picture", "picture_format", "save_picture"]


@dataclass(frozen=True)
class _Format:
    """What a format can hold, as Pillow writes it, and how it is written."""

    alpha: bool = True
    profile: bool = False
    exif_and_xmp: bool = False
    largest_side: int | None = None  # pixels
    options: dict[str, Any] = field(default_factory=dict)


# Those that hold every colour of a photograph; a GIF has 256 of them, an icon 256 pixels in a row, and a PDF is no
# picture. A codec's own artefacts must not pass for ours: lossless where the format can, very nearly so where not.
_FORMATS = {
    "PNG": _Format(profile=True, exif_and_xmp=True),
    "WEBP": _Format(profile=True, exif_and_xmp=True, largest_side=16_383, options={"lossless": True}),
    "JPEG": _Format(
        alpha=False,
        profile=True,
        exif_and_xmp=True,
        largest_side=65_500,
        options={"quality": 95, "subsampling": 0},
    ),
    "AVIF": _Format(
        profile=True, exif_and_xmp=True, largest_side=65_536, options={"quality": 95, "subsampling": "4:4:4"}
    ),
    "TIFF": _Format(profile=True, exif_and_xmp=True),
    "JXL": _Format(exif_and_xmp=True, options={"lossless": True}),  # of a plug-in
    "JPEG2000": _Format(),
    "QOI": _Format(),
    "TGA": _Format(largest_side=65_535),
    "BMP": _Format(alpha=False),  # Pillow writes it, and ignores it when it reads
    "PPM": _Format(alpha=False),
}
_GREY_SUFFIXES = frozenset({".pbm", ".pfm", ".pgm"})  # of the format PPM

_TIFF_XMP = 700  # number of the tag
_JPEG_SEGMENT = 65_000  # bytes of EXIF or XMP that fit into a JPEG, with a little room


def save_picture(picture: Image.Image, path: str | os.PathLike[str], provenance: bool = True) -> None:
    """Writes a picture that `OneDCPipeline.decompress` rebuilt, with everything that came with it.

    That is a note (XMP) that detail was synthesised, and, if the file kept them, EXIF, XMP and the colour profile. WebP
    is lossless, JPEG and AVIF have quality 95. What a format cannot hold is left out with a warning. The file is there
    whole or not at all; one that is there is replaced.

    Args:
        picture (`PIL.Image.Image`): any picture; without the facts of a rebuilt one in its `info` it gets no note.
        path (`str` or `os.PathLike`): its suffix names the format.
        provenance (`bool`, *optional*): `False` leaves out the note.

    Raises:
        TypeError: if it is no PIL image.
        ValueError: if no format has this suffix, or the format no pixels of the picture's mode, or not so many.
        OSError: if the file cannot be written.
    """
    if not isinstance(picture, Image.Image):
        raise TypeError(f"`picture` must be a PIL image; got {type(picture).__name__}. Image.fromarray makes one.")
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"{os.fspath(path)}: there is no folder {str(Path(path).parent)!r}; make it first.")
    write_atomically(Path(path), encode_picture(picture, Path(path), provenance))


def encode_picture(picture: Image.Image, path: Path, provenance: bool = True) -> bytes:
    """The bytes that `save_picture` writes. What a format cannot hold is left out with a warning.

    Alpha is then put on white, and the colours of a kept profile become sRGB again.

    Raises:
        ValueError: if no format has this suffix, or the format no pixels of the picture's mode, or not so many.
    """
    name = picture_format(path)
    check_side(path, *picture.size)
    picture.load()  # an .odc file that Pillow opened knows only then what came with it
    if picture.mode in ("P", "PA"):  # not every format has palettes
        given = picture
        picture = given.convert("RGBA" if given.has_transparency_data else "RGB")
        picture.info = dict(given.info)
    picture, info = _without_what_has_no_place(picture, path, name, provenance)
    options = dict(_FORMATS[name].options)
    kept = {key: info[key] for key in ("exif", "icc_profile") if key in info}
    if name == "JPEG" and len(kept.get("exif", b"")) > _JPEG_SEGMENT:
        warn_user(f"{path}: EXIF is left out, a JPEG cannot hold so much")
        del kept["exif"]
    facts = _facts(kept.get("exif", b""))
    if name == "TIFF" and (turn := orientation(kept.get("exif", b""))) is not None:
        facts = facts or Image.Exif()
        facts[ExifTags.Base.Orientation] = turn  # the pixels lie as they were given
    if facts is None:
        warn_user(f"{path}: the kept EXIF is left out, it is damaged")
        del kept["exif"]
    xmp = _packet(info, path, name, provenance)
    picture = picture.copy()
    picture.info = {}  # some formats would write it, each in its own way
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
    elif xmp is not None:
        options["xmp"] = xmp
    buffer = io.BytesIO()
    try:
        picture.save(buffer, name, **options)
    except OSError as error:
        if "cannot write mode" not in str(error):
            raise
        raise ValueError(f"{path}: this format has no pixels of mode {picture.mode!r}: convert them first") from error
    return buffer.getvalue()


def check_side(path: Path, width: int, height: int) -> None:
    """Refuses a picture that is too long or too high for a format, which is good to know before it is rebuilt.

    Args:
        path (`Path`): its suffix names the format.
        width (`int`): in pixels.
        height (`int`): in pixels.

    Raises:
        ValueError: naming the limit; or if no format has this suffix.
    """
    name = picture_format(path)
    largest = _FORMATS[name].largest_side
    if largest is not None and max(width, height) > largest:
        raise ValueError(
            f"{path}: a {name} picture has {largest:,} pixels a side at most, and this one has {width:,}x{height:,}. "
            "Name a .png or .tif file instead."
        )


def _without_what_has_no_place(
    picture: Image.Image, path: Path, name: str, provenance: bool
) -> tuple[Image.Image, dict[str, Any]]:
    """A picture and its `info`, with what its format can hold; one warning names all that was taken out."""
    holds, info = _FORMATS[name], cast(dict[str, Any], dict(picture.info))
    taken = []
    if not holds.profile and (profile := info.pop("icc_profile", None)) is not None:
        taken.append("colour profile (the colours are sRGB)")
        picture = _in_srgb(picture, profile, path)
    if not holds.exif_and_xmp:
        taken += [word for key, word in (("exif", "EXIF"), ("xmp", "XMP")) if info.pop(key, None) is not None]
        if provenance and info.pop("onedc:DigitalSourceType", None) is not None:
            taken.append("note that detail was synthesised")
    if not holds.alpha and picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if cast(tuple[int, int], picture.getchannel("A").getextrema())[0] < 255:
            taken.append("transparency (put on white)")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if taken:
        warn_user(f"{path}: this format cannot hold everything, left out: {', '.join(taken)}; PNG or WebP can")
    return picture, info


def _in_srgb(picture: Image.Image, profile: bytes, path: Path) -> Image.Image:
    """A picture in the colours of an RGB profile, in sRGB instead."""
    if picture.mode not in ("RGB", "RGBA") or not is_rgb_profile(profile):
        return picture
    colour = to_srgb(picture.convert("RGB"), profile, str(path))
    if picture.mode == "RGBA":
        colour.putalpha(picture.getchannel("A"))
    return colour


def _packet(info: dict[str, Any], path: Path, name: str, provenance: bool) -> bytes | None:
    """The XMP to write: what was kept with the note in it, or the note alone where the format cannot hold both."""
    kept = info.get("xmp")
    kept, noted = kept.encode() if isinstance(kept, str) else kept, provenance and "onedc:DigitalSourceType" in info
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
        ValueError: if no format has it, or none that a photograph fits into.
    """
    suffix = path.suffix.lower()
    name = Image.registered_extensions().get(suffix)
    if name not in _FORMATS or name not in Image.SAVE or suffix in _GREY_SUFFIXES:
        raise ValueError(f"{path}: no picture format for photographs has this suffix; use .png, .webp, .jpg or .tif")
    return name
