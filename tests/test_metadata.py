"""Alpha comes back without loss, metadata where it is asked for, and nothing of it can blow up."""

from __future__ import annotations

import dataclasses
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import ExifTags, Image, ImageCms, ImageOps

from onedc_hf import Corrupt, OneDCPipeline, PictureError
from onedc_hf.beside import check_beside
from onedc_hf.cli.main import main
from onedc_hf.coder import SymbolCoder
from onedc_hf.coding import Tag
from onedc_hf.coding.metadata import METADATA_LIMIT, pack_alpha, pack_metadata, unpack_alpha, unpack_metadata
from onedc_hf.colour import from_srgb
from onedc_hf.exif import exif_facts, without_orientation
from onedc_hf.identity import warn_of_another_decoder
from onedc_hf.picture_files import encode_picture, save_picture
from onedc_hf.pictures import load_picture, open_picture
from onedc_hf.provenance import DIGITAL_SOURCE_TYPE, provenance_info, provenance_xmp

from .test_pictures import profile_with_swapped_primaries

Picture = Callable[..., np.ndarray]


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_alpha_comes_back_whatever_it_is(alpha: np.ndarray) -> None:
    assert np.array_equal(unpack_alpha(pack_alpha(alpha), *alpha.shape), alpha)


@pytest.mark.parametrize(
    "data",
    [b"", b"noise", zlib.compress(bytes(11)), zlib.compress(bytes(13)), zlib.compress(bytes(12))[:-2], b"\0"],
    ids=["empty", "noise", "short", "long", "cut", "zero"],
)
def test_alpha_of_another_size_or_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt, match="alpha"):
        unpack_alpha(data, 3, 4)


def test_a_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(bytes(64 << 20), 9)
    with pytest.raises(Corrupt, match="larger"):
        unpack_metadata([(4, bomb)])
    half = zlib.compress(bytes(METADATA_LIMIT // 2 + 1))
    with pytest.raises(Corrupt, match="larger"):
        unpack_metadata([(4, half), (6, half)])


def test_too_much_metadata_is_refused_before_it_is_written(tiny_pipeline: OneDCPipeline) -> None:
    with pytest.raises(ValueError, match="strip it"):
        pack_metadata({"xmp": bytes(METADATA_LIMIT + 1)})
    picture = Image.new("RGB", (8, 8))
    picture.info["xmp"] = bytes(METADATA_LIMIT + 1)
    with pytest.raises(PictureError, match="strip it"):
        tiny_pipeline.compress(picture, keep_metadata=True)
    assert tiny_pipeline.compress(picture)


def _with_alpha(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    alpha = np.zeros((70, 50), np.uint8)
    alpha[10:60, 5:40] = np.linspace(1, 255, 35).astype(np.uint8)
    return picture(70, 50), alpha


def test_alpha_is_kept_without_loss_in_every_form(tiny_pipeline: OneDCPipeline, picture: Picture) -> None:
    rgb, alpha = _with_alpha(picture)
    both = np.dstack([rgb, alpha])
    data = tiny_pipeline.compress(both)
    rebuilt = tiny_pipeline.decompress(data)
    assert rebuilt.mode == "RGBA" and np.array_equal(np.asarray(rebuilt)[..., 3], alpha)
    array = tiny_pipeline.decompress(data, output_type="np")
    assert array.shape == (70, 50, 4) and np.array_equal((array[..., 3] * 255).round(), alpha)
    assert tiny_pipeline.decompress(data, output_type="pt").shape == (4, 70, 50)
    opaque = tiny_pipeline.compress(np.dstack([rgb, np.full_like(alpha, 255)]))
    assert opaque == tiny_pipeline.compress(rgb) and tiny_pipeline.decompress(opaque).mode == "RGB"


def test_alpha_of_a_palette_is_kept(picture: Picture) -> None:
    rgb, alpha = _with_alpha(picture)
    image = Image.fromarray(np.dstack([rgb, alpha])).quantize(method=Image.Quantize.FASTOCTREE)
    assert image.mode == "P" and "transparency" not in image.info  # the palette's own colours are transparent
    opened = open_picture(image)
    assert opened.alpha is not None
    assert np.array_equal(opened.alpha, np.asarray(image.convert("RGBA"))[..., 3])


def test_alpha_counts_in_a_target(tiny_pipeline: OneDCPipeline, picture: Picture) -> None:
    rgb, alpha = _with_alpha(picture)
    both = np.dstack([rgb, alpha])
    smallest = len(tiny_pipeline.compress(both, z_only=True))
    assert smallest > len(tiny_pipeline.compress(rgb, z_only=True)) + len(pack_alpha(alpha))
    assert len(tiny_pipeline.compress(both, target_bytes=smallest + 40)) <= smallest + 40


def test_colours_that_nobody_sees_are_white_and_partial_ones_stay(picture: Picture) -> None:
    rgb, alpha = _with_alpha(picture)
    opened = open_picture(np.dstack([rgb, alpha]))
    assert (opened.rgb[alpha == 0] == 255).all()
    assert np.array_equal(opened.rgb[alpha > 0], rgb[alpha > 0])
    with pytest.warns(UserWarning, match="put on white"):
        flat = load_picture(np.dstack([rgb, alpha]))
    assert (flat[alpha == 0] == 255).all()


@pytest.fixture
def photo(picture: Picture, tmp_path: Path) -> Path:
    """A rotated JPEG with EXIF, XMP and a colour profile."""
    image = Image.fromarray(picture(40, 60))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A camera"  # orientation, make
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>who</x:xmpmeta>"
    image.save(tmp_path / "photo.jpg", exif=exif.tobytes(), icc_profile=profile, xmp=xmp)
    return tmp_path / "photo.jpg"


def test_metadata_is_kept_where_it_is_asked_for(tiny_pipeline: OneDCPipeline, photo: Path) -> None:
    plain = tiny_pipeline.decompress(tiny_pipeline.compress(photo))
    assert not {"exif", "xmp", "icc_profile"} & plain.info.keys()
    kept = tiny_pipeline.decompress(tiny_pipeline.compress(photo, keep_metadata=True))
    assert kept.size == plain.size == (40, 60)  # upright
    assert b"who" in kept.info["xmp"] and kept.info["icc_profile"]
    exif = Image.Exif()
    exif.load(kept.info["exif"])
    assert exif[0x010F] == "A camera" and 0x0112 not in exif  # the orientation has been applied
    assert np.abs(np.asarray(kept, int) - np.asarray(plain, int)).max() <= 2  # the profile is sRGB's own
    assert tiny_pipeline(photo, keep_metadata=True).images[0].info["exif"] == kept.info["exif"]


@pytest.mark.parametrize("suffix", ["webp", "tif", "png", "avif"])
def test_exif_is_kept_from_every_format_and_into_every_other(
    tiny_folder: Path, picture: Picture, tmp_path: Path, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "A camera", {0x9003: "2026:01:02 03:04:05"}
    exif[0x8825] = {1: "N", 2: (52.0, 5.0, 0.0)}
    source, model = tmp_path / f"photo.{suffix}", ["--model", str(tiny_folder)]
    Image.fromarray(picture(40, 60)).save(source, exif=exif.tobytes())
    assert main(["compress", str(source), "-o", str(tmp_path / "a.odc"), "--keep-metadata", *model]) == 0
    for target in ("jpg", "webp", "png", "tif"):
        rebuilt = tmp_path / f"rebuilt.{target}"
        assert main(["decompress", str(tmp_path / "a.odc"), "-o", str(rebuilt), *model]) == 0
        with Image.open(rebuilt) as found:
            tags = found.getexif()
            assert found.size == (40, 60)  # upright
            assert tags[0x010F] == "A camera" and tags.get(0x0112, 1) == 1
            assert tags.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05" and tags.get_ifd(0x8825)[1] == "N"
            xmp = found.info.get("xmp") or found.info["XML:com.adobe.xmp"].encode()
            assert b"DigitalSourceType" in xmp


def test_damaged_exif_costs_no_picture(picture: Picture) -> None:
    rgb, rng = picture(20, 30), np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x010F], exif[0x8769] = "A camera", {0x9003: "2026:01:02 03:04:05", 0x829A: 0.01}
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "TIFF", exif=exif.tobytes())
    whole = buffer.getvalue()
    inner = whole.index((0x829A).to_bytes(2, "little")) - 2  # the first byte of the inner directory
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(inner, inner + 50, 3):
            damaged[place] = rng.integers(256)
        assert _rgb_of(bytes(damaged)).shape == (20, 30, 3)
    for form in ("PNG", "WEBP", "JPEG"):
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, form, exif=b"Exif\0\0MM")
        assert _rgb_of(buffer.getvalue()).shape == (20, 30, 3)


def _rgb_of(data: bytes) -> np.ndarray:
    with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
        warnings.simplefilter("ignore")
        return open_picture(image).rgb


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize(("tag", "value"), [(0x0128, 2), (0x8825, -3)], ids=["unit", "altitude"])
def test_a_turned_picture_with_a_tag_that_cannot_be_written_is_turned(
    picture: Picture, tag: int, value: int, suffix: str
) -> None:
    upright = picture(20, 30)
    given = Image.fromarray(np.rot90(upright))  # as a camera on its side has it
    buffer = io.BytesIO()
    given.save(
        buffer,
        suffix.replace("jpg", "jpeg"),
        exif=_odd_exif(tag, value),
        **({"lossless": True} if suffix == "webp" else {}),
    )
    with pytest.raises(struct.error), Image.open(buffer) as image:
        ImageOps.exif_transpose(image)
    with pytest.warns(UserWarning, match="EXIF is damaged and left out"):
        opened = open_picture(io.BytesIO(buffer.getvalue()))
    assert opened.rgb.shape == (20, 30, 3) and "exif" not in opened.metadata
    assert suffix == "jpg" or np.array_equal(opened.rgb, upright)
    with Image.open(io.BytesIO(buffer.getvalue())) as image, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        image.info["xmp"] = b'<x:xmpmeta tiff:Orientation="6" dc:rights="mine"/>'
        assert open_picture(image).metadata["xmp"] == b'<x:xmpmeta  dc:rights="mine"/>'


def _odd_exif(tag: int, value: int) -> bytes:
    """Orientation 6, and one tag of another type than it should have: a unit as bytes, a signed altitude."""
    turned = struct.pack("<HHII", 0x0112, 3, 1, 6)
    if tag == 0x8825:
        ifd = struct.pack("<H", 2) + turned + struct.pack("<HHII", tag, 4, 1, 38) + bytes(4)
        gps = struct.pack("<HHHII", 1, 6, 10, 1, 56) + bytes(4) + struct.pack("<ii", value, 1)
        return b"Exif\0\0II*\0\x08\0\0\0" + ifd + gps
    odd = struct.pack("<HHI", tag, 1, 1) + bytes([value, 0, 0, 0])
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + turned + odd + bytes(4)


@pytest.mark.parametrize("suffix", ["tif", "avif", "png", "jpg", "webp"])
def test_damaged_exif_is_left_out(picture: Picture, suffix: str) -> None:
    image = Image.fromarray(picture(20, 30))
    image.info |= {"exif": b"Exif\0\0MM", "xmp": b"<x/>"}
    with pytest.warns(UserWarning, match="EXIF is left out"):
        data = encode_picture(image, Path(f"a.{suffix}"))
    with Image.open(io.BytesIO(data)) as found:
        assert found.size == (30, 20) and not found.getexif().get(0x010F)
        assert b"<x/>" in (found.info.get("xmp"), found.info.get("XML:com.adobe.xmp", "").encode())


def test_no_pointer_of_the_original_file_is_kept(picture: Picture) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x8769] = "A camera", {0x9003: "2026:01:02 03:04:05", 0xA005: {1: "R98"}}
    given = Image.Exif()
    given.load(exif.tobytes())
    assert given.get_ifd(0xA005) == {1: "R98"}
    facts = Image.Exif()
    facts.load(exif_facts(given).tobytes())
    assert dict(facts.get_ifd(0x8769)) == {0x9003: "2026:01:02 03:04:05"}


def test_a_kept_profile_gets_its_own_colours_back(tiny_pipeline: OneDCPipeline) -> None:
    swapped = _profile_with_swapped_primaries()
    picture = Image.new("RGB", (64, 64), (200, 30, 30))
    picture.info["icc_profile"] = swapped
    kept = tiny_pipeline.decompress(tiny_pipeline.compress(picture, keep_metadata=True))
    plain = tiny_pipeline.decompress(tiny_pipeline.compress(picture))
    assert kept.info["icc_profile"] == swapped
    again = Image.fromarray(load_picture(kept))  # read as what it says it is
    assert np.abs(np.asarray(again, int) - np.asarray(plain, int)).mean() < 6


def _profile_with_swapped_primaries() -> bytes:
    """sRGB with the colourants of red and green exchanged: any colour it changes is plain to see."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    tags = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    data[red + 4 : red + 12], data[green + 4 : green + 12] = data[green + 4 : green + 12], data[red + 4 : red + 12]
    return bytes(data)


@pytest.mark.parametrize(("tag", "what"), [(2, "alpha"), (4, "metadata")])
def test_a_damaged_extension_is_refused_before_any_network_runs(
    tiny_pipeline: OneDCPipeline, picture: Picture, monkeypatch: pytest.MonkeyPatch, tag: int, what: str
) -> None:
    rgb, _ = _with_alpha(picture)
    with torch.inference_mode():
        analysed = tiny_pipeline._analyse(rgb)
        object.__setattr__(analysed, "extensions", ((tag, zlib.compress(bytes(5))[:-1]),))
        data = tiny_pipeline._coder.write(analysed, 50)
    monkeypatch.setattr(SymbolCoder, "hyper_synthesis", lambda *_: pytest.fail("a network ran"))
    for read in (tiny_pipeline.decompress, tiny_pipeline.read_symbols):  # the second is what `onedc verify` calls
        with pytest.raises(Corrupt, match=what):
            read(data)


def test_the_command_line_keeps_what_it_is_told_to(tiny_folder: Path, photo: Path, tmp_path: Path) -> None:
    model = ["--model", str(tiny_folder)]
    odc, jpg = str(tmp_path / "a.odc"), str(tmp_path / "b.jpg")
    assert main(["compress", str(photo), "-o", odc, "--keep-metadata", *model]) == 0
    assert main(["decompress", odc, "-o", jpg, *model]) == 0
    with Image.open(jpg) as found:
        assert found.getexif()[0x010F] == "A camera" and found.info["icc_profile"]
        assert b"DigitalSourceType" in found.info["xmp"]
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8)])).save(buffer, "PNG")
    (tmp_path / "clear.png").write_bytes(buffer.getvalue())
    assert main(["compress", str(tmp_path / "clear.png"), *model]) == 0
    assert main(["decompress", str(tmp_path / "clear.odc"), "-o", str(tmp_path / "clear.jpg"), *model]) == 0
    with Image.open(tmp_path / "clear.jpg") as white:
        assert np.asarray(white).min() > 240


def test_another_decoder_says_so_and_decodes_all_the_same(tiny_folder: Path, picture: Picture, tmp_path: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    data = pipe.compress(picture(40, 60), name_decoder=True)
    assert len(data) == len(pipe.compress(picture(40, 60))) + 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = pipe.decompress(data)
    # The id is of the saved weights: a cast does not change it, training does.
    assert OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.bfloat16).decoder_id == pipe.decoder_id
    with torch.no_grad():
        pipe.vae.decoder[0].weight.mul_(1.01)
    pipe.save_pretrained(tmp_path / "trained")
    trained = OneDCPipeline.from_pretrained(tmp_path / "trained")
    assert trained.model_id == pipe.model_id
    with pytest.warns(UserWarning, match="decoder"):
        assert trained.decompress(data).size == expected.size
    swapped = OneDCPipeline.from_pretrained(tiny_folder, vae=trained.vae)
    with pytest.warns(UserWarning, match="decoder"):
        swapped.decompress(data)


def test_a_damaged_name_of_a_decoder_is_a_typed_error() -> None:
    with pytest.raises(Corrupt, match="5 bytes"):
        warn_of_another_decoder(bytes(5), "ab" * 32)


@pytest.mark.parametrize(("tag", "of"), [(Tag.IDENTITY, "decoder"), (Tag.ADAPTER, "adapter")])
def test_a_damaged_name_is_found_with_everything_else_beside_the_picture(tag: Tag, of: str) -> None:
    check_beside(((int(tag), bytes(4)),), 64, 64)
    with pytest.raises(Corrupt, match=f"names its {of} with 3 bytes"):  # so `verify` finds it, too
        check_beside(((int(tag), bytes(3)),), 64, 64)


RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
KEPT = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="a café"/></rdf:RDF></x:xmpmeta>"""


def test_provenance_joins_the_metadata_that_was_kept() -> None:
    info = provenance_info("ab" * 32, 0.05)
    joined = ElementTree.fromstring(provenance_xmp(info, KEPT.encode()).decode())
    described = joined.findall(f"{{{RDF}}}RDF/{{{RDF}}}Description")
    assert len(described) == 2 and "a café" in described[0].attrib.values()
    assert DIGITAL_SOURCE_TYPE in described[1].attrib.values() and "ab" * 32 in described[1].attrib.values()


@pytest.mark.parametrize("kept", [b"", b"<x:xmpmeta/>", b"\xff\xfe" + KEPT.encode(), KEPT.encode("utf-16")])
def test_what_is_no_xmp_packet_is_replaced(kept: bytes) -> None:
    info = provenance_info("ab" * 32, 0.05)
    assert provenance_xmp(info, kept) == provenance_xmp(info)


def _values(packet: bytes) -> list[str]:
    root = ElementTree.fromstring(packet.decode().partition("?>")[2].rpartition("<?xpacket")[0] or packet.decode())
    return [value for element in root.iter() for value in (*element.attrib.values(), (element.text or "").strip())]


def test_an_earlier_origin_is_replaced() -> None:
    earlier = provenance_xmp(provenance_info("cd" * 32, 0.5))
    again = provenance_xmp(provenance_info("ab" * 32, 0.05), earlier)
    assert again.count(b"DigitalSourceType=") == 1 and b"cd" * 32 not in again
    assert "ab" * 32 in _values(again)


@pytest.mark.parametrize(
    "origin",
    [
        '<e:DigitalSourceType xmlns:e="urn:e">urn:camera</e:DigitalSourceType>',
        '<e:DigitalSourceType xmlns:e="urn:e" rdf:resource="urn:camera"/>',
    ],
)
def test_a_cameras_origin_goes_and_everything_else_stays(origin: str) -> None:
    described = f'<rdf:Description rdf:about="uuid:1" xmlns:dc="urn:dc" dc:rights="mine">{origin}</rdf:Description>'
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">{described}</rdf:RDF></x:xmpmeta>'
    joined = provenance_xmp(provenance_info("ab" * 32, 0.05), packet.encode())
    values = _values(joined)
    assert "mine" in values and "urn:camera" not in values and DIGITAL_SOURCE_TYPE in values
    assert values.count("uuid:1") == 2  # both descriptions are of one picture


def test_a_profile_of_no_rgb_picture_is_not_carried_along(tiny_pipeline: OneDCPipeline, picture: Picture) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = Image.fromarray(picture(40, 60)).convert("LAB")
    plain = tiny_pipeline.compress(image)
    image.info["icc_profile"] = lab
    assert tiny_pipeline.compress(image, keep_metadata=True) == plain


def test_a_transparent_picture_comes_back_in_the_colours_of_its_profile() -> None:
    image = Image.new("RGBA", (2, 2), (250, 10, 10, 90))
    profile = profile_with_swapped_primaries()
    rebuilt = from_srgb(image, profile)
    red, green, blue, alpha = rebuilt.getpixel((0, 0))
    assert red < 30 and green > 240 and blue < 30 and alpha == 90
    assert rebuilt.info["icc_profile"] == profile


def test_a_packet_that_never_closes_is_replaced_and_does_not_hang() -> None:
    info = provenance_info("ab" * 32, 0.05)
    assert provenance_xmp(info, b"<a:DigitalSourceType " * 190_000) == provenance_xmp(info)
    assert provenance_xmp(info, b"<a:DigitalSourceType>" * 190_000) == provenance_xmp(info)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif", ".tif"])
def test_a_saved_picture_has_all_that_came_with_it(
    tiny_pipeline: OneDCPipeline, photo: Path, tmp_path: Path, suffix: str
) -> None:
    rebuilt = tiny_pipeline.decompress(tiny_pipeline.compress(photo, keep_metadata=True))
    rebuilt.info["xmp"] = KEPT.encode()
    path = tmp_path / f"rebuilt{suffix}"
    save_picture(rebuilt, str(path))
    with Image.open(path) as written:
        xmp = written.info.get("xmp") or written.info.get("XML:com.adobe.xmp", "").encode()
        assert DIGITAL_SOURCE_TYPE.encode() in xmp and "a café".encode() in xmp
        assert written.getexif()[0x010F] == "A camera"
        assert written.info["icc_profile"] == rebuilt.info["icc_profile"]
    save_picture(Image.new("RGB", (8, 8)), path)  # nothing was synthesised here
    with Image.open(path) as written:
        assert "xmp" not in " ".join(written.info).lower()
    with pytest.raises(ValueError, match="no picture format"):
        save_picture(rebuilt, tmp_path / "rebuilt.odd")
    with pytest.raises(ValueError, match=r"WEBP picture has 16,383 pixels a side at most, .* 4x16,384.* \.tif"):
        save_picture(Image.new("RGB", (4, 16_384)), tmp_path / "high.webp")


def test_what_cannot_be_saved_is_an_error_that_says_why(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8), "red")
    with pytest.raises(TypeError, match="ndarray"):
        save_picture(np.asarray(picture), tmp_path / "a.png")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no folder.*nowhere"):
        save_picture(picture, tmp_path / "nowhere" / "a.png")
    with pytest.raises(ValueError, match="no pixels of mode 'F'"):
        save_picture(picture.convert("F"), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    save_picture(picture.convert("P"), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as written:
        assert written.mode == "RGB"


@pytest.mark.parametrize("xmp", [KEPT.replace("a café", "x" * 70_000).encode(), KEPT.encode("utf-16")])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_metadata_that_a_format_cannot_hold_is_no_error(tmp_path: Path, xmp: bytes, suffix: str) -> None:
    picture = Image.new("RGB", (20, 20))
    picture.info |= {"xmp": xmp, "exif": b"Exif\0\0" + bytes(70_000)} | provenance_info("ab" * 32, 0.05)
    path = tmp_path / f"a{suffix}"
    for provenance in (False, True):
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", UserWarning)
            save_picture(picture, path, provenance=provenance)
        with Image.open(path) as written:
            assert written.size == (20, 20)
            found = written.info.get("xmp") or written.info.get("XML:com.adobe.xmp", "").encode()
            assert (DIGITAL_SOURCE_TYPE.encode() in found) is provenance
        whole = b"x" * 70_000 in found
        assert whole or any("XMP is left out" in str(note.message) for note in notes)
        assert whole == (suffix == ".png" and len(xmp) > 70_000)


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".jp2", ".tga", ".qoi"])
def test_a_format_without_profiles_gets_the_colours_of_srgb_and_says_what_is_missing(
    tmp_path: Path, suffix: str
) -> None:
    seen = Image.new("RGB", (9, 9), (200, 30, 40))
    seen.info |= {"exif": b"Exif\0\0MM", "xmp": KEPT.encode()} | provenance_info("ab" * 32, 0.05)
    picture = from_srgb(seen, profile_with_swapped_primaries())
    assert picture.getpixel((0, 0)) != (200, 30, 40)
    with pytest.warns(UserWarning, match=r"colour profile .*, EXIF, XMP, note that detail") as notes:
        save_picture(picture, tmp_path / f"a{suffix}")
    assert len(notes) == 1
    with Image.open(tmp_path / f"a{suffix}") as written:
        assert np.abs(np.subtract(written.getpixel((0, 0)), (200, 30, 40))).max() <= 3
    seen.info.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_picture(seen, tmp_path / f"a{suffix}")  # nothing is missing here


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".ppm", ".png", ".webp", ".avif", ".tif", ".jp2", ".tga", ".qoi"])
def test_alpha_is_kept_or_put_on_white_with_a_word(picture: Picture, tmp_path: Path, suffix: str) -> None:
    clear = Image.fromarray(np.dstack([picture(16, 16), np.zeros((16, 16), np.uint8)]))
    flat = suffix in (".jpg", ".bmp", ".ppm")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        save_picture(clear, tmp_path / f"a{suffix}")
        clear.putalpha(255)
        save_picture(clear, tmp_path / f"b{suffix}")  # opaque: nothing to say
    assert ["put on white" in str(note.message) for note in notes] == [True] * flat
    with Image.open(tmp_path / f"a{suffix}") as written:
        assert written.mode == ("RGB" if flat else "RGBA")
        assert np.asarray(written)[..., :3].min() == 255 if flat else np.asarray(written)[..., 3].max() == 0


@pytest.mark.parametrize("suffix", [".gif", ".ico", ".mpo", ".pdf", ".pcx", ".eps", ".pgm", ".icns"])
def test_formats_that_would_change_a_picture_are_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ValueError, match="no picture format for photographs"):
        save_picture(Image.new("RGB", (8, 8)), tmp_path / f"a{suffix}")


def test_a_picture_that_lies_on_its_side_is_saved_so_in_every_format(tmp_path: Path, picture: Picture) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.fromarray(picture(20, 40))
    image.info["exif"] = exif.tobytes()
    for suffix in ("png", "jpg", "webp", "tif"):
        save_picture(image, tmp_path / f"a.{suffix}")
        with Image.open(tmp_path / f"a.{suffix}") as found:
            assert ImageOps.exif_transpose(found).size == (20, 40)


def test_a_file_whose_metadata_turn_the_picture_is_upright_all_the_same(
    tiny_pipeline: OneDCPipeline, picture: Picture
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Artist] = 6, "somebody"
    with torch.inference_mode():
        analysed = tiny_pipeline._analyse(picture(64, 96))
        kept = tuple(pack_metadata({"exif": exif.tobytes()}))
        data = tiny_pipeline._coder.write(dataclasses.replace(analysed, extensions=kept), 0)
    found = Image.Exif()
    found.load(tiny_pipeline.decompress(data).info["exif"])
    assert found[ExifTags.Base.Artist] == "somebody" and ExifTags.Base.Orientation not in found
    assert without_orientation(b"Exif\0\0no tags") == b"Exif\0\0no tags"


def test_xmp_may_be_text(tmp_path: Path, picture: Picture) -> None:
    image = Image.fromarray(picture(8, 8))
    image.info["xmp"] = "<x/>"
    for suffix in ("png", "webp", "tif"):
        save_picture(image, tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / "a.webp") as found:
        assert b"<x/>" in found.info["xmp"]
