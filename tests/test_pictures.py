"""What people hand in comes out as the 8-bit sRGB picture they would expect, or as an error that helps."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from onedc_hf import pictures
from onedc_hf.colour import is_rgb_profile
from onedc_hf.errors import PictureError
from onedc_hf.pictures import from_tensor, load_picture, open_picture, pad, to_output, to_tensor


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def one(rgb):
    """The colour of a picture that is one colour all over."""
    assert (rgb == rgb[0, 0]).all() and rgb.dtype == np.uint8 and rgb.ndim == 3
    return tuple(int(value) for value in rgb[0, 0])


# --- sources and forms ------------------------------------------------------------------------------------------------


def test_file_string_and_path_pil_array_and_tensor_give_the_same_picture(rgb, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    for form in (path, str(path), Image.fromarray(rgb), rgb, tensor, tensor[None]):
        np.testing.assert_array_equal(load_picture(form), rgb)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_float_tensors_in_0_1_are_scaled(dtype):
    x = torch.tensor([0.0, 0.5, 1.0], dtype=dtype)[:, None, None].expand(3, 2, 2)
    assert one(load_picture(x)) == (0, 128, 255)


def test_open_files_are_read_and_stay_open(rgb, tmp_path):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    with (tmp_path / "a.png").open("rb") as file, io.BytesIO(content) as buffer:
        for opened in (file, buffer, buffer):
            assert np.array_equal(load_picture(opened), rgb) and not opened.closed
    with (tmp_path / "a.png").open() as file, pytest.raises(PictureError, match=r"a\.png gives no bytes.*'rb'"):
        load_picture(file)
    with pytest.raises(PictureError, match="the open file: not a picture"):
        load_picture(io.BytesIO(b"words"))


def test_float_arrays_in_0_1_are_scaled_and_rounding_beyond_the_range_is_forgiven():
    assert one(load_picture(np.full((2, 2, 3), 0.5))) == (128, 128, 128)
    assert one(load_picture(np.full((2, 2), 1.003, np.float16))) == (255, 255, 255)


def test_the_result_never_shares_memory_with_the_callers_array(rgb):
    mine = rgb.copy()
    load_picture(mine)[:] = 0
    np.testing.assert_array_equal(mine, rgb)


def test_the_result_never_shares_memory_with_the_callers_tensor(rgb):
    mine = torch.from_numpy(rgb.copy()).permute(2, 0, 1)  # [C, H, W], a view of [H, W, C]
    load_picture(mine)[:] = 0
    np.testing.assert_array_equal(mine.permute(1, 2, 0).numpy(), rgb)


def test_a_picture_whose_mode_is_known_only_when_loaded(tmp_path):
    Image.new("RGB", (32, 32), (10, 20, 30)).save(tmp_path / "icon.icns")
    assert load_picture(tmp_path / "icon.icns")[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_every_output_type_reads_back_exactly(rgb, output_type):
    np.testing.assert_array_equal(load_picture(to_output(rgb, output_type)), rgb)


def test_an_unknown_output_type_is_refused(rgb):
    with pytest.raises(ValueError, match="'pil', 'np' or 'pt', got 'jpg'"):
        to_output(rgb, "jpg")


# --- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (128, 0), (129, 1), (255, 1), (1000, 4), (32768, 128), (65535, 255)]
)
@pytest.mark.parametrize("form", ["png", "tiff", "I", "uint16"])
def test_16_bit_grey_is_scaled_and_not_clipped(value, expected, form, tmp_path):
    values = np.full((4, 4), value, np.uint16)
    picture = values
    if form == "I":
        picture = Image.fromarray(values.astype(np.int32))
        assert picture.mode == "I"
    elif form != "uint16":
        picture = tmp_path / f"deep.{form}"
        Image.fromarray(values).save(picture)
    with pytest.warns(UserWarning, match="nearly black") if 0 < value <= 255 else nullcontext():
        assert one(load_picture(picture)) == (expected,) * 3


def grey_tiff(path: Path, bits: int, white_is_zero: bool, data: bytes, floats: bool = False) -> Path:
    """A file of one row of grey numbers, as they are."""
    width = len(data) * 8 // bits
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 8)]
    tags += [(277, 1), (278, 1), (279, len(data)), (339, 3 if floats else 1)]
    at = 8 + len(data) + len(data) % 2
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    body = data.ljust(at - 8, b"\0") + struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, at) + body)
    return path


@pytest.mark.parametrize(
    ("bits", "data", "expected"),
    [
        (8, bytes([0, 128, 255]), [0, 128, 255]),
        (16, struct.pack("<3H", 0, 32768, 65535), [0, 128, 255]),
        (12, bytes([0xFF, 0xF8, 0x00]), [255, 128]),  # packed from the upper bits on
        (32, struct.pack("<3f", 0, 0.5, 1), [0, 128, 255]),
    ],
)
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_grey_tiffs_mean_what_their_tags_say(tmp_path, bits, data, expected, white_is_zero):
    if bits == 12 and white_is_zero:
        pytest.skip("Pillow does not read them")
    path = grey_tiff(tmp_path / "grey.tif", bits, white_is_zero, data, floats=bits == 32)
    found = load_picture(path)[0, :, 0].tolist()
    wanted = [255 - value for value in expected] if white_is_zero else expected
    assert all(abs(one - other) <= 1 for one, other in zip(found, wanted, strict=True)), (found, wanted)


def keyed_png(path: Path, bits: int, colour: bool, row: bytes, key: bytes, width: int) -> Path:
    """A PNG of one row with a transparent colour, in a depth that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, 2 if colour else 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"tRNS", key) + data + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(
    ("bits", "row", "key", "alpha"),
    [
        (2, b"\x30", "0003", [255, 0]),
        (4, b"\x0f", "000f", [255, 0]),
        (4, b"\x5f", "0005", [0, 255]),
        (16, bytes.fromhex("123456789abc34007800bc00"), "123456789abc", [0, 255]),
    ],
)
def test_a_transparent_colour_has_the_depth_of_its_file(tmp_path, bits, row, key, alpha):
    path = keyed_png(tmp_path / "keyed.png", bits, bits == 16, row, bytes.fromhex(key), 2)
    opened = open_picture(path)
    assert opened.alpha is not None and opened.alpha.tolist() == [alpha]
    with Image.open(path) as picture:  # a caller's own stays as it was
        before = dict(picture.info)
        assert open_picture(picture).alpha.tolist() == [alpha] and picture.info == before


@pytest.mark.parametrize("form", ["I", "uint16"])
def test_8_bits_in_wider_integers_are_pointed_out(form):
    values = np.full((4, 4), 200, np.uint16)
    with pytest.warns(UserWarning, match="at most 200 are read as 16 bits.*pass them as uint8"):
        assert one(load_picture(Image.fromarray(values.astype(np.int32)) if form == "I" else values)) == (1, 1, 1)


def test_16_bit_colour_arrays_are_scaled():
    assert one(load_picture(np.full((2, 2, 3), (0, 32768, 65535), np.uint16))) == (0, 128, 255)


def test_16_bit_rgb_png_keeps_its_high_bytes(tmp_path):
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    pixels = np.full((2, 3), (0x00FF, 0x80FF, 0xFFFF), np.dtype(">u2"))[:1].tobytes()  # 1 pixel
    header = (1).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    path = tmp_path / "deep.png"
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + pixels)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    red, green, blue = one(load_picture(path))
    assert red <= 1 and green in (128, 129) and blue == 255


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBX", (10, 20, 30, 0), (10, 20, 30)),
        ("CMYK", (0, 0, 0, 0), (255, 255, 255)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("F", 0.5, (128, 128, 128)),
    ],
)
def test_pil_modes_without_transparency_convert_silently(mode, colour, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one(load_picture(Image.new(mode, (3, 2), colour))) == expected


def test_ycbcr_and_lab_pictures_keep_their_colour():
    red = Image.new("RGB", (2, 2), (200, 30, 40))
    assert np.abs(np.subtract(one(load_picture(red.convert("YCbCr"))), (200, 30, 40))).max() <= 2
    lab = ImageCms.profileToProfile(
        red, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert np.abs(np.subtract(one(load_picture(lab)), (200, 30, 40))).max() <= 3


def test_a_bool_array_is_black_and_white():
    np.testing.assert_array_equal(load_picture(np.array([[True, False]]))[0, :, 0], [255, 0])


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("form", ["array", "tensor", "pil"])
def test_alpha_is_flattened_on_white_with_a_warning(channels, form):
    picture = np.full((4, 4, channels), 100, np.uint8)
    picture[..., -1] = 51  # 20 %
    given = {
        "array": lambda: picture,
        "tensor": lambda: torch.from_numpy(picture).permute(2, 0, 1),
        "pil": lambda: Image.fromarray(picture),
    }[form]()
    with pytest.warns(UserWarning, match="put on white") as caught:
        assert one(load_picture(given)) == (224, 224, 224)
    assert caught[0].filename == __file__  # it points at the line that asked, not into the package


@pytest.mark.parametrize("transparency", [2, b"\x00\xff\x00"])
def test_transparent_palette_entries_become_white(transparency, tmp_path):
    picture = Image.new("P", (2, 2), 2)
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    path = tmp_path / "p.png"
    picture.save(path, transparency=transparency)
    with pytest.warns(UserWarning, match="put on white"):
        assert one(load_picture(path)) == (255, 255, 255)
    opaque = Image.new("P", (2, 2), 1)
    opaque.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert one(load_picture(opaque)) == (0, 255, 0)


def test_the_transparent_value_of_a_16_bit_png_becomes_white(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((2, 2), 1000, np.uint16)).save(path)
    data = path.read_bytes()
    body = b"tRNS" + (1000).to_bytes(2, "big")
    at = data.index(b"IDAT") - 4
    path.write_bytes(data[:at] + (2).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") + data[at:])
    with pytest.warns(UserWarning, match="put on white"):
        assert one(load_picture(path)) == (255, 255, 255)


# --- orientation, profiles, frames ------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_files_and_pil_images(orientation, tmp_path):
    stored = Image.new("RGB", (48, 16), (0, 0, 0))
    stored.paste((255, 255, 255), (0, 0, 16, 16))  # a white square at the stored left end
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "o.jpg"
    stored.save(path, exif=exif, quality=95, subsampling=0)
    rgb = load_picture(path)
    assert rgb.shape[:2] == ((16, 48) if orientation <= 4 else (48, 16))
    along = rgb[:, :, 0].mean(axis=0 if orientation <= 4 else 1)
    assert (along[0] > 200) == (orientation in (1, 4, 5, 6))
    with Image.open(path) as opened:
        np.testing.assert_array_equal(load_picture(opened), rgb)


def profile_with_swapped_primaries():
    """A valid RGB profile whose red and green primaries have changed places."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    for index in range(count):
        at = 132 + 12 * index
        name = bytes(data[at : at + 4])
        if name in (b"rXYZ", b"gXYZ"):
            data[at : at + 4] = b"gXYZ" if name == b"rXYZ" else b"rXYZ"
    return bytes(data)


@pytest.mark.parametrize(
    ("mode", "key", "other"), [("1", 0, 1), ("L", 70, 71), ("RGB", (10, 20, 30), (10, 20, 31)), ("I;16", 700, 701)]
)
def test_pixels_of_the_key_colour_are_transparent(mode: str, key, other, tmp_path):
    picture = Image.new(mode, (3, 2), other)
    picture.putpixel((1, 0), key)
    picture.save(tmp_path / "keyed.png", transparency=key)
    opened = open_picture(tmp_path / "keyed.png")
    assert opened.alpha is not None and opened.alpha.tolist() == [[255, 0, 255], [255, 255, 255]]
    assert opened.rgb[0, 1].tolist() == [255] * 3
    assert (opened.rgb[1] != 255).any() or mode == "1"


@pytest.mark.parametrize("alpha", [False, True])
def test_an_embedded_profile_is_converted_to_srgb(alpha):
    picture = Image.new("RGBA" if alpha else "RGB", (2, 2), (255, 0, 0, 255) if alpha else (255, 0, 0))
    picture.info["icc_profile"] = profile_with_swapped_primaries()
    red, green, blue = one(load_picture(picture))
    assert red < 10 and green > 245 and blue < 10


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_srgb_profile_leaves_every_pixel_as_it_is(rgb, mode):
    picture = Image.fromarray(rgb).convert(mode)
    plain = load_picture(picture)
    picture.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(load_picture(picture), plain)


def test_16_bits_are_read_in_either_order_of_bytes():
    native = np.random.default_rng(2).integers(0, 65536, (8, 9, 3), dtype=np.uint16)
    np.testing.assert_array_equal(load_picture(native.astype(">u2")), load_picture(native.astype("<u2")))


@pytest.mark.parametrize("profile", ["garbage", "rgb in cmyk", "space without a name"])
def test_a_profile_that_cannot_be_used_is_ignored_with_a_warning(profile):
    picture = Image.new("RGB", (2, 2), (9, 8, 7))
    picture.info["icc_profile"] = b"no profile" * 20
    expected = (9, 8, 7)
    if profile == "rgb in cmyk":
        picture = Image.new("CMYK", (2, 2), (255, 0, 0, 0))
        picture.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        expected = (0, 255, 255)
    elif profile == "space without a name":
        altered = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        altered[18] = 0x80  # within the signature of the colour space
        picture.info["icc_profile"] = bytes(altered)
        assert not is_rgb_profile(bytes(altered))
    with pytest.warns(UserWarning, match="colour profile is ignored"):
        assert one(load_picture(picture)) == expected


def test_an_animation_gives_its_first_frame_with_a_warning(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="frame 1 of 3"):
        assert one(load_picture(path)) == (255, 0, 0)


# --- errors -----------------------------------------------------------------------------------------------------------


def files(tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(picture).save(whole, "PNG")
    altered = bytearray(whole.getvalue())
    altered[altered.index(b"IDAT") + 1000] ^= 0x55
    contents = {
        "altered.png": bytes(altered),
        "text.png": b"this is no picture",
        "empty.jpg": b"",
        "cut.png": whole.getvalue()[:3000],
        "packed.odc": b"\xf1\xdc\x00\x01\x02\x03",
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.png", "no such file"),
        ("folder", "is a folder"),
        ("text.png", "not a picture"),
        ("empty.jpg", "the file is empty"),
        ("cut.png", "damaged or cut short"),
        ("altered.png", "damaged or cut short"),
        ("packed.odc", "onedc decompress"),
    ],
)
def test_a_file_that_is_no_picture_is_named_with_the_reason(name, message, tmp_path):
    path = files(tmp_path) / name
    with pytest.raises(PictureError, match=message) as caught:
        load_picture(path)
    assert name in str(caught.value)


def test_a_large_picture_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (300, 300)).save(path)

    def unpack(*_):
        raise AssertionError("unpacked")

    with monkeypatch.context() as patch:
        patch.setattr(PngImagePlugin.PngImageFile, "load", unpack)
        with Image.open(path) as opened:
            for form in (path, opened):
                with pytest.raises(PictureError, match="300x300 pixels, more than the limit of 1,000"):
                    load_picture(form, max_pixels=1000)
    assert load_picture(path, max_pixels=0).shape == load_picture(path, max_pixels=None).shape == (300, 300, 3)


@pytest.mark.parametrize("form", [np.broadcast_to(0.5, (9000, 9000)), torch.tensor(0.5).expand(1, 1, 9000, 9000)])
def test_a_large_array_is_refused_before_it_is_converted(form, monkeypatch):
    monkeypatch.setattr(pictures, "_to_bytes", lambda *_: pytest.fail("converted"))
    with pytest.raises(PictureError, match="9000x9000 pixels"):
        load_picture(form, max_pixels=1000)


@pytest.mark.parametrize("suffix", ["png", "tif", "deflated.tif", "jp2"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_limit_of_pillow_plays_no_part(suffix, orientation, rgb, tmp_path, monkeypatch):
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    kind = {"compression": "tiff_adobe_deflate"} if suffix == "deflated.tif" else {}
    Image.fromarray(rgb).save(path, exif=exif, **kind)
    expected = load_picture(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_picture(path), expected)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xd7\xcd\xc6\x9a\0\0"])
def test_drawings_reach_no_other_program(start, tmp_path):
    path = tmp_path / "drawing.png"
    path.write_bytes(start + bytes(99))
    with pytest.raises(PictureError, match="a drawing"):
        load_picture(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tags", [{50706: (1, 4)}, {254: (4, 1), 330: (4, 8)}], ids=["DNG", "NEF"])
def test_the_preview_in_a_raw_file_is_not_taken_for_the_picture(tags, order, tmp_path):
    tags = {256: (4, 2), 257: (4, 2), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 0), 279: (4, 4)} | tags
    entries = [_entry(order, tag, *tags[tag]) for tag in sorted(tags)]
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    path = tmp_path / "photo.tif"
    path.write_bytes(start + b"".join(entries) + bytes(99))
    with Image.open(path) as opened:
        assert opened.size == (2, 2)  # so Pillow takes it
        with pytest.raises(PictureError, match="the PIL image: camera raw: develop it first"):
            load_picture(opened)
    with pytest.raises(PictureError, match=r"photo\.tif: camera raw: develop it first"):
        load_picture(path)


def _entry(order, tag, kind, value):
    return struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(f"{order}H2x" if kind == 3 else f"{order}I", value)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"II*\0\x10\0\0\0CR\x02\0", "camera raw"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0", "camera raw"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw"),
        (b"IIRO\x08\0\0\0", "camera raw"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "pillow-heif"),
    ],
)
def test_what_cameras_write_beside_pictures_is_named(start, message, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(start + bytes(99))
    with pytest.raises(PictureError, match=message):
        load_picture(path)


ARRAYS = [
    (np.zeros((3, 9, 7), np.uint8), r"transpose\(1, 2, 0\)"),
    (np.zeros((2, 8, 8, 3), np.uint8), "pass a list"),
    (np.zeros((0, 8, 3), np.uint8), "no pixel"),
    (np.zeros((8,), np.uint8), r"shape \[8\]"),
    (np.zeros((8, 8, 3), np.int64), "type int64"),
    (np.full((8, 8, 3), np.nan), "NaN"),
    (np.full((8, 8, 3), np.inf), "infinity"),
    (np.linspace(-1, 1, 48).reshape(4, 4, 3), r"\(x \+ 1\) / 2"),
    (np.full((8, 8, 3), 200.0), "x / 255"),
    (np.full((8, 8, 3), 1e6), "expected floats in"),
    (torch.zeros(9, 7, 3), r"permute\(2, 0, 1\)"),
    (torch.zeros(2, 3, 8, 8), r"list\(tensor\)"),
    (torch.zeros(3, 0, 8), "no pixel"),
    (Image.fromarray(np.full((2, 2), 70000, np.int32)), "expected 16 bits"),
    (Image.new("RGB", (0, 4)), "empty"),
    (b"bytes", "BytesIO"),
    (None, "NoneType"),
]


@pytest.mark.parametrize(("array", "message"), ARRAYS, ids=[message for _, message in ARRAYS])
def test_an_unusable_array_says_what_was_expected(array, message):
    with pytest.raises(PictureError, match=message):
        load_picture(array)


# --- tensors ----------------------------------------------------------------------------------------------------------


def test_tensors_run_from_minus_one_to_one_and_come_back_exactly():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    x = to_tensor(ramp)
    assert x.shape == (1, 3, 16, 16) and x.dtype == torch.float32
    assert x.min() == -1 and x.max() == 1
    np.testing.assert_array_equal(from_tensor(x)[0], ramp)


def test_values_outside_the_range_are_clamped_and_batches_split():
    x = torch.tensor([-3.0, 0.0, 3.0])[None, :, None, None].expand(2, 3, 4, 5)
    pictures = from_tensor(x.to(torch.bfloat16))
    assert len(pictures) == 2 and pictures[0].shape == (4, 5, 3)
    assert one(pictures[1]) == (0, 128, 255)


def test_a_rebuilt_picture_with_nan_or_a_wrong_shape_is_an_error():
    with pytest.raises(PictureError, match="float32"):
        from_tensor(torch.full((1, 3, 2, 2), torch.nan))
    with pytest.raises(PictureError, match=r"\[B, 3, H, W\], got \[3, 2, 2\]"):
        from_tensor(torch.zeros(3, 2, 2))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (64, 65), (511, 767), (128, 64)])
def test_padding_repeats_the_border_to_multiples_of_64(height, width):
    x = torch.rand(1, 3, height, width)
    padded = pad(x)
    assert padded.shape[-2:] == (-(-height // 64) * 64, -(-width // 64) * 64)
    assert torch.equal(padded[..., -1, -1], x[..., -1, -1])
    assert torch.equal(padded[..., 0, -1], x[..., 0, -1])
    assert torch.equal(padded[..., :height, :width], x)


def test_reading_pictures_imports_no_torch():
    code = """
import sys, numpy, onedc_hf.pictures
onedc_hf.pictures.load_picture(numpy.zeros((2, 2, 3)))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- any of them ------------------------------------------------------------------------------------------------------

_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "F")


@settings(max_examples=80, deadline=None)
@given(mode=st.sampled_from(_MODES), size=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 99))
def test_any_mode_and_size_goes_through_the_codec(tiny_pipeline, mode, size, seed):
    rng = np.random.default_rng(seed)
    if mode == "F":
        image = Image.fromarray(rng.random(size[::-1], np.float32))
    else:
        bits = {"1": (size[0] + 7) // 8 * size[1], "I;16": 2 * size[0] * size[1]}
        length = bits.get(mode, size[0] * size[1] * len(Image.new(mode, (1, 1)).getbands()))
        image = Image.frombytes(mode, size, rng.bytes(length))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rgb = load_picture(image)
        rebuilt = tiny_pipeline.decompress(tiny_pipeline.compress(image))
    assert rgb.shape == (size[1], size[0], 3) and rgb.dtype == np.uint8
    assert rebuilt.size == size and rebuilt.mode in ("RGB", "RGBA")
