"""Torch modules and their configs. Importing this package registers the classes with diffusers and transformers."""

from .. import _register
from .autoencoder import OneDCAutoencoder
from .codec import OneDCCodec, OneDCCodecConfig
from .generator import OneDCGenerator, OneDCGeneratorConfig

__all__ = ["OneDCAutoencoder", "OneDCCodec", "OneDCCodecConfig", "OneDCGenerator", "OneDCGeneratorConfig"]

_register.register()
