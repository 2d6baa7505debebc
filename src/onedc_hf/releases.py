"""Releases of the model in the box: which there were, and the earlier ones that stay here to read their files.

A file names the entropy model that wrote it. A release with another one would leave all earlier files unread, so the
decoder side of the release before it stays in `box/earlier/`, and the box hands its files on to it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from .models import OneDCCodec, OneDCCodecConfig

__all__ = ["BOX", "decoder_side", "earlier_release", "released_ids", "where_to_get"]

BOX = Path(__file__).parent / "box"


def _released() -> list[dict[str, str]]:
    return json.loads((BOX / "released.json").read_text(encoding="utf-8"))


def released_ids() -> list[str]:
    """Model ids of every release so far, 64 hex digits each, the oldest first."""
    return [one["model_id"] for one in _released()]


def earlier_release(model_id: str) -> Path | None:
    """The folder of an earlier release of the box.

    Args:
        model_id (`str`): the first hex digits of its model id, four or more, as a file holds them.

    Returns:
        `Path`, *optional*: a pipeline that reads files and writes none, in 8 bits (eight_bits.py); `None` if there is
        no such release here.
    """
    found = [one for one in released_ids() if one.startswith(model_id) and len(model_id) >= 4]
    folders = [folder for one in found if (folder := BOX / "earlier" / one[:8]).is_dir()]
    return folders[-1] if folders else None


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
