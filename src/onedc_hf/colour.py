"""Colour profiles: pictures to sRGB, which the codec works in, and back to the profile that was kept."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from .user_warning import warn_user

__all__ = ["from_srgb", "is_rgb_profile", "to_srgb"]


def to_srgb(picture: Image.Image, profile: bytes | None, where: str) -> Image.Image:
    """A picture in sRGB by its profile; one that is damaged, or of another kind of picture, is ignored with a warning.

    Args:
        picture (`PIL.Image.Image`): L, RGB, CMYK or LAB, without alpha.
        profile (`bytes`, *optional*): ICC; a LAB picture needs none.
        where (`str`): what to call the picture.
    """
    target = ImageCms.createProfile("sRGB")
    try:
        if profile is None or picture.mode == "LAB":  # a device-independent mode is its own profile
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = str(getattr(source.profile, "xcolor_space", "")).strip()
        if space == "RGB" and picture.mode == "L":  # grey saved by a program that always embeds its RGB profile
            picture = picture.convert("RGB")
        if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}.get(space) != picture.mode:
            raise ImageCms.PyCMSError(f"a {space} profile in a {picture.mode} picture")
        transform = ImageCms.buildTransform(
            source,
            target,
            picture.mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if picture.mode == "RGB" and _changes_nothing(transform):
            return picture  # sRGB already: keep every pixel exactly
        converted = ImageCms.applyTransform(picture, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        warn_user(f"{where}: its colour profile is ignored, read as sRGB ({error})")
        return picture.convert("RGB")
    assert converted is not None  # in-place transforms alone give None
    return converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform moves no colour of an 8 x 8 x 8 grid by more than 2 of 255 (rounding inside the engine)."""
    steps = np.arange(8, dtype=np.float32) * (255 / 7)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).round().astype(np.uint8).reshape(8, 64, 3)
    moved = ImageCms.applyTransform(Image.fromarray(grid), transform)
    return moved is not None and int(np.abs(np.asarray(moved, np.int16) - grid.astype(np.int16)).max()) <= 2


def from_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """An sRGB picture (RGB or RGBA) in the colours of an RGB profile, which it then carries; else unchanged."""
    if not is_rgb_profile(profile):
        return picture
    colour = picture.convert("RGB")
    try:
        target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(colour, ImageCms.createProfile("sRGB"), target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture
    if converted is None:
        return picture
    if picture.mode == "RGBA":
        converted.putalpha(picture.getchannel("A"))
    converted.info = picture.info | {"icc_profile": profile}
    return converted


def is_rgb_profile(profile: bytes) -> bool:
    """Say whether a colour profile is one of RGB pictures, such as those that a file is rebuilt to."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # Of four bytes that can be anything; Pillow reads them as text only now.
        return str(getattr(opened.profile, "xcolor_space", "")).strip() == "RGB"
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return False
