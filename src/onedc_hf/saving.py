"""Saved files and folders: there whole or not at all, for others to read, and without word of where they came from."""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import ModelError, OneDCError

__all__ = ["forget_origin", "make_folder", "replaced_weights", "saved_over", "staged_folder", "write_atomically"]

_CONFIGS = ("config.json", "scheduler_config.json")
_STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")  # of weights, as transformers and diffusers name them
_SURELY_LEFT = 3600.0  # seconds: no save takes as long
_SHARD = f"{'[0-9]' * 5}-of-{'[0-9]' * 5}"


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


def replaced_weights(folder: str | os.PathLike[str], variant: str | None = None) -> list[str]:
    """Patterns of the weight files, in the place that a model is saved to, that those of its folder stand for.

    Loaders prefer a whole file to shards, and safetensors to pickles: one that an earlier save left would hide those of
    this one.

    Args:
        folder (`str` or `os.PathLike`): the model's, as it is saved or uploaded.
        variant (`str`, *optional*): of its weight files; those of other variants match no pattern.

    Returns:
        `list[str]`: such as `delete_patterns` of `upload_folder`, which keeps what it uploads.
    """
    label = f".{glob.escape(variant)}" if variant else ""
    names = [
        name
        for stem in _STEMS
        for kind in ("safetensors", "bin")
        for name in (
            f"{stem}{label}.{kind}",
            f"{stem}{label}-{_SHARD}.{kind}",
            f"{stem}.{kind}.index{label}.json",
            *((f"{stem}-{_SHARD}{label}.{kind}",) if label else ()),  # of earlier versions of diffusers
        )
    ]
    parts = sorted(path.parent.name for path in Path(folder).glob("*/config.json"))
    return [f"{glob.escape(part)}/{name}" for part in parts for name in names]


@contextmanager
def saved_over(folder: Path, variant: str | None = None) -> Iterator[Path]:
    """A place to save a model in, whose files are moved to a folder in the end, over those of an earlier model there.

    Args:
        folder (`Path`): exists; what else is in it stays.
        variant (`str`, *optional*): of the model's weight files.
    """
    for left in folder.glob(".onedc-*"):  # of a save that was killed, which an upload of the folder would take along
        if left.is_dir() and time.time() - left.stat().st_mtime > _SURELY_LEFT:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".onedc-", ignore_cleanup_errors=True) as temporary:
        staged = Path(temporary)
        yield staged
        patterns = replaced_weights(staged, variant)  # of this model's parts: others may lie in the folder
        written = [path.relative_to(staged) for path in sorted(staged.rglob("*")) if path.is_file()]
        for name in written:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _let_others_read(staged / name)  # safetensors leaves its files to their owner
            (staged / name).replace(folder / name)
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.relative_to(folder) not in written:
                path.unlink()


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`, to be filled, that takes its place in the end: whole or not at all.

    Args:
        out (`Path`): does not exist yet, or is empty. A link to a folder stays one, and a folder that cannot be taken
            away, such as a mount point or the current one, is filled in the end.

    Raises:
        OneDCError: if it is filled, but cannot take its place; the text says where it lies.
    """
    out = out.resolve()  # of "." the name, of a link the folder
    inside = _stays(out)
    staged = Path(tempfile.mkdtemp(dir=out if inside else out.parent, prefix=f".{out.name}."))
    try:
        yield staged
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    try:
        for path in (staged, *staged.rglob("*")):
            _let_others_read(path)
        if inside:
            _move_up(staged)
        else:
            if out.exists():
                out.rmdir()
            staged.rename(out)
    except OSError as error:
        raise OneDCError(
            f"Everything was made, but could not be moved to {out} ({error}). What was not moved is in {staged}: move "
            "it from there."
        ) from error


def _stays(out: Path) -> bool:
    """Whether it is a folder that nothing else can be put in the place of."""
    if not out.is_dir():
        return False
    return os.path.ismount(out) or os.path.samefile(out, os.curdir) or not os.access(out.parent, os.W_OK)


def _move_up(staged: Path) -> None:
    """Moves what is in a folder to the folder around it, which holds nothing else."""
    if len(os.listdir(staged.parent)) > 1:
        raise FileExistsError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(staged.parent))
    for path in sorted(staged.iterdir()):
        path.rename(staged.parent / path.name)
    staged.rmdir()


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
            # Else a power cut soon after can leave the name with nothing behind it, which passes for a finished file.
            file.flush()
            os.fsync(file.fileno())
        if mode is None:
            _let_others_read(Path(temporary))
        else:
            with suppress(OSError):  # see `_let_others_read`; it is private then
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
    """Gives a file or folder the permissions that the umask leaves: temporary ones are private.

    Some mounts have no permissions, and refuse; what was written is worth more than they are.
    """
    mask = os.umask(0)
    os.umask(mask)
    with suppress(OSError):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
