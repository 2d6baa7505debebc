"""What a saved folder should not say, and who may read it."""

from __future__ import annotations

import json
import os
from pathlib import Path

__all__ = ["forget_origin", "let_others_read"]


def forget_origin(folder: str | os.PathLike[str]) -> None:
    """Takes the path that a model was loaded from out of a saved folder: it means nothing on another machine.

    diffusers writes it into every configuration as `_name_or_path`, and sets it anew on loading.
    """
    for path in Path(folder).rglob("*.json"):
        if path.name in ("config.json", "model_index.json", "scheduler_config.json"):
            config = json.loads(path.read_text(encoding="utf-8"))
            if config.pop("_name_or_path", None) is not None:
                path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def let_others_read(folder: str | os.PathLike[str]) -> None:
    """Gives a folder and what is in it the permissions that the umask leaves: temporary ones are private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (Path(folder), *Path(folder).rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
