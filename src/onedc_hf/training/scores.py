"""Score networks: what a diffusion model says about noised latents, with captions or without.

Both kinds are diffusers' `UNet2DConditionModel`: Stable Diffusion's, which sees a caption, and the small one that
`teacher.py` trains, which sees nothing but the latent.

Shapes: B batch, L latent channels, h w rows and columns of a latent, C h' w' the map of the middle block, T tokens of a
caption, E their width.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import Tensor, nn

from ..errors import ModelError
from ..sources import looks_like_path
from .captions import CaptionEncoder

__all__ = ["Guided", "LatentScale", "NoisePredictor", "NoiseSchedule", "ScoreNetwork", "Teacher", "load_teacher"]

LATENTS_FILE = "latents.json"
_FILES = [
    LATENTS_FILE,
    "scheduler/*",
    "tokenizer/*",
    "*/config.json",
    "*/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model-*.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.json",
]
# Settings of a U-Net that mean an input beside latent, timestep and caption.
_MORE_INPUTS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "num_class_embeds")


class NoiseSchedule:
    """How much of a latent is left at each timestep: x_t = sqrt(a_t) x + sqrt(1 - a_t) n.

    Args:
        scheduler (`DDPMScheduler`): whose cumulative alphas count; networks must predict the noise.

    Raises:
        ValueError: for a scheduler of networks that predict anything else.
    """

    def __init__(self, scheduler: DDPMScheduler):
        kind = scheduler.config.prediction_type  # type: ignore[attr-defined]
        if kind != "epsilon":
            raise ValueError(
                f"The teacher must predict noise (`prediction_type` 'epsilon'); its scheduler says {kind!r}."
            )
        self.alphas_cumprod = scheduler.alphas_cumprod.double()  # [steps], computed in float32 as everywhere

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def draw(
        self, like: Tensor, low: int, high: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Timesteps `[B]`, uniform in [low, high] with both ends, and noise for latents."""
        if not 0 <= low <= high < len(self):
            raise ValueError(f"`timesteps` must lie in [0, {len(self) - 1}], the lower one first; got {low}, {high}.")
        device = generator.device if generator is not None else like.device
        timesteps = torch.randint(low, high + 1, (len(like),), generator=generator, device=device)
        noise = torch.randn(like.shape, generator=generator, device=device)
        return timesteps.to(like.device), noise.to(like.device)

    def _roots(self, timesteps: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        alphas = self.alphas_cumprod[timesteps.cpu()].view(-1, 1, 1, 1)
        return (alphas.sqrt().to(timesteps.device, dtype), (1 - alphas).sqrt().to(timesteps.device, dtype))

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of latents `[B, L, h, w]` at timesteps `[B]`."""
        keep, add = self._roots(timesteps, latent.dtype)
        return keep * latent + add * noise

    def to_clean(self, noised: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x0 = (x_t - sqrt(1 - a_t) eps) / sqrt(a_t), in float64: late timesteps multiply errors by up to 14.6."""
        wide = torch.float32 if noised.device.type == "mps" else torch.float64  # MPS has no float64
        keep, add = self._roots(timesteps, wide)
        return (noised.to(wide) - add * noise.to(wide)) / keep


@dataclass(frozen=True)
class LatentScale:
    """Brings latents to the mean 0 and deviation 1 that noise schedules are made for, channel by channel.

    Latents of Stable Diffusion's VAE are there already, by its scaling factor: theirs has no channels.

    Args:
        mean, deviation (`tuple[float, ...]`): of each of the L channels; empty: latents are left alone.
    """

    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @classmethod
    def of(cls, latents: Tensor) -> LatentScale:
        """The scale of a sample of latents `[B, L, h, w]`."""
        flat = latents.double().transpose(0, 1).flatten(1)
        return cls(tuple(flat.mean(1).tolist()), tuple(flat.std(1).clamp_min(1e-6).tolist()))

    @classmethod
    def load(cls, folder: Path) -> LatentScale:
        """What `save` wrote, or the scale that leaves latents alone."""
        path = folder / LATENTS_FILE
        if not path.is_file():
            return cls()
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(values["mean"]), tuple(values["deviation"]))

    def save(self, folder: Path) -> None:
        """Writes `latents.json` beside the network."""
        (folder / LATENTS_FILE).write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    def standardise(self, latent: Tensor) -> Tensor:
        """The network's view of latents `[B, L, h, w]`."""
        if not self.mean:
            return latent
        if len(self.mean) != latent.shape[1]:
            raise ValueError(f"The teacher knows latents of {len(self.mean)} channels; these have {latent.shape[1]}.")
        mean, deviation = (torch.tensor(v).view(1, -1, 1, 1).to(latent) for v in (self.mean, self.deviation))
        return (latent - mean) / deviation


class NoisePredictor(Protocol):
    """Whatever estimates the noise in a latent."""

    def predict_noise(self, noised: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        """Noise `[B, L, h, w]` in latents x_t of that shape at timesteps `[B]`, given captions `[B, T, E]`."""
        ...


class ScoreNetwork(nn.Module):
    """A U-Net that estimates the noise in a latent, and whose middle block can be looked at.

    Args:
        unet (`UNet2DConditionModel`): with cross-attention to a caption, or with none at all.

    Raises:
        ValueError: for a U-Net that asks for anything else, or has no middle block.
    """

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        more = [name for name in _MORE_INPUTS if getattr(unet.config, name, None) is not None]
        if more or unet.mid_block is None or unet.config.in_channels != unet.config.out_channels:
            asks = f"it has {', '.join(more)}" if more else "it has no middle block, or other outputs than inputs"
            raise ValueError(f"A score network sees a latent, a timestep and perhaps a caption, no more; but {asks}.")
        self.unet = unet
        self.wants_captions = any(
            getattr(block, "has_cross_attention", False)
            for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
        )

    @property
    def middle_channels(self) -> int:
        """C, channels of `middle`."""
        return self.unet.config.block_out_channels[-1]

    @property
    def middle_reduction(self) -> int:
        """How many latent rows one row of `middle` stands for."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)

    def _ready(self, noised: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.wants_captions and condition is None:
            raise ValueError("`condition` is missing: this network sees captions (of an empty text, if there is none).")
        dtype = self.unet.conv_in.weight.dtype
        return noised.to(dtype), condition.to(dtype) if self.wants_captions and condition is not None else None

    def predict_noise(self, noised: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        """Noise `[B, L, h, w]`, in float32, in latents x_t at timesteps `[B]`, given captions `[B, T, E]`."""
        noised, condition = self._ready(noised, condition)
        noise = self.unet(noised, timesteps, encoder_hidden_states=condition, return_dict=False)[0]
        return noise.float()

    def middle(self, noised: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        """Output of the middle block, `[B, C, h', w']`: the first half of `predict_noise`'s way, and of its cost."""
        unet = self.unet
        x, condition = self._ready(noised, condition)
        embedding = unet.time_embedding(unet.get_time_embed(sample=x, timestep=timesteps))
        x = unet.conv_in(2 * x - 1 if unet.config.center_input_sample else x)

        def captions(block: nn.Module) -> dict[str, Tensor | None]:
            return {"encoder_hidden_states": condition} if getattr(block, "has_cross_attention", False) else {}

        for block in unet.down_blocks:
            x, _ = block(hidden_states=x, temb=embedding, **captions(block))
        return unet.mid_block(x, embedding, **captions(unet.mid_block))  # [B, C, h', w']


class Guided:
    """Classifier-free guidance: eps_u + scale (eps_c - eps_u), with the noise seen without and with the caption.

    Args:
        network (`NoisePredictor`): the network.
        unconditional (`torch.Tensor` of shape `[1, T, E]`): the empty caption.
        scale (`float`): 1.75 in the paper's second stage; 1 switches guidance off.
    """

    def __init__(self, network: NoisePredictor, unconditional: Tensor, scale: float = 1.75):
        self.network, self.unconditional, self.scale = network, unconditional, scale

    def predict_noise(self, noised: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        """The guided noise; without captions there is nothing to guide by."""
        empty = self.unconditional.expand(len(noised), -1, -1)
        if condition is None or self.scale == 1:
            return self.network.predict_noise(noised, timesteps, empty if condition is None else condition)
        both = torch.cat([empty.to(condition), condition])
        noise = self.network.predict_noise(torch.cat([noised] * 2), torch.cat([timesteps] * 2), both)
        without, given = noise.chunk(2)
        return without + self.scale * (given - without)


@dataclass
class Teacher:
    """A diffusion model as stage 2 needs it, twice.

    Args:
        real (`NoisePredictor`): scores of real latents; frozen, guided.
        fake (`ScoreNetwork`): starts as the same network, and learns the scores of rebuilt latents; in float32.
        schedule (`NoiseSchedule`): that both were trained with.
        scale (`LatentScale`): of the latents that both see.
        captions (`CaptionEncoder`, *optional*): for networks that see captions.
    """

    real: NoisePredictor
    fake: ScoreNetwork
    schedule: NoiseSchedule
    scale: LatentScale
    captions: CaptionEncoder | None = None


def load_teacher(
    source: str,
    *,
    guidance_scale: float = 1.75,
    real_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    revision: str | None = None,
) -> Teacher:
    """Loads a diffusion model as teacher.

    Args:
        source (`str`): a folder or Hub id with `unet` and `scheduler`, and `tokenizer` and `text_encoder` if the U-Net
            sees captions; `train_teacher` writes such a folder.
        guidance_scale (`float`): of the real scores, where there are captions.
        real_dtype (`torch.dtype`): of the frozen network: bfloat16 in the paper, where the device has it.
        device (`torch.device`): where the networks live.
        revision (`str`, *optional*): of the Hub repository.

    Raises:
        ModelError: if there is no such folder or repository, or a part is missing.
        ValueError: for a network of another kind.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir() and looks_like_path(source):
        raise ModelError(f"`teacher`: there is no folder {source!r}. A repository of the Hub is `org/name`.")
    try:
        if not folder.is_dir():
            folder = Path(snapshot_download(source, revision=revision, allow_patterns=_FILES))
        return _load_from(folder, guidance_scale, real_dtype, device)
    except (OSError, HFValidationError) as error:  # those of the Hub are of the first kind
        raise ModelError(
            f"`teacher`: no diffusion model could be loaded from {source!r}: {error} It needs `unet` and `scheduler`, "
            "and for captions `tokenizer` and `text_encoder`. Check the name, your access, and the network; a folder's "
            "name begins with ./ or /."
        ) from error


def _load_from(folder: Path, guidance_scale: float, real_dtype: torch.dtype, device: torch.device | str) -> Teacher:
    schedule = NoiseSchedule(DDPMScheduler.from_pretrained(folder, subfolder="scheduler"))
    networks = []
    for dtype in (real_dtype, torch.float32):
        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype)
        networks.append(ScoreNetwork(unet.to(device).eval().requires_grad_(False)))
    real, fake = networks
    scale = LatentScale.load(folder)
    if not fake.wants_captions:
        return Teacher(real, fake, schedule, scale)
    captions = CaptionEncoder.load(folder, device)
    return Teacher(Guided(real, captions([""]), guidance_scale), fake, schedule, scale, captions)
