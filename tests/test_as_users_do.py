"""What users of torch and diffusers do with a pipeline: compile its parts, change weights, threads, number formats."""

from __future__ import annotations

import stat
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from onedc_hf import OneDCCodec, OneDCCodecConfig, OneDCGenerator, OneDCGeneratorConfig, OneDCPipeline
from onedc_hf.models import OneDCAutoencoder
from onedc_hf.models.patch_attention import PatchAttnProcessor

from .conftest import TINY_MODEL

Picture = Callable[..., np.ndarray]


@pytest.fixture
def pipe(tiny_folder: Path) -> OneDCPipeline:
    """The tiny model, for changing."""
    return OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)


@pytest.fixture
def float_pipe(tiny_pipeline: OneDCPipeline) -> OneDCPipeline:
    """A tiny model whose entropy path is in floats."""
    torch.manual_seed(0)
    return OneDCPipeline(
        OneDCAutoencoder(**TINY_MODEL["vae"]),
        OneDCCodec(OneDCCodecConfig(**TINY_MODEL["codec"])),
        OneDCGenerator(OneDCGeneratorConfig(**TINY_MODEL["generator"])),
        tiny_pipeline.scheduler,
    )


@pytest.mark.parametrize("part", ["vae", "codec", "generator"])
def test_a_compiled_part_is_the_same_decoder(pipe: OneDCPipeline, picture: Picture, part: str) -> None:
    named = pipe.compress(picture(64, 64), name_decoder=True)
    decoder_id, expected = pipe.decoder_id, np.asarray(pipe.decompress(named))
    setattr(pipe, part, torch.compile(getattr(pipe, part), backend="eager"))
    assert pipe.decoder_id == decoder_id
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert np.array_equal(np.asarray(pipe.decompress(named)), expected)


def test_attention_of_a_compiled_autoencoder_is_in_patches(tiny_pipeline: OneDCPipeline) -> None:
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = AutoencoderKL(block_out_channels=[8] * 4, norm_num_groups=4, latent_channels=4, **blocks)
    parts = (tiny_pipeline.codec, tiny_pipeline.generator, tiny_pipeline.scheduler)
    OneDCPipeline(torch.compile(vae, backend="eager"), *parts)
    processors = [m.processor for m in vae.modules() if hasattr(m, "processor")]
    assert processors and all(isinstance(one, PatchAttnProcessor) for one in processors)


@pytest.mark.parametrize("change", ["in place", "load_state_dict", "another parameter"])
def test_a_decoder_that_was_changed_has_another_id(pipe: OneDCPipeline, picture: Picture, change: str) -> None:
    named, before = pipe.compress(picture(64, 64), name_decoder=True), pipe.decoder_id
    assert pipe.decoder_id == before
    unet = pipe.generator.unet
    if change == "in place":
        with torch.no_grad():
            unet.conv_in.weight.add_(0.05)
    elif change == "load_state_dict":
        unet.load_state_dict({name: tensor + 0.05 for name, tensor in unet.state_dict().items()})
    else:
        unet.conv_in.weight = torch.nn.Parameter(unet.conv_in.weight + 0.05)
    assert pipe.decoder_id != before
    with pytest.warns(UserWarning, match="was checked against the decoder"):
        pipe.decompress(named)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_alone_runs_in_every_precision(tiny_folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    settings = TINY_MODEL["codec"] | {"output_block": "depth_conv", "decoder_only": True}
    codec = OneDCCodec(OneDCCodecConfig(**settings)).to(dtype)
    semantic = codec.adapt(torch.randn(1, codec.config.y_channels, 1, 1))
    detail = codec.synthesise(torch.randn(1, codec.config.y_channels, 4, 4), semantic)
    assert semantic.dtype == detail.dtype == dtype


def test_threads_that_share_a_model_in_floats_make_it_exact_once(
    float_pipe: OneDCPipeline, picture: Picture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest, made, together = float_pipe.quantize_entropy, [], threading.Barrier(3)
    monkeypatch.setattr(float_pipe, "quantize_entropy", lambda: (made.append(1), honest([picture(64, 64)])))
    results: list[Any] = []

    def work() -> None:
        together.wait()
        try:
            results.append(float_pipe.compress(picture(64, 64)))
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1] and len(set(results)) == 1 and isinstance(results[0], bytes)


def test_saved_weights_are_for_others_to_read(pipe: OneDCPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "plain").write_text("as any program writes it")
    usual = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert modes == {usual}


def test_a_pipeline_of_the_same_parts_leaves_their_number_format(tiny_folder: Path) -> None:
    half = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    again = OneDCPipeline.from_pipe(half)
    assert again.generator is half.generator
    assert half.generator.unet.conv_in.weight.dtype == half.codec.dec.conv_out.weight.dtype == torch.bfloat16


def test_a_number_format_may_be_named(tiny_folder: Path) -> None:
    for name in ("bfloat16", "torch.bfloat16"):
        named = OneDCPipeline.from_pretrained(tiny_folder, dtype=name)
        assert named.generator.unet.conv_in.weight.dtype == torch.bfloat16
    by_default = OneDCPipeline.from_pretrained(tiny_folder).generator.unet.conv_in.weight.dtype
    assert OneDCPipeline.from_pretrained(tiny_folder, dtype="auto").generator.unet.conv_in.weight.dtype == by_default
    for name in ("half a float", "int8", "nn"):
        with pytest.raises(ValueError, match="must be a number format"):
            OneDCPipeline.from_pretrained(tiny_folder, dtype=name)
