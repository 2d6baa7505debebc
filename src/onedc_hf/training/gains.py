"""More bits at the upper end of the quality scale: a gain table that rises further, networks left as they are.

    python -m onedc_hf.training.gains MODEL OUT --from_row 80 --steps 10

When an entropy model learns to predict better, the same gains give fewer bits, and quality 100 no longer reaches the
rate that it once did. Rows after `from_row` are raised, the last by `steps` steps of the scale table (2.5 % each), the
others in proportion. Gains decide symbols, so the result is a new model with an id of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import OneDCError
from ..models.exact import ExactEntropyModel
from ..models.quantize import set_gains
from ..pipeline import OneDCPipeline

__all__ = ["main", "raise_last_rows"]


def raise_last_rows(steps: Tensor, from_row: int, by: int) -> Tensor:
    """A gain table whose last rows are raised, in proportion to how far they lie after a row.

    Args:
        steps (`torch.Tensor` of shape `[R, N]`): gains in steps of the scale table, integers.
        from_row (`int`): the last row that stays as it is, in [0, R - 2].
        by (`int`): steps that the last row is raised by, in [1, 255].

    Raises:
        ValueError: if `from_row` or `by` lies outside.
    """
    last = len(steps) - 1
    if not 0 <= from_row < last:
        raise ValueError(f"`from_row` must lie in [0, {last - 1}], before the table's last row; got {from_row}.")
    if not 1 <= by <= 255:
        raise ValueError(f"`steps` must lie in [1, 255]; got {by}.")
    rows = torch.arange(last + 1, dtype=torch.float64)
    rise = by * ((rows - from_row) / (last - from_row)).clamp_min(0)
    return steps + rise.round().to(steps.dtype)[:, None]


def main(arguments: Sequence[str] | None = None) -> int:
    """See above; returns the exit code."""
    parser = argparse.ArgumentParser(prog="gains", description=str(__doc__).partition("\n")[0])
    parser.add_argument("model", help="folder or Hub id of a pipeline; empty: the model in the box")
    parser.add_argument("out", type=Path, help="folder of the result; must not exist")
    parser.add_argument("--from_row", type=int, default=80, help="last row that stays as it is (default: 80)")
    parser.add_argument("--steps", type=int, default=10, help="what the last row is raised by (default: 10)")
    options = parser.parse_args(arguments)
    try:
        if options.out.exists():
            raise OneDCError(f"{options.out} exists already; give another folder")
        pipe = OneDCPipeline.from_pretrained(options.model or None, dtype=torch.float32)
        entropy = pipe.codec.entropy
        if not isinstance(entropy, ExactEntropyModel):
            raise OneDCError("the entropy path is in floats: make it exact first (`onedc quantize-entropy`)")
        set_gains(entropy, raise_last_rows(entropy.gain_steps, options.from_row, options.steps))
        pipe.codec.config.model_id = entropy.digest().hex()
        pipe.save_pretrained(options.out)
    except (OneDCError, OSError, ValueError) as error:
        print(f"gains: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
