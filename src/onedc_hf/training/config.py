"""What a training run is told: one frozen record, read from JSON and overridden by arguments."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

__all__ = ["TrainConfig", "load_config", "model_settings"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a stage-1 run (paper, section 3.3). Argument names follow diffusers' training scripts.

    Model and data:
        model (`str`): name of a model config in the package (`box-model`), used when nothing is loaded.
        init_from (`str`): folder or Hub id of a pipeline to start from: weights only, fresh optimiser, short warm-up.
        train_data_dir, dataset_name, dataset_revision, image_column (`str`): where pictures come from.
        exclude (`list[str]`): files (package data or paths) of picture names to leave out, one a line.
        max_train_samples (`int`): 0: all.
        resolution (`int`): side of a crop in pixels, a multiple of 64.

    Run:
        output_dir, seed, train_batch_size, max_train_steps, gradient_accumulation_steps, mixed_precision,
        checkpointing_steps, checkpoints_total_limit, resume_from_checkpoint, validation_steps, report_to: as in
        diffusers' scripts.
        num_threads (`int`): CPU threads of this process; 0 leaves torch's own choice.

    Optimiser:
        learning_rate, lr_scheduler, lr_warmup_steps, adam_beta1, adam_beta2, adam_weight_decay, max_grad_norm.
        ema_decay (`float`): of the averaged weights, which are the ones that are saved; 0 switches it off.
        freeze (`list[str]`): prefixes of parameters that do not learn (`codec.enc`, `vae.encoder`, ...).

    Objective: L1 + balanced losses + lambda(quality) x bpp:
        lambda_low, lambda_high (`float`): lambda at quality 0 and at quality 100; geometric in between.
        lambda_ramp_steps (`int`): lambda grows from near zero by the square of step / lambda_ramp_steps.
        z_only_share (`float`): share of crops of which only `z` is sent.
        z_range_weight (`float`): of the penalty that keeps the hyper-latent within FSQ's range.
        rate_estimate (`str`): `noise` or `straight_through`.
        exact_weights (`bool`): train the entropy model with weights on the exact path's grid (straight_through.py): for
            the last stretch before a release. Post-training quantisation costs 0.1 % of bytes, so there is little to
            win.
        ms_ssim_weight, grid_weight, feature_weight, adversary_weight (`float`): strength against the pixel loss, as a
            ratio of gradient norms at the picture; 0 switches a loss off.
        feature_network (`str`): `lite1` or `lite2`.
        adversary_learning_rate (`float`), adversary_every (`int`): the discriminators' rate and how many steps apart
            they learn.
        adversary_warmup_steps (`int`): steps at the start in which only the discriminators learn, so that new ones do
            not mislead a model that is good already (`init_from`).
    """

    model: str = "box-model"
    init_from: str = ""
    train_data_dir: str = ""
    dataset_name: str = ""
    dataset_revision: str = ""
    image_column: str = "image"
    exclude: list[str] = dataclasses.field(default_factory=list)
    max_train_samples: int = 0
    resolution: int = 128
    smallest_scale: float = 0.5

    output_dir: str = "onedc-stage1"
    seed: int = 0
    train_batch_size: int = 8
    max_train_steps: int = 100_000
    gradient_accumulation_steps: int = 1
    mixed_precision: str = "no"
    checkpointing_steps: int = 1000
    checkpoints_total_limit: int = 2
    resume_from_checkpoint: str = ""
    logging_steps: int = 50
    report_to: str = "none"
    num_threads: int = 0

    learning_rate: float = 5e-4
    lr_scheduler: str = "constant_with_warmup"
    lr_warmup_steps: int = 200
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    adam_weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    freeze: list[str] = dataclasses.field(default_factory=list)

    lambda_low: float = 3.0
    lambda_high: float = 0.06
    lambda_ramp_steps: int = 1000
    z_only_share: float = 0.1
    z_range_weight: float = 0.02
    rate_estimate: str = "straight_through"
    exact_weights: bool = False
    ms_ssim_weight: float = 0.5
    grid_weight: float = 0.0
    feature_weight: float = 0.5
    feature_network: str = "lite1"
    adversary_weight: float = 0.0
    adversary_learning_rate: float = 2e-4
    adversary_every: int = 2
    adversary_warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.resolution <= 0 or self.resolution % 64:
            raise ValueError(f"`resolution` must be a positive multiple of 64; got {self.resolution}.")
        if bool(self.train_data_dir) == bool(self.dataset_name):
            raise ValueError("Give either `train_data_dir` (a folder of pictures) or `dataset_name` (a Hub data set).")
        if not 0 <= self.z_only_share < 1:
            raise ValueError(f"`z_only_share` must lie in [0, 1); got {self.z_only_share}.")
        if min(self.lambda_low, self.lambda_high) <= 0:
            raise ValueError("`lambda_low` and `lambda_high` must be above 0.")
        for name in ("train_batch_size", "max_train_steps", "gradient_accumulation_steps", "checkpointing_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")

    def to_json(self) -> str:
        """The record as JSON, as it is kept beside the weights."""
        return json.dumps(dataclasses.asdict(self), indent=2)


def package_file(name: str) -> Path | None:
    """Path of a file among the package's configs, or None."""
    path = Path(str(resources.files(__package__) / "configs" / name))
    return path if path.is_file() else None


def load_config(name: str, overrides: dict[str, Any]) -> TrainConfig:
    """Reads a named config of the package, or a JSON file, and applies overrides.

    Raises:
        ValueError: for an unknown name or an unknown setting, naming it.
    """
    path = package_file(f"{name}.json") or Path(name)
    if not path.is_file():
        known = sorted(p.stem for p in Path(str(resources.files(__package__) / "configs")).glob("*stage*.json"))
        raise ValueError(f"No config {name!r}: neither a file nor one of {', '.join(known)}.")
    values = json.loads(path.read_text(encoding="utf-8")) | overrides
    unknown = set(values) - {f.name for f in dataclasses.fields(TrainConfig)}
    if unknown:
        raise ValueError(f"{path.name}: unknown settings {', '.join(sorted(unknown))}.")
    return TrainConfig(**values)


def model_settings(name: str) -> dict[str, dict[str, Any]]:
    """Configs of codec, generator, vae and scheduler of a model named in the package, or in a JSON file."""
    path = package_file(f"{name}.json") or Path(name)
    if not path.is_file():
        raise ValueError(f"No model config {name!r}: neither a file nor among the package's configs.")
    return json.loads(path.read_text(encoding="utf-8"))
