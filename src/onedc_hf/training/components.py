"""Makes, loads and saves the components that training changes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn

from ..errors import ModelError
from ..models import OneDCAutoencoder, OneDCCodec, OneDCCodecConfig, OneDCGenerator, OneDCGeneratorConfig
from ..models.adapters import BESIDE_ADAPTER, OWN_ADAPTER
from ..models.patch_attention import attend_in_patches
from ..pipeline import OneDCPipeline
from .config import TrainConfig
from .config_files import model_settings
from .model import TrainableOneDC, TrainableVAE

# Prefixes of what decides symbols, given a picture.
DECIDES_SYMBOLS = ("codec.entropy", "codec.enc", "codec.hyper_enc", "gain_anchors", "vae.encoder")

__all__ = [
    "DECIDES_SYMBOLS",
    "choose_what_learns",
    "grow_decoder",
    "in_place",
    "load_model",
    "load_start",
    "make_model",
    "pipeline_around",
    "save_pipeline",
    "save_result",
]

logger = logging.getLogger(__name__)


def make_model(name: str, rate_estimate: str = "straight_through") -> TrainableOneDC:
    """A model with random weights from a model config of the package, but for parts that the config loads.

    A config may name pretrained parts, as the paper's model starts from Stable Diffusion's:
    `"pretrained": {"unet": {"repository", "subfolder"}, "vae": {"repository", "subfolder"}}`. Of the U-Net everything
    is taken that fits; its input convolution stays random, since it sees other channels.

    Raises:
        ModelError: if a pretrained part cannot be loaded or does not fit.
    """
    settings = model_settings(name)
    pretrained: dict[str, dict[str, str]] = settings.get("pretrained", {})
    codec = OneDCCodec(OneDCCodecConfig(**settings["codec"]))
    generator = OneDCGenerator(OneDCGeneratorConfig(**settings["generator"]))
    vae: TrainableVAE
    if "vae" in pretrained:
        vae = _load_part(AutoencoderKL, pretrained["vae"])
    elif settings["vae"].get("_class_name") == "AutoencoderKL":
        vae = AutoencoderKL(**{key: value for key, value in settings["vae"].items() if key != "_class_name"})
    else:
        vae = OneDCAutoencoder(**settings["vae"])
    if isinstance(vae, AutoencoderKL):
        attend_in_patches(vae, codec.config.vae_attention_patch)
    if "unet" in pretrained:
        _take_unet(generator, _load_part(UNet2DConditionModel, pretrained["unet"]))
    return TrainableOneDC(codec, generator, vae, DDPMScheduler(**settings["scheduler"]), rate_estimate)


def _load_part(kind: Any, place: dict[str, str]) -> Any:
    try:
        return kind.from_pretrained(
            place["repository"],
            subfolder=place.get("subfolder"),
            revision=place.get("revision"),
            use_safetensors=True,
            dtype=torch.float32,
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The pretrained {kind.__name__} of this model config could not be loaded from {place}: {error}"
        ) from error


def _take_unet(generator: OneDCGenerator, source: UNet2DConditionModel) -> None:
    """Copies a diffusion U-Net's weights into the generator, all but `conv_in`."""
    weights = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("conv_in.")}
    own = {name for name in generator.unet.state_dict() if not name.startswith("conv_in.")}
    strange = sorted(own ^ set(weights)) or [
        name for name, tensor in weights.items() if tensor.shape != generator.unet.state_dict()[name].shape
    ]
    if strange:
        raise ModelError(f"The pretrained U-Net does not fit the generator's config: {', '.join(strange[:5])} ...")
    generator.unet.load_state_dict(weights, strict=False)


def load_model(
    source: str,
    rate_estimate: str = "straight_through",
    freeze: Sequence[str] = (),
    *,
    revision: str | None = None,
    variant: str | None = None,
) -> TrainableOneDC:
    """The components of a saved pipeline, in float32, ready to train.

    An exact entropy model stays as it is, and with it every file's identity, if `freeze` covers everything that decides
    symbols; otherwise it becomes the float one that it stands for.

    Args:
        source (`str`): folder or Hub id; empty: the model in the box.
        rate_estimate (`str`): see `TrainableOneDC`.
        freeze (`Sequence[str]`): prefixes of parameters that will not learn.
        revision (`str`, *optional*): of the pipeline.
        variant (`str`, *optional*): of the pipeline's files.

    Raises:
        ModelError: if the pipeline only reads files (`decoder_only`), or cannot be loaded.
    """
    options = {key: value for key, value in {"revision": revision, "variant": variant}.items() if value}
    pipe = OneDCPipeline.from_pretrained(source or None, dtype=torch.float32, **options)
    if pipe.codec.config.decoder_only:
        raise ModelError(
            f"The model of {source!r} only reads files: it was saved without its analysis side (`decoder_only`), and "
            "training needs that. Start from a whole model, such as the one in the box (no `--init_from`)."
        )
    if not all(part.startswith(tuple(freeze)) for part in DECIDES_SYMBOLS):
        pipe.codec.make_float()
    return TrainableOneDC(pipe.codec, pipe.generator, pipe.vae, pipe.scheduler, rate_estimate)


def load_start(config: TrainConfig) -> TrainableOneDC:
    """The model that a run's settings start from (see `load_model`), its decoder grown as they ask.

    Raises:
        ModelError: if the pipeline cannot be trained, or its VAE cannot have what is asked for.
    """
    model = load_model(
        config.init_from, config.rate_estimate, config.freeze, revision=config.revision, variant=config.variant
    )
    grow_decoder(model, config)
    return model


def grow_decoder(model: TrainableOneDC, config: TrainConfig) -> None:
    """Gives the VAE's decoder the noise and the blocks that a run's settings ask for.

    Raises:
        ModelError: if this VAE cannot have them, or has other noise or more blocks.
    """
    asked = [name for name in ("noise_channels", "decoder_layers", "head_layers") if getattr(config, name)]
    if not asked:
        return
    if not isinstance(model.vae, OneDCAutoencoder):
        raise ModelError(
            f"`{asked[0]}` is for OneDCAutoencoder, and this model's VAE is a {type(model.vae).__name__}: leave it at "
            "0."
        )
    if config.noise_channels:
        model.vae = model.vae.with_noise(config.noise_channels)
    if config.decoder_layers:
        model.vae = model.vae.with_decoder_layers(config.decoder_layers)
    if config.head_layers:
        model.vae = model.vae.with_head_layers(config.head_layers)


def choose_what_learns(model: TrainableOneDC, config: TrainConfig) -> list[nn.Parameter]:
    """Freezes what the settings freeze and returns what is left.

    With `train_lora`, of the generator only an adapter learns, and what `lora_train_also` names: the one that the model
    owns, or a new one. If nothing else learns, a new adapter stands for itself and is saved alone; otherwise it becomes
    a part of the model (`OneDCGeneratorConfig.lora`), as in the paper's training from Stable Diffusion.

    Raises:
        ValueError: if nothing is left, or not what is new.
    """
    if config.train_lora:
        _prepare_adapter(model.generator, config)
    _refuse_unknown(config.freeze, model)
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(config.freeze)):
            parameter.requires_grad_(False)
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if config.noise_channels and not any(name.startswith("vae.noise_") for name in trainable):
        raise ValueError(
            "`noise_channels` gives the VAE's decoder weights that have to learn, and `freeze` covers them: freeze "
            "`vae.encoder` in place of `vae` (in stage 2 an empty `freeze` covers the whole VAE), or leave it at 0."
        )
    for setting in ("decoder_layers", "head_layers"):
        if getattr(config, setting) and not any(name.startswith("vae.decoder.") for name in trainable):
            raise ValueError(
                f"`{setting}` gives the VAE's decoder blocks that have to learn, and `freeze` covers them: freeze "
                "`vae.encoder` in place of `vae` (in stage 2 an empty `freeze` covers the whole VAE), or leave it at 0."
            )
    if not trainable:
        raise ValueError("Everything is frozen: nothing would learn. Look at `freeze`.")
    others = sorted({".".join(name.split(".")[:2]) for name in trainable if not name.startswith("generator.")})
    alone = not others
    if (config.init_lora or BESIDE_ADAPTER in model.generator.adapters) and not alone:
        raise ValueError(
            "An adapter that goes on (`init_lora`), or learns beside the model's own, is saved alone, so nothing else "
            f"may learn, but {', '.join(others)} would: `--freeze codec gain_anchors vae`."
        )
    if config.train_lora and not alone and model.generator.config.lora is None:
        settings = model.generator.unet.peft_config["default"]
        model.generator.config.lora = {
            "r": settings.r,
            "lora_alpha": settings.lora_alpha,
            "target_modules": sorted(settings.target_modules),
        }
    return list(trainable.values())


def _prepare_adapter(generator: OneDCGenerator, config: TrainConfig) -> None:
    """Puts the adapter that is to learn onto the generator, or takes up the one that the model owns."""
    from .lora import add_adapter, continue_adapter, load_adapter  # peft is needed for nothing else

    own, also = generator.config.lora, config.lora_train_also
    name = OWN_ADAPTER if own is None else BESIDE_ADAPTER
    if config.init_lora:
        load_adapter(generator, config.init_lora, adapter_name=name)
        continue_adapter(generator, name, train_also=also)
    elif own is None or config.lora_beside:
        targets = config.lora_targets or None
        add_adapter(generator, config.rank, config.lora_alpha, targets, train_also=also, adapter_name=name)
    else:
        if (config.rank, config.lora_alpha) != (own.get("r"), own.get("lora_alpha")) or config.lora_targets:
            logger.warning(
                "The model carries an adapter of its own (rank %s, alpha %s), and training goes on with that: `rank`, "
                "`lora_alpha` and `lora_targets` count for a new one, beside it (`--lora_beside`).",
                own.get("r"),
                own.get("lora_alpha"),
            )
        continue_adapter(generator, train_also=also)


def _refuse_unknown(prefixes: Sequence[str], model: TrainableOneDC) -> None:
    """A name that freezes nothing is a slip: what was to be kept would learn.

    Raises:
        ValueError: naming it.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        # Some models lack some of the parts that decide symbols: one of a single rate has no gains.
        if prefix not in DECIDES_SYMBOLS and not any(name.startswith(prefix) for name in names):
            parts = sorted({".".join(name.split(".")[:2]) for name in names})
            raise ValueError(f"`freeze`: nothing in this model is called {prefix!r}. There are {', '.join(parts)}.")


def save_result(model: TrainableOneDC, output: Path, config: TrainConfig) -> Path:
    """Writes what a run trained: a pipeline to `output/pipeline`, or an adapter alone to `output`.

    Returns:
        `Path`: the folder that `from_pretrained` or `load_lora_weights` reads.
    """
    if config.train_lora and (model.generator.config.lora is None or BESIDE_ADAPTER in model.generator.adapters):
        from .lora import save_adapter

        save_adapter(model.generator, output)
        return output
    save_pipeline(model, output / "pipeline")
    return output / "pipeline"


def save_pipeline(model: TrainableOneDC, folder: str | Path, *, variant: str | None = None) -> OneDCPipeline:
    """Saves a pipeline that is ready to code: gain table written, identity computed.

    Returns:
        `OneDCPipeline`: the pipeline around the same (not copied) components.
    """
    with in_place(model):
        pipe = pipeline_around(model)
        pipe.save_pretrained(folder, variant=variant)
    return pipe


def pipeline_around(model: TrainableOneDC) -> OneDCPipeline:
    """A pipeline of a model's own components, with its gain table written and its identity computed."""
    model.write_gains()
    model.codec.config.model_id = model.codec.entropy.digest().hex()
    return OneDCPipeline(model.vae, model.codec, model.generator, model.scheduler)


@contextmanager
def in_place(model: TrainableOneDC) -> Iterator[None]:
    """Afterwards modules train or not as before, and weights lie where they did: a pipeline has a layout of its own."""
    modes = {module: module.training for module in model.modules()}
    places = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, data in places:
            parameter.data = data
        for module, mode in modes.items():
            module.training = mode
