"""A decoder with more blocks than it was trained with: the same pictures at first, and something to learn with."""

from __future__ import annotations

from collections.abc import Callable
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


Grow = Callable[[OneDCAutoencoder, int], OneDCAutoencoder]
GROW: dict[str, Grow] = {
    "decoder_layers": OneDCAutoencoder.with_decoder_layers,
    "head_layers": OneDCAutoencoder.with_head_layers,
}


@pytest.mark.parametrize("noise", [0, 6])
@pytest.mark.parametrize("setting", GROW)
def test_new_blocks_change_no_picture_and_learn(setting: str, noise: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = OneDCAutoencoder(**WIDTHS, decoder_layers=2, head_layers=2, noise_channels=noise)
    grow = GROW[setting]
    deeper = grow(vae, 4)
    z = torch.randn(1, 4, 6, 6)
    with torch.no_grad():
        before, after = vae.decode(z).sample, deeper.decode(z).sample
    torch.testing.assert_close(after, before)
    assert deeper.config[setting] == 4 and grow(deeper, 4) is deeper
    deeper.decode(z).sample.square().mean().backward()
    last_layers = [m for n, m in deeper.decoder.named_modules() if n.endswith(("project", "conv2"))]
    new = [layer for layer in last_layers if not layer.weight.any()]
    assert len(new) == 2
    for layer in new:
        assert layer.weight.grad.abs().max() > 0
        torch.nn.init.normal_(layer.weight)
    deeper.save_pretrained(tmp_path)
    again = OneDCAutoencoder.from_pretrained(tmp_path)
    with torch.no_grad():
        grown = deeper.decode(z).sample
        assert (grown - before).abs().max() > 1e-3
        torch.testing.assert_close(again.decode(z).sample, grown)
        for other in (grow(again, 6), grow(deeper, 6)):
            torch.testing.assert_close(other.decode(z).sample, grown)


def test_noise_stays_where_it_comes_in() -> None:
    # So that new blocks can make something of it.
    vae = OneDCAutoencoder(**WIDTHS, decoder_layers=2, noise_channels=6)
    deeper = vae.with_decoder_layers(4)
    assert deeper.with_decoder_layers(5).config.noise_before == deeper.config.noise_before == 2


@pytest.mark.parametrize("setting", GROW)
def test_blocks_are_added_and_not_taken_away(setting: str) -> None:
    with pytest.raises(ModelError, match=f"has 3 `{setting}` and cannot get 2"):
        GROW[setting](OneDCAutoencoder(**WIDTHS, **{setting: 3}), 2)


def test_noise_comes_in_front_of_a_block_that_there_is() -> None:
    with pytest.raises(ValueError, match="one of 3 `decoder_layers`"):
        OneDCAutoencoder(**WIDTHS, decoder_layers=3, noise_channels=4, noise_before=4)


@pytest.mark.parametrize("setting", GROW)
def test_a_run_starts_with_the_blocks_that_it_asks_for(setting: str, tiny_folder: Path) -> None:
    has = load_start(TrainConfig(init_from=str(tiny_folder), train_data_dir="unused")).vae.config[setting]
    settings = {"init_from": str(tiny_folder), "train_data_dir": "unused", setting: has + 1}
    with pytest.raises(ValueError, match=f"`{setting}` gives.*freeze `vae.encoder`"):
        choose_what_learns(load_start(TrainConfig(**settings)), TrainConfig(**settings, freeze=["codec", "vae"]))
    config = TrainConfig(**settings, freeze=["codec", "vae.encoder"])
    model = load_start(config)
    assert model.vae.config[setting] == has + 1
    learns = {id(parameter) for parameter in choose_what_learns(model, config)}
    assert all(id(parameter) in learns for parameter in model.vae.decoder.parameters())
    with pytest.raises(ValueError, match="below 0"):
        TrainConfig(train_data_dir="unused", **{setting: -1})
