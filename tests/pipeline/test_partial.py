"""What arrived of a cut file, and a preview."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from onedc_hf import BitstreamError, Corrupt, OneDCPipeline, Truncated
from onedc_hf.coding import Tag, inspect, partial

Picture = Callable[..., np.ndarray]


def test_what_arrived_of_a_cut_file_gives_a_picture(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(128, 128)
    data = many_rates.compress(rgb, quality=80)
    whole = many_rates.read_symbols(data)
    errors = []
    for size in (len(data) - 4, len(data) * 3 // 4, len(data) // 3):
        with pytest.raises(BitstreamError):
            many_rates.decompress(data[:size])
        with pytest.warns(UserWarning, match=rf"{size:,} of its {len(data):,} bytes"):
            part = many_rates.read_symbols(data[:size], allow_partial=True)
        assert part.received == size / len(data)
        assert torch.equal(part.semantic_seed, whole.semantic_seed)
        errors.append(float((part.y_hat - whole.y_hat).abs().mean()))
    assert errors[0] == 0 < errors[1] < errors[2]
    with pytest.warns(UserWarning, match="cut"):
        assert many_rates.decompress(data[: len(data) // 2], allow_partial=True).size == (128, 128)


def test_a_file_that_was_cut_behind_the_picture_gives_the_whole_picture(
    many_rates: OneDCPipeline, picture: Picture
) -> None:
    alpha = np.full((128, 128), 255, np.uint8)
    alpha[:60, :50] = np.arange(50)
    image = Image.fromarray(np.dstack([picture(128, 128), alpha]))
    image.info["xmp"] = b"<x/>" * 9
    for options in ({"quality": 80}, {"z_only": True}):
        data = many_rates.compress(image, keep_metadata=True, **options)
        whole = many_rates.read_symbols(data)
        facts = inspect(data)["sections"]
        end = facts["header"] + facts["stream"]
        behind_alpha = end + 1 + 2 + len(dict(whole.extensions)[Tag.ALPHA])
        for size in (end, end + 1, end + 2, behind_alpha - 1, *range(behind_alpha, behind_alpha + 6), len(data) - 1):
            with pytest.raises(BitstreamError):
                many_rates.read_symbols(data[:size])
            with pytest.warns(UserWarning, match="The picture is whole"):
                part = many_rates.read_symbols(data[:size], allow_partial=True)
            assert part.received == 1 and torch.equal(part.y_hat, whole.y_hat)
            assert dict(whole.extensions).items() >= dict(part.extensions).items()
            assert (Tag.ALPHA in dict(part.extensions)) == (size >= behind_alpha)
        with pytest.warns(UserWarning, match="The picture is whole"):
            assert many_rates.decompress(data[: end + 3], allow_partial=True).mode == "RGB"
        with pytest.warns(UserWarning, match="The picture is whole"):
            assert many_rates.decompress(data[:-2], allow_partial=True).mode == "RGBA"
        with pytest.raises(Corrupt, match="CRC-32 does not hold"):  # what stands before must still be right
            many_rates.decompress(data[: end - 2] + b"\x5a\xa5" + data[end:-1], allow_partial=True)
        hole = data[: end + 6] + bytes(len(data) - end - 6)
        for damaged in (hole, data[:-4] + b"\xc9\0"):  # a hole, a remnant that looks like an unknown extension
            with pytest.warns(UserWarning, match="The picture is whole"):
                found = many_rates.decompress(damaged, allow_partial=True)
            assert found.mode == ("RGB" if damaged == hole else "RGBA")
        with pytest.warns(UserWarning, match=r"damaged\. Of what"):
            many_rates.decompress(data[:-1], allow_partial=True, preview=True)
        with pytest.raises(Truncated, match="another model"):
            many_rates.decompress(data[:5] + b"\0\0" + data[7:-1], allow_partial=True)


def test_what_comes_beside_is_unpacked_only_when_the_header_is_proved(
    many_rates: OneDCPipeline, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = many_rates.compress(np.dstack([picture(64, 128), np.full((64, 128), 200, np.uint8)]), quality=40)
    unpacked = []
    monkeypatch.setattr(partial, "unpack_alpha", lambda content, *size: unpacked.append(size))
    with pytest.warns(UserWarning, match="damaged"):
        many_rates.read_symbols(data[:-1], allow_partial=True)
    assert unpacked == [(64, 128)]
    flags, large = data[2] & 0xCF, ((1 << 24) - 1 << 24 | (1 << 24) - 1).to_bytes(6, "big")
    for size in (bytes([flags, 63, 63]), bytes([flags | 3 << 4]) + large):  # sides that alpha would be unpacked to
        with pytest.raises(BitstreamError):
            many_rates.read_symbols(data[:2] + size + data[5:], allow_partial=True)
    assert len(unpacked) == 1


def test_partial_is_no_licence_for_damage(many_rates: OneDCPipeline, picture: Picture) -> None:
    data = bytearray(many_rates.compress(picture(128, 128), quality=80))
    data[len(data) // 2] ^= 4
    with pytest.raises(Corrupt):
        many_rates.decompress(bytes(data), allow_partial=True)


def test_a_preview_is_the_hyper_latent_alone(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(128, 128)
    preview = many_rates.decompress(many_rates.compress(rgb, quality=80), preview=True)
    alone = many_rates.decompress(many_rates.compress(rgb, z_only=True))
    assert np.array_equal(np.asarray(preview), np.asarray(alone))
    assert preview.info["onedc:Preview"] == "True" and "onedc:Preview" not in alone.info
