"""What an exact entropy model takes from pictures: how large its numbers get, and tables of the hyper-latent.

Ranges become powers of two with room to spare (models/quantize.py), so that the last bits of the analysis networks,
which differ between machines, do not matter. Tables are counts, to which they may matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .coding.tables import fit_hyper_tables
from .models.context import CodingPass
from .models.quantize import Ranges
from .pictures import PictureInput, load_picture

if TYPE_CHECKING:
    from .pipeline import OneDCPipeline

__all__ = ["calibrate", "calibration_pictures", "fit_tables"]

_PICTURES = Path(__file__).parent / "box" / "pictures"


def calibration_pictures() -> list[Path]:
    """The photographs of the package."""
    return sorted(_PICTURES.glob("*.jpg"))


@torch.no_grad()
def calibrate(pipe: OneDCPipeline, pictures: Sequence[PictureInput] | None = None) -> Ranges:
    """Largest magnitudes in the float entropy model of a pipeline, at its lowest, middle and highest quality.

    Args:
        pipe (`OneDCPipeline`): with a float entropy path.
        pictures (list of pictures, *optional*): by default `calibration_pictures()`.
    """
    entropy = pipe.codec.float_entropy
    ranges = Ranges(entropy)
    rows = sorted({0, entropy.quality_rows // 2, entropy.quality_rows - 1})
    with ranges.watch():
        for picture in pictures if pictures is not None else calibration_pictures():
            y, codes = pipe._analyse_networks(load_picture(picture))
            y = y.to(entropy.dtype)
            hyper = entropy.hyper_synthesis(codes)
            for row in rows:

                def code(step: CodingPass, y: Tensor = y) -> Tensor:
                    return torch.round((y - step.means) * step.gain)

                ranges.note("y_hat", entropy.run_passes(hyper, entropy.gain(row), code))
    return ranges


@torch.no_grad()
def fit_tables(pipe: OneDCPipeline, pictures: Sequence[PictureInput]) -> None:
    """Fits the static tables of the hyper-latent to pictures, in place. The model gets a new id.

    Args:
        pipe (`OneDCPipeline`): without tables, a code of the hyper-latent takes all the bits it can, with them a fifth
            fewer (the model in the box).
        pictures (list of pictures): like those that it is for; a few hundred.
    """
    codec = pipe.codec
    codes = (pipe._analyse_networks(load_picture(picture))[1] for picture in pictures)
    counts = fit_hyper_tables(
        (codec.z_vq.codes_to_index(code)[0].cpu().numpy() for code in codes), codec.entropy.fsq_levels
    )
    codec.entropy.z_counts.copy_(torch.from_numpy(counts.reshape(len(counts), -1)))
    codec.config.model_id = codec.entropy.digest().hex()
