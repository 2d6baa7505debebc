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
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import OneDCError, PictureError
from ..pictures import load_picture
from ..rate_search import check_effort
from ..saving import write_atomically
from .classical import CODECS, Ladder, decode
from .learned import LearnedLadder, is_learned
from .metrics import METRICS, SET_METRICS
from .originals import Original, Source
from .rows import FORMAT, OWN_RATE, Z_ONLY, Row, RowStore, file_digest
from .spectrum import grid_report

if TYPE_CHECKING:
    from ..pipeline import OneDCPipeline

__all__ = [
    "DEFAULT_CODECS",
    "RATES",
    "Plan",
    "collect",
    "load_results",
    "measure",
    "rebuilt_picture",
    "save_results",
    "weights_digest",
]

RATES = (0.01, 0.02, 0.03, 0.067, 0.1, 0.15, 0.25)
DEFAULT_CODECS = ("jpeg", "webp", "avif", "jxl")


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        rates (`Sequence[float]`): targets in bpp, beside z-only. A model of one rate is measured at that instead.
        metrics (`Sequence[str]`): keys of `METRICS` and `SET_METRICS`.
        codecs (`Sequence[str]`): other codecs: keys of `classical.CODECS`, or `compressai:<model>`.
        effort (`int`): steps of refinement of every file of the model but z-only.

    Raises:
        `ValueError`: a name or a rate makes no sense.
        `ModuleNotFoundError`: a metric's or codec's library is missing; found out before anything is encoded.
    """

    rates: Sequence[float] = RATES
    metrics: Sequence[str] = ("psnr", "ms_ssim")
    codecs: Sequence[str] = DEFAULT_CODECS
    effort: int = 0

    def __post_init__(self) -> None:
        known = (*METRICS, *SET_METRICS)
        for name in self.metrics:
            if name not in known:
                raise ValueError(f"metrics: expected some of {', '.join(known)}, got {name!r}")
        for name in self.codecs:
            if name not in CODECS and not is_learned(name):
                raise ValueError(f"codecs: expected some of {', '.join(CODECS)} or compressai:MODEL, got {name!r}")
        check_effort(self.effort)
        if self.effort:
            import torch

            from ..distance import PictureDistance

            PictureDistance(torch.zeros(1, 3, 64, 64))  # asks for its packages
        if any(not 0 < rate < 24 for rate in self.rates):
            raise ValueError("rates: expected bits per pixel above 0 and below 24")
        picture = np.zeros((192, 192, 3), np.uint8)
        for name in self.pair_metrics:
            METRICS[name].compute(picture, picture)
        for name in self.set_metrics:
            SET_METRICS[name].make()
        for name in self.codecs:
            ladder = _ladder(picture, name)
            if is_learned(name):
                ladder.at(1)  # fetches weights

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
        effort = {"effort": self.effort} if self.effort else {}
        rows = getattr(getattr(pipeline.components.get("codec"), "config", None), "quality_rows", None)
        if rows == 1:
            return {Z_ONLY: {"z_only": True}, OWN_RATE: effort}
        return {Z_ONLY: {"z_only": True}} | {f"{rate:g}": {"target_bpp": rate} | effort for rate in sorted(self.rates)}


def measure(
    pipeline: "OneDCPipeline",
    source: Source,
    plan: Plan,
    store: RowStore,
    *,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Measure this process's share of the pictures and append the rows; what fails is noted, and the rest goes on.

    Args:
        pipeline (`OneDCPipeline`): the model.
        source (`Source`): the pictures.
        plan (`Plan`): what is measured.
        store (`RowStore`): where rows go.
        share (`tuple[int, int]`, *optional*): number of this process, and of processes.
        progress (`Callable`, *optional*): is told one line for each picture and setting; of failures, `failed: ...`.
    """
    number, processes = share
    settings, digest = plan.settings(pipeline), weights_digest(pipeline)
    for original in source.pictures[number::processes]:
        subject = _Subject(original, plan, store, pipeline, digest)
        for setting, options in settings.items():
            try:
                row = subject.onedc(setting, options)
                for codec in plan.codecs:
                    subject.other(setting, codec, row["bytes"])
                progress(f"{original.name} {setting}: {row['bytes']:,} bytes, {row['bpp']:.4f} bpp")
            except Exception as error:  # one odd picture of thousands must not end the run, whatever it does
                message = str(error) if isinstance(error, OneDCError) else f"{type(error).__name__}: {error}"
                store.add_failure(original.name, setting, message)
                known = message.startswith(original.name)
                progress(f"failed: {message if known else f'{original.name}, {setting}: {message}'}")


class _Subject:
    """One original, and what is measured against it; equal results are measured once."""

    def __init__(self, original: Original, plan: Plan, store: RowStore, pipeline: "OneDCPipeline", digest: str) -> None:
        self._original, self._plan, self._store = original, plan, store
        self._pipeline, self._digest, self._device = pipeline, digest, _device(pipeline)
        self._ladders: dict[str, Any] = {}
        self._measured: dict[bytes, Row] = {}

    @cached_property
    def pixels(self) -> np.ndarray:
        """`uint8` `[H, W, 3]`, decoded when first needed: a finished picture of a resumed run never is."""
        return self._original.pixels(self._pipeline.max_pixels)

    def onedc(self, setting: str, options: Mapping[str, Any]) -> Row:
        """The row of this model: the known one, with metrics added where it lacks some, or a new one."""
        facts = (self._original.name, self._original.sha256, setting, "onedc")
        row = self._store.find(*facts, weights=self._digest, device=self._device)
        if row is not None:
            return self._completed(row, lambda: rebuilt_picture(self._store.folder, row))
        pixels = self.pixels
        start = time.perf_counter()
        data = self._pipeline.compress(pixels, **options)
        # Other weights may write the same file and rebuild another picture.
        effort = self._plan.effort
        name = f"onedc-{self._digest[:8]}" + (f"-effort-{effort}" if effort else "")
        file = self._write(data, name, setting, "odc")
        encoded = time.perf_counter() - start
        start = time.perf_counter()
        rebuilt = load_picture(self._pipeline.decompress(file.read_bytes()), self._pipeline.max_pixels)
        decoded = time.perf_counter() - start
        Image.fromarray(rebuilt).save(file.with_suffix(".png"))
        row = self._facts(setting, "onedc", file) | {
            "weights": self._digest,
            "device": self._device,
            "effort": effort,
            "encode_seconds": round(encoded, 4),
            "decode_seconds": round(decoded, 4),
        }
        return self._completed(row, lambda: rebuilt)

    def other(self, setting: str, codec: str, target: int) -> Row:
        """The row of another codec at the size nearest to `target` bytes."""
        facts = (self._original.name, self._original.sha256, setting, codec)
        row = self._store.find(*facts, target_bytes=target)
        if row is None:
            if codec not in self._ladders:
                self._ladders[codec] = _ladder(self.pixels, codec)
            encoded = self._ladders[codec].nearest(target)
            suffix = CODECS[codec].pillow_format.lower() if codec in CODECS else codec.partition(":")[0]
            file = self._write(encoded.data, codec.replace(":", "-"), setting, suffix)
            row = self._facts(setting, codec, file) | {
                "target_bytes": target,
                "quality": encoded.quality,
                "at_floor": encoded.at_floor,
            }
        missing = [name for name in self._measures if not _knows(row, name)]
        known = self._store.find_measured(self._original.sha256, codec, row["file_sha256"]) if missing else {}
        added = {name: known[name] for name in missing if _knows(known, name)}
        if added:
            row = {name: value for name, value in row.items() if name != "at"} | added  # not as it is on disk
        return self._completed(row, lambda: rebuilt_picture(self._store.folder, row))

    @property
    def _measures(self) -> tuple[str, ...]:
        return (*self._plan.pair_metrics, "grid")

    def _facts(self, setting: str, codec: str, file: Path) -> Row:
        height, width = self.pixels.shape[:2]
        size = file.stat().st_size
        return {
            "picture": self._original.name,
            "sha256": self._original.sha256,
            "width": width,
            "height": height,
            "setting": setting,
            "codec": codec,
            "bytes": size,
            "bpp": 8 * size / (width * height),
            "file": file.relative_to(self._store.folder).as_posix(),
            "file_sha256": file_digest(file),
        }

    def _write(self, data: bytes, codec: str, setting: str, suffix: str) -> Path:
        folder = self._store.folder / "files" / codec / setting.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"[^\w.-]+", "_", self._original.name)  # the name may come from a stranger's data set
        stem = stem.encode()[:80].decode(errors="ignore")  # a file's name has room for 255 bytes
        file = folder / f"{stem}-{self._original.sha256[:8]}.{suffix}"
        write_atomically(file, data)
        return file

    def _completed(self, row: Row, rebuilt: Callable[[], np.ndarray]) -> Row:
        """The row with every metric asked for: as it is, if it is on disk and whole; otherwise appended."""
        missing = [name for name in self._measures if not _knows(row, name)]
        if not missing and "at" in row:
            return row
        if missing:
            picture = rebuilt()
            key = hashlib.sha256(picture.tobytes()).digest()
            measured = self._measured.setdefault(key, {})
            for name in missing:
                if name not in measured:
                    measured[name] = self._grid(picture) if name == "grid" else self._metric(name, picture)
            row = row | {name: measured[name] for name in missing}
        return self._store.add(row)

    def _metric(self, name: str, rebuilt: np.ndarray) -> float | None:
        return _or_none(lambda: METRICS[name].compute(self.pixels, rebuilt))

    def _grid(self, rebuilt: np.ndarray) -> Row | None:
        report = _or_none(lambda: grid_report(self.pixels, rebuilt))
        return report and report.to_row()


def _knows(row: Row, name: str) -> bool:
    """Whether a row has a measure; a grid check of before it read what cells repeat is not whole."""
    return name in row and not (name == "grid" and row["grid"] is not None and "repeated" not in row["grid"])


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


def rebuilt_picture(folder: Path, row: Mapping[str, Any]) -> np.ndarray:
    """The picture that a row's file was decoded to, `uint8` `[H, W, 3]`; OneDC's was kept beside its file.

    Raises:
        `OneDCError`: it is gone or damaged.
    """
    file = folder / row["file"]
    try:
        if row["codec"] == "onedc":
            return load_picture(file.with_suffix(".png"), max_pixels=None)  # its original was let in
        if is_learned(row["codec"]):
            return LearnedLadder.decode(file.read_bytes())
        halved = CODECS[row["codec"]].halves
        return decode(file.read_bytes(), (row["width"], row["height"]) if halved else None)
    except (OneDCError, OSError) as error:
        raise OneDCError(
            f"a picture of the run cannot be read ({error}); if it is gone, run `onedc evaluate` again with the same "
            f"--out; if it is damaged, delete {file} first"
        ) from error


# --- results of all processes -----------------------------------------------------------------------------------------


def collect(
    pipeline: "OneDCPipeline",
    name: str,
    source: Source,
    plan: Plan,
    store: RowStore,
    progress: Callable[[str], None] = lambda line: None,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Gather the rows of all processes and measure whole sets.

    Only pictures that were measured at every setting by every codec count, so that all means are over the same ones.

    Args:
        pipeline (`OneDCPipeline`): the model.
        name (`str`): what to call it: `box`, a Hub id, the name of a folder.
        source (`Source`): the pictures.
        plan (`Plan`): what was measured.
        store (`RowStore`): where the rows are.
        progress (`Callable`, *optional*): is told a line for each set measured.
        options (`Sequence[str]`, *optional*): of the command, beyond what the record says otherwise; kept in it.

    Returns:
        `dict`: `format`, `options`, `model`, `dataset`, `machine`, `metrics`, `set_metrics`, `settings`, `codecs`,
        `rows`, `sets` (one record for each setting and codec) and `failed` (picture -> reason).
    """
    store.reload()
    settings, codecs = list(plan.settings(pipeline)), ["onedc", *plan.codecs]
    device = _device(pipeline)
    rows: list[Row] = []
    measured: dict[str, Original] = {}
    failed: dict[str, str] = {}
    for original in source.pictures:
        try:
            found = store.rows(original.name, original.sha256, settings, codecs, plan.pair_metrics, device)
        except (OneDCError, OSError):  # it cannot be read
            found = None
        if found is None:
            failed[original.name] = store.reason(original.name)
        else:
            measured[original.name] = original
            rows += found
    kept = ("picture", "sha256", "width", "height", "setting", "codec", "bytes", "bpp", "file", "file_sha256")
    kept += ("weights", "effort", "target_bytes", "quality", "at_floor", *plan.pair_metrics, "grid")
    kept += ("encode_seconds", "decode_seconds")
    return {
        "format": FORMAT,
        "options": list(options),
        "model": {
            "name": name,
            "model_id": pipeline.model_id,
            "weights": weights_digest(pipeline),
            "adapter": pipeline.adapter_id,
            "effort": plan.effort,
        },
        "dataset": {
            "name": source.name,
            "title": source.title,
            "split": source.split,
            "revision": source.revision,
            "pictures": len(measured),
            "limited": source.limit is not None,
            "limit": source.limit,
            "benchmark": source.benchmark,
        },
        "machine": machine_facts(pipeline),
        "metrics": list(plan.pair_metrics),
        "set_metrics": list(plan.set_metrics),
        "settings": settings,
        "codecs": codecs,
        "rows": [{key: row[key] for key in kept if key in row} for row in rows],
        "sets": _sets(rows, measured, plan, store, progress, pipeline.max_pixels),
        "failed": failed,
    }


def _sets(
    rows: Sequence[Row],
    originals: Mapping[str, Original],
    plan: Plan,
    store: RowStore,
    progress: Callable[[str], None],
    max_pixels: int | None,
) -> list[Row]:
    if not plan.set_metrics:
        return []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["setting"], row["codec"]), []).append(row)
    records = []
    known: dict[tuple[str, ...], Row] = {}  # codecs at their floor have the same files at several settings
    for (setting, codec), members in groups.items():
        digests = tuple(row["file_sha256"] for row in members)
        if digests not in known:
            earlier = store.borrowed_set(members)
            found = {name: earlier[name] for name in plan.set_metrics if earlier.get(name) is not None}
            meters = {name: SET_METRICS[name].make() for name in plan.set_metrics if name not in found}
            for row in members if meters else ():
                original, rebuilt = originals[row["picture"]].pixels(max_pixels), rebuilt_picture(store.folder, row)
                for name, meter in list(meters.items()):
                    try:
                        meter.add(original, rebuilt)
                    except PictureError as error:  # without one picture it would be the value of another set
                        progress(f"no {name}: {row['picture']}: {error}")
                        del meters[name]
            found |= {name: _or_none(meter.compute) for name, meter in meters.items()}
            known[digests] = {name: found.get(name) for name in plan.set_metrics}
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
    write_atomically(path, (",\n".join(parts) + "\n}\n").encode())


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
    """Return 16 hex digits of a SHA-256 over every tensor of every component, as loaded (so the dtype counts).

    With them goes what else decides files and pictures: the configs, adapters that are loaded, and tiles, where they
    are not the default ones.
    """
    import torch

    from ..tiling import Tiling

    digest = hashlib.sha256()
    for name, component in sorted(pipeline.components.items()):
        if not isinstance(component, torch.nn.Module):
            continue
        for key, tensor in sorted(component.state_dict().items()):
            digest.update(f"{name}.{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        digest.update(f"{name} {json.dumps(_settings(component), sort_keys=True, default=str)}\n".encode())
    if adapter := pipeline.adapter_id:
        digest.update(f"adapter {adapter}".encode())
    tiling = getattr(pipeline, "_tiling", Tiling())
    if tiling != Tiling():
        digest.update(f"tiling {tiling}".encode())
    return digest.hexdigest()[:16]


def _settings(component: Any) -> dict[str, Any]:
    """A component's config, without what says by which program and from where it was loaded."""
    config: Any = getattr(component, "config", {})
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    told = {"transformers_version", "architectures", "dtype", "torch_dtype"}
    return {key: value for key, value in config.items() if not key.startswith("_") and key not in told}


def machine_facts(pipeline: "OneDCPipeline") -> dict[str, Any]:
    """What the seconds depend on."""
    import torch

    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": _device(pipeline),
    }


def _device(pipeline: "OneDCPipeline") -> str:
    return str(getattr(pipeline, "device", "cpu")).partition(":")[0]
