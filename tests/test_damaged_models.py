"""A saved model with a part missing or damaged is refused with one clear error, whatever library finds it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from onedc_hf import ModelError, OneDCCodec, OneDCGenerator, OneDCPipeline

WEIGHTS = {
    "codec": "model.safetensors",
    "generator": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
LAYERS = {"codec": "dec.", "generator": "unet.mid_block.", "vae": "decoder."}


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model, for damaging."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_that_are_not_whole_are_refused(folder: Path, part: str) -> None:
    path = folder / part / WEIGHTS[part]
    tensors = load_file(path)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(LAYERS[part])}
    assert len(kept) < len(tensors)
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=rf"not whole: {len(tensors) - len(kept)} tensors are missing, .*{LAYERS[part]}"
    ):
        OneDCPipeline.from_pretrained(folder)


def test_who_asks_for_the_list_of_what_is_missing_gets_it(folder: Path) -> None:
    path = folder / "generator" / WEIGHTS["generator"]
    tensors = load_file(path)
    del tensors["unet.conv_out.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    _, info = OneDCGenerator.from_pretrained(folder / "generator", output_loading_info=True)
    assert set(info["missing_keys"]) == {"unet.conv_out.bias"}
    assert isinstance(OneDCCodec.from_pretrained(folder / "codec"), OneDCCodec)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _set(name: str, value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    return change


def _replace(text: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(text)

    return change


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *((f"{part}/{name}", _cut) for part, name in WEIGHTS.items()),
        ("codec/config.json", _set("quality_rows", 0)),
        ("codec/config.json", _set("y_channels", "x")),
        ("codec/config.json", _set("synthesis_channels", [8, 8])),
        ("codec/config.json", _set("synthesis_upsampled_blocks", ["none"])),
        ("codec/config.json", _set("semantic_upsample_channels", [8])),
        ("codec/config.json", _replace("{")),
        ("vae/config.json", _set("decoder_channels", "x")),
        ("generator/config.json", _set("unet", {"block_out_channels": 3})),
        ("generator/config.json", _set("timestep", 5000)),
        ("generator/config.json", _set("timestep", -1)),
        ("generator/config.json", _set("timestep", "x")),
        ("model_index.json", _set("scheduler", ["diffusers", "FlowMatchEulerDiscreteScheduler"])),
        ("model_index.json", _set("vae", ["diffusers", "UNet2DModel"])),
        ("model_index.json", _replace("{}")),
        ("model_index.json", _replace("[]")),
        ("model_index.json", _replace("{")),
    ],
)
def test_damaged_files_are_one_clear_error(folder: Path, file: str, damage: Callable[[Path], None]) -> None:
    damage(folder / file)
    with pytest.raises(ModelError):
        OneDCPipeline.from_pretrained(folder)


def test_a_home_folder_is_found_by_its_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert OneDCPipeline.from_pretrained(f"~/{folder.name}").model_id
    with pytest.raises(ModelError, match="does not exist"):
        OneDCPipeline.from_pretrained("~/nowhere")


def test_components_of_other_kinds_are_named(tiny_pipeline: OneDCPipeline) -> None:
    parts = dict(tiny_pipeline.components)
    flow = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ModelError, match="FlowMatchEulerDiscreteScheduler, which has no cumulative alphas"):
        OneDCPipeline(**parts | {"scheduler": flow})
    with pytest.raises(ModelError, match="The codec is a OneDCAutoencoder whose configuration has no detail_channels"):
        OneDCPipeline(**parts | {"codec": parts["vae"]})
