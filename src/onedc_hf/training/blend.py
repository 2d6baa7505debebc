"""A model between two: weights that one was trained from, moved a share of the way to those it became.

    python -m onedc_hf.training.blend BEFORE AFTER OUT --share 0.5

Where training from a model changed it for one thing at the price of another, half of the way often keeps most of both
(Wortsman et al., 2022). Only the decoder side may differ: a blend of entropy models would read nobody's files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import ModelError, OneDCError
from ..pipeline import OneDCPipeline

__all__ = ["blend", "main"]

_COMPONENTS = ("codec", "generator", "vae")


@torch.no_grad()
def blend(before: OneDCPipeline, after: OneDCPipeline, share: float) -> OneDCPipeline:
    """Moves the weights of `after` back towards `before`, in place.

    Args:
        before (`OneDCPipeline`): where training began, in float32.
        after (`OneDCPipeline`): what came of it, in float32. What `before` lacks (noise for the decoder) stays.
        share (`float`): 0: `before`, 1: `after`.

    Returns:
        `OneDCPipeline`: `after`.

    Raises:
        ModelError: if the two do not read the same files, or are not of one architecture.
        ValueError: if `share` is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"`share` must lie in [0, 1]; got {share}.")
    if before.model_id != after.model_id:
        raise ModelError(
            f"The models {before.model_id[:8]} and {after.model_id[:8]} have different entropy models: a blend would "
            "read the files of neither. Blend models of which one was trained from the other with the entropy path "
            "frozen (`freeze`, as in `box-stage2`)."
        )
    for name in _COMPONENTS:
        old, new = (getattr(pipe, name).state_dict() for pipe in (before, after))
        strange = [key for key, tensor in old.items() if key not in new or new[key].shape != tensor.shape]
        if strange:
            raise ModelError(
                f"The models are not of one architecture: {name}.{strange[0]} is missing or of another shape."
            )
        for key, tensor in old.items():
            if tensor.is_floating_point():
                new[key].copy_(torch.lerp(tensor.double(), new[key].double(), share))
    return after


def main(arguments: Sequence[str] | None = None) -> int:
    """See above; returns the exit code."""
    parser = argparse.ArgumentParser(prog="blend", description=str(__doc__).partition("\n")[0])
    parser.add_argument("before", help="folder or Hub id of a pipeline; empty: the model in the box")
    parser.add_argument("after", help="folder or Hub id of the pipeline that was trained from it")
    parser.add_argument("out", type=Path, help="folder of the blend; must not exist")
    parser.add_argument("--share", type=float, default=0.5, help="0: before, 1: after (default: 0.5)")
    options = parser.parse_args(arguments)
    try:
        if options.out.exists():
            raise OneDCError(f"{options.out} exists already; give another folder")
        before, after = (
            OneDCPipeline.from_pretrained(source or None, dtype=torch.float32)
            for source in (options.before, options.after)
        )
        blend(before, after, options.share).save_pretrained(options.out)
    except (OneDCError, OSError, ValueError) as error:
        print(f"blend: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
