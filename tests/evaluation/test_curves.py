"""Curves, BD-rate, plots, published points, results pages and entries for the Hub, from a result file made by hand."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, parse_eval_result_entries
from PIL import Image

from onedc_hf.cli.main import main
from onedc_hf.errors import OneDCError
from onedc_hf.evaluation import page, plots
from onedc_hf.evaluation.classical import CODECS
from onedc_hf.evaluation.curves import Curve, bd_rate, bd_rate_interval, curve_of, told_apart
from onedc_hf.evaluation.model_page import TASKS, model_index, task_values, write_eval_results
from onedc_hf.evaluation.published import comparable_curves, published_curves, published_source
from onedc_hf.evaluation.rows import FORMAT
from onedc_hf.evaluation.run import load_results, rebuilt_picture
from onedc_hf.evaluation.tables import BEGIN, END

SETTINGS = ("z-only", "0.03", "0.1", "0.3")
RATES = {"z-only": 0.003, "0.03": 0.03, "0.1": 0.1, "0.3": 0.3}


def quality(bpp):
    """A metric that grows with the logarithm of the rate, so that PCHIP in log rate is exact."""
    return 30 + 5 * np.log10(bpp)


def make_results(save=0.5, name="box"):
    """OneDC needs `save` times the bits of AVIF at equal PSNR, exactly; JPEG only has one, better point."""
    rows = []
    for picture in ("a.png", "b.png"):
        for setting in SETTINGS:
            bpp = RATES[setting]
            facts = {"picture": picture, "sha256": picture, "setting": setting, "grid": None}
            for codec, psnr, rate in (
                ("onedc", quality(bpp / save), bpp),
                ("avif", quality(bpp), bpp),
                ("jpeg", 60.0, 1.0),
            ):
                row = {
                    **facts,
                    "codec": codec,
                    "bpp": rate,
                    "bytes": round(1e5 * rate),
                    "psnr": psnr,
                    "ms_ssim": psnr / 60,
                }
                row |= {"st_lpips_vgg": 1 - psnr / 60, "class_agreement_lite0": 0.5, "at_floor": False}
                row |= {"encode_seconds": 0.1, "decode_seconds": 0.2} if codec == "onedc" else {}
                rows.append(row)
    return {
        "format": FORMAT,
        "model": {"name": name, "model_id": "ab" * 32, "weights": "beef"},
        "dataset": {
            "name": "kodak",
            "title": "Kodak",
            "split": None,
            "revision": None,
            "pictures": 2,
            "limited": False,
        },
        "machine": {"device": "cpu", "threads": 2, "cpu_capability": "AVX2", "torch": "2.13"},
        "metrics": ["psnr", "ms_ssim", "st_lpips_vgg", "class_agreement_lite0"],
        "set_metrics": ["frechet_lite0"],
        "settings": list(SETTINGS),
        "codecs": ["onedc", "jpeg", "avif"],
        "rows": rows,
        "sets": [
            {"setting": s, "codec": c, "pictures": 2, "frechet_lite0": 0.5 - RATES[s]}
            for s in SETTINGS
            for c in ("onedc", "jpeg", "avif")
        ],
        "failed": {},
    }


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(make_results()))
    Image.new("RGB", (20, 10)).save(folder / "crops.webp")
    return folder


@pytest.fixture
def page_of(tmp_path, monkeypatch):
    """Writes a page without its BD-rates, which take long, and gives its text."""
    monkeypatch.setattr(page, "_bd_rates", lambda results: "")

    def write(results, contact=()):
        page.write_page(tmp_path, results, tmp_path / "p.md", None, contact)
        return (tmp_path / "p.md").read_text()

    return write


# --- BD-rate ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [0.5, 0.9, 2.0])
@pytest.mark.parametrize("metric", ["psnr", "st_lpips_vgg"])
def test_a_curve_that_needs_a_constant_share_of_the_bits_has_that_bd_rate(save, metric):
    results = make_results(save)
    found = bd_rate(curve_of(results, metric, "avif"), curve_of(results, metric))
    assert found.percent == pytest.approx(100 * (save - 1), abs=1e-6)
    back = bd_rate(curve_of(results, metric), curve_of(results, metric, "avif"))
    assert back.percent == pytest.approx(100 * (1 / save - 1), abs=1e-6)


def test_models_of_one_name_are_told_apart_by_their_weights():
    one, other = make_results(), make_results()
    one["model"]["weights"], other["model"]["weights"] = "aaaaaaaaa", "bbbbbbbbb"
    curves = [curve_of(results, "psnr") for results in (one, other)]
    titles = [curve.title for curve in told_apart(curves, [one, other])]
    assert titles == [f"{curves[0].title}, weights aaaaaa", f"{curves[0].title}, weights bbbbbb"]
    assert told_apart(curves[:1], [one]) == curves[:1]
    jpeg = curve_of(one, "psnr", "jpeg")
    assert told_apart([curves[0], jpeg], [one, one]) == [curves[0], jpeg]


def test_a_run_may_be_named_by_its_folder(tmp_path):
    from onedc_hf.cli.bd_rate import read_results

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps(make_results()))
    for text, codec in (("run", "onedc"), ("run:jpeg", "jpeg"), ("run/results.json:jpeg", "jpeg")):
        assert read_results(str(tmp_path / text)) == (make_results(), codec)


def test_the_overlap_is_what_both_cover():
    results = make_results(0.5)
    found = bd_rate(curve_of(results, "psnr", "avif"), curve_of(results, "psnr"))
    assert (found.low, found.high) == pytest.approx((quality(0.006), quality(0.3)))
    assert found.overlap == pytest.approx((quality(0.3) - quality(0.006)) / (quality(0.6) - quality(0.003)))


def test_the_same_curve_differs_by_nothing():
    curve = curve_of(make_results(), "ms_ssim")
    found = bd_rate(curve, curve)
    assert found.percent == pytest.approx(0, abs=1e-9) and found.overlap == 1


def test_curves_that_share_no_quality_are_refused_with_both_ranges():
    low = Curve("low", "psnr", ((0.1, 20.0), (0.2, 22.0)))
    high = Curve("high", "psnr", ((0.1, 30.0), (0.2, 33.0)))
    with pytest.raises(OneDCError, match=r"share no quality \(low 20 to 22; high 30 to 33\)"):
        bd_rate(low, high)


def test_a_curve_that_is_not_monotone_or_a_point_is_refused():
    good = Curve("good", "psnr", ((0.1, 20.0), (0.2, 22.0)))
    with pytest.raises(OneDCError, match=r"bad does not get better in psnr from 0\.1000 to 0\.2000 bpp"):
        bd_rate(good, Curve("bad", "psnr", ((0.1, 22.0), (0.2, 21.0))))
    with pytest.raises(OneDCError, match="has 1 point"):
        bd_rate(good, Curve("point", "psnr", ((0.1, 22.0),)))


def test_a_codec_at_its_floor_is_one_point():
    assert curve_of(make_results(), "psnr", "jpeg").points == ((1.0, 60.0),)


def test_points_of_almost_the_same_rate_are_one():
    results = make_results()
    for row in results["rows"]:
        if (row["codec"], row["setting"]) == ("avif", "0.03"):  # another quality, whose file is as large
            row |= {"bpp": RATES["z-only"] * 1.0005, "psnr": quality(RATES["z-only"]) - 0.01}
    points = curve_of(results, "psnr", "avif").points
    assert [rate for rate, _ in points] == [0.003, 0.1, 0.3]
    assert points[0][1] == pytest.approx(quality(0.003) - 0.005)
    assert bd_rate(curve_of(results, "psnr", "avif"), curve_of(results, "psnr")).percent < 0


def test_an_interval_covers_what_the_pictures_say_and_is_none_where_they_say_little():
    results = make_results(0.5)
    for row in results["rows"]:
        if row["picture"] == "b.png" and row["codec"] == "onedc":
            row["psnr"] = quality(row["bpp"] / 0.8)  # there it saves less
    low, high = bd_rate_interval(results, "psnr", "avif")
    figure = bd_rate(curve_of(results, "psnr", "avif"), curve_of(results, "psnr")).percent
    assert (low, high) == (pytest.approx(-50, abs=0.01), pytest.approx(-20, abs=0.01)) and low < figure < high
    for row in results["rows"]:
        if (row["picture"], row["codec"], row["setting"]) == ("b.png", "onedc", "0.3"):
            row["psnr"] = 0.0  # draws with this picture twice have a curve that falls
    assert bd_rate_interval(results, "psnr", "avif") is None
    with pytest.raises(OneDCError, match="single pictures"):
        bd_rate_interval(results, "frechet_lite0", "avif")


def test_unknown_codecs_metrics_and_missing_values_are_named():
    results = make_results()
    with pytest.raises(OneDCError, match="they hold avif, jpeg, onedc"):
        curve_of(results, "psnr", "webp")
    with pytest.raises(OneDCError, match="beauty"):
        curve_of(results, "beauty")
    with pytest.raises(OneDCError, match="lack ssimulacra2"):
        curve_of(results, "ssimulacra2")


def test_the_command_says_the_figure_and_its_range(tmp_path, run_folder, capsys):
    path = run_folder / "results.json"
    assert main(["bd-rate", f"{path}:avif", str(path), "--metric", "psnr"]) == 0
    assert (
        "OneDC (box) against AVIF: -50.0 % bits at equal PSNR (dB), over 18.89 to 27.39 (74 %"
        in capsys.readouterr().out
    )
    other = make_results()
    for row in other["rows"]:
        row["sha256"] += "x"
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert main(["bd-rate", str(path), str(tmp_path / "other.json"), "--metric", "psnr"]) == 1
    assert "different pictures" in capsys.readouterr().err
    assert main(["bd-rate", str(path), str(tmp_path / "none.json"), "--metric", "psnr"]) == 1
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "list.json").write_text('{"shopping": ["milk"]}')
    assert main(["bd-rate", str(path), str(tmp_path / "list.json"), "--metric", "psnr"]) == 1
    assert "no result file" in capsys.readouterr().err


# --- published points -------------------------------------------------------------------------------------------------


def test_published_points_come_with_their_sources():
    curves = {curve.codec: curve for curve in published_curves("kodak", "ms_ssim")}
    assert curves["OneDC"].points[0] == (0.0101, 0.685) and curves["OneDC"].status
    assert "LuizScarlet/StableCodec" in published_source(curves["StableCodec"].source)
    assert published_curves("kodak", "st_lpips_vgg") == [] and published_curves("photographs", "psnr") == []
    for curve in curves.values():
        rates = [rate for rate, _ in curve.points]
        assert rates == sorted(rates) and all(0 < value <= 1 for _, value in curve.points)
        assert published_source(curve.source)


def test_the_shipped_results_keep_their_published_points():
    shipped = load_results(Path(__file__).parents[2] / "docs" / "results" / "kodak-box.json")
    for dataset in ({"name": "kodak"}, shipped["dataset"]):  # records of before say no benchmark
        assert comparable_curves(dataset, "ms_ssim") == published_curves("kodak", "ms_ssim")


# --- plots ------------------------------------------------------------------------------------------------------------


def lines_of(svg):
    """Marker and dash of each drawn line, by its legend's order."""
    return re.findall(r"stroke-dasharray: ([\d. ,]+)", svg)


def test_a_plot_has_a_panel_for_each_metric_and_tells_codecs_apart_without_colour(tmp_path, run_folder, capsys):
    out = tmp_path / "curves.svg"
    command = ["plot", str(run_folder / "results.json"), "-o", str(out), "--published", "OneDC"]
    assert main(command) == 0
    text = out.read_text()
    ET.fromstring(text)
    for label in ("PSNR (dB) (higher is better)", "Fréchet, Lite0 (lower is better)", "OneDC (box)", "AVIF"):
        assert f">{label}<" in text
    assert ">OneDC (published, source not refound)<" in text and "onedc-earlier" in capsys.readouterr().out
    assert len(set(lines_of(text))) >= 2  # JPEG's and AVIF's dashes; OneDC's line is solid
    assert main(command) == 0 and out.read_text() == text  # the same file every time


def test_a_plot_of_what_is_not_there_is_an_error(tmp_path, run_folder, capsys):
    path = str(run_folder / "results.json")
    assert main(["plot", path, "-o", str(tmp_path / "a.svg"), "--metrics", "ssimulacra2"]) == 1
    assert "ssimulacra2" in capsys.readouterr().err and not (tmp_path / "a.svg").exists()
    assert main(["plot", path, "-o", str(tmp_path / "a.bmp")]) == 1
    assert ".svg" in capsys.readouterr().err


def test_results_of_different_pictures_are_not_drawn_in_one_panel(tmp_path, run_folder, capsys):
    other = make_results(name="mine")
    (tmp_path / "mine.json").write_text(json.dumps(other))
    command = ["plot", str(run_folder / "results.json"), str(tmp_path / "mine.json"), "-o", str(tmp_path / "a.svg")]
    assert main(command) == 0
    (tmp_path / "a.svg").unlink()
    for row in other["rows"]:
        row["sha256"] += "x"
    (tmp_path / "mine.json").write_text(json.dumps(other))
    assert main(command) == 1
    assert "different pictures" in capsys.readouterr().err and not (tmp_path / "a.svg").exists()


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"limited": True, "limit": 2, "benchmark": "kodak"}, "of the whole set"),
        ({"benchmark": None}, "only called so; measure with --dataset kodak --data-dir FOLDER"),
        ({"benchmark": None, "name": "mine"}, "nobody published points of OneDC for mine"),
    ],
)
def test_published_points_are_those_of_a_whole_benchmark_that_was_checked(
    run_folder, capsys, page_of, dataset, message
):
    results = make_results()
    results["dataset"] |= dataset
    (run_folder / "results.json").write_text(json.dumps(results))
    command = ["plot", str(run_folder / "results.json"), "-o", str(run_folder / "a.svg"), "--published", "OneDC"]
    assert main(command) == 1
    assert message in capsys.readouterr().err
    assert "published" not in page_of(results)


# --- pages ------------------------------------------------------------------------------------------------------------


def test_a_page_shows_table_curves_crops_bd_rates_and_costs(tmp_path, run_folder, monkeypatch, capsys):
    cost = {"width": 768, "height": 512, "device": "cpu", "threads": 2, "dtype": "float32", "cpu_capability": "AVX2",
            "encode_s": 0.18, "decode_s": 0.28, "peak_mib": 636.4, "repeats": 7}  # fmt: skip
    monkeypatch.setattr("onedc_hf.evaluation.cost.measure_cost", lambda model, **options: cost)
    target = tmp_path / "docs" / "box.md"
    assert main(["report", str(run_folder), "--page", str(target), "--cost"]) == 0
    text = target.read_text()
    assert "# The model in the box on Kodak" in text and "| 0.1 | **OneDC** | 10,000 | 0.1000 |" in text
    assert "| PSNR (dB) | none | -50 % (-50 to -50; 74%) |" in text  # JPEG has one point
    assert "| 768x512 | cpu (AVX2) | 2 | float32 | 0.18 s | 0.28 s | 636 MiB |" in text
    assert "--rates 0.03 0.1 0.3" in text and "published" in text.lower()
    for link in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (target.parent / link).stat().st_size > 0
    assert len(re.findall(r"\]\(figures/", text)) == 3
    assert str(target) in capsys.readouterr().out
    assert str(tmp_path) not in text


def test_contact_sheets_show_every_picture_in_real_pixels(tmp_path, run_folder, capsys):
    results = make_results()
    sizes = {"a.png": (60, 40), "b.png": (40, 60)}
    for row in results["rows"]:
        if row["codec"] == "onedc":
            row["file"] = f"files/{row['setting']}/{row['picture']}.odc"
            shown = (run_folder / row["file"]).with_suffix(".png")
            shown.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", sizes[row["picture"]], "red" if row["setting"] == "0.1" else "blue").save(shown)
    (run_folder / "results.json").write_text(json.dumps(results))
    target = tmp_path / "docs" / "box.md"
    command = ["report", str(run_folder), "--page", str(target), "--contact-sheets"]
    assert main([*command, "0.1", "0.3"]) == 0
    found = re.findall(r"\[(0\.\d bpp)\]\((figures/[^)]+)\)", target.read_text())
    assert [name for name, _ in found] == ["0.1 bpp", "0.3 bpp"]
    sheet = np.asarray(Image.open(target.parent / found[0][1]).convert("RGB")).astype(int)
    red = (sheet[..., 0] > 150) & (sheet[..., 2] < 100)
    assert red.sum() == pytest.approx(2 * 60 * 40, rel=0.05)
    assert main([*command, "0.5"]) == 1
    assert "0.5" in capsys.readouterr().err
    next((run_folder / "files" / "0.1").glob("*.png")).unlink()
    assert main([*command, "0.1"]) == 1
    assert "gone" in capsys.readouterr().err
    assert main(["report", str(run_folder), "--readme", "x", "--contact-sheets", "0.1"]) == 2


@pytest.mark.parametrize("codec", ["onedc", "jpeg"])
def test_a_picture_of_a_run_that_is_gone_is_named(tmp_path, codec):
    with pytest.raises(OneDCError, match=r"gone\.(png|jpg).*run `onedc evaluate` again.*delete"):
        rebuilt_picture(tmp_path, {"codec": codec, "file": f"gone.{'odc' if codec == 'onedc' else 'jpg'}"})


def test_every_codec_has_a_line_of_its_own():
    styles = [*plots._OURS, *plots._OTHERS.values(), plots._LEARNED]
    assert set(plots._OTHERS) == set(CODECS)
    assert len({marker for _, marker, _ in styles}) == len({str(dashes) for *_, dashes in plots._OTHERS.values()}) + 4
    assert len({marker for _, marker, _ in styles}) == len(styles)


def test_a_page_without_crops_or_costs_leaves_them_out(tmp_path):
    page.write_page(tmp_path, make_results(name="org/mine"), tmp_path / "mine.md", None)
    text = (tmp_path / "mine.md").read_text()
    assert text.startswith("# org/mine on Kodak") and "Seconds" not in text and "equal bytes" not in text
    assert "--model org/mine" in text


def test_a_page_shows_published_points_in_the_metrics_that_every_picture_has(page_of, monkeypatch):
    results = make_results()
    results["dataset"] |= {"name": "clic2020", "benchmark": "clic2020"}
    results["set_metrics"].append("fid")
    for record in results["sets"]:
        record["fid"] = 10.0
    results["rows"][0]["ms_ssim"] = None
    drawn = []
    monkeypatch.setattr(page, "rate_plot", lambda *_, metrics=(), **__: drawn.append(list(metrics)) or [])
    page_of(results)
    assert "fid" in drawn[1] and "ms_ssim" not in drawn[1]


def test_the_command_on_a_page_measures_the_same_pictures_at_the_same_rates(page_of):
    results = make_results() | {"settings": ["z-only", "1e-05", "0.03", "10"]}
    results["dataset"]["benchmark"] = None
    assert "--dataset ./kodak --rates 1e-05 0.03 10 " in page_of(results)  # a folder called so
    results["dataset"]["benchmark"] = "kodak"
    assert "--dataset kodak --rates" in page_of(results)


def test_links_of_a_page_lead_to_its_figures_whatever_the_folder_is_called(tmp_path, page_of):
    results = make_results()
    results["dataset"] |= {"name": "my photos (2)"}
    (link,) = re.findall(r"\]\((figures/[^)]+)\)", page_of(results))
    assert " " not in link and (tmp_path / unquote(link)).is_file()


def test_a_models_own_rate_is_not_called_bpp(page_of, monkeypatch):
    monkeypatch.setattr(page, "contact_sheet", lambda *_: Image.new("RGB", (8, 8)))
    results = json.loads(json.dumps(make_results()).replace('"0.1"', '"own rate"'))
    results |= {"settings": ["z-only", "own rate"]}
    results["rows"] = [row for row in results["rows"] if row["setting"] in results["settings"]]
    results["sets"] = [record for record in results["sets"] if record["setting"] in results["settings"]]
    text = page_of(results, ["own rate"])
    assert "[own rate](figures/kodak-p-all-own-rate.webp)" in text and "--rates" not in text


def test_the_readme_gets_a_part_of_the_table(tmp_path, run_folder):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    options = ["--readme", str(readme), "--settings", "0.1", "--metrics", "psnr"]
    assert main(["report", str(run_folder), *options]) == 0
    text = readme.read_text()
    assert "| 0.1 | **OneDC** |" in text and "z-only |" not in text and "MS-SSIM" not in text


def test_a_report_of_nothing_is_a_usage_error(run_folder, capsys):
    assert main(["report", str(run_folder)]) == 2
    assert main(["report", str(run_folder), "--benchmark", "org/kodak"]) == 2
    assert "--benchmark needs --model-folder" in capsys.readouterr().err


def test_the_cost_of_another_model_is_not_shown_as_its_own(tmp_path, run_folder, capsys):
    (run_folder / "results.json").write_text(json.dumps(make_results(name="org/mine")))
    assert main(["report", str(run_folder), "--page", str(tmp_path / "p.md"), "--cost"]) == 2
    assert "--cost needs --model" in capsys.readouterr().err


def test_what_is_not_in_the_results_cannot_be_shown(tmp_path, run_folder, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    assert main(["report", str(run_folder), "--readme", str(readme), "--settings", "0.10"]) == 1
    assert "no settings 0.10; they have z-only" in capsys.readouterr().err and readme.read_text() == f"{BEGIN}\n{END}\n"


def test_a_metric_without_a_value_on_some_picture_has_no_panel(tmp_path, run_folder, capsys):
    results = make_results()
    results["rows"][0]["ms_ssim"] = None
    (run_folder / "results.json").write_text(json.dumps(results))
    assert main(["plot", str(run_folder / "results.json"), "-o", str(tmp_path / "a.svg")]) == 0
    assert "MS-SSIM" not in (tmp_path / "a.svg").read_text()
    assert main(["bd-rate", *[str(run_folder / "results.json")] * 2, "--metric", "ms_ssim"]) == 1
    assert "no value on some picture" in capsys.readouterr().err
    assert main(["plot", str(run_folder / "results.json"), "-o", str(tmp_path / "a.svg"), "--published", "Nobody"]) == 1
    assert "Nobody" in capsys.readouterr().err


# --- entries for a model's page ---------------------------------------------------------------------------------------


def test_tasks_are_better_when_higher_and_have_the_values_of_the_results():
    values, missing = task_values(make_results(0.5))
    assert values["bits_saved_psnr"] == pytest.approx(50) and values["bits_saved_st_lpips_vgg"] == pytest.approx(50)
    assert values["ms_ssim_at_0.1_bpp"] == pytest.approx(quality(0.2) / 60, abs=1e-4)
    assert missing == {} and values.keys() == TASKS.keys()
    worse, _ = task_values(make_results(0.8))
    assert all(worse[task] <= values[task] for task in values)


def test_eval_results_survive_the_round_trip(tmp_path, run_folder, capsys):
    model = tmp_path / "model"
    model.mkdir()
    ModelCard("---\nlicense: mit\n---\n# Mine\n").save(model / "README.md")
    assert main(["report", str(run_folder), "--benchmark", "org/kodak", "--model-folder", str(model)]) == 0
    path = model / ".eval_results" / "kodak.yaml"
    entries = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    values, _ = task_values(make_results())
    assert {entry.task_id: entry.value for entry in entries} == values
    assert {entry.dataset_id for entry in entries} == {"org/kodak"} and "beef" in entries[0].notes
    assert str(path) in capsys.readouterr().out
    card = ModelCard.load(model / "README.md")
    assert card.data.license == "mit" and "# Mine" in card.text and len(card.data.eval_results) == len(SETTINGS) * 5
    assert main(["report", str(run_folder), "--model-folder", str(tmp_path / "none")]) == 1
    assert "no README.md" in capsys.readouterr().err


def test_results_of_another_model_do_not_get_into_a_card(tmp_path, run_folder, capsys):
    (tmp_path / "codec").mkdir()
    ModelCard("# Mine\n").save(tmp_path / "README.md")
    for stated, path, code in (("cd" * 32, "exact", 1), ("ab" * 32, "exact", 0), ("cd" * 32, "float", 0)):
        (tmp_path / "codec" / "config.json").write_text(json.dumps({"model_id": stated, "entropy_path": path}))
        assert main(["report", str(run_folder), "--model-folder", str(tmp_path)]) == code
    said = capsys.readouterr().err
    assert "of the model abababab" in said and "holds cdcdcdcd" in said


def test_results_with_an_adapter_say_so_and_do_not_get_into_a_card(tmp_path, run_folder, capsys):
    results = make_results() | {"options": ["--lora", "my grain", "--data-dir", "kodak"]}
    results["model"]["adapter"] = "cd" * 32
    results["dataset"] |= {"limited": True, "limit": 3, "pictures": 2}
    page.write_page(tmp_path, results, tmp_path / "p.md", None)
    text = (tmp_path / "p.md").read_text()
    assert text.startswith("# The model in the box with an adapter on Kodak")
    assert "--limit 3 --lora 'my grain' --data-dir kodak" in text  # one of three failed
    (run_folder / "results.json").write_text(json.dumps(results))
    model = tmp_path / "model"
    (model / "codec").mkdir(parents=True)
    (model / "codec" / "config.json").write_text(json.dumps({"model_id": "ab" * 32, "entropy_path": "exact"}))
    ModelCard("---\nlicense: mit\n---\n# Mine\n").save(model / "README.md")
    assert main(["report", str(run_folder), "--model-folder", str(model)]) == 1
    assert "adapter" in capsys.readouterr().err and "model-index" not in (model / "README.md").read_text()


def test_results_of_refined_files_say_so_in_a_card(run_folder):
    results = make_results()
    assert "effort" not in model_index(results)[0].dataset_name
    results["model"]["effort"] = 7
    assert all(entry.dataset_name.endswith(", refined with effort 7") for entry in model_index(results))


def test_results_without_any_task_are_refused(tmp_path):
    results = make_results()
    results["rows"] = [row for row in results["rows"] if row["codec"] == "onedc" and row["setting"] == "z-only"]
    with pytest.raises(OneDCError, match="no value for any task"):
        write_eval_results(results, "org/kodak", tmp_path)
    results = make_results()
    results["dataset"]["limited"] = True
    with pytest.raises(OneDCError, match="part of the pictures"):
        write_eval_results(results, "org/kodak", tmp_path)


@pytest.mark.parametrize(
    ("dataset", "benchmark", "is_it"),
    [
        ({"name": "kodak", "benchmark": "kodak"}, "org/kodak", True),
        ({"name": "org/kodak", "benchmark": None}, "org/kodak", True),
        ({"name": "kodak", "benchmark": None}, "org/kodak", False),  # a folder called so
        ({"name": "holiday", "benchmark": None}, "org/kodak", False),
        ({"name": "other/kodak", "benchmark": None}, "org/kodak", False),
        ({"name": "kodak", "benchmark": "kodak"}, "org/clic2020", False),
    ],
)
def test_a_benchmarks_entries_are_of_its_pictures(tmp_path, dataset, benchmark, is_it):
    results = make_results()
    results["dataset"] |= dataset
    if is_it:
        assert write_eval_results(results, benchmark, tmp_path).is_file()
        return
    with pytest.raises(OneDCError, match=f"not known to be {benchmark}: measure with .* --dataset {benchmark}"):
        write_eval_results(results, benchmark, tmp_path)
    assert not (tmp_path / ".eval_results").exists()


def test_what_a_benchmark_refuses_leaves_the_card_as_it_was(tmp_path, run_folder, capsys):
    results = make_results() | {"failed": {"c.png": "damaged"}}
    (run_folder / "results.json").write_text(json.dumps(results))
    ModelCard("---\nlicense: mit\n---\n# Mine\n").save(tmp_path / "README.md")
    before = (tmp_path / "README.md").read_text()
    command = ["report", str(run_folder), "--model-folder", str(tmp_path)]
    assert main([*command, "--benchmark", "org/kodak"]) == 1
    assert "part of the pictures" in capsys.readouterr().err and (tmp_path / "README.md").read_text() == before
    assert main(command) == 0
    found = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert {result.dataset_name for result in found} == {"Kodak, 2 of 3 pictures"}


def test_the_model_index_survives_the_round_trip(tmp_path):
    found = model_index(make_results())
    card = ModelCard.from_template(
        ModelCardData(license="apache-2.0", model_name="box", eval_results=found),
        template_str="---\n{{ card_data }}\n---\n",
    )
    card.save(tmp_path / "README.md")
    back = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert {(e.metric_type, e.metric_args["bpp"], e.metric_value) for e in back} == {
        (e.metric_type, e.metric_args["bpp"], e.metric_value) for e in found
    }
    assert len(found) == len(SETTINGS) * 5 and {e.dataset_type for e in back} == {"kodak"}
