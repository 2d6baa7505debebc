"""Other components and other weights in a pipeline: nothing is written under the name of those that were there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from onedc_hf import ModelError, OneDCAutoencoder, OneDCPipeline, PictureError, TooLarge, WrongModel, entropy_path
from onedc_hf.coding import BitstreamWriter
from onedc_hf.coding.authors import read_authors_file
from onedc_hf.coding.limits import too_large

Picture = Callable[..., np.ndarray]


@pytest.fixture
def pipe(tiny_folder: Path) -> OneDCPipeline:
    return OneDCPipeline.from_pretrained(tiny_folder)


@pytest.fixture
def other(tiny_folder: Path) -> OneDCPipeline:
    """The same with another threshold of its scale table, and so with another id."""
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.codec.entropy.cdf[10, 1] += 1
    pipe.codec.config.model_id = ""
    return pipe


def test_a_codec_that_is_assigned_writes_files_of_its_own(
    pipe: OneDCPipeline, other: OneDCPipeline, picture: Picture, tiny_folder: Path
) -> None:
    before = pipe.compress(picture(70, 90))
    pipe.codec = other.codec
    assert pipe.model_id == other.model_id
    data = pipe.compress(picture(70, 90))
    assert np.array_equal(other.decompress(data), pipe.decompress(data))
    with pytest.raises(WrongModel):
        OneDCPipeline.from_pretrained(tiny_folder).decompress(data)
    with pytest.raises(WrongModel):
        pipe.decompress(before)


def test_weights_that_were_changed_in_place_write_nothing_under_the_old_name(
    pipe: OneDCPipeline, picture: Picture
) -> None:
    pipe.compress(picture(64, 64))
    pipe.codec.entropy.cdf[10, 1] += 1
    with pytest.raises(ModelError, match="changed or cast"):
        pipe.compress(picture(64, 64))
    former, pipe.codec.config.model_id = pipe.codec.config.model_id, ""
    assert pipe.model_id != former
    assert pipe.decompress(pipe.compress(picture(64, 64))).size == (64, 64)


def test_another_decoder_has_another_id_and_one_that_does_not_fit_is_refused(
    pipe: OneDCPipeline, tiny_folder: Path
) -> None:
    former, vae = pipe.decoder_id, pipe.vae
    changed = OneDCAutoencoder.from_pretrained(tiny_folder / "vae")
    with torch.no_grad():
        for weight in changed.decoder.parameters():
            weight.add_(1)
    pipe.vae = changed
    assert pipe.decoder_id != former
    narrow = OneDCAutoencoder(latent_channels=vae.config.latent_channels + 1)
    with pytest.raises(ModelError):
        pipe.vae = narrow
    assert pipe.vae is changed


def test_an_analysis_that_overflows_says_so(pipe: OneDCPipeline, picture: Picture) -> None:
    with torch.no_grad():
        next(pipe.codec.enc.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN or infinity in torch.float32"):
        pipe.compress(picture(64, 64))


def test_weights_that_are_put_away_have_no_id(pipe: OneDCPipeline, picture: Picture) -> None:
    pipe.enable_sequential_cpu_offload(device="cpu")
    with pytest.raises(ModelError, match="before offloading"):
        pipe.compress(picture(64, 64), name_decoder=True)


def test_a_file_that_names_its_decoder_is_read_where_that_cannot_be_compared(
    pipe: OneDCPipeline, tiny_folder: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pipe.compress(picture(64, 64), name_decoder=True)

    def put_away(_: object) -> str:
        raise ModelError("put away")

    monkeypatch.setattr(entropy_path, "decoder_digest", put_away)
    assert OneDCPipeline.from_pretrained(tiny_folder).decompress(data).size == (64, 64)


def test_a_picture_that_cannot_be_read_leaves_a_model_as_it_was(tiny_folder: Path, tmp_path: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.codec.make_float()
    with pytest.raises(PictureError):
        pipe.quantize_entropy(table_pictures=[tmp_path / "none.png"])
    assert pipe.codec.config.entropy_path == "float" and not pipe.codec.entropy.z_counts.any()


def test_a_thin_picture_counts_as_it_is_padded(pipe: OneDCPipeline) -> None:
    assert too_large(1 << 14, 1 << 14, 1 << 28) is None and too_large(1 << 30, 1, None) is None
    assert too_large(1000, 1000, 1_000_000) is None and too_large(8, 8, 64) is None
    assert too_large(1 << 18, 1, 1 << 28) is None and too_large(1, 1 << 22, 1 << 28) is None
    reason = too_large(1, 1 << 24, 1 << 28)
    assert reason is not None and "1,073,741,824 with its sides rounded up" in reason
    writer = BitstreamWriter(pipe._symbols(), width=1, height=1 << 24, z_only=True)
    writer.write_hyper(np.zeros((1 << 18, 1), np.int64))
    with pytest.raises(TooLarge, match="rounded up"):
        pipe.decompress(writer.finish())
    thin = b"".join(value.to_bytes(4, "big") for value in (16_777_215, 1, 1, 0))
    with pytest.raises(TooLarge, match="rounded up"):
        read_authors_file(thin, (4,) * 7, 1 << 25)


def test_a_picture_may_not_be_wider_than_strips_can_be(pipe: OneDCPipeline) -> None:
    reason = too_large((1 << 18) + 1, 1, 1 << 28)
    assert reason is not None and "wider than the limit of 262,144" in reason
    assert too_large((1 << 18) + 1, 1, None) is None
    writer = BitstreamWriter(pipe._symbols(), width=1 << 19, height=1, z_only=True)
    writer.write_hyper(np.zeros((1, 1 << 13), np.int64))
    with pytest.raises(TooLarge, match="wider than"):
        pipe.decompress(writer.finish())


def test_a_generator_takes_no_pattern_for_its_adapter(pipe: OneDCPipeline) -> None:
    pytest.importorskip("peft")
    config = pipe.generator.config.to_dict() | {"lora": {"r": 2, "lora_alpha": 2, "target_modules": "([a-z.]+)*X"}}
    with pytest.raises(ModelError, match="a list of layers"):
        type(pipe.generator)(type(pipe.generator.config).from_dict(config))
