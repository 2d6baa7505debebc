"""A model between two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onedc_hf import OneDCPipeline
from onedc_hf.errors import ModelError
from onedc_hf.training.blend import blend, main

from .saved import weights_of


@pytest.fixture
def trained(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with another decoder side, and noise."""
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in (*pipe.vae.decoder.parameters(), *pipe.generator.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    pipe = OneDCPipeline(**(pipe.components | {"vae": pipe.vae.with_noise(6)}))
    pipe.save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_weight_moves_its_share_of_the_way(
    tiny_folder: Path, trained: Path, tmp_path: Path, share: float
) -> None:
    out = tmp_path / "out"
    assert main([str(tiny_folder), str(trained), str(out), "--share", str(share)]) == 0
    before, after, between = (weights_of(folder) for folder in (tiny_folder, trained, out))
    assert between.keys() == after.keys()
    for name, tensor in between.items():
        if name in before and tensor.is_floating_point():
            expected = before[name] + share * (after[name].double() - before[name])
            torch.testing.assert_close(tensor.double(), expected, atol=1e-6, rtol=1e-6)
        else:
            assert torch.equal(tensor, after[name])


def test_a_blend_reads_the_files_of_both(tiny_folder: Path, trained: Path, picture) -> None:
    before, after = (OneDCPipeline.from_pretrained(folder, dtype=torch.float32) for folder in (tiny_folder, trained))
    data = before.compress(picture(64, 96))
    pictures = [np.asarray(pipe.decompress(data), dtype=int) for pipe in (before, after)]
    middle = np.asarray(blend(before, after, 0.5).decompress(data), dtype=int)
    assert all(np.abs(middle - one).mean() > 0.5 for one in pictures)
    assert after.model_id == before.model_id


def test_what_cannot_be_blended_is_refused(tiny_folder: Path, trained: Path, tmp_path: Path, capsys) -> None:
    assert main([str(tiny_folder), str(trained), str(trained)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([str(tiny_folder), str(trained), str(tmp_path / "x"), "--share", "1.5"]) == 1
    assert "[0, 1]" in capsys.readouterr().err
    assert main(["", str(trained), str(tmp_path / "x")]) == 1
    assert "different entropy models" in capsys.readouterr().err
    before, after = (OneDCPipeline.from_pretrained(folder, dtype=torch.float32) for folder in (trained, tiny_folder))
    with pytest.raises(ModelError, match="not of one architecture: vae.noise"):
        blend(before, after, 0.5)
    assert not (tmp_path / "x").exists()
