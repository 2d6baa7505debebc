"""`--model`, `--device`, `--dtype`, and the pipeline they name."""

import argparse
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..coding.limits import check_limit
from ..errors import ModelError, OneDCError
from .files import UsageError

if TYPE_CHECKING:
    import torch

    from ..pipeline import OneDCPipeline

__all__ = ["add_lora_argument", "add_model_arguments", "load_model", "load_pipeline"]

DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a model and how it runs."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", metavar="FOLDER|REPO", help="a folder or a repository on the Hub (default: the model in the box)"
    )
    group.add_argument("--model-revision", metavar="REV", help="branch, tag or commit of a repository")
    group.add_argument("--model-variant", metavar="NAME", help="of the weights' files: fp16 for model.fp16.safetensors")
    group.add_argument(
        "--max-pixels", type=int, metavar="N", help="refuse pictures of more pixels (default: 268,435,456; 0: no limit)"
    )
    group.add_argument(
        "--tile-size",
        type=int,
        metavar="N",
        help="work in tiles of NxN pixels, for less memory (default: 1024 from 4 megapixels on; 0: never)",
    )
    group.add_argument("--device", default="cpu", help="where it runs: cpu, cuda, cuda:1, mps (default: cpu)")
    group.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="number format (default: auto, what suits the device)"
    )


def add_lora_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--lora`."""
    parser.add_argument(
        "--lora", metavar="FOLDER|REPO", help="a LoRA adapter for the model: a folder, a file, or a repository (peft)"
    )


def load_pipeline(arguments: argparse.Namespace) -> "OneDCPipeline":
    """Load what `add_model_arguments` and `add_lora_argument` asked for."""
    try:
        options: dict[str, Any] = {"revision": arguments.model_revision, "variant": arguments.model_variant}
        options = {name: value for name, value in options.items() if value is not None}
        if (arguments.dtype, arguments.device) != ("auto", "cpu"):
            options["dtype"] = _dtype(arguments)
        pipeline = load_model(arguments.model, **options)
        if getattr(arguments, "lora", None) is not None:
            pipeline.load_lora_weights(arguments.lora)
        if arguments.max_pixels is not None:
            check_limit(arguments.max_pixels)
            pipeline.max_pixels = arguments.max_pixels or None
        _set_tiling(pipeline, arguments.tile_size)
        return pipeline if arguments.device == "cpu" else pipeline.to(arguments.device)
    except OneDCError:
        raise
    except (ValueError, RuntimeError, AssertionError) as error:  # no valid repository id, no such device, no CUDA, ...
        model = "" if arguments.model is None else f"--model {arguments.model} "
        raise ModelError(f"{model}--device {arguments.device}: {error}") from error


def _dtype(arguments: argparse.Namespace) -> "torch.dtype":
    import torch

    from ..precision import default_dtype

    return default_dtype(arguments.device) if arguments.dtype == "auto" else getattr(torch, arguments.dtype)


def _set_tiling(pipeline: "OneDCPipeline", tile_size: int | None) -> None:
    if tile_size == 0:
        pipeline.disable_tiling()
    elif tile_size is not None:
        try:
            pipeline.enable_tiling(tile_size, overlap=min(192, max(64, tile_size - 64)))
        except ValueError as error:
            raise UsageError(f"--tile-size {tile_size}: {error}") from error


def load_model(source: str | None, **options: Any) -> "OneDCPipeline":
    """Load a pipeline without progress bars. torch is imported here, and no earlier."""
    from ..pipeline import OneDCPipeline

    for library in ("diffusers", "transformers"):  # a bar of its own for three small files says nothing
        if library in sys.modules:
            import_module(f"{library}.utils.logging").disable_progress_bar()
    return OneDCPipeline.from_pretrained(source, **options)
