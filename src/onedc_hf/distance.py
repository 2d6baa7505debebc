"""How far a rebuilt picture is from its original, as refinement sees it (refinement.py): a number with a gradient.

    log(squared error) + log(1 - MS-SSIM) + 0.4 log(local statistics) + log(distance of features)

Each alone has a price: descent on the first two gives blur, on local statistics (training/losses.py) noise. Features
are those of EfficientNet-Lite1, as in training; the networks reserved for measuring (Lite0, LPIPS) have no part in it.

Shapes: H W rows and columns of the picture.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .efficientnet import LiteNetwork

__all__ = ["PictureDistance"]

_STATISTICS_WEIGHT = 0.4
_LEAST = 1e-7  # of each term, so that equal pictures have a logarithm
_LEAST_SIDE = 64  # pixels: what the octaves of the statistics and the network's strides ask for
_WINDOW, _FIVE_SCALES = 11, 160  # of SSIM; the coarsest of MS-SSIM's scales needs more pixels than that
_OCTAVES = 16  # pixels: the coarsest one's
_BLOCK = 1024  # side of what the network sees at a time


class PictureDistance:
    """The distance from one original.

    Pictures smaller than 64 pixels a side have the first two terms alone; those of up to 160 SSIM in place of MS-SSIM,
    and those smaller than its window the squared error.

    Args:
        original (`torch.Tensor` of shape `[1, 3, H, W]`): in [-1, 1].

    Raises:
        ModuleNotFoundError: if the packages of the extra `effort` are missing.
    """

    def __init__(self, original: Tensor):
        try:
            import pytorch_msssim

            network = _network(original.device)
        except ImportError as error:
            raise ModuleNotFoundError("`effort` needs a few packages more: pip install 'onedc-hf[effort]'") from error
        self._library, self._network = pytorch_msssim, network
        self.original = original.float()
        self._blocks = list(_blocks(*original.shape[-2:])) if min(original.shape[-2:]) >= _LEAST_SIDE else []
        with torch.no_grad():
            self._features = [network(self.original[..., rows, columns]) for rows, columns in self._blocks]

    def __call__(self, rebuilt: Tensor) -> Tensor:
        """The distance of a picture `[1, 3, H, W]` in [-1, 1], a scalar.

        The network's activations are those of one block at a time; errors and MS-SSIM are of the whole picture.
        """
        rebuilt = rebuilt.float().clamp(-1, 1)
        pair = [(x + 1) / 2 for x in (rebuilt, self.original)]
        terms = [(pair[0] - pair[1]).square().mean()]
        side = min(rebuilt.shape[-2:])
        if side >= _WINDOW:
            similarity = self._library.ms_ssim if side > _FIVE_SCALES else self._library.ssim
            terms.append(1 - similarity(*pair, data_range=1.0, win_size=_WINDOW))
        result = torch.stack([term.clamp_min(_LEAST).log() for term in terms]).sum()
        if not self._blocks:
            return result
        statistics, features = self._by_blocks(rebuilt).clamp_min(_LEAST).log()
        return result + _STATISTICS_WEIGHT * statistics + features

    def _by_blocks(self, rebuilt: Tensor) -> Tensor:
        """Local statistics and distance of features, `[2]`: the mean of all pixels."""
        total, pixels = rebuilt.new_zeros(2), 0
        look: Callable[..., Tensor] = self._look
        for (rows, columns), wanted in zip(self._blocks, self._features, strict=True):
            found, original = rebuilt[..., rows, columns], self.original[..., rows, columns]
            if len(self._blocks) > 1:
                values = checkpoint(look, found, original, wanted, use_reentrant=False)
            else:
                values = look(found, original, wanted)
            total, pixels = total + values * found[0, 0].numel(), pixels + found[0, 0].numel()
        return total / pixels

    def _look(self, found: Tensor, original: Tensor, wanted: list[Tensor]) -> Tensor:
        from .training.losses import band_statistics_loss, feature_distance

        # Its octaves are halves of halves.
        edges = (0, -found.shape[-1] % _OCTAVES, 0, -found.shape[-2] % _OCTAVES)
        even = (F.pad(x, edges, mode="replicate") for x in (found, original))
        statistics = band_statistics_loss(*even)["band_statistics"]
        return torch.cat([statistics, feature_distance(self._network(found), wanted)])


@functools.cache
def _network(device: torch.device) -> LiteNetwork:
    """Lite1, loaded once a process: frozen, and the same for every picture."""
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):  # it draws weights before it has its own
        return LiteNetwork("lite1").to(device)


def _blocks(height: int, width: int) -> itertools.product[tuple[slice, slice]]:
    """Equal blocks that cover a picture, each of 1024 pixels a side at most."""
    sides = []
    for length in (height, width):
        count = -(-length // _BLOCK)
        edges = [length * i // count for i in range(count + 1)]
        sides.append([slice(*pair) for pair in itertools.pairwise(edges)])
    return itertools.product(*sides)
