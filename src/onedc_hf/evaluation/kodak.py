"""A model over a folder of pictures, beside classical codecs at the nearest bytes. Writes JSON, row by row; resumes.

    python -m onedc_hf.evaluation.kodak FOLDER --out results.json --rates 0.01 0.03 0.1
    python -m onedc_hf.evaluation.tables results.json --readme README.md

Made for the 24 Kodak pictures, fit for any folder. Every file is written to disk and decoded from there, by OneDC as by
the others. A row holds one picture at one setting by one codec:

    picture, sha256 (of the original's file), width, height
    setting ("z-only", or the bpp asked for), codec ("onedc", "jpeg", ...), bytes, bpp (of the file)
    target_bytes, quality, at_floor (classical codecs: the size aimed at; even the smallest file is above it)
    one key for each metric (null where the picture is too small for it), grid (ratios of spectrum.py)
    encode_seconds, decode_seconds (OneDC only)

A second run with the same model keeps the rows it finds; with another model (its id or any weight differs) it keeps
only those of classical codecs that still aim at the right size, and measures no file of theirs again that it knows.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import OneDCError, PictureError
from ..pictures import load_picture
from .classical import Ladder, available_codecs, decode
from .metrics import METRICS
from .spectrum import grid_report

if TYPE_CHECKING:
    from ..pipeline import OneDCPipeline

__all__ = ["RATES", "evaluate", "find_pictures", "main", "weights_digest"]

RATES = (0.01, 0.03, 0.067, 0.1, 0.25)
CODECS = ("jpeg", "webp", "avif", "jxl")
Z_ONLY = "z-only"
FORMAT = 1

Row = dict[str, Any]


def evaluate(
    pipeline: "OneDCPipeline",
    pictures: Sequence[Path],
    out: Path,
    *,
    rates: Sequence[float] = RATES,
    metrics: Sequence[str] = tuple(METRICS),
    codecs: Sequence[str] = CODECS,
    progress: Callable[[str], None] = lambda line: None,
) -> int:
    """Measure every picture z-only and at every rate, and keep `out` up to date meanwhile.

    Args:
        pipeline (`OneDCPipeline`): the model.
        pictures (`Sequence[Path]`): original files.
        out (`Path`): the JSON file, made or continued.
        rates (`Sequence[float]`, *optional*): targets in bpp.
        metrics (`Sequence[str]`, *optional*): keys of `METRICS`.
        codecs (`Sequence[str]`, *optional*): keys of `classical.CODECS`; those not available here are left out.
        progress (`Callable`, *optional*): is told one line for each picture and setting, and one for each failure.

    Returns:
        `int`: how many pictures failed at one setting or more; none of their means may be trusted.

    Raises:
        `ModuleNotFoundError`: a metric's library is missing; found out before anything is encoded.
    """
    _try_metrics(metrics)
    codecs = [codec for codec in codecs if codec in available_codecs()]
    store = _Store(out, _identity(pipeline), metrics)
    settings: list[tuple[str, dict[str, Any]]] = [(Z_ONLY, {"z_only": True})]
    settings += [(f"{rate:g}", {"target_bpp": rate}) for rate in sorted(rates)]
    failed = set()
    for number, path in enumerate(pictures, 1):
        try:
            subject = _Subject(path, metrics)
            ladders = {codec: Ladder(subject.original, codec) for codec in codecs}
            for setting, options in settings:
                row = store.find(subject.facts, setting, "onedc")
                if row is None:
                    row = store.add(_measure_onedc(pipeline, subject, setting, options))
                for codec, ladder in ladders.items():
                    if store.find(subject.facts, setting, codec, target_bytes=row["bytes"]) is None:
                        store.add(_measure_classical(subject, setting, codec, ladder, row["bytes"], store))
                store.save()
                progress(
                    f"{number}/{len(pictures)} {path.name} {setting}: {row['bytes']:,} bytes, {row['bpp']:.4f} bpp"
                )
        except OneDCError as error:
            failed.add(path)
            message = str(error)
            progress(f"failed: {message if message.startswith(str(path)) else f'{path}: {message}'}")
    store.save()
    return len(failed)


def find_pictures(folder: Path, limit: int | None = None) -> list[Path]:
    """Return the pictures directly in a folder, sorted by name, by their suffixes.

    Raises:
        `PictureError`: it is no folder, or holds none.
    """
    if not folder.is_dir():
        raise PictureError(f"{folder}: no such folder")
    suffixes = Image.registered_extensions()
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != ".")
    if not found:
        raise PictureError(f"{folder}: no pictures in this folder")
    return found[:limit]


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


# --- one measurement --------------------------------------------------------------------------------------------------


class _Subject:
    """One original, and what is measured against it; equal results are measured once."""

    def __init__(self, path: Path, metrics: Sequence[str]) -> None:
        data = path.read_bytes()
        self.original = load_picture(path)  # [H, W, 3]
        height, width = self.original.shape[:2]
        self.facts = {
            "picture": path.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "width": width,
            "height": height,
        }
        self._metrics = metrics
        self._measured: dict[bytes, Row] = {}

    def measure(self, rebuilt: np.ndarray, size: int) -> Row:
        """Size, rate, metrics and grid ratios of a decoded picture; `size` in bytes."""
        key = hashlib.sha256(rebuilt.tobytes()).digest()
        if key not in self._measured:
            row: Row = {}
            for name in self._metrics:
                row[name] = _or_none(lambda name=name: METRICS[name].compute(self.original, rebuilt))
            report = _or_none(lambda: grid_report(self.original, rebuilt))
            row["grid"] = report and {"energy": report.energy, "gradient": report.gradient}
            self._measured[key] = row
        bpp = 8 * size / (self.facts["width"] * self.facts["height"])
        return {"bytes": size, "bpp": bpp, **self._measured[key]}


def _or_none(compute: Callable[[], Any]) -> Any:
    """The result; None where the picture is too small for the measure or the result is infinite (equal pictures)."""
    try:
        value = compute()
    except PictureError:
        return None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _measure_onedc(pipeline: "OneDCPipeline", subject: _Subject, setting: str, options: dict[str, Any]) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.odc"
        start = time.perf_counter()
        data = pipeline.compress(subject.original, **options)
        path.write_bytes(data)
        encoded = time.perf_counter() - start
        size = path.stat().st_size
        start = time.perf_counter()
        rebuilt = load_picture(pipeline.decompress(path.read_bytes()))
        decoded = time.perf_counter() - start
    row = {**subject.facts, "setting": setting, "codec": "onedc", **subject.measure(rebuilt, size)}
    return {**row, "encode_seconds": round(encoded, 4), "decode_seconds": round(decoded, 4)}


def _measure_classical(
    subject: _Subject, setting: str, codec: str, ladder: Ladder, target: int, store: "_Store"
) -> Row:
    encoded = ladder.nearest(target)
    size = len(encoded.data)
    known = store.find_file(subject.facts, codec, quality=encoded.quality, bytes=size)
    measured = subject.measure(decode(encoded.data), size) if known is None else known
    row = {**subject.facts, "setting": setting, "codec": codec, **measured}
    return {**row, "setting": setting, "target_bytes": target, "quality": encoded.quality, "at_floor": encoded.at_floor}


def _try_metrics(names: Iterable[str]) -> None:
    """Fail before the first picture, not after it, where a library is missing or a name is wrong."""
    picture = np.zeros((192, 192, 3), np.uint8)
    for name in names:
        if name not in METRICS:
            raise ValueError(f"metrics: expected some of {', '.join(METRICS)}, got {name!r}")
        METRICS[name].compute(picture, picture)


# --- results on disk --------------------------------------------------------------------------------------------------


class _Store:
    """The JSON file: rows by picture, setting and codec."""

    def __init__(self, path: Path, identity: dict[str, Any], metrics: Sequence[str]) -> None:
        self._path, self._metrics = path, metrics
        self._head = {"format": FORMAT, "model": identity, "machine": _machine(), "metrics": list(metrics)}
        self._rows: dict[tuple[str, str, str], Row] = {}
        if not path.exists():
            return
        try:
            earlier = json.loads(path.read_text())
            same_model = earlier["model"] == identity and earlier["format"] == FORMAT
            rows = [row for row in earlier["rows"] if same_model or row["codec"] != "onedc"]
            self._rows = {self._key(row): row for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise OneDCError(
                f"{path} is no result file of this program ({error!r}); name another, or delete it"
            ) from error

    @staticmethod
    def _key(row: Row) -> tuple[str, str, str]:
        return row["sha256"], row["setting"], row["codec"]

    def find(self, facts: Row, setting: str, codec: str, **wanted: Any) -> Row | None:
        """A row that is complete and as wanted, or None."""
        row = self._rows.get((facts["sha256"], setting, codec))
        if row is None or any(name not in row for name in self._metrics):
            return None
        return row if all(row.get(name) == value for name, value in wanted.items()) else None

    def find_file(self, facts: Row, codec: str, **wanted: Any) -> Row | None:
        """A complete row of the same picture and codec at any setting, whose file is as wanted."""
        for (sha256, _, name), row in self._rows.items():
            same = (sha256, name) == (facts["sha256"], codec) and all(row.get(k) == v for k, v in wanted.items())
            if same and all(metric in row for metric in self._metrics):
                return row
        return None

    def add(self, row: Row) -> Row:
        self._rows[self._key(row)] = row
        return row

    def save(self) -> None:
        """Write the file anew beside the old one and put it in its place."""
        rows = sorted(self._rows.values(), key=lambda row: (row["picture"], _order(row["setting"]), row["codec"]))
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps({**self._head, "rows": rows}, indent=1) + "\n")
        os.replace(temporary, self._path)


def _order(setting: str) -> float:
    return 0.0 if setting == Z_ONLY else float(setting)


def _identity(pipeline: "OneDCPipeline") -> dict[str, Any]:
    return {"model_id": pipeline.model_id, "weights": weights_digest(pipeline)}


def _machine() -> dict[str, Any]:
    import torch

    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns 0, or 1 when a picture failed."""
    parser = argparse.ArgumentParser(
        prog="python -m onedc_hf.evaluation.kodak", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="originals")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, made or continued")
    parser.add_argument("--model", help="folder or repository (default: the model in the box)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), metavar="BPP", help="beside z-only")
    parser.add_argument("--metrics", nargs="+", default=list(METRICS), choices=list(METRICS))
    parser.add_argument("--codecs", nargs="*", default=list(CODECS), choices=CODECS)
    arguments = parser.parse_args(argv)
    try:
        pictures = find_pictures(arguments.folder, arguments.limit)
        from ..pipeline import OneDCPipeline

        pipeline = OneDCPipeline.from_pretrained(arguments.model)
        if arguments.device != "cpu":
            pipeline = pipeline.to(arguments.device)
        failed = evaluate(
            pipeline,
            pictures,
            arguments.out,
            rates=arguments.rates,
            metrics=arguments.metrics,
            codecs=arguments.codecs,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except (OneDCError, ModuleNotFoundError) as error:
        print(f"kodak: {error}", file=sys.stderr)
        return 1
    if failed:
        print(f"kodak: {failed} of {len(pictures)} pictures failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
