"""The three commands of the README against a real pipeline with random weights."""

import argparse
import json
import sys
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from onedc_hf import OneDCPipeline
from onedc_hf.cli.models import add_model_arguments, load_pipeline
from onedc_hf.provenance import DIGITAL_SOURCE_TYPE


def test_a_photo_goes_through_the_command_line(onedc, photos, tiny_folder):
    assert onedc("compress", "photos/a.png", "-o", "a.odc", "--model", tiny_folder)[0] == 0
    assert onedc("decompress", "a.odc", "-o", "b.png", "--model", tiny_folder)[0] == 0
    code, out, _ = onedc("info", "a.odc", "--json")
    facts = json.loads(out)
    pipeline = OneDCPipeline.from_pretrained(tiny_folder)
    data = Path("a.odc").read_bytes()
    assert code == 0 and facts["bpp"] == 8 * len(data) / (70 * 50)
    assert facts["model_id"] == pipeline.model_id[:4] and facts["valid"]
    assert data == pipeline.compress("photos/a.png")
    with Image.open("b.png") as rebuilt:
        assert rebuilt.size == (70, 50)
        assert rebuilt.tobytes() == pipeline.decompress(data).tobytes()


def test_a_target_below_the_smallest_file_is_reported_with_that_size(onedc, photos, tiny_folder):
    smallest = len(OneDCPipeline.from_pretrained(tiny_folder).compress("photos/a.png", z_only=True))
    arguments = ("compress", "photos/a.png", "-o", "a.odc", "--model", tiny_folder, "--target-bytes")
    code, _, err = onedc(*arguments, smallest - 1)
    assert code == 1 and f"{smallest} bytes" in err and not Path("a.odc").exists()
    assert onedc(*arguments, smallest)[0] == 0


def test_verify_tells_good_files_from_bad_ones(onedc, photos, tiny_folder):
    assert onedc("compress", "photos/", "-o", "small/", "--model", tiny_folder)[0] == 0
    code, out, _ = onedc("verify", "small/", "--model", tiny_folder)
    assert code == 0 and out.count("good") == 2
    data = bytearray(Path("small/a.odc").read_bytes())
    data[20] ^= 1
    Path("small/a.odc").write_bytes(data)
    code, out, err = onedc("verify", "small/a.odc", "small/b.odc", "small/none.odc", "--model", tiny_folder)
    assert code == 1 and out.count("good") == 1 and "CRC-32" in err and "no such file" in err


def test_verify_decodes_symbols_and_does_not_trust_the_checksum(onedc, photos, tiny_folder):
    assert onedc("compress", "photos/a.png", "-o", "a.odc", "--model", tiny_folder)[0] == 0
    body = bytearray(Path("a.odc").read_bytes()[:-4])
    body[-20] ^= 1  # in y, far behind the hyper-latent
    Path("a.odc").write_bytes(body + zlib.crc32(body).to_bytes(4, "big"))
    assert onedc("info", "a.odc")[0] == 0
    code, out, err = onedc("verify", "a.odc", "--model", tiny_folder)
    assert code == 1 and "good" not in out and "onedc: a.odc: " in err and "CRC-32 does not hold" not in err


def test_a_cut_file_gives_a_picture_only_where_that_is_asked_for(onedc, photos, tiny_folder):
    assert onedc("compress", "photos/a.png", "-o", "a.odc", "--quality", 100, "--model", tiny_folder)[0] == 0
    Path("cut.odc").write_bytes(Path("a.odc").read_bytes()[:-5])
    assert onedc("decompress", "cut.odc", "--model", tiny_folder)[0] == 1
    code, _, err = onedc("decompress", "cut.odc", "--partial", "--model", tiny_folder)
    assert code == 0 and "is cut" in err and Path("cut.png").exists()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif"])
def test_rebuilt_pictures_say_that_detail_was_synthesised(onedc, photos, tiny_folder, suffix):
    assert onedc("compress", "photos/a.png", "-o", "a.odc", "--model", tiny_folder)[0] == 0
    assert onedc("decompress", "a.odc", "-o", f"b{suffix}", "--model", tiny_folder)[0] == 0
    assert onedc("decompress", "a.odc", "-o", f"c{suffix}", "--no-provenance", "--model", tiny_folder)[0] == 0
    with Image.open(f"b{suffix}") as said, Image.open(f"c{suffix}") as silent:
        xmp = said.info["xmp"].decode() if suffix != ".png" else said.info["XML:com.adobe.xmp"]
        assert DIGITAL_SOURCE_TYPE in xmp
        assert OneDCPipeline.from_pretrained(tiny_folder).model_id in xmp
        ElementTree.fromstring(xmp[xmp.index("<x:xmpmeta") : xmp.index("<?xpacket end")])
        assert "xmp" not in " ".join(silent.info).lower()


def test_a_float_model_is_made_exact(onedc, photos, tiny_folder, tmp_path):
    pipeline = OneDCPipeline.from_pretrained(tiny_folder)
    pipeline.codec.make_float()
    pipeline.save_pretrained("float")
    ids = []
    for name in ("one", "two"):
        code, out, _ = onedc("quantize-entropy", "float", "-o", name, "--calibrate", "photos")
        assert code == 0 and "model id" in out
        ids.append(OneDCPipeline.from_pretrained(name).model_id)
    assert ids[0] == ids[1]
    assert onedc("quantize-entropy", "float", "-o", "one")[0] == 2
    code, _, err = onedc("quantize-entropy", "one", "-o", "three")
    assert code == 1 and "exact already" in err
    assert onedc("quantize-entropy", "float", "-o", "four", "--fit-tables", "photos", "none.png")[0] == 1
    assert not Path("four").exists()


def test_the_exact_model_of_the_current_folder_lies_beside_it(onedc, photos, tiny_folder, tmp_path, monkeypatch):
    pipeline = OneDCPipeline.from_pretrained(tiny_folder)
    pipeline.codec.make_float()
    pipeline.save_pretrained("float")
    monkeypatch.chdir(tmp_path / "float")
    assert onedc("quantize-entropy", ".", "--calibrate", "../photos")[0] == 0
    assert (tmp_path / "float-exact" / "model_index.json").exists() and not Path("-exact").exists()
    monkeypatch.chdir("vae")
    assert onedc("quantize-entropy", "..", "--calibrate", "../../photos")[0] == 2  # it is there already


def test_tables_are_fitted_to_pictures_that_are_named(onedc, photos, tiny_folder):
    pipeline = OneDCPipeline.from_pretrained(tiny_folder)
    pipeline.codec.make_float()
    pipeline.save_pretrained("float")
    assert onedc("quantize-entropy", "float", "-o", "raw")[0] == 0
    assert onedc("quantize-entropy", "float", "-o", "fitted", "--fit-tables", "photos")[0] == 0
    raw, fitted = (OneDCPipeline.from_pretrained(name) for name in ("raw", "fitted"))
    assert raw.model_id != fitted.model_id
    data = fitted.compress("photos/a.png", z_only=True)
    assert len(data) < len(raw.compress("photos/a.png", z_only=True))
    with Image.open("photos/a.png") as photo:
        assert fitted.decompress(data).size == photo.size


def test_the_size_of_tiles_can_be_set(onedc, photos, tiny_folder):
    with Image.open("photos/a.png") as photo:
        photo.resize((700, 300)).save("wide.png")
    model = ("--model", tiny_folder)
    assert onedc("compress", "wide.png", "-o", "tiled.odc", "--tile-size", 256, *model)[0] == 0
    assert onedc("compress", "wide.png", "-o", "whole.odc", "--tile-size", 0, *model)[0] == 0
    assert onedc("decompress", "tiled.odc", "whole.odc", "--tile-size", 320, *model)[0] == 0
    with Image.open("tiled.png") as tiled:
        assert tiled.size == (700, 300)
    code, _, err = onedc("compress", "wide.png", "--tile-size", 100, *model)
    assert code == 2 and "--tile-size 100" in err and "multiple of 64" in err


def test_larger_pictures_are_refused_as_asked(onedc, photos, tiny_folder):
    arguments = ("compress", "photos/a.png", "-o", "a.odc", "--model", tiny_folder, "--max-pixels")
    code, _, err = onedc(*arguments, 70 * 50 - 1)
    assert code == 1 and "limit of 3,499" in err and not Path("a.odc").exists()
    assert onedc(*arguments, 0)[0] == 0  # no limit
    assert onedc("decompress", "a.odc", "-o", "b.png", "--model", tiny_folder, "--max-pixels", 100)[0] == 1
    assert onedc("decompress", "a.odc", "-o", "b.png", "--model", tiny_folder, "--max-pixels", 70 * 50)[0] == 0


@pytest.mark.parametrize(("size", "tiled"), [(0, False), (256, True)])
def test_tiles_of_no_size_are_no_tiles(tiny_folder, size, tiled):
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    pipeline = load_pipeline(parser.parse_args(["--model", str(tiny_folder), "--tile-size", str(size)]))
    assert (pipeline._tiling is not None) == tiled


def test_a_preview_and_the_name_of_the_decoder_are_given_on_request(onedc, photos, tiny_folder):
    pipeline = OneDCPipeline.from_pretrained(tiny_folder)
    arguments = ("compress", "photos/a.png", "-o", "a.odc", "--model", tiny_folder)
    assert onedc(*arguments, "--name-decoder")[0] == 0
    data = Path("a.odc").read_bytes()
    assert data == pipeline.compress("photos/a.png", name_decoder=True) != pipeline.compress("photos/a.png")
    assert onedc("decompress", "a.odc", "-o", "b.png", "--preview", "--model", tiny_folder)[0] == 0
    with Image.open("b.png") as rebuilt:
        assert rebuilt.tobytes() == pipeline.decompress(data, preview=True).tobytes()
        assert rebuilt.tobytes() != pipeline.decompress(data).tobytes()


def test_effort_refines_and_is_a_count(onedc, photos, tiny_folder):
    arguments = ("compress", "photos/a.png", "-o", "a.odc", "--model", tiny_folder, "--quality", 80, "--effort")
    assert onedc(*arguments, 2)[0] == 0
    pipeline = OneDCPipeline.from_pretrained(tiny_folder)
    assert Path("a.odc").read_bytes() == pipeline.compress("photos/a.png", quality=80, effort=2)
    code, _, err = onedc(*arguments, "much")
    assert code == 2 and "expected a whole number of steps" in err


def test_effort_without_its_packages_is_refused(onedc, photos, tiny_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_msssim", None)
    code, _, err = onedc("compress", "photos/a.png", "-o", "a.odc", "--model", tiny_folder, "--effort", 2)
    assert code == 1 and "onedc-hf[effort]" in err and not Path("a.odc").exists()
