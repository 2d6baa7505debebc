"""`onedc report`: Make a results page of a run of `onedc evaluate`, and entries for a model's page on the Hub.

onedc report runs/kodak --page docs/results/box.md
onedc report runs/kodak --model-folder my-model --benchmark ORG/kodak
"""

import argparse
from pathlib import Path

from .files import UsageError, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="--out of `onedc evaluate`")
    parser.add_argument("--page", type=Path, metavar="FILE", help="Markdown page to write, with figures/ beside it")
    parser.add_argument(
        "--contact-sheets",
        nargs="+",
        default=[],
        metavar="BPP",
        help="rates (or z-only) at which --page shows every picture, in real pixels",
    )
    parser.add_argument("--readme", type=Path, metavar="FILE", help="put the table between the marks in this file")
    parser.add_argument("--settings", nargs="+", metavar="BPP", help="rates in --readme's table (default: all)")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="metrics in --readme's table (default: all)")
    parser.add_argument(
        "--model-folder",
        type=Path,
        metavar="FOLDER",
        help="the model, as it is pushed: its card gets a model-index",
    )
    parser.add_argument(
        "--benchmark", metavar="REPO", help="with --model-folder: data set with our eval.yaml, for .eval_results/*.yaml"
    )
    parser.add_argument(
        "--cost", action="store_true", help="measure seconds and memory now, on a quiet machine (for --page)"
    )
    parser.add_argument("--model", metavar="FOLDER|REPO", help="for --cost (default: the model in the box)")
    parser.add_argument("--device", default="cpu", help="for --cost")
    parser.add_argument("--threads", type=int, default=2, help="for --cost")
    parser.set_defaults(parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Write what was asked for."""
    if arguments.benchmark is not None and arguments.model_folder is None:
        raise UsageError("--benchmark needs --model-folder")
    if arguments.page is None and arguments.readme is None and arguments.model_folder is None:
        raise UsageError("nothing to do: give --page, --readme or --model-folder")
    if arguments.contact_sheets and arguments.page is None:
        raise UsageError("--contact-sheets needs --page")
    from ..evaluation.cost import measure_cost
    from ..evaluation.model_page import eval_results, task_values, write_eval_results, write_model_index
    from ..evaluation.page import write_page
    from ..evaluation.run import load_results
    from ..evaluation.tables import insert, markdown

    results = load_results(arguments.run_folder / "results.json")
    if arguments.benchmark is not None:
        eval_results(results, arguments.benchmark, arguments.model_folder)  # refuses before anything is written
    if arguments.page is not None:
        cost = None
        if arguments.cost:
            if arguments.model is None and results["model"]["name"] != "box":
                raise UsageError(f"--cost needs --model: the results are of {results['model']['name']}, not of the box")
            cost = measure_cost(arguments.model, device=arguments.device, threads=arguments.threads)
        for path in write_page(arguments.run_folder, results, arguments.page, cost, arguments.contact_sheets):
            say(str(path))
    if arguments.readme is not None:
        table = markdown(results, metrics=arguments.metrics, settings=arguments.settings)
        arguments.readme.write_text(insert(arguments.readme.read_text(encoding="utf-8"), table), encoding="utf-8")
        say(str(arguments.readme))
    if arguments.model_folder is not None:
        say(str(write_model_index(results, arguments.model_folder)))
    if arguments.benchmark is not None and arguments.model_folder is not None:
        say(str(write_eval_results(results, arguments.benchmark, arguments.model_folder)))
        for task, reason in task_values(results)[1].items():
            say(f"left out: {task}: {reason}")
    return 0
