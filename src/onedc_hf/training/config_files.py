"""Configs of training runs and models: those of the package, JSON files, and files on the Hub."""

from __future__ import annotations

import dataclasses
import json
import logging
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from .config import TrainConfig

__all__ = ["load_config", "model_settings", "package_file"]

logger = logging.getLogger(__name__)

# Whoever wrote a file on the Hub does not say what of this machine is read, where it is published, and by whose token.
_OURS_TO_SAY = (
    "cache_dir",
    "hub_license",
    "hub_model_id",
    "hub_private_repo",
    "hub_token",
    "logging_dir",
    "output_dir",
    "push_to_hub",
    "report_to",
    "resume_from_checkpoint",
    "tracker_project_name",
    "train_data_dir",
    "validation_images",
)


def package_file(name: str) -> Path | None:
    """Path of a file among the package's configs, or None."""
    path = Path(str(resources.files(__package__) / "configs" / name))
    return path if path.is_file() else None


def _hub_file(name: str) -> Path | None:
    """A file of a Hub repository, named `org/repo/path/in/repo.json`; None if the name is not of that kind."""
    parts = name.split("/", 2)
    if len(parts) < 3 or not name.endswith(".json"):
        return None
    try:
        return Path(hf_hub_download("/".join(parts[:2]), parts[2]))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise ValueError(f"No config {name!r} on the Hub: {error}") from error


def load_config(name: str, overrides: dict[str, Any]) -> TrainConfig:
    """Reads a config and applies overrides.

    Args:
        name (`str`): of a config of the package (`box-stage1`), a JSON file, or `org/repo/path.json` on the Hub. Of the
            last, settings that say what is read here and where it is published are not taken, with a warning.
        overrides (`dict`): settings that go before the config's.

    Raises:
        ValueError: for an unknown name, a file that is no config, or a setting that is unknown or of another kind,
            naming it.
    """
    path = package_file(f"{name}.json") or (Path(name) if Path(name).is_file() else _hub_file(name))
    if path is None:
        known = sorted(p.stem for p in Path(str(resources.files(__package__) / "configs")).glob("*stage*.json"))
        raise ValueError(f"No config {name!r}: neither a file nor one of {', '.join(known)}.")
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path.name} must hold one JSON object, of settings by name; it holds a {_kind(read)}.")
    kinds = get_type_hints(TrainConfig)
    if not package_file(f"{name}.json") and not Path(name).is_file():
        read = _without_ours(read, overrides, name)
    values = read | overrides
    if unknown := set(values) - set(kinds):
        raise ValueError(f"{path.name}: unknown settings {', '.join(sorted(unknown))}.")
    for setting, value in values.items():
        if not _is_of(value, kinds[setting]):
            where = "" if setting in overrides else f"{path.name}: "
            raise ValueError(f"{where}`{setting}` must be {_words(kinds[setting])}; got {value!r}.")
    if overrides.get("max_train_steps"):
        values["num_train_epochs"] = 0
    return TrainConfig(**values)


def _without_ours(read: dict[str, Any], overrides: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of a file on the Hub but for those that are not its writer's to choose."""
    usual = {field.name: field for field in dataclasses.fields(TrainConfig)}
    left_out = [
        setting
        for setting in _OURS_TO_SAY
        if setting in read and setting not in overrides and read[setting] != _default(usual[setting])
    ]
    if left_out:
        logger.warning(
            "%s is a file on the Hub, which does not say what is read on this machine, and where it is published. Not "
            "taken from it: %s. Give them yourself if you want them.",
            name,
            ", ".join(left_out),
        )
    return {setting: value for setting, value in read.items() if setting not in _OURS_TO_SAY}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "an object"}


def _words(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"a list, each of it {_words(get_args(kind)[0])}"
    return _WORDS[get_origin(kind) or kind]


def _kind(value: Any) -> str:
    return {list: "list", str: "text", type(None): "null"}.get(type(value), "number")


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a field's kind: a whole number is a number, and true is none."""
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_of(one, get_args(kind)[0]) for one in value)
    if kind is float:
        kind = (int, float)
    elif get_origin(kind) is dict:
        kind = dict
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def model_settings(name: str) -> dict[str, dict[str, Any]]:
    """Configs of codec, generator, vae and scheduler of a model named in the package, or in a JSON file."""
    path = package_file(f"{name}.json") or Path(name)
    if not path.is_file():
        raise ValueError(f"No model config {name!r}: neither a file nor among the package's configs.")
    return json.loads(path.read_text(encoding="utf-8"))
