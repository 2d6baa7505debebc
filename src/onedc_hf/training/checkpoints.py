"""Checkpoints in a run's folder: which one to go on from, and writing one so that no half of it is ever taken up.

Two runs in one folder would take each other's checkpoints for their own, and delete them: a run that does not go on
from what is there is refused.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path

from accelerate import Accelerator

from ..errors import OneDCError
from ..lora_file import WEIGHTS_NAME
from ..saving import write_atomically
from .config import TrainConfig

__all__ = ["changed_settings", "checkpoint_to_resume", "write_checkpoint", "write_settings"]

logger = logging.getLogger(__name__)

_SETTINGS = "train_config.json"
# Settings that no checkpoint depends on.
_MAY_CHANGE = frozenset(
    {
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "adam_weight_decay",
        "adversary_learning_rate",
        "checkpointing_steps",
        "guidance_learning_rate",
        "learning_rate",
        "logging_steps",
        "lr_scheduler",
        "lr_warmup_steps",
        "max_grad_norm",
        "max_train_steps",
        "output_dir",
        "report_to",
        "resume_from_checkpoint",
    }
)


def _checkpoints(output: Path) -> list[Path]:
    """Whole checkpoints, oldest first; what a killed run was writing, and what people keep, have other names."""
    found = [path for path in output.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def checkpoint_to_resume(output: Path, wanted: str) -> Path | None:
    """The checkpoint to go on from; nothing if the run starts anew.

    Args:
        output (`Path`): the run's folder.
        wanted (`str`): `""`, `"latest"`, or a checkpoint's name or path. A checkpoint is a pickle in part: only the
            run's own folder is looked into.

    Raises:
        ValueError: if the folder holds another run's checkpoints, or newer ones than the one that is asked for.
        FileNotFoundError: if there is no such checkpoint.
    """
    there = _checkpoints(output)
    names = ", ".join(path.name for path in there)
    if not wanted:
        if there:
            raise ValueError(
                f"{output} holds {names} of an earlier run: go on with it by `--resume_from_checkpoint latest`, or "
                "give this run another `--output_dir`."
            )
        return None
    found = [path for path in there if wanted == "latest" or path.name == Path(wanted).name]
    if not found and wanted == "latest" and not _has_result(output):  # one command line to start and to go on
        logger.info("No checkpoint in %s yet: the run starts anew.", output)
        return None
    if not found:
        raise FileNotFoundError(f"No checkpoint {wanted!r} in {output}; start without --resume_from_checkpoint.")
    if found[-1] != there[-1]:
        raise ValueError(
            f"{output} holds {names}, and `latest` would take up the newest the next time: move what is newer than "
            f"{found[-1].name} elsewhere, then go on from it."
        )
    return found[-1]


def _has_result(output: Path) -> bool:
    """Whether an earlier run got as far as its first checkpoint, which is written together with its weights."""
    return any((output / name).exists() for name in ("pipeline", WEIGHTS_NAME))


def write_checkpoint(accelerator: Accelerator, output: Path, step: int, keep: int) -> None:
    """Writes the state of everything that is registered as `checkpoint-{step}`; called by every process.

    It has another name first: a killed run leaves no half checkpoint behind that looks whole.

    Args:
        accelerator (`Accelerator`): what holds the state.
        output (`Path`): the run's folder.
        step (`int`): steps done.
        keep (`int`): checkpoints to keep, the newest.

    Raises:
        OneDCError: if it cannot be written; those that are there stay.
    """
    unfinished = output / "unfinished-checkpoint"
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(unfinished))
    except (OSError, RuntimeError) as error:  # torch raises the second where a disk is full
        shutil.rmtree(unfinished, ignore_errors=True)
        there = _checkpoints(output)
        kept = f"{there[-1].name} is whole" if there else "no earlier one is there"
        raise OneDCError(
            f"The checkpoint of step {step} could not be written to {output} ({error}); {kept}. If the disk is full, "
            "free space, then go on by `--resume_from_checkpoint latest`."
        ) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        final = output / f"checkpoint-{step}"
        shutil.rmtree(final, ignore_errors=True)
        os.replace(unfinished, final)
        for old in _checkpoints(output)[:-keep]:
            shutil.rmtree(old)


def write_settings(output: Path, config: TrainConfig) -> None:
    """Writes the settings beside the checkpoints that are made with them."""
    write_atomically(output / _SETTINGS, config.to_json().encode())


def changed_settings(output: Path, config: TrainConfig) -> list[str]:
    """Names of settings that a checkpoint depends on and that differ from those of the run so far."""
    path = output / _SETTINGS
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        logger.warning("%s cannot be read: nothing is known of the settings of the run so far.", path)
        before = {}
    now = json.loads(config.to_json())
    return [name for name, value in now.items() if before.get(name, value) != value and name not in _MAY_CHANGE]
