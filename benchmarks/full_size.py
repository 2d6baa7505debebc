"""The full-size model end to end, with seeded random weights in files that look like the authors'.

    python benchmarks/full_size.py FOLDER                 needs about 16 GB of disk in FOLDER, and minutes

Writes checkpoint files of the complete key inventory, converts them, and in a process for each number format loads the
result, compresses a 512x512 photograph and decompresses it. Another process decodes a 768x768 z-only file, given the
file alone. Seconds and the peak of memory of every step go to JSON.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

ROOT = Path(__file__).parents[1]
KEYS = ROOT / "tests" / "fixtures" / "checkpoint_keys"
CONVERT_LIMIT_GIB = 6.0
DTYPES = ("float32", "bfloat16")
Z_ONLY_LIMIT_BYTES = 266  # of a 768x768 picture: 252 bytes of codes and at most 14 around them
Z_ONLY_FILE = "z_only.odc"
STEPS = ("write", "convert", *DTYPES, "z_only")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder for checkpoint and result; emptied afterwards")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "full_size.json")
    parser.add_argument("--step", choices=STEPS, help="only this one, printed as JSON; those before it must have run")
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(step(arguments.step, arguments.folder, arguments.threads)))
        return 0
    arguments.folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "benchmark": "full_size",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "weights": "random, seeded",
        "convert_limit_gib": CONVERT_LIMIT_GIB,
        "z_only_limit_bytes": Z_ONLY_LIMIT_BYTES,
    }
    for name in STEPS:
        options = ["--threads", str(arguments.threads), "--step", name]
        done = subprocess.run(
            [sys.executable, __file__, str(arguments.folder), *options], stdout=subprocess.PIPE, text=True, check=True
        )
        record[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, record[name], flush=True)
    for name in ("checkpoint", "converted"):
        shutil.rmtree(arguments.folder / name)
    (arguments.folder / Z_ONLY_FILE).unlink()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    small = record["convert"]["peak_gib"] <= CONVERT_LIMIT_GIB and record["z_only"]["bytes"] <= Z_ONLY_LIMIT_BYTES
    return 0 if small else 1


def step(name: str, folder: Path, threads: int) -> dict[str, Any]:
    """One part, in a process of its own, so that its peak of memory is its own."""
    import torch

    torch.set_num_threads(threads)
    start = time.perf_counter()
    result: dict[str, Any] = {}
    if name == "write":
        write_checkpoint(folder / "checkpoint")
    elif name == "convert":
        from onedc_hf.conversion import convert_checkpoint

        source = folder / "checkpoint"
        made = convert_checkpoint(
            source / "model_1.safetensors", source / "model.safetensors", source / "vae", folder / "converted"
        )
        result["model_id"] = made["model_id"]
    elif name == "z_only":
        result = read_z_only(folder)
    else:
        result = round_trip(folder, getattr(torch, name))
    result["threads"] = threads
    result["seconds"] = round(time.perf_counter() - start, 1)
    result["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return result


def write_checkpoint(folder: Path) -> None:
    """Files with every tensor of the inventory: seeded noise of variance 1 / fan-in, norms of scale one."""
    import torch
    from diffusers import AutoencoderKL
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for inventory, name in (("codec", "model_1"), ("generator_lora", "model"), ("vae_sd21", "vae")):
        generator = torch.Generator().manual_seed(0)
        tensors = {}
        for key, (shape, _) in json.loads((KEYS / f"{inventory}.json").read_text()).items():
            if len(shape) > 1:
                fan = 1
                for side in shape[1:]:
                    fan *= side
                tensors[key] = torch.randn(shape, generator=generator) * fan**-0.5
            else:
                tensors[key] = torch.ones(shape) if key.endswith("weight") else torch.zeros(shape)
        if name != "vae":
            save_file(tensors, folder / f"{name}.safetensors")
            continue
        options: dict[str, Any] = {
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
        }
        vae = AutoencoderKL(**options)
        vae.load_state_dict(tensors)
        vae.save_pretrained(folder / "vae")


def round_trip(folder: Path, dtype: Any) -> dict[str, Any]:
    """Compress and decompress a 512x512 photograph; leave a z-only file of a 768x768 one behind."""
    import numpy as np

    from onedc_hf import OneDCPipeline

    start = time.perf_counter()
    pipe = OneDCPipeline.from_pretrained(folder / "converted", dtype=dtype)
    loaded = time.perf_counter()
    data = pipe.compress(photograph(512))
    encoded = time.perf_counter()
    rebuilt = np.asarray(pipe.decompress(data))
    decoded = time.perf_counter()
    if not (folder / Z_ONLY_FILE).exists():
        (folder / Z_ONLY_FILE).write_bytes(pipe.compress(photograph(768), z_only=True))
    return {
        "load_s": round(loaded - start, 1),
        "encode_s": round(encoded - loaded, 1),
        "decode_s": round(decoded - encoded, 1),
        "bytes": len(data),
        "rebuilt": list(rebuilt.shape),
    }


def read_z_only(folder: Path) -> dict[str, Any]:
    """Decode the z-only file that another process wrote, in float32."""
    import numpy as np
    import torch

    from onedc_hf import OneDCPipeline

    pipe = OneDCPipeline.from_pretrained(folder / "converted", dtype=torch.float32)
    data = (folder / Z_ONLY_FILE).read_bytes()
    start = time.perf_counter()
    rebuilt = np.asarray(pipe.decompress(data))
    return {
        "bytes": len(data),
        "bpp": round(8 * len(data) / (rebuilt.shape[0] * rebuilt.shape[1]), 5),
        "decode_s": round(time.perf_counter() - start, 1),
        "rebuilt": list(rebuilt.shape),
    }


def photograph(side: int) -> "Image.Image":
    """One of the package's photographs, squeezed to a square."""
    from PIL import Image

    source = files("onedc_hf") / "box" / "pictures" / "roses.jpg"
    with source.open("rb") as file, Image.open(file) as photo:
        return photo.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    raise SystemExit(main())
