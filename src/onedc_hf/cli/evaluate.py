"""`onedc evaluate`: Measure a model, and classical codecs at the same bytes, on a set of pictures.

Every rate is that of a real file that was really decoded. A second run with the same --out continues. Writes
results.json, data/*.parquet (pictures for a data set viewer), crops.webp and the files themselves, and prints a table.
`onedc report` makes a page of it.

onedc evaluate --dataset photographs --out runs/photographs
onedc evaluate --model org/onedc --dataset kodak --data-dir kodak --rates 0.03 0.1 --metrics psnr --out runs/kodak
"""

import argparse
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compress import effort
from .files import UsageError, complain, say
from .models import add_lora_argument, add_model_arguments, load_pipeline

if TYPE_CHECKING:
    from ..evaluation.originals import Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    source = parser.add_argument_group("pictures")
    source.add_argument(
        "--dataset", required=True, metavar="NAME|REPO|FOLDER",
        help="kodak, clic2020, div2k or tecnick, a data set on the Hub, or a folder of pictures",
    )  # fmt: skip
    source.add_argument("--data-dir", metavar="FOLDER", help="a benchmark's folder here, or a folder in the repository")
    source.add_argument("--split", help="of a data set on the Hub (default: test)")
    source.add_argument("--image-column", metavar="NAME", help="of a data set on the Hub (default: image)")
    source.add_argument("--revision", help="commit, tag or branch of a data set on the Hub")
    source.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--rates", type=float, nargs="+", metavar="BPP",
        help="target rates, beside z-only (default: 0.01 0.02 0.03 0.067 0.1 0.15 0.25)",
    )  # fmt: skip
    what.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="psnr ms_ssim st_lpips_vgg st_lpips_alex ssimulacra2 class_agreement_lite0 frechet_lite0 (the default: "
        "all of these, which need no download); lpips_alex lpips_vgg dists fid kid",
    )
    what.add_argument(
        "--codecs", nargs="*", metavar="NAME",
        help="jpeg webp avif jxl (the default: those at hand) avif-half compressai:MODEL; none: OneDC alone",
    )  # fmt: skip
    what.add_argument("--effort", type=effort, default=0, metavar="N", help="steps of refinement (see onedc compress)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="made, or continued")
    parser.add_argument(
        "--reuse", type=Path, metavar="RESULTS", help="an earlier results.json: other codecs' files that come out the "
        "same again are not measured again",
    )  # fmt: skip
    add_model_arguments(parser)
    add_lora_argument(parser)
    # Of several processes each takes a device of its own.
    parser.set_defaults(parser=parser, device=None)


def run(arguments: argparse.Namespace) -> int:
    """Measure this process's share; the main process gathers. The exit code is 1 if a picture failed."""
    from accelerate import PartialState
    from tqdm import tqdm

    from ..evaluation.benchmarks import benchmarks
    from ..evaluation.classical import available_codecs
    from ..evaluation.metrics import OFFLINE_METRICS
    from ..evaluation.originals import open_source
    from ..evaluation.rows import RowStore
    from ..evaluation.run import DEFAULT_CODECS, RATES, Plan, collect, load_results, measure, weights_digest

    codecs = [codec for codec in DEFAULT_CODECS if codec in available_codecs()]
    try:
        plan = Plan(
            rates=tuple(dict.fromkeys(arguments.rates or RATES)),
            metrics=tuple(dict.fromkeys(arguments.metrics or OFFLINE_METRICS)),
            codecs=tuple(dict.fromkeys(codecs if arguments.codecs is None else arguments.codecs)),
            effort=arguments.effort,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    pictures = arguments.data_dir  # of a benchmark
    if arguments.dataset not in benchmarks() and Path(arguments.dataset).is_dir():
        pictures = Path(arguments.dataset, arguments.data_dir or "")
    if pictures is not None and arguments.out.resolve() == Path(pictures).resolve():
        raise UsageError(f"--out {arguments.out} is the folder of the pictures: results would be taken for pictures")
    source = open_source(
        arguments.dataset,
        data_dir=arguments.data_dir,
        split=arguments.split,
        image_column=arguments.image_column,
        revision=arguments.revision,
        limit=arguments.limit,
    )
    # Shares differ in length, and the first to be done waits for the last one.
    state = PartialState(cpu=_on_cpu(arguments.device), timeout=timedelta(days=30))
    if arguments.device is None or state.num_processes > 1:
        arguments.device = str(state.device) if state.num_processes > 1 else "cpu"  # each process its own
    pipeline = load_pipeline(arguments)
    share = (state.process_index, state.num_processes)
    store = RowStore(arguments.out, weights_digest(pipeline), state.process_index, plan.effort)
    if arguments.reuse is not None:
        store.borrow(load_results(arguments.reuse))
    mine = len(source.pictures[share[0] :: share[1]]) * len(plan.settings(pipeline))
    with tqdm(total=mine, unit="file", disable=not state.is_main_process or None) as bar:

        def progress(line: str) -> None:
            if line.startswith("failed: "):
                bar.write(f"onedc: {line}", file=sys.stderr)
                bar.update()
            else:
                bar.set_postfix_str(line.split(":")[0], refresh=False)
                bar.update()

        measure(pipeline, source, plan, store, share=share, progress=progress)
    state.wait_for_everyone()
    if not state.is_main_process:
        return 0

    def say_set(line: str) -> None:
        if line.startswith("no "):
            complain(line)
        elif sys.stderr.isatty():
            print(line, file=sys.stderr)

    results = collect(pipeline, _name(arguments.model), source, plan, store, say_set, _options(arguments))
    return _finish(arguments, results, source)


def _finish(arguments: argparse.Namespace, results: dict[str, Any], source: "Source") -> int:
    from ..evaluation.crops import crop_sheet, spread
    from ..evaluation.gallery import save_gallery
    from ..evaluation.run import save_results
    from ..evaluation.tables import markdown

    save_results(results, arguments.out / "results.json")
    if results["rows"]:
        say(markdown(results))
        setting = results["settings"][len(results["settings"]) // 2]
        pictures = spread(sorted({row["picture"] for row in results["rows"]}))
        crop_sheet(results, source, arguments.out, setting, pictures).save(arguments.out / "crops.webp", quality=90)
        save_gallery(results, source, arguments.out)
    for picture, reason in results["failed"].items():
        complain(f"{picture}: {reason}" if not reason.startswith(picture) else reason)
    if results["failed"]:
        complain(f"{len(results['failed'])} of {len(source.pictures)} pictures failed and are left out of the table")
    return 1 if results["failed"] else 0


def _on_cpu(device: str | None) -> bool:
    """Whether processes talk as those of a CPU do: where that was asked for, or nothing else is at hand."""
    import torch

    return device == "cpu" or (device is None and not torch.cuda.is_available())


def _name(model: str | None) -> str:
    """What results call a model: no path of this machine."""
    return "box" if model is None else _without_path(model)


def _without_path(source: str) -> str:
    from ..evaluation.originals import file_name

    return file_name(Path(source).resolve()) if Path(source).exists() else source


def _options(arguments: argparse.Namespace) -> list[str]:
    """Options that decide what was measured, for those who want the same; rates and the like are in the record."""
    asked = {
        "--data-dir": arguments.data_dir and _without_path(arguments.data_dir),
        "--image-column": arguments.image_column,
        "--model-revision": arguments.model_revision,
        "--model-variant": arguments.model_variant,
        "--lora": arguments.lora and _without_path(arguments.lora),
        "--dtype": None if arguments.dtype == "auto" else arguments.dtype,
        "--tile-size": arguments.tile_size,
        "--max-pixels": arguments.max_pixels,
        "--effort": arguments.effort or None,
        "--device": None if arguments.device.startswith("cpu") else arguments.device,
    }
    return [word for name, value in asked.items() if value is not None for word in (name, str(value))]
