"""Configs that are none, or hold what no run can mean, are refused with the file's and the setting's name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from onedc_hf.training import cli, config_files
from onedc_hf.training.config import TrainConfig
from onedc_hf.training.config_files import load_config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{not json", r"mine\.json is no JSON: .*line 1"),
        ("[1]", r"mine\.json must hold one JSON object, .* it holds a list"),
        ("null", r"it holds a null"),
        ('{"no_such": 1}', r"mine\.json: unknown settings no_such"),
        ('{"train_batch_size": "8"}', r"mine\.json: `train_batch_size` must be a whole number; got '8'"),
        ('{"train_batch_size": 8.5}', "must be a whole number"),
        ('{"train_batch_size": true}', "must be a whole number"),
        ('{"learning_rate": "1e-4"}', "`learning_rate` must be a number"),
        ('{"streaming": 1}', "`streaming` must be true or false"),
        ('{"exclude": null}', "`exclude` must be a list, each of it a text; got None"),
        ('{"exclude": "names.txt"}', "`exclude` must be a list"),
        ('{"validation_bpp": [0.1, "0.2"]}', "`validation_bpp` must be a list, each of it a number"),
        ('{"predictor": []}', "`predictor` must be an object"),
        ('{"output_dir": 3}', "`output_dir` must be a text"),
    ],
)
def test_a_file_that_is_no_config_is_named(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        load_config(str(tmp_path / "mine.json"), {"train_data_dir": "photos"})
    assert cli.main(["--config", str(tmp_path / "mine.json"), "--train_data_dir", "photos"]) == 2
    assert capsys.readouterr().err.startswith("onedc train: ")


def test_every_default_is_of_its_own_kind_and_whole_numbers_are_numbers(tmp_path: Path) -> None:
    settings = dataclasses.asdict(TrainConfig(train_data_dir="photos")) | {"learning_rate": 1, "predictor": {"a": 1}}
    (tmp_path / "all.json").write_text(json.dumps(settings))
    assert load_config(str(tmp_path / "all.json"), {}) == TrainConfig(**settings)


def test_a_file_on_the_hub_does_not_say_what_is_read_here_and_where_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    strangers = {
        "learning_rate": 0.5,
        "push_to_hub": True,
        "hub_model_id": "bob/loot",
        "hub_token": "hf_bob",
        "validation_images": ["/home/alice/private"],
        "train_data_dir": "/home/alice/private",
        "output_dir": "/home/alice",
        "report_to": ["wandb"],
        "logging_dir": TrainConfig(train_data_dir="a").logging_dir,
    }
    (tmp_path / "good.json").write_text(json.dumps(strangers))
    monkeypatch.setattr(config_files, "hf_hub_download", lambda *_: str(tmp_path / "good.json"))
    config = load_config("bob/configs/good.json", {"train_data_dir": "mine", "output_dir": "out"})
    assert config == TrainConfig(train_data_dir="mine", output_dir="out", learning_rate=0.5)
    assert "Not taken from it: hub_model_id, hub_token, push_to_hub, report_to, validation_images." in caplog.text
    kept = load_config(str(tmp_path / "good.json"), {})  # one's own file says all it wants
    assert (kept.hub_model_id, kept.train_data_dir) == ("bob/loot", "/home/alice/private")


def test_a_setting_given_beside_a_file_is_not_said_to_be_in_it() -> None:
    with pytest.raises(ValueError, match="^`resolution` must be a whole number"):
        load_config("box-stage1", {"train_data_dir": "photos", "resolution": "big"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ema_decay", 1.5),
        ("ema_decay", -0.1),
        ("validation_bpp", [0.1, 0.0]),
        ("validation_steps", -1),
        ("max_train_samples", -5),
        ("num_threads", -1),
    ],
)
def test_values_without_sense_are_refused_before_the_first_step(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        TrainConfig(train_data_dir="photos", **{name: value})
