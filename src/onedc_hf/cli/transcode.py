"""`onedc transcode`: Turn files of the authors' program (.bin) into .odc files, without going through pixels.

onedc transcode old.bin -o new.odc --model FOLDER      FOLDER was made by `onedc convert` from the same checkpoint
"""

import argparse

from .files import (
    Job,
    add_output_arguments,
    complain,
    find_inputs,
    is_named_odc,
    plan_as_asked,
    read,
    refuse_output_among,
    run_all,
    write_output,
)
from .models import add_model_arguments, load_pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="FILE", help=".bin files, glob patterns, folders")
    add_output_arguments(parser)
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Transcode every input; one that fails is reported and skipped."""
    refuse_output_among(arguments.inputs, arguments.output, is_output=is_named_odc)
    sources, problems = find_inputs(arguments.inputs, lambda path: path.suffix.lower() == ".bin")
    for problem in problems:
        complain(problem)
    jobs = plan_as_asked(arguments, sources, ".odc")
    pipeline = load_pipeline(arguments) if any(not job.problem for job in jobs) else None

    def work(job: Job) -> str:
        assert pipeline is not None
        old = read(job.source)
        new = pipeline.transcode(old)
        if not write_output(job, new):
            return f"{job.target}: there already"
        return f"{job.source} -> {job.target}  {len(old):,} -> {len(new):,} bytes"

    return 1 if run_all(jobs, work, "transcode") + len(problems) else 0
