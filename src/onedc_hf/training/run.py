"""A training run without its objective: where it stands, optimisers, averaged weights, logs, checkpoints, signals.

A stage's loop reads

    with TrainingRun(config) as run:
        ...                                      # models, losses
        optimizer, scheduler = run.optimise(parameters)
        model = run.wrap(model)
        run.begin(model, save)                   # from a checkpoint, if asked to
        for batch in run.batches():
            ...
            run.record({"pixel": 0.1})

and is the same on one process and on several (`accelerate launch`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, set_seed
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..hub.inherited import carry_licences
from ..saving import write_atomically
from .checkpoints import changed_settings, checkpoint_to_resume, write_checkpoint, write_settings
from .config import TrainConfig
from .crops import Crops, Share, crop_batches, steps_of_epochs
from .curves import LOG, forget_later_lines, write_line
from .model import TrainableOneDC
from .optimisers import Optimisation
from .picture_sets import check_folder
from .publish import ORIGINS, open_repository, origins, publish, publish_adapter, read_origins
from .trackers import Trackers, tracker_names
from .validation import SHEET_PICTURES, Validator
from .validation_pictures import pictures_to_look_at, source_of_pictures

__all__ = ["TrainingRun"]

logger = logging.getLogger(__name__)

# How long processes wait for the one that validates or uploads: on GPUs torch would give up after ten minutes.
_PATIENCE = timedelta(hours=12)
_SHARED_STREAM = 15_485_863  # what the seeds of draws that processes share are apart from those of their own


class TrainingRun:
    """The state of a run and what is done around each step.

    SIGTERM and SIGINT end the run after the step at hand, in every process after the same one, with everything saved.

    Args:
        config (`TrainConfig`): settings.

    Raises:
        ValueError, ImportError, PublishError: for trackers or a repository that cannot work, or a folder that holds
            another run's checkpoints, or newer ones than the one that is asked for, before any work is done.
        FileNotFoundError: if there is no such checkpoint, or no such folder of pictures.

    Attributes:
        step (`int`): steps done.
        output (`Path`): the run's folder: `log.jsonl`, `checkpoint-*`, and `pipeline` or an adapter's file.
        accelerator (`Accelerator`): accelerate's.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        if config.num_threads:
            torch.set_num_threads(config.num_threads)
        if config.allow_tf32:
            torch.backends.cuda.matmul.allow_tf32 = True
        self.output = Path(config.output_dir)
        names = tracker_names(config.report_to, config.hub_token)
        check_folder(config)
        self._resume = checkpoint_to_resume(self.output, config.resume_from_checkpoint)
        self.output.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(
            log_with=names,  # type: ignore[arg-type]
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            mixed_precision=config.mixed_precision or None,
            project_config=ProjectConfiguration(str(self.output), logging_dir=str(self.output / config.logging_dir)),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
        self._repository = ""
        if config.push_to_hub and self.is_main:
            private = config.hub_private_repo or None
            self._repository = open_repository(config.hub_model_id, self.output, config.hub_token, private)
        set_seed(config.seed)
        self.step = 0
        self.max_steps = config.max_train_steps
        if config.num_train_epochs:
            self.max_steps = steps_of_epochs(config, self.accelerator.num_processes)
        self._optimisations: list[Optimisation] = []
        self._trainable: list[nn.Parameter] = []
        self._ema: EMAModel | None = None
        self._save: Callable[[Path], Path] | None = None
        self._result = self.output
        self._trackers: Trackers | None = None
        self._validator: Validator | None = None
        self._looked_at = -1
        self._logged: dict[str, list[float]] = defaultdict(list)  # since the last line; some are not of every step
        self._since, self._started = 0, time.monotonic()
        self._stop = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(self, *_: object) -> None:
        for sig, handler in self._handlers.items():
            signal.signal(sig, handler)

    def _listen(self) -> None:
        """From here on a signal ends the run with everything saved; before, there is nothing to save."""

        def ask_to_stop(*_: object) -> None:
            self._stop = True

        self._handlers = {sig: signal.signal(sig, ask_to_stop) for sig in (signal.SIGTERM, signal.SIGINT)}

    # Before the first step -----------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where models and batches live."""
        return self.accelerator.device

    @property
    def resumes(self) -> bool:
        """Whether the run goes on from a checkpoint, which has the state of everything that learns."""
        return self._resume is not None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.accelerator.is_main_process

    def optimise(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        learning_rate: float | None = None,
        every: int = 1,
        idle: int = 0,
    ) -> tuple[Any, Any]:
        """The optimiser and its schedule for parameters, as the settings say, prepared by accelerate.

        Args:
            parameters: what learns; or groups, `{"params": ..., "lr_scale": factor on the learning rate}`.
            learning_rate (`float`, *optional*): in place of the settings'.
            every (`int`): the optimiser takes a step in one of so many steps of the run.
            idle (`int`): steps at the run's start in which it takes none.
        """
        config, processes = self.config, self.accelerator.num_processes
        rate = config.learning_rate if learning_rate is None else learning_rate
        if config.scale_lr:
            rate *= config.train_batch_size * config.gradient_accumulation_steps * processes
        # accelerate steps a prepared scheduler once per process: counts are given in those steps.
        made = Optimisation(
            config,
            parameters,
            rate,
            warmup_steps=math.ceil(config.lr_warmup_steps / every) * processes,
            steps=max(1, math.ceil(self.max_steps / every) - math.ceil(idle / every)) * processes,
        )
        self._optimisations.append(made)
        return self.accelerator.prepare(made.optimizer), self.accelerator.prepare(made.scheduler)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module on this process's device, its gradients averaged over processes.

        Integer buffers are left alone: they come from the model's file, the same in every process, and never learn.
        (The exact entropy model's weights are 16-bit ones, which gloo refuses to send.)
        """
        integers = [name for name, buffer in module.named_buffers() if not buffer.is_floating_point()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, integers)
        return self.accelerator.prepare(module)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Keeps a running average of parameters, which is what is saved."""
        self._trainable = list(parameters)
        if self.config.ema_decay:
            self._ema = EMAModel(self._trainable, decay=self.config.ema_decay)
            self._ema.to(self.device)
            self.keep(self._ema)

    def keep(self, *objects: Any) -> None:
        """Has objects with `state_dict` and `load_state_dict` in every checkpoint."""
        self.accelerator.register_for_checkpointing(*objects)

    def state_dict(self) -> dict[str, int]:
        """The position in the run, and what steps are counted in, for checkpoints."""
        crops = self.config.train_batch_size * self.config.gradient_accumulation_steps
        return {"step": self.step, "processes": self.accelerator.num_processes, "crops": crops}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Inverse of `state_dict`.

        Raises:
            ValueError: for another number of processes, or of crops in each: the schedule, which accelerate counts in
                steps of processes, and the place in the data would be others.
        """
        now = self.state_dict()
        before = now | state  # older checkpoints have the step alone
        if (before["processes"], before["crops"]) != (now["processes"], now["crops"]):
            raise ValueError(
                f"its steps are of {before['processes']} processes with {before['crops']} crops each, and the run now "
                f"has {now['processes']} with {now['crops']}: start as many processes, and keep the product of "
                "`train_batch_size` and `gradient_accumulation_steps`"
            )
        self.step = state["step"]

    def begin(self, model: TrainableOneDC, save: Callable[[Path], Path]) -> None:
        """Takes up a checkpoint, if asked to, and opens logs and validation; once everything is registered.

        Args:
            model (`TrainableOneDC`): what learns, not wrapped; validation looks at it.
            save: writes what was trained into the run's folder, and says where.

        Raises:
            FileNotFoundError, ValueError: if there is no such validation picture, or no such split.
        """
        self._save = save
        self.keep(self)
        if self._resume is not None:
            self._take_up(self._resume)
        if self.is_main:
            if self.config.resume_from_checkpoint:
                forget_later_lines(self.output / LOG, self.step)
            write_settings(self.output, self.config)
            if self._resume is None:  # later what the run started from may be gone
                made_from = json.dumps(origins(dataclasses.asdict(self.config))) + "\n"
                write_atomically(self.output / ORIGINS, made_from.encode())
        if self.accelerator.log_with:
            self._trackers = Trackers(
                self.accelerator, self.config.tracker_project_name, dataclasses.asdict(self.config)
            )
        if pictures := pictures_to_look_at(self.config):
            self._validator = Validator(model, pictures, self.config.validation_bpp, self.output, self._trackers)
            if self._repository:  # pictures of people, say, that were never meant to be seen by others
                logger.info(
                    "What validation looks at will be uploaded to %s (`push_to_hub`): `validation.png` shows %d "
                    "pictures of %s, with their names.",
                    self._repository,
                    min(len(pictures), SHEET_PICTURES),
                    source_of_pictures(self.config),
                )

    def _take_up(self, checkpoint: Path) -> None:
        """Loads a checkpoint into everything that is registered; learning rates and the like are those of the settings.

        Raises:
            ValueError: if it is one of a run with other settings; names those that differ.
        """
        changed = changed_settings(self.output, self.config)
        try:
            if "optimizer" in changed:  # whose state torch would take for that of the other kind
                raise ValueError("its optimizer is of another kind")
            self.accelerator.load_state(str(checkpoint))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(
                f"{checkpoint} cannot be taken up ({error}). Settings that differ from those of the run so far: "
                f"{', '.join(changed) or 'none'}. Go on with the old ones, or start a run of its own from its weights "
                "by `--init_from`."
            ) from error
        # accelerate's own count of micro-batches, which says where a step ends, may be one of steps of other numbers.
        self.accelerator.step = 0
        for optimisation in self._optimisations:
            optimisation.apply_settings()
        if self._ema is not None:
            self._ema.to(self.device)  # what was loaded lies on the CPU
            self._ema.decay = self.config.ema_decay

    # The steps -----------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[list[Crops]]:
        """One list of micro-batches, on this device, for each step from where the run stands to its end.

        Before each step torch's random numbers are seeded anew, so that a run that continues draws what the unbroken
        run would have drawn; after it come averaging, log, checkpoint and validation.
        """
        config, accelerator = self.config, self.accelerator
        accumulated = config.gradient_accumulation_steps
        share = Share(
            config.train_batch_size,
            accelerator.process_index,
            accelerator.num_processes,
            self.step * accumulated,
        )
        batches = iter(crop_batches(config, share))
        self._listen()
        self._since, self._started = 0, time.monotonic()
        while self.step < self.max_steps and not self._asked_to_stop():
            torch.manual_seed(config.seed + 7919 * self.step + 104729 * accelerator.process_index)
            yield [Crops.of(next(batches)).to(self.device) for _ in range(accumulated)]
            self.step += 1
            self._since += 1
            if self.step % config.logging_steps == 0:
                self._write_log()
            if self.step % config.checkpointing_steps == 0:
                self._save_checkpoint()
                self.save_weights()
            if config.validation_steps and self.step % config.validation_steps == 0:
                self._look()

    def shared_draws(self) -> torch.Generator:
        """Random numbers of this step that are the same in every process."""
        # A stream of its own: that of the first process begins with the draws of its losses.
        return torch.Generator().manual_seed(_SHARED_STREAM + self.config.seed + 7919 * self.step)

    def my_part(self, values: Tensor) -> Tensor:
        """This process's rows of what was drawn for the batches of all."""
        return values.chunk(self.accelerator.num_processes)[self.accelerator.process_index]

    def norm_over_all(self, norm: float) -> float:
        """The gradient norm of the batches of all processes together, of this process's."""
        if self.accelerator.num_processes == 1:
            return norm
        # Each process's loss is a mean over its own crops: the whole gradient is theirs side by side, divided by their
        # number.
        squares = self.accelerator.reduce(torch.tensor([norm**2], device=self.device))
        return float(squares) ** 0.5 / self.accelerator.num_processes  # type: ignore[arg-type]

    def update_average(self) -> None:
        """Takes the weights at hand into the running average; after an optimiser's step."""
        if self._ema is not None:
            self._ema.step(self._trainable)

    def record(self, values: Mapping[str, float]) -> None:
        """Values of a step for the next line of the log, which has the mean of each."""
        for name, value in values.items():
            self._logged[name].append(value)

    def end(self) -> Path:
        """Writes what is not written yet, validates, publishes; returns the folder of what was trained.

        A run that was stopped is not validated once more: whoever stops it may not wait for long.
        """
        self.accelerator.wait_for_everyone()
        if not (self.output / f"checkpoint-{self.step}").is_dir():
            self._save_checkpoint()
        self.save_weights()
        if self._looked_at != self.step and self.step >= self.max_steps:
            self._look()
        if self._repository and self.step > 0:
            push = publish if (self.output / "pipeline") == self._result else publish_adapter
            # Of these weights, not of those of an earlier step.
            result = self._validator.last if self._validator is not None and self._looked_at == self.step else None
            settings = dataclasses.asdict(self.config)
            push(
                self.output,
                self._repository,
                settings,
                self.step,
                result,
                of=self.max_steps,
                token=self.config.hub_token,
                license=self.config.hub_license or None,
            )
        self.accelerator.wait_for_everyone()
        if self._trackers is not None:
            self._trackers.finish()
        return self._result

    def save_weights(self) -> None:
        """Writes the averaged weights into the run's folder."""
        if not self.is_main or self._save is None:
            return
        with self.averaged():
            self._result = self._save(self.output)
            carry_licences(read_origins(self.output), self.config.init_from, self._result)

    def averaged(self) -> _Averaged:
        """A context in which the model has its averaged weights."""
        return _Averaged(self._ema, self._trainable)

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to: all must stop after the same step, or the others wait for ever."""
        if self.accelerator.num_processes == 1:
            return self._stop
        asked = torch.tensor([float(self._stop)], device=self.device)
        return bool(self.accelerator.reduce(asked).item() > 0)  # type: ignore[union-attr]

    def _write_log(self) -> None:
        log = {name: fmean(found) for name, found in self._logged.items()}
        crops = self._since * self.config.train_batch_size * self.config.gradient_accumulation_steps
        log["crops_per_second"] = crops * self.accelerator.num_processes / (time.monotonic() - self._started)
        self.log(log)
        self._logged.clear()
        self._since, self._started = 0, time.monotonic()

    def log(self, values: Mapping[str, float]) -> None:
        """One line of `log.jsonl`, and the trackers."""
        if self._trackers is not None:
            self._trackers.log(values, self.step)
        if self.is_main:
            write_line(self.output / LOG, self.step, values)

    def _look(self) -> None:
        if self._validator is None:
            return
        self._looked_at = self.step
        if self.is_main:
            with self.averaged():
                self.log(self._validator(self.step))
        self.accelerator.wait_for_everyone()
        self._since, self._started = 0, time.monotonic()

    def _save_checkpoint(self) -> None:
        write_checkpoint(self.accelerator, self.output, self.step, self.config.checkpoints_total_limit)


class _Averaged:
    def __init__(self, ema: EMAModel | None, parameters: list[nn.Parameter]):
        self._ema, self._parameters = ema, parameters

    def __enter__(self) -> None:
        if self._ema is not None:
            self._ema.store(self._parameters)
            self._ema.copy_to(self._parameters)

    def __exit__(self, *_: object) -> None:
        if self._ema is not None:
            self._ema.restore(self._parameters)
