"""`make release-box`: the one way new weights enter the repository.

    python -m onedc_hf.training.release CANDIDATE --photographs FOLDER --kodak FOLDER

In one go: an exact entropy path and static tables for the hyper-latent (if the entropy model changed), weights rounded
to float16, identity, the comparison with the weights in place, and everything that depends on the weights:
golden files, Kodak results, README table, card, the figure of the demo; and the run's discriminators, for whoever
trains on. Weights that score worse on the held-out training pictures than those in place, or at any rate show more of a
grid there or more detail that cells repeat, are refused (`held_out.py`). Commit the result as one commit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .. import __version__
from ..calibration import fit_tables
from ..coder import Symbols
from ..eight_bits import shrink
from ..errors import OneDCError
from ..evaluation import tables
from ..evaluation.classical import available_codecs
from ..evaluation.metrics import OFFLINE_METRICS
from ..evaluation.model_page import model_index
from ..evaluation.rows import FORMAT
from ..evaluation.run import load_results
from ..hub.card import build_card, training_sources
from ..pictures import load_picture
from ..pipeline import OneDCPipeline
from ..releases import BOX, decoder_side, different_tables, save_tables
from .adversary import BOX_DISCRIMINATORS, DISCRIMINATORS, Adversary
from .config_files import package_file
from .features import LiteFeatures
from .held_out import HeldOut, measure_held_out
from .picture_sets import read_names

__all__ = ["Refused", "finish_weights", "release", "symbols_digest"]

MAX_BYTES = 24 * 1024 * 1024
GOLDEN_SETTINGS: dict[str, dict[str, int | bool]] = {"z-only": {"z_only": True}, "40": {"quality": 40}}
# What the README's table shows; docs/results/box.md has everything that was measured.
SHOWN_METRICS = ("psnr", "ms_ssim", "ssimulacra2", "st_lpips_vgg")
SHOWN_CODECS = ("jpeg", "webp", "avif", "avif-half")
SHOWN_SETTINGS = ("z-only", "0.03", "0.067", "0.1", "0.25")
CONTACT_SETTINGS = ("z-only", "0.02", "0.067")
PROCESSES = 2  # that measure and evaluate, one thread each
TABLE_PICTURES_EVERY = 4  # pictures the tables of the hyper-latent are fitted to: 20,000 positions are plenty


class Refused(OneDCError):
    """The candidate may not replace the weights in place."""


def finish_weights(pipe: OneDCPipeline, pictures: Sequence[Path]) -> None:
    """Makes trained components ready to ship, in place: exact entropy path, tables of `z`, float16 values, identity.

    Args:
        pipe (`OneDCPipeline`): in float32.
        pictures (`Sequence[Path]`): training pictures, whose hyper-latents the tables are fitted to when there are
            none yet.
    """
    if pipe.codec.config.entropy_path == "float":
        pipe.quantize_entropy()
    entropy = pipe.codec.entropy
    if not entropy.z_counts.any():
        fit_tables(pipe, pictures)
    for part in (pipe.vae, pipe.codec, pipe.generator):
        part.half()  # the entropy model's integers stay, and the last layers of generator and VAE stay in float32
    pipe.codec.config.model_id = entropy.digest().hex()


def symbols_digest(symbols: Symbols) -> str:
    """SHA-256 of what a file decodes to before any network of the decoder side; one value on every machine."""
    parts = (symbols.y_hat, symbols.semantic_seed)
    return hashlib.sha256(b"".join(np.ascontiguousarray(p.cpu().numpy()).tobytes() for p in parts)).hexdigest()


def _write_goldens(pipe: OneDCPipeline, folder: Path) -> None:
    """Files of the demo's pictures, quartered, with the pixels they decode to."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    symbols = {}
    for path in sorted((BOX / "pictures").glob("*.jpg")):
        small = np.asarray(Image.fromarray(load_picture(path)).reduce(2))
        for name, setting in GOLDEN_SETTINGS.items():
            data = pipe.compress(small, **setting)
            stem = folder / f"{path.stem}-{name}"
            stem.with_suffix(".odc").write_bytes(data)
            Image.fromarray(np.asarray(pipe.decompress(data))).save(stem.with_suffix(".png"))
            symbols[stem.name] = symbols_digest(pipe.read_symbols(data))
    facts = {"model_id": pipe.model_id, "symbols": symbols}
    (folder / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")


def keep_file(pipe: OneDCPipeline, folder: Path) -> None:
    """Adds one file of this release to those that every later release must decode to the same symbols."""
    path = min((BOX / "pictures").glob("*.jpg"))
    data = pipe.compress(Image.fromarray(load_picture(path)).reduce(2), quality=40)
    listed = folder / "facts.json"
    facts = json.loads(listed.read_text()) if listed.is_file() else []
    name = f"release-{1 + max((fact['release'] for fact in facts), default=0)}.odc"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    facts.append(
        {
            "file": name,
            "release": int(name[8:-4]),
            "model_id": pipe.model_id,
            "symbols": symbols_digest(pipe.read_symbols(data)),
        }
    )
    listed.write_text(json.dumps(facts, indent=2) + "\n")


def keep_discriminators(path: Path) -> None:
    """Puts a run's discriminators into the package; without any, those that are there stay, and a line says so."""
    if not path.is_file():
        print(f"No {path}: the package keeps the discriminators of an earlier run.", flush=True)
        return
    Adversary(LiteFeatures().channels, 0.0).load(str(path))  # refuses what no run could take up
    shutil.copyfile(path, BOX_DISCRIMINATORS)


def keep_earlier(box: Path, later: OneDCPipeline) -> None:
    """Keeps what reads the files of the release in place, which the next one's entropy model cannot.

    That is its decoder side, in 8 bits, or its tables if the two differ in nothing else.

    Args:
        box (`Path`): the package's `box` folder.
        later (`OneDCPipeline`): the next release.
    """
    pipe = OneDCPipeline.from_pretrained(box / "model", dtype=torch.float16)  # half the size on disk
    folder = box / "earlier" / pipe.model_id[:8]
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(box / "earlier" / later.model_id[:8], ignore_errors=True)  # a release that comes back is in place
    tables = different_tables(pipe._entropy, later._entropy)
    if tables is not None:
        save_tables(tables, later.model_id, folder)
        return
    reader = OneDCPipeline(pipe.vae, decoder_side(pipe.codec), pipe.generator, pipe.scheduler)
    reader.save_pretrained(folder)
    shrink(folder)


def evaluate_box(kodak: Path, repository: Path) -> dict[str, Any]:
    """Run the whole evaluation of the model in the box, and write its page and the README's table.

    Args:
        kodak (`Path`): folder of the 24 pictures.
        repository (`Path`): checkout to write to; what is known of other codecs' files is taken from its last results.

    Returns:
        `dict`: the record of `onedc evaluate`.
    """
    kept = repository / "docs" / "results" / "kodak-box.json"
    run = repository / "runs" / "box-kodak"  # ignored by git; an evaluation that was stopped goes on from it
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(PROCESSES)]
    command += ["--no_python", sys.executable, "-m", "onedc_hf.cli.main", "evaluate"]
    command += ["--dataset", "kodak", "--data-dir", str(kodak), "--out", str(run)]
    command += ["--metrics", *OFFLINE_METRICS, "--codecs", *available_codecs()]
    if kept.is_file() and json.loads(kept.read_text(encoding="utf-8"))["format"] == FORMAT:
        command += ["--reuse", str(kept)]
    one_thread = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    report = [sys.executable, "-m", "onedc_hf.cli.main", "report", str(run), "--cost"]
    report += ["--page", str(repository / "docs" / "results" / "box.md"), "--contact-sheets", *CONTACT_SETTINGS]
    for step, environment in ((command, one_thread), (report, None)):
        if subprocess.run(step, env=environment).returncode:
            raise OneDCError("the evaluation failed; `make release-box CANDIDATE=box` goes on with it")
    results = load_results(run / "results.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "results.json", kept)
    readme = repository / "README.md"
    table = tables.markdown(results, metrics=SHOWN_METRICS, settings=SHOWN_SETTINGS, codecs=SHOWN_CODECS)
    readme.write_text(tables.insert(readme.read_text(encoding="utf-8"), table), encoding="utf-8")
    return results


def _write_card(pipe: OneDCPipeline, sources: Path, used: set[str], table: str, results: dict[str, Any]) -> None:
    training = (
        "Trained on a CPU by the configs `box-stage1` and later ones of this package, on the photographs below "
        "(the package's docs/training-log.md tells how). Losses were L1, MS-SSIM, colour and texture statistics, and "
        "features of EfficientNet-Lite1 (Apache-2.0) and an adversary on them. Which weights are released is chosen on "
        "held-out photographs, among others by EfficientNet-Lite2; Kodak chose none, but was read after each.\n\n"
    )
    with sources.open(encoding="utf-8") as file:
        rows = [line.split(",", 1)[0] for line in file]
    paths = [row for row in rows if row.startswith("train/") and Path(row).name in used]
    card = build_card(
        pipe, license="apache-2.0", name="OneDC, the model in the box", results=table,
        training=training + training_sources(sources, used=paths), eval_results=model_index(results),
    )  # fmt: skip
    card.save(BOX / "model" / "README.md")


def measure_models(models: Mapping[str, Path], pictures: Sequence[Path]) -> dict[str, HeldOut]:
    """Measures saved models on held-out pictures, each in a process of its own with one thread.

    Args:
        models (`Mapping[str, Path]`): folders by name.
        pictures (`Sequence[Path]`): see `measure_held_out`.
    """
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        running = {name: pool.submit(_measure_model, folder, pictures) for name, folder in models.items()}
        return {name: found.result() for name, found in running.items()}


def _measure_model(folder: Path, pictures: Sequence[Path]) -> HeldOut:
    torch.set_num_threads(1)
    return measure_held_out(OneDCPipeline.from_pretrained(folder, dtype=torch.float32), pictures)


def _used(photographs: Path) -> set[str]:
    """Names of the pictures that were trained on."""
    left_out = read_names(package_file("box-excluded.txt") or "") | read_names(package_file("box-heldout.txt") or "")
    return {path.name for path in photographs.rglob("*.jpg")} - left_out


def release(candidate: str, photographs: Path, kodak_folder: Path, repository: Path, force: bool = False) -> None:
    """Checks the candidate and writes everything that ships; see the module's text.

    Raises:
        Refused: if it is too large, scores worse than the weights in place or shows a pattern.
    """
    held_out = read_names(package_file("box-heldout.txt") or "")
    every = {path.name: path for path in sorted(photographs.rglob("*.jpg"))}
    missing = held_out - every.keys()
    if missing:
        raise Refused(f"{len(missing)} held-out pictures are not in {photographs}, for instance {min(missing)}.")
    used = _used(photographs)
    judged = [every[name] for name in sorted(held_out)]

    pipe = OneDCPipeline.from_pretrained(candidate, dtype=torch.float32)
    finish_weights(pipe, [every[name] for name in sorted(used)][::TABLE_PICTURES_EVERY])
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / "model"
        pipe.save_pretrained(staged)
        size = sum(file.stat().st_size for file in staged.rglob("*") if file.is_file())
        if size > MAX_BYTES:
            raise Refused(f"The weights take {size / 2**20:.1f} MiB; at most {MAX_BYTES // 2**20} MiB may ship.")
        pipe = OneDCPipeline.from_pretrained(staged, dtype=torch.float32)
        in_place = None
        models = {"candidate": staged}
        if (BOX / "model" / "model_index.json").is_file():
            in_place = OneDCPipeline.from_pretrained(dtype=torch.float32)
            models["in place"] = BOX / "model"
        measured = measure_models(models, judged)
        print(json.dumps({name: found._asdict() for name, found in measured.items()}), flush=True)
        reason = measured["candidate"].refusal(measured.get("in place"))
        if reason and not force:
            raise Refused(reason)
        if in_place and in_place.model_id != pipe.model_id:
            keep_earlier(BOX, pipe)
        shutil.rmtree(BOX / "model", ignore_errors=True)
        shutil.copytree(staged, BOX / "model")
    keep_discriminators(Path(candidate).parent / DISCRIMINATORS)  # beside the pipeline, in the folder of its run
    pipe = OneDCPipeline.from_pretrained(dtype=torch.float32)
    released = json.loads((BOX / "released.json").read_text()) if (BOX / "released.json").is_file() else []
    if pipe.model_id not in [one["model_id"] for one in released]:  # no released digest is withdrawn
        released.append({"model_id": pipe.model_id, "format_version": 1, "since": __version__})
        (BOX / "released.json").write_text(json.dumps(released, indent=2) + "\n")

    _write_goldens(pipe, repository / "tests" / "fixtures" / "box")
    keep_file(pipe, repository / "tests" / "fixtures" / "kept")
    show_box(photographs, kodak_folder, repository)


def show_box(photographs: Path, kodak: Path, repository: Path) -> None:
    """Measure the model in place and write everything that shows it: page, tables, card, the figure of the demo."""
    results = evaluate_box(kodak, repository)
    table = tables.markdown(results, metrics=SHOWN_METRICS, settings=SHOWN_SETTINGS, codecs=SHOWN_CODECS)
    pipe = OneDCPipeline.from_pretrained(dtype=torch.float32)
    _write_card(pipe, photographs.parent / "SOURCES.csv", _used(photographs), table, results)
    subprocess.run([sys.executable, "-m", "onedc_hf.cli.main", "demo", "--out", str(repository / "demo")], check=True)
    sheet = Image.open(repository / "demo" / "comparison.png")
    sheet.save(repository / "docs" / "figures" / "comparison.webp", quality=85)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses and runs; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m onedc_hf.training.release", description=__doc__)
    parser.add_argument("candidate", help="folder of the trained pipeline, or `box`: evaluate the one in place anew")
    parser.add_argument("--photographs", type=Path, required=True, help="folder of the training photographs")
    parser.add_argument("--kodak", type=Path, required=True, help="folder of the 24 Kodak pictures")
    parser.add_argument("--repository", type=Path, default=Path.cwd(), help="checkout to write to")
    parser.add_argument("--force", action="store_true", help="ship even if the held-out pictures are worse")
    arguments = parser.parse_args(argv)
    try:
        if arguments.candidate == "box":
            show_box(arguments.photographs, arguments.kodak, arguments.repository)
            return 0
        release(arguments.candidate, arguments.photographs, arguments.kodak, arguments.repository, arguments.force)
    except OneDCError as error:
        print(f"release-box: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
