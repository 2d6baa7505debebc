"""What diffusers' own functions leave of an adapter: nothing of it may get into a saved model, or go without a name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onedc_hf import ModelError, OneDCGenerator, OneDCGeneratorConfig, OneDCPipeline

from ..conftest import TINY_MODEL
from .adapters import pixels


@pytest.mark.parametrize("kind", ["adapter", "plain_adapter"])
@pytest.mark.parametrize("by", ["delete_adapters", "unload_lora"])
def test_what_diffusers_leaves_is_not_saved_and_is_put_back(
    pipe: OneDCPipeline,
    data: bytes,
    kind: str,
    by: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    before = {name: tensor.clone() for name, tensor in pipe.generator.state_dict().items()}
    decoder_id, looked = pipe.decoder_id, pixels(pipe, data)
    folder = request.getfixturevalue(kind)
    pipe.load_lora_weights(folder)
    unet = pipe.generator.unet
    unet.delete_adapters("default") if by == "delete_adapters" else unet.unload_lora()
    assert pipe.decoder_id == decoder_id
    assert (pipe.adapter_id is None) == (kind == "plain_adapter")  # replaced parts are still in it
    for save in (pipe.save_pretrained, pipe.generator.save_pretrained):
        with pytest.raises(ModelError, match=r"unload_lora_weights"):
            save(tmp_path / "model")
    with pytest.raises(ModelError, match="is loaded already"):
        pipe.load_lora_weights(folder)  # which would take the replaced parts for the model's
    with pytest.raises(ModelError, match="no adapter 'default' to save"):
        pipe.save_lora_weights(tmp_path / "adapter")
    pipe.unload_lora_weights()
    assert pipe.adapter_id is None and np.array_equal(pixels(pipe, data), looked)
    after = pipe.generator.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    pipe.save_pretrained(tmp_path / "model")
    assert OneDCPipeline.from_pretrained(tmp_path / "model").decoder_id == decoder_id
    pipe.load_lora_weights(folder)
    assert pipe.adapter_id is not None


def test_layers_that_an_unknown_adapter_left_wrapped_are_not_saved(pipe: OneDCPipeline, tmp_path: Path) -> None:
    from peft import LoraConfig

    names = pipe.generator.state_dict().keys()
    pipe.generator.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    pipe.generator.unet.delete_adapters("default")
    with pytest.raises(ModelError, match="What is left of an adapter"):
        pipe.save_pretrained(tmp_path)
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path)
    assert pipe.generator.state_dict().keys() == names


def test_a_generator_alone_is_not_saved_with_an_adapter(
    pipe: OneDCPipeline,
    plain_adapter: Path,
    tmp_path: Path,
) -> None:
    pipe.load_lora_weights(plain_adapter)
    with pytest.raises(ModelError, match="'default' is on the generator"):
        pipe.generator.save_pretrained(tmp_path)
    pipe.unload_lora_weights()
    pipe.generator.save_pretrained(tmp_path)
    assert OneDCGenerator.from_pretrained(tmp_path).state_dict().keys() == pipe.generator.state_dict().keys()


def test_an_adapter_that_was_fused_keeps_its_name_and_is_not_said_to_be_gone(
    pipe: OneDCPipeline,
    data: bytes,
    plain_adapter: Path,
) -> None:
    pipe.load_lora_weights(plain_adapter)
    named, looked = pipe.adapter_id, pixels(pipe, data)
    pipe.generator.unet.fuse_lora()
    assert pipe.adapter_id == named and np.abs(pixels(pipe, data).astype(int) - looked).max() <= 1
    with pytest.raises(ModelError, match="'default' was fused into the weights: .*unfuse_lora"):
        pipe.unload_lora_weights()
    pipe.generator.unet.unfuse_lora()
    pipe.unload_lora_weights()
    assert pipe.adapter_id is None


def test_a_new_generator_with_an_adapter_of_its_own_begins_without_its_effect() -> None:
    lora = {"r": 2, "lora_alpha": 2, "target_modules": ["to_q", "conv1"]}
    generator = OneDCGenerator(OneDCGeneratorConfig(**TINY_MODEL["generator"], lora=lora))
    halves = {name: p for name, p in generator.named_parameters() if ".lora_" in name}
    assert halves and all(bool(p.any()) == (".lora_A." in name) for name, p in halves.items())


def test_a_misspelt_argument_is_an_error_for_a_folder_too(pipe: OneDCPipeline, plain_adapter: Path) -> None:
    with pytest.raises(TypeError, match="weight_nam"):
        pipe.load_lora_weights(plain_adapter, weight_nam="other.safetensors")
    assert pipe.adapter_id is None
