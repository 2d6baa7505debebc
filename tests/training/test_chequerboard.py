"""A last convolution that cannot draw a chequerboard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor

from onedc_hf import OneDCPipeline
from onedc_hf.errors import ModelError
from onedc_hf.training.chequerboard import feature_moments, last_convolution, main, without_chequerboard

from .saved import weights_of

CHANNELS = 5


def _kernels(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(12, CHANNELS, 3, 3, generator=generator), torch.randn(12, generator=generator)


def _moments(seed: int = 1) -> Tensor:
    sample = torch.randn(9 * CHANNELS + 1, 400, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sample[1] += 3 * sample[0]  # features go together, as those of pictures do
    sample[-1] = 1
    return sample @ sample.T / 400


def _drawn(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The picture `[3, H, W]` without its border, whose kernels see zeros."""
    return F.pixel_shuffle(F.conv2d(features[None], weight, bias, padding=1), 2)[0, :, 2:-2, 2:-2]


def _alternation(picture: Tensor) -> float:
    """The largest difference between the two pixels of a pair along rows."""
    return float((picture[..., 0::2] - picture[..., 1::2]).abs().max())


@pytest.mark.parametrize("along", ["rows", "columns"])
def test_what_is_constant_along_a_line_is_drawn_constant(along: str) -> None:
    line = torch.randn(CHANNELS, 12, 1, generator=torch.Generator().manual_seed(2))
    features = line.expand(-1, -1, 12)
    turn = (lambda x: x) if along == "rows" else (lambda x: x.mT)
    weight, bias = _kernels()
    assert _alternation(turn(_drawn(turn(features), weight, bias))) > 1
    free = without_chequerboard(weight, bias, _moments())
    picture = turn(_drawn(turn(features), *free))
    assert _alternation(picture) < 1e-4
    assert picture.std() > 0.1  # and still is a picture


def test_no_other_kernels_without_a_chequerboard_are_nearer() -> None:
    moments = _moments()
    both = [torch.cat([w.flatten(1), b[:, None]], 1).double() for w, b in (_kernels(), _kernels(3))]
    (weight, bias), (another, its_bias) = (without_chequerboard(w, b, moments) for w, b in (_kernels(), _kernels(3)))
    nearest, other = (
        torch.cat([w.flatten(1), b[:, None]], 1).double() for w, b in ((weight, bias), (another, its_bias))
    )
    # The conditions are linear: the way between two that keep them keeps them, and at the nearest it leads across.
    slope = torch.einsum("pm,mk,pk->", nearest - both[0], moments, other - nearest)
    size = torch.einsum("pm,mk,pk->", nearest - both[0], moments, nearest - both[0])
    assert size > 1
    assert abs(float(slope / size)) < 1e-4


def test_kernels_that_draw_none_stay_as_they_are() -> None:
    free = without_chequerboard(*_kernels(), _moments())
    again = without_chequerboard(*free, _moments(4))
    for one, other in zip(free, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_model_is_changed_in_that_layer_alone(tiny_folder: Path, photographs: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--model", str(tiny_folder), "--train_data_dir", str(photographs), "--exclude", "--crops", "3"]
    arguments += ["--resolution", "64", "--output_dir", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "levels of 255" in capsys.readouterr().out
    before, after = weights_of(tiny_folder), weights_of(tmp_path / "out" / "pipeline")
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    layer = f"vae.decoder.{len(OneDCPipeline.from_pretrained(tiny_folder).vae.decoder) - 2}"
    assert changed == {f"{layer}.weight", f"{layer}.bias"}
    sums = after[f"{layer}.weight"].double().sum(dim=(2, 3)).unflatten(0, (3, 4))  # [3, 4, C]
    torch.testing.assert_close(sums, sums[:, :1].expand_as(sums), atol=1e-5, rtol=1e-4)
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err


def test_what_has_no_such_layer_or_no_pictures_is_refused(tiny_pipeline: OneDCPipeline) -> None:
    with pytest.raises(ModelError, match="AutoencoderTiny"):
        last_convolution(AutoencoderTiny())
    with pytest.raises(ValueError, match="empty"):
        feature_moments(tiny_pipeline, [])


def test_moments_are_those_of_what_the_layer_sees(tiny_folder: Path, picture) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    seen: list[Tensor] = []
    handle = last_convolution(pipe.vae).register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    moments = feature_moments(pipe, [picture(64, 64)])
    handle.remove()
    (features,) = seen
    # The middle tap of a kernel sees every position once; the last entry is the bias's one.
    middle = moments[4:-1:9, 4:-1:9]
    wanted = torch.einsum("cyx,dyx->cd", features[0].double(), features[0].double()) / features[0, 0].numel()
    torch.testing.assert_close(middle, wanted, atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(float(moments[-1, -1]), 1.0)
