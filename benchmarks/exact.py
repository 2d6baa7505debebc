"""What the exact entropy path costs: bytes against the float path, and seconds by kernel.

    python benchmarks/exact.py PICTURES --float-model FOLDER
    python benchmarks/exact.py PICTURES                          against the floats that the integers stand for

Bytes are ideal code lengths by the model's own tables, of the same latents, at several qualities. The float model is
the one that was trained; without it, the one that the integers of the exact model stand for. Seconds are medians of
warm runs of hyper-synthesis and the four passes, without the range coder, and of a whole decoding. Writes JSON.
"""

import argparse
import json
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onedc_hf import OneDCPipeline

ROOT = Path(__file__).parents[1]
QUALITIES = (0, 30, 60, 100)
SIZES = ((512, 768), (2048, 2048))
LIMIT_PERCENT = 1.0


def bytes_of(pipe: "OneDCPipeline", y: Any, codes: Any, exact: Any, floats: Any, row: int) -> tuple[float, float]:
    """Return bytes of one latent by the exact and by the float entropy model."""
    import torch

    from onedc_hf.coding import clamp_symbols, ideal_bits
    from onedc_hf.models.context import fold

    model, found = pipe._symbols(), [0.0, 0.0]

    def code_unit(unit: Any) -> Any:
        symbols = unit.quantise(y)
        index = unit.scale_index.numpy()
        found[0] += ideal_bits(clamp_symbols(symbols.numpy()), index, model.tables, model.skip_index) / 8
        return symbols

    def code_pass(step: Any) -> Any:
        symbols = torch.round((y - step.means) * step.gain)
        index = fold(floats.scale_index(step.scales, row), step.index).numpy()
        folded = clamp_symbols(fold(symbols, step.index).numpy())
        found[1] += ideal_bits(folded, index, model.tables, model.skip_index) / 8
        return symbols

    exact.code(exact.hyper_synthesis(codes), exact.gain(row), code_unit)
    floats.run_passes(floats.hyper_synthesis(codes), floats.gain(row), code_pass)
    return found[0], found[1]


def seconds(exact: Any, size: tuple[int, int], kernel: str, repeats: int) -> float:
    """Return the median time of the entropy path on one side, for a random latent."""
    import torch

    import onedc_hf.models.exact as module

    usual, module.choose_kernel = module.choose_kernel, lambda device: kernel  # type: ignore[assignment]
    try:
        rows, columns = size[0] // 64, size[1] // 64
        generator = torch.Generator().manual_seed(0)
        codes = torch.randint(-2, 2, (1, len(exact.fsq_levels), rows, columns), generator=generator) / 2
        y = torch.randn(1, exact.gain_steps.shape[1], 4 * rows, 4 * columns, generator=generator)
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            exact.code(exact.hyper_synthesis(codes), exact.gain(50), lambda unit: unit.quantise(y))
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])
    finally:
        module.choose_kernel = usual


def decode_seconds(pipe: "OneDCPipeline", picture: Path, size: tuple[int, int], repeats: int) -> float:
    """Return the median time of decompressing a picture that was scaled to a size."""
    from PIL import Image

    with Image.open(picture) as photo:
        data = pipe.compress(photo.convert("RGB").resize((size[1], size[0]), Image.Resampling.LANCZOS))
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        pipe.decompress(data)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="pictures")
    parser.add_argument("--model", metavar="ID", help="folder or Hub id (default: the model in the box)")
    parser.add_argument("--float-model", metavar="ID", help="the same model before it was made exact")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-seconds", action="store_true", help="bytes alone, on a busy machine")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "exact.json")
    arguments = parser.parse_args()

    import torch

    from onedc_hf import OneDCPipeline
    from onedc_hf.evaluation.originals import find_pictures
    from onedc_hf.models.quantize import dequantise_entropy
    from onedc_hf.pictures import load_picture

    torch.set_num_threads(arguments.threads)
    pipe = OneDCPipeline.from_pretrained(arguments.model)
    exact = pipe._entropy
    floats = dequantise_entropy(exact)
    if arguments.float_model:
        floats = OneDCPipeline.from_pretrained(arguments.float_model, dtype=torch.float32).codec.float_entropy
    totals = {quality: [0.0, 0.0] for quality in QUALITIES}
    with torch.inference_mode():
        for path in find_pictures(arguments.folder):
            y, codes = pipe._analyse_networks(load_picture(path))
            for quality in QUALITIES:
                pair = bytes_of(pipe, y.float(), codes, exact, floats, pipe._coder.row(quality))
                totals[quality] = [total + one for total, one in zip(totals[quality], pair, strict=True)]
        cost = {str(q): round(100 * (exact_ / float_ - 1), 3) for q, (exact_, float_) in totals.items()}
        record: dict[str, Any] = {
            "benchmark": "exact",
            "model_id": pipe.model_id,
            "float_model": "as trained" if arguments.float_model else "what the integers stand for",
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "cost_percent_by_quality": cost,
            "limit_percent": LIMIT_PERCENT,
        }
        print("quality -> bytes of the exact path over the float path, in per cent:", cost)
        if not arguments.no_seconds:
            record["threads"] = arguments.threads
            record["seconds"] = {
                f"{columns}x{rows} {kernel}": round(seconds(exact, (rows, columns), kernel, arguments.repeats), 4)
                for rows, columns in SIZES
                for kernel in ("reference", "split")
            }
            first = find_pictures(arguments.folder)[0]
            record["decode_seconds"], record["share_of_decode_percent"] = {}, {}
            for rows, columns in SIZES:
                whole = decode_seconds(pipe, first, (rows, columns), arguments.repeats)
                record["decode_seconds"][f"{columns}x{rows}"] = round(whole, 4)
                for kernel in ("reference", "split"):
                    name = f"{columns}x{rows} {kernel}"
                    record["share_of_decode_percent"][name] = round(100 * record["seconds"][name] / whole, 1)
            print("seconds of the entropy path:", record["seconds"])
            print("seconds to decode:", record["decode_seconds"])
            print("share of the entropy path, in per cent:", record["share_of_decode_percent"])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 1 if max(cost.values()) > LIMIT_PERCENT else 0


if __name__ == "__main__":
    sys.exit(main())
