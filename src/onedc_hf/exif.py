"""What EXIF says, and how the pixels lie by it."""

from __future__ import annotations

from PIL import ExifTags, Image

__all__ = ["exif_facts", "orientation", "without_orientation"]

# Not among them: orientation, which has been applied.
_EXIF_FACTS = (
    ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software,
    ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.HostComputer, ExifTags.Base.Copyright,
)  # fmt: skip


def exif_facts(exif: Image.Exif) -> Image.Exif:
    """What EXIF says of a photograph, without what it says of the file that the photograph came in."""
    found = Image.Exif()
    for tag in _EXIF_FACTS:
        if tag in exif:
            found[tag] = exif[tag]
    for pointer in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if inner := {tag: value for tag, value in exif.get_ifd(pointer).items() if tag != ExifTags.IFD.Interop}:
            found[pointer] = inner
    return found


def orientation(exif: bytes) -> int | None:
    """How the pixels of a picture lie, 2 to 8; `None` if they are upright, or it cannot be read."""
    turn = _loaded(exif).get(ExifTags.Base.Orientation, 1)
    return turn if isinstance(turn, int) and 2 <= turn <= 8 else None


def without_orientation(exif: bytes) -> bytes | None:
    """The same EXIF for pixels that are upright; `None` if it would have to change and cannot be written anew."""
    if orientation(exif) is None:
        return exif
    found = _loaded(exif)
    del found[ExifTags.Base.Orientation]
    try:
        return found.tobytes()
    except Exception:  # other programs' tags can be anything, and so is what Pillow raises
        return None


def _loaded(exif: bytes) -> Image.Exif:
    """As far as Pillow can read it."""
    found = Image.Exif()
    try:
        found.load(exif)
        found.get(ExifTags.Base.Orientation)  # tags are read when they are asked for
    except Exception:  # as above
        return Image.Exif()
    return found
