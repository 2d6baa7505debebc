"""Half-size copies of saved pipelines."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from onedc_hf.eight_bits import expanded, shrink


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with weights of every kind in a sub-folder, and a file beside them."""
    draws = torch.Generator().manual_seed(0)
    rows = torch.tensor([1e-3, 1.0, 100.0, 0.0]).view(4, 1, 1, 1)
    tensors = {
        "conv.weight": (torch.randn(4, 8, 3, 3, generator=draws) * rows).half(),
        "conv.bias": torch.randn(4, generator=draws).half(),
        "last.weight": torch.randn(4, 8, generator=draws),
        "entropy.table": torch.arange(12, dtype=torch.int16).view(3, 4),
    }
    (tmp_path / "saved" / "codec").mkdir(parents=True)
    save_file(tensors, tmp_path / "saved" / "codec" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "saved" / "model_index.json").write_text("{}")
    return tmp_path / "saved"


def test_large_weights_come_back_within_half_a_step_and_the_rest_exactly(folder: Path) -> None:
    path = Path("codec") / "model.safetensors"
    before = load_file(folder / path)
    shrink(folder)
    assert [file.name for file in folder.rglob("*") if file.is_file()] == ["model_index.json", "model.safetensors.xz"]
    small = load(lzma.decompress((folder / path).with_suffix(".safetensors.xz").read_bytes()))
    assert small["conv.weight"].dtype == torch.int8 and small["conv.weight"].abs().amax(dim=(1, 2, 3)).tolist() == [
        127, 127, 127, 0
    ]  # fmt: skip
    with expanded(folder) as whole:
        after = load_file(whole / path)
        assert (whole / "model_index.json").read_text() == "{}"
        assert [file.name for file in (whole / "codec").iterdir()] == ["model.safetensors"]
    assert not whole.exists()
    assert {name: tensor.dtype for name, tensor in after.items()} == {n: t.dtype for n, t in before.items()}
    for name in before.keys() - {"conv.weight"}:
        assert torch.equal(after[name], before[name])
    error = (after["conv.weight"].float() - before["conv.weight"].float()).abs().amax(dim=(1, 2, 3))
    step = before["conv.weight"].float().abs().amax(dim=(1, 2, 3)) / 127
    assert (error <= 0.5 * step + 1e-3 * 127 * step).all() and error[1] > 0


def test_what_was_never_shrunk_is_expanded_to_itself(folder: Path) -> None:
    path = Path("codec") / "model.safetensors"
    with expanded(folder) as whole:
        again, before = load_file(whole / path), load_file(folder / path)
    assert again.keys() == before.keys() and all(torch.equal(again[name], before[name]) for name in before)
