"""Loading, saving, and components: names, places, limits, offload."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline

from onedc_hf import ModelError, OneDCPipeline, PictureError, WrongModel

Picture = Callable[..., np.ndarray]


def test_components_are_named_by_the_short_library_name(tiny_folder: Path) -> None:
    import json

    index = json.loads((tiny_folder / "model_index.json").read_text())
    assert index["codec"] == ["onedc_hf", "OneDCCodec"]
    assert index["generator"] == ["onedc_hf", "OneDCGenerator"]
    assert index["vae"] == ["onedc_hf", "OneDCAutoencoder"]


def test_diffusers_own_class_finds_the_pipeline(tiny_folder: Path) -> None:
    assert isinstance(DiffusionPipeline.from_pretrained(tiny_folder), OneDCPipeline)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all"])
def test_a_mistyped_folder_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=r"does not exist"):
        OneDCPipeline.from_pretrained(name)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json"):
        OneDCPipeline.from_pretrained(tmp_path)


def test_an_unreachable_repository_is_named() -> None:
    with pytest.raises(ModelError, match="nobody/nothing"):
        OneDCPipeline.from_pretrained("nobody/nothing")


def test_components_that_do_not_fit_are_refused(tiny_pipeline: OneDCPipeline) -> None:
    from onedc_hf import OneDCAutoencoder

    with pytest.raises(ModelError, match="latent channels"):
        OneDCPipeline(
            OneDCAutoencoder(latent_channels=5, encoder_channels=8, decoder_channels=8),
            tiny_pipeline.codec,
            tiny_pipeline.generator,
            tiny_pipeline.scheduler,
        )


@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_stock_autoencoders_work(tiny_pipeline: OneDCPipeline, picture: Picture, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if kind == "kl":
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
        vae = AutoencoderKL(block_out_channels=[8] * 4, norm_num_groups=4, latent_channels=4, **blocks)
    else:
        vae = AutoencoderTiny(
            encoder_block_out_channels=[8] * 4, decoder_block_out_channels=[8] * 4, num_encoder_blocks=[1] * 4,
            num_decoder_blocks=[1] * 4, latent_channels=4,
        )  # fmt: skip
    pipe = OneDCPipeline(vae, tiny_pipeline.codec, tiny_pipeline.generator, tiny_pipeline.scheduler)
    data = pipe.compress(picture(64, 70))
    assert pipe.compress(picture(64, 70)) == data  # the posterior's mean, not a sample
    pipe.save_pretrained(tmp_path)
    assert OneDCPipeline.from_pretrained(tmp_path).decompress(data).size == (70, 64)


def test_model_offload_runs_every_part_through_its_hooks(
    tiny_folder: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    data = pipe.compress(picture(64, 64))
    expected = np.asarray(pipe.decompress(data))
    pipe.enable_model_cpu_offload(device="cpu")
    # On a CPU weights are at hand anyway: who asks for them is what counts.
    kind, brought = type(pipe.vae._hf_hook), []
    honest = kind.pre_forward

    def counted(hook: Any, module: Any, *given: Any, **named: Any) -> Any:
        brought.append(type(module).__name__)
        return honest(hook, module, *given, **named)

    monkeypatch.setattr(kind, "pre_forward", counted)
    assert pipe.compress(picture(64, 64)) == data
    assert brought == ["OneDCAutoencoder", "OneDCCodec", "OneDCCodec"]  # analysis, hyper-analysis
    brought.clear()
    assert np.array_equal(np.asarray(pipe.decompress(data)), expected)
    assert list(dict.fromkeys(brought)) == ["OneDCCodec", "OneDCGenerator", "OneDCAutoencoder"]
    assert brought.count("OneDCCodec") == 2  # adaptor, synthesis


def test_a_pipeline_of_another_kind_is_named(tmp_path: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"{tmp_path}.*holds no OneDC pipeline"):
        OneDCPipeline.from_pretrained(tmp_path)


def test_the_limit_can_be_set_on_loading(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, max_pixels=1000)
    assert pipe.max_pixels == 1000 and "ignored" not in caplog.text
    with pytest.raises(PictureError, match="1,000"):
        pipe.compress(np.zeros((64, 65, 3), np.uint8))


def test_the_file_of_a_released_model_names_it(tiny_pipeline: OneDCPipeline) -> None:
    box = OneDCPipeline.from_pretrained()
    data = box.compress(np.zeros((64, 64, 3), np.uint8), z_only=True)
    with pytest.raises(WrongModel, match=r"model in the box of onedc-hf"):
        tiny_pipeline.decompress(data)


def test_a_saved_folder_does_not_say_where_the_model_came_from(tiny_folder: Path, tmp_path: Path) -> None:
    OneDCPipeline.from_pretrained(tiny_folder).save_pretrained(tmp_path / "again")
    texts = {path.name: path.read_text() for path in (tmp_path / "again").rglob("*.json")}
    assert len(texts) >= 3 and not [name for name, text in texts.items() if str(tiny_folder.parent) in text]
    assert OneDCPipeline.from_pretrained(tmp_path / "again").model_id


def test_saving_leaves_what_is_not_ours_in_a_folder(tiny_folder: Path, tmp_path: Path) -> None:
    others = {"config.json": '{"b": 1, "_name_or_path": "x", "a": 2}', "other/config.json": "[1]"}
    for name, text in others.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    OneDCPipeline.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in others} == others


def test_saving_and_pushing_at_once_is_our_push(tiny_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    pushed = []
    monkeypatch.setattr(
        OneDCPipeline, "push_to_hub", lambda self, repo_id, **options: pushed.append((repo_id, options))
    )
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.save_pretrained(tmp_path / "mine", push_to_hub=True, private=True)
    pipe.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/other")
    assert pushed == [("mine", {"private": True}), ("me/other", {})]


def test_limits_go_along_to_a_pipeline_of_the_same_parts(tiny_folder: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, max_pixels=1000)
    pipe.disable_tiling()
    other = OneDCPipeline.from_pipe(pipe)
    assert other.max_pixels == 1000 and other._tiling is None and other.codec is pipe.codec


@pytest.mark.parametrize(
    ("limit", "error"), [("1e9", TypeError), (1e9, TypeError), (True, TypeError), (-5, ValueError)]
)
def test_a_limit_that_is_none_is_refused(tiny_folder: Path, limit: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_pixels"):
        OneDCPipeline.from_pretrained(tiny_folder, max_pixels=limit)  # type: ignore[arg-type]


def test_a_subfolder_is_not_passed_over(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="subfolder"):
        OneDCPipeline.from_pretrained(tiny_folder, subfolder="codec")


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, {"max_shard_size": "40KB"}), ({"max_shard_size": "40KB"}, {}), ({"variant": "fp16"}, {})],
)
def test_a_model_that_is_saved_over_another_takes_its_place(
    tiny_folder: Path, tmp_path: Path, before: dict[str, str], after: dict[str, str]
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    (tmp_path / "notes.txt").write_text("mine")
    other_model = tmp_path / "another" / "model.safetensors"
    other_model.parent.mkdir()
    other_model.write_bytes(b"mine")
    other_model.with_name("config.json").write_text("{}")
    pipe.save_pretrained(tmp_path, **before)
    weights = next(pipe.generator.unet.parameters()).data
    old = weights.clone()
    weights.add_(1)
    pipe.vae.decoder[0].bias.data.add_(1)
    pipe.save_pretrained(tmp_path, **after)
    again = OneDCPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(next(again.generator.unet.parameters()), weights)
    assert torch.equal(again.vae.decoder[0].bias, pipe.vae.decoder[0].bias)
    assert other_model.read_bytes() == b"mine"
    assert (tmp_path / "notes.txt").read_text() == "mine" and not list(tmp_path.glob(".*"))
    if "variant" in before:  # of another name, and still whole
        other = OneDCPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float32)
        assert torch.equal(next(other.generator.unet.parameters()), old)
