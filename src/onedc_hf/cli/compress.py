"""`onedc compress`: Turn pictures into .odc files.

Without one of --quality, --target-bytes, --target-bpp and --z-only, the model's default quality is used.

  onedc compress photo.png                      writes photo.odc beside it
  onedc compress photo.png -o a.odc --quality 60
  onedc compress photos/ -o small/ --target-bpp 0.03
  onedc compress - < photo.jpg > photo.odc      standard input and output
"""

import argparse
import io
from typing import Any

from ..camera_files import CAMERA_SUFFIXES
from .files import (
    Job,
    add_output_arguments,
    complain,
    find_inputs,
    is_named_odc,
    is_picture,
    plan_as_asked,
    read,
    refuse_output_among,
    report,
    run_all,
    write_output,
)
from .models import add_lora_argument, add_model_arguments, load_pipeline
from .streams import STDIN
from .text import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="PICTURE", help="files, glob patterns, folders, or -")
    add_output_arguments(parser)
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--quality", type=_quality, metavar="0..100", help="from 0, smallest files, to 100, most faithful"
    )
    rate.add_argument("--target-bytes", type=_positive_int, metavar="N", help="at most so many bytes, and near it")
    rate.add_argument("--target-bpp", type=_positive_float, metavar="X", help="the same in bits per pixel")
    rate.add_argument("--z-only", action="store_true", help="the smallest file there is: semantics alone")
    parser.add_argument("--keep-metadata", action="store_true", help="keep EXIF, XMP and colour profile")
    parser.add_argument(
        "--effort", type=effort, default=0, metavar="N",
        help="steps of refinement: 5 to 20 save 5 to 10 %% of the bytes, or give that in quality; each takes "
        "one to three decodes' time, and with a target up to twice that",
    )  # fmt: skip
    parser.add_argument("--name-decoder", action="store_true", help="note which decoder was at hand (7 bytes)")
    add_model_arguments(parser)
    add_lora_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compress every input; one that fails is reported and skipped."""
    refuse_output_among(arguments.inputs, arguments.output, is_output=is_named_odc)
    sources, problems = find_inputs(arguments.inputs, is_picture)
    for problem in problems:
        complain(problem)
    sources.sort(key=lambda path: path.suffix.lower() in CAMERA_SUFFIXES)  # a JPEG beside a raw file has the name first
    jobs = plan_as_asked(arguments, sources, ".odc")
    pipeline = load_pipeline(arguments) if any(not job.problem for job in jobs) else None
    others = ("keep_metadata", "name_decoder", "effort")
    options = rate_options(arguments) | {name: getattr(arguments, name) for name in others if getattr(arguments, name)}
    sizes: list[tuple[int, int]] = []  # bytes, pixels

    def work(job: Job) -> str:
        from ..coding import parse_header

        assert pipeline is not None
        source = io.BytesIO(read(job.source)) if job.source == STDIN else str(job.source)
        data = pipeline.compress(source, **options)
        header = parse_header(data)
        if not write_output(job, data):
            return f"{job.target}: there already"
        sizes.append((len(data), header.width * header.height))
        return f"{job.source} -> {job.target}  {len(data):,} bytes  {header.bpp:.4f} bpp"

    failed = run_all(jobs, work, "compress") + len(problems)
    if len(sizes) > 1:
        total, pixels = (sum(column) for column in zip(*sizes, strict=True))
        report(f"{count(len(sizes), 'picture')}, {total:,} bytes, {8 * total / pixels:.4f} bpp")
    return 1 if failed else 0


def rate_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `OneDCPipeline.compress` that the command line sets."""
    names = ("quality", "target_bytes", "target_bpp", "z_only")
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def effort(text: str) -> int:
    """Argument type: steps of refinement."""
    value = int(text) if text.isdigit() else -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of steps, 0 for none, got {text}")
    return value


def _quality(text: str) -> int:
    value = int(text) if text.isdigit() else -1
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 100, got {text}")
    return value


def _positive_int(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of bytes, at least 1, got {text}")
    return value


def _positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1000:
        raise argparse.ArgumentTypeError(f"expected bits per pixel above 0, such as 0.05, got {text}")
    return value
