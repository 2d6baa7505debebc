"""What a saved folder should not say, and who may read it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["forget_origin", "staged_folder"]

_CONFIGS = ("config.json", "scheduler_config.json")


def forget_origin(folder: str | os.PathLike[str]) -> None:
    """Takes the path that a model was loaded from out of a saved pipeline: it means nothing on another machine.

    diffusers writes it into every configuration as `_name_or_path`, and sets it anew on loading.
    """
    index = Path(folder, "model_index.json")
    parts = [name for name, value in _read(index).items() if isinstance(value, list)]
    for path in (index, *(Path(folder, part, name) for part in parts for name in _CONFIGS)):
        if path.is_file():
            config = _read(path)
            if config.pop("_name_or_path", None) is not None:
                path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`, to be filled, that takes its place in the end: whole or not at all.

    Args:
        out (`Path`): does not exist yet, or is empty.
    """
    staged = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    try:
        yield staged
        _let_others_read(staged)
        if out.exists():
            out.rmdir()
        staged.rename(out)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _let_others_read(folder: Path) -> None:
    """Gives a folder and what is in it the permissions that the umask leaves: temporary ones are private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
