"""The trainer: start, gradients, two steps, resume, stop, errors."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from onedc_hf import OneDCError, OneDCPipeline, PictureError
from onedc_hf.models.integer import WEIGHT_LIMIT, IntegerConv
from onedc_hf.pictures import load_picture
from onedc_hf.training.cli import main
from onedc_hf.training.components import DECIDES_SYMBOLS, load_model, make_model
from onedc_hf.training.config import TrainConfig
from onedc_hf.training.config_files import load_config, package_file
from onedc_hf.training.crops import Cropping, CropStream, Share, crop_batches
from onedc_hf.training.picture_sets import open_pictures, read_names
from onedc_hf.training.stage1 import crop_weight, draw_quality, rate_weight, train
from onedc_hf.training.start import start_as_transform_codec
from onedc_hf.training.straight_through import exact_weights, on_grid

from .saved import weights_of

Make = Callable[..., TrainConfig]


def _crops(photographs: Path, count: int = 32, resolution: int = 64) -> torch.Tensor:
    return torch.stack(list(islice(CropStream(open_pictures(str(photographs)), Cropping(resolution), 0), count)))


def _psnr(rebuilt: torch.Tensor, original: torch.Tensor) -> float:
    return -10 * math.log10(((rebuilt - original) / 2).square().mean().item())


@torch.no_grad()
def test_the_start_already_codes_pictures(photographs: Path, tiny_config: Path) -> None:
    torch.manual_seed(0)
    model, crops = make_model(str(tiny_config)), _crops(photographs)
    start_as_transform_codec(model, crops)
    low, high = (model(crops, torch.full((len(crops),), q))[:2] for q in (0.0, 100.0))
    alone = model.vae(crops).sample
    assert _psnr(high[0], crops) > _psnr(alone, crops) - 0.3  # at high quality the codec adds next to nothing
    assert _psnr(low[0], crops) < _psnr(high[0], crops)
    assert low[1].mean() < high[1].mean()
    z_only, bpp, excess, *_ = model(crops, torch.full((len(crops),), -1.0))
    assert bpp.sum() == 0 and z_only.shape == crops.shape
    # The hyper-latent uses its levels from the first step on.
    assert excess < 0.1
    codes = model.codec.hyper_analyse(*model.codec.analyse(crops, model.vae.encode(crops).latents))
    assert codes[:, 0].unique().numel() >= 3


def test_gradients_reach_everything_that_learns(photographs: Path, tiny_config: Path) -> None:
    torch.manual_seed(0)
    model, crops = make_model(str(tiny_config)), _crops(photographs, 4, 128)
    model.codec.hyper_enc.fusion[-1].weight.data.mul_(100)  # codes other than zero
    rebuilt, bpp, *_ = model(crops, torch.tensor([-1.0, 10.0, 50.0, 90.0]))
    ((rebuilt - crops).abs().mean() + bpp.mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_the_written_gains_follow_the_anchors(tiny_config: Path) -> None:
    model = make_model(str(tiny_config))
    model.set_gains(-10, 80)
    steps = model.codec.entropy.gain_steps
    assert steps[0].unique().tolist() == [-10] and steps[100].unique().tolist() == [80]
    assert (steps.diff(dim=0) >= 0).all() and steps[50].unique().tolist() == [35]


def test_rate_weights_are_geometric_in_quality_and_ramp_up(config: Make) -> None:
    settings = config(lambda_low=4.0, lambda_high=0.04, lambda_ramp_steps=100)
    quality = torch.tensor([-1.0, 0.0, 50.0, 100.0])
    assert rate_weight(settings, quality, 100).tolist() == pytest.approx([4.0, 4.0, 0.4, 0.04])
    assert rate_weight(settings, quality, 50)[1].item() == pytest.approx(1e-4 + 0.25 * (4 - 1e-4))
    assert rate_weight(settings, quality, 0).max().item() == pytest.approx(1e-4)


def test_a_model_of_one_rate_has_one_lambda(config: Make, tiny_config: Path, tmp_path: Path) -> None:
    model = json.loads(tiny_config.read_text())
    model["codec"]["quality_rows"] = 1
    (tmp_path / "one-rate.json").write_text(json.dumps(model))
    one_rate = {"model": str(tmp_path / "one-rate.json"), "z_only_share": 0.0, "max_train_steps": 1}
    with pytest.raises(ValueError, match=r"one rate.*`lambda_low` \(3.0\).*`lambda_high` \(0.06\)"):
        train(config(**one_rate))
    AcceleratorState._reset_state(True)
    train(config(**one_rate, lambda_low=2.0, lambda_high=2.0))


def test_fine_qualities_can_count_as_much_as_coarse_ones(config: Make) -> None:
    quality = torch.tensor([-1.0, 0.0, 50.0, 100.0])
    settings = config(lambda_low=4.0, lambda_high=0.04, lambda_ramp_steps=0, lambda_balance=0.5)
    weight = crop_weight(settings, quality)
    assert weight.tolist() == pytest.approx([10**-0.5, 10**-0.5, 1.0, 10**0.5])
    # Losses over the root of lambda: the product is lambda to one half, up to a constant.
    assert (weight * rate_weight(settings, quality, 1)).tolist() == pytest.approx([1.6**0.5, 1.6**0.5, 0.4, 0.016**0.5])
    assert crop_weight(config(lambda_low=4.0, lambda_high=0.04), quality).tolist() == [1.0] * 4


def test_the_analysis_side_can_learn_at_its_own_pace(config: Make, tmp_path: Path) -> None:
    start = train(config(ema_decay=0.0))
    moved = {}
    for scale in (1.0, 1e-2):
        AcceleratorState._reset_state(True)
        settings = config(
            init_from=str(start), output_dir=str(tmp_path / f"scale-{scale}"), ema_decay=0.0, max_train_steps=1,
            lr_warmup_steps=0, adam_weight_decay=0.0, analysis_lr_scale=scale,
        )  # fmt: skip
        before, after = weights_of(start), weights_of(train(settings))
        for part in ("codec.enc.", "vae.encoder.", "codec.dec."):
            steps = [(after[name] - before[name]).abs().max().item() for name in before if name.startswith(part)]
            moved[part, scale] = max(steps)
    # The first step of Adam is as large as the learning rate.
    assert moved["codec.enc.", 1e-2] == pytest.approx(1e-2 * moved["codec.enc.", 1.0], rel=0.1)
    assert moved["vae.encoder.", 1e-2] == pytest.approx(1e-2 * moved["vae.encoder.", 1.0], rel=0.1)
    assert moved["codec.dec.", 1e-2] == pytest.approx(moved["codec.dec.", 1.0], rel=0.1)
    with pytest.raises(ValueError, match="analysis_lr_scale"):
        config(analysis_lr_scale=0.0)


def test_a_share_of_the_crops_is_z_only(config: Make) -> None:
    quality = draw_quality(config(z_only_share=0.25), 4000, torch.Generator().manual_seed(0))
    assert ((quality == -1).float().mean() - 0.25).abs() < 0.03
    assert quality[quality >= 0].min() >= 0 and quality.max() <= 100


def test_a_stream_continues_where_it_is_told_to(photographs: Path) -> None:
    pictures = open_pictures(str(photographs))
    whole = list(islice(CropStream(pictures, Cropping(64), seed=3), 6))
    rest = list(islice(CropStream(pictures, Cropping(64), seed=3, share=Share(2, start=2)), 2))
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert whole[0].shape == (3, 64, 64) and whole[0].min() >= -1 and whole[0].max() <= 1


def test_no_more_pictures_are_kept_than_there_is_room_for(photographs: Path) -> None:
    pictures = open_pictures(str(photographs))
    room = 2 * max(load_picture(str(path)).nbytes for path in photographs.rglob("*.png"))
    kept, none = (CropStream(pictures, Cropping(64), 3, cache_bytes=size) for size in (room, 0))
    crops = [list(islice(stream, 12)) for stream in (kept, none)]
    assert all(torch.equal(a, b) for a, b in zip(*crops, strict=True))
    assert 1 < len(kept._cache) < 4 and sum(one.nbytes for one in kept._cache.values()) <= room
    assert not none._cache


def test_names_of_pictures_make_no_splits(photographs: Path, tmp_path: Path) -> None:
    source = min(photographs.rglob("*.png"))
    for name in ("a.png", "steam-train.png", "test.png", "deep/val 3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, tmp_path / name)
    assert len(open_pictures(str(tmp_path))) == 4


def test_excluded_pictures_are_never_seen(photographs: Path) -> None:
    stream = CropStream(open_pictures(str(photographs)), Cropping(64), 0, exclude=frozenset({"0.png", "2.png"}))
    assert len(stream.indices) == 2
    with pytest.raises(ValueError, match="excluded"):
        names = frozenset(f"{i}.png" for i in range(4))
        CropStream(open_pictures(str(photographs)), Cropping(64), 0, exclude=names)


@pytest.mark.parametrize("streaming", [False, True])
def test_batches_of_a_run_leave_out_what_its_settings_exclude(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    folder, names = tmp_path / "colours", tmp_path / "names.txt"
    folder.mkdir()
    for name, level in {"a.png": 0, "b.png": 85, "c.png": 170, "d.png": 255}.items():
        Image.new("RGB", (64, 64), (level,) * 3).save(folder / name)
    names.write_text("b.png\nd.png\n")
    source: dict[str, object] = {"train_data_dir": str(folder)}
    if streaming:
        source = {"train_data_dir": "", "dataset_name": "some/pictures", "streaming": True}
        streamed = open_pictures(str(folder)).to_iterable_dataset()
        monkeypatch.setattr("onedc_hf.training.picture_sets.open_pictures", lambda *_, **__: streamed)
    batches = crop_batches(config(**source, exclude=[str(names)]), Share(4))
    seen = {round(127.5 * (1 + float(crop.mean()))) for batch in islice(batches, 10) for crop in batch}
    assert seen == {0, 170}


def test_a_list_that_leaves_nothing_out_is_said(
    config: Make, photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("3.PNG\n")
    crop_batches(config(exclude=["box-heldout.txt"]), Share())  # the package's own: nothing to say
    assert "exclude" not in caplog.text
    crop_batches(config(exclude=["box-heldout.txt", str(names)]), Share())
    assert f"{names} leaves nothing out" in caplog.text and "such as '0.png'" in caplog.text


def test_pictures_without_names_cannot_be_excluded(
    config: Make, photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names, folder = tmp_path / "names.txt", tmp_path / "unnamed"
    names.write_text("0.png\n")
    folder.mkdir()
    rows = [{"image": {"bytes": (photographs / f"{i}.png").read_bytes(), "path": None}} for i in range(2)]
    data = datasets.Dataset.from_list(rows, features=datasets.Features({"image": datasets.Image()}))
    data.to_parquet(folder / "train-00000-of-00001.parquet")
    crop_batches(config(train_data_dir=str(folder), exclude=["box-heldout.txt"]), Share())
    with pytest.raises(ValueError, match=r"`exclude`: .*names\.txt lists file names.*have none"):
        crop_batches(config(train_data_dir=str(folder), exclude=[str(names)]), Share())
    streamed = {"train_data_dir": "", "dataset_name": str(folder), "streaming": True}
    list(islice(crop_batches(config(**streamed, exclude=["box-heldout.txt"]), Share()), 2))
    assert not caplog.text
    list(islice(crop_batches(config(**streamed, exclude=[str(names)]), Share()), 5))
    assert caplog.text.count("pictures without file names") == 1


def test_a_folder_of_pictures_is_not_streamed(config: Make, photographs: Path) -> None:
    with pytest.raises(ValueError, match="is a folder of pictures.*`train_data_dir`, without `streaming`"):
        crop_batches(config(train_data_dir="", dataset_name=str(photographs), streaming=True), Share())


def test_held_out_and_excluded_lists_do_not_overlap() -> None:
    lists = [read_names(package_file(name) or "") for name in ("box-heldout.txt", "box-excluded.txt")]
    assert len(lists[0]) == 40 and lists[1] and not lists[0] & lists[1]


def test_two_steps_give_a_pipeline_that_codes(config: Make, picture: Callable[..., np.ndarray]) -> None:
    folder = train(config(ema_decay=0.9))
    pipe = OneDCPipeline.from_pretrained(folder)
    assert pipe.decompress(pipe.compress(picture(64, 64), quality=80)).size == (64, 64)
    log = [json.loads(line) for line in (folder.parent / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2] and all(math.isfinite(row["pixel"]) for row in log)


def test_a_resumed_run_equals_the_unbroken_one(config: Make, tmp_path: Path) -> None:
    whole = train(config(output_dir=str(tmp_path / "whole"), max_train_steps=4))
    fresh = {"output_dir": str(tmp_path / "broken"), "max_train_steps": 4}
    AcceleratorState._reset_state(True)
    train(config(**(fresh | {"max_train_steps": 2})))
    AcceleratorState._reset_state(True)
    resumed = train(config(**fresh, resume_from_checkpoint="latest"))
    expected, found = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_starts_from_weights_alone(config: Make, tmp_path: Path) -> None:
    first = train(config())
    AcceleratorState._reset_state(True)
    scheduler = first / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"clip_sample_range": 0.5}))
    # The VAE's encoder, too: the exact path, and with it the id, is fitted to latents of calibration pictures.
    frozen = list(DECIDES_SYMBOLS)
    second = train(config(init_from=str(first), output_dir=str(tmp_path / "second"), freeze=frozen, ema_decay=0.0))
    before, after = weights_of(first), weights_of(second)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any(name.startswith(tuple(frozen)) for name in moved)
    ids = [OneDCPipeline.from_pretrained(folder).model_id for folder in (first, second)]
    assert ids[0] == ids[1]  # a better decoder reads the old files
    assert OneDCPipeline.from_pretrained(second).scheduler.config.clip_sample_range == 0.5


def test_training_the_decoder_side_keeps_an_exact_entropy_path(config: Make, tiny_folder: Path, tmp_path: Path) -> None:
    start = OneDCPipeline.from_pretrained(tiny_folder)
    folder = train(config(init_from=str(tiny_folder), freeze=list(DECIDES_SYMBOLS), ema_decay=0.0))
    decoder = OneDCPipeline.from_pretrained(folder)
    assert decoder.codec.config.entropy_path == "exact" and decoder.model_id == start.model_id
    before, after = weights_of(tiny_folder), weights_of(folder)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    AcceleratorState._reset_state(True)
    folder = train(config(init_from=str(tiny_folder), output_dir=str(tmp_path / "all"), ema_decay=0.0))
    assert OneDCPipeline.from_pretrained(folder).codec.config.entropy_path == "float"


def test_what_reads_the_authors_files_does_not_learn(
    tiny_folder: Path, photographs: Path, tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    pipe.codec.make_float()
    pipe.quantize_entropy([picture(64, 64)], keep_float=True)
    pipe.save_pretrained(tmp_path)
    kept = load_model(str(tmp_path), freeze=DECIDES_SYMBOLS)  # a better decoder still reads them
    assert kept.codec.authors_entropy is not None and kept.codec.config.authors_entropy
    learns_on = load_model(str(tmp_path))
    assert learns_on.codec.authors_entropy is None and not learns_on.codec.config.authors_entropy
    crops = _crops(photographs, 2, 128)
    for model in (kept, learns_on):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and not name.startswith(DECIDES_SYMBOLS))
        rebuilt, *_ = model(crops, torch.tensor([50.0, 90.0]))
        rebuilt.sum().backward()
        # Processes wait for the gradient of everything that learns.
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@torch.no_grad()
def test_the_exact_model_codes_in_training_as_in_files(tiny_folder: Path, photographs: Path) -> None:
    model = load_model(str(tiny_folder), freeze=DECIDES_SYMBOLS)
    crops = _crops(photographs, 3)
    quality = torch.tensor([100.0, 0.0, -1.0])
    rebuilt, bpp, *_ = model(crops, quality)
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    for i, options in enumerate(({"quality": 100}, {"quality": 0}, {"z_only": True})):
        picture = ((crops[i].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
        found = pipe.decompress(pipe.compress(picture, **options), output_type="pt")
        expected = (rebuilt[i].clamp(-1, 1) + 1) / 2
        assert (found - expected).abs().mean() < 0.01
    assert bpp[2] == 0 and (bpp[:2] >= 0).all()


def test_old_checkpoints_make_room(config: Make, tmp_path: Path) -> None:
    train(config(max_train_steps=4, checkpointing_steps=1, checkpoints_total_limit=2))
    assert sorted(p.name for p in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_a_logged_value_is_the_mean_of_the_steps_that_have_it(config: Make, tmp_path: Path) -> None:
    for name, every in (("each", 1), ("second", 2)):
        AcceleratorState._reset_state(True)
        still = {"learning_rate": 0.0, "adversary_weight": 0.1, "adversary_learning_rate": 0.0}
        counts = {"max_train_steps": 4, "logging_steps": 4, "adversary_every": every}
        train(config(output_dir=str(tmp_path / name), **still, **counts))
    losses = [json.loads((tmp_path / name / "log.jsonl").read_text())["discriminator"] for name in ("each", "second")]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)  # the same model on other crops, not half of it


def test_one_command_line_starts_a_run_and_goes_on_with_it(config: Make, tmp_path: Path) -> None:
    for steps in (2, 3):
        AcceleratorState._reset_state(True)
        train(config(resume_from_checkpoint="latest", max_train_steps=steps))
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]


def test_losing_the_checkpoint_is_an_error_not_a_fresh_start(config: Make, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="checkpoint-7"):
        train(config(resume_from_checkpoint="checkpoint-7"))
    AcceleratorState._reset_state(True)
    (tmp_path / "run" / "pipeline").mkdir(parents=True)  # written together with the first checkpoint
    with pytest.raises(FileNotFoundError, match="latest"):
        train(config(resume_from_checkpoint="latest"))


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(config: Make, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder 'birds/trian'"):
        train(config(train_data_dir="birds/trian"))
    assert not (tmp_path / "run").exists()  # before any work is done


def test_a_picture_that_cannot_be_read_does_not_end_the_run(
    photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(photographs, tmp_path / "some"))
    (folder / "broken.png").write_bytes(b"no picture")
    stream = CropStream(open_pictures(str(folder)), Cropping(64), 0)
    assert len(list(islice(stream, 40))) == 40
    assert ["broken.png: not a picture" in record.getMessage() for record in caplog.records] == [True]
    again = CropStream(open_pictures(str(folder)), Cropping(64), 0, share=Share(1, start=30))
    assert np.array_equal(next(iter(again)), list(islice(stream, 31))[-1])  # a run that goes on sees the same crops
    for path in photographs.iterdir():
        (folder / path.name).write_bytes(b"no picture")
    with pytest.raises(PictureError, match="None of the 5 pictures"):
        next(iter(CropStream(open_pictures(str(folder)), Cropping(64), 0)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"resolution": 100}, "multiple of 64"),
        ({"dataset_name": "org/name"}, "either"),
        ({"train_data_dir": ""}, "either"),
        ({"z_only_share": 1.0}, "z_only_share"),
        ({"lambda_high": 0.0}, "above 0"),
        ({"max_train_steps": 0}, "max_train_steps"),
    ],
)
def test_settings_that_cannot_work_are_refused(config: Make, changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=f"(?i){text}"):
        config(**changes)


def test_unknown_settings_and_configs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="box-stage1"):
        load_config("nothing", {})
    (tmp_path / "a.json").write_text('{"train_data_dir": "x", "learning_rte": 1}')
    with pytest.raises(ValueError, match="learning_rte"):
        load_config(str(tmp_path / "a.json"), {})


def test_the_box_config_is_complete(tmp_path: Path) -> None:
    settings = load_config("box-stage1", {"train_data_dir": str(tmp_path)})
    assert settings.exclude == ["box-excluded.txt", "box-heldout.txt"]


def test_the_command_reports_mistakes_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "box-stage1"]) == 2
    assert "train_data_dir" in capsys.readouterr().err


def test_sigterm_saves_and_exits_cleanly(config: Make, tmp_path: Path) -> None:
    settings = dataclasses.replace(config(), max_train_steps=1_000_000, checkpointing_steps=1_000_000)
    (tmp_path / "config.json").write_text(settings.to_json())
    command = [sys.executable, "-m", "onedc_hf.training.cli", "--config", str(tmp_path / "config.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = tmp_path / "run" / "log.jsonl"
    while process.poll() is None and not (log.is_file() and log.stat().st_size):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file()
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1


def test_weights_learn_on_the_grid_of_the_exact_path(tiny_config: Path, photographs: Path) -> None:
    torch.manual_seed(0)
    model, crops = make_model(str(tiny_config)), _crops(photographs, 2, 128)
    names = [name for name, _ in model.named_parameters()]
    layer = model.codec.float_entropy.y_spatial_prior_reduction
    before = layer.weight.detach().clone()
    with exact_weights(model.codec.entropy):
        assert torch.equal(layer.weight, on_grid(before)) and not torch.equal(layer.weight, before)
    assert [name for name, _ in model.named_parameters()] == names  # in the order that optimiser and average know
    for exact in (False, True):
        model.exact_weights = exact
        model.zero_grad()
        _, bpp, *_ = model(crops, torch.tensor([50.0, 90.0]))
        bpp.mean().backward()
        assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0
    assert torch.equal(layer.weight, before)


def test_the_grid_is_that_of_the_integers() -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    layer = IntegerConv(5, 6, 3)
    layer.quantise(weight.double().numpy(), None, 9, 9)
    step = on_grid(weight)
    assert (step - layer.dequantise()[0]).abs().max() < 0.002 * weight.abs().max()
    assert (on_grid(step) - step).abs().max() < 0.002 * weight.abs().max()
    assert all(len(row.unique()) <= 2 * WEIGHT_LIMIT + 1 for row in step)


def test_a_full_disk_is_said_and_leaves_the_last_checkpoint_whole(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Accelerator.save_state

    def full(self: Accelerator, folder: str) -> str:
        written = honest(self, folder)
        if len(list((tmp_path / "run").glob("checkpoint-*"))) == 2:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
        return written

    monkeypatch.setattr(Accelerator, "save_state", full)
    with pytest.raises(OneDCError, match=r"step 3 could not be written .* checkpoint-2 is whole.*free space"):
        train(config(max_train_steps=4, checkpointing_steps=1))
    left = sorted(path.name for path in (tmp_path / "run").glob("*checkpoint-*"))
    assert left == ["checkpoint-1", "checkpoint-2"]
