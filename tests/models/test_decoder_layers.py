"""A decoder with more blocks than it was trained with: the same pictures at first, and something to learn with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onedc_hf import ModelError
from onedc_hf.models import OneDCAutoencoder
from onedc_hf.training.components import choose_what_learns, load_start
from onedc_hf.training.config import TrainConfig

WIDTHS = {
    "latent_channels": 4,
    "encoder_channels": 8,
    "encoder_layers": 1,
    "decoder_channels": 8,
    "head_channels": 4,
}  # fmt: skip


@pytest.mark.parametrize("noise", [0, 6])
def test_new_blocks_change_no_picture_and_learn(noise: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = OneDCAutoencoder(**WIDTHS, decoder_layers=2, noise_channels=noise)
    deeper = vae.with_decoder_layers(4)
    z = torch.randn(1, 4, 6, 6)
    with torch.no_grad():
        before, after = vae.decode(z).sample, deeper.decode(z).sample
    torch.testing.assert_close(after, before)
    assert deeper.config.decoder_layers == 4 and deeper.with_decoder_layers(4) is deeper
    # The noise comes in where it did, so the new blocks can make something of it.
    assert deeper.with_decoder_layers(5).config.noise_before == deeper.config.noise_before == 2
    deeper.decode(z).sample.square().mean().backward()
    for block in (deeper.decoder[3], deeper.decoder[4]):
        assert block.project.weight.grad.abs().max() > 0
        torch.nn.init.normal_(block.project.weight)
    deeper.save_pretrained(tmp_path)
    again = OneDCAutoencoder.from_pretrained(tmp_path)
    with torch.no_grad():
        grown = deeper.decode(z).sample
        assert (grown - before).abs().max() > 1e-3
        torch.testing.assert_close(again.decode(z).sample, grown)
        for other in (again.with_decoder_layers(6), deeper.with_decoder_layers(6)):
            torch.testing.assert_close(other.decode(z).sample, grown)


def test_blocks_are_added_and_not_taken_away() -> None:
    with pytest.raises(ModelError, match="has 3 blocks and cannot get 2"):
        OneDCAutoencoder(**WIDTHS, decoder_layers=3).with_decoder_layers(2)
    with pytest.raises(ValueError, match="one of 3 `decoder_layers`"):
        OneDCAutoencoder(**WIDTHS, decoder_layers=3, noise_channels=4, noise_before=4)


def test_a_run_starts_with_the_blocks_that_it_asks_for(tiny_folder: Path) -> None:
    has = load_start(TrainConfig(init_from=str(tiny_folder), train_data_dir="unused")).vae.config.decoder_layers
    settings = {"init_from": str(tiny_folder), "train_data_dir": "unused", "decoder_layers": has + 1}
    with pytest.raises(ValueError, match="`decoder_layers` gives.*freeze `vae.encoder`"):
        choose_what_learns(load_start(TrainConfig(**settings)), TrainConfig(**settings, freeze=["codec", "vae"]))
    config = TrainConfig(**settings, freeze=["codec", "vae.encoder"])
    model = load_start(config)
    assert model.vae.config.decoder_layers == has + 1
    learns = {id(parameter) for parameter in choose_what_learns(model, config)}
    assert id(model.vae.decoder[1 + has].project.weight) in learns
    with pytest.raises(ValueError, match="below 0"):
        TrainConfig(train_data_dir="unused", decoder_layers=-1)
