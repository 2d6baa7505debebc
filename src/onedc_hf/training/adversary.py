"""An image-space adversary on frozen pretrained features (projected discriminators; Sauer et al., 2021).

Discriminators that have learned are worth keeping: new ones teach a model that is good already little for hundreds of
steps. A run writes them beside its pipeline, and the package has those that the model in the box learned from.

Four small discriminators look at the feature maps of a frozen network, after a fixed random mixing of channels, so
that they cannot live on a single conspicuous channel. Spectral norm, and one of two losses:

- `hinge`: every logit for itself; the model is pulled as hard by a place that looks right as by one that does not.
- `paired`: the logit of a place against that of the same place in the original (relativistic pairing;
  Jolicoeur-Martineau, 2019, and Huang et al., "The GAN is dead; long live the GAN!", 2024). A place that looks as real
  as its original pulls no harder than what is learned of it, and what originals have in common cancels.

Shapes: feature maps are `[B, C, h, w]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..errors import ModelError
from .config import ADVERSARY_LOSSES
from .steps import FiniteSteps

__all__ = ["BOX_DISCRIMINATORS", "DISCRIMINATORS", "Adversary"]

DISCRIMINATORS = "discriminators.safetensors"  # what a run writes into its folder
BOX_DISCRIMINATORS = Path(str(resources.files(__package__) / "data" / "box-discriminators.safetensors"))
_WIDTH = 64


class _Head(nn.Module):
    """Fixed random channel mixing, then two learned layers to a map of logits."""

    def __init__(self, channels: int):
        super().__init__()
        mixing = torch.randn(_WIDTH, channels, 1, 1, generator=torch.Generator().manual_seed(channels))
        self.register_buffer("mixing", mixing / channels**0.5)
        self.conv = spectral_norm(nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1))
        self.out = spectral_norm(nn.Conv2d(_WIDTH, 1, 3, padding=1))

    def forward(self, features: Tensor) -> Tensor:
        return self.out(F.leaky_relu(self.conv(F.conv2d(features, self.mixing)), 0.2))


class Adversary:
    """Discriminators with their optimiser.

    Args:
        channels (`Sequence[int]`): widths of the feature maps.
        learning_rate (`float`): of the discriminators.
        device (`torch.device`): where they live.
        accumulated (`int`): calls of `learn` that make one step.
        loss (`str`): `hinge` or `paired`.

    Raises:
        ValueError: for another loss.
    """

    def __init__(
        self,
        channels: Sequence[int],
        learning_rate: float,
        device: torch.device | str = "cpu",
        accumulated: int = 1,
        loss: str = "hinge",
    ):
        if loss not in ADVERSARY_LOSSES:
            raise ValueError(f"An adversary's loss is one of {', '.join(ADVERSARY_LOSSES)}; got {loss!r}.")
        self.loss = loss
        self.channels = " ".join(map(str, channels))  # tells one feature network from another
        self.heads = nn.ModuleList(_Head(width) for width in channels).to(device)
        self.optimizer = torch.optim.Adam(self.heads.parameters(), lr=learning_rate, betas=(0.0, 0.98))
        self.accumulated, self._calls = accumulated, 0
        self._finite = FiniteSteps("the discriminators")

    def logits(self, maps: Sequence[Tensor], real: Sequence[Tensor]) -> list[Tensor]:
        """One map of logits for each feature map, which is divided by the deviation of the originals'.

        By its own, a map that lacks energy everywhere would look like one that does not.
        """
        pairs = zip(self.heads, maps, real, strict=True)
        return [head(found / (original.std() + 1e-3)) for head, found, original in pairs]

    def generator_loss(self, maps: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
        """Loss of the model, of each picture, `[B]`: of all places, the mean of each map.

        Hinge: minus the logit. Paired: `softplus(original's - rebuilt's)`.

        Args:
            maps (`Sequence[torch.Tensor]`): of rebuilt pictures.
            real (`Sequence[torch.Tensor]`): of their originals.
        """
        losses = [-low for low in self.logits(maps, real)]
        if self.loss == "paired":
            with torch.no_grad():
                highs = self.logits(real, real)
            losses = [F.softplus(high + loss) for high, loss in zip(highs, losses, strict=True)]
        return torch.stack([loss.mean(dim=(1, 2, 3)) for loss in losses]).mean(dim=0)

    def learn(self, fake: Sequence[Tensor], real: Sequence[Tensor]) -> dict[str, float]:
        """One step of the discriminators on feature maps (without gradient) of rebuilt and original pictures.

        Where batches are accumulated, the gradients of as many calls make one step.

        Returns:
            `dict`: the loss, and the share of logits on the right side: of zero, or of their partners.
        """
        loss = fake[0].new_zeros(())
        right, count = 0.0, 0
        for low, high in zip(self.logits(fake, real), self.logits(real, real), strict=True):
            if self.loss == "paired":
                loss = loss + F.softplus(low - high).mean()
                right += float((low < high).sum())
                count += low.numel()
            else:
                loss = loss + F.relu(1 + low).mean() + F.relu(1 - high).mean()
                right += float((low < 0).sum() + (high > 0).sum())
                count += low.numel() + high.numel()
        (loss / self.accumulated).backward()
        self._calls += 1
        if self._calls % self.accumulated == 0:
            self._step()
        return {"discriminator": float(loss.detach()), "discriminator_right": right / count}

    def _step(self) -> None:
        if torch.distributed.is_initialized():
            for parameter in self.heads.parameters():  # the heads are not wrapped by accelerate
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad.div_(torch.distributed.get_world_size())
        gradients = [parameter.grad for parameter in self.heads.parameters() if parameter.grad is not None]
        if self._finite.may(float(torch.nn.utils.get_total_norm(gradients))):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def save(self, path: Path) -> None:
        """Writes what the heads have learned, in float16; not the fixed mixing, nor the optimiser."""
        learned = {k: v.half().contiguous().cpu() for k, v in self.heads.state_dict().items() if "mixing" not in k}
        save_file(learned, path, metadata={"channels": self.channels})

    def load(self, source: str) -> None:
        """Takes up heads that `save` wrote; the optimiser starts anew.

        Args:
            source (`str`): `box`, the ones of the package, or a file.

        Raises:
            ModelError: if there is no such file, or it holds heads for another feature network.
        """
        path = BOX_DISCRIMINATORS if source == "box" else Path(source)
        what_to_do = (
            f"Give 'box' (the ones of the package) or the {DISCRIMINATORS} that a run with the same `feature_network` "
            "wrote; leave `discriminators` empty for new ones."
        )
        try:
            with safe_open(path, "pt") as file:
                channels = (file.metadata() or {}).get("channels")
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise ModelError(f"The discriminators {source!r} could not be loaded: {error}. {what_to_do}") from error
        if channels != self.channels:
            raise ModelError(
                f"The discriminators {source!r} are for feature maps of {channels} channels, and those at hand have "
                f"{self.channels}. {what_to_do}"
            )
        own = self.heads.state_dict()
        learned = {name for name in own if "mixing" not in name}
        if found.keys() != learned or any(found[name].shape != own[name].shape for name in learned):
            raise ModelError(f"The file {source!r} does not hold discriminators of this version. {what_to_do}")
        self.heads.load_state_dict(found, strict=False)

    def state_dict(self) -> dict[str, Any]:
        """Heads and optimiser, for checkpoints."""
        return {"heads": self.heads.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; the learning rate stays the one that was asked for."""
        rate = self.optimizer.param_groups[0]["lr"]
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0]["lr"] = rate
