"""Semantic distillation (paper, section 3.2): the semantic map must tell what a frozen tokenizer sees in the picture.

The hyper-latent is a few bits; this makes them bits of meaning. A small network predicts, from the semantic map alone,
the tokenizer's codes of the *original*: cross-entropy, and the distance between the expected code vector and the true
one. The predictor is thrown away after training.

Shapes: B batch, S1 and S2 sides of a crop in pixels, S channels of the semantic map, Z x V its rows and columns, h = 2Z
and w = 2V rows and columns of codes, K codes, C channels of a code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from ..models import OneDCCodecConfig
from ..models.blocks import keep_float32
from .code_predictor import CodePredictor, CodePredictorConfig
from .config import TrainConfig
from .tokenizers import Tokenizer, Tokens, load_tokenizer
from .vqgan import read_state

__all__ = ["SemanticDistillation", "make_distillation", "semantics_learn"]

# Prefixes of what the semantic map is made by.
_MAKES_SEMANTICS = ("vae.encoder", "codec.enc", "codec.hyper_enc", "codec.entropy", "codec.semantic_adaptor")


class SemanticDistillation(nn.Module):
    """A code predictor that learns, and the frozen tokenizer that teaches it and the semantic map.

    The tokenizer follows to devices but stays in float32, and is in neither `parameters()` nor `state_dict()`: it does
    not learn, and a checkpoint need not hold it.

    Args:
        predictor (`CodePredictor`): with as many codes as the tokenizer.
        tokenizer (`Tokenizer`): what is predicted.
        code_weight (`float`, *optional*, defaults to 0.01): of the code vectors' distance beside the cross-entropy.

    Raises:
        ValueError: if the predictor has another number of codes.
    """

    def __init__(self, predictor: CodePredictor, tokenizer: Tokenizer, code_weight: float = 0.01):
        super().__init__()
        if predictor.config.codes != len(tokenizer.codebook):
            raise ValueError(
                f"The code predictor tells {predictor.config.codes} codes apart, the tokenizer has "
                f"{len(tokenizer.codebook)}: set `codes` of the predictor to that."
            )
        self.predictor, self.code_weight = predictor, code_weight
        if isinstance(tokenizer, nn.Module):
            tokenizer.eval().requires_grad_(False)
        self._teacher = (tokenizer,)  # in a tuple, out of sight of `nn.Module`

    @property
    def tokenizer(self) -> Tokenizer:
        """The frozen teacher."""
        return self._teacher[0]

    def _apply(self, fn: Any, recurse: bool = True) -> SemanticDistillation:
        if isinstance(self.tokenizer, nn.Module):
            keep_float32(self.tokenizer, fn)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def targets(self, pixels: Tensor) -> Tokens:
        """The tokenizer's codes of crops `[B, 3, S1, S2]` in [-1, 1], always in float32."""
        with torch.autocast(pixels.device.type, enabled=False):
            return self.tokenizer.encode(pixels.float())

    def forward(self, semantic: Tensor, targets: Tokens) -> dict[str, Tensor]:
        """Losses of a semantic map.

        Args:
            semantic (`torch.Tensor` of shape `[B, S, Z, V]`): the codec's, after its adaptor.
            targets (`Tokens`): of the same crops.

        Returns:
            `dict`: `loss` = `code_ce` + code_weight x `code_mse`, to be weighted by 0.001 (spec section 7); the mean
            cross-entropy in nats `code_ce`; the mean squared distance of code vectors `code_mse`; and, without
            gradient, the share of codes that are predicted right, `code_accuracy`.

        Raises:
            ValueError: if the grids differ.
        """
        logits = self.predictor(semantic)  # [B, K, h, w]
        if logits.shape[2:] != targets.indices.shape[1:]:
            raise ValueError(
                f"The predictor gives {tuple(logits.shape[2:])} codes, the tokenizer {tuple(targets.indices.shape[1:])}"
                ": both must see the same crop, one code for 32x32 pixels."
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            cross_entropy = F.cross_entropy(logits, targets.indices)
            codebook = self.tokenizer.codebook.detach().float()  # [K, C]
            expected = torch.einsum("bkhw,kc->bchw", logits.softmax(1), codebook)  # [B, C, h, w]
            distance = F.mse_loss(expected, targets.latent.float())
        return {
            "loss": cross_entropy + self.code_weight * distance,
            "code_ce": cross_entropy,
            "code_mse": distance,
            "code_accuracy": (logits.detach().argmax(1) == targets.indices).float().mean(),
        }


def semantics_learn(config: TrainConfig) -> bool:
    """Whether anything learns that makes the semantic map; otherwise a distillation teaches its predictor alone."""
    return not all(part.startswith(tuple(config.freeze)) for part in _MAKES_SEMANTICS)


def make_distillation(
    config: TrainConfig, codec: OneDCCodecConfig, tokenizer: Tokenizer | None = None, *, resumes: bool = False
) -> SemanticDistillation:
    """The distillation that a run's settings ask for.

    Args:
        config (`TrainConfig`): `tokenizer`, and settings and weights of the predictor.
        codec (`OneDCCodecConfig`): whose semantic map is looked at.
        tokenizer (`Tokenizer`, *optional*): the settings' one, if it is loaded already.
        resumes (`bool`, *optional*): a checkpoint will give the predictor its weights.

    Raises:
        ModelError, ImportError: if the tokenizer or the predictor's weights cannot be loaded.
        ValueError: for settings of the predictor that nobody knows or that do not fit, also to the crops.
    """
    tokenizer = tokenizer or load_tokenizer(config.tokenizer)
    settings = {"semantic_channels": codec.trunk_channels[-1], "codes": len(tokenizer.codebook)} | config.predictor
    try:
        sizes = CodePredictorConfig(**settings)
    except TypeError as error:
        raise ValueError(f"`predictor`: {error}.") from error
    codes = config.resolution // 32
    if "swin" in sizes.blocks and codes % sizes.window:
        raise ValueError(
            f"`predictor`: windows of {sizes.window}x{sizes.window} codes do not fill crops of {config.resolution} "
            f"pixels, which have {codes}x{codes}. Use a `window` that does, or crops of {32 * sizes.window} pixels."
        )
    predictor = CodePredictor(sizes)
    if config.predictor_weights and not resumes:
        try:
            predictor.load_state_dict(read_state(Path(config.predictor_weights)))
        except RuntimeError as error:
            raise ModelError(f"`predictor_weights`: {config.predictor_weights} does not fit: {error}") from error
    return SemanticDistillation(predictor, tokenizer)
