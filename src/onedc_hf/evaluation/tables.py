"""Result files of `onedc evaluate` -> Markdown, and into the README between two marks. No figure is typed by hand.

python -m onedc_hf.evaluation.tables results.json                       prints the table
python -m onedc_hf.evaluation.tables results.json --readme README.md    replaces what stands between the marks
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from ..errors import OneDCError
from .classical import CODECS
from .metrics import ALL_METRICS
from .rows import setting_order
from .spectrum import GridReport, mean_report

__all__ = ["BEGIN", "END", "codec_title", "insert", "main", "markdown", "summarise"]

BEGIN, END = "<!-- kodak:begin -->", "<!-- kodak:end -->"
_ORDER = ["onedc", *CODECS]


def summarise(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Average a result file over its pictures.

    Returns:
        `list[dict]`: for each setting (ascending) and codec (OneDC first): `setting`, `codec`, `pictures`, `at_floor`
        (how many could not be made small enough), the mean of `bytes`, `bpp` and every metric (None where a picture
        has none: a mean over the others would be of another set), every set metric, `grid` (the largest, over periods,
        of the mean ratio to the original), `repeated` (the mean share of detail that repeats from cell to cell), and
        the median of `encode_seconds` and `decode_seconds` for OneDC.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results["rows"]:
        groups.setdefault((row["setting"], row["codec"]), []).append(row)
    summary = []
    for (setting, codec), rows in sorted(groups.items(), key=lambda item: _rank(*item[0])):
        line: dict[str, Any] = {"setting": setting, "codec": codec, "pictures": len(rows)}
        line["at_floor"] = sum(bool(row.get("at_floor")) for row in rows)
        for name in ("bytes", "bpp", *results["metrics"]):
            values: list[Any] = [row.get(name) for row in rows]
            line[name] = None if None in values else fmean(values)
        report = _grid(rows)
        line["grid"], line["repeated"] = (None, None) if report is None else (report.worst, report.repeated)
        for name in ("encode_seconds", "decode_seconds"):
            if codec == "onedc":
                line[name] = median(row[name] for row in rows)
        sets = [one for one in results.get("sets", ()) if (one["setting"], one["codec"]) == (setting, codec)]
        for name in results.get("set_metrics", ()):
            line[name] = sets[0][name] if sets and sets[0]["pictures"] == len(rows) else None
        summary.append(line)
    return summary


def codec_title(codec: str) -> str:
    """Name of a codec for people."""
    if codec == "onedc":
        return "OneDC"
    return CODECS[codec].title if codec in CODECS else codec.partition(":")[2]


def _rank(setting: str, codec: str) -> tuple[float, int, str]:
    return setting_order(setting), _ORDER.index(codec) if codec in _ORDER else len(_ORDER), codec


def _grid(rows: list[dict[str, Any]]) -> GridReport | None:
    if any(not row.get("grid") for row in rows):
        return None
    return mean_report([GridReport.from_row(row["grid"]) for row in rows])


def markdown(
    results: dict[str, Any],
    *,
    metrics: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
    codecs: Sequence[str] | None = None,
) -> str:
    """Lay out a result file as a Markdown table with a line on what was measured.

    Args:
        results (`dict`): the record of `run.collect`.
        metrics (`Sequence[str]`, *optional*): show only these; all by default.
        settings (`Sequence[str]`, *optional*): show only these; all by default.
        codecs (`Sequence[str]`, *optional*): show only these beside OneDC; all by default.

    Raises:
        `OneDCError`: something to show is not in the results, or some codec or setting lacks pictures, so that its
            means could mislead.
    """
    for what, wanted, known in (
        ("metrics", metrics, (*results["metrics"], *results.get("set_metrics", ()))),
        ("settings", settings, results["settings"]),
        ("codecs", codecs, results["codecs"]),
    ):
        if unknown := [name for name in wanted or () if name not in known]:
            raise OneDCError(f"the results have no {what} {', '.join(unknown)}; they have {', '.join(known)}")
    summary = summarise(results)
    counts = {line["pictures"] for line in summary}
    if len(counts) != 1:
        raise OneDCError(
            f"the results are incomplete ({sorted(counts)} pictures at different settings); run `onedc evaluate` again"
        )
    shown = [
        ALL_METRICS[name]
        for name in (*results["metrics"], *results.get("set_metrics", ()))
        if metrics is None or name in metrics
    ]
    headings = ["bpp asked", "codec", "bytes", "bpp", *(metric.heading for metric in shown), "grid"]
    summary = [
        line
        for line in summary
        if (settings is None or line["setting"] in settings)
        and (codecs is None or line["codec"] in codecs or line["codec"] == "onedc")
    ]
    repeats = any(line["repeated"] is not None for line in summary)
    headings += ["repeated"] if repeats else []
    lines = [headings, ["---", "---", *["---:"] * (len(headings) - 2)]]
    for line in summary:
        ours = line["codec"] == "onedc"
        mark = "\\*" if line["at_floor"] else ""
        cells = [
            line["setting"] if ours else "",
            "**OneDC**" if ours else codec_title(line["codec"]),
            _figure(line["bytes"], 0),
            _figure(line["bpp"], 4) + mark,
            *(_figure(line[metric.name], metric.digits) for metric in shown),
            _figure(line["grid"], 2),
            *([_figure(line["repeated"], 2)] if repeats else []),
        ]
        lines.append(cells)
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{table}\n\n{_explanation(results, summary, [metric.name for metric in shown], counts.pop())}\n"


def _explanation(results: dict[str, Any], summary: list[dict[str, Any]], names: Sequence[str], pictures: int) -> str:
    notes = ""
    if any(line["repeated"] is not None for line in summary):
        notes = (
            "`repeated`: share of detail that all cells of 64x64 pixels have in common, beyond the original's (0: no "
            "more than that). "
        )
    if any(line["codec"] == "avif-half" for line in summary):
        notes += "AVIF at half size: sides halved before and doubled after. "
    if effort := results["model"].get("effort"):
        notes += f"OneDC's files but z-only are refined with effort {effort}. "
    shown = {line["codec"] for line in summary}
    if shown & {"avif", "avif-half"}:
        notes += "AVIF is written at speed 6; at speed 4 its files are some 5 to 10 % smaller. "
    if results["model"]["name"] == "box" and any(name.endswith("lite0") for name in names):
        notes += (
            "Lite0 had no part in making the model in the box, but networks of its family had (Lite1 as a loss, Lite2 "
            "to choose what is released): read what it says as optimistic. "
        )
    machine = results["machine"]
    failed = f" ({len(results['failed'])} failed and are left out)" if results.get("failed") else ""
    return (
        f"Means over {pictures} pictures{failed}, every rate that of real files that were decoded. Classical codecs "
        "are at the size nearest to OneDC's on each picture; \\* marks those whose smallest file is larger on some. "
        "`grid`: energy and gradient locked to periods of 2 to 16 pixels, over the original's (1.0: no pattern was "
        f"added). {notes}Model `{results['model']['model_id'][:4]}`, weights `{results['model']['weights']}` "
        f"({machine['device']}, {machine['cpu_capability']}, torch {machine['torch']})."
    )


def _figure(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{round(value, digits) + 0.0:,.{digits}f}"  # no minus before a zero


def insert(text: str, table: str) -> str:
    """Replace what stands between the two marks.

    Raises:
        `OneDCError`: the marks are not there, or not in this order.
    """
    start, end = text.find(BEGIN), text.find(END)
    if start < 0 or end < start or text.count(BEGIN) != 1 or text.count(END) != 1:
        raise OneDCError(f"expected {BEGIN} and after it {END}, once each, where the table belongs")
    return f"{text[: start + len(BEGIN)]}\n{table.strip()}\n{text[end:]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns 0, or 1 with a message on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m onedc_hf.evaluation.tables", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("results", type=Path, help="results.json of `onedc evaluate`")
    parser.add_argument("--readme", type=Path, help="file with the marks; without it the table is printed")
    for name in ("metrics", "settings", "codecs"):
        parser.add_argument(f"--{name}", nargs="+", help="show only these (default: all)")
    arguments = parser.parse_args(argv)
    try:
        shown = {"metrics": arguments.metrics, "settings": arguments.settings, "codecs": arguments.codecs}
        table = markdown(json.loads(arguments.results.read_text()), **shown)
        if arguments.readme is None:
            print(table)
        else:
            arguments.readme.write_text(insert(arguments.readme.read_text(), table))
    except (OneDCError, OSError, ValueError, KeyError) as error:
        print(f"tables: {error if isinstance(error, (OneDCError, OSError)) else repr(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
