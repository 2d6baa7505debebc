"""Validation of a run: real files of real pictures, really decoded.

What training minimises is an estimate of the rate, on crops. What counts is bytes: so the model at hand is made a codec
for a moment (`as_codec`), writes files at a few rates, decodes them and is compared with the originals.

Seconds for the model in the box on one CPU thread: 1.3 to make the entropy path exact (nothing where it is frozen and
exact already), then 1.6 for each file of a picture of 512x384, most of them for the search for the rate.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ..errors import PictureError, TargetError
from ..evaluation.metrics import METRICS
from ..evaluation.metrics.ms_ssim import SMALLEST_SIDE
from ..evaluation.sheet import Cell, Row, comparison_sheet
from ..pictures import PictureInput, load_picture, to_tensor
from ..pipeline import OneDCPipeline
from .components import in_place, pipeline_around

if TYPE_CHECKING:
    from .model import TrainableOneDC
    from .trackers import Trackers

__all__ = [
    "RateGap",
    "RatePoint",
    "ValidationResult",
    "Validator",
    "as_codec",
    "rate_gap",
    "validate",
]

logger = logging.getLogger(__name__)

SHEET_PICTURES = 8  # on the sheet; figures are of all
_SHEET_WIDTH = 2400


@dataclass(frozen=True)
class RatePoint:
    """Means over all pictures at one setting.

    Args:
        setting (`str`): `z-only`, or what was asked for, such as `0.03 bpp`.
        bpp (`float`): 8 x bytes of the files / pixels, headers and all.
        psnr (`float`): dB.
        ms_ssim (`float`, *optional*): `None` if a picture is too small for it (176 pixels a side).
    """

    setting: str
    bpp: float
    psnr: float
    ms_ssim: float | None


@dataclass(frozen=True)
class ValidationResult:
    """What one look at a model found.

    Args:
        points (`tuple[RatePoint, ...]`): one for each setting.
        sheet (`PIL.Image.Image`): originals beside what was rebuilt at each rate, bytes and bpp below.
        pictures (`int`): how many the means are of.
        seconds (`float`): it took.
    """

    points: tuple[RatePoint, ...]
    sheet: Image.Image
    pictures: int
    seconds: float

    def values(self) -> dict[str, float]:
        """For the log: `validation/bpp/0.03 bpp` and so on."""
        values = {}
        for point in self.points:
            for name in ("bpp", "psnr", "ms_ssim"):
                if (value := getattr(point, name)) is not None:
                    values[f"validation/{name}/{point.setting}"] = value
        return values | {"validation/seconds": self.seconds}

    def table(self) -> str:
        """For a card: a Markdown table, one row a setting."""
        lines = ["| setting | bpp | PSNR (dB) ↑ | MS-SSIM ↑ |", "|---|---:|---:|---:|"]
        for point in self.points:
            structure = "–" if point.ms_ssim is None else f"{point.ms_ssim:.4f}"
            lines.append(f"| {point.setting} | {point.bpp:.4f} | {point.psnr:.2f} | {structure} |")
        return "\n".join(lines)


def validate(
    pipe: OneDCPipeline,
    pictures: Mapping[str, PictureInput],
    bpp: Sequence[float] = (0.03, 0.1),
    z_only: bool = True,
    title: str = "Validation",
) -> ValidationResult:
    """Writes a file of each picture at each rate, decodes it and compares.

    Args:
        pipe (`OneDCPipeline`): with an exact entropy path, see `as_codec`.
        pictures (`Mapping[str, PictureInput]`): by name.
        bpp (`Sequence[float]`): rates to ask for; a picture whose smallest file is larger gets that one, and its real
            rate counts. A model of one rate is measured at that one instead.
        z_only (`bool`): also files that hold the hyper-latent alone.
        title (`str`): heading of the sheet.

    Raises:
        ValueError: without pictures or rates.
        ModuleNotFoundError: if MS-SSIM's package is missing.
    """
    if not pictures:
        raise ValueError("`pictures`: nothing to validate with.")
    settings: dict[str, dict[str, Any]] = {"z-only": {"z_only": True}} if z_only or pipe.codec.config.z_only else {}
    if not pipe.codec.config.z_only:
        if pipe.codec.entropy.quality_rows > 1:
            settings |= {f"{rate:g} bpp": {"target_bpp": float(rate)} for rate in bpp}
        else:
            settings["its rate"] = {}
    if not settings:
        raise ValueError("`bpp`: no rate to validate at.")
    started = time.monotonic()
    found: dict[str, list[tuple[float, float, float | None]]] = {setting: [] for setting in settings}
    rows = []
    for name, picture in pictures.items():
        original = load_picture(picture)
        cells = [Cell(original, "Original", note=name)]
        for setting, rate in settings.items():
            data = _compress(pipe, original, rate)
            rebuilt = np.asarray(pipe.decompress(data))
            structure = (
                METRICS["ms_ssim"].compute(original, rebuilt) if min(original.shape[:2]) >= SMALLEST_SIDE else None
            )
            found[setting].append(
                (8 * len(data) / original[..., 0].size, METRICS["psnr"].compute(original, rebuilt), structure)
            )
            cells.append(Cell(rebuilt, "OneDC", len(data), setting))
        if len(rows) < SHEET_PICTURES:
            rows.append(Row(name, tuple(cells)))
    points = []
    for setting, values in found.items():
        rates, fidelities, structures = zip(*values, strict=True)
        mean = None if None in structures else fmean(structures)
        points.append(RatePoint(setting, fmean(rates), fmean(fidelities), mean))
    explanation = "Every picture is decoded from a file of the size below it."
    sheet = comparison_sheet(rows, title, _SHEET_WIDTH, explanation)
    return ValidationResult(tuple(points), sheet, len(pictures), time.monotonic() - started)


def _compress(pipe: OneDCPipeline, picture: np.ndarray, rate: dict[str, Any]) -> bytes:
    try:
        return pipe.compress(picture, **rate)
    except TargetError as error:
        logger.info("Validation: %s That one is taken.", error)
        return pipe.compress(picture, z_only=True)


@contextmanager
def as_codec(model: TrainableOneDC, calibration: Sequence[PictureInput] | None = None) -> Iterator[OneDCPipeline]:
    """A pipeline around a model in training, with an exact entropy path; afterwards the model is as it was.

    Nothing is copied but what the exact path is made of: the pipeline has the model's own networks, which must not
    learn meanwhile. With the package's calibration pictures the model id is the one that `onedc quantize-entropy` will
    give to the saved pipeline.

    Args:
        model (`TrainableOneDC`): with the weights to look at, for instance the averaged ones.
        calibration (list of pictures, *optional*): see `OneDCPipeline.quantize_entropy`.

    Raises:
        ModelError: if weights are not finite.
    """
    codec = model.codec
    was = (codec.entropy, codec.authors_entropy, codec.config.entropy_path, codec.config.authors_entropy)
    model_id = codec.config.model_id
    with in_place(model):
        try:
            pipe = pipeline_around(model)
            if codec.config.entropy_path == "float":
                pipe.quantize_entropy(calibration)
            yield pipe
        finally:
            codec.entropy, codec.authors_entropy, codec.config.entropy_path, codec.config.authors_entropy = was
            codec.config.model_id = model_id


class Validator:
    """Looks at a model during a run: values for the log, the sheet for the trackers and the run's folder.

    Writes `validation/step-000100.png`, and `validation/latest.json` with the figures.

    Args:
        model (`TrainableOneDC`): in training, not wrapped; the caller puts averaged weights in before each call.
        pictures (`Mapping[str, np.ndarray]`): by name.
        bpp (`Sequence[float]`): see `validate`.
        folder (`Path`): of the run.
        trackers (`Trackers`, *optional*): get the sheet.
        z_only (`bool`): see `validate`.

    Attributes:
        last (`ValidationResult`, *optional*): what the latest call found.

    Raises:
        PictureError, ModuleNotFoundError: at once, not after hours, for what would fail at the first look.
    """

    def __init__(
        self,
        model: TrainableOneDC,
        pictures: Mapping[str, np.ndarray],
        bpp: Sequence[float],
        folder: Path,
        trackers: Trackers | None = None,
        z_only: bool = True,
    ):
        if not pictures:
            raise PictureError("Validation has no picture: give files or folders as `validation_images`.")
        if find_spec("pytorch_msssim") is None:
            raise ModuleNotFoundError("Validation needs `pytorch-msssim`: pip install 'onedc-hf[train]'")
        self.model, self.pictures, self.bpp, self.z_only = model, pictures, tuple(bpp), z_only
        self.folder, self.trackers = folder / "validation", trackers
        self.last: ValidationResult | None = None

    def __call__(self, step: int) -> dict[str, float]:
        """Validates after `step` steps of the run; returns what belongs into the log."""
        with as_codec(self.model) as pipe:
            result = validate(pipe, self.pictures, self.bpp, self.z_only, f"After {step:,} steps")
        self.last = result
        self.folder.mkdir(parents=True, exist_ok=True)
        result.sheet.save(self.folder / f"step-{step:06d}.png")
        record = {"step": step, "pictures": result.pictures, **result.values()}
        (self.folder / "latest.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if self.trackers is not None:
            caption = ", ".join(f"{point.setting}: {point.bpp:.4f} bpp" for point in result.points)
            self.trackers.log_pictures("validation/sheet", [result.sheet], step, [caption])
        return result.values()


@dataclass(frozen=True)
class RateGap:
    """The training's estimate of the bits of `y` against what files spend on it.

    Args:
        estimated_bits (`float`): sum over pictures.
        real_bits (`float`): 8 x bytes of whole files, less 8 x bytes of the same pictures' z-only files: the symbols of
            `y`, their checks, and a few bytes of header.
    """

    estimated_bits: float
    real_bits: float

    @property
    def relative(self) -> float:
        """(estimate - real) / real."""
        return self.estimated_bits / self.real_bits - 1


@torch.no_grad()
def rate_gap(
    model: TrainableOneDC,
    pictures: Sequence[PictureInput],
    qualities: Sequence[int] = (20, 50, 80),
    calibration: Sequence[PictureInput] | None = None,
) -> RateGap:
    """Compares the rate term of training with real bytes, over pictures and qualities.

    A picture is cut to a multiple of 64 pixels a side, so that both see the same.

    Args:
        model (`TrainableOneDC`): as trained; its exact or float entropy model is what estimates.
        pictures (`Sequence[PictureInput]`): at least 64 pixels a side.
        qualities (`Sequence[int]`): 0 to 100.
        calibration: see `as_codec`.
    """
    cut = [_whole_blocks(load_picture(picture)) for picture in pictures]
    was_training = model.training
    model.eval()
    estimated = 0.0
    for picture in cut:
        pixels = to_tensor(picture).to(next(model.parameters()).device)  # [1, 3, H, W]
        for quality in qualities:
            row = model.codec.entropy.quality_rows - 1
            exact = round(quality * row / 100) * 100 / row if row else 0.0  # the quality that the file's row stands for
            bpp = model(pixels, torch.tensor([exact], device=pixels.device))[1]
            estimated += float(bpp.sum()) * picture[..., 0].size
    model.train(was_training)
    real = 0
    with as_codec(model, calibration) as pipe:
        for picture in cut:
            smallest = pipe.compress(picture, z_only=True)
            real += sum(len(pipe.compress(picture, quality=quality)) - len(smallest) for quality in qualities)
    return RateGap(estimated, 8.0 * real)


def _whole_blocks(picture: np.ndarray) -> np.ndarray:
    height, width = (side - side % 64 for side in picture.shape[:2])
    if not height or not width:
        raise PictureError(f"`pictures`: at least 64 pixels a side; got {picture.shape[1]}x{picture.shape[0]}.")
    return np.ascontiguousarray(picture[:height, :width])
