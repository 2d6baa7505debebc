"""What a training run is told: one frozen record (config_files.py reads it)."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

__all__ = ["ALIASES", "TrainConfig"]

# Names of diffusers' training scripts for settings that have a name of their own here.
ALIASES = {"init_from": "pretrained_model_name_or_path"}
_MIXED_PRECISIONS = ("", "no", "fp16", "bf16")
_OPTIMIZERS = ("adamw", "adafactor")
ADVERSARY_LOSSES = ("hinge", "paired")
_LICENCE_ID = re.compile(r"[a-z0-9.+-]+")  # `openrail++` is one


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run (paper, section 3.3). Argument names follow diffusers' training scripts.

    Model:
        stage (`int`): 1: the whole model; 2: the generator alone, codec frozen (distribution matching, adversaries).
        model (`str`): model config of the package (`box-model`, `sd15-model`) or JSON file, used when nothing is
            loaded.
        init_from (`str`): folder or Hub id of a pipeline to start from: weights only, fresh optimiser, short warm-up.
            Stage 2, which needs one, takes the model in the box if there is none.
        revision, variant (`str`): of that pipeline.
        freeze (`list[str]`): prefixes of parameters that do not learn (`codec.enc`, `vae.encoder`, ...); empty in
            stage 2: everything but the generator.
        noise_channels (`int`): give the decoder of an `OneDCAutoencoder` that has none so many channels of noise beside
            the latent, to make texture of (32 in the box); 0: leave it as it is.
        decoder_layers (`int`): give it so many blocks at 1/8, the new ones behind the others; 0: leave it as it is.
        head_layers (`int`): the same for the dense blocks at 1/2, its head.
        train_lora (`bool`): of the generator's U-Net only a LoRA learns (peft). Where nothing else learns but parts of
            the generator, it is saved alone, as a file that `load_lora_weights` reads; otherwise within the pipeline.
        rank, lora_alpha, lora_targets: of the adapter; no targets: those of the paper.
        lora_train_also (`list[str]`): parts of the generator that learn whole beside the adapter.
        lora_beside (`bool`): where the model owns an adapter (those of `sd15-stage1` do), leave that alone, and have a
            new one learn beside it, which is saved alone.
        init_lora (`str`): an adapter to start from: file, folder or Hub id, as for `load_lora_weights`.

    Data:
        train_data_dir (`str`): a folder of pictures, or of a data set's Parquet files; or
        dataset_name, dataset_config_name, dataset_revision, dataset_split, image_column, caption_column, cache_dir: a
            data set of the Hub.
        streaming (`bool`): read the data set over the network while training, without storing it.
        exclude (`list[str]`): files (package data or paths) of picture names to leave out, one a line.
        max_train_samples (`int`): 0: all.
        resolution (`int`): side of a crop in pixels, a multiple of 64.
        smallest_scale, largest_scale (`float`): pictures are scaled by a factor drawn from between these before
            cropping; above 1 they are enlarged.
        center_crop, random_flip, image_interpolation_mode, dataloader_num_workers: as in diffusers' scripts.
        picture_cache_mib (`int`): MiB of decoded pictures that are kept in memory (a 768x512 one has 1.1), shared out
            among the processes of a machine and their data loaders' workers; what does not fit is decoded for every
            crop.

    Run:
        output_dir, logging_dir, seed, train_batch_size, num_train_epochs, max_train_steps, gradient_accumulation_steps,
        gradient_checkpointing, mixed_precision, allow_tf32, checkpointing_steps, checkpoints_total_limit,
        resume_from_checkpoint, tracker_project_name: as in diffusers' scripts. Without `mixed_precision` that of
            `accelerate launch` counts. `num_train_epochs` above 0 takes the
            place of the config's `max_train_steps`; steps given as an argument count before either.
        report_to (`list[str]`): trackers (`tensorboard`, `trackio`, `wandb`), `all` or `none`.
        logging_steps (`int`): between two lines of `log.jsonl`, which is written whatever `report_to` says.
        num_threads (`int`): CPU threads of this process; 0 leaves torch's own choice.
        validation_images (`list[str]`): picture files or folders.
        validation_split (`str`): in their place, a split of the data set; its first `max_validation_samples` (`int`)
            pictures. Without either: those of `train_data_dir` that `exclude` leaves out, if `validation_steps` is
            above 0, and otherwise no validation.
        validation_steps (`int`): between two validations; 0: only at the end.
        validation_bpp (`list[float]`): rates at which real files are written, beside z-only.
        push_to_hub, hub_model_id, hub_token, hub_private_repo: publish the result.
        hub_license (`str`): of what is published, for its card (`apache-2.0`, ...); nothing is claimed by default.

    Optimiser:
        optimizer (`str`): `adamw`, or `adafactor`, which keeps next to no state where memory is short.
        learning_rate, scale_lr, lr_scheduler, lr_warmup_steps, adam_beta1, adam_beta2, adam_epsilon,
        adam_weight_decay, max_grad_norm: as in diffusers' scripts; gradients of any norm are taken whole where
            `max_grad_norm` is 0.
        analysis_lr_scale (`float`): factor on the learning rate of the analysis side in stage 1 (`vae.encoder`,
            `codec.enc`), whose every move all the rest has to follow.
        ema_decay (`float`): of the averaged weights, which are the ones that are saved; 0 switches it off.

    Objective of stage 1: L1 + losses + lambda(quality) x bpp + distillation:
        lambda_low, lambda_high (`float`): lambda at quality 0 and at quality 100; geometric in between. One number
            for a model of one rate.
        lambda_ramp_steps (`int`): lambda grows from near zero by the square of step / lambda_ramp_steps.
        lambda_balance (`float`): what a crop's losses and rate count is divided by its lambda to this power. With 0,
            coarse qualities, whose lambda is large, shape the analysis that all qualities share, and fine ones lose.
        z_only_share (`float`): share of crops of which only `z` is sent.
        z_range_weight (`float`): of the penalty that keeps the hyper-latent within FSQ's range.
        rate_estimate (`str`): `noise` or `straight_through`.
        exact_weights (`bool`): train the entropy model with weights on the exact path's grid (straight_through.py): for
            the last stretch before a release. Post-training quantisation costs 0.1 % of bytes, so there is little to
            win.
        distillation_weight (`float`): of cross-entropy + 0.01 x codebook distance (0.001 in the paper); 0: none.
        tokenizer (`str`): whose codes are distilled: `box`, a folder or file, or a Hub id (training/tokenizers.py).
        predictor (`dict`): settings of the code predictor (training/code_predictor.py).
        predictor_weights (`str`): a file of weights that it starts from, such as the authors' `model_2.safetensors`;
            empty: new ones.

    Losses on pictures, of both stages:
        balance_losses (`bool`): weights are ratios of gradient norms at the picture against the pixel loss; otherwise
            they multiply the losses, as in the paper.
        pixel_weight, ms_ssim_weight, colour_weight, grid_weight, texture_weight, statistics_weight, feature_weight,
        lpips_weight, dists_weight, adversary_weight (`float`): strengths; 0 switches a loss off. `pixel_weight` counts
            only where losses are not balanced; `texture_weight` counts once for each of its three losses,
            `statistics_weight` for each of its two.
        low_rate_detail (`float`): share of the pull of `statistics_weight` and `adversary_weight` on crops of quality 0
            and those of which only `z` is sent; it grows to 1 at quality 30.
        high_rate_detail (`float`): the same at quality 100; it falls from 1 at quality 60.
        high_rate_features (`float`): factor on `feature_weight` for crops of quality 80 and above; it grows from 1 at
            quality 30.
        feature_network (`str`): `lite1` or `lite2`.
        vgg_weights, lpips_heads, dists_weights (`str`): files of LPIPS and DISTS (training/perceptual.py).
        adversary_learning_rate (`float`), adversary_every (`int`): the discriminators' rate and how many steps apart
            they learn.
        adversary_loss (`str`): `hinge`, or `paired`: each place against the same place of the original.
        discriminators (`str`): where the discriminators start from: `box` (those that the model in the box learned
            from), or the `discriminators.safetensors` of a run; empty: new ones.
        adversary_warmup_steps (`int`): steps at the start in which only the discriminators (and in stage 2 the fake
            network) learn, so that new ones do not mislead a model that is good already (`init_from`).

    Objective of stage 2 (spec section 8 of the paper's recipe):
        teacher (`str`): folder or Hub id of the diffusion model whose scores guide the generator; empty: none.
        matching_weight, latent_gan_weight (`float`): of distribution matching and of the GAN on the fake network; with
            `balance_losses` ratios of gradient norms at the latent (0.3 is a good deal), otherwise factors (0.001 in
            the paper).
        guidance_scale (`float`): of the real scores of a teacher that sees captions, which then needs `caption_column`;
            1: no guidance, and captions may be missing.
        generator_every (`int`): iterations of the guidance for each update of the generator.
        guidance_learning_rate (`float`): of the fake network and its GAN head.
    """

    stage: int = 1
    model: str = "box-model"
    init_from: str = ""
    revision: str = ""
    variant: str = ""
    freeze: list[str] = dataclasses.field(default_factory=list)
    noise_channels: int = 0
    decoder_layers: int = 0
    head_layers: int = 0
    train_lora: bool = False
    rank: int = 64
    lora_alpha: float = 8.0
    lora_targets: list[str] = dataclasses.field(default_factory=list)
    lora_train_also: list[str] = dataclasses.field(default_factory=list)
    lora_beside: bool = False
    init_lora: str = ""

    train_data_dir: str = ""
    dataset_name: str = ""
    dataset_config_name: str = ""
    dataset_revision: str = ""
    dataset_split: str = "train"
    image_column: str = "image"
    caption_column: str = ""
    cache_dir: str = ""
    streaming: bool = False
    exclude: list[str] = dataclasses.field(default_factory=list)
    max_train_samples: int = 0
    resolution: int = 128
    smallest_scale: float = 0.5
    largest_scale: float = 1.0
    center_crop: bool = False
    random_flip: bool = True
    image_interpolation_mode: str = "lanczos"
    dataloader_num_workers: int = 0
    picture_cache_mib: int = 2048

    output_dir: str = "onedc-stage1"
    logging_dir: str = "logs"
    seed: int = 0
    train_batch_size: int = 8
    num_train_epochs: int = 0
    max_train_steps: int = 100_000
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    mixed_precision: str = ""
    allow_tf32: bool = False
    checkpointing_steps: int = 1000
    checkpoints_total_limit: int = 2
    resume_from_checkpoint: str = ""
    logging_steps: int = 50
    report_to: list[str] = dataclasses.field(default_factory=lambda: ["none"])
    tracker_project_name: str = "onedc"
    num_threads: int = 0
    validation_images: list[str] = dataclasses.field(default_factory=list)
    validation_split: str = ""
    max_validation_samples: int = 24
    validation_steps: int = 0
    validation_bpp: list[float] = dataclasses.field(default_factory=lambda: [0.03, 0.1])
    push_to_hub: bool = False
    hub_model_id: str = ""
    hub_token: str = ""
    hub_private_repo: bool = False
    hub_license: str = ""

    optimizer: str = "adamw"
    learning_rate: float = 5e-4
    scale_lr: bool = False
    lr_scheduler: str = "constant_with_warmup"
    lr_warmup_steps: int = 200
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    adam_epsilon: float = 1e-8
    adam_weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    analysis_lr_scale: float = 1.0
    ema_decay: float = 0.999

    lambda_low: float = 3.0
    lambda_high: float = 0.06
    lambda_ramp_steps: int = 1000
    lambda_balance: float = 0.0
    z_only_share: float = 0.1
    z_range_weight: float = 0.02
    rate_estimate: str = "straight_through"
    exact_weights: bool = False
    distillation_weight: float = 0.0
    tokenizer: str = "box"
    predictor: dict[str, Any] = dataclasses.field(default_factory=dict)
    predictor_weights: str = ""

    balance_losses: bool = True
    pixel_weight: float = 1.0
    ms_ssim_weight: float = 0.5
    colour_weight: float = 0.0
    grid_weight: float = 0.0
    texture_weight: float = 0.0
    statistics_weight: float = 0.0
    low_rate_detail: float = 1.0
    high_rate_detail: float = 1.0
    high_rate_features: float = 1.0
    feature_weight: float = 0.5
    feature_network: str = "lite1"
    lpips_weight: float = 0.0
    dists_weight: float = 0.0
    vgg_weights: str = ""
    lpips_heads: str = ""
    dists_weights: str = ""
    adversary_weight: float = 0.0
    adversary_learning_rate: float = 2e-4
    adversary_every: int = 2
    adversary_loss: str = "hinge"
    discriminators: str = ""
    adversary_warmup_steps: int = 0

    teacher: str = ""
    matching_weight: float = 1.0
    latent_gan_weight: float = 1e-3
    guidance_scale: float = 1.75
    generator_every: int = 10
    guidance_learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        if self.stage not in (1, 2):
            raise ValueError(f"`stage` must be 1 or 2; got {self.stage}.")
        if self.resolution <= 0 or self.resolution % 64:
            raise ValueError(f"`resolution` must be a positive multiple of 64; got {self.resolution}.")
        if bool(self.train_data_dir) == bool(self.dataset_name):
            raise ValueError("Give either `train_data_dir` (a folder of pictures) or `dataset_name` (a Hub data set).")
        if (self.lora_beside or self.init_lora) and not self.train_lora:
            raise ValueError("`lora_beside` and `init_lora` are for adapters: they need `train_lora`.")
        if self.streaming and not self.dataset_name:
            raise ValueError("`streaming` is for data sets of the Hub (`dataset_name`); a folder is read as it is.")
        if self.validation_images and self.validation_split:
            raise ValueError("Give either `validation_images` (files or folders) or `validation_split` (of the data).")
        if self.streaming and self.dataloader_num_workers:
            raise ValueError("A streamed data set is read by the training process: leave `dataloader_num_workers` 0.")
        if not 0 <= self.z_only_share < 1:
            raise ValueError(f"`z_only_share` must lie in [0, 1); got {self.z_only_share}.")
        if min(self.lambda_low, self.lambda_high) <= 0:
            raise ValueError("`lambda_low` and `lambda_high` must be above 0.")
        if self.analysis_lr_scale <= 0:
            raise ValueError(f"`analysis_lr_scale` must be above 0 (`freeze` stops it); got {self.analysis_lr_scale}.")
        if self.mixed_precision not in _MIXED_PRECISIONS:
            raise ValueError(
                f"`mixed_precision` is one of {', '.join(_MIXED_PRECISIONS[1:])}; got {self.mixed_precision}."
            )
        self.check_precision(self.mixed_precision)
        if self.hub_license and not _LICENCE_ID.fullmatch(self.hub_license):  # the Hub says so only after the last step
            raise ValueError(
                "`hub_license` is an id as the Hub writes it, such as apache-2.0 or cc-by-4.0 (`other` for a licence "
                f"without one); got {self.hub_license!r}."
            )
        if self.predictor_weights and not self.distillation_weight:
            raise ValueError("`predictor_weights` is for the distillation, which `distillation_weight` 0 switches off.")
        if self.optimizer not in _OPTIMIZERS:
            raise ValueError(f"`optimizer` is one of {', '.join(_OPTIMIZERS)}; got {self.optimizer!r}.")
        if not 0 < self.smallest_scale <= self.largest_scale:
            raise ValueError(
                f"`smallest_scale` must be above 0 and not above `largest_scale`; got {self.smallest_scale} and "
                f"{self.largest_scale}."
            )
        if self.adversary_loss not in ADVERSARY_LOSSES:
            raise ValueError(f"`adversary_loss` is one of {', '.join(ADVERSARY_LOSSES)}; got {self.adversary_loss!r}.")
        for name in ("low_rate_detail", "high_rate_detail"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1]; got {getattr(self, name)}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must lie in [0, 1), 0 for no average; got {self.ema_decay}.")
        if any(bpp <= 0 for bpp in self.validation_bpp):
            raise ValueError(f"`validation_bpp` must be above 0; got {self.validation_bpp}.")
        for name in (
            "noise_channels",
            "decoder_layers",
            "head_layers",
            "picture_cache_mib",
            "num_threads",
            "num_train_epochs",
            "max_grad_norm",
            "max_train_samples",
            "validation_steps",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be below 0; got {getattr(self, name)}.")
        for name in (
            "train_batch_size",
            "max_train_steps",
            "gradient_accumulation_steps",
            "checkpointing_steps",
            "checkpoints_total_limit",
            "logging_steps",
            "max_validation_samples",
            "rank",
            "adversary_every",
            "generator_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")

    def check_precision(self, mixed_precision: str) -> None:
        """Refuses a number format, of these settings or of the launcher, that stage 2 cannot accumulate gradients in.

        Generator and guidance share float16's one scale of losses, and it changes when the first of them has taken its
        step: what the other has gathered until then would be of another scale.

        Raises:
            ValueError: for float16 with a teacher and several micro-batches.
        """
        if mixed_precision == "fp16" and self.stage == 2 and self.teacher and self.gradient_accumulation_steps > 1:
            raise ValueError(
                "Stage 2 with a `teacher` cannot accumulate gradients in fp16: use `mixed_precision` bf16, or a larger "
                "`train_batch_size` with `gradient_accumulation_steps` 1."
            )

    def to_json(self) -> str:
        """The record as JSON, as it is kept beside the weights; without the token."""
        return json.dumps(dataclasses.asdict(dataclasses.replace(self, hub_token="")), indent=2)
