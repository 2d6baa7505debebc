"""A latent refined for its own picture: the encoder goes on, through the decoder, where the analysis network ends.

The analysis is one network for all pictures. What it gives can be bettered for the one at hand, at the price of some
decodes (Campos et al., "Content Adaptive Optimization for Neural Image Compression", 2019). Files decode as ever. It is
descent on

    J(y) = distance of the rebuilt picture (distance.py, a sum of logarithms) + k x log(size of the file),

which is without units: k is what the distance falls by when the size grows by a factor of e, measured between the
quality rows around the one that is asked for. A fall of J by 0.1 k is worth a tenth of the bytes.

- The gradient of the error passes the rounding to symbols as if there were none; that of the bits is the Gaussian's at
  what was rounded, and twice as strong as it says: moves that raise the bits come through rounding sooner than those
  that lower them, and without this the descent ends in larger files.
- Channels move by what the decoder makes of them: one that changes the picture more takes smaller steps.
- With a target, bits up to there cost nothing: what is saved becomes quality.
- A step that does not lower J is taken back and made shorter, so the result is never worse than the start. Steps are
  small because of the rounding: a hundredth of the quantiser's step moves one symbol in a hundred.

Shapes: as in coder.py; H W rows and columns of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .coder import Analysed, Chosen, SymbolCoder
from .coding import parse_header
from .models.rounding import gaussian_probability
from .rate_search import ANY_SIZE
from .tiling import Tiling, spans

__all__ = ["Refiner", "check_gradients", "gradient_tiles"]

_FIRST_LENGTH = 0.01  # of a step of the descent: root mean square, in steps of the quantiser
_LONGER, _SHORTER = 1.25, 0.6
_PULL_OF_BITS, _PULL_WITH_ROOM = 2.0, 0.5  # the latter keeps sizes, as measured
_CURVATURE_EXPONENT = 0.7  # 1 would be Newton's step, for a decoder that were linear
_SLOPE, _SLOPE_RANGE = 1.3, (0.3, 3.0)  # k: of a model without neighbouring rows, and what is believed
_ROWS_AROUND = 4
_TOO_LARGE, _NEARLY = 3.0, 0.98  # so much more does a bit cost beyond the target; what counts as there
_SAVES, _SAVES_AT = 0.06, 5  # of the bytes, with an effort of that or more: what a row above the target's may have more
_LEAST_PROBABILITY = 1e-9
_TILES = Tiling(tile=12, overlap=3)  # gradients need ten times the memory: about 1 GiB a tile (box model)
_TAIL_BYTES = 2


def check_gradients(*networks: nn.Module) -> None:
    """Refuses networks that pass no gradient on, before there is any work.

    Raises:
        ValueError: for parts that are put away between their turns, or that were loaded without gradients.
    """
    for network in networks:
        if any(hasattr(part, "_hf_hook") for part in network.modules()):
            raise ValueError("`effort` needs all parts on one device at a time: it does not go with CPU offload.")
        if any(parameter.is_inference() for parameter in network.parameters()):
            raise ValueError(
                "`effort` needs gradients, and this pipeline was loaded in `torch.inference_mode()`: load it anew."
            )


def gradient_tiles(side: list[slice]) -> list[slice]:
    """Tiles along one direction (`spans`) that a gradient has memory for: these, or smaller ones."""
    return side if side[0].stop <= _TILES.tile else spans(side[-1].stop, _TILES)


@dataclass(frozen=True)
class _Trial:
    """A latent and what came of it.

    Args:
        y (`torch.Tensor` of shape `[1, N, Y, X]`): before rounding.
        chosen (`Chosen`): its symbols.
        y_hat (`torch.Tensor` of shape `[1, N, Y, X]`): the rebuilt latent, a leaf that `error` leads back to.
        rebuilt (`torch.Tensor` of shape `[1, 3, H, W]`): the picture.
        error (`torch.Tensor`): its distance from the original.
        cost (`float`): J.
    """

    y: Tensor
    chosen: Chosen
    y_hat: Tensor
    rebuilt: Tensor
    error: Tensor
    cost: float


@dataclass(frozen=True)
class _Price:
    """What bits of `y` cost, in units of the distance.

    Without a target k x log(size); with one nothing up to there, and more than that beyond.

    Args:
        slope (`float`): k.
        beside (`float`): bits of all that is not `y`.
        room (`float`): bits that the file should have at most; infinity: no target.
    """

    slope: float
    beside: float
    room: float

    def of(self, bits: float) -> float:
        size = bits + self.beside
        if math.isinf(self.room):
            return self.slope * math.log(size)
        return _TOO_LARGE * self.slope * math.log(max(1.0, size / self.room))

    def pull(self, bits: float) -> float:
        """What one bit more counts where the descent looks for its direction."""
        size = bits + self.beside
        pull = _PULL_OF_BITS
        if size > self.room:
            pull *= _TOO_LARGE
        elif size < _NEARLY * self.room < math.inf:
            pull = _PULL_WITH_ROOM
        return pull * self.slope / size


class Refiner:
    """Refines latents of one picture.

    Args:
        coder (`SymbolCoder`): of the model.
        rebuild (`Callable`): rebuilt latent `[1, N, Y, X]` and row to the picture `[1, 3, H, W]` in [-1, 1], with a
            gradient.
        distance (`Callable`): of such a picture from the original, a scalar with a gradient (`PictureDistance`).
    """

    def __init__(
        self, coder: SymbolCoder, rebuild: Callable[[Tensor, int], Tensor], distance: Callable[[Tensor], Tensor]
    ):
        self.coder, self.rebuild, self.distance = coder, rebuild, distance

    def write(self, analysed: Analysed, plain: bytes, effort: int, budget: int | None = None) -> bytes:
        """A better file than `plain`, or that one.

        Args:
            analysed (`Analysed`): the picture.
            plain (`bytes`): its file without refinement, with symbols of `y`.
            effort (`int`): steps of refinement.
            budget (`int`, *optional*): the largest file in bytes. A higher quality row that is a little too large is
                tried first: refined, it should fit. What is further from the original than `plain` is not taken.
                Without a budget the row stays.
        """
        row = parse_header(plain).quality_row or 0
        # What comes beside the picture is the same in every file, and would hide how they differ.
        bare = replace(analysed, extensions=())
        if budget is None:
            return self._written(self.refine(bare, row, effort), row, analysed)
        budget = min(budget, ANY_SIZE)
        room = budget - len(plain) + len(self.coder.write(bare, row))
        best, least = plain, self._distance(bare, row)
        for trial in dict.fromkeys((self._row_above(bare, row, effort, room), row)):
            refined = self.refine(bare, trial, effort, room)
            data, distance = self._written(refined, trial, analysed), self._distance(refined, trial)
            if len(data) <= budget and distance < least:
                best, least = data, distance
            if best is not plain:
                break
        return best

    def _written(self, refined: Analysed, row: int, analysed: Analysed) -> bytes:
        return self.coder.write(replace(refined, extensions=analysed.extensions), row)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _distance(self, analysed: Analysed, row: int) -> float:
        return float(self.distance(self.rebuild(self.coder.choose(analysed, row).y_hat, row)))

    def _row_above(self, analysed: Analysed, row: int, effort: int, room: float) -> int:
        """The highest row whose file should fit once it is refined; the row itself without a target."""
        most = room * (1 + _SAVES * min(1.0, effort / _SAVES_AT))
        while math.isfinite(room) and row + 1 < self.coder.entropy.quality_rows:
            if len(self.coder.write(analysed, row + 1)) > most:
                break
            row += 1
        return row

    @torch.inference_mode(False)
    @torch.enable_grad()
    def refine(self, analysed: Analysed, row: int, effort: int, room: float = math.inf) -> Analysed:
        """The picture with a latent of lower J at a quality row, or the one it has.

        Args:
            analysed (`Analysed`): the picture, with nothing beside it.
            row (`int`): the quality row.
            effort (`int`): trials.
            room (`float`, *optional*): bytes that its file must not grow over.
        """
        start = replace(analysed, y=analysed.y.float().clone())  # out of inference mode
        size = len(self.coder.write(start, row))
        beside = 8 * size - self.coder.choose(start, row).bits
        # Of another latent the coder's tail may be a byte or two longer; what fits is no smaller for that.
        target = 8 * max(room - _TAIL_BYTES, size if size <= room else 0)
        price = _Price(self._slope(start, row, beside), beside, target)
        best = self._try(start.y, start, row, price)
        damping = self._damping(best)
        direction, length = self._direction(best, price, damping), _FIRST_LENGTH
        for _ in range(effort):
            moved = best.y - length * best.chosen.steps * direction
            trial = self._try(moved, start, row, price)
            if trial.cost < best.cost and trial.chosen.bits <= max(price.room - beside, best.chosen.bits):
                best, length = trial, length * _LONGER
                direction = self._direction(best, price, damping)
            else:
                length *= _SHORTER
        return replace(analysed, y=best.y)

    def _try(self, y: Tensor, start: Analysed, row: int, price: _Price) -> _Trial:
        chosen = self.coder.choose(replace(start, y=y), row)
        y_hat = chosen.y_hat.requires_grad_()
        rebuilt = self.rebuild(y_hat, row)
        error = self.distance(rebuilt)
        return _Trial(y, chosen, y_hat, rebuilt, error, float(error.detach()) + price.of(chosen.bits))

    def _slope(self, start: Analysed, row: int, beside: float) -> float:
        """k: how much the distance falls for the logarithm of the size, between the rows around."""
        rows = [max(0, row - _ROWS_AROUND), min(self.coder.entropy.quality_rows - 1, row + _ROWS_AROUND)]
        if rows[0] == rows[1]:
            return _SLOPE
        points = [
            (math.log(self.coder.choose(start, neighbour).bits + beside), self._distance(start, neighbour))
            for neighbour in rows
        ]
        if points[1][0] <= points[0][0]:
            return _SLOPE
        slope = (points[0][1] - points[1][1]) / (points[1][0] - points[0][0])
        return min(max(slope, _SLOPE_RANGE[0]), _SLOPE_RANGE[1]) if math.isfinite(slope) else _SLOPE

    def _damping(self, trial: _Trial) -> Tensor:
        """What each channel's steps are divided by, `[1, N, 1, 1]`: its mean squared effect on pixels, relative.

        A random picture led back to the latent tells it, one for all positions (Hutchinson's estimator).
        """
        probe = torch.randn(trial.rebuilt.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        (back,) = torch.autograd.grad((trial.rebuilt * probe.to(trial.rebuilt)).sum(), trial.y_hat, retain_graph=True)
        effect = (back * trial.chosen.steps).square().mean(dim=(0, 2, 3), keepdim=True)
        return (effect / effect.mean().clamp_min(1e-30)).clamp_min(0.05) ** _CURVATURE_EXPONENT

    def _direction(self, trial: _Trial, price: _Price, damping: Tensor) -> Tensor:
        """Where J grows, `[1, N, Y, X]` in steps of the quantiser, with a root mean square of 1."""
        chosen = trial.chosen
        # As if it were the sum over pixels, so that half precision does not lose it.
        scale = float(trial.rebuilt.numel())
        (back,) = torch.autograd.grad(trial.error * scale, trial.y_hat)
        residual = ((trial.y - chosen.y_hat.detach()) / chosen.steps + chosen.symbols).requires_grad_()
        bits = gaussian_probability(residual, chosen.scales).clamp_min(_LEAST_PROBABILITY).log2().neg()
        (cost,) = torch.autograd.grad(bits.sum(), residual)
        direction = back * chosen.steps / scale + price.pull(chosen.bits) * cost
        direction = torch.nan_to_num(direction) / damping
        return direction / direction.square().mean().sqrt().clamp_min(1e-30)
