"""Saved files and folders: there whole or not at all, for others to read, and without word of where they came from."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ModelError

__all__ = ["forget_origin", "make_folder", "staged_folder", "write_atomically"]

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


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Makes a folder to save into, if it is not there: for a file in its place diffusers says so in its log alone.

    Raises:
        ModelError: if there is a file of that name, or of that of a folder above.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ModelError(
            f"{os.fspath(folder)} is, or lies in, a file, and nothing was saved: give a folder, which is made if it "
            "does not exist."
        ) from error


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`, to be filled, that takes its place in the end: whole or not at all.

    Args:
        out (`Path`): does not exist yet, or is empty.
    """
    staged = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    try:
        yield staged
        for path in (staged, *staged.rglob("*")):
            _let_others_read(path)
        if out.exists():
            out.rmdir()
        staged.rename(out)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def write_atomically(path: Path, data: bytes, replace: bool = True) -> None:
    """Write a file so that it is there whole or not at all, also when the program is killed meanwhile.

    A file that is replaced keeps its permissions, and a link to it stays a link. A device or a pipe is written into:
    to take its place would leave a file in `/dev`.

    Raises:
        `FileExistsError`: it exists, and may not be replaced.
    """
    if replace:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        path = path.resolve()
    mode = _mode_of(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".onedc-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        if mode is None:
            _let_others_read(Path(temporary))
        else:
            Path(temporary).chmod(mode)
        if not replace and _link(temporary, path):
            os.unlink(temporary)
        else:
            os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _mode_of(path: Path) -> int | None:
    """The permissions of a file that is there; `None` if there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def _link(temporary: str, path: Path) -> bool:
    """Give a file its name, which is not taken: in one step where the file system can, else `False`."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:  # no hard links here
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        return False
    return True


def _let_others_read(path: Path) -> None:
    """Gives a file or folder the permissions that the umask leaves: temporary ones are private."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
