"""Trackers of a run: numbers by accelerate, pictures in each of tensorboard, trackio and wandb.

accelerate hands numbers to all of them alike. Pictures it does not: trackio's tracker has no method for them,
tensorboard's has no captions, and a tracker whose package is missing is left out with a debug message. So names are
checked here before anything else is done, and each tracker is given pictures in its own way.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

__all__ = ["TRACKERS", "Trackers", "tracker_names"]

Picture = Image.Image | np.ndarray

TRACKERS = ("tensorboard", "trackio", "wandb")
_SECRETS = frozenset({"hub_token"})


def tracker_names(report_to: str | Sequence[str], hub_token: str = "") -> list[str] | None:
    """The names for `Accelerator(log_with=...)`; accelerate knows no "none", and takes a missing package in silence.

    Args:
        report_to (`str` or `Sequence[str]`): names out of `TRACKERS`; or `all`: those that are installed; or `none`.
        hub_token (`str`, *optional*): a token among the run's arguments.

    Returns:
        `list[str]`, *optional*: names, each once; `None` for no tracker.

    Raises:
        ValueError: for an unknown name, `none` or `all` beside others, or wandb beside a token: wandb records the
            command line.
        ImportError: for a tracker whose package is not installed, with the command that installs it.
    """
    names = list(dict.fromkeys([report_to] if isinstance(report_to, str) else report_to))
    if unknown := [name for name in names if name not in (*TRACKERS, "all", "none")]:
        raise ValueError(f"`report_to` has {unknown[0]!r}; it takes {', '.join(TRACKERS)}, `all` or `none`.")
    if len(names) > 1 and (alone := {"all", "none"}.intersection(names)):
        raise ValueError(f"`report_to` takes {min(alone)!r} alone; got {', '.join(names)}.")
    if names in ([], ["none"]):
        return None
    installed = [name for name in TRACKERS if importlib.util.find_spec(name) is not None]
    if names == ["all"]:
        names = installed
    if hub_token and "wandb" in names:
        raise ValueError(
            "wandb would record `hub_token` with the command line, for all who see the run: log in with "
            "`hf auth login`, and leave it out."
        )
    if missing := [name for name in names if name not in installed]:
        raise ImportError(
            f"`report_to` has {missing[0]!r}, which is not installed: pip install {' '.join(missing)}", name=missing[0]
        )
    if not names:
        raise ImportError("`report_to` is 'all', but no tracker is installed: pip install 'onedc-hf[trackers]'")
    return names


class Trackers:
    """The trackers of a run, opened. Only the main process's calls do anything.

    Args:
        accelerator (`Accelerator`): made with `log_with=tracker_names(...)` and a project folder.
        project (`str`): name of the project in each tracker.
        settings (`Mapping[str, Any]`, *optional*): of the run, shown beside its curves; without tokens.
    """

    def __init__(self, accelerator: Accelerator, project: str, settings: Mapping[str, Any] | None = None):
        self._accelerator = accelerator
        # By default wandb writes below wherever the command was started.
        own = {"wandb": {"dir": str(accelerator.project_dir)}} if accelerator.project_dir else {}
        if own:
            Path(own["wandb"]["dir"]).mkdir(parents=True, exist_ok=True)
        accelerator.init_trackers(project, _plain(settings or {}), own)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of a step."""
        self._accelerator.log(dict(values), step=step)

    def log_pictures(
        self, tag: str, pictures: Sequence[Picture], step: int, captions: Sequence[str] | None = None
    ) -> None:
        """Pictures of a step, of any sizes.

        Args:
            tag (`str`): name; several pictures are `tag/0`, `tag/1`, ... where a tracker takes one at a time.
            pictures (`Sequence[PIL.Image.Image | np.ndarray]`): RGB; arrays are `uint8` `[H, W, 3]`.
            step (`int`): of the run.
            captions (`Sequence[str]`, *optional*): one for each; tensorboard shows them as a text of the same name.

        Raises:
            ValueError: for arrays of another kind, or another number of captions.
        """
        arrays = [_array(picture) for picture in pictures]
        if captions is not None and len(captions) != len(arrays):
            raise ValueError(f"`captions`: expected one for each of {len(arrays)} pictures; got {len(captions)}.")
        if not self._accelerator.is_main_process or not arrays:
            return
        for tracker in self._accelerator.trackers:
            if (show := _SHOW.get(tracker.name)) is not None:
                show(tracker, tag, arrays, step, captions or [""] * len(arrays))

    def finish(self) -> None:
        """Closes them: what they hold in memory is written."""
        self._accelerator.end_training()


def _plain(settings: Mapping[str, Any]) -> dict[str, bool | str | int | float]:
    """Settings as tensorboard's hparams take them: no lists, nothing empty, no secrets."""
    plain = {}
    for name, value in settings.items():
        if name in _SECRETS or value is None:
            continue
        if isinstance(value, list | tuple):
            value = " ".join(map(str, value))
        plain[name] = value if isinstance(value, bool | str | int | float) else str(value)
    return plain


def _array(picture: Picture) -> np.ndarray:
    array = np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"`pictures`: arrays must be uint8 [H, W, 3]; got {array.dtype} {list(array.shape)}.")
    return array


def _tags(tag: str, count: int) -> list[str]:
    return [tag] if count == 1 else [f"{tag}/{i}" for i in range(count)]


def _show_in_tensorboard(tracker: Any, tag: str, arrays: list[np.ndarray], step: int, captions: Sequence[str]) -> None:
    # One tag a picture: several under one become a grid, and pictures of different sizes an error.
    for name, array in zip(_tags(tag, len(arrays)), arrays, strict=True):
        tracker.log_images({name: array[None]}, step=step, dataformats="NHWC")
    if any(captions):
        tracker.log({f"{tag}/captions": "\n\n".join(captions)}, step=step)
    tracker.writer.flush()


def _show_in_trackio(tracker: Any, tag: str, arrays: list[np.ndarray], step: int, captions: Sequence[str]) -> None:
    import trackio  # type: ignore[import-not-found]

    shown = [trackio.Image(array, caption=caption) for array, caption in zip(arrays, captions, strict=True)]
    tracker.log(dict(zip(_tags(tag, len(shown)), shown, strict=True)), step=step)


def _show_in_wandb(tracker: Any, tag: str, arrays: list[np.ndarray], step: int, captions: Sequence[str]) -> None:
    import wandb  # type: ignore[import-not-found]

    shown = [wandb.Image(array, caption=caption or None) for array, caption in zip(arrays, captions, strict=True)]
    tracker.log({tag: shown}, step=step)


_SHOW: Mapping[str, Callable[[Any, str, list[np.ndarray], int, Sequence[str]], None]] = {
    "tensorboard": _show_in_tensorboard,
    "trackio": _show_in_trackio,
    "wandb": _show_in_wandb,
}
