"""The authors' released checkpoints as a pipeline folder of this package (docs/convert.md)."""

from .convert import convert_checkpoint

__all__ = ["convert_checkpoint"]
