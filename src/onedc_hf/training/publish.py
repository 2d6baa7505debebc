"""Publishing a run: the repository is opened before the first step, filled in one commit after the last.

A token that may not write is found at the start, not after hours of work. What is pushed is a pipeline that is ready to
code (exact entropy path), a card with the facts of the training and what validation found, the settings and the log.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import httpx

from ..errors import OneDCError
from ..hub.card import build_card
from ..hub.inherited import inherited_licence, licence_files
from ..hub.push import push_pipeline
from ..lora_file import WEIGHTS_NAME
from ..pipeline import OneDCPipeline
from ..sources import looks_like_path
from .config_files import model_settings
from .validation import ValidationResult

__all__ = [
    "ORIGINS",
    "PublishError",
    "adapter_card",
    "open_repository",
    "origins",
    "public_settings",
    "publish",
    "publish_adapter",
    "read_origins",
    "training_text",
]

_SHEET = "validation.png"
# Settings that say where something lies on the machine of the run.
_PATHS = (
    "cache_dir",
    "dataset_name",
    "discriminators",
    "exclude",
    "init_from",
    "init_lora",
    "logging_dir",
    "model",
    "output_dir",
    "predictor_weights",
    "resume_from_checkpoint",
    "teacher",
    "tokenizer",
    "train_data_dir",
    "validation_images",
    "vgg_weights",
    "lpips_heads",
    "dists_weights",
)
ORIGINS = "made_from.json"  # in a run's folder
_SECRETS = frozenset({"hub_token"})
# Whoever starts from the settings of a published run does not mean to publish over it.
_OF_PUBLISHING = frozenset({"hub_license", "hub_model_id", "hub_private_repo", "push_to_hub", "resume_from_checkpoint"})
# Rows of the card's table, where the run has them.
_SHOWN = (
    "stage",
    "resolution",
    "train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler",
    "mixed_precision",
    "ema_decay",
    "freeze",
    "noise_channels",
    "decoder_layers",
    "head_layers",
    "lambda_low",
    "lambda_high",
    "seed",
)
_SHOWN_OF_LORA = ("rank", "lora_alpha")


class PublishError(OneDCError):
    """A repository that cannot be created or written to."""


def open_repository(hub_model_id: str, output_dir: str | Path, token: str = "", private: bool | None = None) -> str:
    """Creates the repository if there is none, and makes sure that it can be written to.

    Args:
        hub_model_id (`str`): `org/name` or `name`; empty: the name of `output_dir`.
        output_dir (`str` or `Path`): of the run.
        token (`str`, *optional*): by default the one that `hf auth login` or `HF_TOKEN` gave.
        private (`bool`, *optional*): of a new repository; with `True` one that is there must be private, too.

    Returns:
        `str`: its full id, `org/name`.

    Raises:
        PublishError: if it cannot be created or written to, or is public against the wish; the text names the cause.
    """
    wanted = hub_model_id or Path(output_dir).resolve().name
    api = HfApi(token=token or None)
    try:
        repo_id = api.create_repo(wanted, private=private, exist_ok=True).repo_id
        # Whoever may read an existing repository "creates" it without an error. Asking how a file would have to be
        # uploaded needs the right to write, and uploads nothing.
        probe = CommitOperationAdd("train_config.json", b"{}")
        api.preupload_lfs_files(repo_id, additions=[probe])
        public = bool(private) and not api.repo_info(repo_id).private  # creating one that is there leaves it as it is
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, httpx.HTTPError, OSError) as error:
        raise PublishError(
            f"The run cannot be published as {wanted!r}: {error} Check `hub_model_id`, log in with `hf auth login` (or "
            "set HF_TOKEN) with a token that may write there, or leave out `push_to_hub` (`--no-push_to_hub` where the "
            "config has it)."
        ) from error
    if public:
        raise PublishError(
            f"`hub_private_repo`: {repo_id!r} is there already, and everybody can see it. Make it private in its "
            "settings on the Hub, name another as `hub_model_id`, or leave out `hub_private_repo`."
        )
    return repo_id


def publish(
    output: Path,
    repo_id: str,
    settings: Mapping[str, Any],
    step: int,
    validation: ValidationResult | None = None,
    *,
    of: int | None = None,
    token: str = "",
    license: str | None = None,
) -> CommitInfo:
    """Pushes what a run made, in one commit with a filled card. A card that is there is replaced.

    Args:
        output (`Path`): the run's folder, with `pipeline`; `log.jsonl` is taken from it, too.
        repo_id (`str`): from `open_repository`.
        settings (`Mapping[str, Any]`): of the run.
        step (`int`): steps done.
        validation (`ValidationResult`, *optional*): the last one.
        of (`int`, *optional*): steps that were asked for; the card says so where there are fewer.
        token (`str`, *optional*): as for `open_repository`.
        license (`str`, *optional*): of the weights, see `build_card`; nothing is claimed by default.

    Raises:
        PublishError: if the upload fails; everything is still in `output`.
    """
    pipe = OneDCPipeline.from_pretrained(output / "pipeline", dtype=torch.float32)
    if pipe.codec.config.entropy_path == "float":
        pipe.quantize_entropy()  # files of a published model decode everywhere
    shown = public_settings(settings)
    base = _noted_origins(output, settings)
    card = build_card(
        pipe,
        repo_id=repo_id,
        **inherited_licence(output / "pipeline", license),
        base_model=_one_or_all(base),
        datasets=_datasets(settings),
        training=training_text(shown, step, of, base),
        results=None if validation is None else _results(validation),
    )
    with TemporaryDirectory() as temporary, _explained(repo_id, output):
        beside = _facts(output, Path(temporary), shown, validation) | licence_files(output / "pipeline")
        return push_pipeline(
            pipe,
            repo_id,
            card=card,
            commit_message=_commit_message(step, of),
            token=token or None,
            beside=beside,
            replaces=[] if _SHEET in beside else [_SHEET],  # of an earlier run, beside weights that it does not show
        )


def _facts(
    output: Path, written: Path, shown: Mapping[str, Any], validation: ValidationResult | None
) -> dict[str, Path]:
    """Files that say how a run went, by their names in the repository; some are written to the folder `written`."""
    (written / "train_config.json").write_text(json.dumps(shown, indent=2) + "\n", encoding="utf-8")
    facts = {"train_config.json": written / "train_config.json"}
    if validation is not None:
        validation.sheet.save(written / _SHEET)
        facts[_SHEET] = written / _SHEET
    if (output / "log.jsonl").is_file():
        facts["log.jsonl"] = output / "log.jsonl"
    return facts


@contextmanager
def _explained(repo_id: str, output: Path) -> Iterator[None]:
    """Says where everything is if an upload fails."""
    try:
        yield
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:  # ValueError: metadata that the Hub refuses
        raise PublishError(
            f"The run is done, but could not be pushed to {repo_id!r}: {error} Everything is in {str(output)!r}: "
            "run the same command once more with `--resume_from_checkpoint latest` to push it."
        ) from error


def publish_adapter(
    output: Path,
    repo_id: str,
    settings: Mapping[str, Any],
    step: int,
    validation: ValidationResult | None = None,
    *,
    of: int | None = None,
    token: str = "",
    license: str | None = None,
) -> CommitInfo:
    """Pushes a LoRA alone, which `load_lora_weights` reads, in one commit with a filled card.

    Args:
        output (`Path`): the run's folder, with `pytorch_lora_weights.safetensors`.
        repo_id (`str`): from `open_repository`.
        settings (`Mapping[str, Any]`): of the run.
        step (`int`): steps done.
        validation (`ValidationResult`, *optional*): the last one.
        of (`int`, *optional*): steps that were asked for; the card says so where there are fewer.
        token (`str`, *optional*): as for `open_repository`.
        license (`str`, *optional*): of the adapter; nothing is claimed by default.

    Raises:
        PublishError: if the upload fails; everything is still in `output`.
    """
    shown = public_settings(settings)
    card = adapter_card(repo_id, settings, step, validation, license, of, output)
    with TemporaryDirectory() as temporary, _explained(repo_id, output):
        files = {WEIGHTS_NAME: output / WEIGHTS_NAME} | _facts(output, Path(temporary), shown, validation)
        files |= licence_files(output)
        operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        operations.append(CommitOperationAdd("README.md", card.encode()))
        api = HfApi(token=token or None)
        if _SHEET not in files and api.file_exists(repo_id, _SHEET):
            operations.append(CommitOperationDelete(_SHEET))
        return api.create_commit(repo_id, operations, commit_message=_commit_message(step, of))


def adapter_card(
    repo_id: str,
    settings: Mapping[str, Any],
    step: int,
    validation: ValidationResult | None = None,
    license: str | None = None,
    of: int | None = None,
    output: Path | None = None,
) -> str:
    """The card of a LoRA's repository; arguments are those of `publish_adapter`."""
    shown = public_settings(settings)
    on_hub = origins(settings) if output is None else _noted_origins(output, settings)
    stated = {"license": license} if output is None else inherited_licence(output, license)
    licence_text = stated.pop("licence_text", None)
    data = ModelCardData(
        library_name="onedc_hf",
        **stated,
        base_model=_one_or_all(on_hub),
        tags=["onedc", "lora", "image-compression"],
        datasets=_datasets(settings),
    )
    start = shown.get("init_from") or ""
    asked = [repr(start)] if start else []
    asked += [f"{name}={settings[name]!r}" for name in ("revision", "variant") if settings.get(name)]
    load = f"OneDCPipeline.from_pretrained({', '.join(asked)})"
    if start and start not in on_hub:
        load += "  # your copy of the model that it was trained for, which was in a folder of this name"
    text = [
        f"# {repo_id.split('/')[-1]}",
        "A LoRA for the generator of a OneDC image codec: it changes how `.odc` files look, not which can be read.",
        f'```python\nfrom onedc_hf import OneDCPipeline\n\npipe = {load}\npipe.load_lora_weights("{repo_id}")\n```',
        "## Training",
        training_text(shown, step, of, on_hub),
    ]
    if validation is not None:
        text += ["## Results", _results(validation)]
    if licence_text:
        text += ["## Licence", licence_text]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(text) + "\n"


def origins(settings: Mapping[str, Any]) -> list[str]:
    """Repositories that a run's weights come from: the one that it started from, or those of its model's parts.

    A run that starts from the folder of an earlier one has that one's, which lie beside its weights.

    Args:
        settings (`Mapping[str, Any]`): of the run.
    """
    start = settings.get("init_from")
    if start and not looks_like_path(start):
        return [start]
    if start:
        return read_origins(Path(start).expanduser().resolve().parent)
    if settings.get("stage") == 2:  # from the model in the box
        return []
    parts = model_settings(settings["model"]).get("pretrained", {})
    return sorted({part["repository"] for part in parts.values()})


def read_origins(output: Path) -> list[str]:
    """What a run noted of its origins in its folder; nothing where that is no run's folder."""
    try:
        found = json.loads((output / ORIGINS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(one) for one in found] if isinstance(found, list) else []


def _noted_origins(output: Path, settings: Mapping[str, Any]) -> list[str]:
    """Those of the run's folder, which were noted when it began; of a run that noted none, those of its settings."""
    return read_origins(output) if (output / ORIGINS).is_file() else origins(settings)


def _datasets(settings: Mapping[str, Any]) -> list[str] | None:
    """The data set on the Hub that a run learned from; none of a folder, which strangers cannot look up."""
    name = settings.get("dataset_name")
    return [name] if name and not _is_local(name) else None


def _one_or_all(origins: list[str]) -> str | list[str] | None:
    return origins[0] if len(origins) == 1 else origins or None


def _commit_message(step: int, of: int | None) -> str:
    return "End of training" if of is None or step >= of else f"Stopped after {step:,} of {of:,} steps"


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as strangers may see them: no token, nothing about publishing, and of paths only the last part."""
    return {
        name: _without_folders(value) if name in _PATHS else value
        for name, value in settings.items()
        if name not in _SECRETS | _OF_PUBLISHING
    }


def _without_folders(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_folders(one) for one in value]
    text = str(value)
    return PurePath(text.replace("\\", "/")).name if _is_local(text) else value


def _is_local(text: str) -> bool:
    return looks_like_path(text) or "\\" in text


def training_text(settings: Mapping[str, Any], step: int, of: int | None = None, base: Sequence[str] = ()) -> str:
    """The card's section "Training".

    Args:
        settings (`Mapping[str, Any]`): from `public_settings`.
        step (`int`): steps done.
        of (`int`, *optional*): steps that were asked for.
        base (`Sequence[str]`, *optional*): from `origins`.
    """
    if settings.get("dataset_name"):
        revision = settings.get("dataset_revision")
        pictures = f"`{settings['dataset_name']}`" + (f" (revision `{revision}`)" if revision else "")
    else:
        pictures = f"a folder of pictures (`{settings.get('train_data_dir')}`)"
    steps = f"{step:,}" + (f" of {of:,}, then it was stopped" if of is not None and step < of else "")
    rows = [("Start", _start(settings, base)), ("Pictures", pictures), ("Steps", steps)]
    shown = _SHOWN
    if settings.get("train_lora"):
        shown = (*_SHOWN, "init_lora") if settings.get("init_lora") else (*_SHOWN, *_SHOWN_OF_LORA)
    rows += [(f"`{name}`", _cell(settings[name])) for name in shown if settings.get(name) not in (None, [], "")]
    lines = ["Trained with `onedc train` of `onedc-hf`:", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    return "\n".join([*lines, "", "Every setting is in `train_config.json`, the curves in `log.jsonl`."])


def _start(settings: Mapping[str, Any], base: Sequence[str]) -> str:
    if start := settings.get("init_from"):
        told = [f"{name} `{settings[name]}`" for name in ("revision", "variant") if settings.get(name)]
        told += ["from " + " and ".join(f"`{one}`" for one in base)] if base and start not in base else []
        return f"`{start}`" + (f" ({', '.join(told)})" if told else "")
    if settings.get("stage") == 2:
        return "the model in the box of `onedc-hf`"
    if base:
        return " and ".join(f"`{one}`" for one in base) + f"; what they lack is new (`{settings.get('model')}`)"
    return f"nothing (`{settings.get('model')}`)"


def _cell(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _results(validation: ValidationResult) -> str:
    plural = "picture" if validation.pictures == 1 else "pictures"
    return (
        f"Means over {validation.pictures} validation {plural}, from real files that were really decoded, headers "
        f"included:\n\n{validation.table()}\n\n![Originals and what was rebuilt from the files](validation.png)"
    )
