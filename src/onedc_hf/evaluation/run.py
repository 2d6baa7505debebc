"""A model over a set of pictures, beside other codecs at the nearest bytes.

    measure   every picture z-only and at every rate: real files, really decoded; one row each (rows.py)
    collect   what all processes have measured, with the metrics of whole sets, as one record
    save      the record as `results.json`, and OneDC's pictures as Parquet (gallery.py)

Any number of processes may measure, each its share of the pictures; one collects. A second run continues: it measures
only what is missing, and what belongs to other weights.
"""

import hashlib
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import OneDCError, PictureError
from ..pictures import load_picture
from .classical import Ladder, decode
from .learned import LearnedLadder, is_learned
from .metrics import METRICS, SET_METRICS
from .originals import Original, Source
from .rows import OWN_RATE, Z_ONLY, Row, RowStore
from .spectrum import grid_report

if TYPE_CHECKING:
    from ..pipeline import OneDCPipeline

__all__ = [
    "CODECS",
    "RATES",
    "Plan",
    "collect",
    "decode_file",
    "load_results",
    "measure",
    "save_results",
    "weights_digest",
]

RATES = (0.01, 0.02, 0.03, 0.067, 0.1, 0.15, 0.25)
CODECS = ("jpeg", "webp", "avif", "jxl")
FORMAT = 2


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        rates (`Sequence[float]`): targets in bpp, beside z-only. A model of one rate is measured at that instead.
        metrics (`Sequence[str]`): keys of `METRICS` and `SET_METRICS`.
        codecs (`Sequence[str]`): other codecs: keys of `classical.CODECS`, or `compressai:<model>`.

    Raises:
        `ValueError`: a name or a rate makes no sense.
        `ModuleNotFoundError`: a metric's or codec's library is missing; found out before anything is encoded.
    """

    rates: Sequence[float] = RATES
    metrics: Sequence[str] = ("psnr", "ms_ssim")
    codecs: Sequence[str] = CODECS

    def __post_init__(self) -> None:
        known = (*METRICS, *SET_METRICS)
        for name in self.metrics:
            if name not in known:
                raise ValueError(f"metrics: expected some of {', '.join(known)}, got {name!r}")
        for name in self.codecs:
            if name not in CODECS and not is_learned(name):
                raise ValueError(f"codecs: expected some of {', '.join(CODECS)} or compressai:MODEL, got {name!r}")
        if any(not 0 < rate < 24 for rate in self.rates):
            raise ValueError("rates: expected bits per pixel above 0 and below 24")
        picture = np.zeros((192, 192, 3), np.uint8)
        for name in self.pair_metrics:
            METRICS[name].compute(picture, picture)
        for name in self.set_metrics:
            SET_METRICS[name].make()
        for name in self.codecs:
            _ladder(picture, name)

    @property
    def pair_metrics(self) -> tuple[str, ...]:
        """Those of one pair of pictures."""
        return tuple(name for name in self.metrics if name in METRICS)

    @property
    def set_metrics(self) -> tuple[str, ...]:
        """Those of two sets."""
        return tuple(name for name in self.metrics if name in SET_METRICS)

    def settings(self, pipeline: "OneDCPipeline") -> dict[str, dict[str, Any]]:
        """Name of each setting -> arguments of `compress`."""
        rows = getattr(getattr(pipeline.components.get("codec"), "config", None), "quality_rows", None)
        if rows == 1:
            return {Z_ONLY: {"z_only": True}, OWN_RATE: {}}
        return {Z_ONLY: {"z_only": True}} | {f"{rate:g}": {"target_bpp": rate} for rate in sorted(self.rates)}


def measure(
    pipeline: "OneDCPipeline",
    source: Source,
    plan: Plan,
    store: RowStore,
    *,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[str], None] = lambda line: None,
) -> int:
    """Measure this process's share of the pictures and append the rows.

    Args:
        pipeline (`OneDCPipeline`): the model.
        source (`Source`): the pictures.
        plan (`Plan`): what is measured.
        store (`RowStore`): where rows go.
        share (`tuple[int, int]`, *optional*): number of this process, and of processes.
        progress (`Callable`, *optional*): is told one line for each picture and setting, and one for each failure.

    Returns:
        `int`: how many of its pictures failed at one setting or more.
    """
    number, processes = share
    settings, digest = plan.settings(pipeline), weights_digest(pipeline)
    failed = 0
    for original in source.pictures[number::processes]:
        sha256 = ""
        try:
            sha256 = original.sha256
            subject = _Subject(original, plan, store, digest)
            for setting, options in settings.items():
                row = subject.onedc(pipeline, setting, options)
                for codec in plan.codecs:
                    subject.other(setting, codec, row["bytes"])
                progress(f"{original.name} {setting}: {row['bytes']:,} bytes, {row['bpp']:.4f} bpp")
            store.forget_failure(original.name)
        except (OneDCError, OSError) as error:
            failed += 1
            store.add_failure(original.name, sha256, str(error))
            message = str(error)
            progress(f"failed: {message if message.startswith(original.name) else f'{original.name}: {message}'}")
    return failed


class _Subject:
    """One original, and what is measured against it; equal results are measured once."""

    def __init__(self, original: Original, plan: Plan, store: RowStore, digest: str) -> None:
        self._plan, self._store, self._digest = plan, store, digest
        self._original, self._name = original, original.name
        self._pixels: np.ndarray | None = None
        self._ladders: dict[str, Any] = {}
        self._measured: dict[bytes, Row] = {}

    @property
    def pixels(self) -> np.ndarray:
        """`uint8` `[H, W, 3]`, decoded when first needed: a finished picture of a resumed run never is."""
        if self._pixels is None:
            self._pixels = self._original.pixels()
        return self._pixels

    @property
    def _facts(self) -> Row:
        height, width = self.pixels.shape[:2]
        return {"picture": self._name, "sha256": self._original.sha256, "width": width, "height": height}

    def onedc(self, pipeline: "OneDCPipeline", setting: str, options: Mapping[str, Any]) -> Row:
        """The row of this model: the known one, or a new one."""
        known = self._store.find(self._original.sha256, setting, "onedc")
        if known is not None:
            return known
        pixels = self.pixels
        start = time.perf_counter()
        data = pipeline.compress(pixels, **options)
        file = self._write(data, setting, "onedc", "odc")
        encoded = time.perf_counter() - start
        start = time.perf_counter()
        rebuilt = load_picture(pipeline.decompress(file.read_bytes()))
        decoded = time.perf_counter() - start
        Image.fromarray(rebuilt).save(file.with_suffix(".png"))
        return self._store.add(
            {
                **self._facts,
                "setting": setting,
                "codec": "onedc",
                "file": file.relative_to(self._store.folder).as_posix(),
                "weights": self._digest,
                **self._measure(rebuilt, file.stat().st_size),
                "encode_seconds": round(encoded, 4),
                "decode_seconds": round(decoded, 4),
            }
        )

    def other(self, setting: str, codec: str, target: int) -> Row:
        """The row of another codec at the size nearest to `target` bytes."""
        sha256 = self._original.sha256
        known = self._store.find(sha256, setting, codec, target_bytes=target)
        if known is not None:
            return known
        if codec not in self._ladders:
            self._ladders[codec] = _ladder(self.pixels, codec)
        encoded = self._ladders[codec].nearest(target)
        size = len(encoded.data)
        file = self._write(encoded.data, setting, codec, codec.partition(":")[0])
        measured = self._store.find_measured(sha256, codec, encoded.quality, size)
        if measured is None:
            measured = self._measure(decode_file(file, codec), size)
        return self._store.add(
            {
                **self._facts,
                "setting": setting,
                "codec": codec,
                "file": file.relative_to(self._store.folder).as_posix(),
                **measured,
                "target_bytes": target,
                "quality": encoded.quality,
                "at_floor": encoded.at_floor,
            }
        )

    def _write(self, data: bytes, setting: str, codec: str, suffix: str) -> Path:
        folder = self._store.folder / "files" / codec.replace(":", "-") / setting.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{Path(self._name).stem}-{self._original.sha256[:8]}.{suffix}"
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_bytes(data)
        temporary.replace(file)
        return file

    def _measure(self, rebuilt: np.ndarray, size: int) -> Row:
        """Size, rate, metrics and grid ratios of a decoded picture; `size` in bytes."""
        key = hashlib.sha256(rebuilt.tobytes()).digest()
        if key not in self._measured:
            row: Row = {}
            for name in self._plan.pair_metrics:
                row[name] = _or_none(lambda name=name: METRICS[name].compute(self.pixels, rebuilt))
            report = _or_none(lambda: grid_report(self.pixels, rebuilt))
            row["grid"] = report and {
                "energy": {str(period): round(ratio, 4) for period, ratio in report.energy.items()},
                "gradient": {str(block): round(ratio, 4) for block, ratio in report.gradient.items()},
            }
            self._measured[key] = row
        height, width = rebuilt.shape[:2]
        return {"bytes": size, "bpp": 8 * size / (width * height), **self._measured[key]}


def _or_none(compute: Callable[[], Any]) -> Any:
    """The result; None where the picture is too small for the measure or the result is infinite (equal pictures)."""
    try:
        value = compute()
    except PictureError:
        return None
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _ladder(picture: np.ndarray, codec: str) -> Any:
    return LearnedLadder(picture, codec) if is_learned(codec) else Ladder(picture, codec)


def decode_file(file: Path, codec: str) -> np.ndarray:
    """Decode a file of another codec to `uint8` `[H, W, 3]`."""
    return LearnedLadder.decode(file.read_bytes()) if is_learned(codec) else decode(file.read_bytes())


# --- results of all processes -----------------------------------------------------------------------------------------


def collect(
    pipeline: "OneDCPipeline",
    name: str,
    source: Source,
    plan: Plan,
    store: RowStore,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Gather the rows of all processes and measure whole sets.

    Args:
        pipeline (`OneDCPipeline`): the model.
        name (`str`): what to call it: `box`, a Hub id, the name of a folder.
        source (`Source`): the pictures.
        plan (`Plan`): what was measured.
        store (`RowStore`): where the rows are.
        progress (`Callable`, *optional*): is told a line for each set measured.

    Returns:
        `dict`: `format`, `model`, `dataset`, `machine`, `metrics`, `set_metrics`, `settings`, `codecs`, `rows`, `sets`
        (one record for each setting and codec that is complete) and `failed` (picture -> reason).
    """
    store.reload()
    settings = list(plan.settings(pipeline))
    codecs = ["onedc", *plan.codecs]
    by_hash = {original.sha256: original for original in _readable(source.pictures)}
    rows = store.rows(list(by_hash), settings, codecs)
    names = {original.name for original in source.pictures}
    return {
        "format": FORMAT,
        "model": {"name": name, "model_id": pipeline.model_id, "weights": weights_digest(pipeline)},
        "dataset": {
            "name": source.name,
            "title": source.title,
            "split": source.split,
            "revision": source.revision,
            "pictures": len(source.pictures),
        },
        "machine": machine_facts(pipeline),
        "metrics": list(plan.pair_metrics),
        "set_metrics": list(plan.set_metrics),
        "settings": settings,
        "codecs": codecs,
        "rows": rows,
        "sets": _sets(rows, by_hash, plan, store.folder, progress),
        "failed": {picture: reason for picture, reason in store.failures.items() if picture in names},
    }


def _readable(pictures: Iterable[Original]) -> Iterable[Original]:
    for original in pictures:
        try:
            original.sha256  # noqa: B018  read once, kept
        except OSError:
            continue
        yield original


def _sets(
    rows: Sequence[Row],
    originals: Mapping[str, Original],
    plan: Plan,
    folder: Path,
    progress: Callable[[str], None],
) -> list[Row]:
    if not plan.set_metrics:
        return []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["setting"], row["codec"]), []).append(row)
    records = []
    known: dict[tuple[str, ...], Row] = {}  # codecs at their floor have the same files at several settings
    for (setting, codec), members in groups.items():
        digests = tuple(hashlib.sha256((folder / row["file"]).read_bytes()).hexdigest() for row in members)
        if digests not in known:
            meters = {name: SET_METRICS[name].make() for name in plan.set_metrics}
            for row in members:
                original, file = originals[row["sha256"]].pixels(), folder / row["file"]
                rebuilt = load_picture(file.with_suffix(".png")) if codec == "onedc" else decode_file(file, codec)
                for meter in meters.values():
                    meter.add(original, rebuilt)
            known[digests] = {name: _or_none(meter.compute) for name, meter in meters.items()}
            progress(f"set metrics: {codec} {setting}")
        records.append({"setting": setting, "codec": codec, "pictures": len(members), **known[digests]})
    return records


def save_results(results: Mapping[str, Any], path: Path) -> None:
    """Write a record as JSON, a row a line, in place of what was there."""
    head = {key: value for key, value in results.items() if key not in ("rows", "sets")}
    parts = [json.dumps(head, indent=1, ensure_ascii=False)[:-2]]
    for key in ("sets", "rows"):
        lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in results[key])
        parts.append(f' "{key}": [\n{lines}\n ]')
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8", suffix=".tmp") as file:
        file.write(",\n".join(parts) + "\n}\n")
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def load_results(path: Path) -> dict[str, Any]:
    """Read a record back.

    Raises:
        `OneDCError`: it is not there, or not one of ours.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OneDCError(f"{path}: {error}; expected a results.json of `onedc evaluate`") from error
    needed = {"rows", "model", "metrics", "dataset", "settings", "codecs"}
    if not isinstance(results, dict) or not needed <= results.keys() or results.get("format") != FORMAT:
        raise OneDCError(f"{path}: no result file of this version's `onedc evaluate`")
    return results


def weights_digest(pipeline: "OneDCPipeline") -> str:
    """Return 16 hex digits of a SHA-256 over every tensor of every component, as loaded (so the dtype counts)."""
    import torch

    digest = hashlib.sha256()
    for name, component in sorted(pipeline.components.items()):
        if not isinstance(component, torch.nn.Module):
            continue
        for key, tensor in sorted(component.state_dict().items()):
            digest.update(f"{name}.{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def machine_facts(pipeline: "OneDCPipeline") -> dict[str, Any]:
    """What the seconds depend on."""
    import torch

    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": str(getattr(pipeline, "device", "cpu")),
    }
