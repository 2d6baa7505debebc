"""A model's results for its page on the Hub: `.eval_results/*.yaml` (today's form) and `model-index` (the legacy one).

Leaderboards take one value for each task of a benchmark, higher is better. The tasks are `TASKS`: bits saved against
AVIF at equal quality, and quality at a rate.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, eval_result_entries_to_yaml

from ..errors import OneDCError
from ..hub.card import evaluation_results
from .benchmarks import checked_benchmark
from .curves import bd_rate, curve_of
from .metrics import ALL_METRICS
from .tables import summarise

__all__ = ["TASKS", "Task", "eval_results", "model_index", "task_values", "write_eval_results", "write_model_index"]


@dataclass(frozen=True)
class Task:
    """One value that models are ranked by.

    Args:
        id (`str`): in `eval.yaml`.
        description (`str`): for people.
        value (`Callable`): the value in a result file; raises `OneDCError` where it has none.
    """

    id: str
    description: str
    value: Callable[[dict[str, Any]], float]


def _bits_saved(metric: str) -> Task:
    def value(results: dict[str, Any]) -> float:
        return -bd_rate(curve_of(results, metric, "avif"), curve_of(results, metric)).percent

    title = ALL_METRICS[metric].title
    return Task(f"bits_saved_{metric}", f"percent of bits saved against AVIF at equal {title} (minus BD-rate)", value)


def _at_rate(metric: str, rate: str) -> Task:
    def value(results: dict[str, Any]) -> float:
        for line in summarise(results):
            if line["codec"] == "onedc" and line["setting"] == rate and line.get(metric) is not None:
                return line[metric]
        raise OneDCError(f"the results have no {metric} at {rate} bpp")

    return Task(f"{metric}_at_{rate}_bpp", f"{ALL_METRICS[metric].title} of files of at most {rate} bpp", value)


TASKS: Mapping[str, Task] = {
    task.id: task
    for task in (
        _bits_saved("st_lpips_vgg"),
        _bits_saved("ms_ssim"),
        _bits_saved("psnr"),
        _at_rate("ms_ssim", "0.03"),
        _at_rate("ms_ssim", "0.1"),
        _at_rate("class_agreement_lite0", "0.03"),
    )
}


def task_values(results: dict[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """The value of every task a result file has one for, and why it has none for the others."""
    values, missing = {}, {}
    for task in TASKS.values():
        try:
            values[task.id] = round(task.value(results), 4)
        except OneDCError as error:
            missing[task.id] = str(error)
    return values, missing


def eval_results(
    results: dict[str, Any], benchmark: str, folder: Path, date: str | None = None
) -> list[EvalResultEntry]:
    """The value of every task of a benchmark, as entries for a model's page.

    Args:
        results (`dict`): the record of `run.collect`.
        benchmark (`str`): Hub id of the data set with our `eval.yaml` (`onedc benchmark-repo`).
        folder (`Path`): of the model, as it is pushed.
        date (`str`, *optional*): of the run, ISO 8601; the Hub takes the commit's otherwise.

    Raises:
        `OneDCError`: the results are of another data set, of a part of the pictures or of another model, or no task has
            a value; the message says why.
    """
    _check_model(results, folder)
    _check_benchmark(results["dataset"], benchmark)
    if results["dataset"]["limited"] or results["failed"]:
        raise OneDCError("these results are of a part of the pictures; a benchmark's entries take all of them")
    values, missing = task_values(results)
    if not values:
        raise OneDCError(f"the results have no value for any task of a benchmark: {next(iter(missing.values()))}")
    dataset, machine = results["dataset"], results["machine"]
    notes = (
        f"{dataset['pictures']} pictures, real files really decoded; model id {results['model']['model_id'][:8]}, "
        f"weights {results['model']['weights']}; {machine['device']}, torch {machine['torch']}{_effort(results)}"
    )
    return [
        EvalResultEntry(
            dataset_id=benchmark,
            task_id=task,
            value=value,
            dataset_revision=dataset["revision"] if dataset["name"] == benchmark else None,
            date=date,
            notes=notes,
        )
        for task, value in values.items()
    ]


def write_eval_results(results: dict[str, Any], benchmark: str, folder: Path, date: str | None = None) -> Path:
    """Write `.eval_results/<benchmark>.yaml` into a model's folder; the arguments are those of `eval_results`.

    Raises:
        `OneDCError`: as `eval_results`.
    """
    import yaml

    entries = eval_results(results, benchmark, folder, date)
    path = folder / ".eval_results" / f"{benchmark.rpartition('/')[2]}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False), encoding="utf-8")
    return path


def model_index(results: dict[str, Any]) -> list[EvalResult]:
    """Every mean of OneDC's rows as entries of a card's `model-index`; says of how many pictures, if some failed."""
    lines = [line for line in summarise(results) if line["codec"] == "onedc"]
    names = [*results["metrics"], *results.get("set_metrics", ())]
    rows = [
        {"bpp": round(line["bpp"], 5)} | {name: round(line[name], 5) for name in names if line.get(name) is not None}
        for line in lines
    ]
    dataset, failed = results["dataset"], len(results["failed"])
    part = f", {dataset['pictures']} of {dataset['pictures'] + failed} pictures" if failed else ""
    return evaluation_results(
        rows,
        {name: ALL_METRICS[name].title for name in names},
        dataset_name=dataset["title"] + part + _effort(results),
        dataset_type=dataset["name"],
        dataset_split=dataset["split"] or "test",
    )


def _effort(results: Mapping[str, Any]) -> str:
    """Says of refined files that they are."""
    effort = results["model"].get("effort")
    return f", refined with effort {effort}" if effort else ""


def _check_benchmark(dataset: Mapping[str, Any], benchmark: str) -> None:
    """Refuses the results of another data set: leaderboards would show them as this one's."""
    if dataset["name"] != benchmark and checked_benchmark(dataset) != benchmark.rpartition("/")[2]:
        raise OneDCError(
            f"these results are of {dataset['name']}, which is not known to be {benchmark}: measure with `onedc "
            f"evaluate --dataset {benchmark}`, or a named benchmark with --dataset NAME --data-dir FOLDER"
        )


def _check_model(results: dict[str, Any], folder: Path) -> None:
    """Refuses the results of another model; of two that differ in their decoder side alone, nothing is known here."""
    try:
        config = json.loads((folder / "codec" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a card without its model
        return
    if results["model"].get("adapter"):
        raise OneDCError("these results are of a model with an adapter; they do not belong into its card")
    measured, stated = results["model"]["model_id"], config.get("model_id")
    # A float entropy path is made exact before it is measured, and its id is another then.
    if stated and config.get("entropy_path", "float") == "exact" and stated != measured:
        raise OneDCError(
            f"these results are of the model {measured[:8]}, and {folder} holds {stated[:8]}: measure it with `onedc "
            f"evaluate --model {folder}`, into another folder of results"
        )


def write_model_index(results: dict[str, Any], folder: Path) -> Path:
    """Put the results into the card of a model's folder, in place of those it had.

    Raises:
        `OneDCError`: the folder has no card, or holds another model than the one that was measured.
    """
    path = folder / "README.md"
    if not path.is_file():
        raise OneDCError(
            f"{folder} has no README.md, into which results go: name a copy of a pushed repository (`hf download`), or "
            "what `onedc convert` made"
        )
    _check_model(results, folder)
    card = ModelCard.load(path)
    data: Any = card.data
    data.eval_results = model_index(results)
    data.model_name = getattr(data, "model_name", None) or results["model"]["name"]
    card.save(path)
    return path
