"""Classical codecs at the bytes asked for."""

import sys

import numpy as np
import pytest
from PIL import Image

from onedc_hf.errors import PictureError
from onedc_hf.evaluation import classical
from onedc_hf.evaluation.classical import CODECS, Ladder, available_codecs, decode
from onedc_hf.evaluation.metrics import psnr

CODEC_NAMES = [name for name in CODECS if name in available_codecs()]


def test_the_codecs_that_pillow_wheels_carry_are_there():
    assert {"jpeg", "webp", "avif"} <= set(available_codecs())


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_nearest_is_nearest_among_all_qualities(codec, picture):
    original = picture(48, 64)
    ladder = Ladder(original, codec)
    record = ladder.codec
    sizes = {quality: len(ladder.at(quality)) for quality in range(record.lowest, record.highest + 1)}
    for target in (min(sizes.values()) + 40, sorted(sizes.values())[len(sizes) // 2], max(sizes.values()) + 1000):
        found = ladder.nearest(target)
        assert len(found.data) == sizes[found.quality]
        best = min(abs(size - target) for size in sizes.values())
        # Sizes are not quite monotone in quality; binary search may end on a neighbour.
        assert abs(len(found.data) - target) <= best + 0.02 * target
        assert not found.at_floor
    assert psnr(original, decode(found.data, (64, 48))) > (22 if record.halves else 30)


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_a_target_below_the_smallest_file_is_said(codec, picture):
    original = picture(48, 64)
    found = Ladder(original, codec).nearest(10)
    ladder, lowest = Ladder(original, codec), CODECS[codec].lowest
    assert found.at_floor and len(found.data) == min(len(ladder.at(lowest + step)) for step in range(4))
    assert not Ladder(original, codec).nearest(len(found.data)).at_floor


def test_half_the_size_is_smaller_than_the_smallest_file_and_comes_back_whole(picture):
    original = picture(97, 131)
    smallest = Ladder(original, "avif").nearest(10)
    half = Ladder(original, "avif-half").nearest(10)
    assert len(half.data) < len(smallest.data)
    assert decode(half.data).shape == (49, 66, 3)
    assert decode(half.data, (131, 97)).shape == original.shape


def test_an_unknown_codec_and_one_that_is_not_installed_are_told_apart(picture, monkeypatch):
    with pytest.raises(ValueError, match="expected one of jpeg, webp"):
        Ladder(picture(8, 8), "heic").nearest(100)
    monkeypatch.setattr(classical, "available_codecs", lambda: ("jpeg",))
    with pytest.raises(ModuleNotFoundError, match=r"JPEG XL: pip install 'onedc-hf\[eval\]'"):
        Ladder(picture(8, 8), "jxl").nearest(100)


def test_without_its_plug_in_jpeg_xl_is_not_offered(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    available_codecs.cache_clear()
    try:
        assert "jxl" not in available_codecs()
    finally:
        available_codecs.cache_clear()


def test_bytes_that_are_no_picture_are_an_error():
    with pytest.raises(PictureError):
        decode(b"no picture")


def test_decode_gives_rgb_even_for_grey_files(picture):
    grey = np.repeat(picture(16, 16)[..., :1], 3, axis=2)
    assert decode(Ladder(grey, "webp").nearest(100).data).shape == (16, 16, 3)


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_pillows_own_limit_plays_no_part(codec, picture, monkeypatch):
    original = picture(48, 64)
    data = Ladder(original, codec).at(50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # more than twice as many are an error
    assert decode(data, (64, 48)).shape == original.shape
