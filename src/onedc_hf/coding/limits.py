"""How large a picture may be before memory is asked for it."""

from __future__ import annotations

__all__ = ["MAX_PIXELS", "POSITION", "check_limit", "too_large"]

MAX_PIXELS = 1 << 28
"""Larger pictures are refused unless somebody asks for them, so that a few bytes cannot ask for all memory."""
POSITION = 64
"""Pixels of a position of the hyper-latent, in each direction."""
_ALWAYS_PADDED = 1 << 24  # pixels, with sides rounded up: so many can be worked on anywhere
# The exact path works on strips as wide as the picture: 160 kB for each 64 pixels of width, whatever the height.
_WIDEST = 1 << 18


def check_limit(max_pixels: object) -> None:
    """Refuses what is no limit: `None`, and whole numbers from 0 on, are.

    Raises:
        TypeError, ValueError: for anything else.
    """
    if max_pixels is not None and (isinstance(max_pixels, bool) or not isinstance(max_pixels, int)):
        raise TypeError(f"`max_pixels` must be a whole number or None (no limit); got {max_pixels!r}.")
    if max_pixels is not None and max_pixels < 0:
        raise ValueError(f"`max_pixels` must not be below 0 (0: no limit); got {max_pixels}.")


def too_large(width: int, height: int, max_pixels: int | None) -> str | None:
    """Why a picture is not worked on; `None` if it is.

    Networks see sides rounded up to multiples of 64, so a picture that is one pixel high costs as much as one of 64:
    such a one may have twice the limit, and none may be wider than 262,144 pixels.

    Args:
        width (`int`): of the picture, in pixels.
        height (`int`): the same.
        max_pixels (`int`, *optional*): the limit; `None` or 0: there is none.
    """
    if not max_pixels:
        return None
    if width * height > max_pixels:
        return f"{width}x{height} pixels, more than the limit of {max_pixels:,}"
    if width > _WIDEST:
        return (
            f"{width}x{height} pixels, wider than the limit of {_WIDEST:,}, which only 0 lifts; a tall picture may "
            "have as many: turn it"
        )
    padded = (-(-width // POSITION) * POSITION) * (-(-height // POSITION) * POSITION)
    if padded > max(2 * max_pixels, _ALWAYS_PADDED):
        rounded = f"{padded:,} with its sides rounded up to multiples of {POSITION}"
        return f"{width}x{height} pixels, {rounded}, more than twice the limit of {max_pixels:,}"
    return None
