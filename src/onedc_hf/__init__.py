"""OneDC for Hugging Face: a one-step diffusion image codec.

    from onedc_hf import OneDCPipeline

    pipe = OneDCPipeline.from_pretrained()
    data = pipe.compress("photo.jpg", quality=40)
    picture = pipe.decompress(data)

Importing this package loads neither torch nor diffusers nor transformers: every name below is fetched when it is first
used. `onedc_hf._register` makes those libraries know our classes, in whichever order the imports come.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _register

__version__ = "0.1.0.dev0"

__all__ = [
    "BitstreamError",
    "ConversionError",
    "Corrupt",
    "EncodeError",
    "ModelError",
    "NotOneDC",
    "OneDCAutoencoder",
    "OneDCCodec",
    "OneDCCodecConfig",
    "OneDCError",
    "OneDCGenerator",
    "OneDCGeneratorConfig",
    "OneDCPipeline",
    "OneDCPipelineOutput",
    "PictureError",
    "TargetError",
    "TooLarge",
    "Truncated",
    "UnsupportedFeature",
    "UnsupportedVersion",
    "WrongModel",
    "__version__",
    "save_picture",
]

if TYPE_CHECKING:
    from .errors import (
        BitstreamError,
        ConversionError,
        Corrupt,
        EncodeError,
        ModelError,
        NotOneDC,
        OneDCError,
        PictureError,
        TargetError,
        TooLarge,
        Truncated,
        UnsupportedFeature,
        UnsupportedVersion,
        WrongModel,
    )
    from .models.autoencoder import OneDCAutoencoder
    from .models.codec import OneDCCodec, OneDCCodecConfig
    from .models.generator import OneDCGenerator, OneDCGeneratorConfig
    from .picture_files import save_picture
    from .pipeline import OneDCPipeline, OneDCPipelineOutput

_HOMES = {
    "OneDCAutoencoder": "onedc_hf.models.autoencoder",
    "OneDCCodec": "onedc_hf.models.codec",
    "OneDCCodecConfig": "onedc_hf.models.codec",
    "OneDCGenerator": "onedc_hf.models.generator",
    "OneDCGeneratorConfig": "onedc_hf.models.generator",
    "OneDCPipeline": "onedc_hf.pipeline",
    "OneDCPipelineOutput": "onedc_hf.pipeline",
    "save_picture": "onedc_hf.picture_files",
    # Not ours and not public: diffusers' loader looks the base class of a component up in the library that
    # model_index.json names, and that library is this package.
    "ModelMixin": "diffusers",
    "PreTrainedModel": "transformers",
}


def __getattr__(name: str) -> Any:
    """Fetch a public name when it is first used (PEP 562)."""
    home = _HOMES.get(name) or ("onedc_hf.errors" if name in __all__ else None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its public names are in __all__.")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    """List the public names beside what is already loaded."""
    return sorted({*globals(), *__all__})


_register.install()
