"""Rows of measurements on disk: appended one by one, so that a run that ends early loses at most the one at hand.

A run's folder holds `rows-<process>.jsonl` of every process that took part, and the encoded files the rows speak of. A
row holds one picture at one setting by one codec:

    picture, sha256 (of the original's file), width, height
    setting ("z-only", "own rate", or the bpp asked for), codec ("onedc", "jpeg", ...), bytes, bpp (of the file)
    file (in the run's folder), weights (OneDC: digest of the model's weights)
    target_bytes, quality, at_floor (other codecs: the size aimed at; even the smallest file is above it)
    one key for each metric (null where the picture is too small for it), grid (ratios of spectrum.py)
    encode_seconds, decode_seconds (OneDC only)

or, where one could not be measured: picture, sha256, error. The last row of a picture, setting and codec counts.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import OneDCError

__all__ = ["OWN_RATE", "Z_ONLY", "Row", "RowStore", "setting_order"]

Z_ONLY = "z-only"
OWN_RATE = "own rate"  # of a model that has one rate

Row = dict[str, Any]


def setting_order(setting: str) -> float:
    """Sorts settings by rate: z-only first, then targets; a model's own rate is alone beside z-only."""
    named = {Z_ONLY: -1.0, OWN_RATE: 0.0}
    return named[setting] if setting in named else float(setting)


class RowStore:
    """The rows of one run's folder.

    Args:
        folder (`Path`): of the run; made if it is missing.
        weights (`str`): digest of the model; rows of other weights do not count.
        metrics (`Sequence[str]`): what a complete row has.
        process (`int`): number of this process, which writes to a file of its own.

    Raises:
        `OneDCError`: a row file is there but holds something else.
    """

    def __init__(self, folder: Path, weights: str, metrics: Sequence[str], process: int = 0) -> None:
        self.folder, self._weights, self._metrics = folder, weights, tuple(metrics)
        self._path = folder / f"rows-{process}.jsonl"
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._failures: dict[str, Row] = {}
        self._borrowed: list[Row] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.reload()

    def reload(self) -> None:
        """Read what all processes have written so far."""
        self._rows.clear()
        self._failures.clear()
        for path in sorted(self.folder.glob("rows-*.jsonl")):
            lines = path.read_text(encoding="utf-8").split("\n")
            for number, line in enumerate(lines, 1):
                if not line:
                    continue
                try:
                    self._take(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    if _cut_off(line):  # the process was killed while it wrote
                        continue
                    raise OneDCError(
                        f"{path}, line {number}: no row of an evaluation ({error!r}); name another folder, or delete it"
                    ) from error

    def borrow(self, results: dict[str, Any]) -> None:
        """Let rows of other codecs in an earlier result file stand for files that are the same again."""
        self._borrowed += [row for row in results.get("rows", ()) if row.get("codec") != "onedc"]

    def _take(self, row: Row) -> None:
        if "error" in row:
            self._failures[row["picture"]] = row
        elif row["codec"] != "onedc" or row["weights"] == self._weights:
            self._rows[row["sha256"], row["setting"], row["codec"]] = row

    def find(self, sha256: str, setting: str, codec: str, **wanted: Any) -> Row | None:
        """A row that is complete and as wanted, and whose file is there; or None."""
        row = self._rows.get((sha256, setting, codec))
        if row is None or not self._complete(row) or not (self.folder / row["file"]).is_file():
            return None
        return row if all(row.get(name) == value for name, value in wanted.items()) else None

    def find_measured(self, sha256: str, codec: str, quality: Any, size: int) -> Row | None:
        """What was measured of the same file of another codec, at any setting, here or in a borrowed result."""
        wanted = (sha256, codec, quality, size)
        for row in (*self._rows.values(), *self._borrowed):
            same = (row["sha256"], row["codec"], row.get("quality"), row["bytes"]) == wanted
            if same and self._complete(row):
                return {name: row.get(name) for name in ("bytes", "bpp", "grid", *self._metrics)}
        return None

    def _complete(self, row: Row) -> bool:
        return all(name in row for name in self._metrics)

    def add(self, row: Row) -> Row:
        """Append a row."""
        self._take(row)
        self._append(row)
        return row

    def add_failure(self, picture: str, sha256: str, error: str) -> None:
        """Note that a picture could not be measured."""
        self.add({"picture": picture, "sha256": sha256, "error": error})

    def forget_failure(self, picture: str) -> None:
        """Take a failure back once the picture was measured after all."""
        if picture in self._failures:
            del self._failures[picture]
            self._append({"picture": picture, "sha256": "", "error": ""})

    def _append(self, row: Row) -> None:
        with self._path.open("ab+") as file:
            torn = False
            if file.tell():
                file.seek(-1, 2)
                torn = file.read(1) != b"\n"  # a line that was cut off stays alone
            file.write(b"\n" * torn + json.dumps(row).encode() + b"\n")

    def rows(self, pictures: Sequence[str], settings: Sequence[str], codecs: Sequence[str]) -> list[Row]:
        """The complete rows of these pictures (hashes), settings and codecs, in a fixed order."""
        kept = [
            row
            for (sha256, setting, codec), row in self._rows.items()
            if sha256 in pictures and setting in settings and codec in codecs and self._complete(row)
        ]
        return sorted(kept, key=lambda row: (row["picture"], setting_order(row["setting"]), row["codec"]))

    @property
    def failures(self) -> dict[str, str]:
        """Picture -> why it could not be measured."""
        return {name: row["error"] for name, row in sorted(self._failures.items()) if row["error"]}


def _cut_off(line: str) -> bool:
    """Whether a line may be the beginning of a row."""
    return line.startswith('{"picture": "'[: len(line)]) and not line.endswith("}")
