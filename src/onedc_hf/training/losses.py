"""Losses on pictures, and their balance.

Each loss is a function of the rebuilt picture alone, so their gradient at the picture is computed first and then goes
back through the model once. Losses are balanced by the *norm* of their gradients there: a weight says how strong a loss
pulls compared with the pixel loss, whatever its own unit is, and stays true while it drifts.

Shapes: B batch, S side of a crop. Pictures are `[B, 3, S, S]` in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evaluation.spectrum import BLOCKS, CELL, PERIODS
from .adversary import Adversary
from .features import LiteFeatures, jitter

__all__ = [
    "OPPONENTS",
    "BalancedLosses",
    "PerceptualLosses",
    "band_statistics_loss",
    "colour_loss",
    "feature_distance",
    "feature_statistics",
    "grid_loss",
    "l1_loss",
    "ms_ssim_loss",
    "take_into",
    "texture_loss",
    "wallpaper_loss",
]

_SMOOTH_VARIANCE = 0.0025  # of a block in [-1, 1]: a deviation of six levels of 255
_LEVEL = 1 / 127.5  # one level of 255, in [-1, 1]
# (Cb - Cr) / sqrt(2), blue to orange, and (Cb + Cr) / sqrt(2), magenta to green, of BT.601: of red, green and blue.
OPPONENTS = ((-0.4729, 0.0618, 0.4111), (0.2342, -0.5303, 0.2961))
_COLOUR_SIDES = (16, 64)  # pixels that a colour is the mean of
_GREEN_WEIGHT = 2.0  # of the second: photographs vary less in it, and eyes mind it no less
_OCTAVES, _WINDOW = 4, 16  # of local statistics of a picture; the window in pixels
_UNSEEN_SHARE = 0.02  # of detail, repeated from cell to cell
# Gradient norms, as multiples of the pixel loss's, below which a loss is not strengthened further: what it has where
# there is something to find fault with (a chequerboard of 4 levels of 255 over everything; of `period`, half of that).
# Without, a loss that is satisfied would pull as hard as ever, at next to nothing.
_LEAST_NORMS = {"grid": 0.03, "period": 4.0, "locked": 0.08, "wallpaper": 25.0}

# (rebuilt, original) to named losses, of the batch or of each picture, `[B]`; losses of one function may share work.
PictureLosses = Callable[[Tensor, Tensor], Mapping[str, Tensor]]


def l1_loss(rebuilt: Tensor, original: Tensor) -> Tensor:
    """Mean absolute error on the [0, 1] scale (paper, section 3.3); not clamped, so that overshoot is corrected."""
    return (rebuilt - original).abs().mean() / 2


def ms_ssim_loss(rebuilt: Tensor, original: Tensor) -> dict[str, Tensor]:
    """1 - MS-SSIM with three scales of the halved picture (the first scale of five costs most and says least)."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    small = [F.avg_pool2d(x * 0.5 + 0.5, 2) for x in (rebuilt, original)]
    similarity = ms_ssim(small[0], small[1], data_range=1.0, kernel_size=7, sigma=1.0, betas=(0.3, 0.4, 0.3))
    return {"ms_ssim": 1 - similarity}


def colour_loss(rebuilt: Tensor, original: Tensor) -> dict[str, Tensor]:
    """Squared error of the mean colours of squares of 16 and of 64 pixels, without their lightness.

    L1 and MS-SSIM are nearly all lightness, and are content with grey or brown where a file says little. Of the mean
    colour, eyes expect more than of detail.
    """
    axes = torch.tensor(OPPONENTS, device=rebuilt.device)
    error = torch.einsum("kc,bcyx->bkyx", axes, rebuilt.float() - original.float())
    squares = [F.avg_pool2d(error, side).square().mean(dim=(0, 2, 3)) for side in _COLOUR_SIDES]
    blue, green = torch.stack(squares).mean(dim=0)
    return {"colour": blue + _GREEN_WEIGHT * green}


def grid_loss(rebuilt: Tensor, original: Tensor) -> dict[str, Tensor]:
    """Energy of what an error repeats every 8 pixels in smooth regions: the pattern of a decoder's pixel shuffles.

    An adversary rewards any high frequency at first, and the cheapest one is a screen door over everything. It shows in
    the mean error by position modulo 8 over the smooth blocks of a window of 64x64; where the picture has detail of its
    own, errors are larger and nobody sees a pattern, so blocks count less there.
    """
    batch, channels, side, _ = original.shape
    windows, blocks = side // 64, 8
    shape = (batch, channels, windows, blocks, 8, windows, blocks, 8)
    reference, error = (x.reshape(shape) for x in (original, rebuilt - original))
    variance = reference.var(dim=(4, 7), keepdim=True, correction=0).mean(dim=1, keepdim=True)
    smooth = 1 / (1 + variance / _SMOOTH_VARIANCE)  # [B, 1, windows, blocks, 1, windows, blocks, 1]
    error = error - error.mean(dim=(4, 7), keepdim=True)
    share = smooth.sum(dim=(3, 6), keepdim=True)
    pattern = (smooth * error).sum(dim=(3, 6), keepdim=True) / (share + 1)
    return {"grid": (pattern.square() * share / blocks**2).mean()}


def _period_amplitude(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Amplitude of lines at each of the periods, and at neighbouring frequencies (without gradient), `[B, 4]`."""
    side = picture.shape[-1]
    lines = picture.diff(dim=-1, append=picture[..., -1:]) * torch.hann_window(side, device=picture.device)
    energy = torch.fft.rfft(lines, norm="ortho").abs().square().mean(dim=(1, 2)) + 1e-8  # [B, S / 2 + 1]
    at = [side // period for period in PERIODS]
    # Neighbours outside the main lobes of the window, which are one bin on either side; Nyquist has them on one side.
    apart = [k for k in range(1, side // 2 + 1) if all(abs(k - i) > 1 for i in at)]
    beside = [[k for k in apart if abs(k - i) <= 4] for i in at]
    usual = torch.stack([energy[:, bins].detach().mean(dim=1) for bins in beside], dim=1)
    return energy[:, at].sqrt(), usual.sqrt()


def _by_position(picture: Tensor, block: int) -> Tensor:
    """Mean gradient at each position of a block, `[B, block, block]`."""
    gradient = picture.diff(dim=-1)[..., :-1, :].abs() + picture.diff(dim=-2)[..., :-1].abs()  # [B, 3, S - 1, S - 1]
    count = gradient.shape[-1] // block
    cells = gradient[..., : count * block, : count * block].unflatten(-1, (count, block)).unflatten(-3, (count, block))
    return cells.mean(dim=(1, 2, 4))


def _locked(rebuilt: Tensor, original: Tensor, block: int) -> Tensor:
    """How far the mean gradient by position (and one level) is from a share of its mean like the original's."""
    found, wanted = (_by_position(picture, block) + _LEVEL for picture in (rebuilt, original))
    share = wanted / wanted.mean(dim=(1, 2), keepdim=True)
    return (found - found.detach().mean(dim=(1, 2), keepdim=True) * share).square().mean()


def texture_loss(rebuilt: Tensor, original: Tensor) -> dict[str, Tensor]:
    """Texture that is locked to the pixel grid anywhere in the picture: what the check of `evaluation.spectrum` finds.

    `period`: by how much the amplitude at periods of 2, 4, 8 and 16 pixels, along rows and columns, exceeds that at
    neighbouring frequencies, and the original's excess; 0 for the original itself. (Where less is asked for than
    the usual, it pulls at every picture, and a decoder that cannot spare one frequency blurs the whole band.) Of
    the picture and not of its error: where a picture is blurred a faint grid is far below the detail that it lacks.
    `locked`: how the mean gradient by position modulo 8 and 16 differs from what the original's share of the mean
    would be. Both in amplitudes, since in ratios flat and blurred crops would outweigh all others. `grid_loss` sees
    what keeps its sign in smooth regions; these two see fainter patterns, and in texture too.
    """
    rebuilt, original = rebuilt.float(), original.float()
    excess = []
    for found, wanted in ((rebuilt, original), (rebuilt.mT, original.mT)):  # along rows, along columns
        (amplitude, usual), (theirs, their_usual) = _period_amplitude(found), _period_amplitude(wanted)
        allowed = usual * (theirs / their_usual).clamp(min=1)
        excess.append(F.relu(amplitude - allowed).mean())
    locked = [_locked(rebuilt, original, block) for block in BLOCKS]
    return {"period": torch.stack(excess).mean(), "locked": torch.stack(locked).mean()}


def _octaves(*pictures: Tensor, count: int) -> Iterator[list[Tensor]]:
    """Details of pictures, finest octave first: what each loses by being halved."""
    for _ in range(count):
        smaller = [F.avg_pool2d(x, 2) for x in pictures]
        yield [
            x - F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
            for x, low in zip(pictures, smaller, strict=True)
        ]
        pictures = tuple(smaller)


def _repeated_share(detail: Tensor, cell: int) -> Tensor:
    """Share of a detail's energy, `[B]`, that every cell repeats: about 0 in photographs, 1 for a wallpaper.

    Each place counts alike, however strong its detail is. Cells that know nothing of each other have a mean of 1 / K
    of their energy, which is taken off.
    """
    with torch.no_grad():
        # Along columns, then along rows: on a CPU the square in one go is a fifth of a training step.
        energy = detail.square().mean(1, keepdim=True)
        energy = F.avg_pool2d(energy, (15, 1), 1, (7, 0), count_include_pad=False)
        deviation = F.avg_pool2d(energy, (1, 15), 1, (0, 7), count_include_pad=False).sqrt()
    detail = detail / (deviation + _LEVEL)
    rows, columns = detail.shape[-2] // cell, detail.shape[-1] // cell
    cells = detail.unflatten(-1, (columns, cell)).unflatten(-3, (rows, cell))  # [B, 3, rows, cell, columns, cell]
    repeated = cells.mean(dim=(2, 4)).square().mean(dim=(1, 2, 3))
    count = rows * columns
    return (count * repeated / detail.square().mean(dim=(1, 2, 3)).clamp(min=1e-6) - 1) / (count - 1)


def wallpaper_loss(rebuilt: Tensor, original: Tensor) -> dict[str, Tensor]:
    """Texture that every cell of 64x64 pixels repeats, in any direction: the share beyond the original's, over octaves.

    Where only `z` was sent, neighbouring codes are often equal, and the networks draw the same into every cell of the
    hyper-latent. Rows and columns see nothing of a pattern along diagonals. 0 for crops with fewer than 4 cells.
    """
    if min(original.shape[-2:]) < 2 * CELL:
        return {"wallpaper": (rebuilt * 0).sum()}
    excess = []
    for octave, (found, wanted) in enumerate(_octaves(rebuilt.float(), original.float(), count=_OCTAVES)):
        cell = CELL >> octave
        count = (found.shape[-2] // cell) * (found.shape[-1] // cell)
        chance = 2 * 2**0.5 / cell / (count - 1)  # two deviations of what independent cells read
        allowed = _repeated_share(wanted, cell).clamp(min=0) + max(_UNSEEN_SHARE, chance)
        excess.append(F.relu(_repeated_share(found, cell) - allowed).mean())
    return {"wallpaper": torch.stack(excess).mean()}


def _moments(x: Tensor, window: int, spread: float) -> tuple[Tensor, Tensor]:
    """Mean and deviation in windows that overlap by half; `spread` keeps the root away from zero."""
    stride = max(1, window // 2)
    mean = F.avg_pool2d(x, window, stride)
    variance = F.avg_pool2d(x.square(), window, stride) - mean.square()
    return mean, (variance.clamp(min=0) + spread**2).sqrt()


def _wasserstein(found: Tensor, wanted: Tensor, window: int, spread: float) -> Tensor:
    """Of each picture, `[B]`."""
    (mean, deviation), (their_mean, their_deviation) = (_moments(x, window, spread) for x in (found, wanted))
    distance = (mean - their_mean).square() + (deviation - their_deviation).square()
    return (distance / (their_deviation + spread)).mean(dim=(1, 2, 3))


def _by_direction(x: Tensor) -> Tensor:
    """Differences of a map `[B, 1, h, w]` along rows, columns and both diagonals, `[B, 4, h, w]`."""
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    here, right, below, across = x[..., :-1, :-1], x[..., :-1, 1:], x[..., 1:, :-1], x[..., 1:, 1:]
    return torch.cat([right - here, below - here, across - here, below - right], dim=1)


def band_statistics_loss(rebuilt: Tensor, original: Tensor) -> dict[str, Tensor]:
    """Local statistics of four octaves of the pictures: as much detail as there was, whatever it looks like.

    Squared 2-Wasserstein distance between the normal distributions of a band, and of its differences in four directions
    (hatching is the cheapest texture to paint), in windows of 16 pixels or more. Divided by the original's deviation
    there, since texture masks an error in texture. (Wasserstein distortion: Qiu et al., 2024; with noise for a decoder:
    Balle et al., 2025.) L1 asks for the mean of all textures that could have been, which is none; an adversary asks for
    texture, but where and how much it learns slowly. Of each picture, `[B]`.
    """
    total = rebuilt.new_zeros(len(rebuilt), dtype=torch.float32)
    for octave, details in enumerate(_octaves(rebuilt.float(), original.float(), count=_OCTAVES)):
        oriented = [_by_direction(x.mean(dim=1, keepdim=True)) for x in details]
        window = max(8, _WINDOW >> octave)
        total = total + _wasserstein(*details, window=window, spread=2 * _LEVEL)
        total = total + _wasserstein(*oriented, window=window, spread=2 * _LEVEL)
    return {"band_statistics": total / _OCTAVES}


def feature_statistics(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The same distance between feature maps, in windows of 4x4 of their positions (smaller maps: as a whole).

    Channels are divided by their deviation over the originals. Of each picture, `[B]`.
    """
    total = found[0].new_zeros(len(found[0]))
    for rebuilt, original in zip(found, wanted, strict=True):
        deviation = original.std(dim=(0, 2, 3), keepdim=True, correction=0) + 1e-3
        window = min(4, *original.shape[-2:])
        total = total + _wasserstein(rebuilt / deviation, original / deviation, window, spread=0.1)
    return total / len(found)


def feature_distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """L1 distance between feature maps, each channel divided by its deviation over the originals of the batch.

    Of each picture, `[B]`.
    """
    total = found[0].new_zeros(len(found[0]))
    for rebuilt, original in zip(found, wanted, strict=True):
        deviation = original.std(dim=(0, 2, 3), keepdim=True, correction=0) + 1e-3
        total = total + ((rebuilt - original).abs() / deviation).mean(dim=(1, 2, 3))
    return total / len(found)


class PerceptualLosses:
    """Feature distance and, with an adversary, its loss: one pass of the feature network serves both.

    The network runs in float32 whatever the rest runs in: on photographs, its gradient in bfloat16 has a cosine of 0.7
    to the exact one.

    Args:
        features (`LiteFeatures`): the frozen network.
        adversary (`Adversary`, *optional*): discriminators on its maps.
        statistics (`bool`): with the distance between local statistics of its maps.
    """

    def __init__(self, features: LiteFeatures, adversary: Adversary | None = None, statistics: bool = False):
        self.features, self.adversary, self.statistics = features, adversary, statistics
        self._maps: tuple[list[Tensor], list[Tensor]] | None = None

    def to(self, device: torch.device | str) -> PerceptualLosses:
        """Moves the network; the adversary lives where it was made."""
        self.features.to(device)
        return self

    def __call__(self, rebuilt: Tensor, original: Tensor) -> dict[str, Tensor]:
        """`features`, `feature_statistics` if asked for, and `adversary` if there is one."""
        moved, target = jitter([rebuilt, original])
        with torch.no_grad():
            wanted = self.features(target)
        found = self.features(moved)
        losses = {"features": feature_distance(found, wanted)}
        if self.statistics:
            losses["feature_statistics"] = feature_statistics(found, wanted)
        if self.adversary is not None:
            losses["adversary"] = self.adversary.generator_loss(found, wanted)
            self._maps = ([m.detach() for m in found], wanted)
        return losses

    def learn(self) -> dict[str, float]:
        """One step of the discriminators on the maps of the last call."""
        if self.adversary is None or self._maps is None:
            return {}
        return self.adversary.learn(*self._maps)


def take_into(norms: dict[str, float], name: str, norm: float, momentum: float) -> None:
    """Takes a gradient norm into running ones; one that is not finite would stay for ever, and is left out."""
    if math.isfinite(norm):
        norms[name] = momentum * norms.get(name, norm) + (1 - momentum) * norm


class BalancedLosses:
    """The gradient at the picture of L1 plus weighted losses, each scaled to a share of L1's gradient norm.

    Args:
        functions (`Sequence[PictureLosses]`): what is computed.
        weights (`Mapping[str, float]`): strength of each named loss; those of weight 0 or without one are only logged.
        every (`int`): norms are measured this many steps apart (each costs a backward pass).
        momentum (`float`): of the running norms.
        balance (`bool`): without it weights simply multiply the losses (paper, section 3.3).
        pixel_weight (`float`): of L1 where losses are not balanced.
        reduce (`Callable`): makes of this process's gradient norm that of all processes together.
    """

    def __init__(
        self,
        functions: Sequence[PictureLosses],
        weights: Mapping[str, float],
        every: int = 25,
        momentum: float = 0.7,
        *,
        balance: bool = True,
        pixel_weight: float = 1.0,
        reduce: Callable[[float], float] = lambda norm: norm,
    ):
        self.functions, self.every, self.momentum = functions, every, momentum
        self.balance, self.pixel_weight, self.reduce = balance, pixel_weight, reduce
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.norms: dict[str, float] = {}
        self._calls = 0

    def _measure(self, losses: Mapping[str, Tensor], leaf: Tensor) -> None:
        for name in ("pixel", *self.weights):
            (gradient,) = torch.autograd.grad(losses[name].mean(), leaf, retain_graph=True)
            take_into(self.norms, name, self.reduce(float(gradient.norm())), self.momentum)

    def _factor(self, name: str) -> float:
        """Of a loss, so that it pulls as its weight says; 0 as long as no norm of it, or of L1, was finite."""
        if not {"pixel", name} <= self.norms.keys():
            return 0.0
        pixel = self.norms["pixel"]
        return self.weights[name] * pixel / max(self.norms[name], _LEAST_NORMS.get(name, 0.0) * pixel, 1e-12)

    def __call__(
        self, rebuilt: Tensor, original: Tensor, shares: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The gradient to send back from `rebuilt`, and each loss's value for the log.

        Args:
            rebuilt (`torch.Tensor` of shape `[B, 3, S, S]`): about [-1, 1].
            original (`torch.Tensor` of shape `[B, 3, S, S]`): in [-1, 1].
            shares (`Mapping[str, torch.Tensor]`, *optional*): by the name of a loss of each picture, factors on its
                pull, `[B]`.
        """
        leaf = rebuilt.detach().requires_grad_(True)
        losses: dict[str, Tensor] = {"pixel": l1_loss(leaf, original)}
        for function in self.functions:
            losses.update(function(leaf, original))
        known = {"pixel", *self.weights} <= self.norms.keys()
        if self.balance and (self._calls % self.every == 0 or not known):
            self._measure(losses, leaf)  # at the latest when a loss joins
        self._calls += 1
        total = losses["pixel"] * (1.0 if self.balance else self.pixel_weight)
        for name, weight in self.weights.items():
            loss = losses[name] if shares is None or name not in shares else losses[name] * shares[name]
            total = total + loss.mean() * (self._factor(name) if self.balance else weight)
        (gradient,) = torch.autograd.grad(total, leaf)
        return gradient, {name: float(loss.detach().mean()) for name, loss in losses.items()}

    def state_dict(self) -> dict[str, object]:
        """Running norms, for checkpoints."""
        return {"norms": dict(self.norms), "calls": self._calls}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Inverse of `state_dict`."""
        self.norms, self._calls = dict(state["norms"]), int(state["calls"])  # type: ignore[call-overload]
