"""`onedc decompress`: Rebuild pictures from .odc files.

onedc decompress photo.odc                    writes photo.png beside it
onedc decompress photo.odc -o photo.webp      other formats by the suffix (WebP lossless, JPEG and AVIF at quality 95)
onedc decompress small/ -o rebuilt/
onedc decompress - < photo.odc > photo.png    standard input and output (PNG)
"""

import argparse
from pathlib import Path

from ..coding import parse_header
from ..errors import BitstreamError, OneDCError
from ..picture_files import check_side, encode_picture, picture_format
from .files import (
    Job,
    UsageError,
    add_output_arguments,
    complain,
    find_inputs,
    is_odc,
    plan_as_asked,
    read,
    refuse_output_among,
    run_all,
    write_output,
)
from .models import add_lora_argument, add_model_arguments, load_pipeline
from .streams import STDOUT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="FILE", help=".odc files, glob patterns, folders, or -")
    add_output_arguments(parser)
    parser.add_argument(
        "--partial", action="store_true", help="also rebuild what arrived of files that were cut (unverified)"
    )
    parser.add_argument("--preview", action="store_true", help="stop after the hyper-latent: rough, but quick")
    parser.add_argument(
        "--no-provenance", action="store_true", help="leave out the note (XMP) that detail was synthesised"
    )
    add_model_arguments(parser)
    add_lora_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Decompress every input; one that fails is reported and skipped."""
    refuse_output_among(arguments.inputs, arguments.output, is_output=_is_named_picture)
    sources, problems = find_inputs(arguments.inputs, is_odc)
    for problem in problems:
        complain(problem)
    jobs = plan_as_asked(arguments, sources, ".png")
    for job in jobs:
        try:
            picture_format(_named(job.target))  # a suffix that nobody knows is found out before the work is done
        except ValueError as error:
            raise UsageError(str(error)) from None
    pipeline = load_pipeline(arguments) if any(not job.problem for job in jobs) else None

    def work(job: Job) -> str:
        assert pipeline is not None
        data = read(job.source)
        _check_side(data, _named(job.target))
        picture = pipeline.decompress(data, allow_partial=arguments.partial, preview=arguments.preview)
        if not write_output(job, encode_picture(picture, _named(job.target), provenance=not arguments.no_provenance)):
            return f"{job.target}: there already"
        return f"{job.source} -> {job.target}  {picture.width}x{picture.height}"

    failed = run_all(jobs, work, "decompress") + len(problems)
    return 1 if failed else 0


def _named(target: Path) -> Path:
    """The output's name, as far as its suffix counts: standard output has none, and gets what a file gets."""
    return Path("stdout.png") if target == STDOUT else target


def _check_side(data: bytes, target: Path) -> None:
    """Refuses a picture that its output cannot hold before the minutes of rebuilding it."""
    try:
        header = parse_header(data)
    except BitstreamError:
        return  # decoding says what is wrong; the authors' files have their size elsewhere
    try:
        check_side(target, header.width, header.height)
    except ValueError as error:
        raise OneDCError(str(error)) from None


def _is_named_picture(path: Path) -> bool:
    try:
        picture_format(path)
    except ValueError:
        return False
    return True
