"""The Markdown made of rows."""

import copy
import json

import pytest

from onedc_hf.errors import OneDCError
from onedc_hf.evaluation import tables
from onedc_hf.evaluation.rows import FORMAT


def row(picture, setting, codec, size, psnr, **more):
    grid = {"energy": {"2": 1.0, "8": 1.5 if codec == "jpeg" else 1.0}, "gradient": {"8": 1.1}}
    row = {
        "picture": picture,
        "sha256": picture,
        "setting": setting,
        "codec": codec,
        "bytes": size,
        "bpp": size / 1000,
        "psnr": psnr,
    }
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
    model = {"name": "mine", "model_id": "ab12" + "0" * 60, "weights": "beef"}
    machine = {"device": "cpu", "threads": 2, "cpu_capability": "AVX2", "torch": "2.13"}
    sets = [{"setting": "0.1", "codec": "onedc", "pictures": 2, "frechet_lite0": 0.25}]
    facts = {
        "settings": ["z-only", "0.03", "0.1"],
        "codecs": ["onedc", "jpeg", "avif"],
        "set_metrics": [],
        "sets": sets,
    }
    return {"format": FORMAT, "model": model, "machine": machine, "metrics": ["psnr"], "rows": rows, **facts}


def test_the_table_has_means_in_order_of_rate_with_onedc_first(results):
    lines = tables.markdown(results).splitlines()
    assert lines[0] == "| bpp asked | codec | bytes | bpp | PSNR (dB) ↑ | grid |"
    assert lines[2] == "| z-only | **OneDC** | 10 | 0.0105 | 20.50 | 1.10 |"
    assert lines[3] == "|  | JPEG | 200 | 0.2000 | 22.00 | 1.50 |"
    assert lines[4] == "|  | AVIF | 90 | 0.0900\\* | 25.00 | 1.10 |"
    assert [line.split("|")[1].strip() for line in lines[2:11:3]] == ["z-only", "0.03", "0.1"]
    assert lines[10].startswith("|  | AVIF | 90 | 0.0900 |")  # here the target could be reached
    assert "Means over 2 pictures" in lines[-1] and "AVIF is written at speed 6" in lines[-1]


def test_the_box_says_that_relatives_of_the_measuring_network_made_it(results):
    results |= {"set_metrics": ["frechet_lite0"]}
    assert "Lite2" not in tables.markdown(results)
    results["model"]["name"] = "box"
    assert "Lite1 as a loss, Lite2 to choose" in tables.markdown(results)
    assert "Lite2" not in tables.markdown(results, metrics=["psnr"])


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


def test_a_set_metric_counts_only_for_the_rows_it_was_made_of(results):
    results["set_metrics"] = ["frechet_lite0"]
    assert "| 0.250 |" in tables.markdown(results).splitlines()[8]
    results["sets"][0]["pictures"] = 3
    assert "0.250" not in tables.markdown(results)


def test_what_is_shown_can_be_chosen(results):
    text = tables.markdown(results, metrics=[], settings=["0.03"], codecs=["avif"])
    assert text.splitlines()[0] == "| bpp asked | codec | bytes | bpp | grid |"
    assert [line.split("|")[2].strip() for line in text.splitlines()[2:4]] == ["**OneDC**", "AVIF"]
    assert "JPEG" not in text


def test_what_cells_repeat_is_a_column_where_it_is_known(results):
    for row in results["rows"]:
        if row["codec"] != "avif":
            row["grid"]["repeated"] = 0.26 if row["codec"] == "onedc" else -0.001
    lines = tables.markdown(results).splitlines()
    assert lines[0].endswith("| grid | repeated |")
    assert [line.rsplit("|", 2)[1].strip() for line in lines[2:5]] == ["0.26", "0.00", "n/a"]
    assert "`repeated`: share of detail" in lines[-1]
    del results["rows"][2]["grid"]["repeated"]  # a mean over the other picture alone would be of another set
    assert tables.markdown(results).splitlines()[8].rsplit("|", 2)[1].strip() == "n/a"
    del results["rows"][5]["grid"]["repeated"]
    for row in results["rows"]:
        row["grid"].pop("repeated", None)
    assert "repeated" not in tables.markdown(results)
