"""A gain table that rises further at its upper end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from onedc_hf import OneDCPipeline
from onedc_hf.training.gains import main, raise_last_rows


def test_last_rows_rise_in_proportion() -> None:
    steps = torch.arange(101, dtype=torch.int32)[:, None].repeat(1, 3)
    raised = raise_last_rows(steps, 80, 10)
    assert raised.dtype == torch.int32
    rise = (raised - steps)[:, 0]
    assert not rise[:81].any() and rise[90] == 5 and rise[100] == 10
    assert (rise.diff() >= 0).all() and ((raised - steps) == rise[:, None]).all()


@pytest.mark.parametrize(("from_row", "by"), [(-1, 10), (100, 10), (80, 0), (80, 256)])
def test_what_makes_no_sense_is_refused(from_row: int, by: int) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        raise_last_rows(torch.zeros(101, 4, dtype=torch.int32), from_row, by)


def test_quality_100_takes_more_bits_and_lower_qualities_the_same(
    tiny_folder: Path, tmp_path: Path, picture: Callable[..., np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(tiny_folder), str(out), "--from_row", "1", "--steps", "40"]) == 0
    before, after = (OneDCPipeline.from_pretrained(folder, dtype=torch.float32) for folder in (tiny_folder, out))
    assert before.model_id != after.model_id == after.codec.config.model_id
    photograph = picture(128, 128)
    files = [[p.compress(photograph, quality=q) for q in (0, 100)] for p in (before, after)]
    assert len(files[1][1]) > 1.2 * len(files[0][1])
    low, high = ([p.read_symbols(f[i]).y_hat for p, f in zip((before, after), files, strict=True)] for i in (0, 1))
    assert torch.equal(*low) and not torch.equal(*high)
    assert abs(len(files[1][0]) - len(files[0][0])) <= 2  # the end of the coder's stream
    after.decompress(after.compress(photograph, quality=100))

    assert main([str(tiny_folder), str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([str(tiny_folder), str(tmp_path / "other"), "--from_row", "1000"]) == 1
    assert "must lie in" in capsys.readouterr().err
    before.codec.make_float()
    before.save_pretrained(tmp_path / "float")
    assert main([str(tmp_path / "float"), str(tmp_path / "other")]) == 1
    assert "quantize-entropy" in capsys.readouterr().err
