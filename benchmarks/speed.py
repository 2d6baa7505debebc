"""How long compressing and decompressing take, and how much memory: 768x512 on two threads, warm.

    python benchmarks/speed.py                                   the model in the box
    python benchmarks/speed.py --model FOLDER                    another model
    python benchmarks/speed.py --config box-model                that architecture, with random weights

Each setting is measured in a process of its own: as the processor is, and limited to AVX2, both in the dtype the
pipeline chooses there. Times are medians of `--repeats` after a warm-up; memory is the peak of the whole process,
imports and weights included. Writes JSON with the facts of the machine and the commit, and prints a table.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onedc_hf import OneDCPipeline

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "as it is": {},
    "limited to AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}
# What the box model was designed to keep to, in the first setting.
LIMITS = {"encode_s": 0.35, "decode_s": 0.35, "peak_mib": 900.0}


def main() -> int:
    arguments = parse_arguments()
    if arguments.worker:
        print(json.dumps(measure(arguments)))
        return 0
    facts = machine()  # before our own load counts
    results = {name: run_worker(environment) for name, environment in SETTINGS.items()}
    record = {
        "benchmark": "speed",
        "model": arguments.model or arguments.config or "box",
        "weights": "random" if arguments.config else "trained",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "machine": facts,
        "limits": LIMITS,
        "settings": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print_table(record)
    over = [name for name, limit in LIMITS.items() if results["as it is"][name] > limit]
    if over and arguments.check:
        print(f"Over the limit: {', '.join(over)}", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", metavar="ID", help="folder or Hub id (default: the model in the box)")
    source.add_argument("--config", metavar="NAME", help="model config of the package, to build with random weights")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quality", type=int, help="0 to 100 (default: the pipeline's)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "speed.json")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a limit is exceeded")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_worker(environment: dict[str, str]) -> dict[str, Any]:
    """Measure in a fresh process: instruction sets are chosen once, and a peak of memory never goes down."""
    command = [sys.executable, __file__, *sys.argv[1:], "--worker"]
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
    return {"environment": environment, **json.loads(done.stdout.splitlines()[-1])}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one setting in this process."""
    import torch

    from onedc_hf.evaluation.cost import peak_mib, photograph, time_pipeline

    torch.set_num_threads(arguments.threads)
    picture = photograph(arguments.width, arguments.height)
    return time_pipeline(load(arguments), picture, arguments.repeats, arguments.quality) | {"peak_mib": peak_mib()}


def load(arguments: argparse.Namespace) -> "OneDCPipeline":
    """Load the pipeline, or build it with random weights and load that, so that both take the same way."""
    from tempfile import TemporaryDirectory

    import torch

    from onedc_hf import OneDCPipeline

    if not arguments.config:
        return OneDCPipeline.from_pretrained(arguments.model)
    from onedc_hf.training.components import make_model, save_pipeline

    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        save_pipeline(make_model(arguments.config), folder)
        return OneDCPipeline.from_pretrained(folder)


def machine() -> dict[str, Any]:
    """Describe the machine and the libraries that matter for speed."""
    from importlib.metadata import version

    facts = {"system": platform.system(), "processor": processor(), "cores": os.cpu_count()}
    facts["load_average"] = os.getloadavg()[0]  # above the threads used, somebody else was on the machine too
    return {**facts, "python": platform.python_version(), "torch": version("torch"), "diffusers": version("diffusers")}


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def print_table(record: dict[str, Any]) -> None:
    facts = record["machine"]
    print(f"{record['model']} ({record['weights']} weights), {facts['processor']}, torch {facts['torch']}")
    if facts["load_average"] > 0.5:
        print(f"The machine was busy before (load {facts['load_average']:.1f}): these times are too long.")
    print(f"{'setting':<18}{'dtype':<10}{'encode s':>10}{'decode s':>10}{'peak MiB':>10}{'bytes':>10}")
    for name, row in record["settings"].items():
        times = f"{row['encode_s']:>10.3f}{row['decode_s']:>10.3f}{row['peak_mib']:>10.0f}{row['bytes']:>10,}"
        print(f"{name:<18}{row['dtype']:<10}{times}")
    print(f"{'limit':<28}" + "".join(f"{limit:>10.3g}" for limit in LIMITS.values()))


if __name__ == "__main__":
    sys.exit(main())
