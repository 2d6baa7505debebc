"""OneDCGenerator: the one-step latent-diffusion U-Net (paper, section 3.1; equation of the x0 prediction).

Shapes: B batch, D detail channels, L latent channels, h and w rows and columns at 1/8, T semantic tokens of width S.
"""

import functools
import re
from dataclasses import field
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils.accelerate_utils import apply_forward_hook
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import ModelError
from .adapters import Adapter, refuse_adapters
from .blocks import ChannelNorm, Float32Conv2d, keep_float32
from .whole import WholeWeights

__all__ = ["OneDCGenerator", "OneDCGeneratorConfig"]

_LAYER = re.compile(r"[\w.]{1,200}")  # the name of a module
_SD15_UNET: dict[str, Any] = {
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}


@strict
class OneDCGeneratorConfig(PreTrainedConfig):
    """Configuration of `OneDCGenerator`. The defaults are the paper's: Stable Diffusion 1.5.

    Args:
        detail_channels (`int`): D, channels of the codec's detail features, the U-Net's input.
        latent_channels (`int`): L, channels of the VAE's latent, the U-Net's output.
        unet (`dict`): further arguments of diffusers' `UNet2DConditionModel`.
        norm (`"group"` or `"channel"`): `channel` puts a LayerNorm over channels in the place of every GroupNorm, with
            the same parameters, so that statistics do not depend on the picture's size.
        reduction_groups (`int`): GroupNorm groups of the reduction block (norm `group`).
        timestep (`int`): the one timestep, 999.
        alpha_cumprod (`float`): the noise schedule's cumulative alpha there, in float32 as the schedule computes it.
        quality_embedding (`bool`): the U-Net also sees the file's quality (many-rate models).
        lora (`dict`, *optional*): `r`, `lora_alpha` and `target_modules` (a list) of peft's `LoraConfig`: the U-Net
            then carries that adapter beside its weights, for fine-tuning. Needs peft.
    """

    model_type = "onedc_generator"

    detail_channels: int = 320
    latent_channels: int = 4
    unet: dict[str, Any] = field(default_factory=lambda: dict(_SD15_UNET))
    norm: Literal["group", "channel"] = "group"
    reduction_groups: int = 32
    timestep: int = 999
    alpha_cumprod: float = 0.00466009508818388
    quality_embedding: bool = False
    lora: dict[str, Any] | None = None


class _Reduction(nn.Module):
    """`vae_reduction`: the detail features as the noisy sample x_t. Always in float32: x0 multiplies its error."""

    def __init__(self, channels: int, out_channels: int, groups: int, norm: str):
        super().__init__()

        def make_norm() -> nn.Module:
            return ChannelNorm(channels) if norm == "channel" else nn.GroupNorm(groups, channels, eps=1e-6)

        self.blocks = nn.Sequential(
            make_norm(),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            make_norm(),
            nn.SiLU(),
            nn.Conv2d(channels, out_channels, 3, padding=1),
        )
        self.short_cut = nn.Conv2d(channels, out_channels, 1)

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        return keep_float32(self, fn, recurse)

    def forward(self, detail: Tensor) -> Tensor:
        with torch.autocast(device_type=detail.device.type, enabled=False):
            detail = detail.to(self.short_cut.weight.dtype)
            return self.blocks(detail) + self.short_cut(detail)


def _replace_group_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(module, name, ChannelNorm(child.num_channels, child.eps))
        else:
            _replace_group_norms(child)


def _add_lora(unet: UNet2DConditionModel, options: dict[str, Any]) -> None:
    names = options.get("target_modules")
    # What peft would read as a regular expression can take for ever, and a config may be a stranger's.
    if not (
        options.keys() <= {"r", "lora_alpha", "target_modules"}
        and isinstance(names, list)
        and all(isinstance(name, str) and _LAYER.fullmatch(name) for name in names)
    ):
        raise ModelError(
            "The generator's `lora` must have `r`, `lora_alpha` and a list of layers as `target_modules`, and nothing "
            "else; put any other adapter onto the model with `load_lora_weights`."
        )
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ModelError(
            "This generator carries a LoRA beside its weights, which needs peft: pip install 'onedc-hf[train]'."
        ) from error
    unet.add_adapter(LoraConfig(**options))


class OneDCGenerator(WholeWeights, PreTrainedModel):
    """One evaluation of the U-Net at t = 999 turns detail features and semantic tokens into the clean latent.

    Args:
        config (`OneDCGeneratorConfig`): widths; the defaults are the full-size model.
    """

    config: OneDCGeneratorConfig
    config_class = OneDCGeneratorConfig
    base_model_prefix = ""
    main_input_name = "detail"
    _keep_in_fp32_modules_strict = ["unet.conv_out", "vae_reduction"]

    def __init__(self, config: OneDCGeneratorConfig):
        super().__init__(config)
        self.adapters: dict[str, Adapter] = {}  # what was put onto the U-Net since (lora.py), beside `config.lora`
        extra = {"class_embed_type": "timestep"} if config.quality_embedding else {}
        self.unet = UNet2DConditionModel(
            in_channels=config.detail_channels, out_channels=config.latent_channels, **config.unet, **extra
        )
        last = self.unet.conv_out
        self.unet.conv_out = Float32Conv2d(last.in_channels, last.out_channels, 3, padding=1)
        self.vae_reduction = _Reduction(
            config.detail_channels, config.latent_channels, config.reduction_groups, config.norm
        )
        if config.norm == "channel":
            _replace_group_norms(self.unet)
        self.post_init()
        if config.lora is not None:  # behind the initialisation: an adapter begins without effect, with B = 0
            _add_lora(self.unet, config.lora)

    def _init_weights(self, module: nn.Module) -> None:
        """Torch's own initialisation, in place of the small normal one that the base class gives every layer."""
        if isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm | nn.LayerNorm | ChannelNorm):
            module.reset_parameters()

    @functools.wraps(PreTrainedModel.save_pretrained)  # diffusers looks for `variant` and others in the signature
    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Saves the generator as `PreTrainedModel` does.

        Raises:
            ModelError: if an adapter is on it, or what is left of one: it is no part of the model.
        """
        refuse_adapters(self)
        super().save_pretrained(*args, **kwargs)

    @apply_forward_hook
    def predict(self, detail: Tensor, tokens: Tensor, quality: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The U-Net's noise estimate and the reduced sample, both `[B, L, h, w]` in float32 (float64 if cast to it).

        Args:
            detail (`torch.Tensor` of shape `[B, D, h, w]`): from the codec's synthesis.
            tokens (`torch.Tensor` of shape `[B, T, S]`): the semantic tokens.
            quality (`torch.Tensor` of shape `[B]`, *optional*): 0 to 100, or -1 for a z-only file; ignored by models
                without a quality embedding.
        """
        dtype = self.unet.conv_in.weight.dtype
        timestep = torch.full((detail.shape[0],), self.config.timestep, dtype=torch.long, device=detail.device)
        labels = None
        if self.config.quality_embedding:
            if quality is None:
                raise ValueError("This generator has a quality embedding: `quality` must be given (-1 for z-only).")
            quality = torch.as_tensor(quality, device=detail.device).reshape(-1).expand(detail.shape[0])
            labels = (quality + 1) * (1000 / 101)  # the range that timestep embeddings are made for
        noise = self.unet(
            detail.to(dtype), timestep, encoder_hidden_states=tokens.to(dtype), class_labels=labels, return_dict=False
        )[0]
        return noise, self.vae_reduction(detail)

    def forward(self, detail: Tensor, tokens: Tensor, quality: Tensor | None = None) -> Tensor:
        """The clean latent x0 = (r - sqrt(1 - a) eps) / sqrt(a), `[B, L, h, w]`, scaled as the VAE's encoder output.

        The formula runs in float64: it multiplies errors by sqrt((1 - a) / a) = 14.6 before most of them cancel.
        """
        noise, reduced = self.predict(detail, tokens, quality)
        return self.to_clean_latent(noise, reduced)

    def to_clean_latent(self, noise: Tensor, reduced: Tensor) -> Tensor:
        """The x0 formula alone."""
        alpha = self.config.alpha_cumprod
        wide = torch.float32 if reduced.device.type == "mps" else torch.float64  # MPS has no float64
        clean = (reduced.to(wide) - (1 - alpha) ** 0.5 * noise.to(wide)) / alpha**0.5
        return clean.to(reduced.dtype)
