"""Importing the package is light, and makes diffusers and transformers know its classes in every order of imports."""

import subprocess
import sys

import pytest

import onedc_hf

HEAVY = ("torch", "transformers", "diffusers", "accelerate")


def run(code: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_public_names_are_these():
    assert onedc_hf.__all__ == [
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


@pytest.mark.parametrize("name", onedc_hf.__all__)
def test_each_public_name_is_there(name):
    assert getattr(onedc_hf, name) is not None
    assert name in dir(onedc_hf)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="OneDCPipelin'"):
        onedc_hf.OneDCPipelin  # noqa: B018


@pytest.mark.parametrize("module", ["onedc_hf", "onedc_hf.errors", "onedc_hf.coding.bitstream", "onedc_hf.cli.main"])
def test_import_loads_nothing_heavy(module):
    assert run(f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_asking_for_a_command_line_answer_loads_nothing_heavy():
    code = f"""
import contextlib, io, sys
from onedc_hf.cli.main import main
for arguments in (["--help"], ["--version"], ["info", "--help"]):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(arguments)
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert run(code) == "[]"


CHECK = """
import diffusers
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
from transformers import AutoConfig, AutoModel
assert "onedc_hf" in LOADABLE_CLASSES
config = AutoConfig.for_model("onedc_codec")
assert type(config) is onedc_hf.OneDCCodecConfig, type(config)
assert type(AutoConfig.for_model("onedc_generator")) is onedc_hf.OneDCGeneratorConfig
assert AutoModel._model_mapping[onedc_hf.OneDCCodecConfig] is onedc_hf.OneDCCodec
assert AutoModel._model_mapping[onedc_hf.OneDCGeneratorConfig] is onedc_hf.OneDCGenerator
assert diffusers.OneDCPipeline is onedc_hf.OneDCPipeline
assert diffusers.UNet2DConditionModel.__name__ == "UNet2DConditionModel"
assert not hasattr(diffusers, "NoSuchName") and hasattr(diffusers, "__path__")
assert not any(type(finder).__module__ == "onedc_hf._register" for finder in sys.meta_path)
print("registered")
"""
ORDERS = {
    "ours first": "import onedc_hf, diffusers",
    "theirs first, light": "import diffusers, transformers, onedc_hf",
    "theirs first, whole": "from diffusers import DiffusionPipeline; import transformers.models.auto, onedc_hf",
    "our models": "import onedc_hf.models",
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=list(ORDERS))
def test_registration_in_every_order_of_imports(order):
    assert run(f"import sys\n{order}\n{CHECK}") == "registered"


def test_registration_alone_loads_no_model():
    code = """
import sys, onedc_hf
from diffusers import DiffusionPipeline
from transformers import AutoModel
print([name for name in sys.modules if name.startswith("onedc_hf.")])
"""
    assert run(code) == "['onedc_hf._register']"


def test_a_name_that_diffusers_has_itself_is_left_alone():
    code = """
import diffusers
diffusers.OneDCPipeline = "theirs"
import onedc_hf
print(diffusers.OneDCPipeline)
"""
    assert run(code) == "theirs"


def test_model_types_of_the_stand_ins_are_those_of_the_configs():
    from onedc_hf import _register

    for model_type, (config_name, model_name) in _register.MODEL_TYPES.items():
        assert getattr(onedc_hf, config_name).model_type == model_type
        assert getattr(onedc_hf, model_name).config_class is getattr(onedc_hf, config_name)


def test_loader_base_classes_are_visible_but_not_public():
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    assert onedc_hf.PreTrainedModel is PreTrainedModel
    assert onedc_hf.ModelMixin is ModelMixin
    assert not {"PreTrainedModel", "ModelMixin"} & set(onedc_hf.__all__)
