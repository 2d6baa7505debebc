"""A later release of the model in the box reads the files of the earlier ones, each by its own decoder side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from onedc_hf import ModelError, OneDCPipeline, WrongModel, releases
from onedc_hf.eight_bits import expanded
from onedc_hf.training.components import load_model
from onedc_hf.training.release import finish_weights, keep_earlier


@pytest.fixture
def box(tiny_folder: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A box whose second release has another entropy model than its first, which was the tiny model."""
    box = tmp_path / "box"
    shutil.copytree(tiny_folder, box / "model")
    first = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    keep_earlier(box)
    second = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    finish_weights(second, sorted(photographs.glob("*.png")))  # with tables of `z`, which the tiny model has not
    shutil.rmtree(box / "model")
    second.save_pretrained(box / "model")
    released = [{"model_id": pipe.model_id, "format_version": 1, "since": "0.1"} for pipe in (first, second)]
    (box / "released.json").write_text(json.dumps(released))
    monkeypatch.setattr(releases, "BOX", box)
    return box


def test_a_later_release_reads_earlier_files(
    box: Path, tiny_folder: Path, picture: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    first = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float16)
    second = OneDCPipeline.from_pretrained(box / "model", dtype=torch.float16)
    folder = releases.earlier_release(first.model_id)
    assert first.model_id != second.model_id and folder is not None
    for options in ({"quality": 60}, {"z_only": True}):
        data = first.compress(picture(70, 90), **options)
        with expanded(folder) as whole:
            reader = OneDCPipeline.from_pretrained(whole, dtype=torch.float16)
        again, in_8_bits, original = (np.asarray(p.decompress(data)) for p in (second, reader, first))
        assert np.array_equal(again, in_8_bits)
        assert np.abs(again.astype(float) - original).mean() < 3  # levels of 255
        ours, theirs = second.read_symbols(data), first.read_symbols(data)
        assert torch.equal(ours.y_hat, theirs.y_hat) and torch.equal(ours.semantic_seed, theirs.semantic_seed)
    path = tmp_path / "old.odc"
    path.write_bytes(data)
    assert second.decompress([path, second.compress(picture(64, 64))])[0].size == (90, 70)
    # Limits of the pipeline that was asked hold.
    second.max_pixels = 64 * 64
    with pytest.raises(ValueError, match="4,096"):
        second.decompress(data)


def test_files_that_name_their_decoder_side_hear_that_8_bits_are_another(
    box: Path, tiny_folder: Path, picture: Callable[..., np.ndarray]
) -> None:
    data = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float16).compress(picture(64, 64), name_decoder=True)
    second = OneDCPipeline.from_pretrained(box / "model", dtype=torch.float16)
    with pytest.warns(UserWarning, match="decoder"):
        second.decompress(data)


def test_an_earlier_release_reads_and_does_not_write(box: Path, picture: Callable[..., np.ndarray]) -> None:
    old_id, new_id = releases.released_ids()
    folder = releases.earlier_release(old_id[:4])
    assert folder is not None and releases.earlier_release(new_id[:4]) is None
    assert releases.earlier_release(old_id[:3]) is None and releases.earlier_release("") is None
    with expanded(folder) as whole:
        earlier = OneDCPipeline.from_pretrained(whole)
    assert earlier.model_id == old_id
    names = list(earlier.codec.state_dict())
    assert names and not any(name.startswith(("enc.", "hyper_enc.")) for name in names)
    with pytest.raises(ModelError, match="only reads files"):
        earlier.compress(picture(64, 64))
    with pytest.raises(ModelError, match="only reads files"):
        earlier(picture(64, 64))
    with expanded(folder) as whole, pytest.raises(ModelError, match="only reads files"):
        load_model(str(whole))


def test_a_pipeline_that_is_no_release_reads_only_its_own_files(
    box: Path, tiny_folder: Path, picture: Callable[..., np.ndarray]
) -> None:
    data = OneDCPipeline.from_pretrained(tiny_folder).compress(picture(64, 64))
    second = OneDCPipeline.from_pretrained(box / "model", dtype=torch.float32)
    second.codec.entropy.z_counts[0, :2] += torch.tensor([1, -1])  # somebody's own model
    second.codec.config.model_id = second.codec.entropy.digest().hex()
    with pytest.raises(WrongModel, match=r"model in the box of onedc-hf 0\.1"):
        second.decompress(data)
