"""What the numbers in a picture's file mean, where Pillow hands them on as they are."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

__all__ = ["Numbers", "read_numbers"]

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of a TIFF
_WHITE_IS_ZERO = 0
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Numbers:
    """How numbers are to be read.

    Args:
        highest (`int`): of grey pictures of more than 8 bits, the number of the other end of the scale.
        white_is_zero (`bool`): these, and floats, run from white to black.
        clear (`int` or `tuple`, *optional*): the transparent colour of a PNG, in 8 bits, where its file has other ones.
    """

    highest: int = 65535
    white_is_zero: bool = False
    clear: int | tuple[int, ...] | None = None


def read_numbers(picture: Image.Image) -> Numbers:
    """Looks at the file behind a picture; has to be called before Pillow unpacks or turns it, and forgets the file."""
    if picture.format == "TIFF" and (tags := getattr(picture, "tag_v2", None)) is not None:
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0] if picture.mode in _SIXTEEN else 16
        # Pillow turns grey of 1 and 8 bits itself.
        white_is_zero = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and picture.mode in (*_SIXTEEN, "I", "F")
        return Numbers(highest=2 ** min(bits, 16) - 1, white_is_zero=white_is_zero)
    clear, tiles = picture.info.get("transparency"), getattr(picture, "tile", None)
    if picture.format == "PNG" and tiles:
        kept_as = tiles[0][3]
        if isinstance(clear, int) and kept_as in ("L;2", "L;4"):  # of 2 and 4 bits Pillow scales pixels, not this
            return Numbers(clear=clear * (85 if kept_as == "L;2" else 17))
        if isinstance(clear, tuple) and kept_as == "RGB;16B":  # it keeps the upper byte of pixels, and this whole
            return Numbers(clear=tuple(value >> 8 for value in clear))
    return Numbers()
