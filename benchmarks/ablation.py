"""What each component of the recipe gives: the box model from its linear start, one component changed at a time.

    python benchmarks/ablation.py --photographs FOLDER --work FOLDER

Arms of equal length: stage 1 (with distillation), then stage 2 (with the adversary) on what came out. No arm warms up
its discriminators, since those of the package, which the box learned from, are taken up as they are.

| arm             | differs in                                                                               |
|-----------------|------------------------------------------------------------------------------------------|
| `whole`         |                                                                                          |
| `distillation`  | stage 1 does not distil the tokenizer's codes                                            |
| `stage 2`       | stage 1 goes on instead, for as many crops                                               |
| `adversary`     | stage 2 has all its losses but the adversary                                             |
| `teacher`       | stage 2 has a diffusion teacher (trained here first, beyond the budget) for an adversary |

The teacher arm tests one setting of its two weights, which are no measure for the adversary's: those are ratios of
gradient norms at the latent, this one at the picture.

All see the same crops in the same order. Measured on the pictures that the box's training leaves out, as real files at
rates that every arm reaches. A run that is there already in the work folder, with the same settings, is not trained
again. Writes benchmarks/results/ablation.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from onedc_hf.evaluation.run import load_results
from onedc_hf.evaluation.tables import summarise
from onedc_hf.training.config_files import package_file
from onedc_hf.training.picture_sets import read_names

RESULTS = Path(__file__).parent / "results" / "ablation.json"
METRICS = ("psnr", "ms_ssim", "st_lpips_vgg", "class_agreement_lite0", "frechet_lite0")
PATTERNS = ("grid", "repeated")
RATES = ("0.3", "0.5")  # after so short a training some pictures need 0.2 bpp at quality 0

# The analysis stays the linear one: it can neither be unlearned nor differ between the arms (docs/training-log.md).
STAGE1: dict[str, Any] = {
    "freeze": ["codec.enc", "vae.encoder", "gain_anchors"],
    "resolution": 256,
    "train_batch_size": 2,
    "learning_rate": 8e-4,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 50,
    "lambda_ramp_steps": 1,
    "ms_ssim_weight": 0.4,
    "feature_weight": 0.0,
    "ema_decay": 0.99,
}
STAGE2: dict[str, Any] = {
    "train_batch_size": 2,
    "ema_decay": 0.99,
    "lr_warmup_steps": 50,
    "z_only_share": 0.1,
    "adversary_warmup_steps": 0,
}
# Distribution matching and its GAN in the adversary's place, weighted by gradient norms at the latent (`TrainConfig`).
TEACHER: dict[str, Any] = {
    "teacher": "teacher",
    "matching_weight": 0.3,
    "latent_gan_weight": 0.3,
    "adversary_weight": 0.0,
}
ARMS = {
    "whole": "nothing",
    "distillation": "no distillation",
    "stage 2": "no stage 2",
    "adversary": "no adversary",
    "teacher": "a teacher for the adversary",
}


def arms(
    stage1_steps: int, stage2_steps: int, teacher_steps: int
) -> dict[str, list[tuple[str, str, str, dict[str, Any]]]]:
    """For each arm its runs: name, config, the run it starts from (or nothing), what it differs in."""
    first = ("stage1", "box-stage1", "", STAGE1 | {"max_train_steps": stage1_steps})
    plain = ("stage1-plain", "box-stage1", "", first[3] | {"distillation_weight": 0.0})
    second = STAGE2 | {"max_train_steps": stage2_steps}
    longer = STAGE1 | {"max_train_steps": stage2_steps, "learning_rate": 4e-4}
    alone = second | {"adversary_weight": 0.0}
    return {
        "whole": [first, ("whole", "box-stage2", "stage1", second)],
        "distillation": [plain, ("no-distillation", "box-stage2", "stage1-plain", second)],
        "stage 2": [first, ("no-stage2", "box-stage1", "stage1", longer)],
        "adversary": [first, ("no-adversary", "box-stage2", "stage1", alone)],
        "teacher": [
            first,
            ("teacher", "teacher", "stage1", {"max_train_steps": teacher_steps}),
            ("with-teacher", "box-stage2", "stage1", second | TEACHER),
        ],
    }


def train(work: Path, name: str, config: str, start: str, settings: dict[str, Any], common: dict[str, Any]) -> Path:
    """Trains one run, unless it is there, and returns its pipeline's folder."""
    pipeline, processes = work / name / "pipeline", common["processes"]
    settings = common["train"] | settings | {"output_dir": str(work / name)}
    done = work / name / "done.json"
    before = [
        (work / other / "done.json").read_text(encoding="utf-8") for other in (start, settings.get("teacher")) if other
    ]
    what = json.dumps([config, before, processes, settings])
    if done.is_file() and done.read_text(encoding="utf-8") == what:
        return pipeline
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    if config == "teacher":  # one process: it has the threads that the others' processes have
        command = [sys.executable, "-m", "onedc_hf.training.teacher", "--model", str(work / start / "pipeline")]
        known = ("train_data_dir", "output_dir", "max_train_steps")
        settings = {key: settings[key] for key in known} | {"num_threads": processes}
        environment["OMP_NUM_THREADS"] = str(processes)
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command += ["-m", "onedc_hf.training.cli", "--config", config]
        if start:
            settings["init_from"] = str(work / start / "pipeline")
        if settings.get("teacher"):
            settings["teacher"] = str(work / settings["teacher"])
    for key, value in settings.items():
        command += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    shutil.rmtree(work / name, ignore_errors=True)
    subprocess.run(command, check=True, env=environment)
    done.write_text(what, encoding="utf-8")
    return pipeline


def measure(pipeline: Path, pictures: Path, out: Path) -> list[dict[str, Any]]:
    """Evaluates a pipeline on a folder of pictures: one line for each setting."""
    command = [sys.executable, "-m", "onedc_hf.cli.main", "evaluate", "--model", str(pipeline), "--out", str(out)]
    command += ["--dataset", str(pictures), "--codecs", "--rates", *RATES, "--metrics", *METRICS, "--dtype", "float32"]
    subprocess.run(command, check=True)
    keep = ("setting", "bpp", *METRICS, *PATTERNS)
    return [{key: line[key] for key in keep if key in line} for line in summarise(load_results(out / "results.json"))]


def held_out(photographs: Path, folder: Path) -> Path:
    """A folder of the pictures that training leaves out."""
    names = read_names(package_file("box-heldout.txt") or "")
    folder.mkdir(parents=True, exist_ok=True)
    for path in photographs.rglob("*"):
        if path.name in names:
            shutil.copyfile(path, folder / path.name)
    return folder


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    shown = ("bpp", *METRICS, *PATTERNS)
    lines = ["| differs in | rate asked | " + " | ".join(shown) + " |", "|---|---|" + "---:|" * len(shown)]
    for arm, rows in found["arms"].items():
        for row in rows:
            values = [f"{row[name]:.4f}" if row.get(name) is not None else "-" for name in shown]
            lines.append(f"| {ARMS[arm]} | {row['setting']} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main() -> None:
    """Trains and measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="the box's training photographs")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and files")
    parser.add_argument("--stage1-steps", type=int, default=600)
    parser.add_argument("--stage2-steps", type=int, default=500)
    parser.add_argument("--teacher-steps", type=int, default=1000, help="of 8 crops, on one process")
    parser.add_argument("--processes", type=int, default=2, help="with one thread each")
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    common = {
        "processes": arguments.processes,
        "train": {
            "train_data_dir": str(arguments.photographs),
            "mixed_precision": arguments.mixed_precision,
            "num_threads": 1,
        },
    }
    pictures = held_out(arguments.photographs, arguments.work / "held-out")
    lengths = {"stage1_steps": arguments.stage1_steps, "stage2_steps": arguments.stage2_steps}
    crops = STAGE1["train_batch_size"] * arguments.processes
    found: dict[str, Any] = {
        "benchmark": "ablation",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cpu_capability": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__},
        "mixed_precision": arguments.mixed_precision,
        **lengths,
        "teacher_steps": arguments.teacher_steps,
        "crops_per_step": crops,
        "arms": {},
    }
    if arguments.results.is_file():  # arms of the same length that were measured before stay
        before = json.loads(arguments.results.read_text(encoding="utf-8"))
        if all(before.get(key) == found[key] for key in ("mixed_precision", *lengths, "crops_per_step")):
            found["arms"] = before["arms"]
        if before.get("teacher_steps") != found["teacher_steps"]:
            found["arms"].pop("teacher", None)
    for arm in arguments.arms:
        pipeline = Path()
        for name, config, start, settings in arms(**lengths, teacher_steps=arguments.teacher_steps)[arm]:
            pipeline = train(arguments.work, name, config, start, settings, common)
        found["arms"][arm] = measure(pipeline, pictures, arguments.work / f"measured-{arm.replace(' ', '')}")
        arguments.results.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
