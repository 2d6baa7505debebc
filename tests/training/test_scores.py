"""Noise schedule, scale of latents, score networks, guidance by captions, teachers in folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from huggingface_hub.errors import LocalEntryNotFoundError

from onedc_hf.errors import ModelError
from onedc_hf.training.captions import CaptionEncoder
from onedc_hf.training.scores import Guided, LatentScale, NoiseSchedule, ScoreNetwork, load_teacher

from .conftest import SCHEDULER
from .toy_teacher import TINY_CAPTIONED_UNET, TINY_UNET, captioned_folder, schedule, tiny_unet


def test_the_schedule_is_that_of_stable_diffusion() -> None:
    noise = schedule()
    assert len(noise) == 1000
    assert noise.alphas_cumprod[999].item() == pytest.approx(0.00466009508818388)
    x, n = torch.tensor([[[[2.0]]]]), torch.tensor([[[[-1.0]]]])
    noised = noise.add_noise(x, n, torch.tensor([999]))
    assert noised.item() == pytest.approx(2 * 0.06826488913185079 - 0.9976672315515911, rel=1e-6)
    assert noised.dtype == torch.float32


@torch.no_grad()
def test_the_clean_latent_comes_back_in_float64() -> None:
    torch.manual_seed(0)
    noise, x, n = schedule(), torch.randn(3, 2, 4, 4).double(), torch.randn(3, 2, 4, 4).double()
    t = torch.tensor([0, 500, 999])
    clean = noise.to_clean(noise.add_noise(x, n, t), n, t)
    assert clean.dtype == torch.float64 and torch.allclose(clean, x, atol=1e-12)


def test_timesteps_are_drawn_with_both_ends() -> None:
    noise, like = schedule(), torch.zeros(400, 1, 1, 1)
    drawn, _ = noise.draw(like, 20, 22, torch.Generator().manual_seed(0))
    assert sorted(drawn.unique().tolist()) == [20, 21, 22]
    with pytest.raises(ValueError, match="999"):
        noise.draw(like, 20, 1000)


def test_a_scheduler_of_another_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="v_prediction"):
        NoiseSchedule(DDPMScheduler(**SCHEDULER, prediction_type="v_prediction"))


def test_latents_are_standardised_channel_by_channel(tmp_path: Path) -> None:
    latents = torch.tensor([[1.0, 3.0], [10.0, 10.0]]).view(1, 2, 1, 2) + torch.tensor([0.0, 5.0]).view(2, 1, 1, 1)
    scale = LatentScale.of(latents)
    assert scale.mean == pytest.approx((4.5, 12.5))
    standard = scale.standardise(latents)
    flat = standard.transpose(0, 1).flatten(1)
    assert torch.allclose(flat.mean(1), torch.zeros(2), atol=1e-6) and torch.allclose(flat.std(1), torch.ones(2))
    scale.save(tmp_path)
    assert LatentScale.load(tmp_path) == scale
    assert LatentScale.load(tmp_path / "elsewhere").standardise(latents) is latents
    with pytest.raises(ValueError, match="2 channels"):
        scale.standardise(torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("settings", [TINY_UNET, TINY_CAPTIONED_UNET], ids=["plain", "captioned"])
@torch.no_grad()
def test_the_middle_is_what_the_whole_network_passes_through(settings: dict[str, object]) -> None:
    network = ScoreNetwork(tiny_unet(settings=settings))
    seen: list[torch.Tensor] = []
    network.unet.mid_block.register_forward_hook(lambda *call: seen.append(call[2]))
    x, t = torch.randn(2, 2, 8, 8), torch.tensor([3, 700])
    condition = torch.randn(2, 7, 8) if network.wants_captions else None
    network.predict_noise(x, t, condition)
    middle = network.middle(x, t, condition)
    assert torch.equal(middle, seen[0]) and len(seen) == 2
    assert middle.shape == (2, network.middle_channels, 8 // network.middle_reduction, 8 // network.middle_reduction)


def test_a_half_precision_network_answers_in_float32() -> None:
    network = ScoreNetwork(tiny_unet().to(torch.bfloat16))
    assert network.predict_noise(torch.zeros(1, 2, 8, 8), torch.tensor([5])).dtype == torch.float32


def test_networks_with_other_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="class_embed_type"):
        ScoreNetwork(tiny_unet(settings=TINY_UNET | {"class_embed_type": "timestep"}))
    with pytest.raises(ValueError, match="captions"):
        ScoreNetwork(tiny_unet(settings=TINY_CAPTIONED_UNET)).predict_noise(torch.zeros(1, 2, 8, 8), torch.tensor([0]))


def test_a_teacher_that_cannot_be_loaded_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("nowhere to be found.")

    monkeypatch.setattr("onedc_hf.training.scores.snapshot_download", fail)
    with pytest.raises(ModelError, match=r"(?s)`teacher`.*'org/mine'.*nowhere to be found.*begins with \./"):
        load_teacher("org/mine")
    with pytest.raises(ModelError, match=r"`teacher`: there is no folder '\./mine'"):
        load_teacher("./mine")
    folder = captioned_folder(tmp_path)
    shutil.rmtree(folder / "unet")
    with pytest.raises(ModelError, match="`teacher`.*It needs `unet` and `scheduler`"):
        load_teacher(str(folder))


class _MeanOfCaption:
    """Sees the mean of the caption as noise, everywhere."""

    def predict_noise(
        self, noised: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert condition is not None and len(condition) == len(timesteps)
        return condition.mean(dim=(1, 2)).view(-1, 1, 1, 1).expand_as(noised) + timesteps.view(-1, 1, 1, 1)


def test_guidance_exaggerates_what_the_caption_changes() -> None:
    x, t = torch.zeros(2, 1, 1, 1), torch.tensor([0, 100])
    captions = torch.stack([torch.full((3, 2), 4.0), torch.full((3, 2), 6.0)])
    guided = Guided(_MeanOfCaption(), torch.full((1, 3, 2), 2.0), 1.75)
    assert guided.predict_noise(x, t, captions).flatten().tolist() == [2 + 1.75 * 2, 102 + 1.75 * 4]
    assert guided.predict_noise(x, t).flatten().tolist() == [2, 102]
    plain = Guided(_MeanOfCaption(), torch.full((1, 3, 2), 2.0), 1.0)
    assert plain.predict_noise(x, t, captions).flatten().tolist() == [4, 106]


def test_a_captioned_teacher_is_loaded_twice(tmp_path: Path) -> None:
    teacher = load_teacher(str(captioned_folder(tmp_path)), guidance_scale=3.0, real_dtype=torch.bfloat16)
    assert isinstance(teacher.real, Guided) and isinstance(teacher.real.network, ScoreNetwork)
    assert teacher.real.scale == 3.0
    assert teacher.real.network.unet.dtype == torch.bfloat16 and teacher.fake.unet.dtype == torch.float32
    assert not any(p.requires_grad for p in [*teacher.real.network.parameters(), *teacher.fake.parameters()])
    assert teacher.scale == LatentScale() and len(teacher.schedule) == 1000
    assert isinstance(teacher.captions, CaptionEncoder)
    embedded = teacher.captions(["a cat", ""])
    assert embedded.shape == (2, 7, 8) and torch.allclose(embedded[1:], teacher.real.unconditional, atol=1e-6)
    ids = teacher.captions.tokenizer(["a cat"]).input_ids
    assert ids == [[0, 2, 3, 1]]
    x, t = torch.randn(2, 2, 8, 8), torch.tensor([10, 600])
    assert not torch.equal(teacher.real.predict_noise(x, t, embedded), teacher.fake.predict_noise(x, t, embedded))
