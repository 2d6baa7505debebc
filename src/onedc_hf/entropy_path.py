"""The entropy path of a pipeline: which integers write and read its files, and the names that files know them by."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from diffusers import DiffusionPipeline

from .calibration import calibrate, fit_tables
from .coder import SymbolCoder
from .coding import SymbolModel
from .errors import ModelError
from .identity import decoder_digest, weights_seen
from .models import OneDCCodec
from .models.exact import ExactEntropyModel
from .pictures import PictureInput

if TYPE_CHECKING:
    from .pipeline import OneDCPipeline

__all__ = ["EntropyPathMixin"]

logger = logging.getLogger(__name__)

# Threads that share a model in floats must not each make it exact. No attribute: pipelines are copied and pickled.
_QUANTISING = threading.RLock()


class EntropyPathMixin(DiffusionPipeline):
    """`model_id`, `decoder_id` and `quantize_entropy` of `OneDCPipeline`, and its coder."""

    codec: OneDCCodec
    _symbol_model: SymbolModel | None
    _decoder_id: str | None
    _weights_seen: tuple[tuple[int, int], ...] | None

    def model_digest(self) -> bytes:
        """SHA-256 of the entropy model, checked against the stored one.

        Raises:
            ModelError: if the config states another digest (the weights were changed or cast).
        """
        stored = self.codec.config.model_id
        digest = self.codec.entropy.digest()
        if stored and stored != digest.hex():
            raise ModelError(
                f"The entropy model's weights have the digest {digest.hex()[:8]}..., but the config says "
                f"{stored[:8]}...: they were changed or cast after saving. Load the original files again, or, if the "
                "change is meant, clear `codec.config.model_id` and save: the result is a new model with its own id."
            )
        return digest

    @property
    def model_id(self) -> str:
        """SHA-256 of the entropy model, 64 hex digits; a file holds the first four."""
        return self._symbols().digest.hex()

    @property
    def decoder_id(self) -> str:
        """SHA-256 of the decoder side's weights, 64 hex digits (`identity.py`), without adapters.

        Computed once, and again when weights were changed in place (training, `load_state_dict`) or are other ones; a
        change behind torch's back, by `parameter.data`, goes unseen.

        Raises:
            ModelError: if weights are put away by `enable_sequential_cpu_offload` before it was ever asked for.
        """
        seen = weights_seen(self.components)
        if self._decoder_id is None or (seen is not None and seen != self._weights_seen):
            self._decoder_id, self._weights_seen = decoder_digest(self.components), seen
        return self._decoder_id

    def _symbols(self) -> SymbolModel:
        """The integers that coding needs, made once for the weights at hand: others must not write under their name."""
        entropy, digest = self._entropy, self.model_digest()
        if self._symbol_model is None or self._symbol_model.digest != digest:
            self._symbol_model = entropy.symbol_model(digest)
        return self._symbol_model

    @property
    def _coder(self) -> SymbolCoder:
        """What writes and reads files with the weights at hand, where they are now."""
        return SymbolCoder(self.codec, self._entropy, self._symbols)

    @property
    def _entropy(self) -> ExactEntropyModel:
        """The exact entropy model, by which all files are written and read."""
        if self.codec.config.entropy_path == "float":
            with _QUANTISING:
                if self.codec.config.entropy_path == "float":  # and no other thread was first
                    logger.warning(
                        "This model's entropy path is in floats, which do not give the same file everywhere: it is now "
                        "made exact, in memory, with the calibration pictures of the package. `save_pretrained` keeps "
                        "the result; `onedc quantize-entropy FOLDER` does it for a folder."
                    )
                    self.quantize_entropy()
        entropy = cast(ExactEntropyModel, self.codec.entropy)
        if self._execution_device.type == "mps":  # it has no float64, which holds the integers
            entropy.to("cpu")
        return entropy

    @torch.inference_mode(False)  # also when it is called from `compress`: buffers made in inference mode are frozen
    @torch.no_grad()
    def quantize_entropy(
        self,
        pictures: Sequence[PictureInput] | None = None,
        keep_float: bool = False,
        table_pictures: Sequence[PictureInput] | None = None,
    ) -> None:
        """Makes the entropy path exact, in place: integers instead of floats, with one result on every device.

        The model gets a new id. It costs a fraction of a per cent of the bytes, and does not change the trained
        networks on either side. Two people who do it to the same weights with the same pictures get the same id.

        Args:
            pictures (list of pictures, *optional*): calibration pictures, whose ranges of values the integers are made
                for; by default three photographs that ship with the package.
            keep_float (`bool`): keep the float entropy model in the codec, to open files of the authors' program.
            table_pictures (list of pictures, *optional*): a few hundred, like those that the model is for, to which
                static tables of the hyper-latent are fitted; its codes then take fewer bits.

        Raises:
            ModelError: if it is exact already, or weights are not finite.
        """
        if self.codec.config.entropy_path == "exact":
            raise ModelError("The entropy path of this model is exact already.")
        self.model_digest()  # not for weights that were changed by accident
        ranges = calibrate(cast("OneDCPipeline", self), pictures)
        if table_pictures:
            fit_tables(cast("OneDCPipeline", self), table_pictures)
        self.codec.make_exact(ranges, keep_float)
