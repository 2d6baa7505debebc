"""`.odc` files through Pillow."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, UnidentifiedImageError

from onedc_hf import BitstreamError, OneDCPipeline, PictureError, save_picture
from onedc_hf.provenance import DIGITAL_SOURCE_TYPE


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, picture) -> tuple[Path, Image.Image]:
    pipe = OneDCPipeline.from_pretrained()
    path = tmp_path_factory.mktemp("odc") / "a.odc"
    path.write_bytes(pipe.compress(picture(70, 50), quality=30))
    return path, pipe.decompress(path)


def test_pillow_opens_and_rebuilds(written) -> None:
    path, expected = written
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("ODC", "RGB", (50, 70))
        assert image.info["onedc:ModelId"]
        assert np.array_equal(np.asarray(image), np.asarray(expected))
        assert image.info["onedc:DigitalSourceType"]
        assert image.resize((5, 7)).size == (5, 7)


def test_alpha_comes_with_the_picture(tmp_path: Path, picture) -> None:
    pipe = OneDCPipeline.from_pretrained()
    alpha = np.full((70, 50), 255, np.uint8)
    alpha[:20] = 40
    path = tmp_path / "a.odc"
    path.write_bytes(pipe.compress(np.dstack([picture(70, 50), alpha]), z_only=True))
    with Image.open(path) as image:
        image.load()
        assert image.mode == "RGBA" and np.array_equal(np.asarray(image)[..., 3], alpha)
        assert np.array_equal(np.asarray(image.getchannel("A")), alpha)
    with (
        Image.open(path) as image,  # its pixels not yet asked for
        pytest.warns(UserWarning, match="put on white"),
    ):
        save_picture(image, tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.mode == "RGB" and DIGITAL_SOURCE_TYPE.encode() in image.info["xmp"]


def test_a_file_is_not_compressed_once_more_by_mistake(written) -> None:
    path, expected = written
    pipe = OneDCPipeline.from_pretrained()
    with pytest.raises(PictureError, match="already compressed.*onedc decompress"):
        pipe.compress(path)
    assert pipe.compress(expected, z_only=True)  # who rebuilds it first means it


def test_opening_needs_no_torch_in_either_order_of_imports(written) -> None:
    path, _ = written
    for imports in ("import onedc_hf; from PIL import Image", "from PIL import Image; import onedc_hf"):
        code = f"import sys; {imports}; image = Image.open({str(path)!r}); assert image.size == (50, 70), image.size; "
        subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


def test_a_damaged_file_says_so_when_its_pixels_are_asked_for(written, tmp_path: Path) -> None:
    data = bytearray(written[0].read_bytes())
    data[-1] ^= 1
    (tmp_path / "bad.odc").write_bytes(data)
    with Image.open(tmp_path / "bad.odc") as image, pytest.raises(BitstreamError, match="CRC-32"):
        image.load()
    (tmp_path / "stub.odc").write_bytes(data[:4])
    with pytest.raises(UnidentifiedImageError):
        Image.open(tmp_path / "stub.odc")


def test_damage_is_found_without_a_model(written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = written
    data = bytearray(path.read_bytes())
    with Image.open(path) as image:
        image.verify()
    data[-9] ^= 1
    (tmp_path / "b.odc").write_bytes(data)
    monkeypatch.setattr("onedc_hf.odc_image._box", lambda: pytest.fail("a model was loaded"))
    with Image.open(tmp_path / "b.odc") as image, pytest.raises(BitstreamError):
        image.verify()


def test_a_picture_with_alpha_says_so_before_it_is_rebuilt(tmp_path: Path, picture) -> None:
    alpha = np.full((70, 50), 255, np.uint8)
    alpha[:20] = 40
    path = tmp_path / "a.odc"
    path.write_bytes(OneDCPipeline.from_pretrained().compress(np.dstack([picture(70, 50), alpha]), z_only=True))
    with Image.open(path) as image:
        assert image.mode == "RGBA"
        assert np.asarray(image.convert("RGB")).shape == (70, 50, 3)


@pytest.mark.parametrize("again", [lambda image: pickle.loads(pickle.dumps(image)), copy.deepcopy, copy.copy])
@pytest.mark.parametrize("rebuilt", [False, True])
def test_it_is_copied_and_pickled_like_any_other(written, again, rebuilt: bool) -> None:
    path, expected = written
    with Image.open(path) as image:
        if rebuilt:
            image.load()
        assert np.array_equal(np.asarray(again(image)), np.asarray(expected))


def test_metadata_can_be_asked_for_before_the_pixels_and_is_there_after(tmp_path: Path, picture) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "maker"
    photo = Image.fromarray(picture(64, 64))
    photo.info["exif"] = exif.tobytes()
    (tmp_path / "a.odc").write_bytes(OneDCPipeline.from_pretrained().compress(photo, z_only=True, keep_metadata=True))
    with Image.open(tmp_path / "a.odc") as image:
        assert image.getexif()[ExifTags.Base.Make] == "maker"
        image.load()
        assert image.getexif()[ExifTags.Base.Make] == "maker"
