"""Pictures to .odc files and back: which files are read, which are written, what is said and returned."""

import errno
import io
import os
import stat
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from onedc_hf.cli import files
from onedc_hf.cli.main import main
from onedc_hf.coding import parse_header
from onedc_hf.errors import OneDCError
from onedc_hf.saving import staged_folder, write_atomically
from onedc_hf.user_warning import warn_user

pytestmark = pytest.mark.usefixtures("fake_pipeline")


def test_a_picture_becomes_a_file_beside_it_and_comes_back(onedc, photos):
    code, out, err = onedc("compress", "photos/a.png")
    packed = photos / "a.odc"
    size = packed.stat().st_size
    assert (code, err) == (0, "")
    assert out == f"photos/a.png -> photos/a.odc  {size:,} bytes  {8 * size / (70 * 50):.4f} bpp\n"
    assert parse_header(packed.read_bytes()).width == 70

    code, out, err = onedc("decompress", packed, "-o", "back.png")
    assert (code, out, err) == (0, "photos/a.odc -> back.png  70x50\n", "")
    difference = np.abs(np.asarray(Image.open("back.png"), float) - np.asarray(Image.open(photos / "a.png"), float))
    assert difference.mean() < 12


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], {}),
        (["--quality", "0"], {"quality": 0}),
        (["--quality", "100"], {"quality": 100}),
        (["--target-bytes", "5000"], {"target_bytes": 5000}),
        (["--target-bpp", "0.25"], {"target_bpp": 0.25}),
        (["--z-only"], {"z_only": True}),
    ],
)
def test_rate_options_reach_the_pipeline(onedc, photos, fake_pipeline, options, asked):
    assert onedc("compress", "photos/a.png", *options)[0] == 0
    assert fake_pipeline.asked == [asked]


@pytest.mark.parametrize(
    "options",
    [
        ["--quality", "101"],
        ["--quality", "-1"],
        ["--quality", "good"],
        ["--target-bytes", "0"],
        ["--target-bpp", "0"],
        ["--target-bpp", "nan"],
        ["--quality", "5", "--z-only"],
        ["--target-bytes", "5", "--target-bpp", "1"],
        ["--qualty", "5"],
        ["photos/b.png", "-o", "x.odc"],
        ["-o", "nowhere/x.odc"],
    ],
)
def test_options_that_make_no_sense_end_with_code_2_and_write_nothing(onedc, photos, fake_pipeline, options):
    code, out, err = onedc("compress", "photos/a.png", *options)
    assert code == 2 and out == "" and "usage: onedc" in err
    assert not list(Path().rglob("*.odc")) and not fake_pipeline.loaded


def test_the_model_options_reach_from_pretrained(onedc, photos, fake_pipeline):
    import torch

    assert onedc("compress", "photos/a.png", "--model", "some/repo", "--dtype", "bfloat16", "--device", "meta")[0] == 0
    assert fake_pipeline.loaded == [("some/repo", {"dtype": torch.bfloat16})]
    onedc("verify", "photos/a.odc", "--model", "some/repo", "--model-revision", "v1", "--model-variant", "fp16")
    assert fake_pipeline.loaded[1:] == [("some/repo", {"revision": "v1", "variant": "fp16"})]
    assert fake_pipeline.asked[0] == {"device": "meta"}


def test_a_folder_means_the_pictures_in_it_also_those_without_a_suffix(onedc, photos):
    (photos / "b.png").rename(photos / "scan")
    (photos / ".hidden.png").write_bytes((photos / "a.png").read_bytes())
    code, out, err = onedc("compress", "photos", "-o", "small/")
    assert (code, err) == (0, "")
    assert sorted(path.name for path in Path("small").iterdir()) == ["a.odc", "scan.odc"]
    assert out.splitlines()[-1].startswith("2 pictures, ")


def test_photographs_that_cannot_be_read_are_named_and_not_left_out(onedc, photos):
    (photos / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    (photos / "IMG").write_bytes(b"\0\0\0\x18ftypmif1" + bytes(99))
    (photos / "scan.NEF").write_bytes(b"MM\0*" + bytes(99))
    (photos / "wrong.heic").write_bytes((photos / "b.png").read_bytes())  # as some programs save them
    code, out, err = onedc("compress", "photos", "-o", "small/")
    assert code == 1 and "photos/IMG: HEIF" in err and "photos/scan.NEF: " in err
    assert "photos/a.heic: small/a.odc is already the output of photos/a.png" in err
    assert sorted(path.name for path in Path("small").iterdir()) == ["a.odc", "b.odc", "wrong.odc"]


def test_globs_are_expanded_and_nothing_is_done_twice(onedc, photos, fake_pipeline):
    code, _, _ = onedc("compress", "photos/*.png", "photos/a.png", "photos/**")
    assert code == 0 and len(fake_pipeline.asked) == 2
    code, _, err = onedc("compress", "photos/*.jpg")
    assert code == 1 and "photos/*.jpg: no file matches" in err


def test_one_name_that_is_too_long_does_not_stop_the_others(onedc, photos):
    long = "x" * 251 + ".png"  # which becomes longer by what is put at its end while it is written
    (photos / "b.png").rename(photos / long)
    code, _, err = onedc("compress", photos, "y" * 300, "z" * 300 + "*", "-o", "small/", "--resume")
    assert code == 1 and (Path("small/a.odc")).exists()
    assert f"onedc: {'y' * 300}: File name too long" in err and f"onedc: {'z' * 300}*: " in err
    Path("n" * 255).write_bytes(b"\x89PNG")
    code, _, err = onedc("compress", "n" * 255, "photos/a.png")
    assert code == 1 and (photos / "a.odc").exists() and f"onedc: {'n' * 255}: File name too long" in err
    assert onedc("verify", "n" * 300)[0] == 1


def test_one_folder_without_permission_does_not_stop_the_others(onedc, photos, monkeypatch):
    def refuse(path):
        if path.name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return honest(path)

    honest = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", refuse)
    Path("closed").mkdir()
    code, _, err = onedc("compress", "closed", photos)
    assert (code, err) == (1, "onedc: closed: Permission denied\n") and len(list(photos.glob("*.odc"))) == 2


def test_an_empty_folder_is_reported(onedc, photos):
    Path("empty").mkdir()
    code, _, err = onedc("compress", "empty")
    assert code == 1 and "nothing to do in this folder" in err


def test_existing_files_are_kept_unless_forced(onedc, photos, fake_pipeline):
    Path("a.odc").write_text("precious")
    code, _, err = onedc("compress", "photos/a.png", "-o", "a.odc")
    assert code == 1 and "a.odc exists; --force replaces it" in err
    assert Path("a.odc").read_text() == "precious"
    assert not fake_pipeline.loaded  # no model is loaded to do nothing
    assert onedc("compress", "photos/a.png", "-o", "a.odc", "--force")[0] == 0
    assert parse_header(Path("a.odc").read_bytes()).height == 50


def test_one_bad_file_is_reported_and_the_others_are_done(onedc, photos):
    (photos / "aa.png").write_bytes(b"\x89PNG broken")
    code, out, err = onedc("compress", "photos", "photos/missing.png")
    assert code == 1
    assert "onedc: photos/aa.png: " in err and "onedc: photos/missing.png: no such file" in err
    assert err.count("photos/aa.png") == 1
    assert sorted(path.name for path in photos.glob("*.odc")) == ["a.odc", "b.odc"]
    assert len(out.splitlines()) == 3


def test_a_bug_in_one_file_does_not_stop_the_others(onedc, photos, fake_pipeline, monkeypatch):
    honest = fake_pipeline.compress

    def compress(self, image, **options):
        if "a.png" in image:
            raise RuntimeError("surprise")
        return honest(self, image, **options)

    monkeypatch.setattr(fake_pipeline, "compress", compress)
    code, _, err = onedc("compress", "photos")
    assert code == 1 and "photos/a.png: RuntimeError: surprise" in err and (photos / "b.odc").exists()


def test_two_inputs_never_share_one_output(onedc, photos):
    Image.open(photos / "a.png").save(photos / "a.jpg")
    code, _, err = onedc("compress", "photos/a.jpg", "photos/a.png")
    assert code == 1 and "already the output of photos/a.jpg" in err
    (photos / "a.jpg").rename(photos / "a")
    code, _, err = onedc("compress", "photos/a", "-o", "photos/a", "--force")
    assert code == 1 and "written over itself" in err


@pytest.mark.parametrize("name", ["new.jpg", "new.HEIC", "new.tif"])
def test_an_odc_file_is_not_written_under_the_name_of_a_picture(onedc, photos, fake_pipeline, name):
    code, out, err = onedc("compress", "photos/a.png", "-o", name)
    assert code == 2 and out == "" and "name it new.odc" in err
    assert not Path(name).exists() and not fake_pipeline.loaded


@pytest.mark.parametrize("pattern", ["photos", "photos/", "photos/*.png", "photos/**"])
@pytest.mark.parametrize("alone", [False, True])
def test_for_a_folder_an_output_is_a_folder_however_many_pictures_it_has(onedc, photos, fake_pipeline, pattern, alone):
    if alone:
        (photos / "b.png").unlink()
    code, out, err = onedc("compress", pattern, "-o", "small")
    assert code == 2 and out == "" and "-o small/" in err
    assert not Path("small").exists() and not fake_pipeline.loaded
    Path("small").mkdir()
    assert onedc("compress", pattern, "-o", "small")[0] == 0
    code, out, err = onedc("decompress", "small", "-o", "back.png")
    assert code == 2 and out == "" and "-o back.png/" in err


@pytest.mark.parametrize(
    ("line", "output"), [("compress photos/a.png x.odc", "x.odc"), ("decompress a.odc x.webp", "x.webp")]
)
def test_an_output_among_the_inputs_is_refused_before_anything_is_written(onedc, photos, fake_pipeline, line, output):
    Path("a.odc").write_bytes(b"there")
    code, out, err = onedc(*line.split())
    assert code == 2 and out == "" and f"write -o {output}" in err
    assert not (photos / "a.odc").exists() and not fake_pipeline.loaded


def test_warnings_are_one_plain_line(onedc, photos):
    Image.new("RGBA", (9, 9), (1, 2, 3, 4)).save(photos / "clear.png")
    code, _, err = onedc("compress", "photos/clear.png")
    assert code == 0
    assert err == "onedc: warning: photos/clear.png: transparency is left out, the picture was put on white\n"


@pytest.mark.parametrize("fails", [False, True])
def test_a_warning_names_its_file_and_is_given_for_each(onedc, photos, fake_pipeline, monkeypatch, fails):
    def compress(self, image, **options):
        for _ in range(2):
            warn_user("something is missing")
        warnings.warn("of programmers", RuntimeWarning, stacklevel=1)
        if fails:
            raise OneDCError("and it cannot be done")
        return honest(self, image, **options)

    honest = fake_pipeline.compress
    monkeypatch.setattr(fake_pipeline, "compress", compress)
    with pytest.warns(RuntimeWarning, match="of programmers"):
        _, _, err = onedc("compress", photos)
    warned = [line for line in err.splitlines() if "warning" in line]
    assert warned == [f"onedc: warning: photos/{name}.png: something is missing" for name in "ab"]


def test_a_target_that_cannot_be_met_says_the_smallest(onedc, photos, fake_pipeline, monkeypatch):
    monkeypatch.setattr(fake_pipeline, "smallest", 61)
    code, _, err = onedc("compress", "photos/a.png", "--target-bytes", "20")
    assert code == 1 and "smallest file possible has 61 bytes" in err


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif", "jpg"])
def test_decompress_writes_the_format_that_the_suffix_names(onedc, photos, suffix):
    onedc("compress", "photos/a.png")
    onedc("decompress", "photos/a.odc", "-o", "exact.png")
    assert onedc("decompress", "photos/a.odc", "-o", f"back.{suffix}")[0] == 0
    with Image.open(f"back.{suffix}") as back:
        assert back.format == {"tif": "TIFF", "jpg": "JPEG"}.get(suffix, suffix.upper())
        difference = np.abs(np.asarray(back, float) - np.asarray(Image.open("exact.png"), float)).max()
    assert difference == 0 or suffix == "jpg"


def test_decompress_refuses_a_suffix_that_is_no_picture_format(onedc, photos):
    onedc("compress", "photos/a.png")
    code, _, err = onedc("decompress", "photos/a.odc", "-o", "back.docx")
    assert code == 2 and "no picture format" in err


def test_decompress_names_bad_files_and_goes_on(onedc, photos):
    onedc("compress", "photos", "-o", "small/")
    data = bytearray(Path("small/a.odc").read_bytes())
    data[40] ^= 1
    Path("small/a.odc").write_bytes(data)
    code, out, err = onedc("decompress", "small", "small/none.odc", "-o", "back/")
    assert code == 1 and "onedc: small/a.odc: " in err and "onedc: small/none.odc: no such file" in err
    assert [path.name for path in Path("back").iterdir()] == ["b.png"]


def test_decompress_does_not_replace_the_original_beside_the_file(onedc, photos):
    onedc("compress", "photos/a.png")
    before = (photos / "a.png").read_bytes()
    code, _, err = onedc("decompress", "photos/a.odc")
    assert code == 1 and "photos/a.png exists" in err and (photos / "a.png").read_bytes() == before


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.odc"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.odc"]


def test_written_files_have_the_usual_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a.odc", b"new")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.odc").stat().st_mode) == 0o640


def test_a_replaced_file_stays_as_private_as_it_was_and_a_link_a_link(tmp_path):
    path, link = tmp_path / "a.odc", tmp_path / "link.odc"
    path.write_bytes(b"old")
    path.chmod(0o600)
    link.symlink_to(path)
    for data, target in ((b"new", path), (b"newer", link)):
        write_atomically(target, data)
        assert path.read_bytes() == data and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert link.is_symlink() and sorted(os.listdir(tmp_path)) == ["a.odc", "link.odc"]


def test_a_mount_without_permissions_keeps_what_was_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "chmod", refuse)
    for data in (b"new", b"newer"):
        write_atomically(tmp_path / "a.odc", data)
        assert (tmp_path / "a.odc").read_bytes() == data
    with staged_folder(tmp_path / "model") as staged:
        (staged / "config.json").write_text("{}")
    assert sorted(os.listdir(tmp_path)) == ["a.odc", "model"] and (tmp_path / "model" / "config.json").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_is_written_into_and_not_replaced(onedc, photos):
    os.mkfifo("pipe.odc")
    with os.fdopen(os.open("pipe.odc", os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert onedc("compress", "photos/a.png", "-o", "pipe.odc")[0] == 1  # it exists
        assert onedc("compress", "photos/a.png", "-o", "pipe.odc", "--force")[0] == 0
        assert parse_header(reader.read()).width == 70
    assert Path("pipe.odc").is_fifo() and not Path("pipe.odc").is_file()


def test_a_model_that_cannot_be_loaded_is_one_line(onedc, photos, fake_pipeline, monkeypatch):
    def fail(*_, **__):
        raise ValueError("Repo id must be in the form ...")

    monkeypatch.setattr(fake_pipeline, "from_pretrained", fail)
    code, _, err = onedc("compress", "photos/a.png", "--model", "a/b/c")
    assert code == 1 and err == "onedc: --model a/b/c --device cpu: Repo id must be in the form ...\n"


@pytest.mark.parametrize("device", ["mps", "abacus"])
def test_a_device_that_is_not_there_is_one_line(onedc, photos, fake_pipeline, monkeypatch, device):
    def fail(*_):
        raise AssertionError("Torch not compiled with it")  # what torch raises for a GPU

    monkeypatch.setattr(fake_pipeline, "to", fail)
    code, _, err = onedc("compress", "photos/a.png", "--device", device)
    assert code == 1 and err.startswith(f"onedc: --device {device}: ") and err.count("\n") == 1


def test_no_model_is_loaded_for_files_that_are_not_there(onedc, photos, fake_pipeline):
    assert onedc("compress", "none.png")[0] == onedc("decompress", "none.odc")[0] == 1
    assert not fake_pipeline.loaded


def test_resume_leaves_what_is_there_and_does_the_rest(onedc, photos, fake_pipeline):
    assert onedc("compress", photos / "a.png")[0] == 0
    before = (photos / "a.odc").stat()
    fake_pipeline.loaded.clear()
    code, out, err = onedc("compress", photos, "--resume")
    assert (code, err) == (0, "") and out.startswith("1 file there already\nphotos/b.png -> photos/b.odc")
    after = (photos / "a.odc").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns) and (photos / "b.odc").exists()
    fake_pipeline.asked.clear()
    code, out, _ = onedc("compress", photos, "--resume")
    assert (code, out, fake_pipeline.asked) == (0, "2 files there already\n", [])
    assert onedc("compress", photos, "--resume", "--force")[0] == 2


@pytest.mark.parametrize("left", [0, 1, 2, 9, -1, "zeros"])
def test_resume_does_again_what_is_empty_or_cut(onedc, photos, left):
    assert onedc("compress", photos / "a.png")[0] == 0
    whole = (photos / "a.odc").read_bytes()
    (photos / "a.odc").write_bytes(bytes(len(whole)) if left == "zeros" else whole[:left])
    code, out, err = onedc("compress", photos / "a.png", "--resume")
    assert (code, err) == (0, "") and "there already" not in out
    assert (photos / "a.odc").read_bytes() == whole


def test_resume_names_a_file_of_another_picture_and_keeps_it(onedc, photos, fake_pipeline):
    assert onedc("compress", photos / "a.png", "-o", photos / "b.odc")[0] == 0
    (photos / "a.odc").write_bytes(b"precious, and no picture at all")
    before = (photos / "b.odc").read_bytes()
    fake_pipeline.loaded.clear()
    code, out, err = onedc("compress", photos, "--resume")
    assert (code, out) == (1, "") and not fake_pipeline.loaded
    assert "photos/b.odc exists, but is of a picture of 70x50 pixels, and this one has 40x30" in err
    assert "photos/a.odc exists and is left as it is" in err
    assert (photos / "b.odc").read_bytes() == before and (photos / "a.odc").read_bytes().startswith(b"precious")


def test_resume_knows_a_picture_that_was_turned(onedc, photos):
    with Image.open(photos / "a.png") as photo:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        photo.save("turned.jpg", exif=exif)
    assert onedc("compress", "turned.jpg")[0] == 0
    assert parse_header(Path("turned.odc").read_bytes()).width == 50
    assert onedc("compress", "turned.jpg", "--resume") == (0, "1 file there already\n", "")


def test_names_do_not_steer_the_terminal(onedc, photos):
    (photos / "a.png").rename(photos / "\x1b[31mred.png")
    code, out, _ = onedc("compress", photos / "\x1b[31mred.png")
    assert code == 0 and "\x1b" not in out and "photos/\\x1b[31mred.png -> " in out
    code, _, err = onedc("compress", "no\x07thing.png")
    assert code == 1 and "no\\x07thing.png" in err


@pytest.mark.parametrize("left", [0, 60])
def test_resume_rebuilds_a_picture_that_is_empty_or_cut(onedc, photos, left):
    onedc("compress", photos, "-o", "small/")
    onedc("decompress", "small", "-o", "back/")
    Path("back/a.png").write_bytes(Path("back/a.png").read_bytes()[:left])
    code, out, _ = onedc("decompress", "small", "-o", "back/", "--resume")
    assert code == 0 and out.splitlines() == ["1 file there already", "small/a.odc -> back/a.png  70x50"]


@pytest.mark.parametrize("option", ["--resume", "--force", None])
def test_a_link_to_nothing_is_no_output_that_is_there(onedc, photos, option):
    os.symlink("nowhere.odc", photos / "a.odc")
    code, out, err = onedc("compress", photos / "a.png", *([option] if option else []))
    if option == "--force":
        assert (code, err) == (0, "") and (photos / "nowhere.odc").is_file()
    else:
        assert code == 1 and "photos/a.odc is a link to nothing; remove it" in err and "there already" not in out


def test_a_link_to_itself_is_no_place_to_write_to(onedc, photos):
    os.symlink("a.odc", photos / "a.odc")
    code, _, err = onedc("compress", photos / "a.png", "--force")
    assert code == 1 and "photos/a.odc cannot be written" in err and "bug" not in err


def test_a_picture_too_long_for_its_format_is_refused_before_it_is_rebuilt(onedc, fake_pipeline, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16_384, 1)).save("long.png")
    assert onedc("compress", "long.png")[0] == 0
    assert onedc("decompress", "long.odc", "-o", "back.png")[0] == 0
    monkeypatch.setattr(fake_pipeline, "decompress", None)
    code, _, err = onedc("decompress", "long.odc", "-o", "long.webp")
    assert code == 1 and "16,383 pixels a side at most" in err and ".png" in err and "bug" not in err
    assert not Path("long.webp").exists()


@pytest.mark.parametrize("replace", [False, True])
def test_bytes_are_on_the_disk_before_a_file_gets_its_name(tmp_path, monkeypatch, replace):
    path, steps = tmp_path / "a.odc", []
    for name in ("fsync", "link", "replace"):
        honest = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, honest=honest: steps.append(name) or honest(*given))
    write_atomically(path, b"new", replace=replace)
    assert steps == ["fsync", "replace" if replace else "link"] and path.read_bytes() == b"new"


def test_resume_does_not_hide_two_pictures_of_one_name(onedc, photos):
    with Image.open(photos / "a.png") as photo:
        photo.save(photos / "a.jpg")
    for _ in range(2):
        code, _, err = onedc("compress", photos, "--resume")
        assert code == 1 and "already the output of" in err


@pytest.mark.parametrize("options", [[], ["--resume"], ["--force"]])
def test_two_spellings_of_one_output_are_one(onedc, photos, options):
    with Image.open(photos / "a.png") as photo:
        photo.save(photos / "a.jpg")
    code, _, err = onedc("compress", "photos/a.jpg", photos.absolute() / "a.png", *options)
    assert code == 1 and f"onedc: {photos.absolute()}/a.png: " in err and "already the output of photos/a.jpg" in err


@pytest.mark.parametrize("names", [("IMG.png", "img.png"), ("caf\u00e9.png", "cafe\u0301.png")])
def test_names_that_some_file_systems_do_not_tell_apart_are_one_output(onedc, photos, names):
    for folder, name, there in zip("xy", names, ("a.png", "b.png"), strict=True):
        Path(folder).mkdir()
        (photos / there).rename(Path(folder, name))
    code, _, err = onedc("compress", "x", "y", "-o", "small/")
    assert code == 1 and f"is already the output of x/{names[0]}" in err and len(list(Path("small").iterdir())) == 1


def test_one_picture_under_two_names_is_done_once(onedc, photos, fake_pipeline):
    code, out, err = onedc("compress", "photos/a.png", photos.absolute() / "a.png")
    assert (code, err, len(fake_pipeline.asked)) == (0, "", 1) and len(out.splitlines()) == 1


def test_a_file_of_another_process_is_said_to_be_there(tmp_path, capsys):
    (tmp_path / "a.odc").write_bytes(b"theirs")
    job = files.Job(tmp_path / "a.png", tmp_path / "a.odc", existing="leave")
    assert files.run_all([job], lambda job: "done", "compress") == 0
    assert capsys.readouterr().out == f"{job.target}: there already\n"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    job = files.Job(tmp_path / "a.png", tmp_path / "a.odc")
    files.write_output(job, b"first")
    with pytest.raises(OneDCError, match="another process"):
        files.write_output(job, b"second")
    assert not files.write_output(files.Job(job.source, job.target, existing="leave"), b"third")
    assert job.target.read_bytes() == b"first"
    files.write_output(files.Job(job.source, job.target, existing="replace"), b"fourth")
    assert job.target.read_bytes() == b"fourth" and os.listdir(tmp_path) == ["a.odc"]


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_atomically", full)
    target = tmp_path / "b.odc"
    with pytest.raises(OneDCError, match=f"{target} cannot be written: No space left"):
        files.write_output(files.Job(tmp_path / "a.png", target), b"data")


def test_a_name_that_the_terminal_cannot_show_is_no_failure(onedc, photos, monkeypatch):
    (photos / "a.png").rename(photos / "caf\u00e9 \udcff.png")  # the last byte is not even UTF-8
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["compress", str(photos / "caf\u00e9 \udcff.png")]) == 0
    terminal.flush()
    assert rb"caf\xe9 \udcff.odc" in terminal.buffer.getvalue()


def test_a_reader_who_leaves_does_not_make_files_fail(photos, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["compress", "photos"]) == 0
    assert len(list(photos.glob("*.odc"))) == 2 and capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_a_report_that_cannot_be_written_is_said_once_and_files_are_written(photos, monkeypatch, capsys):
    with open("/dev/full", "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["compress", "photos"]) == 0
    err = capsys.readouterr().err
    assert len(list(photos.glob("*.odc"))) == 2 and err.startswith("onedc: stdout: No space") and err.count("\n") == 1


def test_no_stdout_at_all_is_no_failure(photos, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["compress", "photos"]) == 0 and len(list(photos.glob("*.odc"))) == 2


@pytest.mark.parametrize("there", [False, True])
def test_without_hard_links_files_are_written_all_the_same(tmp_path, monkeypatch, there):
    def refuse(*_):
        raise PermissionError("no links on this file system")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a.odc"
    if there:
        path.write_bytes(b"old")
        with pytest.raises(FileExistsError):
            write_atomically(path, b"new", replace=False)
    else:
        write_atomically(path, b"new", replace=False)
    assert path.read_bytes() == (b"old" if there else b"new") and os.listdir(tmp_path) == ["a.odc"]
