"""LoRA adapters from a user's side: load, unload, save; what files say of them; errors; the command line; the Hub."""

from __future__ import annotations

import json
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from onedc_hf import Corrupt, ModelError, OneDCGenerator, OneDCGeneratorConfig, OneDCPipeline
from onedc_hf.coding import Tag, inspect
from onedc_hf.evaluation.run import weights_digest
from onedc_hf.identity import warn_of_another_adapter
from onedc_hf.lora import adapter_id, load_adapter, unload_adapters
from onedc_hf.models.adapters import base_state
from onedc_hf.training.lora import add_adapter

from ..conftest import TINY_MODEL
from ..hub.conftest import client, hub  # noqa: F401
from .adapters import NAME, Picture, contents, learn, pixels


def test_what_was_trained_is_loaded_to_the_last_bit(
    trained: OneDCPipeline, adapter: Path, pipe: OneDCPipeline, data: bytes
) -> None:
    before = pixels(pipe, data)
    pipe.load_lora_weights(adapter)
    assert np.array_equal(pixels(pipe, data), pixels(trained, data))
    assert np.abs(pixels(pipe, data).astype(int) - before).max() > 2
    assert pipe.adapter_id == trained.adapter_id
    assert not any(p.requires_grad for name, p in pipe.generator.named_parameters() if "lora" in name)
    assert pipe.generator.unet.conv_out.weight.requires_grad  # loading freezes nothing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unloading_restores_every_bit(
    tiny_folder: Path, adapter: Path, plain_adapter: Path, data: bytes, dtype: torch.dtype
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=dtype)
    state = {name: tensor.clone() for name, tensor in pipe.generator.state_dict().items()}
    modules = [type(module) for module in pipe.generator.modules()]
    before, weights = pixels(pipe, data), weights_digest(pipe)
    pipe.load_lora_weights(adapter)
    measured_as = weights_digest(pipe)
    pipe.load_lora_weights(plain_adapter, adapter_name="second")
    assert len({weights, measured_as, weights_digest(pipe)}) == 3  # figures of one are not taken for another's
    assert not np.array_equal(pixels(pipe, data), before)
    without = base_state(pipe.generator)
    pipe.unload_lora_weights()
    found = pipe.generator.state_dict()
    for restored in (found, without):
        assert restored.keys() == state.keys()
        assert all(torch.equal(restored[name], state[name]) for name in state)
        assert all(restored[name].dtype == state[name].dtype for name in state)
    assert all(found[name].stride() == state[name].stride() for name in state)
    assert [type(module) for module in pipe.generator.modules()] == modules
    assert np.array_equal(pixels(pipe, data), before)
    assert pipe.adapter_id is None and not pipe.generator.adapters and weights_digest(pipe) == weights
    pipe.unload_lora_weights()  # nothing to do
    pipe.load_lora_weights(adapter)  # the name is free again


def test_a_model_is_saved_without_adapters(pipe: OneDCPipeline, adapter: Path, tmp_path: Path) -> None:
    pipe.load_lora_weights(adapter)
    with pytest.raises(ModelError, match="unload_lora_weights"):
        pipe.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "yes")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OneDCPipeline.from_pretrained(tmp_path / "yes")


def test_half_precision_and_tiles_have_the_adapter_too(
    tiny_folder: Path, adapter: Path, pipe: OneDCPipeline, data: bytes
) -> None:
    half = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    half.load_lora_weights(adapter)
    pipe.load_lora_weights(adapter)
    assert half.adapter_id == pipe.adapter_id
    assert half.generator.vae_reduction.short_cut.weight.dtype == torch.float32
    lora = {p.dtype for name, p in half.generator.named_parameters() if "lora" in name}
    assert lora == {torch.bfloat16}
    whole = pixels(pipe, data).astype(int)
    assert np.abs(pixels(half, data) - whole).mean() < 4
    pipe.enable_tiling(128, 64)
    assert np.abs(pixels(pipe, data) - whole).max() <= 1


def test_a_model_that_is_offloaded_takes_an_adapter(
    pipe: OneDCPipeline, trained: OneDCPipeline, adapter: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pixels(pipe, data)
    # diffusers takes the hooks off and asks for them again without a device, which works only with an accelerator.
    monkeypatch.setattr(pipe, "enable_model_cpu_offload", partial(pipe.enable_model_cpu_offload, device="cpu"))
    pipe.enable_model_cpu_offload()
    hook = type(pipe.generator._hf_hook)
    pipe.load_lora_weights(adapter)
    assert type(pipe.generator._hf_hook) is hook
    assert np.array_equal(pixels(pipe, data), pixels(trained, data))
    pipe.unload_lora_weights()
    assert np.array_equal(pixels(pipe, data), before)


def test_weights_that_are_not_at_hand_are_not_changed(pipe: OneDCPipeline, adapter: Path) -> None:
    pipe.load_lora_weights(adapter)
    pipe.enable_sequential_cpu_offload(device="cpu")
    for change in (pipe.unload_lora_weights, lambda: pipe.load_lora_weights(adapter, adapter_name="second")):
        with pytest.raises(ModelError, match="not at hand"):
            change()


def test_the_file_is_diffusers_own(adapter: Path, pipe: OneDCPipeline, tmp_path: Path) -> None:
    tensors, settings = contents(adapter)
    names = tensors.keys()
    assert (settings["unet.r"], settings["unet.lora_alpha"]) == (4, 2.0)
    assert {"to_q", "conv1", "time_emb_proj"} <= set(settings["unet.target_modules"])
    assert {
        "unet.conv_in.weight",
        "vae_reduction.short_cut.bias",
        "unet.mid_block.resnets.0.conv1.lora_A.weight",
    } <= names
    unet = pipe.generator.unet
    unet.load_lora_adapter(adapter, prefix="unet", adapter_name="theirs", weight_name=NAME)
    assert unet.peft_config["theirs"].r == 4 and unet.mid_block.resnets[0].conv1.scaling["theirs"] == 0.5
    pipe.unload_lora_weights()
    pipe.load_lora_weights(adapter)
    pipe.save_lora_weights(tmp_path)
    again, same_settings = contents(tmp_path)
    assert same_settings == settings and again.keys() == names
    assert all(torch.equal(again[name], tensors[name]) for name in names)


@pytest.mark.parametrize("inside", ["", "folder"])
def test_a_file_is_no_folder_to_save_into(
    trained: OneDCPipeline, tiny_pipeline: OneDCPipeline, tmp_path: Path, inside: str
) -> None:
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(b"kept")
    for save in (trained.save_lora_weights, tiny_pipeline.save_pretrained):
        with pytest.raises(ModelError, match=r"adapter\.safetensors.* is, or lies in, a file.*give a folder"):
            save(file / inside)
    assert file.read_bytes() == b"kept"


def test_an_adapter_is_saved_whole_or_not_at_all(
    trained: OneDCPipeline, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.save_lora_weights(tmp_path / "new")
    before = (tmp_path / "new" / NAME).read_bytes()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        trained.save_lora_weights(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [NAME]
    assert (tmp_path / "new" / NAME).read_bytes() == before


def test_adapters_add_up_and_one_of_them_can_be_saved(
    pipe: OneDCPipeline, adapter: Path, plain_adapter: Path, data: bytes, tmp_path: Path
) -> None:
    pipe.load_lora_weights(plain_adapter, adapter_name="plain")
    one, name = pixels(pipe, data), pipe.adapter_id
    pipe.load_lora_weights(adapter)
    assert not np.array_equal(pixels(pipe, data), one) and pipe.adapter_id != name
    with pytest.raises(ModelError, match="'plain', 'default'"):
        pipe.save_lora_weights(tmp_path)
    pipe.save_lora_weights(tmp_path, "plain")
    assert load_file(tmp_path / NAME).keys() == load_file(plain_adapter / NAME).keys()


def test_another_adapter_leaves_strengths_as_they_are(
    pipe: OneDCPipeline, plain_adapter: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = pipe.generator.unet

    def state() -> tuple[list[str], dict[str, float], set[str]]:
        layer = unet.mid_block.resnets[0].conv1
        learning = {name for name, parameter in pipe.generator.named_parameters() if parameter.requires_grad}
        return list(layer.active_adapters), dict(layer.scaling), learning

    pipe.load_lora_weights(plain_adapter, adapter_name="one")
    unet.set_adapters(["one"], [0.5])
    half, name = state(), pipe.adapter_id
    assert half[1] == {"one": 0.5}

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("peft.set_peft_model_state_dict", fail)  # when the layers are wrapped already
        with pytest.raises(ModelError, match="no room"):
            pipe.load_lora_weights(adapter, adapter_name="two")
    assert state() == half and pipe.adapter_id == name
    assert not any(".two." in tensor for tensor in pipe.generator.state_dict())

    pipe.load_lora_weights(adapter, adapter_name="two")
    assert state()[:2] == (["one", "two"], {"one": 0.5, "two": 0.5})  # alpha / rank of the second is one half
    unet.set_adapters("two", 0.25)
    add_adapter(pipe.generator, rank=2, alpha=2.0, targets=["conv1"], adapter_name="three")
    assert state()[:2] == (["two", "three"], {"one": 0.5, "two": 0.125, "three": 1.0})  # "one" stays silent
    pipe.load_lora_weights(plain_adapter, adapter_name="four")
    assert state()[:2] == (["two", "three", "four"], {"one": 0.5, "two": 0.125, "three": 1.0, "four": 1.0})


def test_adapters_that_are_switched_off_stay_off_when_another_one_comes(
    pipe: OneDCPipeline, plain_adapter: Path, adapter: Path, data: bytes, tmp_path: Path
) -> None:
    tensors = {name: tensor for name, tensor in load_file(adapter / NAME).items() if ".lora_" in name}
    save_file(tensors, tmp_path / NAME)  # without the parts, which act always; wraps more layers than the first
    before = pixels(pipe, data)
    pipe.load_lora_weights(plain_adapter, adapter_name="one")
    pipe.generator.unet.disable_adapters()
    pipe.load_lora_weights(tmp_path, adapter_name="two")
    assert pipe.adapter_id is None and np.array_equal(pixels(pipe, data), before)
    pipe.generator.unet.enable_adapters()
    assert pipe.generator.unet.active_adapters() == ["one", "two"]
    assert not np.array_equal(pixels(pipe, data), before)


def test_a_single_file_and_another_name_are_found(pipe: OneDCPipeline, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "water.safetensors").write_bytes((adapter / NAME).read_bytes())
    pipe.load_lora_weights(tmp_path / "water.safetensors")
    pipe.unload_lora_weights()
    pipe.load_lora_weights(str(tmp_path.parent), "water.safetensors", subfolder=tmp_path.name)


def test_without_metadata_the_strength_is_one(pipe: OneDCPipeline, plain_adapter: Path, tmp_path: Path) -> None:
    save_file(load_file(plain_adapter / NAME), tmp_path / NAME)
    pipe.load_lora_weights(tmp_path)
    assert pipe.generator.unet.mid_block.resnets[0].conv1.scaling["default"] == 1.0


# A model that owns an adapter -------------------------------------------------------------------------------------


@pytest.fixture
def owner() -> OneDCGenerator:
    """A generator with an adapter as part of the model."""
    torch.manual_seed(0)
    own = {"r": 2, "lora_alpha": 2, "target_modules": ["to_q", "to_k"]}
    generator = OneDCGenerator(OneDCGeneratorConfig(**TINY_MODEL["generator"], lora=own)).eval()
    for name, parameter in generator.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return generator


def test_the_models_own_adapter_stays_active_and_in_place(
    owner: OneDCGenerator, adapter: Path, plain_adapter: Path
) -> None:
    state = {name: tensor.clone() for name, tensor in owner.state_dict().items()}
    inputs = (torch.randn(1, 8, 8, 8), torch.randn(1, 1, 16), torch.tensor([5.0]))
    with torch.no_grad():
        before = owner(*inputs)
        with pytest.raises(ModelError, match="of its own"):
            load_adapter(owner, adapter, adapter_name="default")
        with pytest.warns(UserWarning, match="trained for another"):  # a generator without an adapter of its own
            load_adapter(owner, plain_adapter, adapter_name="second")
        with_both = owner(*inputs)
        owner.unet.set_adapters("second")
        assert not torch.equal(owner(*inputs), with_both)
        assert not torch.equal(with_both, before)
    without = base_state(owner)
    assert adapter_id(owner) is not None
    unload_adapters(owner)
    assert adapter_id(owner) is None
    assert owner.state_dict().keys() == state.keys() == without.keys()
    with torch.no_grad():
        assert torch.equal(owner(*inputs), before)


@pytest.mark.filterwarnings("ignore:.*trained for another")
@pytest.mark.parametrize("strength", [0.5, 0.0, None])
def test_the_models_own_adapter_keeps_its_strength(
    owner: OneDCGenerator, plain_adapter: Path, strength: float | None
) -> None:
    inputs = (torch.randn(1, 8, 8, 8), torch.randn(1, 1, 16), torch.tensor([5.0]))
    owner.requires_grad_(False)
    if strength is None:
        owner.unet.set_adapters([])
    else:
        owner.unet.set_adapters(["default"], [strength])
    with torch.no_grad():
        before = owner(*inputs)
        load_adapter(owner, plain_adapter)
        owner.unet.set_adapters(["beside"], [0.0])
        unload_adapters(owner)
        assert torch.equal(owner(*inputs), before)
    assert owner.unet.active_adapters() == ([] if strength is None else ["default"])
    owner.requires_grad_(False)
    with torch.no_grad():
        load_adapter(owner, plain_adapter)
        if strength is not None:
            owner.unet.set_adapters(["default", "beside"], [strength, 0.0])
        else:
            owner.unet.set_adapters(["beside"], [0.0])
        torch.testing.assert_close(owner(*inputs), before)  # the new one adds zero, the own one acts as before


@pytest.fixture
def owners_folder(owner: OneDCGenerator, pipe: OneDCPipeline, tmp_path: Path) -> Path:
    """A saved model that owns an adapter."""
    OneDCPipeline(pipe.vae, pipe.codec, owner, pipe.scheduler).save_pretrained(tmp_path / "owner")
    return tmp_path / "owner"


def test_an_adapter_without_a_name_goes_beside_the_models_own(
    owners_folder: Path, picture: Picture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from onedc_hf.cli.main import main

    training = OneDCPipeline.from_pretrained(owners_folder, dtype=torch.float32)
    add_adapter(training.generator, rank=2, alpha=2.0, adapter_name="mine")
    learn(training.generator)
    training.save_lora_weights(tmp_path)
    owner = OneDCPipeline.from_pretrained(owners_folder, dtype=torch.float32)
    owner.load_lora_weights(tmp_path)
    assert owner.generator.unet.active_adapters() == ["default", "beside"]
    assert owner.adapter_id == training.adapter_id
    with pytest.raises(ModelError, match="'beside' is loaded already"):
        owner.load_lora_weights(tmp_path)

    Image.fromarray(picture(40, 60)).save(tmp_path / "a.png")
    options = ["--model", str(owners_folder), "--dtype", "float32", "--lora", str(tmp_path)]
    assert main(["compress", str(tmp_path / "a.png"), *options]) == 0, capsys.readouterr().err
    named = inspect((tmp_path / "a.odc").read_bytes())["extensions"]
    assert [extension["id"] for extension in named] == [training.adapter_id[:8]]


def test_an_adapter_knows_the_weights_that_it_was_trained_for(
    pipe: OneDCPipeline, adapter: Path, plain_adapter: Path, tiny_folder: Path
) -> None:
    half = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        half.load_lora_weights(plain_adapter)  # in any number format
        pipe.load_lora_weights(adapter)  # brings parts of its own
        pipe.unload_lora_weights()
    with torch.no_grad():
        for parameter in pipe.generator.parameters():  # a later release
            parameter += 0.01 * torch.randn_like(parameter)
    with pytest.warns(UserWarning, match="trained for another"):
        pipe.load_lora_weights(plain_adapter)


# What files say ---------------------------------------------------------------------------------------------------


def test_a_file_names_the_adapter_and_another_one_says_so(
    pipe: OneDCPipeline, tiny_folder: Path, picture: Picture, adapter: Path, plain_adapter: Path, data: bytes
) -> None:
    decoder = pipe.decoder_id
    pipe.load_lora_weights(adapter)
    named = pipe.compress(picture(70, 90))
    assert 5 <= len(named) - len(data) <= 7  # tag, length, 4 bytes; the checks change, and with them the tail
    assert inspect(named)["extensions"] == [{"tag": 14, "name": "adapter", "bytes": 4, "id": pipe.adapter_id[:8]}]
    both = inspect(pipe.compress(picture(70, 90), name_decoder=True))["extensions"]
    assert [extension["id"] for extension in both] == [decoder[:8], pipe.adapter_id[:8]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = pixels(pipe, named)
        pixels(pipe, data)  # a file that names none is for everybody
    other = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    with pytest.warns(UserWarning, match=f"the adapter {pipe.adapter_id[:8]}, this pipeline has none"):
        bare = pixels(other, named)
    assert bare.shape == expected.shape and not np.array_equal(bare, expected)
    other.load_lora_weights(plain_adapter)
    with pytest.warns(UserWarning, match=f"{pipe.adapter_id[:8]}, this one is {other.adapter_id[:8]}"):
        pixels(other, named)
    assert other.decoder_id == decoder  # of the model, whether it is asked before an adapter is loaded or after


def test_the_id_is_of_weights_and_strength_and_not_of_the_format(
    tiny_folder: Path, pipe: OneDCPipeline, adapter: Path
) -> None:
    half = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float16)
    half.load_lora_weights(adapter, adapter_name="another-name")
    pipe.load_lora_weights(adapter)
    name = pipe.adapter_id
    assert half.adapter_id == name
    pipe.generator.unet.set_adapters("default", 0.5)
    assert pipe.adapter_id not in (name, None)
    pipe.generator.unet.set_adapters("default")
    assert pipe.adapter_id == name


def test_a_silent_adapter_is_none(pipe: OneDCPipeline, plain_adapter: Path) -> None:
    pipe.load_lora_weights(plain_adapter)
    pipe.generator.unet.disable_adapters()
    assert pipe.adapter_id is None


def test_a_damaged_name_of_an_adapter_is_a_typed_error() -> None:
    with pytest.raises(Corrupt, match="3 bytes"):
        warn_of_another_adapter(bytes(3), None)
    assert Tag.ADAPTER % 2 == 0  # others may pass over it


# Errors -----------------------------------------------------------------------------------------------------------


def test_a_name_that_is_taken_or_cannot_be_is_refused(pipe: OneDCPipeline, adapter: Path, plain_adapter: Path) -> None:
    pipe.load_lora_weights(adapter)
    with pytest.raises(ModelError, match="loaded already"):
        pipe.load_lora_weights(plain_adapter)
    for name in ("", "a.b", "lora"):
        with pytest.raises(ModelError, match="adapter_name"):
            pipe.load_lora_weights(plain_adapter, adapter_name=name)
    with pytest.raises(ModelError, match="replaced by the adapter 'default' already"):
        pipe.load_lora_weights(adapter, adapter_name="second")


@pytest.mark.parametrize("change", ["wide", "layer", "part", "half", "rank", "kind", "text", "config"])
def test_an_adapter_of_another_model_is_named_and_changes_nothing(
    pipe: OneDCPipeline, adapter: Path, tmp_path: Path, change: str
) -> None:
    tensors, settings = contents(adapter)
    layer = "unet.mid_block.resnets.0.conv1"
    a, b = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
    if change == "wide":
        tensors[a] = torch.zeros(4, 99, 3, 3)
        said = rf"{layer} is \[16, 16, 3, 3\], its adapter \[4, 99, 3, 3\]"
    elif change == "layer":
        tensors["unet.up_blocks.9.conv1.lora_A.weight"] = tensors[a].clone()
        tensors["unet.up_blocks.9.conv1.lora_B.weight"] = tensors[b].clone()
        said = "no layer unet.up_blocks.9.conv1"
    elif change == "part":
        tensors["vae_reduction.short_cut.bias"] = torch.zeros(5)
        said = r"vae_reduction.short_cut.bias is \[4\], in the file \[5\]"
    elif change == "half":
        del tensors[a]
        said = f"{layer} has only one half"
    elif change == "rank":
        settings["unet.r"] = 3
        said = r"rank \[4\], its settings say 3"
    elif change == "kind":
        tensors[f"{layer}.lora_magnitude_vector"] = torch.zeros(16)
        said = "lora_magnitude_vector"
    elif change == "text":
        tensors = {"text_encoder.lora_A.weight": torch.zeros(2, 2)}
        said = "no adapter of a OneDC generator"
    else:
        settings["unet.layer_replication"] = [[0, 1]]
        said = "layer_replication"
    save_file(tensors, tmp_path / NAME, {"lora_adapter_metadata": json.dumps(settings)})
    state = {name: tensor.clone() for name, tensor in pipe.generator.state_dict().items()}
    with pytest.raises(ModelError, match=said):
        pipe.load_lora_weights(tmp_path)
    found = pipe.generator.state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    assert all(parameter.requires_grad for parameter in pipe.generator.parameters())
    pipe.load_lora_weights(adapter)


@pytest.mark.filterwarnings("ignore:.*trained for another")
def test_a_layer_is_adapted_or_replaced_and_not_both(
    pipe: OneDCPipeline, adapter: Path, plain_adapter: Path, tmp_path: Path
) -> None:
    tensors = load_file(plain_adapter / NAME)
    out, wide, high, deep = pipe.generator.unet.conv_in.weight.shape
    tensors["unet.conv_in.lora_A.weight"] = torch.zeros(2, wide, high, deep)
    tensors["unet.conv_in.lora_B.weight"] = torch.zeros(out, 2, 1, 1)
    (tmp_path / "layer").mkdir()
    save_file(tensors, tmp_path / "layer" / NAME)
    for end in ("weight", "bias"):
        whole = {f"unet.conv_in.{end}": pipe.generator.unet.conv_in.get_parameter(end).detach().contiguous()}
        save_file(tensors | whole, tmp_path / NAME)
        with pytest.raises(ModelError, match=r"unet\.conv_in has an adapter and is replaced whole"):
            pipe.load_lora_weights(tmp_path)
    assert pipe.adapter_id is None and not pipe.generator.adapters
    pipe.load_lora_weights(adapter)
    with pytest.raises(ModelError, match=r"unet\.conv_in was replaced by the adapter 'default' already"):
        pipe.load_lora_weights(tmp_path / "layer", adapter_name="second")
    pipe.unload_lora_weights()
    pipe.load_lora_weights(tmp_path / "layer")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"alpha_pattern": {"(a+)+b": 4}}, "alpha_pattern"),
        ({"alpha_pattern": {"conv1": float("inf")}}, "alpha_pattern"),
        ({"alpha_pattern": {f"conv{i}": 1 for i in range(1000)}}, r"alpha_pattern.*\.\.\., and"),
        ({"alpha_pattern": {"a" * 201: 1}}, "alpha_pattern"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"r": "four"}, "its settings say 'four'"),
        ({"r": None}, "its settings say None"),
        ([1, 2], "no JSON object"),
    ],
)
def test_strengths_that_are_no_numbers_are_refused(
    pipe: OneDCPipeline, adapter: Path, tmp_path: Path, settings: Any, said: str
) -> None:
    tensors, whole = contents(adapter)
    if isinstance(settings, dict):
        settings = whole | {f"unet.{name}": value for name, value in settings.items()}
    save_file(tensors, tmp_path / NAME, {"lora_adapter_metadata": json.dumps(settings)})
    with pytest.raises(ModelError, match=said):
        pipe.load_lora_weights(tmp_path)
    pipe.load_lora_weights(adapter)


def test_metadata_that_is_too_deep_is_a_typed_error(pipe: OneDCPipeline, adapter: Path, tmp_path: Path) -> None:
    save_file(contents(adapter)[0], tmp_path / NAME, {"lora_adapter_metadata": "[" * 200_000})
    with pytest.raises(ModelError, match="no whole safetensors file"):
        pipe.load_lora_weights(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": r".*\.to_[qk]|(a+)+b"},
        {"exclude_modules": "(a|a)*", "layers_pattern": ["(a|a)*"]},
        {"rank_pattern": {"(a+)+b": 4, "conv1": 1 << 40}, "r": 8},
    ],
)
def test_where_an_adapter_acts_its_tensors_say(
    pipe: OneDCPipeline, adapter: Path, data: bytes, tmp_path: Path, settings: dict[str, Any]
) -> None:
    tensors, whole = contents(adapter)
    whole |= {f"unet.{name}": value for name, value in settings.items()}
    save_file(tensors, tmp_path / NAME, {"lora_adapter_metadata": json.dumps(whole)})
    pipe.load_lora_weights(adapter)
    expected, name = pixels(pipe, data), pipe.adapter_id
    pipe.unload_lora_weights()
    pipe.load_lora_weights(tmp_path)
    assert np.array_equal(pixels(pipe, data), expected) and pipe.adapter_id == name


def test_ranks_and_strengths_may_differ_between_layers(pipe: OneDCPipeline, tmp_path: Path) -> None:
    from peft import LoraConfig

    unet = pipe.generator.unet
    options = {"target_modules": ["to_q", "to_k"], "rank_pattern": {"to_q": 4, "to_k": 2}}
    unet.add_adapter(LoraConfig(**options, alpha_pattern={"to_k": 6}, lora_alpha=8), "mine")
    scales = {name: layer.scaling["mine"] for name, layer in unet.named_modules() if hasattr(layer, "scaling")}
    assert set(scales.values()) == {2.0, 3.0}
    unet.save_lora_adapter(tmp_path, adapter_name="mine", weight_name="theirs.safetensors")
    tensors = {f"unet.{name}": tensor for name, tensor in load_file(tmp_path / "theirs.safetensors").items()}
    settings = {f"unet.{name}": value for name, value in unet.peft_config["mine"].to_dict().items()}
    save_file(tensors, tmp_path / NAME, {"lora_adapter_metadata": json.dumps(settings, default=sorted)})
    unet.delete_adapters("mine")
    pipe.load_lora_weights(tmp_path)
    loaded = {name: layer.scaling["default"] for name, layer in unet.named_modules() if hasattr(layer, "scaling")}
    assert loaded == scales


def test_files_that_are_not_there_or_hold_code_are_named(pipe: OneDCPipeline, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        pipe.load_lora_weights("./nowhere")
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="the folder holds other.safetensors"):
        pipe.load_lora_weights(tmp_path)
    with pytest.raises(ModelError, match="no whole safetensors file"):
        pipe.load_lora_weights(tmp_path, "other.safetensors")
    torch.save({}, tmp_path / "adapter.bin")
    for arguments in ((tmp_path, "adapter.bin"), (tmp_path / "adapter.bin",)):
        with pytest.raises(ModelError, match=r"no \.safetensors file"):
            pipe.load_lora_weights(*arguments)
    torch.save({}, tmp_path / NAME)
    with pytest.raises(ModelError, match="no whole safetensors file"):
        pipe.load_lora_weights(tmp_path)
    for name in ("nobody/nothing", "not a name"):
        with pytest.raises(ModelError, match=f"repository '{name}'"):
            pipe.load_lora_weights(name)
    with pytest.raises(ModelError, match="carries: none"):
        pipe.save_lora_weights(tmp_path)


def test_without_peft_the_error_says_what_to_install(
    pipe: OneDCPipeline, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert pipe.adapter_id is None
    pipe.unload_lora_weights()
    with pytest.raises(ModelError, match=r"pip install 'onedc-hf\[train\]'"):
        pipe.load_lora_weights(adapter)


# Command line and Hub ---------------------------------------------------------------------------------------------


def test_the_command_line_loads_an_adapter(
    tiny_folder: Path, adapter: Path, picture: Picture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from onedc_hf.cli.main import main

    photo, odc = tmp_path / "a.png", tmp_path / "a.odc"
    Image.fromarray(picture(40, 60)).save(photo)
    model, lora = ["--model", str(tiny_folder), "--dtype", "float32"], ["--lora", str(adapter)]
    assert main(["compress", str(photo), *model, *lora]) == 0
    assert main(["decompress", str(odc), "-o", str(tmp_path / "with.png"), *model, *lora]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["decompress", str(odc), "-o", str(tmp_path / "without.png"), *model]) == 0
    assert "this pipeline has none" in capsys.readouterr().err
    assert not np.array_equal(*(np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("with", "without")))
    assert main(["info", str(odc)]) == 0
    name = inspect(odc.read_bytes())["extensions"][0]["id"]
    assert f"adapter id:  {name}" in capsys.readouterr().out
    assert main(["compress", str(photo), "--force", *model, "--lora", str(tmp_path)]) != 0
    assert NAME in capsys.readouterr().err


LOAD = """
from onedc_hf import ModelError, OneDCPipeline
pipe = OneDCPipeline.from_pretrained(folder)
pipe.load_lora_weights("alice/water", revision="main")
print(pipe.adapter_id)
for repo, name in (("alice/water", "other.safetensors"), ("alice/air", None)):
    try:
        pipe.load_lora_weights(repo, name, adapter_name="second")
    except ModelError as error:
        assert repo in str(error) and "Check both names" in str(error), error
    else:
        raise AssertionError(repo)
"""


def test_an_adapter_comes_from_a_hub(hub, client, tiny_folder: Path, adapter: Path, trained: OneDCPipeline) -> None:  # noqa: F811
    hub.upload("alice/water", adapter)
    assert client(LOAD, folder=tiny_folder) == trained.adapter_id
