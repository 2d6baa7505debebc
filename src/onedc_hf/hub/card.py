"""Model cards: what a model is, what it is not for, where it comes from.

One template, `templates/model_card.md`, serves every card: the one that `push_to_hub` writes and the written ones in
`model_cards/`. What can be read off the pipeline is read off it; what only a person knows (training, licence, results)
is passed in, and where nobody passes it the card says so instead of guessing.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

# The Hub has no task for image compression; image-to-image is the nearest, and the tags say the rest.
PIPELINE_TAG = "image-to-image"
TAGS = ["image-compression", "one-step-diffusion", "onedc", "diffusion", "codec"]
LICENCE_TEXTS = {
    "apache-2.0": "The weights are licensed under [Apache-2.0](https://www.apache.org/licenses/LICENSE-2.0).",
}


def build_card(
    pipeline: "DiffusionPipeline",
    *,
    repo_id: str | None = None,
    variant: str | None = None,
    name: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    licence_text: str | None = None,
    base_model: str | list[str] | None = None,
    datasets: list[str] | None = None,
    description: str | None = None,
    training: str | None = None,
    results: str | None = None,
    eval_results: list[EvalResult] | None = None,
    limits: Sequence[str] = (),
) -> ModelCard:
    """Build the card of a pipeline.

    Args:
        pipeline (`OneDCPipeline`): the model the card is about.
        repo_id (`str`, *optional*): where it will be; the snippet loads it from there. Without it the snippet loads the
            model in the box.
        variant (`str`, *optional*): of the weight files there; the snippet asks for it.
        name (`str`, *optional*): heading of the card, defaults to the last part of `repo_id`, or "OneDC, the model in
            the box".
        license (`str`, *optional*): licence of the weights as the Hub writes it, such as `"apache-2.0"` or `"other"`.
            Defaults to `"apache-2.0"` for the model in the box; nothing is claimed for any other model.
        license_name (`str`, *optional*): name of the licence where `license` is `"other"`.
        license_link (`str`, *optional*): where its text is.
        licence_text (`str`, *optional*): Markdown of the section "Licence", defaults to one sentence about `license`.
        base_model (`str` or `list[str]`, *optional*): Hub ids this model was made from.
        datasets (`list[str]`, *optional*): Hub ids of the training data.
        description (`str`, *optional*): Markdown below the first sentence.
        training (`str`, *optional*): Markdown of the section "Training".
        results (`str`, *optional*): Markdown of the section "Results", usually a generated table.
        eval_results (`list[EvalResult]`, *optional*): the same numbers for machines, see `evaluation_results`.
        limits (`Sequence[str]`, *optional*): limits of this model beside those every OneDC model has.

    Returns:
        `ModelCard`: metadata and text, to be saved as `README.md`.
    """
    if license is None and is_box(pipeline):
        license = "apache-2.0"
    if name is None:
        name = repo_id.rsplit("/", 1)[-1] if repo_id else "OneDC, the model in the box"
    data = ModelCardData(
        license=license,
        license_name=license_name,
        license_link=license_link,
        library_name="onedc_hf",  # with "diffusers" the Hub would print a snippet that cannot work
        pipeline_tag=PIPELINE_TAG,
        tags=list(TAGS),
        base_model=base_model,
        datasets=datasets,
        model_name=name,
        eval_results=eval_results,
    )
    if licence_text is None and license is not None:
        licence_text = LICENCE_TEXTS.get(license) or _licence_sentence(license, license_name, license_link)
    return ModelCard.from_template(
        data,
        template_str=(files("onedc_hf.hub") / "templates" / "model_card.md").read_text(encoding="utf-8"),
        name=name,
        load_argument=load_argument(repo_id, variant) if repo_id else "",
        description=description,
        facts=model_facts(pipeline),
        limits=limits,
        training=training,
        results=results,
        licence_text=licence_text,
    )


def load_argument(repo_id: str, variant: str | None = None) -> str:
    """What `from_pretrained` is given in a card's snippet."""
    return json.dumps(repo_id) + (f", variant={json.dumps(variant)}" if variant else "")


def is_box(pipeline: "DiffusionPipeline") -> bool:
    """Say whether a pipeline was loaded from the model in the box, and is still that: in no weight another."""
    origin = pipeline.config.get("_name_or_path")
    box = Path(str(files("onedc_hf") / "box"))
    if not origin or not Path(origin).is_dir() or not Path(origin).resolve().is_relative_to(box.resolve()):
        return False
    from ..compiled import plain  # the pipeline is there, and so is torch

    stored = Path(origin).glob("*/*.safetensors")
    return all(_holds(plain(getattr(pipeline, path.parent.name)).state_dict(), path) for path in stored)


def _holds(state: "dict[str, Tensor]", path: Path) -> bool:
    """Say whether a state dict has the values of a file, in its own number format."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            found, kept = state.get(name), file.get_tensor(name)
            if found is None or found.shape != kept.shape or not bool((kept.to(found) == found).all()):
                return False
    return True


def model_facts(pipeline: "DiffusionPipeline") -> list[tuple[str, str]]:
    """Read the rows of the table "What it is" off a pipeline: name of the fact, its value."""
    components = pipeline.components
    rows = [("Model id", f"`{getattr(pipeline, 'model_id', 'unknown')}`")]
    sizes = {}
    for name, component in components.items():
        parameters = getattr(component, "parameters", None)
        if parameters is not None:
            sizes[name] = sum(parameter.numel() for parameter in parameters())
    if sizes:
        each = ", ".join(f"{name} {_millions(size)}" for name, size in sizes.items())
        rows.append(("Parameters", f"{_millions(sum(sizes.values()))} ({each})"))
    rows.append(("Components", ", ".join(f"`{name}` {type(part).__name__}" for name, part in components.items())))
    entropy_path = getattr(getattr(components.get("codec"), "config", None), "entropy_path", None)
    if entropy_path is not None:
        rows.append(("Entropy path", f"{entropy_path} ({_ENTROPY_PATHS.get(entropy_path, 'see the documentation')})"))
    return rows


_ENTROPY_PATHS = {
    "float": "float32; made exact, in memory, before any file is written or read",
    "exact": "integers only; files decode to the same symbols on every device",
}


def evaluation_results(
    rows: Iterable[Mapping[str, Any]],
    metrics: Mapping[str, str],
    *,
    dataset_name: str,
    dataset_type: str,
    dataset_split: str = "test",
) -> list[EvalResult]:
    """Turn rows of measurements into entries of the card's `model-index`.

    Args:
        rows (`Iterable[Mapping[str, Any]]`): one mapping per operating point, with `bpp` (bits per pixel) and the
            metrics.
        metrics (`Mapping[str, str]`): key in a row -> name to show, for instance `{"psnr": "PSNR (dB)"}`.
        dataset_name (`str`): name to show, for instance `"Kodak"`.
        dataset_type (`str`): Hub id or short name of the data set.
        dataset_split (`str`, *optional*, defaults to `"test"`): its split.

    Returns:
        `list[EvalResult]`: one entry per row and metric; the operating point is in `metric_args`.
    """
    return [
        EvalResult(
            task_type=PIPELINE_TAG,
            dataset_type=dataset_type,
            dataset_name=dataset_name,
            dataset_split=dataset_split,
            metric_type=key,
            metric_name=f"{shown} at {row['bpp']:.4f} bpp",
            metric_value=row[key],
            metric_args={"bpp": row["bpp"]},
        )
        for row in rows
        for key, shown in metrics.items()
        if key in row
    ]


def training_sources(table: str | PathLike[str], *, used: Iterable[str] | None = None) -> str:
    """Credit the pictures a model was trained on.

    Args:
        table (`str` or `os.PathLike`): CSV file with the columns `path`, `source_repository`, `author` and `licence`.
        used (`Iterable[str]`, *optional*): paths that were trained on, defaults to every row.

    Returns:
        `str`: a Markdown table with one row per source and licence: pictures, authors.
    """
    wanted = None if used is None else set(used)
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    with open(table, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if wanted is None or row["path"] in wanted:
                groups[row["source_repository"], row["licence"]].append(row["author"])
    lines = ["| source | licence | pictures | credit |", "|---|---|---:|---|"]
    for (source, licence), authors in sorted(groups.items(), key=lambda item: item[0][0].lower()):
        credit = "; ".join(dict.fromkeys(author.strip() for author in authors if author.strip())) or "not stated"
        lines.append(f"| {source} | {licence} | {len(authors)} | {credit.replace('|', '/')} |")
    return "\n".join(lines)


def _licence_sentence(license: str, name: str | None, link: str | None) -> str:
    shown = name or license
    return f"The weights are licensed under [{shown}]({link})." if link else f"The weights are licensed under {shown}."


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 100_000 else f"{count:,}"
