"""What compressing and decompressing cost: median seconds, warm, and the peak of memory of the whole process.

    python -m onedc_hf.evaluation.cost --threads 2               the model in the box; prints JSON

Memory never goes down again within a process, so each measurement runs in one of its own: `measure_cost`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..errors import OneDCError

if TYPE_CHECKING:
    from PIL import Image

    from ..pipeline import OneDCPipeline

__all__ = ["measure_cost", "peak_mib", "time_pipeline"]

WARM_UP = 2  # runs that warm caches and allocators up


def measure_cost(
    model: str | None = None,
    *,
    device: str = "cpu",
    threads: int = 2,
    repeats: int = 7,
    size: tuple[int, int] = (768, 512),
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Time a model in a fresh process.

    Args:
        model (`str`, *optional*): folder or Hub id; None: the model in the box.
        device (`str`): where it runs.
        threads (`int`): CPU threads.
        repeats (`int`): runs of which the median counts, after a warm-up.
        size (`tuple[int, int]`): width and height of the picture in pixels.
        environment (`Mapping`, *optional*): variables to add, such as a limit of the instruction set.

    Returns:
        `dict`: see `time_pipeline`, and `peak_mib`.

    Raises:
        `OneDCError`: it could not be loaded or run.
    """
    command = [sys.executable, "-m", __name__, "--device", device, "--threads", str(threads), "--repeats", str(repeats)]
    command += ["--width", str(size[0]), "--height", str(size[1]), *(["--model", model] if model else [])]
    done = subprocess.run(command, env={**os.environ, **(environment or {})}, capture_output=True, text=True)
    if done.returncode != 0:
        raise OneDCError(f"{model or 'the model in the box'} could not be timed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def time_pipeline(
    pipe: "OneDCPipeline", picture: "Image.Image", repeats: int, quality: int | None = None
) -> dict[str, Any]:
    """Seconds of `compress` and `decompress` of one picture in this process: medians, and every run."""
    import torch

    encode, decode, data = [], [], b""
    for turn in range(repeats + WARM_UP):
        start = time.perf_counter()
        data = pipe.compress(picture, quality=quality)
        middle = time.perf_counter()
        pipe.decompress(data)
        if turn >= WARM_UP:
            encode.append(middle - start)
            decode.append(time.perf_counter() - middle)
    return {
        "width": picture.width,
        "height": picture.height,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "device": str(pipe.device),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bytes": len(data),
        "encode_s": statistics.median(encode),
        "decode_s": statistics.median(decode),
        "encode_s_all": encode,
        "decode_s_all": decode,
    }


def photograph(width: int, height: int) -> "Image.Image":
    """One of the package's photographs, brought to a size."""
    from PIL import Image

    folder = files("onedc_hf") / "box" / "pictures"
    source = min((path for path in folder.iterdir() if path.name.endswith(".jpg")), key=lambda path: path.name)
    with source.open("rb") as file, Image.open(file) as photo:
        return photo.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def peak_mib() -> float | None:
    """The largest resident size this process has had, in MiB; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure in this process and print JSON."""
    parser = argparse.ArgumentParser(prog=f"python -m {__name__}", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="folder or Hub id (default: the model in the box)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--height", type=int, default=512)
    arguments = parser.parse_args(argv)
    import torch

    from ..pipeline import OneDCPipeline

    torch.set_num_threads(arguments.threads)
    pipe = OneDCPipeline.from_pretrained(arguments.model)
    if arguments.device != "cpu":
        pipe = pipe.to(arguments.device)
    found = time_pipeline(pipe, photograph(arguments.width, arguments.height), arguments.repeats)
    print(json.dumps({**found, "peak_mib": peak_mib()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
