"""Large pictures: what tiling changes in pixels, bytes, seconds and memory.

    python benchmarks/large.py FOLDER        photographs of 8 megapixels and more

Two parts. Every photograph is compressed and decoded in one piece and in tiles: agreement of the pixels from one file,
seams, bytes of a file written in tiles. Then a picture of growing size, laid out from those photographs, is compressed
and decoded with the pipeline's defaults, each size in a process of its own: seconds, and the peak of memory less the
arrays that go in and come out. Writes `results/large.json`, `docs/large-pictures.md` and its figure.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from onedc_hf import OneDCPipeline

ROOT = Path(__file__).parents[1]
SIDES = (2048, 4096, 8192)  # 4, 16 and 64 megapixels
LIMITS = {"psnr_db": 38.0, "seam_ratio": 1.1, "extra_bytes_percent": 2.0, "memory_growth_mib": 0.3 * 1024}
PAGE, FIGURE = ROOT / "docs" / "large-pictures.md", ROOT / "docs" / "figures" / "large-pictures.png"
LARGEST_WHOLE = 16_000_000  # pixels; beyond, one piece takes too much memory to be compared with


def main() -> int:
    arguments = parse_arguments()
    if arguments.side:
        print(json.dumps(grow(arguments.folder, arguments.side, arguments.threads)))
        return 0
    from onedc_hf import OneDCPipeline

    record: dict[str, Any] = {
        "benchmark": "large",
        "model_id": OneDCPipeline.from_pretrained().model_id[:8],
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "threads": arguments.threads,
        "limits": LIMITS,
        "note": arguments.note,
        "photographs": json.loads(arguments.out.read_text())["photographs"]
        if arguments.sizes_only
        else compare(arguments.folder, arguments.threads, arguments.limit),
        "sizes": [run_worker(arguments, side) for side in SIDES],
    }
    first, last = record["sizes"][0], record["sizes"][-1]
    worst = {
        "psnr_db": min(p["psnr_db"] for p in record["photographs"]),
        "seam_ratio": max(p["seam_ratio"] for p in record["photographs"]),
        "extra_bytes_percent": max(p["extra_bytes_percent"] for p in record["photographs"]),
        "memory_growth_mib": max(last[f"{way}_mib"] - first[f"{way}_mib"] for way in ("encode", "decode")),
    }
    record["worst"] = worst
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if not arguments.no_page:
        draw(record, FIGURE)
        PAGE.write_text(page(record), encoding="utf-8")
    for name, value in worst.items():
        print(f"{name}: {value:.3f} (limit {LIMITS[name]:g})")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, help="compare so many photographs only")
    parser.add_argument("--sizes-only", action="store_true", help="keep what is known of the photographs")
    parser.add_argument("--note", default="", help="a sentence for the page, such as: the machine was busy")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "large.json")
    parser.add_argument("--no-page", action="store_true", help="JSON alone (the figure needs matplotlib)")
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def photographs(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


# --- one piece against tiles ------------------------------------------------------------------------------------------


def compare(folder: Path, threads: int, limit: int | None) -> list[dict[str, Any]]:
    import torch

    from onedc_hf import OneDCPipeline
    from onedc_hf.evaluation.seams import border_lines, seam_ratio
    from onedc_hf.tiling import POSITION

    torch.set_num_threads(threads)
    pipe = OneDCPipeline.from_pretrained()
    warm_up(pipe)
    rows = []
    for path in photographs(folder)[:limit]:
        picture = Image.open(path).convert("RGB")
        if picture.width * picture.height > LARGEST_WHOLE:
            continue
        pipe.disable_tiling()
        encode_whole, data = clock(lambda picture=picture: pipe.compress(picture))
        decode_whole, whole = clock(lambda data=data: np.asarray(pipe.decompress(data)))
        pipe.enable_tiling()
        encode_tiled, other = clock(lambda picture=picture: pipe.compress(picture))
        decode_tiled, tiled = clock(lambda data=data: np.asarray(pipe.decompress(data)))
        lines = [border_lines(spans, POSITION) for spans in pipe._tiles(picture.height, picture.width)]
        error = np.square(tiled.astype(np.float32) - whole.astype(np.float32)).mean()
        row = {
            "name": path.name,
            "width": picture.width,
            "height": picture.height,
            "bytes": len(data),
            "extra_bytes_percent": round(100 * (len(other) / len(data) - 1), 3),
            "psnr_db": round(float(10 * np.log10(255**2 / error)), 2),
            "seam_ratio": round(seam_ratio(tiled, *lines), 4),
            "seam_ratio_of_one_piece": round(seam_ratio(whole, *lines), 4),
            "seconds": {
                "encode_whole": round(encode_whole, 2),
                "encode_tiled": round(encode_tiled, 2),
                "decode_whole": round(decode_whole, 2),
                "decode_tiled": round(decode_tiled, 2),
            },
        }
        print(row, flush=True)
        rows.append(row)
    return rows


# --- growing sizes ----------------------------------------------------------------------------------------------------


def run_worker(arguments: argparse.Namespace, side: int) -> dict[str, Any]:
    """In a fresh process: memory that was freed is not always given back."""
    options = ["--threads", str(arguments.threads), "--side", str(side)]
    command = [sys.executable, __file__, str(arguments.folder), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(result, flush=True)
    return result


def grow(folder: Path, side: int, threads: int) -> dict[str, Any]:
    import torch

    from onedc_hf import OneDCPipeline

    torch.set_num_threads(threads)
    pipe = OneDCPipeline.from_pretrained()
    warm_up(pipe)
    picture = lay_out(photographs(folder), side)
    megabytes = picture.nbytes / 2**20
    forget_peak()
    encode, data = clock(lambda: pipe.compress(picture))
    encode_mib = peak_mib() - megabytes
    forget_peak()
    decode, rebuilt = clock(lambda: pipe.decompress(data))
    # The picture that was compressed, the rebuilt pixels, and Pillow's own copy of them (four bytes a pixel).
    decode_mib = peak_mib() - 2 * megabytes - rebuilt.width * rebuilt.height * 4 / 2**20
    return {
        "megapixels": side * side / 2**20,
        "bytes": len(data),
        "encode_mib": round(encode_mib, 1),
        "decode_mib": round(decode_mib, 1),
        "encode_s": round(encode, 2),
        "decode_s": round(decode, 2),
    }


def lay_out(paths: list[Path], side: int) -> np.ndarray:
    """`uint8` `[side, side, 3]`: photographs side by side, in rows as high as the lowest of them."""
    whole = np.empty((side, side, 3), np.uint8)
    turn, top = 0, 0
    while top < side:
        left, height = 0, side - top
        while left < side:
            with Image.open(paths[turn % len(paths)]) as photo:
                tile = np.asarray(photo.convert("RGB"))[: side - top, : side - left]
            height = min(height, tile.shape[0])
            whole[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            left, turn = left + tile.shape[1], turn + 1
        top += height
    return whole


def warm_up(pipe: "OneDCPipeline") -> None:
    pipe.decompress(pipe.compress(np.zeros((512, 768, 3), np.uint8)))


def peak_mib() -> float:
    """Largest resident memory since `forget_peak` (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


# --- the page -------------------------------------------------------------------------------------------------------


_PAGE = """# Large pictures

Written by `benchmarks/large.py` from `benchmarks/results/large.json`; {date}, {threads} threads, what was the
model in the box then (its id begins with {model_id}).

Pictures of more than 4 megapixels are worked on in overlapping tiles of 1024x1024 pixels, so that the memory for the
networks does not grow with the picture. `pipe.enable_tiling(tile_size, overlap)` tiles smaller pictures, too;
`pipe.disable_tiling()` never does. What belongs to the picture as a whole stays whole: the hyper-latent, the semantic
tokens, which every tile attends to, and the symbols. So a file decodes to the same symbols whether the decoder tiles or
not, and to almost the same pixels.

![Peak memory by megapixels, and agreement of tiles with one piece](figures/{figure})

## One piece against tiles

Photographs in one piece and in tiles: agreement of the pixels decoded from one file, mean gradient across the borders
of tiles over that beside them (and the same of the picture decoded in one piece), bytes of a file compressed in tiles.

| photograph | pixels | dB PSNR | seams | (one piece) | bytes | encode, s | decode, s |
|---|---|---:|---:|---:|---:|---:|---:|
{photographs}
| **worst** | | **{psnr_db:.1f}** | **{seam_ratio:.3f}** | | **{extra_bytes_percent:+.2f} %** | | |
| limit | | {limits[psnr_db]:g} | {limits[seam_ratio]:g} | | {limits[extra_bytes_percent]:+g} % | | |

(Seconds: in one piece / in tiles.)

## Memory and time by size

Peak of the process beyond the pixels that go in and come out, model and libraries included, with the defaults.

| megapixels | encode, MiB | decode, MiB | encode, s | decode, s | file |
|---:|---:|---:|---:|---:|---:|
{sizes}

{note}

Growth from the smallest to the largest: {memory_growth_mib:.0f} MiB (wanted: {limits[memory_growth_mib]:.0f} or less).
Time grows faster than the picture because every position attends to all semantic tokens, of which there is one for
64x64 pixels.
"""


def page(record: dict[str, Any]) -> str:
    rows = [
        f"| {p['name']} | {p['width']}x{p['height']} | {p['psnr_db']:.1f} | {p['seam_ratio']:.3f} "
        f"| {p['seam_ratio_of_one_piece']:.3f} | {p['extra_bytes_percent']:+.2f} % "
        f"| {p['seconds']['encode_whole']:.1f} / {p['seconds']['encode_tiled']:.1f} "
        f"| {p['seconds']['decode_whole']:.1f} / {p['seconds']['decode_tiled']:.1f} |"
        for p in record["photographs"]
    ]
    sizes = [
        f"| {s['megapixels']:g} | {s['encode_mib']:.0f} | {s['decode_mib']:.0f} | {s['encode_s']:.1f} "
        f"| {s['decode_s']:.1f} | {s['bytes'] / 1000:.0f} kB |"
        for s in record["sizes"]
    ]
    facts = record | record["worst"] | {"photographs": "\n".join(rows), "sizes": "\n".join(sizes)}
    return _PAGE.format(**facts, figure=FIGURE.name)


def draw(record: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (memory, agreement) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    sizes = [row["megapixels"] for row in record["sizes"]]
    for way, style in (("encode", "o-"), ("decode", "s--")):
        memory.plot(sizes, [row[f"{way}_mib"] for row in record["sizes"]], style, color="black", label=way)
    memory.set(xlabel="megapixels", ylabel="MiB beyond input and output", ylim=(0, None), xscale="log")
    memory.set_xticks(sizes, [f"{size:g}" for size in sizes])
    memory.set_title("Peak memory of the process")
    memory.legend(frameon=False)
    names = [Path(row["name"]).stem for row in record["photographs"]]
    agreement.barh(names, [row["psnr_db"] for row in record["photographs"]], color="0.6")
    agreement.axvline(LIMITS["psnr_db"], color="black", linestyle=":", label=f"{LIMITS['psnr_db']:g} dB")
    agreement.invert_yaxis()
    agreement.set(xlabel="dB PSNR")
    agreement.set_title("Tiles against one piece")
    agreement.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    raise SystemExit(main())
