"""The demo: what lies in its folder afterwards and what it prints."""

from pathlib import Path

import pytest
from PIL import Image

from onedc_hf.cli.demo import SETTINGS
from onedc_hf.coding import inspect

PICTURES = Path(__file__).parents[2] / "src" / "onedc_hf" / "box" / "pictures"


def test_the_demo_writes_files_pictures_sheet_and_table(onedc, photos, fake_pipeline):
    code, out, err = onedc("demo", "--images", "photos/*.png", "--out", "shown")
    assert (code, err) == (0, "")
    files = sorted(Path("shown").rglob("*.odc"))
    assert len(files) == 6 and all(inspect(file.read_bytes())["valid"] for file in files)
    for file in files:
        with Image.open(file.with_suffix(".png")) as rebuilt:
            assert rebuilt.size in ((70, 50), (40, 30))
    with Image.open("shown/comparison.png") as sheet:
        assert sheet.width <= 2400 and sheet.height > 600
    lines = out.splitlines()
    assert lines[0].split() == ["picture", "setting", "bytes", "bpp", "PSNR", "dB", "encode", "s", "decode", "s"]
    assert lines[2].split()[:3] == ["a", "z-only", f"{Path('shown/a-z-only.odc').stat().st_size:,}"]
    assert [asked for asked in fake_pipeline.asked if asked][:3] == [options for _, options in SETTINGS.values()]
    assert onedc("demo", "--images", "photos/a.png", "--out", "shown")[0] == 0  # again, over the first


def test_a_model_that_cannot_go_so_low_gives_its_smallest_with_a_word(onedc, photos, fake_pipeline, monkeypatch):
    monkeypatch.setattr(fake_pipeline, "smallest", 30)
    code, _, err = onedc("demo", "--images", "photos/a.png")
    assert code == 0 and "a-low.odc is the smallest file possible" in err
    assert {"target_bytes": 30} in fake_pipeline.asked


@pytest.mark.parametrize("arguments", [["--images", "photos/*.bmp"], ["--out", "photos/a.png"]])
def test_a_demo_without_pictures_or_folder_ends_with_code_2(onedc, photos, fake_pipeline, arguments):
    assert onedc("demo", *arguments)[0] == 2 and not fake_pipeline.loaded


@pytest.mark.parametrize("names", [("comparison.png", "b.png"), ("a.png", "a-low.png")])
def test_a_demo_is_not_written_over_its_pictures(onedc, photos, fake_pipeline, names):
    for old, new in zip(("a.png", "b.png"), names, strict=True):
        (photos / old).rename(photos / new)
    before = {path: path.read_bytes() for path in photos.iterdir()}
    code, _, err = onedc("demo", "--images", *sorted(photos.glob("*.png")), "none.png", "--out", photos.absolute())
    assert code == 2 and "name another folder" in err and not fake_pipeline.loaded
    assert {path: path.read_bytes() for path in photos.iterdir()} == before


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_shown(onedc, photos, fake_pipeline):
    (photos / "c.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    code, out, err = onedc("demo", "--images", "photos/", "--out", "shown")
    assert code == 1 and "photos/c.heic: HEIF" in err and "\nb " in out
    assert onedc("demo", "--images", "photos/c.heic", "--out", "shown")[0] == 1


def test_three_small_credited_photographs_come_along():
    credits = (PICTURES / "CREDITS.md").read_text()
    files = sorted(PICTURES.glob("*.jpg"))
    assert len(files) == 3
    for file in files:
        assert f"`{file.name}`" in credits and file.stat().st_size < 80_000
        with Image.open(file) as picture:
            assert max(picture.size) == 512 and not picture.getexif()
    assert credits.count("CC0-1.0") == 3
