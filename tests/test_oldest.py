"""The smallest whole journey: save, load, compress, decompress. `make test-oldest` runs it on the oldest versions."""

import numpy as np
import pytest


def test_save_load_compress_decompress(tiny_pipeline, tmp_path, picture):
    from onedc_hf import OneDCPipeline

    photo = picture(70, 100)
    data = tiny_pipeline.compress(photo, quality=50)
    rebuilt = tiny_pipeline.decompress(data)
    assert rebuilt.size == (100, 70)
    tiny_pipeline.save_pretrained(tmp_path / "model")
    again = OneDCPipeline.from_pretrained(tmp_path / "model")
    assert again.model_id == tiny_pipeline.model_id
    assert again.compress(photo, quality=50) == data
    assert np.array_equal(np.asarray(again.decompress(data)), np.asarray(rebuilt))


def test_model_in_the_box(picture):
    from onedc_hf import OneDCPipeline

    pipe = OneDCPipeline.from_pretrained()
    photo = picture(64, 96)
    data = pipe.compress(photo)
    assert np.asarray(pipe.decompress(data)).shape == photo.shape


def test_components_load_by_the_generic_classes(tiny_folder):
    from transformers import AutoModel

    import onedc_hf

    assert type(AutoModel.from_pretrained(tiny_folder, subfolder="codec")) is onedc_hf.OneDCCodec
    assert type(AutoModel.from_pretrained(tiny_folder, subfolder="generator")) is onedc_hf.OneDCGenerator


def test_generic_pipeline_loader(tiny_folder):
    from diffusers import DiffusionPipeline

    import onedc_hf

    assert type(DiffusionPipeline.from_pretrained(tiny_folder)) is onedc_hf.OneDCPipeline


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_can_be_asked_for(tiny_folder, picture, dtype):
    import torch

    from onedc_hf import OneDCPipeline

    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=getattr(torch, dtype))
    photo = picture(64, 64)
    assert np.asarray(pipe.decompress(pipe.compress(photo))).shape == photo.shape
