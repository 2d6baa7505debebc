"""`onedc env`: Show versions, processor and defaults: what a bug report needs."""

import argparse
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import __version__

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "huggingface-hub",
    "safetensors",
    "accelerate",
    "numpy",
    "pillow",
    "constriction",
    "peft",
    "datasets",
    "torchvision",  # where it does not fit torch, transformers and diffusers fail
)
# What changes numbers or speed; none of them holds a secret or a path.
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "PYTORCH_ENABLE_MPS_FALLBACK",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the facts. Nothing that is missing or broken stops it: that is what the report is for."""
    facts = collect()
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    return 0


def collect() -> dict[str, Any]:
    """Return the facts, in the order in which they are printed."""
    facts: dict[str, Any] = {
        "onedc-hf": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    facts.update(_torch_facts())
    facts.update({name: os.environ[name] for name in VARIABLES if name in os.environ})
    return facts


def _torch_facts() -> dict[str, Any]:
    try:
        import torch
    except Exception as error:  # a broken installation is worth reporting, not worth failing for
        return {"torch import": f"{type(error).__name__}: {error}"}
    facts: dict[str, Any] = {
        "torch threads": torch.get_num_threads(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": torch.backends.mkldnn.is_available(),
        "default dtype": _default_dtype(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "not available",
        "mps": "available" if torch.backends.mps.is_available() else "not available",
    }
    return facts


def _default_dtype() -> str:
    try:
        from ..precision import default_dtype

        return str(default_dtype()).removeprefix("torch.")
    except Exception as error:
        return f"unknown ({type(error).__name__}: {error})"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor() or platform.machine()
