"""The distillation's losses by hand, what learns, what a checkpoint holds, what a run's settings ask for."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from onedc_hf import ModelError, OneDCCodecConfig
from onedc_hf.training.code_predictor import CodePredictor, CodePredictorConfig
from onedc_hf.training.config import TrainConfig
from onedc_hf.training.distillation import SemanticDistillation, make_distillation, semantics_learn
from onedc_hf.training.stage1 import train
from onedc_hf.training.tokenizers import Tokens


class ByBrightness(nn.Module):
    """A tokenizer with two codes: dark and bright."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))

    @property
    def codebook(self) -> Tensor:
        return self.vectors

    def encode(self, pixels: Tensor) -> Tokens:
        assert pixels.dtype == torch.float32 and not torch.is_autocast_enabled(pixels.device.type)
        indices = (nn.functional.avg_pool2d(pixels, 32).mean(1) > 0).long()
        return Tokens(indices, self.vectors[indices].permute(0, 3, 1, 2))


class Given(nn.Module):
    """A predictor of given logits."""

    config = CodePredictorConfig(codes=2)

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, semantic: Tensor) -> Tensor:
        return self.logits + 0 * semantic.mean()


@pytest.fixture
def distillation() -> SemanticDistillation:
    torch.manual_seed(0)
    sizes = CodePredictorConfig(semantic_channels=8, codes=2, blocks=["lite"], groups=2)
    return SemanticDistillation(CodePredictor(sizes), ByBrightness())


def test_losses_of_a_hand_computed_case() -> None:
    # One row of two codes: probabilities 3/4, 1/4 where the first is right, and 1/2, 1/2 where the second is.
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    distillation = SemanticDistillation(Given(logits), ByBrightness(), code_weight=0.5)  # type: ignore[arg-type]
    pixels = torch.cat([torch.full((1, 3, 32, 32), -1.0), torch.full((1, 3, 32, 32), 1.0)], dim=3)
    targets = distillation.targets(pixels)
    assert targets.indices.tolist() == [[[0, 1]]]
    losses = distillation(torch.zeros(1, 8, 1, 1), targets)
    entropy = (-math.log(3 / 4) - math.log(1 / 2)) / 2
    # Expected vectors (3/4, 3/4) and (1/2, 3/2), against (1, 0) and (0, 3).
    distance = ((1 / 4) ** 2 + (3 / 4) ** 2 + (1 / 2) ** 2 + (3 / 2) ** 2) / 4
    assert losses["code_ce"].item() == pytest.approx(entropy, rel=1e-6)
    assert losses["code_mse"].item() == pytest.approx(distance, rel=1e-6)
    assert losses["loss"].item() == pytest.approx(entropy + 0.5 * distance, rel=1e-6)
    assert losses["code_accuracy"].item() == 0.5  # the first of two equal logits counts as the guess
    assert not losses["code_accuracy"].requires_grad


def test_gradients_reach_predictor_and_semantic_map_and_not_the_tokenizer(distillation: SemanticDistillation) -> None:
    semantic = torch.randn(2, 8, 1, 1, requires_grad=True)
    pixels = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_(True)
    targets = distillation.targets(pixels)
    assert not targets.latent.requires_grad
    for loss in ("code_ce", "code_mse"):
        distillation.zero_grad()
        semantic.grad = None
        distillation(semantic, targets)[loss].backward()
        assert semantic.grad is not None and semantic.grad.abs().sum() > 0
        assert all(p.grad is not None and p.grad.isfinite().all() for p in distillation.parameters())
    assert distillation.tokenizer.codebook.grad is None and pixels.grad is None


def test_the_tokenizer_is_in_no_state_and_no_parameters_but_follows_in_float32(
    distillation: SemanticDistillation,
) -> None:
    names = {name for name, _ in distillation.named_parameters()} | set(distillation.state_dict())
    assert names and all(name.startswith("predictor.") for name in names)
    copied = copy.deepcopy(distillation).to(torch.bfloat16)
    assert next(copied.predictor.parameters()).dtype == torch.bfloat16
    assert copied.tokenizer.codebook.dtype == torch.float32
    moved = distillation.to("meta")
    assert moved.tokenizer.codebook.is_meta and next(moved.predictor.parameters()).is_meta


def test_losses_are_float32_under_autocast(distillation: SemanticDistillation) -> None:
    semantic, pixels = torch.randn(1, 8, 1, 1), torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        losses = distillation(semantic, distillation.targets(pixels))
    assert all(loss.dtype == torch.float32 for loss in losses.values())


def test_it_learns_what_the_semantic_map_tells(distillation: SemanticDistillation) -> None:
    pixels = torch.where(torch.arange(16).view(-1, 1, 1, 1) % 2 == 0, 1.0, -1.0).expand(16, 3, 64, 64)
    semantic = torch.randn(16, 8, 1, 1)
    semantic[:, 0] = pixels[:, 0, :1, :1]
    targets = distillation.targets(pixels)
    optimizer = torch.optim.Adam(distillation.parameters(), lr=1e-2)
    for _ in range(40):
        losses = distillation(semantic, targets)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert losses["code_accuracy"] == 1 and losses["code_ce"] < 0.1 and losses["code_mse"] < 0.1


def test_what_does_not_belong_together_is_said(distillation: SemanticDistillation) -> None:
    with pytest.raises(ValueError, match="3 codes apart, the tokenizer has 2"):
        SemanticDistillation(CodePredictor(CodePredictorConfig(codes=3, channels=16, blocks=[])), ByBrightness())
    with pytest.raises(ValueError, match="same crop"):
        distillation(torch.randn(1, 8, 1, 1), distillation.targets(torch.zeros(1, 3, 128, 64)))


def test_a_run_asks_for_it_by_its_settings(config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onedc_hf.training.distillation.load_tokenizer", lambda name: ByBrightness())
    codec = OneDCCodecConfig(trunk_channels=[32, 16, 24])
    small: dict[str, Any] = {"blocks": ["swin"], "heads": 2, "head_channels": 4, "window": 2, "groups": 4}
    made = make_distillation(config(predictor=small), codec)
    assert made.predictor.config.semantic_channels == 24 and made.predictor.config.codes == 2
    made(torch.randn(1, 24, 1, 1), made.targets(torch.zeros(1, 3, 64, 64)))
    with pytest.raises(ValueError, match="windows of 4x4 codes do not fill crops of 64"):
        make_distillation(config(predictor=small | {"window": 4}), codec)
    with pytest.raises(ValueError, match="`predictor`.*'wide'"):
        make_distillation(config(predictor={"wide": 4}), codec)


def test_a_predictor_goes_on_from_weights_and_a_missing_tokenizer_is_said_first(
    config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="No tokenizer 'gone.safetensors'"):
        train(config(distillation_weight=0.01, tokenizer="gone.safetensors", init_from="no/model"))
    monkeypatch.setattr("onedc_hf.training.distillation.load_tokenizer", lambda name: ByBrightness())
    codec = OneDCCodecConfig(trunk_channels=[32, 16, 24])
    small: dict[str, Any] = {"blocks": ["lite"], "channels": 16, "groups": 4}
    made = make_distillation(config(predictor=small), codec).predictor
    file = tmp_path / "predictor.safetensors"
    save_file(made.state_dict(), file)
    again = make_distillation(
        config(predictor=small, predictor_weights=str(file), distillation_weight=0.01), codec
    ).predictor
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))
    with pytest.raises(ModelError, match="predictor.safetensors does not fit"):
        make_distillation(
            config(predictor=small | {"channels": 24}, predictor_weights=str(file), distillation_weight=0.01), codec
        )


def test_an_adapter_alone_is_saved_alone_whatever_the_config_distils(
    config: Callable[..., TrainConfig], tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    adapter = {"init_from": str(tiny_folder), "train_lora": True, "rank": 2, "max_train_steps": 1}
    distils = {"distillation_weight": 0.01, "tokenizer": "gone.safetensors"}  # which nobody asks for
    folder = train(config(**adapter, **distils, freeze=["codec", "gain_anchors", "vae"]))
    assert folder == tmp_path / "run" and (folder / "pytorch_lora_weights.safetensors").is_file()
    assert "there is no distillation" in caplog.text
    made_by = ["vae.encoder", "codec.enc", "codec.hyper_enc", "codec.entropy", "codec.semantic_adaptor"]
    assert not semantics_learn(config(freeze=made_by))
    assert all(semantics_learn(config(freeze=[part for part in made_by if part != left])) for left in made_by)


def test_a_run_of_stage_1_logs_it_and_saves_a_pipeline_without_it(
    config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onedc_hf.training.stage1.load_tokenizer", lambda name: ByBrightness())
    predictor = {"channels": 16, "blocks": ["lite"], "groups": 4}
    folder = train(config(distillation_weight=0.01, predictor=predictor))
    lines = [json.loads(line) for line in (folder.parent / "log.jsonl").read_text().splitlines()]
    assert all(line["code_ce"] > 0 and 0 <= line["code_accuracy"] <= 1 for line in lines) and len(lines) == 2
    assert not [path for path in folder.rglob("*") if "predictor" in path.name or "distillation" in path.name]
