"""Where a model or an adapter comes from: a folder, a file, or a repository on the Hub."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from .errors import ModelError

__all__ = ["fetch_weights", "looks_like_path"]


def looks_like_path(source: str) -> bool:
    """Whether somebody meant a folder: `org/name` is a repository unless such a folder exists."""
    local = source.startswith((".", "/", "~", "\\")) or source.endswith("/") or source.count("/") > 1
    return local or Path(source).exists()


def fetch_weights(source: str, name: str, **hub: Any) -> Path:
    """The path of a safetensors file, downloaded if need be.

    Args:
        source (`str`): the file, a folder, or a repository id.
        name (`str`): the file's name in the folder or repository.
        hub: `subfolder`, and for a repository further arguments of `hf_hub_download` (`revision`, `token`, ...).

    Raises:
        ModelError: if there is no such file, or its name says that it is no safetensors file.
        TypeError: for arguments that `hf_hub_download` does not have, also where nothing is downloaded.
    """
    if unknown := set(hub) - set(inspect.signature(hf_hub_download).parameters):
        raise TypeError(f"Unknown arguments for loading {name!r}: {', '.join(sorted(unknown))}.")
    if not name.endswith(".safetensors"):
        raise ModelError(f"{name!r} is no .safetensors file. Others can hold code that runs when they are read.")
    if not looks_like_path(source):
        try:
            return Path(hf_hub_download(source, name, **hub))
        except (OSError, HFValidationError, EntryNotFoundError) as error:
            raise ModelError(
                f"{name!r} could not be had from the repository {source!r}: {error} Check both names, the revision, "
                "your access, and the network."
            ) from error
    path = Path(source).expanduser()
    if path.is_file():
        return fetch_weights(str(path.parent), path.name)
    path = path / (hub.get("subfolder") or "") / name
    if not path.is_file():
        there = sorted(other.name for other in path.parent.glob("*.safetensors"))
        raise ModelError(
            f"{str(path)!r} does not exist: give the folder that holds it, its path, or a repository id `org/name`"
            + (f"; the folder holds {', '.join(there)}." if there else ".")
        )
    return path
