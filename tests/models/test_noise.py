"""Noise of a place, and the autoencoder that makes texture of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from onedc_hf import OneDCAutoencoder, OneDCPipeline
from onedc_hf.errors import ModelError
from onedc_hf.evaluation.spectrum import grid_report
from onedc_hf.models.noise import position_noise
from onedc_hf.pictures import load_picture
from onedc_hf.training.components import choose_what_learns, load_start
from onedc_hf.training.config import TrainConfig

WIDTHS = {"latent_channels": 4, "encoder_channels": 8, "decoder_channels": 16, "head_channels": 8}


def test_noise_is_that_of_the_place() -> None:
    whole = position_noise(5, 30, 40)
    assert whole.shape == (1, 5, 30, 40) and whole.dtype == torch.float32
    assert torch.equal(position_noise(5, 7, 9, origin=(20, 31)), whole[:, :, 20:27, 31:])
    assert torch.equal(position_noise(2, 30, 40), whole[:, :2])


def test_noise_never_changes() -> None:
    """Files must give the same pictures in years to come: here it is worked out anew, of whole numbers."""

    def mixed(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    for channel, row, column in [(0, 0, 0), (3, 1, 0), (31, 500, 77)]:
        c, r, q = (mixed(n + 1) + k for k, n in enumerate((channel, row, column)))
        hashed = mixed(mixed(c ^ mixed(r)) ^ q)
        total = sum(hashed >> 16 * lane & 0xFFFF for lane in range(4))
        expected = (total - 2 * 65535) / (4 * (2**32 - 1) / 12) ** 0.5
        assert position_noise(channel + 1, 1, 1, origin=(row, column))[0, channel, 0, 0] == np.float32(expected)


def test_noise_is_nearly_normal_and_repeats_nowhere() -> None:
    noise = position_noise(16, 64, 64)[0]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert abs((noise**4).mean() - 2.7) < 0.1  # a sum of four uniform numbers has 3 - 6/5/4
    flat = noise.flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(16)).abs().max() < 5 / 64
    spectrum = torch.fft.fft2(noise).abs().square() / 64**2
    assert spectrum.max() < 25  # exponentially distributed with mean 1; e^-25 of 65,536 values is nothing
    for shift in [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (8, 0), (0, 8)]:
        assert abs((noise * noise.roll(shift, (1, 2))).mean()) < 0.02


def test_a_decoder_with_noise_decodes_a_tile_as_part_of_the_whole() -> None:
    torch.manual_seed(0)
    vae = OneDCAutoencoder(**WIDTHS, noise_channels=6).eval()
    z = torch.randn(1, 4, 1, 1).expand(1, 4, 40, 40)  # nothing tells one position from another
    with torch.inference_mode():
        whole = vae.decode(z).sample
        assert torch.equal(vae.decode(z).sample, whole)
        tile = vae.decode(z[:, :, 4:36, 2:34], origin=(4, 2)).sample
        astray = vae.decode(z[:, :, 4:36, 2:34]).sample
    inner = slice(112, 144)  # away from the tile's border, where the networks see zeros
    ours = whole[:, :, 32:, 16:][:, :, inner, inner]
    torch.testing.assert_close(tile[:, :, inner, inner], ours, atol=1e-5, rtol=1e-5)
    assert (astray[:, :, inner, inner] - ours).abs().max() > 0.01
    blocks = ours.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3).flatten(3)
    assert blocks.std(dim=2).mean() > 0.01  # no two blocks of 8x8 pixels are alike


def test_noise_of_the_caller_takes_its_place() -> None:
    torch.manual_seed(0)
    vae, z = OneDCAutoencoder(**WIDTHS, noise_channels=6).eval(), torch.randn(2, 4, 4, 4)
    own = position_noise(6, 4, 4, (8, 16)).expand(2, -1, -1, -1)
    with torch.inference_mode():
        torch.testing.assert_close(vae.decode(z, noise=own).sample, vae.decode(z, origin=(8, 16)).sample)
        assert (vae.decode(z, noise=torch.randn(2, 6, 4, 4)).sample - vae.decode(z).sample).abs().max() > 0.01


def test_the_head_stays_in_float32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded in bfloat16 or cast to it: what the head rounds shows as a screen of 2x2 pixels."""
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)  # for caplog
    torch.manual_seed(0)
    OneDCAutoencoder(**WIDTHS).save_pretrained(tmp_path)
    exact = OneDCAutoencoder.from_pretrained(tmp_path)
    low = OneDCAutoencoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert (exact.dtype, low.dtype) == (torch.float32, torch.bfloat16)
    assert not caplog.records  # diffusers warns where casting is a danger, as in the next line
    cast = OneDCAutoencoder.from_pretrained(tmp_path).to(torch.float16)
    assert caplog.records
    with torch.inference_mode():
        assert low.decode(torch.zeros(1, 4, 4, 4, dtype=torch.bfloat16)).sample.dtype == torch.float32
    for vae in (low, cast):
        head = {name: p for name, p in vae.named_parameters() if p.dtype == torch.float32}
        assert set(head) == {
            *(f"decoder.6.{name}.{kind}" for name in ("conv1", "conv2") for kind in ("weight", "bias")),
            *(f"decoder.{layer}.{kind}" for layer in (4, 7) for kind in ("weight", "bias")),
        }
        assert all(torch.equal(p, exact.get_parameter(name)) for name, p in head.items())
    loaded, report = OneDCAutoencoder.from_pretrained(tmp_path, torch_dtype=torch.bfloat16, output_loading_info=True)
    assert loaded.dtype == torch.bfloat16 and not report["missing_keys"]


def test_a_model_gets_noise_to_start_training_with(tiny_folder: Path, tiny_pipeline: OneDCPipeline) -> None:
    torch.manual_seed(0)
    settings = {"init_from": str(tiny_folder), "train_data_dir": "unused"}
    bare, noisy = (load_start(TrainConfig(**settings, noise_channels=n)) for n in (0, 6))
    assert (bare.vae.config.noise_channels, noisy.vae.config.noise_channels) == (0, 6)
    pixels, quality = torch.rand(2, 3, 128, 128) * 2 - 1, torch.tensor([20.0, 80.0])
    with torch.no_grad():
        before, first, second = (model(pixels, quality).picture for model in (bare, noisy, noisy))
    assert torch.equal(bare(pixels, quality).picture, before)
    change = (first - before).abs().mean()
    assert 0 < change < 0.1 * before.std()
    assert not torch.equal(first, second)  # every step draws its own
    assert noisy.vae.with_noise(6) is noisy.vae
    with pytest.raises(ModelError, match="6 channels of noise.*or to 0"):
        noisy.vae.with_noise(3)
    noisy.eval()
    with torch.no_grad():
        assert torch.equal(noisy(pixels, quality).picture, noisy(pixels, quality).picture)  # the place's own
    noisy.train()
    noisy(pixels, quality).picture.square().mean().backward()
    assert noisy.vae.noise_in.weight.grad is not None and noisy.vae.noise_in.weight.grad.abs().max() > 0


def test_noise_is_for_the_autoencoder_that_can_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from onedc_hf.training import components

    monkeypatch.setattr(components, "load_model", lambda *_, **__: SimpleNamespace(vae=torch.nn.Identity()))
    with pytest.raises(ModelError, match="noise_channels.*Identity"):
        load_start(TrainConfig(train_data_dir="unused", noise_channels=6))
    with pytest.raises(ValueError, match="below 0"):
        TrainConfig(train_data_dir="unused", noise_channels=-1)


def test_noise_that_could_not_learn_is_refused(tiny_folder: Path) -> None:
    settings = {"init_from": str(tiny_folder), "train_data_dir": "unused", "noise_channels": 6}
    with pytest.raises(ValueError, match="freeze `vae.encoder`"):
        choose_what_learns(load_start(TrainConfig(**settings)), TrainConfig(**settings, freeze=["codec", "vae"]))
    config = TrainConfig(**settings, freeze=["codec", "vae.encoder"])
    model = load_start(config)
    learns = {id(parameter) for parameter in choose_what_learns(model, config)}
    assert {id(model.vae.noise_in.weight), id(model.vae.noise_gate.weight)} <= learns


def test_a_pipeline_with_noise_decodes_the_same_in_tiles_and_after_saving(
    tiny_folder: Path, tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    torch.manual_seed(0)
    plain = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    pipe = OneDCPipeline(**(plain.components | {"vae": plain.vae.with_noise(6).eval()}))
    torch.nn.init.normal_(pipe.vae.noise_in.weight, std=0.3)
    data = pipe.compress(picture(400, 384))
    whole = np.asarray(pipe.decompress(data), dtype=int)
    assert np.array_equal(whole, np.asarray(pipe.decompress(data)))
    assert pipe.model_id == plain.model_id and pipe.decoder_id != plain.decoder_id  # noise is a part of the decoder
    pipe.save_pretrained(tmp_path)
    loaded = OneDCPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert np.array_equal(np.asarray(loaded.decompress(data)), whole)
    loaded.enable_tiling(256, 128)
    tiled = np.asarray(loaded.decompress(data), dtype=int)
    grain = np.abs(whole - np.asarray(plain.decompress(data), dtype=int)).mean()
    assert np.abs(tiled - whole).mean() < 0.1 * grain  # with noise that began anew in each tile it would be as large


def test_half_precision_draws_no_screen_in_the_box() -> None:
    """With the head rounded to bfloat16 a period of 2 pixels reads 4 times what float32 gives, and more."""
    path = next(p for p in files("onedc_hf").joinpath("box/pictures").iterdir() if p.name == "roses.jpg")
    exact, low = (OneDCPipeline.from_pretrained(dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    data = exact.compress(load_picture(str(path))[:384, :512], target_bpp=0.067)
    report = grid_report(*(np.asarray(pipe.decompress(data)) for pipe in (exact, low)))
    assert report.worst < 1.2
