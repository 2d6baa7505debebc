"""Bytes of a file that are not payload: its size minus the ideal code length of its symbols, over a folder of pictures.

    python benchmarks/overhead.py ../shared/data/kodak                    the model in the box
    python benchmarks/overhead.py FOLDER --model ID --qualities 0 50 100

The ideal code length is what the model's own tables give (-log2 of each symbol's share, z by whichever of its two modes
is the shorter): what is left is header, checks, checksum and the ending of the coder. `coding/bitstream.py` promises at
most 20 bytes on average and 22 for any picture, and 14 for a file of the hyper-latent alone. Writes JSON.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from onedc_hf import OneDCPipeline

ROOT = Path(__file__).parents[1]
Z_ONLY = "z-only"
# Mean and maximum, in bytes, by kind of file.
LIMITS = {Z_ONLY: (14.0, 14.0), "with y": (20.0, 22.0)}


def overheads(pipe: "OneDCPipeline", picture: Any, qualities: Sequence[int]) -> dict[str, float]:
    """Return the overhead in bytes of a picture's files by setting: z-only, and each quality."""
    import torch

    from onedc_hf.coding import ideal_bits
    from onedc_hf.coding.hyper import split_digits, table_bits
    from onedc_hf.pictures import load_picture

    model = pipe._symbols()
    with torch.inference_mode():
        analysed = pipe._analyse(load_picture(picture))
        z_bits = raw = analysed.z_index.size * sum((levels - 1).bit_length() for levels in model.fsq_levels)
        if model.hyper_tables is not None:
            z_bits = min(raw, table_bits(split_digits(analysed.z_index, model.fsq_levels), model.hyper_tables))
        found = {Z_ONLY: len(pipe._coder.write(analysed, None)) - z_bits / 8}
        for quality in qualities:
            units: list[tuple[np.ndarray, np.ndarray]] = []
            row = pipe._coder.row(quality)
            pipe._coder.encode_units(analysed, row, lambda *one, units=units: units.append(one))
            y_bits = sum(ideal_bits(*one, model.tables, model.skip_index) for one in units)
            found[str(quality)] = len(pipe._coder.write(analysed, row)) - (y_bits + z_bits) / 8
    return found


def summary(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean and maximum by setting."""
    return {
        setting: {
            "mean": round(statistics.mean(row[setting] for row in rows), 2),
            "max": round(max(row[setting] for row in rows), 2),
        }
        for setting in rows[0]
    }


def over_limit(result: dict[str, dict[str, float]]) -> list[str]:
    """Return the settings whose mean or maximum is above `LIMITS`."""
    found = []
    for setting, values in result.items():
        mean, largest = LIMITS[Z_ONLY if setting == Z_ONLY else "with y"]
        if values["mean"] > mean or values["max"] > largest:
            found.append(setting)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="pictures")
    parser.add_argument("--model", metavar="ID", help="folder or Hub id (default: the model in the box)")
    parser.add_argument("--qualities", type=int, nargs="+", default=[0, 50, 100])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "overhead.json")
    arguments = parser.parse_args()

    from onedc_hf import OneDCPipeline
    from onedc_hf.evaluation.originals import find_pictures

    pipe = OneDCPipeline.from_pretrained(arguments.model)
    rows = [overheads(pipe, path, arguments.qualities) for path in find_pictures(arguments.folder)]
    result = summary(rows)
    record = {
        "benchmark": "overhead",
        "model": arguments.model or "box",
        "model_id": pipe.model_id,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "pictures": len(rows),
        "limits": LIMITS,
        "bytes": result,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{'setting':<10}{'mean':>8}{'max':>8}  bytes over the ideal code length, {len(rows)} pictures")
    for setting, values in result.items():
        print(f"{setting:<10}{values['mean']:>8.2f}{values['max']:>8.2f}")
    over = over_limit(result)
    if over:
        print(f"Over the limit: {', '.join(over)}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
