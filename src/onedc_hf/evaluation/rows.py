"""Rows of measurements on disk: appended one by one, so that a run that ends early loses at most the one at hand.

A run's folder holds `rows-<process>.jsonl` of every process that took part, and the encoded files the rows speak of. A
row holds one picture at one setting by one codec:

    picture, sha256 (of the original's file), width, height
    setting ("z-only", "own rate", or the bpp asked for), codec ("onedc", "jpeg", ...), bytes, bpp (of the file)
    file (in the run's folder), file_sha256
    weights, device, effort (OneDC: digest of the model's weights, where it ran, steps of refinement; no effort: none)
    target_bytes, quality, at_floor (other codecs: the size aimed at; even the smallest file is above it)
    one key for each metric (null where the picture is too small for it), grid (readings of spectrum.py)
    encode_seconds, decode_seconds (OneDC only)
    at (seconds since 1970: of rows about the same thing, whichever process wrote them, the newest counts)
    format (of this program's measures: rows of another one do not count)

or, where one could not be measured: picture, setting, error, at. It counts until newer rows of the same picture and
setting are there.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import OneDCError

__all__ = ["FORMAT", "OWN_RATE", "Z_ONLY", "Row", "RowStore", "file_digest", "setting_order"]

Z_ONLY = "z-only"
OWN_RATE = "own rate"  # of a model that has one rate
FORMAT = 3  # of rows and result files; another one where a measure is defined otherwise

Row = dict[str, Any]
_FileKey = tuple[str, str, str | None]  # of the original, codec, of the file


def setting_order(setting: str) -> float:
    """Sorts settings by rate: z-only first, then targets; a model's own rate is alone beside z-only."""
    named = {Z_ONLY: -1.0, OWN_RATE: 0.0}
    return named[setting] if setting in named else float(setting)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class RowStore:
    """The rows of one run's folder.

    Args:
        folder (`Path`): of the run; made if it is missing.
        weights (`str`): digest of the model; rows of other weights do not count.
        process (`int`): number of this process, which writes to a file of its own.
        effort (`int`): steps of refinement; rows of another effort do not count.

    Raises:
        `OneDCError`: a row file is there but holds something else.
    """

    def __init__(self, folder: Path, weights: str, process: int = 0, effort: int = 0) -> None:
        self.folder, self._weights, self._effort = folder, weights, effort
        self._path = folder / f"rows-{process}.jsonl"
        self._rows: dict[tuple[str, str, str, str], Row] = {}
        self._failures: dict[str, dict[str, Row]] = {}  # picture -> setting -> the newest
        # What is known of other codecs' files, by what identifies one: a look through all rows would be one for each.
        self._measured: dict[_FileKey, Row] = {}
        self._borrowed: dict[_FileKey, Row] = {}
        self._borrowed_sets: dict[tuple[tuple[str, str], ...], Row] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.reload()

    def reload(self) -> None:
        """Read what all processes have written so far."""
        self._rows.clear()
        self._failures.clear()
        self._measured.clear()
        found: list[Row] = []
        for path in sorted(self.folder.glob("rows-*.jsonl")):
            for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
                if not line:
                    continue
                try:
                    row = json.loads(line)
                    found.append(row | {"at": float(row["at"]), "picture": row["picture"], "setting": row["setting"]})
                except (ValueError, KeyError, TypeError) as error:
                    if _cut_off(line):  # the process was killed while it wrote
                        continue
                    raise OneDCError(
                        f"{path}, line {number}: no row of an evaluation ({error!r}); delete that line, or name "
                        "another folder"
                    ) from error
        for row in sorted(found, key=lambda row: row["at"]):
            if row.get("format") == FORMAT:
                self._take(row)

    def borrow(self, results: dict[str, Any]) -> None:
        """Let what an earlier result file says of other codecs stand for files, and sets of them, that are the same."""
        rows = [row for row in results.get("rows", ()) if row.get("codec") != "onedc"]
        for row in rows:
            self._borrowed.setdefault(_file_key(row), {}).update(row)
        for record in results.get("sets", ()):
            members = [row for row in rows if all(row[key] == record[key] for key in ("setting", "codec"))]
            if members:
                self._borrowed_sets.setdefault(_files(members), {}).update(record)

    def borrowed_set(self, members: Sequence[Row]) -> Row:
        """What a borrowed result says of the set of these rows' files; empty: nothing."""
        return self._borrowed_sets.get(_files(members), {})

    def _take(self, row: Row) -> None:
        if "error" in row:
            self._failures.setdefault(row["picture"], {})[row["setting"]] = row
        elif row["codec"] != "onedc" or (row["weights"], row.get("effort", 0)) == (self._weights, self._effort):
            self._rows[row["picture"], row["sha256"], row["setting"], row["codec"]] = row
            if row["codec"] != "onedc":
                self._measured.setdefault(_file_key(row), {}).update(row)

    def find(self, picture: str, sha256: str, setting: str, codec: str, **wanted: Any) -> Row | None:
        """The row of what is wanted, if its file is there and the same; it may lack a metric. None otherwise.

        Where a failure was noted since, the row has no `at`: it has to be added once more to count.
        """
        row = self._rows.get((picture, sha256, setting, codec))
        if row is None or any(row.get(name) != value for name, value in wanted.items()):
            return None
        file = self.folder / row["file"]
        whole = file.is_file() and file_digest(file) == row["file_sha256"]
        if not whole or (codec == "onedc" and not file.with_suffix(".png").is_file()):
            return None
        return {name: value for name, value in row.items() if name != "at"} if self._failed_since(row) else row

    def find_measured(self, sha256: str, codec: str, digest: str) -> Row:
        """What was measured of the same file of another codec, at any setting, here or in a borrowed result."""
        key = (sha256, codec, digest)
        return self._borrowed.get(key, {}) | self._measured.get(key, {})

    def add(self, row: Row) -> Row:
        """Append a row."""
        row = {**row, "format": FORMAT, "at": round(time.time(), 3)}
        self._take(row)
        with self._path.open("ab+") as file:
            torn = False
            if file.tell():
                file.seek(-1, 2)
                torn = file.read(1) != b"\n"  # a line that was cut off stays alone
            file.write(b"\n" * torn + json.dumps(row).encode() + b"\n")
        return row

    def add_failure(self, picture: str, setting: str, error: str) -> None:
        """Note that a picture could not be measured."""
        self.add({"picture": picture, "setting": setting, "error": error})

    def rows(
        self,
        picture: str,
        sha256: str,
        settings: Sequence[str],
        codecs: Sequence[str],
        metrics: Sequence[str],
        device: str,
    ) -> list[Row] | None:
        """All rows of a picture, in a fixed order, with these metrics; None if any is missing.

        `codecs` begins with `onedc`. Rows of OneDC on another device do not count, nor those of other codecs that were
        matched to files of other weights, nor any that are older than a failure.
        """
        wanted: list[Row] = []
        for setting in settings:
            target = None
            for codec in codecs:
                row = self._rows.get((picture, sha256, setting, codec))
                if row is None or self._failed_since(row) or any(name not in row for name in metrics):
                    return None
                if codec == "onedc":
                    if row.get("device") != device:
                        return None
                    target = row["bytes"]
                elif row["target_bytes"] != target:
                    return None
                wanted.append(row)
        return wanted

    def reason(self, picture: str) -> str:
        """Why a picture could not be measured, as far as anybody noted it."""
        noted = self._failures.get(picture)
        if noted is None:
            return "it was not measured; run the same command again"
        return max(noted.values(), key=lambda row: row["at"])["error"]

    def _failed_since(self, row: Row) -> bool:
        failure = self._failures.get(row["picture"], {}).get(row["setting"])
        return failure is not None and failure["at"] > row["at"]


def _file_key(row: Row) -> _FileKey:
    return row["sha256"], row["codec"], row.get("file_sha256")


def _files(members: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """A set of files and what they are of, in whatever order they were measured."""
    return tuple(sorted((row["sha256"], row["file_sha256"]) for row in members))


def _cut_off(line: str) -> bool:
    """Whether a line that cannot be read may be the beginning of a row."""
    try:
        json.loads(line)
    except ValueError:
        return line.startswith('{"picture": "'[: len(line)])
    return False
