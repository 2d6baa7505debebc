"""Which adapters act and how strongly, by diffusers' names on the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onedc_hf import ModelError, OneDCGenerator, OneDCGeneratorConfig, OneDCPipeline

from .adapters import pixels


@pytest.fixture
def two(pipe: OneDCPipeline, adapter: Path, plain_adapter: Path) -> OneDCPipeline:
    """The tiny model with two adapters, of which `whole` replaces parts as well."""
    pipe.load_lora_weights(plain_adapter, adapter_name="plain")
    pipe.load_lora_weights(adapter, adapter_name="whole")
    return pipe


def test_names_and_strengths_choose_what_acts(pipe: OneDCPipeline, plain_adapter: Path, data: bytes) -> None:
    bare = pixels(pipe, data)
    assert pipe.get_list_adapters() == {} and pipe.get_active_adapters() == []
    pipe.load_lora_weights(plain_adapter, adapter_name="one")
    pipe.load_lora_weights(plain_adapter, adapter_name="two")
    both = pixels(pipe, data)
    assert pipe.get_list_adapters() == {"unet": ["one", "two"]} and pipe.get_active_adapters() == ["one", "two"]
    pipe.set_adapters("two")
    alone, name = pixels(pipe, data), pipe.adapter_id
    assert pipe.get_active_adapters() == ["two"] and not np.array_equal(alone, both)
    pipe.set_adapters(["one", "two"], [0.5, 0.5])  # the same weights twice, by halves
    torch.testing.assert_close(torch.tensor(pixels(pipe, data)).int(), torch.tensor(alone).int(), atol=1, rtol=0)
    assert pipe.adapter_id != name
    pipe.generator.unet.disable_adapters()
    assert pipe.get_active_adapters() == []
    pipe.set_adapters(["one", "two"], 1.0)
    assert np.array_equal(pixels(pipe, data), both)
    pipe.set_adapters([])
    assert np.array_equal(pixels(pipe, data), bare) and pipe.adapter_id is None


def test_one_adapter_goes_and_the_other_stays(two: OneDCPipeline, data: bytes, tiny_folder: Path) -> None:
    two.set_adapters("plain", 0.25)
    two.delete_adapters("whole")
    assert two.get_list_adapters() == {"unet": ["plain"]}
    left = pixels(two, data)
    other = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    two.set_adapters([])
    assert np.array_equal(pixels(two, data), pixels(other, data))  # the parts are what they were
    two.set_adapters("plain", 0.25)
    assert np.array_equal(pixels(two, data), left) and not np.array_equal(left, pixels(other, data))
    two.delete_adapters(["plain"])
    assert two.get_list_adapters() == {} and two.generator.state_dict().keys() == other.generator.state_dict().keys()


def test_a_models_own_adapter_goes_on_beside_those_that_are_chosen(
    pipe: OneDCPipeline, plain_adapter: Path, data: bytes
) -> None:
    own = {"r": 2, "lora_alpha": 2, "target_modules": ["conv2"]}
    owner = OneDCGenerator(OneDCGeneratorConfig(**pipe.generator.config.to_dict() | {"lora": own})).eval()
    for name, parameter in owner.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    owns = OneDCPipeline(pipe.vae, pipe.codec, owner, pipe.scheduler)
    before = pixels(owns, data)
    with pytest.warns(UserWarning, match="trained for another"):
        owns.load_lora_weights(plain_adapter)
    assert owns.get_list_adapters() == {"unet": ["beside"]} and owns.get_active_adapters() == ["beside"]
    owns.set_adapters([])
    assert np.array_equal(pixels(owns, data), before)
    owns.set_adapters("beside", 2.0)
    assert not np.array_equal(pixels(owns, data), before)
    for change in (owns.set_adapters, owns.delete_adapters):
        with pytest.raises(ModelError, match="a part of this model"):
            change("default")
    owns.delete_adapters("beside")
    assert np.array_equal(pixels(owns, data), before)


def test_what_learns_goes_on_learning(pipe: OneDCPipeline, plain_adapter: Path) -> None:
    pipe.generator.requires_grad_(False)
    pipe.generator.vae_reduction.requires_grad_(True)
    pipe.load_lora_weights(plain_adapter, adapter_name="one")
    learning = {name for name, parameter in pipe.generator.named_parameters() if parameter.requires_grad}
    pipe.set_adapters("one", 0.5)
    assert learning == {name for name, parameter in pipe.generator.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("names", "weights", "error", "match"),
    [
        ("absent", None, ModelError, "no adapter 'absent'; loaded: 'plain', 'whole'"),
        (["plain", "whole"], [0.5], ValueError, "1 numbers for 2 names"),
        ("plain", float("nan"), ValueError, "finite"),
        ("plain", {"down": 0.5}, ValueError, "by block"),
    ],
)
def test_what_cannot_be_chosen_is_named_and_changes_nothing(
    two: OneDCPipeline, names: Any, weights: Any, error: type[Exception], match: str
) -> None:
    before = two.adapter_id
    with pytest.raises(error, match=match):
        two.set_adapters(names, weights)
    assert two.adapter_id == before and two.get_active_adapters() == ["plain", "whole"]


def test_fused_adapters_are_not_chosen_among(two: OneDCPipeline) -> None:
    two.generator.unet.fuse_lora(adapter_names=["plain"])
    for change in (two.set_adapters, two.delete_adapters):
        with pytest.raises(ModelError, match="was fused"):
            change("plain")
