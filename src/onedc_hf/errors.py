"""The one tree of exceptions about files, pictures and models.

    OneDCError
      BitstreamError      the bytes handed in (also a ValueError)
        NotOneDC            they are something else
        UnsupportedVersion  a later, or an early and withdrawn, version of the format
        Truncated           the end is missing
        Corrupt             bytes were changed, or the file was never valid
        WrongModel          whole and valid, but written by another model
        TooLarge            more pixels than the limit at hand
        UnsupportedFeature  whole and valid, but it needs something this version cannot do
      PictureError        a picture that cannot be read or used (also a ValueError)
      TargetError         a byte target that cannot be met (also a ValueError)
      EncodeError         a file that was written does not decode here again; nothing is handed out
      ModelError          a folder, repository or configuration that is no usable model (also a ValueError)
      ConversionError     a checkpoint that cannot be converted (also a ValueError)

Catch `OneDCError` to handle everything, `BitstreamError` to handle every bad file. Wrong argument types and calls in a
wrong order are bugs of the caller and stay plain `TypeError`, `ValueError` and `RuntimeError`. Every error survives
pickling, so that it can cross processes.

Every message says what is wrong, where, what was expected, and what to do now.
"""

from __future__ import annotations

__all__ = [
    "BitstreamError",
    "ConversionError",
    "Corrupt",
    "EncodeError",
    "ModelError",
    "NotOneDC",
    "OneDCError",
    "PictureError",
    "TargetError",
    "TooLarge",
    "Truncated",
    "UnsupportedFeature",
    "UnsupportedVersion",
    "WrongModel",
]


class OneDCError(Exception):
    """Base of every error this package raises on purpose."""


class BitstreamError(OneDCError, ValueError):
    """The bytes handed in are not a file that can be decoded with the model at hand."""


class NotOneDC(BitstreamError):
    """The bytes do not begin as an `.odc` file does."""


class UnsupportedVersion(BitstreamError):
    """The file states a version of the format that this release does not read."""


class Truncated(BitstreamError):
    """The file ends before it should."""


class Corrupt(BitstreamError):
    """The file was changed since it was written, or was never valid."""


class WrongModel(BitstreamError):
    """The file is whole, but another model wrote it.

    Args:
        wanted (`str`): model id in the file, 4 hex digits.
        at_hand (`str`): model id of the model that was asked to read it.
        hint (`str`, *optional*, defaults to `""`): where to get the wanted model, when that is known.
    """

    def __init__(self, wanted: str, at_hand: str, hint: str = "") -> None:
        super().__init__(wanted, at_hand, hint)
        self.wanted = wanted
        self.at_hand = at_hand
        self.hint = hint

    def __str__(self) -> str:
        advice = self.hint or "Decode it with the model that wrote it (`onedc info` shows the id of a file)."
        return f"This file was written by model {self.wanted}, but the model at hand is {self.at_hand}. {advice}"


class TooLarge(BitstreamError):
    """The file states a picture of more pixels than the pipeline's `max_pixels`."""


class UnsupportedFeature(BitstreamError):
    """The file is whole, but needs a feature that this version does not have."""


class PictureError(OneDCError, ValueError):
    """A picture cannot be read, or has a form that cannot be used."""


class TargetError(OneDCError, ValueError):
    """`target_bytes` or `target_bpp` is below the smallest file possible for this picture.

    Args:
        message (`str`): what to tell the user.
        smallest (`int`): size in bytes of the smallest file possible.
    """

    def __init__(self, message: str, smallest: int) -> None:
        super().__init__(message, smallest)
        self.smallest = smallest

    def __str__(self) -> str:
        return str(self.args[0])


class EncodeError(OneDCError, RuntimeError):
    """What was written does not decode on the machine that wrote it: its memory or installation is at fault."""


class ModelError(OneDCError, ValueError):
    """A folder, repository or configuration is no usable OneDC model."""


class ConversionError(OneDCError, ValueError):
    """A checkpoint cannot be converted."""
