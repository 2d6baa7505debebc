"""Releases of the model in the box: which there were, and the earlier ones that stay here to read their files.

A file names the entropy model that wrote it. A release with another one would leave all earlier files unread, so what
reads the files of the release before it stays in `box/earlier/`: its decoder side, to which the box hands such files
on; or, where the entropy models differ in tables alone (gains, say), those tables. Its files are then read with them by
the very networks that the later release has.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .models import OneDCCodec, OneDCCodecConfig
from .models.exact import ExactEntropyModel

__all__ = [
    "BOX", "EarlierRelease", "decoder_side", "different_tables", "earlier_release", "released_ids", "save_tables",
    "where_to_get", "with_tables",
]  # fmt: skip

BOX = Path(__file__).parent / "box"
_TABLES = "tables.safetensors"


class EarlierRelease(NamedTuple):
    """What reads the files of an earlier release.

    Attributes:
        model_id (`str`): of the pipeline whose networks read them, 64 hex digits.
        folder (`Path`): that pipeline, which may be in 8 bits (eight_bits.py).
        tables (`dict[str, torch.Tensor]`): what its entropy model must have in place of its own; empty: nothing.
    """

    model_id: str
    folder: Path
    tables: dict[str, Tensor]


def _released() -> list[dict[str, str]]:
    return json.loads((BOX / "released.json").read_text(encoding="utf-8"))


def released_ids() -> list[str]:
    """Model ids of every release so far, 64 hex digits each, the oldest first."""
    return [one["model_id"] for one in _released()]


def earlier_release(model_id: str, at_hand: str = "") -> EarlierRelease | None:
    """What the package keeps of an earlier release of the box.

    Args:
        model_id (`str`): the first hex digits of its model id, four or more, as a file holds them.
        at_hand (`str`): model id of the release that asks. Where tables of the wanted one fit its networks, these are
            what is answered, also if a later release is kept or in place.

    Returns:
        `EarlierRelease`, *optional*: `None` if nothing is kept here of such a release.
    """
    found = [one for one in released_ids() if one.startswith(model_id) and len(model_id) >= 4]
    kept = [(one, folder) for one in found if (folder := BOX / "earlier" / one[:8]).is_dir()]
    if not kept:
        return None
    release, folder = kept[-1]
    tables: dict[str, Tensor] = {}
    # Tables may stand on a release that is itself kept as tables of a later one.
    while release != at_hand and (folder / _TABLES).is_file():
        with safe_open(folder / _TABLES, framework="pt") as file:
            tables = {name: file.get_tensor(name) for name in file.keys()} | tables  # noqa: SIM118 (no mapping)
            release = file.metadata()["networks_of"]
        folder = BOX / "earlier" / release[:8]
        if not folder.is_dir():
            folder = BOX / "model"
    return EarlierRelease(release, folder, tables)


def where_to_get(model_id: str) -> str:
    """Advice for a file of another model: the models in the box are known; empty for others.

    Args:
        model_id (`str`): the first hex digits of the model id wanted.
    """
    for release in _released():
        if release["model_id"].startswith(model_id):
            return (
                f"That is the model in the box of onedc-hf {release['since']}: decode it with "
                "`OneDCPipeline.from_pretrained()` (on the command line, without --model) of that release or a later "
                "one."
            )
    return ""


def decoder_side(codec: OneDCCodec) -> OneDCCodec:
    """A codec that reads the same files to the same symbols and features, and writes none: about half the size.

    Args:
        codec (`OneDCCodec`): left as it is; the result shares its weights.
    """
    config = OneDCCodecConfig.from_dict(codec.config.to_dict() | {"decoder_only": True})
    with torch.device("meta"):
        half = OneDCCodec(config)
    kept = {name: tensor for name, tensor in codec.state_dict().items() if name in half.state_dict()}
    half.load_state_dict(kept, assign=True)
    return half.eval()


def different_tables(old: ExactEntropyModel, new: ExactEntropyModel) -> dict[str, Tensor] | None:
    """The tables of an entropy model in which a later one differs; `None` if that is not all they differ in."""
    before, after = old.state_dict(), new.state_dict()
    if {name: tensor.shape for name, tensor in before.items()} != {name: t.shape for name, t in after.items()}:
        return None
    changed = {name: tensor for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    if any("." in name for name in changed):  # a layer's
        return None
    return changed if with_tables(new, changed).digest() == old.digest() else None


def with_tables(entropy: ExactEntropyModel, tables: dict[str, Tensor]) -> ExactEntropyModel:
    """The entropy model with other tables; the rest is shared with the one given, which stays as it is."""
    other = copy.copy(entropy)
    other._buffers = entropy._buffers | {name: table.to(entropy.device) for name, table in tables.items()}
    return other


def save_tables(tables: dict[str, Tensor], networks_of: str, folder: Path) -> None:
    """Keeps an earlier release as what its entropy model has in place of another's.

    Args:
        tables (`dict[str, torch.Tensor]`): from `different_tables`.
        networks_of (`str`): model id of the release that they belong with, 64 hex digits.
        folder (`Path`): the earlier release's, in `box/earlier/`.
    """
    folder.mkdir(parents=True)
    save_file(tables, folder / _TABLES, metadata={"format": "pt", "networks_of": networks_of})
