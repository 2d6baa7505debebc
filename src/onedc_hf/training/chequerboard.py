"""A decoder that cannot draw a chequerboard: its last convolution, changed as little as its pictures allow.

    python -m onedc_hf.training.chequerboard --train_data_dir photos --output_dir free

The last convolution makes the four pixels of every 2x2 block with kernels of their own. Where a feature is the same
along a line, kernels whose taps have different sums draw lighter and darker pixels in turn: a tenth of a level of 255
is enough to stand out in a picture that has nothing else at that frequency. So, in each line of taps, the sums have to
be equal for both pixels of a pair, and biases for all four (Sugawara, Shiota and Kiya, 2018, for kernels as a whole).
Of all kernels for which they are, those are taken whose pictures differ least from the model's own, in squared error
over the features of photographs. Training that goes on from there keeps them by freezing that layer (`--freeze`).

Shapes: M features under the taps of a kernel (9 a channel) and a one for the bias; four pixels, in the order of
`PixelShuffle`: upper left, upper right, lower left, lower right.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError, OneDCError
from ..models.autoencoder import OneDCAutoencoder
from ..pictures import from_tensor
from ..pipeline import OneDCPipeline
from .config import TrainConfig
from .crops import Crops, Share, crop_batches
from .standalone import picture_arguments

__all__ = ["feature_moments", "last_convolution", "main", "without_chequerboard"]

_SIDE = 3  # of the kernel
_PAIRS_ALONG_ROWS, _PAIRS_ALONG_COLUMNS = ((0, 1), (2, 3)), ((0, 2), (1, 3))
_SAMPLE = 8192  # positions of a crop whose features are taken
_Z_ONLY_SHARE = 0.1


def last_convolution(vae: nn.Module) -> nn.Conv2d:
    """The 3x3 convolution before the last pixel shuffle.

    Raises:
        ModelError: for another decoder than `OneDCAutoencoder`'s, which has no such layer.
    """
    if not isinstance(vae, OneDCAutoencoder):
        raise ModelError(f"A {type(vae).__name__} does not end in a pixel shuffle: there is no chequerboard to remove.")
    layer = vae.decoder[-2]
    assert isinstance(layer, nn.Conv2d)
    return layer


def _conditions(channels: int) -> Tensor:
    """An orthonormal basis `[N, 4 M]` of what has to be zero of the kernels of the four pixels of one colour."""
    size = channels * _SIDE**2 + 1
    taps = torch.zeros(channels, _SIDE, _SIDE, size, dtype=torch.float64)
    taps.view(-1, size)[:, :-1] = torch.eye(size - 1, dtype=torch.float64)
    bias = torch.eye(size, dtype=torch.float64)[-1:]
    of_rows, of_columns = taps.sum(dim=2).flatten(0, 1), taps.sum(dim=1).flatten(0, 1)  # [3 C, M]
    rows = []
    for lines, pairs in ((of_rows, _PAIRS_ALONG_ROWS), (of_columns, _PAIRS_ALONG_COLUMNS)):
        for one, other in pairs:
            difference = torch.zeros(len(lines) + 1, 4, size, dtype=torch.float64)
            difference[:, one] = torch.cat([lines, bias])
            difference[:, other] = -torch.cat([lines, bias])
            rows.append(difference.flatten(1))
    _, strength, basis = torch.linalg.svd(torch.cat(rows), full_matrices=False)
    return basis[strength > 1e-9]  # some follow from others


def without_chequerboard(weight: Tensor, bias: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels that draw no chequerboard, nearest to given ones in the pictures that they make.

    Args:
        weight (`torch.Tensor` of shape `[12, C, 3, 3]`): of a convolution before `PixelShuffle(2)`, three colours.
        bias (`torch.Tensor` of shape `[12]`): its bias.
        moments (`torch.Tensor` of shape `[M, M]`): second moments of what the kernels see (`feature_moments`).

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: weight and bias, of the same shapes and dtype.
    """
    kernels = torch.cat([weight.double().flatten(1), bias.double()[:, None]], dim=1)  # [12, M]
    steady = moments.double() + 1e-9 * moments.double().diagonal().mean() * torch.eye(len(moments)).double()
    conditions = _conditions(weight.shape[1])
    # Least squares under linear conditions, by Lagrange: the change is -Q A' (A Q A')^-1 A w, Q the inverse moments.
    inverse = torch.linalg.inv(steady)
    weighed = torch.einsum("npm,mk->npk", conditions.unflatten(1, (4, -1)), inverse).flatten(1)  # [N, 4 M]
    colours = kernels.unflatten(0, (3, 4)).flatten(1)  # [3, 4 M]
    multipliers = torch.linalg.solve(weighed @ conditions.T, conditions @ colours.T)  # [N, 3]
    changed = (colours - multipliers.T @ weighed).unflatten(1, (4, -1)).flatten(0, 1)  # [12, M]
    return changed[:, :-1].reshape_as(weight).to(weight.dtype), changed[:, -1].to(bias.dtype)


@torch.inference_mode()
def feature_moments(pipe: OneDCPipeline, pictures: Iterable[np.ndarray], seed: int = 0) -> Tensor:
    """Second moments of what the last convolution sees while files of all qualities are decoded, `[M, M]` in float64.

    Args:
        pipe (`OneDCPipeline`): the model.
        pictures (`Iterable[np.ndarray]`): `uint8` `[H, W, 3]`, at least one.
        seed (`int`, *optional*): of the qualities, of which a tenth is z-only.

    Raises:
        ModelError: if its decoder has no such layer.
    """
    layer = last_convolution(pipe.vae)
    rng = np.random.default_rng(seed)
    total, count = torch.zeros(1, dtype=torch.float64), 0

    def look(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal total, count
        seen = F.unfold(arguments[0].float(), _SIDE, padding=1)[0]  # [M - 1, positions]
        chosen = torch.from_numpy(rng.permutation(seen.shape[1])[:_SAMPLE]).to(seen.device)
        sample = F.pad(seen[:, chosen].double().cpu(), (0, 0, 0, 1), value=1.0)
        total, count = total + sample @ sample.T, count + sample.shape[1]

    handle = layer.register_forward_pre_hook(look)
    try:
        for picture in pictures:
            if rng.random() < _Z_ONLY_SHARE:
                pipe.decompress(pipe.compress(picture, z_only=True))
            else:
                pipe.decompress(pipe.compress(picture, quality=int(rng.integers(0, 101))))
    finally:
        handle.remove()
    if not count:
        raise ValueError("`pictures` is empty: without any, nothing is known of what the kernels see")
    return total / count


def main(arguments: Sequence[str] | None = None) -> int:
    """See above; writes `pipeline` into the output folder, prints how far pictures change, returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="chequerboard",
        description=str(__doc__).partition("\n")[0],
        parents=[picture_arguments("what is changed")],
    )
    parser.add_argument("--crops", type=int, default=200, help="crops that are compressed and decoded (default: 200)")
    asked = parser.parse_args(arguments)
    if asked.num_threads:
        torch.set_num_threads(asked.num_threads)
    try:
        if (asked.output_dir / "pipeline").exists():
            raise OneDCError(f"{asked.output_dir / 'pipeline'} exists already; give another folder")
        config = TrainConfig(
            train_data_dir=asked.train_data_dir, exclude=asked.exclude, resolution=asked.resolution, seed=asked.seed
        )
        pipe = OneDCPipeline.from_pretrained(asked.model or None, dtype=torch.float32)
        layer = last_convolution(pipe.vae)
        crops = iter(crop_batches(config, Share(1)))
        pictures = (from_tensor(Crops.of(next(crops)).pixels)[0] for _ in range(asked.crops))
        moments = feature_moments(pipe, pictures, asked.seed)
        assert layer.bias is not None
        weight, bias = without_chequerboard(layer.weight.detach(), layer.bias.detach(), moments)
        before = torch.cat([layer.weight.detach().flatten(1), layer.bias.detach()[:, None]], dim=1).double()
        change = torch.cat([weight.flatten(1), bias[:, None]], dim=1).double() - before
        levels = 127.5 * float(torch.einsum("pm,mk,pk->p", change, moments, change).mean().sqrt())
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        pipe.save_pretrained(asked.output_dir / "pipeline")
    except (OneDCError, OSError, ValueError) as error:
        print(f"chequerboard: {error}", file=sys.stderr)
        return 1
    print(f"{asked.output_dir / 'pipeline'}: pixels change by {levels:.2f} levels of 255 (root of the mean square)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
