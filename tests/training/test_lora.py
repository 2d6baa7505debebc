"""What learns in training by LoRA, how many layers and parameters that is, and what is said of targets that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from onedc_hf import ModelError, OneDCGenerator, OneDCGeneratorConfig
from onedc_hf.training.components import make_model
from onedc_hf.training.lora import TARGETS, add_adapter, continue_adapter, load_adapter, save_adapter
from tests.conftest import TINY_MODEL


@pytest.fixture
def generator() -> OneDCGenerator:
    torch.manual_seed(0)
    return OneDCGenerator(OneDCGeneratorConfig(**TINY_MODEL["generator"]))


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(1, 8, 16, 16, generator=draw), torch.randn(1, 4, 16, generator=draw), torch.tensor([30.0])


def step(generator: OneDCGenerator, inputs: tuple[Tensor, Tensor, Tensor]) -> set[str]:
    """One step; the names of the parameters that it changed."""
    before = {name: p.detach().clone() for name, p in generator.named_parameters()}
    optimizer = torch.optim.SGD([p for p in generator.parameters() if p.requires_grad], lr=0.1)
    generator(*inputs).square().mean().backward()
    assert all((p.grad is not None) == p.requires_grad for p in generator.parameters())
    optimizer.step()
    generator.zero_grad()
    return {name for name, p in generator.named_parameters() if not torch.equal(p, before[name])}


def wrapped(generator: OneDCGenerator) -> list[str]:
    return [name for name, module in generator.unet.named_modules() if isinstance(module, LoraLayer)]


def test_the_full_size_counts_are_the_papers() -> None:
    with torch.device("meta"):
        generator = OneDCGenerator(OneDCGeneratorConfig())
        add_adapter(generator, train_also=["conv_in", "vae_reduction"])
    assert len(wrapped(generator)) == 278
    assert sum(p.numel() for p in generator.parameters() if p.requires_grad) == 69_110_152
    ends = {target: sum(name.endswith(f".{target}") for name in wrapped(generator)) for target in TARGETS}
    counts = {"to_q": 32, "to_out.0": 32, "conv1": 22, "time_emb_proj": 22, "ff.net.2": 16, "conv_shortcut": 14}
    assert counts.items() <= ends.items()
    assert ends["downsamplers.0.conv"] == ends["upsamplers.0.conv"] == 3
    layer = generator.unet.mid_block.resnets[0].conv1
    assert layer.scaling["default"] == 0.125
    assert layer.lora_A["default"].weight.shape == (64, 1280, 3, 3)
    assert layer.lora_B["default"].weight.shape == (1280, 64, 1, 1)


def test_a_new_adapter_changes_nothing_yet_and_gradients_reach_it_alone(generator, inputs) -> None:
    with torch.no_grad():
        before = generator(*inputs)
    add_adapter(generator, rank=4, alpha=2.0)
    with torch.no_grad():
        assert torch.equal(generator(*inputs), before)
    first, second = step(generator, inputs), step(generator, inputs)
    assert first and all(".lora_B.default." in name for name in first)  # B is zero, so A has no gradient yet
    assert all(".lora_" in name for name in second) and any(".lora_A.default." in name for name in second)


@pytest.mark.parametrize("part", ["conv_in", "vae_reduction"])
def test_parts_learn_whole_when_they_are_named(generator, inputs, part: str) -> None:
    add_adapter(generator, rank=2, train_also=[part])
    changed = {name for name in step(generator, inputs) if ".lora_" not in name}
    expected = {name for name, _ in generator.named_parameters() if f"{part}." in name}
    assert changed == expected != set()


def test_the_box_model_takes_an_adapter_and_checkpointing_lets_gradients_through() -> None:
    generator = make_model("box-model").generator
    add_adapter(generator, rank=4)
    assert {name.split(".")[-1] for name in wrapped(generator)} >= {"conv1", "conv2", "to_q", "time_emb_proj"}
    generator.train()
    generator.unet.enable_gradient_checkpointing()
    detail, tokens = torch.randn(1, 64, 8, 8), torch.randn(1, 1, 160)
    generator(detail, tokens, torch.tensor([20.0])).mean().backward()
    touched = [name for name, p in generator.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert touched and all(".lora_B." in name for name in touched)


def test_what_cannot_be_is_said(generator: OneDCGenerator) -> None:
    with pytest.raises(ValueError, match=r"'to_w'.*'to_q'"):
        add_adapter(generator, targets=["to_q", "to_w"])
    with pytest.raises(ValueError, match="'norm1'"):  # there, but no layer that an adapter can act on
        add_adapter(generator, targets=["norm1"])
    with pytest.raises(ValueError, match="names no layer"):
        add_adapter(generator, targets=[])
    with pytest.raises(ValueError, match=r"'conv_in', 'vae_reduction'; got \['conv_out'\]"):
        add_adapter(generator, train_also=["conv_out"])
    with pytest.raises(ValueError, match="got 'conv_in'"):
        add_adapter(generator, train_also="conv_in")
    with pytest.raises(ValueError, match="one of both"):
        add_adapter(generator, targets=["conv_in"], train_also=["conv_in"])
    for name in ("", "a", "a.b"):  # `load_adapter` would not take it, either
        with pytest.raises(ModelError, match="`adapter_name` must be a word"):
            add_adapter(generator, adapter_name=name)
    with pytest.raises(ValueError, match="no adapter 'default'"):
        continue_adapter(generator)
    assert not wrapped(generator) and all(p.requires_grad for p in generator.parameters())
    add_adapter(generator, rank=2, targets=["to_q"])
    assert {name.split(".")[-1] for name in wrapped(generator)} == {"to_q"}
    with pytest.raises(ValueError, match="continue_adapter"):
        add_adapter(generator)


def test_an_adapter_that_was_saved_goes_on_learning(generator, inputs, tmp_path: Path) -> None:
    add_adapter(generator, rank=2, train_also=["conv_in"])
    step(generator, inputs)
    path = save_adapter(generator, tmp_path)
    assert path == tmp_path / "pytorch_lora_weights.safetensors"
    torch.manual_seed(0)
    again = OneDCGenerator(OneDCGeneratorConfig(**TINY_MODEL["generator"]))
    load_adapter(again, tmp_path)
    continue_adapter(again)
    trained = {name for name, p in generator.named_parameters() if p.requires_grad}
    assert {name for name, p in again.named_parameters() if p.requires_grad} == trained
    assert step(again, inputs) == step(generator, inputs)
    for name, p in generator.named_parameters():
        torch.testing.assert_close(p, again.get_parameter(name))


def test_an_own_adapter_stays_and_can_learn_with_the_model(inputs) -> None:
    torch.manual_seed(0)
    own = {"r": 2, "lora_alpha": 2, "target_modules": ["to_q"]}
    generator = OneDCGenerator(OneDCGeneratorConfig(**TINY_MODEL["generator"], lora=own))
    with pytest.raises(ValueError, match="of its own"):
        add_adapter(generator)
    for name, parameter in generator.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    with torch.no_grad():
        before = generator(*inputs)
        add_adapter(generator, rank=2, adapter_name="mine")
        assert torch.equal(generator(*inputs), before)
    assert all(".lora_B.mine." in name for name in step(generator, inputs))
    continue_adapter(generator, "default")
    assert {".default." in name for name in step(generator, inputs)} == {True}
