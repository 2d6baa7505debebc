"""Named sets of pictures: records, the check, and repositories made of folders."""

import dataclasses
import hashlib

import numpy as np
import pytest
import yaml
from PIL import Image

from onedc_hf.cli.main import main
from onedc_hf.errors import PictureError
from onedc_hf.evaluation import benchmarks as module
from onedc_hf.evaluation.benchmark_repo import _card_data, make_benchmark_repo
from onedc_hf.evaluation.benchmarks import benchmarks, check_pictures
from onedc_hf.evaluation.model_page import TASKS
from onedc_hf.evaluation.originals import Original, open_source


@pytest.fixture
def folder(tmp_path, picture):
    (tmp_path / "set").mkdir()
    for index in range(4):
        Image.fromarray(picture(40 + index, 48, seed=index)).save(tmp_path / "set" / f"p{index}.png")
    return tmp_path / "set"


@pytest.fixture
def four(folder, monkeypatch):
    """A record of those four pictures, known by the name `four`."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    record = dataclasses.replace(benchmarks()["kodak"], name="four", title="Four", pictures=4, sha256=digests)
    monkeypatch.setattr(module, "benchmarks", lambda: {"four": record})
    monkeypatch.setattr("onedc_hf.evaluation.originals.benchmarks", lambda: {"four": record})
    monkeypatch.setattr("onedc_hf.evaluation.benchmark_repo.benchmarks", lambda: {"four": record})
    return record


def test_the_records_are_those_of_the_field():
    known = benchmarks()
    assert {name: record.pictures for name, record in known.items()} == {
        "kodak": 24, "clic2020": 428, "div2k": 100, "tecnick": 100,
    }  # fmt: skip
    assert len(known["kodak"].sha256) == 24 and all(len(digest) == 64 for digest in known["kodak"].sha256.values())


def test_a_complete_set_passes_and_is_counted_off_afterwards(four, folder):
    source = open_source("four", data_dir=str(folder), limit=2)
    assert [original.name for original in source.pictures] == [
        "p0.png",
        "p1.png",
    ] and source.title == "Four, first 2 pictures"


def test_a_missing_a_changed_and_an_added_picture_stop_the_run(four, folder):
    Image.new("RGB", (8, 8)).save(folder / "extra.png")
    with pytest.raises(PictureError, match=r"not of this set: extra\.png"):
        open_source("four", data_dir=str(folder))
    (folder / "extra.png").unlink()
    data = (folder / "p2.png").read_bytes()
    Image.open(folder / "p2.png").save(folder / "p2.png", compress_level=0)  # the same pixels, another file
    with pytest.raises(PictureError, match=r"missing: p2\.png; not of this set: p2\.png"):
        open_source("four", data_dir=str(folder))
    (folder / "p2.png").unlink()
    with pytest.raises(PictureError, match=r"missing: p2\.png"):
        open_source("four", data_dir=str(folder))
    (folder / "p2.png").write_bytes(data)
    assert len(open_source("four", data_dir=str(folder)).pictures) == 4


def test_a_picture_that_is_there_twice_is_noticed(four, folder):
    pictures = [Original(path.name, path.read_bytes) for path in sorted(folder.iterdir())]
    with pytest.raises(PictureError, match="expected 4 pictures, found 5"):
        check_pictures(four, [*pictures, pictures[0]])


def test_without_hashes_the_number_counts(folder):
    pictures = [Original(path.name, path.read_bytes) for path in sorted(folder.iterdir())]
    with pytest.raises(PictureError, match=r"expected 100 pictures, found 4; .*testimages"):
        check_pictures(benchmarks()["tecnick"], pictures)


def test_a_benchmark_without_a_copy_on_the_hub_says_where_to_get_it():
    with pytest.raises(PictureError, match=r"DIV2K.*--data-dir"):
        open_source("div2k")
    for name in ("div2k", "kodak"):  # a misspelt folder is not looked for on the Hub
        with pytest.raises(PictureError, match="no such folder"):
            open_source(name, data_dir="nowhere")


def test_a_repository_is_ready_to_push(four, folder, tmp_path, capsys):
    out = tmp_path / "repo"
    assert main(["benchmark-repo", "four", str(folder), "--out", str(out)]) == 0
    assert "hf upload ORG/four" in capsys.readouterr().out
    tasks = yaml.safe_load((out / "eval.yaml").read_text())
    assert [task["id"] for task in tasks["tasks"]] == list(TASKS) and {"name", "evaluation_framework"} <= tasks.keys()
    card = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    assert card["configs"][0]["data_files"][0]["split"] == "test" and card["pretty_name"] == "Four"
    assert card["license"] == "other" and card["license_name"] == "released-by-kodak-for-unrestricted-use"
    source = open_source(str(out))  # as it will be read from the Hub
    assert [o.name for o in source.pictures] == [f"p{i}.png" for i in range(4)]
    for original in source.pictures:
        assert original.read() == (folder / original.name).read_bytes()
        assert np.array_equal(original.pixels(), np.asarray(Image.open(folder / original.name)))
    check_pictures(four, source.pictures)


def test_a_set_of_ones_own_has_a_valid_card_that_claims_no_licence(folder, tmp_path):
    make_benchmark_repo("birds: test", folder, tmp_path / "repo")
    card = yaml.safe_load((tmp_path / "repo" / "README.md").read_text().split("---")[1])
    assert card["pretty_name"] == "birds: test" and not {"license", "license_name"} & card.keys()
    assert card["size_categories"] == ["n<1K"] and card["task_categories"] == ["image-to-image"]


@pytest.mark.parametrize(
    ("pictures", "size"), [(999, "n<1K"), (1_000, "1K<n<10K"), (10_000, "10K<n<100K"), (100_000, "100K<n<1M")]
)
def test_the_card_has_the_size_class_of_the_hub(pictures, size):
    assert _card_data("Some", None, pictures).size_categories == [size]


def test_a_repository_is_made_of_what_it_should_be_or_not_at_all(four, folder, tmp_path, capsys):
    (folder / "p3.png").unlink()
    assert main(["benchmark-repo", "four", str(folder), "--out", str(tmp_path / "repo")]) == 1
    assert "missing: p3.png" in capsys.readouterr().err and not (tmp_path / "repo").exists()
    assert main(["benchmark-repo", "mine", str(folder), "--out", str(folder)]) == 1
    assert "not empty" in capsys.readouterr().err
    (folder / "p0.png").write_bytes(b"broken")
    assert main(["benchmark-repo", "mine", str(folder), "--out", str(tmp_path / "repo")]) == 1
    assert "p0.png" in capsys.readouterr().err and not (tmp_path / "repo").exists()


def test_nothing_is_left_where_writing_fails(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("yaml.safe_dump", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    (tmp_path / "away").mkdir()
    with pytest.raises(OSError, match="disk full"):
        make_benchmark_repo("mine", folder, tmp_path / "away" / "repo")
    assert not list((tmp_path / "away").iterdir())


def test_our_own_files_are_no_originals(folder):
    before = [picture.name for picture in open_source(str(folder)).pictures]
    (folder / "p0.odc").write_bytes(b"\xf1\xdc")  # what `onedc compress` writes beside a picture
    assert [picture.name for picture in open_source(str(folder)).pictures] == before


def test_a_picture_that_arrives_changed_is_noticed(four, folder, tmp_path):
    import pyarrow.parquet as pq

    main(["benchmark-repo", "mine", str(folder), "--out", str(tmp_path / "repo")])
    path = tmp_path / "repo" / "data" / "test-00000-of-00001.parquet"
    table = pq.read_table(path)
    column = table["sha256"].to_pylist()
    column[1] = "0" * 64
    index = table.column_names.index("sha256")
    import pyarrow as pa

    pq.write_table(table.set_column(index, "sha256", pa.array(column)), path)
    with pytest.raises(PictureError, match=r"p1\.png.*not the file"):
        open_source(str(tmp_path / "repo"))


def table_of(tmp_path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "repo" / "data").mkdir(parents=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "repo" / "data" / "x.parquet")
    return open_source(str(tmp_path / "repo")).pictures


def test_a_strangers_table_cannot_name_files_of_this_machine(tmp_path, folder):
    secret, missing = table_of(tmp_path, [{"bytes": None, "path": str(folder / "p0.png")}, None])
    with pytest.raises(PictureError, match=r"p0\.png: the row names a file that does not belong to the data set"):
        secret.read()
    with pytest.raises(PictureError, match="00001: there is no picture in this row"):
        missing.read()


def test_names_from_a_table_are_names(tmp_path, folder):
    data = (folder / "p0.png").read_bytes()
    rows = [
        {"bytes": data, "path": "../../etc/pass\0wd.png"},
        {"bytes": data, "path": "a/p.png"},
        {"bytes": data, "path": "b/p.png"},
    ]
    assert [o.name for o in table_of(tmp_path, rows)] == ["passwd.png", "00001-p.png", "00002-p.png"]


def test_names_from_a_table_do_nothing_to_a_terminal(tmp_path, folder):
    data = (folder / "p0.png").read_bytes()
    rows = [{"bytes": data, "path": "a\x1b[2Jb.png"}, {"bytes": data, "path": "c\u202egnp.exe"}]
    assert [o.name for o in table_of(tmp_path, rows)] == ["a\ufffd[2Jb.png", "c\ufffdgnp.exe"]


def test_no_two_names_from_a_table_are_the_same(tmp_path, folder):
    data = (folder / "p0.png").read_bytes()
    rows = [{"bytes": data, "path": name} for name in ("a.png", "a.png", "00000-a.png")]
    assert [o.name for o in table_of(tmp_path, rows)] == ["00000-00000-a.png", "00001-a.png", "00000-a.png"]


def test_a_folder_with_the_name_of_a_benchmark_is_not_that_benchmark(four, folder):
    called = folder.rename(folder.with_name("four"))
    assert open_source(str(called)).benchmark is None and open_source(str(called)).name == "four"
    assert open_source("four", data_dir=str(called), limit=2).benchmark == "four"


def test_a_column_that_holds_no_pictures_is_an_error(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": [1, 2]}), tmp_path / "data" / "x.parquet")
    with pytest.raises(PictureError, match="'image' holds no pictures"):
        open_source(str(tmp_path))
    with pytest.raises(PictureError, match="no column 'photo'; there are image"):
        open_source(str(tmp_path), image_column="photo")
