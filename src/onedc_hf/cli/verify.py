"""`onedc verify`: Check .odc files completely, without rebuilding pictures.

Decodes every symbol, unpacks alpha and metadata, and compares checksum and checks, so that a file which passes is known
to decode, here and, with an exact model (format version 1), everywhere. Only the entropy model runs, not the generator.

onedc verify small/*.odc
"""

import argparse

from .files import Job, complain, find_inputs, is_odc, missing, read, run_all
from .models import add_model_arguments, load_pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="FILE", help=".odc files, glob patterns, folders, or -")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check every file; the exit code is 1 if one does not pass."""
    sources, problems = find_inputs(arguments.inputs, is_odc)
    for problem in problems:
        complain(problem)
    jobs = [Job(path, path, missing(path)) for path in sources]
    pipeline = load_pipeline(arguments) if any(not job.problem for job in jobs) else None

    def work(job: Job) -> str:
        assert pipeline is not None
        header = pipeline.read_symbols(read(job.source)).header
        return f"{job.source}: good ({header.width}x{header.height}, {header.size:,} bytes)"

    failed = run_all(jobs, work, "verify") + len(problems)
    return 1 if failed else 0
