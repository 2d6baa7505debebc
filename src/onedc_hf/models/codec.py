"""OneDCCodec: picture and latent in, symbols out, and back to what the one-step generator needs (paper, figure 2).

    (pixels, latent l) -> enc -> y [1/16], semantic map [1/64]
    (y, semantic map)  -> hyper_enc -> z -> FSQ -> codes
    codes              -> entropy (hyper-synthesis, four passes) <-> symbols of y
    codes              -> semantic_adaptor -> semantic tokens
    (y_hat, tokens)    -> dec -> detail features [1/8]

Shapes: B batch, H and W rows and columns of the padded picture (multiples of 64), h = H/8, w = W/8, Y = H/16, X = W/16,
Z = H/64, V = W/64, N channels of `y`, K digits of `z`, S semantic channels, D detail channels, L latent channels.
"""

from dataclasses import field
from typing import Literal

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..coding.order import Y_PER_Z, unit_row_slices
from ..errors import ModelError
from .attention import AttentionBlock
from .blocks import BLOCK_NAMES, DepthConvBlock, ResidualUpsample, make_block, make_stage
from .context import CodingPass, EntropyModel, HyperParameters
from .exact import ExactEntropyModel, ExactHyper
from .fsq import FiniteScalarQuantizer
from .quantize import Ranges, dequantise_entropy, quantise_entropy
from .rounding import round_for_rate
from .trunk import LiteTrunk, UNetTrunk
from .whole import WholeWeights

__all__ = ["OneDCCodec", "OneDCCodecConfig", "semantic_tokens"]

_Y_HALO = 8  # rows of `y` around a strip of the hyper-analysis; a multiple of `Y_PER_Z`
_PAPER_SEMANTIC_BLOCKS = (
    "depth_conv", "resnet", "attention", "attention", "resnet", "attention", "attention", "depth_conv",
)  # fmt: skip


@strict
class OneDCCodecConfig(PreTrainedConfig):
    """Configuration of `OneDCCodec`. The defaults are the paper's full-size model.

    Args:
        latent_channels (`int`): L, channels of the VAE's latent.
        y_channels (`int`): N, channels of the coded latent `y`; a multiple of 4.
        fsq_levels (`list[int]`): levels of the digits of the hyper-latent.
        quality_rows (`int`): rates the model can write; 1 is the paper's one-rate model.
        groups (`int`): groups of every GroupNorm.
        lite_expansion (`int`): inner width of `lite` blocks.

        pixel_embedding_channels, fused_channels (`int`): widths of the analysis transform's input.
        trunk (`"unet"` or `"lite"`): which trunk (models/trunk.py).
        trunk_channels (`list[int]`): widths at 1/16, 1/32, 1/64; the last is S.
        trunk_layers (`list[int]`): `lite`: blocks at 1/8, 1/16, 1/32, 1/64; `unet`: one entry, resnets a level.
        trunk_head_width (`int`): `unet`: width of an attention head.
        analysis_blocks (`list[str]`): blocks between the trunk and `y`; the last one changes the width.

        hyper_channels (`list[int]`): widths of the hyper-analysis after fusion (three).
        hyper_attention (`bool`): attention between its blocks.
        semantic_blocks (`list[str]`): blocks of the semantic adaptor.

        entropy_expansion, spatial_prior_layers (`int`), entropy_slopes (`list[float]`): see `EntropyModel`.
        skip_index (`int`): scale indexes below it are coded as one group.
        rounding_rate_weight (`float`): what a bit is worth, in squared steps of the quantiser, where an encoder chooses
            symbols of `y` (models/rounding.py), in [0, 1]; at quality 0, from where it falls to 0 at 50: with bits to
            spare, small detail is worth more than its squared error says. 0: they are rounded, as in the paper. It
            changes no identity: files decode as ever.

        synthesis_channels (`list[int]`): widths of the synthesis transform at 1/16 and 1/8.
        synthesis_input (`list[str]`), synthesis_blocks, synthesis_upsampled_blocks: its blocks at 1/16 (input, then
            residual) and at 1/8.
        synthesis_upsample (`"paper"` or `"lite"`): pixel shuffle after a 1x1 convolution, with or without the paper's
            widening and 3x3 convolution.
        semantic_upsample_channels (`list[int]`): widths of the token upsampler at 1/32, 1/16 and 1/8.
        semantic_upsample_blocks (`bool`): a `depth_conv` block after each doubling but the last.
        detail_channels (`int`): D, channels handed to the generator.
        output_block (`"depth_conv"` or `"conv"`): the synthesis transform's last layer.

        entropy_path (`"float"` or `"exact"`): arithmetic of the entropy model. `float` is what is trained and compared
            with the reference; files are written by `exact` (models/exact.py).
        authors_entropy (`bool`): keep the float entropy model beside the exact one, to open files of the authors'
            program (authors.py).
        decoder_only (`bool`): without the analysis side: a model that reads files and writes none.
        z_only (`bool`): a model that sends the hyper-latent alone: it writes z-only files whatever is asked for.
        vae_attention_patch (`int`): side, in latent positions, of the patches that the attention of an `AutoencoderKL`
            is applied to (paper's program; spec section 5); 0: to the whole map.
        model_id (`str`): SHA-256 of the entropy model, 64 hex digits; empty until the model is first saved.

    Raises:
        StrictDataclassClassValidationError: for values that contradict each other.
    """

    model_type = "onedc_codec"

    latent_channels: int = 4
    y_channels: int = 128
    fsq_levels: list[int] = field(default_factory=lambda: [4] * 7)
    quality_rows: int = 1
    groups: int = 32
    lite_expansion: int = 3

    pixel_embedding_channels: int = 192
    fused_channels: int = 320
    trunk: Literal["unet", "lite"] = "unet"
    trunk_channels: list[int] = field(default_factory=lambda: [512, 768, 768])
    trunk_layers: list[int] = field(default_factory=lambda: [2])
    trunk_head_width: int = 8
    analysis_blocks: list[str] = field(
        default_factory=lambda: ["resnet", "attention", "resnet", "depth_conv", "depth_conv"]
    )

    hyper_channels: list[int] = field(default_factory=lambda: [768, 512, 512])
    hyper_attention: bool = True
    semantic_blocks: list[str] = field(default_factory=lambda: list(_PAPER_SEMANTIC_BLOCKS))

    entropy_expansion: int = 4
    spatial_prior_layers: int = 3
    entropy_slopes: list[float] = field(default_factory=lambda: [0.01, 0.1])
    skip_index: int = 0
    rounding_rate_weight: float | int = 0.0

    synthesis_channels: list[int] = field(default_factory=lambda: [512, 256])
    synthesis_input: list[str] = field(default_factory=lambda: ["depth_conv", "depth_conv"])
    synthesis_blocks: list[str] = field(default_factory=lambda: ["resnet"] * 3)
    synthesis_upsampled_blocks: list[str] = field(default_factory=lambda: ["resnet"] * 3)
    synthesis_upsample: Literal["paper", "lite"] = "paper"
    semantic_upsample_channels: list[int] = field(default_factory=lambda: [512, 256, 256])
    semantic_upsample_blocks: bool = True
    detail_channels: int = 320
    output_block: Literal["depth_conv", "conv"] = "depth_conv"

    entropy_path: Literal["float", "exact"] = "float"
    authors_entropy: bool = False
    decoder_only: bool = False
    z_only: bool = False
    vae_attention_patch: int = 16
    model_id: str = ""

    def validate_layout(self) -> None:
        """Checks what the types cannot say; called at construction."""
        if self.y_channels % 4:
            raise ValueError(f"`y_channels` must be a multiple of 4 (four passes); got {self.y_channels}.")
        if not 1 <= self.quality_rows <= 101:
            raise ValueError(f"`quality_rows` must be 1 to 101; got {self.quality_rows}.")
        if not 0 <= self.rounding_rate_weight <= 1:
            raise ValueError(f"`rounding_rate_weight` must lie in [0, 1]; got {self.rounding_rate_weight}.")
        lists = (
            self.analysis_blocks,
            self.semantic_blocks,
            self.synthesis_input,
            self.synthesis_blocks,
            self.synthesis_upsampled_blocks,
        )
        unknown = {name for names in lists for name in names} - set(BLOCK_NAMES)
        if unknown:
            raise ValueError(f"Unknown blocks {sorted(unknown)}; a config may name {', '.join(BLOCK_NAMES)}.")
        if not self.analysis_blocks:
            raise ValueError("`analysis_blocks` must name at least one block, the one that makes `y`.")
        if len(self.semantic_upsample_channels) != 3 or len(self.entropy_slopes) != 2:
            raise ValueError("`semantic_upsample_channels` has three entries, `entropy_slopes` two.")
        if len(self.trunk_channels) != 3 or len(self.hyper_channels) != 3 or len(self.synthesis_channels) != 2:
            raise ValueError("`trunk_channels` and `hyper_channels` have three entries, `synthesis_channels` two.")
        if len(self.trunk_layers) != (4 if self.trunk == "lite" else 1):
            raise ValueError(f"`trunk_layers` of a {self.trunk!r} trunk: got {self.trunk_layers}.")

    @property
    def semantic_channels(self) -> int:
        """S: width of the semantic map and of the semantic tokens."""
        return self.trunk_channels[2]


class _Analysis(nn.Module):
    """`enc`: pixels and latent to `y` and the semantic map."""

    def __init__(self, config: OneDCCodecConfig):
        super().__init__()
        c = config
        self.pix_emb = nn.Conv2d(3, c.pixel_embedding_channels, 8, stride=8)
        self.pix_fusion = nn.Conv2d(c.pixel_embedding_channels + c.latent_channels, c.fused_channels, 1)
        fine = c.trunk_channels[0]
        if c.trunk == "unet":
            self.unet = UNetTrunk(
                c.fused_channels, fine, c.trunk_channels, c.trunk_layers[0], c.groups, c.trunk_head_width
            )
        else:
            self.unet = LiteTrunk(c.fused_channels, c.trunk_channels, c.trunk_layers, c.lite_expansion)
        keep, last = c.analysis_blocks[:-1], c.analysis_blocks[-1]
        options = {"groups": c.groups, "expansion": c.lite_expansion if c.trunk == "lite" else 4}
        self.trans_coding = make_stage(keep, fine, fine, **options)
        self.trans_coding.append(make_block(last, fine, c.y_channels, **options))

    def forward(self, pixels: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        fused = self.pix_fusion(torch.cat([self.pix_emb(pixels), latent], dim=1))  # [B, C, h, w]
        fine, semantic = self.unet(fused)
        return self.trans_coding(fine), semantic  # [B, N, Y, X], [B, S, Z, V]


class _HyperAnalysis(nn.Module):
    """`hyper_enc`: `y` and the semantic map to `z` (before FSQ)."""

    def __init__(self, config: OneDCCodecConfig):
        super().__init__()
        n, s, (a, b, c) = config.y_channels, config.semantic_channels, config.hyper_channels
        self.y_trans_coding = nn.Sequential(
            DepthConvBlock(n, n),
            nn.Conv2d(n, n, 3, stride=2, padding=1),
            DepthConvBlock(n, n),
            nn.Conv2d(n, n, 3, stride=2, padding=1),
        )
        attention = config.hyper_attention
        self.fusion = nn.Sequential(
            DepthConvBlock(n + s, a),
            AttentionBlock(a, config.groups) if attention else nn.Identity(),
            DepthConvBlock(a, b),
            AttentionBlock(b, config.groups) if attention else nn.Identity(),
            DepthConvBlock(b, c),
            nn.Conv2d(c, len(config.fsq_levels), 1),
        )

    def forward(self, y: Tensor, semantic: Tensor) -> Tensor:
        return self.fusion(torch.cat([self._reduce(y), semantic], dim=1))  # [B, K, Z, V]

    def _reduce(self, y: Tensor) -> Tensor:
        """`y_trans_coding` in strips, for bounded memory (it looks 6 rows around); most pictures are one strip."""
        strips = []
        for rows in unit_row_slices(y.shape[2] // Y_PER_Z, y.shape[3] // Y_PER_Z):
            top, bottom = max(0, rows.start - _Y_HALO), min(y.shape[2], rows.stop + _Y_HALO)
            inside = slice((rows.start - top) // Y_PER_Z, (rows.stop - top) // Y_PER_Z)
            strips.append(self.y_trans_coding(y[:, :, top:bottom])[:, :, inside])
        return torch.cat(strips, dim=2)  # [B, N, Z, V]


class _SemanticAdaptor(nn.Module):
    """`semantic_adaptor`: the hyper-latent's seed to the map whose positions are the semantic tokens."""

    def __init__(self, config: OneDCCodecConfig):
        super().__init__()
        self.to_semantic = make_stage(
            config.semantic_blocks, config.y_channels, config.semantic_channels, groups=config.groups
        )

    def forward(self, seed: Tensor) -> Tensor:
        return self.to_semantic(seed)  # [B, S, Z, V]


class _Synthesis(nn.Module):
    """`dec`: the rebuilt latent and the semantic map to the generator's detail features."""

    def __init__(self, config: OneDCCodecConfig):
        super().__init__()
        c, (wide, narrow) = config, config.synthesis_channels
        lite = c.synthesis_upsample == "lite"
        options = {"groups": c.groups, "expansion": c.lite_expansion if lite else 4}
        if lite:
            first: list[nn.Module] = [nn.Conv2d(c.y_channels, wide, 1)]
            up = [nn.Conv2d(wide, 4 * narrow, 1), nn.PixelShuffle(2)]
            self.trans_coding = nn.Sequential(*first, *make_stage(c.synthesis_input, wide, wide, **options))
        else:
            up = [nn.Conv2d(wide, 4 * wide, 1), nn.PixelShuffle(2), nn.Conv2d(wide, narrow, 3, padding=1)]
            self.trans_coding = make_stage(c.synthesis_input, c.y_channels, wide, **options)
        self.blocks = nn.Sequential(
            *make_stage(c.synthesis_blocks, wide, wide, **options),
            *up,
            *make_stage(c.synthesis_upsampled_blocks, narrow, narrow, **options),
        )
        a, b, last = c.semantic_upsample_channels
        steps: list[nn.Module] = [ResidualUpsample(c.semantic_channels, a), ResidualUpsample(a, b)]
        if c.semantic_upsample_blocks:
            steps = [steps[0], DepthConvBlock(a, a), steps[1], DepthConvBlock(b, b)]
        self.sem_up = nn.Sequential(*steps, ResidualUpsample(b, last))
        joined = narrow + last
        self.conv_out = (
            DepthConvBlock(joined, c.detail_channels)
            if c.output_block == "depth_conv"
            else nn.Conv2d(joined, c.detail_channels, 1)
        )

    def forward(self, y_hat: Tensor, semantic: Tensor) -> Tensor:
        fine = self.blocks(self.trans_coding(y_hat))  # [B, C, h, w]
        return self.conv_out(torch.cat([fine, self.sem_up(semantic)], dim=1))  # [B, D, h, w]


class OneDCCodec(WholeWeights, PreTrainedModel):
    """The codec of the paper without its generator: every network between the VAE's latent and the bitstream.

    Args:
        config (`OneDCCodecConfig`): widths and blocks; the defaults are the full-size model.
    """

    config: OneDCCodecConfig
    config_class = OneDCCodecConfig
    base_model_prefix = ""
    main_input_name = "pixels"
    # Loading in a lower precision must leave the entropy model alone (its `_apply` guards later casts). Its networks
    # only: transformers would turn integer buffers that match into floats.
    _keep_in_fp32_modules_strict = [
        f"{name}.{part}" for name in ("entropy", "authors_entropy") for part in ("hyper_dec", "y_prior", "y_spatial")
    ]

    def __init__(self, config: OneDCCodecConfig):
        super().__init__(config)
        if not config.decoder_only:
            self.enc = _Analysis(config)
            self.hyper_enc = _HyperAnalysis(config)
        self.z_vq = FiniteScalarQuantizer(config.fsq_levels)
        make = ExactEntropyModel if config.entropy_path == "exact" else EntropyModel
        arguments = (
            config.y_channels,
            config.fsq_levels,
            config.quality_rows,
            config.entropy_expansion,
            config.spatial_prior_layers,
            config.entropy_slopes,
            config.skip_index,
        )
        self.entropy = make(*arguments)
        self.authors_entropy = EntropyModel(*arguments) if config.authors_entropy else None
        self.semantic_adaptor = _SemanticAdaptor(config)
        self.dec = _Synthesis(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Torch's own initialisation, in place of the small normal one that the base class gives every layer."""
        if isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm | nn.LayerNorm):
            module.reset_parameters()

    # Encoder side -------------------------------------------------------------------------------------------------

    @apply_forward_hook
    def analyse(self, pixels: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Analysis; of a picture, or of a tile of one.

        Args:
            pixels (`torch.Tensor` of shape `[B, 3, H, W]`): in [-1, 1], padded to multiples of 64.
            latent (`torch.Tensor` of shape `[B, L, h, w]`): the VAE's scaled latent.

        Returns:
            `tuple`: `y` `[B, N, Y, X]`, unbounded, and the semantic map `[B, S, Z, V]`.
        """
        return self.enc(pixels, latent)

    @apply_forward_hook
    def hyper_analyse(self, y: Tensor, semantic: Tensor) -> Tensor:
        """Hyper-analysis of a whole picture: `y` and the semantic map to FSQ codes `[B, K, Z, V]` in [-1, 1]."""
        return self.z_vq(self.hyper_enc(y, semantic))

    # Both sides ---------------------------------------------------------------------------------------------------

    @property
    def float_entropy(self) -> EntropyModel:
        """The entropy model, where it is the float one.

        Raises:
            ModelError: where it is not.
        """
        if not isinstance(self.entropy, EntropyModel):
            raise ModelError("This codec's entropy model is in integers; what was asked for needs the float one.")
        return self.entropy

    def rate_weight(self, quality: Tensor) -> Tensor:
        """What a bit is worth where symbols are chosen, at qualities up to 100 (`rounding_rate_weight`), same shape."""
        if self.entropy.quality_rows == 1:  # a one-rate model has no quality that it could fall with
            quality = torch.zeros_like(quality)
        return self.config.rounding_rate_weight * (1 - quality / 50).clamp(0, 1)

    def make_exact(self, ranges: Ranges, keep_float: bool = False) -> None:
        """Replaces the float entropy model by its exact counterpart, in place; see `models/quantize.py`.

        Args:
            ranges (`Ranges`): how large its numbers get.
            keep_float (`bool`): keep the float one as `authors_entropy`.

        Raises:
            ModelError: if it is exact already, or its weights are not finite numbers.
        """
        device = next(iter(self.entropy.buffers())).device
        floats = self.float_entropy
        try:
            self.entropy = quantise_entropy(floats, ranges).to(device)
        except ValueError as error:
            raise ModelError(f"The entropy model cannot be made exact: {error}") from error
        self.authors_entropy = floats if keep_float else None
        self.config.authors_entropy = keep_float
        self.config.entropy_path = "exact"
        self.config.model_id = self.entropy.digest().hex()

    def make_float(self) -> None:
        """Replaces an exact entropy model by the float one that it stands for, in place, to be trained further.

        A converted model loses `authors_entropy`: what trains on no longer reads files of the authors' program.
        """
        self.authors_entropy = None
        self.config.authors_entropy = False
        if isinstance(self.entropy, ExactEntropyModel):
            device = self.entropy.gain_steps.device
            self.entropy = dequantise_entropy(self.entropy).to(device)
            self.config.entropy_path = "float"
            self.config.model_id = ""

    # Decoder side -------------------------------------------------------------------------------------------------

    @property
    def _decoder_dtype(self) -> torch.dtype:
        return next(self.dec.parameters()).dtype  # `self.dtype` can be the entropy model's, which is float32 always

    @apply_forward_hook
    def adapt(self, semantic_seed: Tensor) -> Tensor:
        """The semantic map of a whole picture.

        Its positions, in row-major order, are the semantic tokens (`semantic_tokens`).

        Args:
            semantic_seed (`torch.Tensor` of shape `[B, N, Z, V]`): from the entropy model's `hyper_synthesis`.

        Returns:
            `torch.Tensor` of shape `[B, S, Z, V]`.
        """
        return self.semantic_adaptor(semantic_seed.to(self._decoder_dtype))

    @apply_forward_hook
    def synthesise(self, y_hat: Tensor, semantic: Tensor) -> Tensor:
        """Detail features for the generator; of a picture, or of a tile of one.

        Args:
            y_hat (`torch.Tensor` of shape `[B, N, Y, X]`): the rebuilt latent.
            semantic (`torch.Tensor` of shape `[B, S, Z, V]`): from `adapt`.

        Returns:
            `torch.Tensor` of shape `[B, D, h, w]`.
        """
        return self.dec(y_hat.to(self._decoder_dtype), semantic)

    def forward(self, pixels: Tensor, latent: Tensor, quality_row: int = 0) -> tuple[Tensor, Tensor]:
        """Analysis, rounding and synthesis without a file.

        Args:
            pixels (`torch.Tensor` of shape `[B, 3, H, W]`): see `analyse`.
            latent (`torch.Tensor` of shape `[B, L, h, w]`): see `analyse`.
            quality_row (`int`): of the gain table, 0 to `quality_rows` - 1.

        Returns:
            `tuple`: detail features `[B, D, h, w]` and semantic tokens `[B, Z*V, S]`.
        """
        y, semantic = self.analyse(pixels, latent)
        codes = self.hyper_analyse(y, semantic)
        y = y.to(self.entropy.dtype)
        share = quality_row / max(1, self.entropy.quality_rows - 1)
        weight = self.rate_weight(torch.tensor(100.0 * share, dtype=torch.float32))
        hyper: ExactHyper | HyperParameters
        if isinstance(self.entropy, ExactEntropyModel):
            hyper = exact = self.entropy.hyper_synthesis(codes)
            y_hat = self.entropy.code(exact, self.entropy.gain(quality_row), lambda unit: unit.quantise(y, weight))
        else:

            def code(step: CodingPass) -> Tensor:
                return round_for_rate((y - step.means) * step.gain, step.deviations, weight)

            hyper = self.entropy.hyper_synthesis(codes)
            y_hat = self.entropy.run_passes(hyper, self.entropy.gain(quality_row), code)
        semantic = self.adapt(hyper.semantic_seed)
        return self.synthesise(y_hat, semantic), semantic_tokens(semantic)


def semantic_tokens(semantic: Tensor) -> Tensor:
    """A semantic map `[B, S, Z, V]` as the generator's cross-attention reads it: `[B, Z*V, S]`, row-major."""
    return semantic.flatten(2).transpose(1, 2)
