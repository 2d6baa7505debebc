"""Rows of real files, resumed where they can be, and the Markdown made of them."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

from onedc_hf.errors import OneDCError
from onedc_hf.evaluation import kodak, tables
from onedc_hf.evaluation.classical import decode, nearest
from onedc_hf.evaluation.metrics import psnr

RATES = ["--rates", "0.5", "0.2", "--metrics", "psnr", "--codecs", "jpeg", "webp"]


@pytest.fixture
def folder(tmp_path, picture):
    (tmp_path / "set").mkdir()
    for index in range(3):
        Image.fromarray(picture(80, 96, seed=index)).save(tmp_path / "set" / f"p{index}.png")
    (tmp_path / "set" / "readme.txt").write_text("no picture")
    return tmp_path / "set"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results.json"


def run(folder, out, *options):
    code = kodak.main([str(folder), "--out", str(out), *RATES, *options])
    return code, json.loads(out.read_text()) if out.exists() else None


def test_every_picture_setting_and_codec_has_a_row_that_is_true(fake_pipeline, folder, out):
    code, results = run(folder, out, "--limit", "2")
    assert code == 0 and len(results["rows"]) == 2 * 3 * 3
    assert {row["setting"] for row in results["rows"]} == {"z-only", "0.2", "0.5"}
    pipeline = fake_pipeline()
    original = np.asarray(Image.open(folder / "p1.png"))
    data = pipeline.compress(original, target_bpp=0.5)
    row = next(r for r in results["rows"] if (r["picture"], r["setting"], r["codec"]) == ("p1.png", "0.5", "onedc"))
    assert row["bytes"] == len(data) and row["bpp"] == 8 * len(data) / (80 * 96)
    assert row["psnr"] == pytest.approx(psnr(original, np.asarray(pipeline.decompress(data))))
    assert row["encode_seconds"] >= 0 and row["grid"]["energy"]["8"] > 0
    jpeg = next(r for r in results["rows"] if (r["picture"], r["setting"], r["codec"]) == ("p1.png", "0.5", "jpeg"))
    encoded = nearest(original, "jpeg", len(data))
    assert (jpeg["bytes"], jpeg["quality"]) == (len(encoded.data), encoded.quality)
    assert jpeg["psnr"] == pytest.approx(psnr(original, decode(encoded.data)))
    assert jpeg["target_bytes"] == len(data)


def test_a_second_run_measures_only_what_is_missing(fake_pipeline, folder, out):
    run(folder, out, "--limit", "1")
    before = len(fake_pipeline.asked)
    _, results = run(folder, out)
    assert before == 3 and len(fake_pipeline.asked) == 3 + 2 * 3
    assert len(results["rows"]) == 3 * 3 * 3
    run(folder, out)
    assert len(fake_pipeline.asked) == 9


def test_a_new_metric_is_not_missing_from_old_rows(fake_pipeline, folder, out):
    run(folder, out, "--limit", "1")
    _, results = run(folder, out, "--limit", "1", "--metrics", "psnr", "st_lpips_alex")
    assert all(row["st_lpips_alex"] > 0 for row in results["rows"])


def test_other_weights_are_measured_anew(fake_pipeline, folder, out):
    layer = torch.nn.Linear(2, 2)
    fake_pipeline.components = {"generator": layer, "scheduler": object()}
    _, first = run(folder, out, "--limit", "1")
    with torch.no_grad():
        layer.weight[0, 0] += 1
    _, second = run(folder, out, "--limit", "1")
    assert len(fake_pipeline.asked) == 6
    assert first["model"]["weights"] != second["model"]["weights"]
    assert first["model"]["model_id"] == second["model"]["model_id"] == fake_pipeline.model_id


def test_a_known_file_of_a_classical_codec_is_not_measured_again(fake_pipeline, folder, out):
    _, results = run(folder, out, "--limit", "1")
    for row in results["rows"]:
        if row["codec"] == "jpeg":
            row["psnr"] = 12.5  # recognisable
            row["target_bytes"] -= 1  # another model's size: the row has to be made again
    out.write_text(json.dumps(results))
    _, again = run(folder, out, "--limit", "1")
    jpeg = [row for row in again["rows"] if row["codec"] == "jpeg"]
    assert len(jpeg) == 3 and {row["psnr"] for row in jpeg} == {12.5}
    sizes = {row["setting"]: row["bytes"] for row in again["rows"] if row["codec"] == "onedc"}
    assert all(row["target_bytes"] == sizes[row["setting"]] for row in jpeg)


def test_a_broken_picture_is_reported_and_counted(fake_pipeline, folder, out, capsys):
    (folder / "p1.png").write_bytes(b"\x89PNG broken")
    code, results = run(folder, out)
    err = capsys.readouterr().err
    assert code == 1 and "failed: " in err and "p1.png" in err and "1 of 3 pictures failed" in err
    assert {row["picture"] for row in results["rows"]} == {"p0.png", "p2.png"}


def test_a_picture_too_small_for_a_metric_has_null_there(fake_pipeline, folder, out):
    _, results = run(folder, out, "--limit", "1", "--metrics", "psnr", "ms_ssim")
    assert all(row["ms_ssim"] is None for row in results["rows"])
    assert "n/a" in tables.markdown(results)


@pytest.mark.parametrize("what", ["nowhere", "empty"])
def test_a_folder_without_pictures_is_an_error(fake_pipeline, tmp_path, out, capsys, what):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / what, out)[0] == 1
    assert what in capsys.readouterr().err


def test_a_file_that_holds_no_results_is_not_overwritten(fake_pipeline, folder, out, capsys):
    out.write_text('{"shopping": ["milk"]}')
    assert run(folder, out)[0] == 1
    assert "no result file" in capsys.readouterr().err and "milk" in out.read_text()


# --- tables -----------------------------------------------------------------------------------------------------------


def row(picture, setting, codec, size, psnr, **more):
    grid = {"energy": {"2": 1.0, "8": 1.5 if codec == "jpeg" else 1.0}, "gradient": {"8": 1.1}}
    row = {"picture": picture, "setting": setting, "codec": codec, "bytes": size, "bpp": size / 1000, "psnr": psnr}
    return {**row, "grid": grid, **more}


@pytest.fixture
def results():
    seconds = {"encode_seconds": 0.25, "decode_seconds": 0.5}
    rows = []
    for setting, size in (("0.1", 100), ("z-only", 10), ("0.03", 31)):
        for picture in ("a", "b"):
            rows.append(row(picture, setting, "avif", 90, 25.0, at_floor=size < 90))
            rows.append(row(picture, setting, "jpeg", 200, 22.0, at_floor=False))
            rows.append(row(picture, setting, "onedc", size + (picture == "b"), 20.0 + (picture == "b"), **seconds))
    model = {"model_id": "ab12" + "0" * 60, "weights": "beef"}
    machine = {"threads": 2, "cpu_capability": "AVX2", "torch": "2.13"}
    return {"format": 1, "model": model, "machine": machine, "metrics": ["psnr"], "rows": rows}


def test_the_table_has_means_in_order_of_rate_with_onedc_first(results):
    lines = tables.markdown(results).splitlines()
    assert lines[0] == "| bpp asked | codec | bytes | bpp | PSNR (dB) ↑ | grid |"
    assert lines[2] == "| z-only | **OneDC** | 10 | 0.0105 | 20.50 | 1.10 |"
    assert lines[3] == "|  | JPEG | 200 | 0.2000 | 22.00 | 1.50 |"
    assert lines[4] == "|  | AVIF | 90 | 0.0900\\* | 25.00 | 1.10 |"
    assert [line.split("|")[1].strip() for line in lines[2:11:3]] == ["z-only", "0.03", "0.1"]
    assert lines[10].startswith("|  | AVIF | 90 | 0.0900 |")  # here the target could be reached
    assert "Means over 2 pictures" in lines[-1] and "encode 0.25 s, decode 0.50 s" in lines[-1]


def test_a_mean_over_fewer_pictures_is_refused(results):
    del results["rows"][4]
    with pytest.raises(OneDCError, match="incomplete"):
        tables.markdown(results)


def test_only_what_stands_between_the_marks_is_replaced(results, tmp_path, capsys):
    readme, path = tmp_path / "README.md", tmp_path / "results.json"
    readme.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    path.write_text(json.dumps(results))
    assert tables.main([str(path), "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text and "**OneDC**" in text
    assert tables.main([str(path), "--readme", str(readme)]) == 0
    assert readme.read_text() == text
    assert tables.main([str(path)]) == 0 and "**OneDC**" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["no marks", tables.BEGIN, tables.END + tables.BEGIN, (tables.BEGIN + tables.END) * 2])
def test_missing_marks_are_an_error(text):
    with pytest.raises(OneDCError, match="kodak:begin"):
        tables.insert(text, "table")


def test_a_summary_changes_nothing_in_the_results(results):
    before = copy.deepcopy(results)
    tables.summarise(results)
    assert results == before
