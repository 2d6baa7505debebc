"""Gradients that are no numbers: no step, a run that goes on, and an error where it does not get better."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from onedc_hf.training import losses, stage1
from onedc_hf.training.adversary import Adversary
from onedc_hf.training.config import TrainConfig
from onedc_hf.training.losses import BalancedLosses
from onedc_hf.training.steps import FiniteSteps, OptimizerStep, TrainingError

from .saved import weights_of

Make = Callable[..., TrainConfig]


def test_a_step_with_a_gradient_that_is_no_number_is_left_out() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    take_step = OptimizerStep(Accelerator(cpu=True), [weight], torch.optim.SGD([weight], lr=1.0), max_norm=5.0)
    for gradient in ([30.0, 40.0], [math.nan, 1.0], [math.inf, 1.0]):
        weight.grad = torch.tensor(gradient)
        take_step()
        assert weight.grad is None
    assert torch.allclose(weight, torch.tensor([-3.0, -4.0]), atol=1e-4)


def test_gradients_are_taken_whole_where_no_norm_is_asked_for() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    take_step = OptimizerStep(Accelerator(cpu=True), [weight], torch.optim.SGD([weight], lr=1.0), max_norm=0.0)
    weight.grad = torch.tensor([30.0, 40.0])
    take_step()
    assert weight.tolist() == [-30.0, -40.0]


def test_an_error_says_so_when_it_does_not_get_better() -> None:
    finite = FiniteSteps("the model")
    assert not any(finite.may(math.nan) for _ in range(24)) and finite.may(1.0)
    assert not any(finite.may(math.inf) for _ in range(24))
    with pytest.raises(TrainingError, match=r"the model.*25 steps.*without saving.*learning_rate"):
        finite.may(math.nan)


def test_only_the_gradients_at_hand_are_unscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    unscaled: list[object] = []
    monkeypatch.setattr(Accelerator, "unscale_gradients", lambda _, optimizer=None: unscaled.append(optimizer))
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    accelerator = Accelerator(cpu=True)
    optimizers = [accelerator.prepare(torch.optim.SGD([weight], lr=1.0)) for weight in weights]
    take_step = OptimizerStep(accelerator, weights[:1], optimizers[0], max_norm=5.0)
    for weight in weights:
        weight.grad = torch.ones(2)
    take_step()
    assert unscaled == [optimizers[0]] and weights[1].grad is not None


def test_discriminators_survive_a_picture_that_is_no_number() -> None:
    adversary = Adversary((3,), 1e-2)
    before = [p.detach().clone() for p in adversary.heads.parameters()]
    adversary.learn([torch.full((1, 3, 8, 8), math.nan)], [torch.zeros(1, 3, 8, 8)])
    assert all(torch.equal(a, b) for a, b in zip(before, adversary.heads.parameters(), strict=True))


def test_running_norms_leave_out_what_is_no_number() -> None:
    factor = math.nan

    def other(rebuilt: Tensor, original: Tensor) -> dict[str, Tensor]:
        return {"other": factor * (rebuilt - original).square().mean()}

    balance = BalancedLosses([other], {"other": 2.0}, every=1)
    rebuilt, original = torch.rand(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    balance(rebuilt, original)  # none yet that could be used
    factor = 1.0
    balance(rebuilt, original)
    before = dict(balance.norms)
    factor = math.nan
    balance(rebuilt, original)
    assert balance.norms["other"] == before["other"] > 0


def _broken(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool]) -> None:
    """The pixel loss is no number in some of its calls, which are one a step."""
    calls, whole = 0, losses.l1_loss

    def l1_loss(rebuilt: Tensor, original: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return whole(rebuilt, original) * (math.nan if when(calls) else 1)

    monkeypatch.setattr(losses, "l1_loss", l1_loss)


def test_one_bad_batch_does_not_end_a_run(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    _broken(monkeypatch, lambda call: call == 2)
    folder = stage1.train(config(max_train_steps=3, ms_ssim_weight=0.5, resolution=128))
    lines = [json.loads(line) for line in (folder.parent / "log.jsonl").read_text().splitlines()]
    assert [math.isfinite(line["pixel"]) for line in lines] == [True, False, True]
    assert all(tensor.isfinite().all() for tensor in weights_of(folder).values())


def test_a_run_that_cannot_go_on_keeps_its_checkpoints(
    config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _broken(monkeypatch, lambda call: call > 2)
    with pytest.raises(TrainingError, match="25 steps"):
        stage1.train(config(max_train_steps=60, checkpointing_steps=2, checkpoints_total_limit=1))
    assert all(tensor.isfinite().all() for tensor in weights_of(tmp_path / "run" / "pipeline").values())
