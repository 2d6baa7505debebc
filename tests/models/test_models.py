"""Codec, generator and autoencoder: shapes, configs, saving and loading."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig, AutoModel

from onedc_hf import OneDCCodec, OneDCCodecConfig, OneDCGenerator, OneDCGeneratorConfig, OneDCPipeline
from onedc_hf.coding.order import unit_row_slices

# The paper's blocks at small width: the same classes as the box model, configured otherwise.
PAPER_CODEC = {
    "y_channels": 8,
    "groups": 4,
    "pixel_embedding_channels": 12,
    "fused_channels": 16,
    "trunk_channels": [16, 32, 32],
    "hyper_channels": [16, 16, 16],
    "synthesis_channels": [16, 8],
    "semantic_upsample_channels": [16, 8, 8],
    "detail_channels": 12,
}
PAPER_UNET = {
    "block_out_channels": [8, 16, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 32,
}


@pytest.fixture(scope="module")
def paper_codec() -> OneDCCodec:
    torch.manual_seed(0)
    return OneDCCodec(OneDCCodecConfig(**PAPER_CODEC)).eval()


@pytest.fixture(scope="module")
def paper_generator() -> OneDCGenerator:
    torch.manual_seed(0)
    config = OneDCGeneratorConfig(detail_channels=12, unet=PAPER_UNET, reduction_groups=4)
    return OneDCGenerator(config).eval()


@torch.no_grad()
def test_the_papers_layout_runs_from_pixels_to_the_latent(
    paper_codec: OneDCCodec, paper_generator: OneDCGenerator
) -> None:
    detail, tokens = paper_codec(torch.rand(1, 3, 64, 128), torch.rand(1, 4, 8, 16))
    assert detail.shape == (1, 12, 8, 16) and tokens.shape == (1, 2, 32)
    assert paper_generator(detail, tokens).shape == (1, 4, 8, 16)


@torch.no_grad()
def test_strips_of_the_hyper_analysis_see_what_the_whole_sees(
    paper_codec: OneDCCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    y = torch.randn(1, 8, 28, 12, generator=torch.Generator().manual_seed(1))
    whole = paper_codec.hyper_enc._reduce(y)
    monkeypatch.setattr("onedc_hf.coding.order.UNIT_POSITIONS", 3)
    assert len(list(unit_row_slices(7, 3))) == 7
    assert torch.allclose(paper_codec.hyper_enc._reduce(y), whole, atol=1e-5)


def test_the_defaults_are_the_full_size_model() -> None:
    with torch.device("meta"):
        codec, generator = OneDCCodec(OneDCCodecConfig()), OneDCGenerator(OneDCGeneratorConfig())
    assert sum(p.numel() for p in codec.parameters()) == 394_147_783
    # Stable Diffusion 1.5's U-Net, its input convolution widened from 4 to 320 channels, and the reduction block.
    reduction = 2 * 640 + (9 * 320 * 320 + 320) + (9 * 320 * 4 + 4) + (320 * 4 + 4)
    assert sum(p.numel() for p in generator.parameters()) == 859_520_964 + 9 * 316 * 320 + reduction


@torch.no_grad()
def test_the_x0_formula(paper_generator: OneDCGenerator) -> None:
    clean = paper_generator.to_clean_latent(torch.tensor(0.5), torch.tensor(0.25))
    alpha = 0.00466009508818388
    assert clean.item() == pytest.approx((0.25 - math.sqrt(1 - alpha) * 0.5) / math.sqrt(alpha), rel=1e-6)
    assert clean.dtype == torch.float32


@torch.no_grad()
def test_amplified_outputs_stay_in_float32(paper_codec: OneDCCodec, paper_generator: OneDCGenerator) -> None:
    import copy

    generator = copy.deepcopy(paper_generator).to(torch.bfloat16)
    noise, reduced = generator.predict(torch.rand(1, 12, 8, 8).bfloat16(), torch.rand(1, 1, 32).bfloat16())
    assert noise.dtype == reduced.dtype == torch.float32
    assert generator.unet.conv_in.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"y_channels": 10}, StrictDataclassClassValidationError, "multiple of 4"),
        ({"quality_rows": 0}, StrictDataclassClassValidationError, "1 to 101"),
        ({"analysis_blocks": ["dense"]}, StrictDataclassClassValidationError, "dense"),
        ({"trunk_layers": [1, 1]}, StrictDataclassClassValidationError, "trunk_layers"),
        ({"y_channels": "128"}, StrictDataclassFieldValidationError, "y_channels"),
        ({"trunk": "vit"}, StrictDataclassFieldValidationError, "trunk"),
    ],
)
def test_a_wrong_config_is_refused_at_construction(change: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        OneDCCodecConfig(**change)


def test_quality_embedding_asks_for_a_quality(tiny_pipeline: OneDCPipeline) -> None:
    with pytest.raises(ValueError, match="quality"):
        tiny_pipeline.generator(torch.rand(1, 8, 8, 8), torch.rand(1, 1, 16))


def test_every_tensor_comes_back_after_loading(paper_codec: OneDCCodec, tmp_path: Path) -> None:
    paper_codec.save_pretrained(tmp_path)
    loaded, report = OneDCCodec.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    expected = paper_codec.state_dict()
    found = loaded.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert set(dict(loaded.named_buffers())) <= set(found)  # nothing lives outside the checkpoint


def test_loading_in_half_precision_leaves_the_entropy_model_alone(paper_codec: OneDCCodec, tmp_path: Path) -> None:
    paper_codec.save_pretrained(tmp_path)
    loaded = OneDCCodec.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert loaded.entropy.digest() == paper_codec.entropy.digest()


def test_auto_classes_know_the_codec(tiny_folder: Path) -> None:
    assert isinstance(AutoConfig.from_pretrained(tiny_folder / "codec"), OneDCCodecConfig)
    assert isinstance(AutoModel.from_pretrained(tiny_folder / "codec"), OneDCCodec)


@torch.no_grad()
def test_the_autoencoder_speaks_diffusers(tiny_pipeline: OneDCPipeline) -> None:
    vae = tiny_pipeline.vae
    pictures = torch.rand(1, 3, 64, 128, dtype=vae.dtype)  # half precision, where the processor has it
    latents = vae.encode(pictures).latents
    assert latents.shape == (1, 4, 8, 16)
    assert vae.decode(latents).sample.shape == pictures.shape
    assert torch.equal(vae.decode(latents, return_dict=False)[0], vae(pictures).sample)
