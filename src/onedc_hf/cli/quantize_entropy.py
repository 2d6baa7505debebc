"""`onedc quantize-entropy`: Make a model's entropy path exact, so that its files decode bit for bit everywhere.

Models that were trained or converted have an entropy path in floats, whose last bits differ between devices. This turns
it into integers and gives the model a new id. The same weights and calibration pictures give the same id on every
machine; by default the pictures are three photographs that ship with the package.

onedc quantize-entropy my-model                  writes my-model-exact
onedc quantize-entropy my-model -o exact/ --calibrate photographs/
onedc quantize-entropy my-model --fit-tables photographs/    a smaller hyper-latent, for pictures like these
"""

import argparse
from pathlib import Path

from ..errors import OneDCError
from .files import UsageError, complain, find_inputs, is_picture, say
from .models import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="FOLDER|REPO", help="the model")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="where to (default: the model's name with -exact)")
    parser.add_argument(
        "--calibrate", nargs="+", metavar="IMAGE", help="pictures, glob patterns, folders to calibrate with"
    )
    parser.add_argument(
        "--fit-tables",
        nargs="+",
        metavar="IMAGE",
        help="pictures to fit static tables of the hyper-latent to: a few hundred like those the model is for",
    )
    parser.add_argument("--force", action="store_true", help="write into a folder that exists")


def run(arguments: argparse.Namespace) -> int:
    """Load, quantise, save."""
    # Of "." the name of the folder, and a place beside it: a folder of weights within another is nobody's wish.
    model = Path(arguments.model)
    beside = model.resolve().parent if model.name in ("", "..") else Path()
    target = Path(arguments.output or beside / f"{(model.resolve() if model.is_dir() else model).name}-exact")
    if target.exists() and not arguments.force:
        raise UsageError(f"{target} exists; name another folder with -o, or write into it with --force")
    pictures = _every_picture(arguments.calibrate, "--calibrate")
    table_pictures = _every_picture(arguments.fit_tables, "--fit-tables")
    import torch

    pipeline = load_model(arguments.model, dtype=torch.float32)
    pipeline.quantize_entropy(pictures, table_pictures=table_pictures)
    pipeline.save_pretrained(target)
    say(f"{arguments.model} -> {target}  model id {pipeline.model_id[:16]}...")
    return 0


def _every_picture(named: list[str] | None, option: str) -> list[Path] | None:
    """The pictures of an option, all of them: with one fewer the model would have another id."""
    if not named:
        return None
    pictures, problems = find_inputs(named, is_picture)
    for problem in problems:
        complain(problem)
    if problems or not pictures:
        raise OneDCError(f"{option} needs every picture that was named")
    return pictures
