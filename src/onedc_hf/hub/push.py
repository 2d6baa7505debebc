"""Pushing a pipeline to the Hub the plain diffusers way, with a card that says what the model is.

`main` of a repository pushed here holds weights, JSON and a card, and no Python file: it loads with
`OneDCPipeline.from_pretrained(repo_id)` without trusting anybody's code.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import CommitInfo, HfApi, ModelCard, create_repo, hf_hub_download, snapshot_download, upload_folder
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import httpx

from ..errors import OneDCError
from ..saving import replaced_weights
from ..user_warning import warn_user
from .card import build_card, is_box, load_argument
from .inherited import FOLDER, carry_licences, inherited_licence

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def push_pipeline(
    pipeline: "DiffusionPipeline",
    repo_id: str,
    *,
    card: ModelCard | None = None,
    license: str | None = None,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    create_pr: bool = False,
    variant: str | None = None,
    subfolder: str | None = None,
    beside: Mapping[str, Path] | None = None,
    replaces: Sequence[str] = (),
) -> CommitInfo:
    """Save a pipeline and upload it in one commit.

    Args:
        pipeline (`OneDCPipeline`): what to push.
        repo_id (`str`): where to; created if it does not exist.
        card (`ModelCard`, *optional*): the card to write. Defaults to the one the repository already has, then to the
            written card of the model in the box if that is what is pushed, then to a new one by `build_card`. One that
            the repository has keeps its text; its metadata is made to state `license`, or what the model inherits.
        license (`str`, *optional*): licence of the weights, as the Hub writes it (see `build_card`).
        commit_message (`str`, *optional*): defaults to "Upload OneDCPipeline".
        private (`bool`, *optional*): whether a new repository is private; with `True` one that is there has to be.
        token (`str`, *optional*): access token; defaults to the stored one.
        create_pr (`bool`, *optional*, defaults to `False`): open a pull request instead of committing.
        variant (`str`, *optional*): label in the names of the weight files, for instance `"fp16"`. It casts nothing.
        subfolder (`str`, *optional*): folder inside the repository. No card is written then.
        beside (`Mapping[str, Path]`, *optional*): further files and folders for the same commit: path in the repository
            -> where it lies now.
        replaces (`Sequence[str]`, *optional*): patterns of files in the repository that go with the same commit, beside
            earlier weights.

    Raises:
        `OneDCError`: the repository is public and was to be private, or its card cannot be read.

    Returns:
        `CommitInfo`: the commit; `pr_url` and `pr_revision` are set for a pull request.
    """
    repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    refuse_public(repo_id, private, token)
    with TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder, variant=variant)
        _fetch_licences(pipeline, Path(folder), token)
        if not subfolder:
            write_root_config(pipeline, folder)
            stated = inherited_licence(Path(folder), license)
            if card is None and (card := _present_card(repo_id, token)) is not None:
                _state_licence(card, stated, repo_id)
            card = card or card_of_box(pipeline, repo_id, variant)
            card = card or build_card(pipeline, repo_id=repo_id, variant=variant, **stated)
            if card.data.get("library_name") is None:
                card.data["library_name"] = "onedc_hf"
            card.save(Path(folder) / "README.md")
        for name, source in (beside or {}).items():
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        return upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            path_in_repo=subfolder,
            commit_message=commit_message or f"Upload {type(pipeline).__name__}",
            token=token,
            create_pr=create_pr,
            delete_patterns=[*replaced_weights(folder, variant), *replaces],
        )


def _fetch_licences(pipeline: "DiffusionPipeline", folder: Path, token: str | None) -> None:
    """Takes the licence texts of a model that was loaded from the Hub along, which bind whoever passes it on."""
    origin = pipeline.config.get("_name_or_path") or ""
    if origin.count("/") != 1 or Path(origin).exists():  # those of a folder went along when it was saved
        return
    try:
        found = snapshot_download(origin, allow_patterns=f"{FOLDER}/*.txt", token=token)
    except (httpx.HTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        warn_user(
            f"Whether {origin!r}, which this model was loaded from, has licences that go with it could not be looked "
            f"up ({error}): look into its folder `{FOLDER}`, and pass on what is there."
        )
        return
    carry_licences((), found, folder)


def refuse_public(repo_id: str, private: bool | None, token: str | None = None) -> None:
    """Refuses to publish what was to be kept private: creating a repository that is there leaves it as it is.

    Raises:
        `OneDCError`: it is public, and `private` is true.
    """
    if private and not HfApi(token=token).repo_info(repo_id).private:
        raise OneDCError(
            f"{repo_id!r} is there already, and everybody can see it: nothing was uploaded. Make it private in its "
            "settings on the Hub, or name another repository."
        )


def write_root_config(pipeline: "DiffusionPipeline", folder: str | PathLike[str]) -> None:
    """Write the `config.json` at the root of a model folder.

    The Hub counts downloads of a library it does not know by requests for this file; nothing reads it on loading.
    """
    config = {
        "library_name": "onedc_hf",
        "model_type": "onedc",
        "model_id": getattr(pipeline, "model_id", None),
        "pipeline": type(pipeline).__name__,
    }
    Path(folder, "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def card_of_box(pipeline: "DiffusionPipeline", repo_id: str, variant: str | None = None) -> ModelCard | None:
    """Return the written card of the model in the box, made to load from `repo_id`; `None` for any other model."""
    if not is_box(pipeline):
        return None
    written = Path(pipeline.config["_name_or_path"]) / "README.md"
    if not written.is_file():
        return None
    text = written.read_text(encoding="utf-8")
    load = f"OneDCPipeline.from_pretrained({load_argument(repo_id, variant)})"
    return ModelCard(text.replace("OneDCPipeline.from_pretrained()", load))


def _present_card(repo_id: str, token: str | None) -> ModelCard | None:
    """Return the card the repository has, which may have been written by hand and is kept."""
    try:  # from the Hub, not from a cache: one that was edited since is kept as well
        path = hf_hub_download(repo_id, "README.md", token=token, force_download=True)
    except LocalEntryNotFoundError:  # the Hub could not be asked, which does not say that there is no card
        raise
    except EntryNotFoundError:
        return None
    try:
        return ModelCard.load(path)
    except (ValueError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise OneDCError(
            f"The README.md of {repo_id!r} has metadata that cannot be read, so it cannot be kept: correct it there, "
            f"or give another `card`. ({reason})"
        ) from error


def _state_licence(card: ModelCard, stated: Mapping[str, Any], repo_id: str) -> None:
    """Make a card's metadata state the licence of what is pushed, where one is known; the text is its writer's.

    Args:
        card (`ModelCard`): the one that the repository has; changed in place.
        stated (`Mapping[str, Any]`): from `inherited_licence`.
        repo_id (`str`): the repository, for the warning.
    """
    if not stated.get("license"):
        return
    if stated["license"] == card.data.get("license") and "license_name" not in stated:
        return  # `other`, say, whose name and link the card has
    wanted = {name: stated.get(name) for name in ("license", "license_name", "license_link")}
    before = {name: card.data.get(name) for name in wanted}
    for name, value in wanted.items():
        card.data[name] = value
    if before != wanted and before["license"] is not None:
        old, new = (" ".join(str(value) for value in some.values() if value) for some in (before, wanted))
        warn_user(
            f"The card of {repo_id!r} stated the licence {old!r}; its metadata now states {new!r}, which holds for "
            "what is pushed. The card's text was kept: look whether it still says otherwise."
        )
