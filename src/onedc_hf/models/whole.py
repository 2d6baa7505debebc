"""Refuses weights that are not all there: a layer that nobody trained would give pictures that are wrong in silence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import ModelError

__all__ = ["WholeWeights"]


class WholeWeights:
    """A mixin before `PreTrainedModel` or `ModelMixin`, which only log what is missing and start it at random."""

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in the library that it stands before.

        Raises:
            ModelError: if the file has no weights for some layer, and nobody asked for the list of them
                (`output_loading_info`).
        """
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        if output_loading_info:
            return loaded
        model, info = loaded
        _refuse(cls.__name__, info["missing_keys"])
        return model


def _refuse(name: str, missing: Iterable[str]) -> None:
    names = sorted(missing)
    if names:
        raise ModelError(
            f"The weights of this {name} are not whole: {len(names)} tensors are missing, among them {names[0]}. Get "
            "the file again, or save the model again."
        )
