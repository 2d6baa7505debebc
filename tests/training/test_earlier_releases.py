"""A later release of the model in the box reads the files of the earlier ones, by what is kept of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from onedc_hf import Corrupt, ModelError, OneDCPipeline, TooLarge, Truncated, WrongModel, releases
from onedc_hf.eight_bits import expanded
from onedc_hf.models.quantize import set_gains
from onedc_hf.training.components import load_model
from onedc_hf.training.release import finish_weights, keep_earlier


@pytest.fixture
def first_box(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A box before its second release; its first was the tiny model."""
    box = tmp_path / "box"
    shutil.copytree(tiny_folder, box / "model")
    monkeypatch.setattr(releases, "BOX", box)
    return box


@pytest.fixture
def box(first_box: Path, tiny_folder: Path, photographs: Path) -> Path:
    """A box whose second release has another entropy model than its first."""
    second = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    finish_weights(second, sorted(photographs.glob("*.png")))  # with tables of `z`, which the tiny model has not
    second.codec.entropy.feat_in.bias.add_(1)
    release(first_box, second)
    return first_box


def release(box: Path, pipe: OneDCPipeline) -> None:
    """What `make release-box` does to the box, without measuring anything."""
    pipe.codec.config.model_id = pipe.codec.entropy.digest().hex()
    keep_earlier(box, pipe)
    before = OneDCPipeline.from_pretrained(box / "model", dtype=torch.float32).model_id
    shutil.rmtree(box / "model")
    pipe.save_pretrained(box / "model")
    listed = box / "released.json"
    released = json.loads(listed.read_text()) if listed.is_file() else [{"model_id": before, "since": "0.1"}]
    listed.write_text(json.dumps([*released, {"model_id": pipe.model_id, "since": "0.1"}]))


def with_other_gains(folder: Path, by: int) -> OneDCPipeline:
    """A model whose gains are the only thing that differs."""
    pipe = OneDCPipeline.from_pretrained(folder, dtype=torch.float32)
    set_gains(pipe.codec.entropy, pipe.codec.entropy.gain_steps + by)
    return pipe


def test_a_later_release_reads_earlier_files(
    box: Path, tiny_folder: Path, picture: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    first = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float16)
    second = OneDCPipeline.from_pretrained(box / "model", dtype=torch.float16)
    kept = releases.earlier_release(first.model_id)
    assert first.model_id != second.model_id and kept is not None
    assert kept.model_id == first.model_id and not kept.tables
    for options in ({"quality": 60}, {"z_only": True}):
        data = first.compress(picture(70, 90), **options)
        with expanded(kept.folder) as whole:
            reader = OneDCPipeline.from_pretrained(whole, dtype=torch.float16)
        again, in_8_bits, original = (np.asarray(p.decompress(data)) for p in (second, reader, first))
        assert np.array_equal(again, in_8_bits)
        assert np.abs(again.astype(float) - original).mean() < 3  # levels of 255
        ours, theirs = second.read_symbols(data), first.read_symbols(data)
        assert torch.equal(ours.y_hat, theirs.y_hat) and torch.equal(ours.semantic_seed, theirs.semantic_seed)
    # Nothing is loaded for what only begins like a file of it.
    third = OneDCPipeline.from_pretrained(box / "model", dtype=torch.float16)
    with pytest.raises(Truncated):
        third.decompress(first.compress(picture(70, 90))[:14])
    assert not third._earlier.pipelines
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
    kept = releases.earlier_release(old_id[:4])
    assert kept is not None and releases.earlier_release(new_id[:4]) is None
    assert releases.earlier_release(old_id[:3]) is None and releases.earlier_release("") is None
    with expanded(kept.folder) as whole:
        earlier = OneDCPipeline.from_pretrained(whole)
    assert earlier.model_id == old_id
    names = list(earlier.codec.state_dict())
    assert names and not any(name.startswith(("enc.", "hyper_enc.")) for name in names)
    with pytest.raises(ModelError, match="only reads files"):
        earlier.compress(picture(64, 64))
    with pytest.raises(ModelError, match="only reads files"):
        earlier(picture(64, 64))
    with expanded(kept.folder) as whole, pytest.raises(ModelError, match="only reads files"):
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


def test_of_a_release_that_differs_in_gains_alone_only_those_are_kept(
    first_box: Path, tiny_folder: Path, picture: Callable[..., np.ndarray]
) -> None:
    box = first_box
    release(box, with_other_gains(tiny_folder, 4))
    first, second = (OneDCPipeline.from_pretrained(f, dtype=torch.float32) for f in (tiny_folder, box / "model"))
    kept = releases.earlier_release(first.model_id)
    assert kept is not None and kept.model_id == second.model_id and kept.folder == box / "model"
    assert {"gain_steps", "gain_inverse"} <= kept.tables.keys() <= {"gain_steps", "gain_inverse", "gain_bits"}
    assert not list((box / "earlier").rglob("*.xz"))
    theirs_alone = second.compress(picture(70, 90), quality=60)
    for options in ({"quality": 60}, {"quality": 100}, {"z_only": True}):
        data = first.compress(picture(70, 90), **options)
        ours, theirs = second.read_symbols(data), first.read_symbols(data)
        assert torch.equal(ours.y_hat, theirs.y_hat) and torch.equal(ours.semantic_seed, theirs.semantic_seed)
        # The networks are the same here, so the pictures are.
        assert np.array_equal(np.asarray(second.decompress(data)), np.asarray(first.decompress(data)))
    assert second.compress(picture(70, 90), quality=60) == theirs_alone  # its own gains are as they were
    second.decompress(theirs_alone)
    assert second.decompress(data).info["onedc:ModelId"] == second.model_id  # whose networks rebuilt it
    # All that a file may be asked for goes through the tables.
    data = first.compress(picture(70, 90), quality=100)
    rough = second.decompress(data, preview=True)
    assert np.array_equal(np.asarray(rough), np.asarray(first.decompress(data, preview=True)))
    part = data[: len(data) * 2 // 3]
    with pytest.warns(UserWarning, match="cut"):
        ours, theirs = (pipe.read_symbols(part, allow_partial=True) for pipe in (second, first))
    assert torch.equal(ours.y_hat, theirs.y_hat)
    with pytest.raises(Corrupt):
        second.decompress(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    second.max_pixels = 64 * 64
    with pytest.raises(TooLarge):
        second.decompress(data)
    # Damaged tables are noticed: a digest covers them.
    tables = kept.tables | {"gain_steps": kept.tables["gain_steps"] + 1}
    place = box / "earlier" / first.model_id[:8] / "tables.safetensors"
    save_file(tables, place, metadata={"networks_of": second.model_id})
    with pytest.raises(WrongModel):
        OneDCPipeline.from_pretrained(box / "model", dtype=torch.float32).decompress(data)


def test_what_is_kept_of_gains_outlives_the_release_that_it_stands_on(
    first_box: Path, tiny_folder: Path, picture: Callable[..., np.ndarray]
) -> None:
    box = first_box
    release(box, with_other_gains(tiny_folder, 4))
    release(box, with_other_gains(tiny_folder, 7))
    last = with_other_gains(tiny_folder, 9)
    last.codec.entropy.feat_in.bias.add_(1)
    release(box, last)
    old, middle, third, _ = releases.released_ids()
    box_now = OneDCPipeline.from_pretrained(box / "model", dtype=torch.float16)
    writers = [with_other_gains(tiny_folder, by) for by in (0, 4, 7)]
    for writer, model_id in zip(writers, (old, middle, third), strict=True):
        writer.codec.config.model_id = model_id  # proves that the gains are those
        kept = releases.earlier_release(model_id)
        assert kept is not None and kept.model_id == third and kept.folder == box / "earlier" / third[:8]
        data = writer.compress(picture(64, 64), quality=70)
        assert torch.equal(box_now.read_symbols(data).y_hat, writer.read_symbols(data).y_hat)
        assert box_now.decompress(data).size == (64, 64)
    assert list(box_now._earlier.pipelines) == [third]  # one reader for all three
    # A release that somebody kept reads files of the one before it by itself.
    data = writers[0].compress(picture(64, 64), quality=70)
    assert torch.equal(writers[1].read_symbols(data).y_hat, writers[0].read_symbols(data).y_hat)
    assert not writers[1]._earlier.pipelines


def test_a_release_may_come_back(first_box: Path, tiny_folder: Path, picture: Callable[..., np.ndarray]) -> None:
    box = first_box
    release(box, with_other_gains(tiny_folder, 4))
    release(box, with_other_gains(tiny_folder, 0))
    other, again = with_other_gains(tiny_folder, 4), OneDCPipeline.from_pretrained(box / "model", dtype=torch.float32)
    other.codec.config.model_id = ""
    assert [folder.name for folder in (box / "earlier").iterdir()] == [other.model_id[:8]]
    data = other.compress(picture(64, 64), quality=70)
    assert torch.equal(again.read_symbols(data).y_hat, other.read_symbols(data).y_hat)


def test_layers_are_no_tables(tiny_folder: Path) -> None:
    old, new = (OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32).codec.entropy for _ in range(2))
    assert releases.different_tables(old, new) == {}
    new.skip_index += 1  # decides symbols, and is no tensor
    assert releases.different_tables(old, new) is None
    new.skip_index -= 1
    new.feat_in.bias.add_(1)
    assert releases.different_tables(old, new) is None
