"""`onedc evaluate`: rows of real files, resumed where they can be, and what is made of them."""

import argparse
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from onedc_hf.cli.main import main
from onedc_hf.evaluation.classical import Ladder, decode
from onedc_hf.evaluation.metrics import fid, psnr
from onedc_hf.evaluation.rows import FORMAT, RowStore
from onedc_hf.evaluation.run import weights_digest

from .test_network_metrics import Inception

OPTIONS = ["--rates", "0.5", "0.2", "--metrics", "psnr", "--codecs", "jpeg", "webp"]


@pytest.fixture
def folder(tmp_path, picture):
    (tmp_path / "set").mkdir()
    for index in range(3):
        Image.fromarray(picture(80, 96, seed=index)).save(tmp_path / "set" / f"p{index}.png")
    (tmp_path / "set" / "readme.txt").write_text("no picture")
    return tmp_path / "set"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def run(folder, out, *options):
    code = main(["evaluate", "--dataset", str(folder), "--out", str(out), *OPTIONS, *options])
    results = out / "results.json"
    return code, json.loads(results.read_text()) if results.exists() else None


def test_every_picture_setting_and_codec_has_a_row_that_is_true(fake_pipeline, folder, out, capsys):
    code, results = run(folder, out, "--limit", "2")
    assert code == 0 and len(results["rows"]) == 2 * 3 * 3 and results["failed"] == {}
    assert results["settings"] == ["z-only", "0.2", "0.5"] and results["codecs"] == ["onedc", "jpeg", "webp"]
    assert results["dataset"]["name"] == "set" and results["model"]["name"] == "box"
    pipeline = fake_pipeline()
    original = np.asarray(Image.open(folder / "p1.png"))
    data = pipeline.compress(original, target_bpp=0.5)
    row = next(r for r in results["rows"] if (r["picture"], r["setting"], r["codec"]) == ("p1.png", "0.5", "onedc"))
    assert row["bytes"] == len(data) and row["bpp"] == 8 * len(data) / (80 * 96)
    assert (out / row["file"]).read_bytes() == data and (out / row["file"]).stat().st_size == row["bytes"]
    assert row["psnr"] == pytest.approx(psnr(original, np.asarray(pipeline.decompress(data))), abs=1e-6)
    assert row["encode_seconds"] >= 0 and row["grid"]["energy"]["8"] > 0
    jpeg = next(r for r in results["rows"] if (r["picture"], r["setting"], r["codec"]) == ("p1.png", "0.5", "jpeg"))
    encoded = Ladder(original, "jpeg").nearest(len(data))
    assert (jpeg["bytes"], jpeg["quality"]) == (len(encoded.data), encoded.quality)
    assert jpeg["psnr"] == pytest.approx(psnr(original, decode(encoded.data)), abs=1e-6)
    assert jpeg["target_bytes"] == len(data) and (out / jpeg["file"]).read_bytes() == encoded.data
    assert "| z-only | **OneDC** |" in capsys.readouterr().out


def test_a_second_run_measures_only_what_is_missing(fake_pipeline, folder, out):
    run(folder, out, "--limit", "1")
    before = len(fake_pipeline.asked)
    _, results = run(folder, out)
    assert before == 3 and len(fake_pipeline.asked) == 3 + 2 * 3
    assert len(results["rows"]) == 3 * 3 * 3
    _, again = run(folder, out)
    assert len(fake_pipeline.asked) == 9 and again == results


@pytest.mark.parametrize("end", ['{"picture": ', ' "bpp"', '}, "'])  # the last: behind the first of the inner records
def test_a_run_that_was_killed_while_it_wrote_a_row_goes_on(fake_pipeline, folder, out, end):
    _, results = run(folder, out)
    rows = out / "rows-0.jsonl"
    text = rows.read_text()
    rows.write_text(text[: text.rindex(end) + len(end) - 1])  # half a row, without its line end
    _, again = run(folder, out)
    strip = [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in again["rows"]]
    assert strip == [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in results["rows"]]
    assert len(run(folder, out)[1]["rows"]) == 27  # the torn line stays readable


def test_a_file_that_is_gone_is_made_again(fake_pipeline, folder, out):
    _, results = run(folder, out, "--limit", "1")
    row = next(row for row in results["rows"] if row["codec"] == "onedc" and row["setting"] == "0.5")
    (out / row["file"]).unlink()
    run(folder, out, "--limit", "1")
    assert (out / row["file"]).stat().st_size == row["bytes"] and len(fake_pipeline.asked) == 4


def test_a_new_metric_is_added_to_old_rows_without_coding_anything_again(fake_pipeline, folder, out):
    _, first = run(folder, out, "--limit", "1")
    asked = len(fake_pipeline.asked)
    _, results = run(folder, out, "--limit", "1", "--metrics", "st_lpips_alex")
    assert all(row["st_lpips_alex"] > 0 for row in results["rows"]) and len(fake_pipeline.asked) == asked
    _, both = run(folder, out, "--limit", "1", "--metrics", "psnr", "st_lpips_alex")
    assert [row["psnr"] for row in both["rows"]] == [row["psnr"] for row in first["rows"]]
    assert [row["st_lpips_alex"] for row in both["rows"]] == [row["st_lpips_alex"] for row in results["rows"]]


def test_other_weights_are_measured_anew(fake_pipeline, folder, out):
    layer = torch.nn.Linear(2, 2)
    before = layer.weight.clone()
    fake_pipeline.components = {"generator": layer, "scheduler": object()}
    _, first = run(folder, out, "--limit", "1")
    with torch.no_grad():
        layer.weight[0, 0] += 1
    _, second = run(folder, out, "--limit", "1")
    assert len(fake_pipeline.asked) == 6
    assert first["model"]["weights"] != second["model"]["weights"]
    assert {row.get("weights") for row in second["rows"]} == {second["model"]["weights"], None}
    assert first["model"]["model_id"] == second["model"]["model_id"] == fake_pipeline.model_id
    with torch.no_grad():
        layer.weight.copy_(before)
    _, third = run(folder, out, "--limit", "1")  # back again: its own rows and files are still there
    assert third["rows"] == first["rows"] and len(fake_pipeline.asked) == 6


def test_rows_of_measures_that_were_defined_otherwise_do_not_count(fake_pipeline, folder, out):
    _, results = run(folder, out, "--limit", "1")
    rows = out / "rows-0.jsonl"
    rows.write_text(rows.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT - 1}'))
    _, again = run(folder, out, "--limit", "1")
    assert len(fake_pipeline.asked) == 6 and len(again["rows"]) == len(results["rows"])


def test_another_config_is_another_model(tiny_folder, tmp_path):
    from onedc_hf import OneDCPipeline

    shutil.copytree(tiny_folder, tmp_path / "model")
    config = tmp_path / "model" / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.8}))
    one, other = (OneDCPipeline.from_pretrained(path) for path in (tiny_folder, tmp_path / "model"))
    assert one.model_id == other.model_id and weights_digest(one) != weights_digest(other)


def test_a_long_name_in_letters_of_several_bytes_is_measured(fake_pipeline, folder, out):
    (folder / "p0.png").rename(folder / f"{'図' * 80}.png")
    code, results = run(folder, out)
    assert code == 0 and len(results["rows"]) == 27


def test_results_do_not_go_among_the_pictures(fake_pipeline, folder, capsys):
    before = sorted(folder.rglob("*"))
    assert run(folder, folder / ".." / folder.name)[0] == 2
    assert "folder of the pictures" in capsys.readouterr().err and sorted(folder.rglob("*")) == before
    for _ in range(2):  # below them they are in nobody's way
        assert run(folder, folder / "run", "--limit", "1")[0] == 0


def test_a_picture_in_other_tiles_is_measured_anew(tiny_folder):
    from onedc_hf import OneDCPipeline

    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    found = {weights_digest(pipe)}
    for set_tiling in (lambda: pipe.enable_tiling(512, 128), pipe.enable_tiling, pipe.disable_tiling):
        set_tiling()
        found.add(weights_digest(pipe))
    assert len(found) == 4
    del pipe._tiling  # as in versions that knew no tiles, whose rows are still good
    assert weights_digest(pipe) == weights_digest(OneDCPipeline.from_pretrained(tiny_folder))


def test_a_known_file_of_another_codec_is_not_measured_again(fake_pipeline, folder, out, tmp_path):
    _, results = run(folder, out, "--limit", "1")
    for row in results["rows"]:
        if row["codec"] == "jpeg":
            row["psnr"] = 12.5  # recognisable
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(results))
    _, again = run(folder, tmp_path / "anew", "--limit", "1", "--reuse", str(earlier))
    assert {row["psnr"] for row in again["rows"] if row["codec"] == "jpeg"} == {12.5}
    assert 12.5 not in {row["psnr"] for row in again["rows"] if row["codec"] != "jpeg"}


def test_files_of_another_effort_are_others(fake_pipeline, folder, out, capsys):
    _, plain = run(folder, out, "--limit", "1")
    assert run(folder, out, "--limit", "1", "--effort", "3")[0] == 0
    assert fake_pipeline.asked[3:] == [{"z_only": True}, *({"target_bpp": r, "effort": 3} for r in (0.2, 0.5))]
    results = json.loads((out / "results.json").read_text())
    assert results["model"]["effort"] == 3 and results["options"] == ["--effort", "3"]
    assert "refined with effort 3" in capsys.readouterr().out
    files = {row["file"] for row in results["rows"] if row["codec"] == "onedc"}
    assert files.isdisjoint(row["file"] for row in plain["rows"])
    assert run(folder, out, "--limit", "1") == (0, plain)  # both are there
    assert len(fake_pipeline.asked) == 6


def test_what_has_every_measure_is_not_looked_up(fake_pipeline, folder, out, monkeypatch):
    _, first = run(folder, out, "--limit", "1")
    monkeypatch.setattr(RowStore, "find_measured", lambda *_: pytest.fail("looked up"))
    assert run(folder, out, "--limit", "1") == (0, first)


def test_of_what_is_known_of_a_file_the_newest_counts_and_ours_before_an_earlier_result(tmp_path):
    store = RowStore(tmp_path, "weights")
    facts = {"picture": "a.png", "sha256": "a", "codec": "jpeg", "file_sha256": "f"}
    store.add({**facts, "setting": "0.1", "psnr": 1.0})
    store.borrow({"rows": [{**facts, "setting": "0.1", "psnr": 2.0, "ms_ssim": 0.5}]})
    assert store.find_measured("a", "jpeg", "f").items() >= {"psnr": 1.0, "ms_ssim": 0.5}.items()
    store.add({**facts, "setting": "0.2", "psnr": 3.0})
    assert store.find_measured("a", "jpeg", "f")["psnr"] == 3.0
    store.add({**facts, "setting": "0.2", "psnr": 4.0, "file_sha256": "other"})
    again = RowStore(tmp_path, "weights")
    assert again.find_measured("a", "jpeg", "f")["psnr"] == 3.0  # also where another file has its place
    assert again.find_measured("a", "webp", "f") == again.find_measured("b", "jpeg", "f") == {}


def test_a_known_set_of_files_of_another_codec_is_not_measured_again(fake_pipeline, folder, out, tmp_path):
    _, results = run(folder, out, "--metrics", "psnr", "frechet_lite0")
    for record in results["sets"]:
        if record["codec"] == "jpeg":
            record["frechet_lite0"] = 12.5  # recognisable
    results["rows"].reverse()
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(results))
    options = ("--metrics", "psnr", "frechet_lite0", "--reuse", str(earlier))
    _, again = run(folder, tmp_path / "anew", *options)
    assert {record["frechet_lite0"] for record in again["sets"] if record["codec"] == "jpeg"} == {12.5}
    assert 12.5 not in {record["frechet_lite0"] for record in again["sets"] if record["codec"] != "jpeg"}
    _, part = run(folder, tmp_path / "part", "--limit", "2", *options)  # another set
    assert 12.5 not in {record["frechet_lite0"] for record in part["sets"]}


def test_a_broken_picture_is_reported_skipped_and_counted(fake_pipeline, folder, out, capsys):
    (folder / "p1.png").write_bytes(b"\x89PNG broken")
    code, results = run(folder, out)
    captured = capsys.readouterr()
    assert code == 1 and "p1.png" in captured.err and "1 of 3 pictures failed" in captured.err
    assert {row["picture"] for row in results["rows"]} == {"p0.png", "p2.png"} and list(results["failed"]) == ["p1.png"]
    assert "Means over 2 pictures" in captured.out


def test_a_picture_that_was_mended_no_longer_counts_as_failed(fake_pipeline, folder, out):
    whole = (folder / "p1.png").read_bytes()
    (folder / "p1.png").write_bytes(b"broken")
    assert run(folder, out)[0] == 1
    (folder / "p1.png").write_bytes(whole)
    code, results = run(folder, out)
    assert code == 0 and results["failed"] == {} and len(results["rows"]) == 27


def test_a_rate_that_cannot_be_reached_does_not_stop_the_higher_ones(fake_pipeline, folder, out, capsys):
    fake_pipeline.smallest = 300  # 0.2 bpp of 80 x 96 pixels are 192 bytes
    code, results = run(folder, out)
    assert code == 1 and results["rows"] == [] and len(results["failed"]) == 3
    assert "300 bytes" in capsys.readouterr().err
    asked = len(fake_pipeline.asked)
    fake_pipeline.smallest = 0
    code, results = run(folder, out)
    assert code == 0 and len(results["rows"]) == 27
    assert len(fake_pipeline.asked) == asked + 3  # 0.2 bpp only: the others were there


def test_whichever_process_wrote_a_row_the_newest_counts(fake_pipeline, folder, out):
    (folder / "p2.png").rename(folder / "x.png")
    run(folder, out)
    (out / "rows-0.jsonl").rename(out / "rows-1.jsonl")  # as if by the second of two processes
    whole = (folder / "x.png").read_bytes()
    (folder / "x.png").write_bytes(b"broken")
    (folder / "y.png").write_bytes(whole)
    assert run(folder, out)[0] == 1
    (folder / "x.png").write_bytes(whole)
    code, results = run(folder, out, "--metrics", "psnr", "ms_ssim")
    assert code == 0 and results["failed"] == {} and len(results["rows"]) == 4 * 9
    assert all("ms_ssim" in row for row in results["rows"])


def test_a_failure_counts_until_the_picture_was_measured_once_more(fake_pipeline, folder, out, capsys):
    _, first = run(folder, out)
    row = next(r for r in first["rows"] if (r["picture"], r["setting"], r["codec"]) == ("p1.png", "0.2", "onedc"))
    (out / row["file"]).unlink()
    fake_pipeline.smallest = 300  # it is not made again
    code, results = run(folder, out)
    assert code == 1 and "300 bytes" in results["failed"]["p1.png"]
    assert {row["picture"] for row in results["rows"]} == {"p0.png", "p2.png"}
    fake_pipeline.smallest = 0
    code, results = run(folder, out)
    assert code == 0 and results["failed"] == {} and len(results["rows"]) == 27


def test_a_picture_that_came_back_is_not_measured_again(fake_pipeline, folder, out):
    _, first = run(folder, out)
    whole, asked = (folder / "p1.png").read_bytes(), len(fake_pipeline.asked)
    (folder / "p1.png").write_bytes(b"broken")
    assert run(folder, out)[0] == 1
    (folder / "p1.png").write_bytes(whole)
    assert run(folder, out) == (0, first) and len(fake_pipeline.asked) == asked
    assert run(folder, out) == (0, first)


def test_rows_of_another_device_do_not_stand_for_pictures_that_failed_on_this_one(fake_pipeline, folder, out):
    run(folder, out, "--limit", "1")
    fake_pipeline.device = "mps:0"
    fake_pipeline.smallest = 300
    code, results = run(folder, out, "--limit", "1")
    assert code == 1 and results["rows"] == [] and "300 bytes" in results["failed"]["p0.png"]
    store = RowStore(out, results["model"]["weights"])
    (noted,) = store._failures["p0.png"].values()
    noted["at"] = 0.0  # as if nobody had noted one
    original = next(row for row in store._rows.values())
    wanted = (original["picture"], original["sha256"], ["z-only", "0.2"], ["onedc"], ["psnr"])
    assert store.rows(*wanted, "mps") is None and len(store.rows(*wanted[:2], ["0.2"], *wanted[3:], "cpu")) == 1


def test_more_pixels_than_are_asked_for_are_refused(fake_pipeline, folder, out, capsys):
    code, results = run(folder, out, "--limit", "1", "--max-pixels", "1000")
    assert code == 1 and results["rows"] == [] and "limit of 1,000" in results["failed"]["p0.png"]


def test_a_name_that_is_no_utf_8_is_written_as_text(fake_pipeline, folder, tmp_path, picture):
    odd = tmp_path / "odd\udce9"  # as Python has a byte that is no UTF-8
    odd.mkdir()
    (odd / "caf\udce9.png").write_bytes((folder / "p0.png").read_bytes())
    code, results = run(odd, tmp_path / "run")
    assert code == 0 and {row["picture"] for row in results["rows"]} == {r"caf\xe9.png"}
    assert results["dataset"]["name"] == r"odd\xe9"


def test_what_looks_like_a_picture_and_cannot_be_read_is_reported(fake_pipeline, folder, out, capsys):
    (folder / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    (folder / "raw.dng").write_bytes(b"II*\0" + bytes(50))
    (folder / "unsuffixed").write_bytes((folder / "p0.png").read_bytes())
    for name in ("clip.mpg", "table.h5", "logo.eps", "notes"):
        (folder / name).write_bytes(b"something else")
    code, results = run(folder, out)
    assert code == 1 and results["failed"].keys() == {"IMG_1.HEIC", "raw.dng"}
    assert {row["picture"] for row in results["rows"]} == {"p0.png", "p1.png", "p2.png", "unsuffixed"}
    assert "save it as JPEG or PNG" in capsys.readouterr().err


def test_odd_pictures_fail_alone(fake_pipeline, folder, out, capsys, monkeypatch):
    Image.new("RGB", (80, 96), "grey").save(folder / "flat.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "folder.png").mkdir()
    real = fake_pipeline.decompress

    def decompress(self, data, **options):
        picture = real(self, data, **options)
        if np.asarray(picture).std() < 5:
            raise MemoryError("no room")
        return picture

    monkeypatch.setattr(fake_pipeline, "decompress", decompress)
    code, results = run(folder, out)
    assert code == 1 and results["failed"].keys() == {"flat.png", "gone.png"} and len(results["rows"]) == 27
    assert "MemoryError: no room" in capsys.readouterr().err
    monkeypatch.undo()


def test_a_picture_of_one_colour_has_no_grid(fake_pipeline, tmp_path, out):
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (80, 96), (200, 40, 40)).save(tmp_path / "flat" / "flat.png")
    code, results = run(tmp_path / "flat", out, "--codecs")
    assert code == 0 and all(max(row["grid"]["energy"].values()) < 2 for row in results["rows"])


def test_equal_pictures_are_two_pictures(fake_pipeline, folder, out):
    (folder / "q0.png").write_bytes((folder / "p0.png").read_bytes())
    _, results = run(folder, out)
    assert results["dataset"]["pictures"] == 4 and len(results["rows"]) == 36


def test_a_part_of_a_set_is_called_one(fake_pipeline, folder, out):
    _, results = run(folder, out, "--limit", "2")
    assert results["dataset"]["title"] == "set, first 2 pictures" and results["dataset"]["limited"]


def test_a_picture_too_small_for_a_metric_has_null_there(fake_pipeline, folder, out, capsys):
    _, results = run(folder, out, "--limit", "1", "--metrics", "psnr", "ms_ssim")
    assert all(row["ms_ssim"] is None for row in results["rows"])
    assert "n/a" in capsys.readouterr().out


def test_metrics_of_whole_sets_are_taken_from_the_files(fake_pipeline, folder, out):
    from onedc_hf.evaluation.metrics import SET_METRICS

    _, results = run(folder, out, "--metrics", "psnr", "frechet_lite0", "--codecs", "jpeg")
    found = {(one["setting"], one["codec"]): one["frechet_lite0"] for one in results["sets"]}
    assert found.keys() == {(s, c) for s in ("z-only", "0.2", "0.5") for c in ("onedc", "jpeg")}
    meter = SET_METRICS["frechet_lite0"].make()
    for row in results["rows"]:
        if (row["setting"], row["codec"]) == ("0.5", "jpeg"):
            meter.add(np.asarray(Image.open(folder / row["picture"])), decode((out / row["file"]).read_bytes()))
    assert found["0.5", "jpeg"] == pytest.approx(meter.compute(), abs=1e-6)
    assert found["z-only", "onedc"] > found["0.5", "onedc"] > 0  # the stand-in's qualities are 1 and more


def test_a_picture_too_small_for_a_set_metric_costs_that_metric_alone(fake_pipeline, folder, out, picture, capsys):
    Image.fromarray(picture(31, 40)).save(folder / "icon.png")
    code, results = run(folder, out, "--metrics", "psnr", "frechet_lite0", "--codecs", "jpeg")
    assert code == 0 and results["dataset"]["pictures"] == 4
    assert all(one["frechet_lite0"] is None for one in results["sets"])
    assert all(row["psnr"] is not None for row in results["rows"])
    assert "no frechet_lite0: icon.png" in capsys.readouterr().err


def test_a_picture_without_a_patch_costs_fid_alone(fake_pipeline, folder, out, picture, capsys, monkeypatch):
    monkeypatch.setattr(fid, "_inception", Inception)
    (tall := folder.parent / "tall").mkdir()
    for index in range(2):
        Image.fromarray(picture(512, 256, seed=index)).save(tall / f"p{index}.png")
    options = ("--metrics", "psnr", "fid", "--codecs")
    assert all(one["fid"] is not None for one in run(tall, out, *options)[1]["sets"])
    Image.fromarray(picture(512, 255)).save(tall / "narrow.png")
    code, results = run(tall, out, *options)
    assert code == 0 and results["dataset"]["pictures"] == 3
    assert all(one["fid"] is None for one in results["sets"])
    assert "no fid: narrow.png: fid needs 256 pixels a side" in capsys.readouterr().err


def test_rows_matched_to_files_of_other_weights_do_not_count(fake_pipeline, folder, out, monkeypatch, capsys):
    layer = torch.nn.Linear(2, 2)
    fake_pipeline.components = {"generator": layer, "scheduler": object()}
    run(folder, out, "--limit", "1")
    with torch.no_grad():
        layer.weight[0, 0] += 1
    compress = fake_pipeline.compress
    monkeypatch.setattr(fake_pipeline, "compress", lambda self, image, **options: compress(self, image, quality=95))

    def full(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Ladder, "nearest", full)
    code, results = run(folder, out, "--limit", "1")
    assert code == 1 and results["rows"] == [] and "disk full" in results["failed"]["p0.png"]


def test_the_record_says_how_it_was_made_without_paths_of_this_machine(fake_pipeline, folder, out):
    _, results = run(folder.parent, out, "--limit", "2", "--data-dir", str(folder), "--dtype", "float32")
    assert results["options"] == ["--data-dir", "set", "--dtype", "float32"]
    assert results["dataset"]["limit"] == 2 and results["model"]["adapter"] is None


@pytest.mark.parametrize(("device", "said"), [("cpu", []), ("cpu:0", []), ("cuda", ["--device", "cuda"])])
def test_the_command_of_a_record_names_what_decides_figures(device, said):
    from onedc_hf.cli import evaluate

    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    asked = ["--dataset", "set", "--out", "run", "--max-pixels", "5000", "--device", device]
    assert evaluate._options(parser.parse_args(asked)) == ["--max-pixels", "5000", *said]


def test_the_parquet_file_shows_pictures_and_holds_the_files(fake_pipeline, folder, out):
    from datasets import load_dataset

    _, results = run(folder, out)
    data = load_dataset("parquet", data_files=str(out / "data" / "*.parquet"), split="train", cache_dir=str(out / "c"))
    ours = [row for row in results["rows"] if row["codec"] == "onedc"]
    assert len(data) == len(ours) == 9
    for seen, row in zip(data, ours, strict=True):
        assert (seen["picture"], seen["setting"], seen["bytes"]) == (row["picture"], row["setting"], row["bytes"])
        assert len(seen["odc"]) == row["bytes"] and seen["bpp"] == 8 * len(seen["odc"]) / (80 * 96)
        original, rebuilt = np.asarray(seen["original"]), np.asarray(seen["rebuilt"])
        assert psnr(original, rebuilt) == pytest.approx(seen["psnr"], abs=1e-5)
        assert np.array_equal(rebuilt, np.asarray(fake_pipeline().decompress(seen["odc"])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "beauty"], "beauty"),
        (["--codecs", "heic"], "heic"),
        (["--rates", "0"], "rates"),
        (["--limit", "0"], "limit"),
    ],
)
def test_settings_that_make_no_sense_stop_before_any_work(fake_pipeline, folder, out, capsys, options, message):
    assert run(folder, out, *options)[0] in (1, 2)
    assert message in capsys.readouterr().err and not out.exists() and not fake_pipeline.asked


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("nowhere", "neither a folder, nor a benchmark"),
        ("empty", "no pictures"),
        ("./nowhere/else", "neither a folder"),
    ],
)
def test_a_source_without_pictures_is_an_error(fake_pipeline, tmp_path, out, capsys, monkeypatch, dataset, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(dataset, out)[0] == 1
    assert message in capsys.readouterr().err


def test_a_row_file_of_something_else_is_not_touched(fake_pipeline, folder, out, capsys):
    out.mkdir()
    (out / "rows-0.jsonl").write_text('{"shopping": ["milk"]}\n')
    assert run(folder, out)[0] == 1
    assert "no row of an evaluation" in capsys.readouterr().err and "milk" in (out / "rows-0.jsonl").read_text()


def test_a_model_of_one_rate_is_measured_at_its_own(fake_pipeline, folder, out):
    codec = torch.nn.Linear(1, 1)
    codec.config = SimpleNamespace(quality_rows=1, to_dict=dict)
    fake_pipeline.components = {"codec": codec}
    _, results = run(folder, out, "--limit", "1")
    assert results["settings"] == ["z-only", "own rate"]
    assert fake_pipeline.asked == [{"z_only": True}, {}]
