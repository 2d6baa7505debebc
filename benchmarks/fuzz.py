"""Damaged files against the reader: every one must end in a typed error, quickly, and none in a wrong picture.

    python benchmarks/fuzz.py --count 200000              the model in the box
    python benchmarks/fuzz.py --count 5000 --seconds 60   as much as fits

Files of real pictures are flipped, cut, spliced, overwritten and replaced by noise. Most are read strictly; one in ten
gets a repaired CRC-32, so that the damage reaches the symbols; one in ten is read with `allow_partial`, where a picture
may come out, but only of a file that is shorter than declared, and with the hyper-latent that was written. Counts what
happened, and stops at the first thing that may not: another exception, a wrong picture, a file that takes longer than
`--limit` seconds.
"""

import argparse
import json
import sys
import time
import tracemalloc
import warnings
import zlib
from collections import Counter
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onedc_hf import OneDCPipeline

ROOT = Path(__file__).parents[1]
ALLOCATION_LIMIT = 256 << 20  # bytes that reading one of these small files may take beyond what it takes undamaged


def originals(pipe: "OneDCPipeline") -> list[bytes]:
    """Files of every kind, of crops of the package's photographs."""
    from onedc_hf.pictures import load_picture

    found = []
    for path in sorted(Path(str(files("onedc_hf") / "box" / "pictures")).glob("*.jpg")):
        picture = load_picture(path)
        for side, options in ((64, {"z_only": True}), (100, {"quality": 0}), (130, {"quality": 70})):
            found.append(pipe.compress(picture[:side, : side + 30], **options))  # type: ignore[arg-type]
    return found


def mutate(generator: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """Flip bits, cut, insert, delete, overwrite, swap fronts, splice, or invent."""
    changed, place = bytearray(data), int(generator.integers(0, len(data)))
    length = int(generator.integers(1, 9))
    noise = generator.bytes(length)
    match int(generator.integers(0, 9)):
        case 0 | 1:
            for _ in range(int(generator.integers(1, 4))):
                changed[int(generator.integers(0, len(data)))] ^= 1 << int(generator.integers(0, 8))
        case 2:
            del changed[place:]
        case 3:
            changed[place:place] = noise
        case 4:
            del changed[place : place + length]
        case 5:
            changed[place : place + length] = noise
        case 6:
            changed[:14] = other[:14]
        case 7:
            changed[place:] = other[place:]
        case _:
            changed = bytearray(
                data[: int(generator.integers(0, 12))] + generator.bytes(int(generator.integers(0, 60)))
            )
    return bytes(changed)


def judge(
    pipe: "OneDCPipeline", damaged: bytes, whole: dict[bytes, np.ndarray], partial: bool, forged: bool = False
) -> str:
    """Read one damaged file; return the name of what happened, or raise what may not happen.

    `forged`: its CRC-32 was repaired. One in 256 of those whose damage is in `y` passes check B: no accident does that.
    """
    from onedc_hf import BitstreamError

    if damaged in whole:
        return "unchanged"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            found = pipe.read_symbols(damaged, allow_partial=partial)
        except BitstreamError as error:
            return type(error).__name__
    if forged:
        return "forgery accepted"
    if not partial or found.received >= 1:
        raise AssertionError("a damaged file was accepted as whole")
    if not any(np.array_equal(found.semantic_seed.numpy(), seed) for seed in whole.values()):
        raise AssertionError("the verified part of a cut file is wrong")
    return "partial"


def fuzz(pipe: "OneDCPipeline", count: int, seconds: float, seed: int, limit: float) -> dict[str, int]:
    """Read `count` damaged files, or as many as fit into `seconds`; return how often what happened."""
    generator, happened = np.random.default_rng(seed), Counter[str]()
    whole = {data: pipe.read_symbols(data).semantic_seed.numpy() for data in originals(pipe)}
    names = list(whole)
    started = time.monotonic()
    for number in range(count):
        if time.monotonic() - started > seconds:
            break
        data, other = names[number % len(names)], names[int(generator.integers(0, len(names)))]
        damaged = mutate(generator, data, other)
        forged = number % 10 == 3 and len(damaged) > 4
        if forged:
            damaged = damaged[:-4] + zlib.crc32(damaged[:-4]).to_bytes(4, "big")
        before = time.monotonic()
        try:
            happened[judge(pipe, damaged, whole, number % 10 == 7, forged)] += 1
        except Exception:
            print(f"file {number} of seed {seed}: {damaged.hex()}", file=sys.stderr)
            raise
        if time.monotonic() - before > limit:
            raise AssertionError(f"file {number} of seed {seed} took longer than {limit} s: {damaged.hex()}")
    return dict(happened)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds that one file may take")
    parser.add_argument("--model", metavar="ID", help="folder or Hub id (default: the model in the box)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "fuzz.json")
    arguments = parser.parse_args()

    from onedc_hf import OneDCPipeline

    pipe = OneDCPipeline.from_pretrained(arguments.model)
    tracemalloc.start()
    happened = fuzz(pipe, arguments.count, arguments.seconds, arguments.seed, arguments.limit)
    peak = tracemalloc.get_traced_memory()[1]
    record = {
        "benchmark": "fuzz",
        "model_id": pipe.model_id,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seed": arguments.seed,
        "files": sum(happened.values()),
        "happened": happened,
        "peak_python_mib": round(peak / 2**20, 1),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))
    return 1 if peak > ALLOCATION_LIMIT or happened.get("forgery accepted", 0) > record["files"] / 1000 else 0


if __name__ == "__main__":
    sys.exit(main())
