"""`onedc demo`: Compress three photographs at three rates and show them beside JPEG, WebP and AVIF.

Writes .odc files, rebuilt pictures and comparison.png into a folder, and prints a table.
"""

import argparse
import os
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import PictureError, TargetError
from ..picture_files import save_picture
from ..saving import write_atomically
from .files import UsageError, complain, find_inputs, is_picture, read, say
from .models import add_model_arguments, load_pipeline
from .text import table

if TYPE_CHECKING:
    from ..pipeline import OneDCPipeline

# name in file names -> what the sheet and the table call it, and the arguments of compress
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "z-only": ("z-only", {"z_only": True}),
    "low": ("low, 0.03 bpp asked", {"target_bpp": 0.03}),
    "medium": ("medium, 0.1 bpp asked", {"target_bpp": 0.1}),
}
SHEET = "comparison.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--out", default="demo", metavar="FOLDER", help="where to write (default: demo)")
    parser.add_argument("--images", nargs="+", metavar="PICTURE", help="other pictures than the three that come along")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; files of an earlier one in the same folder are replaced."""
    from ..evaluation.sheet import comparison_rows, comparison_sheet
    from ..pictures import load_picture

    paths, problems = _pictures(arguments.images)
    folder = Path(arguments.out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; name a folder")
    _refuse_inputs_among_outputs(paths, folder)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(arguments)
    originals = {}
    for path in paths:
        try:
            originals[path.stem] = load_picture(path)
        except PictureError as error:
            problems.append(str(error))
    if not originals:
        raise PictureError("\n".join(problems))
    pipeline.decompress(pipeline.compress(next(iter(originals.values()))))  # the first pass of all warms up, untimed

    lines, rows = [], []
    for name, original in originals.items():
        results = [_round_trip(pipeline, folder, name, original, setting) for setting in SETTINGS]
        rebuilt = [(SETTINGS[result.setting][0], result.rebuilt, result.size) for result in results]
        rows += comparison_rows(name, original, rebuilt)
        lines += [result.line(original) for result in results]
    sheet = folder / SHEET
    save_picture(comparison_sheet(rows), sheet)
    say(table(("picture", "setting", "bytes", "bpp", "PSNR dB", "encode s", "decode s"), lines))
    say(f"\n{len(lines)} .odc files and the pictures rebuilt from them are in {folder}; look at {sheet}")
    for problem in problems:
        complain(problem)
    return 1 if problems else 0


def _pictures(given: list[str] | None) -> tuple[list[Path], list[str]]:
    if given is None:
        # Package data of an installed wheel lies in ordinary files; from a zip they would have to be unpacked first.
        folder = Path(str(resources.files("onedc_hf") / "box" / "pictures"))
        return sorted(folder.glob("*.jpg")), []
    paths, problems = find_inputs(given, is_picture)
    stems = [path.stem for path in paths]
    if len(set(stems)) < len(stems):
        raise UsageError("--images: two pictures have the same name, and so would their files")
    if not paths:
        raise UsageError("--images: " + "; ".join(problems))
    return paths, problems


def _files(folder: Path, name: str, setting: str) -> tuple[Path, Path]:
    """The .odc file of a picture and the picture rebuilt from it."""
    return folder / f"{name}-{setting}.odc", folder / f"{name}-{setting}.png"


def _refuse_inputs_among_outputs(paths: list[Path], folder: Path) -> None:
    """Raises `UsageError` where the demo would be written over a picture that it shows."""
    outputs = [file for path in paths for setting in SETTINGS for file in _files(folder, path.stem, setting)]
    inputs = [path for path in paths if os.path.exists(path)]
    for output in (folder / SHEET, *outputs):
        if os.path.exists(output) and any(os.path.samefile(output, path) for path in inputs):
            raise UsageError(f"--out {folder}: {output} would be written over one of --images; name another folder")


@dataclass(frozen=True)
class _Result:
    name: str
    setting: str
    size: int  # bytes
    rebuilt: np.ndarray  # uint8 [H, W, 3]
    seconds: tuple[float, float]  # encode, decode

    def line(self, original: np.ndarray) -> list[str]:
        from ..evaluation.metrics import psnr

        bpp = 8 * self.size / (original.shape[0] * original.shape[1])
        quality = f"{psnr(original, self.rebuilt):.2f}"
        encode, decode = self.seconds
        return [self.name, self.setting, f"{self.size:,}", f"{bpp:.4f}", quality, f"{encode:.2f}", f"{decode:.2f}"]


def _round_trip(pipeline: "OneDCPipeline", folder: Path, name: str, original: np.ndarray, setting: str) -> _Result:
    """Compress to a file, read the file, decompress, write the rebuilt picture."""
    from ..pictures import load_picture

    packed, rebuilt = _files(folder, name, setting)
    options = SETTINGS[setting][1]
    start = time.perf_counter()
    try:
        data = pipeline.compress(original, **options)
    except TargetError as error:  # a model of one rate, or a very small picture
        complain(f"warning: {error}; {packed.name} is the smallest file possible")
        start = time.perf_counter()
        data = pipeline.compress(original, target_bytes=error.smallest)
    encoded = time.perf_counter() - start
    write_atomically(packed, data)
    data = read(packed)
    start = time.perf_counter()
    picture = pipeline.decompress(data)
    decoded = time.perf_counter() - start
    save_picture(picture, rebuilt)
    return _Result(name, setting, len(data), load_picture(picture), (encoded, decoded))
