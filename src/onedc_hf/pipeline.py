"""OneDCPipeline: a picture to a small file and back. Read this first.

    compress:    picture -> vae, codec analysis (networks) -> coder (coder.py: context model, coding) -> bytes
    decompress:  bytes -> coder -> codec synthesis, generator, vae (networks) -> picture

Loading and saving are in storage.py, which integers write and read files in entropy_path.py, adapters in lora.py, what
`effort` does in refinement.py.

Shapes: B batch (1 inside), H W rows and columns of the padded picture, h w latent at 1/8, Y X at 1/16, Z V at 1/64,
L latent channels, N channels of `y`, K digits of `z`, D detail channels, S semantic channels, R quality rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, cast, overload

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .authors import decode_authors_file, header_of, is_authors_file
from .beside import pack_beside, with_alpha, with_metadata
from .coder import Analysed, Symbols
from .coding import Kind, SymbolModel, Tag, parse_header
from .coding.order import Y_PER_Z
from .compiled import plain
from .distance import PictureDistance
from .earlier import EarlierReaders
from .entropy_path import EntropyPathMixin
from .errors import ModelError
from .identity import (
    pack_adapter,
    pack_decoder,
    warn_of_another_adapter,
    warn_of_another_decoder,
)
from .loading import check_components
from .lora_mixin import LoraMixin
from .memory_layout import settle
from .models import OneDCAutoencoder, OneDCCodec, OneDCGenerator
from .models.codec import semantic_tokens
from .models.patch_attention import attend_in_patches
from .pictures import PictureInput, from_tensor, is_open_file, open_picture, pad, to_output, to_tensor
from .provenance import provenance_info
from .rate_search import ANY_SIZE, check_effort, check_rate
from .refinement import Refiner, check_gradients, gradient_tiles
from .storage import StorageMixin
from .tiling import POSITION, Canvas, Tiling, assemble, part_of, spans

__all__ = ["OneDCPipeline", "OneDCPipelineOutput"]

_DEFAULT_QUALITY = 50
_COMPONENTS = ("vae", "codec", "generator", "scheduler")
_LATENT_PER_POSITION = POSITION // 8  # the VAE's grid

DataInput = bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes]


@dataclass
class OneDCPipelineOutput(BaseOutput):
    """Result of a round trip.

    Args:
        images (`list`): rebuilt pictures, PIL, or NumPy `[H, W, 3]` in [0, 1], or torch `[3, H, W]` in [0, 1].
        bitstreams (`list[bytes]`): the `.odc` file of each picture.
        bpp (`list[float]`): 8 x file size / pixels of each picture.
    """

    images: list[Any]
    bitstreams: list[bytes]
    bpp: list[float]


class OneDCPipeline(LoraMixin, EntropyPathMixin, StorageMixin, DiffusionPipeline):  # type: ignore[misc]
    """One-step diffusion image codec.

    Args:
        vae (`AutoencoderKL`, `AutoencoderTiny` or `OneDCAutoencoder`): pixels to latents at 1/8 and back. The attention
            of an `AutoencoderKL` is made patch-wise, in place (`codec.config.vae_attention_patch`).
        codec (`OneDCCodec`): latents to symbols and back.
        generator (`OneDCGenerator`): the one-step U-Net.
        scheduler (`DDPMScheduler`): the noise schedule the generator was made for; one step at t = 999 is taken.
    """

    model_cpu_offload_seq = "vae->codec->generator->vae"

    vae: Any  # the union of `__init__`; diffusers types the results of its autoencoders as tuples, too
    codec: OneDCCodec
    generator: OneDCGenerator
    scheduler: DDPMScheduler

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny | OneDCAutoencoder,
        codec: OneDCCodec,
        generator: OneDCGenerator,
        scheduler: DDPMScheduler,
    ):
        super().__init__()
        self._symbol_model: SymbolModel | None = None
        self._tiling: Tiling | None = Tiling()
        self.register_modules(vae=vae, codec=codec, generator=generator, scheduler=scheduler)
        self._settle_components()

    def __setattr__(self, name: str, value: Any) -> None:
        """Takes another component, such as `pipe.vae = other`; it has to go with those that are there."""
        assigned = name in _COMPONENTS and self.__dict__.get("_settled", False)  # not by `__init__`, one by one
        former = getattr(self, name) if assigned else None
        super().__setattr__(name, value)
        if assigned and all(getattr(self, component) is not None for component in _COMPONENTS):
            try:
                self._settle_components()
            except Exception:
                super().__setattr__(name, former)
                raise

    def _settle_components(self) -> None:
        check_components(self.vae, self.codec, self.generator, self.scheduler)
        for part in (self.vae, self.codec, self.generator):
            settle(part.eval())
        if isinstance(vae := plain(self.vae), AutoencoderKL):
            attend_in_patches(vae, self.codec.config.vae_attention_patch)
        self._decoder_id, self._weights_seen = None, None
        self._earlier = EarlierReaders()
        self._settled = True

    # Compress -----------------------------------------------------------------------------------------------------

    @overload
    def compress(
        self,
        image: PictureInput,
        quality: int | None = None,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        z_only: bool = False,
        keep_metadata: bool = False,
        name_decoder: bool = False,
        effort: int = 0,
    ) -> bytes: ...

    @overload
    def compress(
        self,
        image: Sequence[PictureInput],
        quality: int | None = None,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        z_only: bool = False,
        keep_metadata: bool = False,
        name_decoder: bool = False,
        effort: int = 0,
    ) -> list[bytes]: ...

    @torch.inference_mode()
    def compress(
        self,
        image: PictureInput | Sequence[PictureInput],
        quality: int | None = None,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        z_only: bool = False,
        keep_metadata: bool = False,
        name_decoder: bool = False,
        effort: int = 0,
    ) -> bytes | list[bytes]:
        """Compresses a picture, or each of a list of pictures of any sizes.

        Args:
            image (path, open file, `PIL.Image.Image`, `np.ndarray`, `torch.Tensor`, or a list of them): see
                `onedc_hf.pictures.load_picture`.
            quality (`int`, *optional*): 0 (smallest file) to 100; 50 if nothing else is asked for.
            target_bytes (`int`, *optional*): largest size of the file; the best quality that fits is taken.
            target_bpp (`float`, *optional*): the same in bits per pixel of the picture.
            z_only (`bool`): send the hyper-latent alone, about 0.0034 bits per pixel.
            keep_metadata (`bool`): keep EXIF, XMP and an RGB colour profile, 4 MiB at most. Alpha is kept in any case,
                without loss; both count in `target_bytes`.
            name_decoder (`bool`): note in the file which decoder side is at hand, in 7 bytes: another one that rebuilds
                the picture then says so in a warning.
            effort (`int`): steps of refinement (refinement.py): 5 to 20 save 5 to 10 % of the bytes or give as much in
                quality. Each costs what one to three `decompress` do, and about ten come before the first (with a
                target up to twice all that). Files decode as ever. A z-only file stays as it is.

        Returns:
            `bytes`, or a list of them for a list: the `.odc` file.

        Raises:
            PictureError: for a picture that cannot be read.
            ModelError: if this model only reads files (`decoder_only`).
            TargetError: if even the smallest file is larger than the target; it names that size.
            ModuleNotFoundError: if `effort` is asked for without the packages of the extra `effort`.
            TypeError, ValueError: for arguments that contradict each other or lie out of range; for `effort` where
                parts are put away between their turns (offload), since gradients pass all of them.
        """
        check_rate(quality, target_bytes, target_bpp, z_only)
        check_effort(effort)
        if effort and not z_only:
            check_gradients(self.vae, self.codec, self.generator)
        if self.codec.config.decoder_only:
            raise ModelError("This model only reads files: it was saved without its analysis side (`decoder_only`).")
        if isinstance(image, list | tuple):
            rate = (quality, target_bytes, target_bpp, z_only)
            return [self.compress(one, *rate, keep_metadata, name_decoder, effort) for one in image]
        # 1. The picture as the networks see it, and what goes beside it.
        opened = open_picture(cast(PictureInput, image), self.max_pixels)
        rgb = opened.rgb  # [height, width, 3] uint8
        height, width, _ = rgb.shape
        # 2. Analysis: latent and hyper-latent. Neither depends on the rate.
        extensions = pack_beside(opened, keep_metadata)
        if name_decoder:
            extensions = (*extensions, pack_decoder(self.decoder_id))
        if (adapter := self.adapter_id) is not None:
            extensions = (*extensions, pack_adapter(adapter))
        analysed = replace(self._analyse(rgb), extensions=tuple(sorted(extensions)))
        # 3. The rate: a row of gains.
        coder = self._coder
        if target_bpp is not None:
            target_bytes = int(min(float(target_bpp) * width * height / 8, ANY_SIZE))
        if target_bytes is None and (z_only or self.codec.config.z_only):
            data = coder.write(analysed, None)
        elif target_bytes is not None:
            data = coder.write_within(analysed, target_bytes)
        else:
            data = coder.write(analysed, coder.row(_DEFAULT_QUALITY if quality is None else quality))
        # 4. Refinement, if asked for.
        if effort and parse_header(data).kind != Kind.Z_ONLY:
            data = self._refiner(rgb, analysed).write(analysed, data, effort, target_bytes)
        # 5. The proof: symbols and checks are decoded again before anything is handed out.
        coder.prove(data, analysed)
        self.maybe_free_model_hooks()
        return data

    def _analyse(self, rgb: np.ndarray) -> Analysed:
        y, codes = self._analyse_networks(rgb)
        if not (torch.isfinite(y).all() and torch.isfinite(codes).all()):
            raise ModelError(f"The analysis gives NaN or infinity in {y.dtype}: try dtype=torch.float32.")
        index = self.codec.z_vq.codes_to_index(codes)[0].cpu().numpy()  # [Z, V]
        height, width, _ = rgb.shape
        coder = self._coder
        return Analysed(width, height, y.to(coder.entropy.device), index, coder.hyper_synthesis(index))

    def _analyse_networks(self, rgb: np.ndarray) -> tuple[Tensor, Tensor]:
        """The latent `[1, N, Y, X]` and the hyper-latent's codes `[1, K, Z, V]` of a picture; in floats, not exact."""
        codec, device = self.codec, self._execution_device

        def analyse_tile(rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
            tile = rgb[POSITION * rows.start : POSITION * rows.stop, POSITION * columns.start : POSITION * columns.stop]
            pixels = pad(to_tensor(tile), POSITION).to(device, codec.dtype)  # [1, 3, H, W] in [-1, 1]
            encoded = self.vae.encode(pixels.to(self.vae.dtype))
            # The posterior's mean, not a sample: the same picture always gives the same file.
            latent = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
            latent = (latent * self.vae.config.scaling_factor).to(codec.dtype)  # [1, L, h, w]
            return codec.analyse(pixels, latent)

        rows, columns = self._tiles(rgb.shape[0], rgb.shape[1])
        z_rows, z_columns = rows[-1].stop, columns[-1].stop
        options = {"dtype": codec.dtype, "device": device}
        y = torch.empty(1, codec.config.y_channels, Y_PER_Z * z_rows, Y_PER_Z * z_columns, **options)
        semantic = torch.empty(1, codec.config.semantic_channels, z_rows, z_columns, **options)
        assemble(analyse_tile, rows, columns, [Canvas(y, Y_PER_Z), Canvas(semantic, 1)])
        return y, codec.hyper_analyse(y, semantic)

    # Decompress ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def decompress(
        self,
        data: DataInput | Sequence[DataInput],
        output_type: Literal["pil", "np", "pt"] = "pil",
        allow_partial: bool = False,
        preview: bool = False,
    ) -> Any:
        """Rebuilds a picture from an `.odc` file, or each of a list of them.

        Args:
            data (`bytes`, path or open file, or a list of them): the file.
            output_type (`"pil"`, `"np"` or `"pt"`): PIL image; NumPy `[H, W, 3]` or torch `[3, H, W]`, in [0, 1].
            allow_partial (`bool`): also rebuild what arrived of a file that was cut after its hyper-latent; a warning
                says how much that was. Only the hyper-latent is verified then; the whole picture is where only alpha or
                metadata behind it were cut. Damage to the picture is still refused.
            preview (`bool`): stop after the hyper-latent: a rough picture, quickly.

        Returns:
            The picture, or a list of pictures for a list; RGBA (`[H, W, 4]`, `[4, H, W]`) where the file holds alpha.
            `info` of a PIL image says that detail was synthesised, by
            which model and from how many bits (`onedc_hf.provenance`).

        Raises:
            BitstreamError: for bytes that this model cannot decode; the subclass and text say why.
            PictureError: if the networks give NaN or infinity, which half precision does for symbols that no picture
                has.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"`output_type` must be 'pil', 'np' or 'pt'; got {output_type!r}.")
        if isinstance(data, list | tuple):
            return [self.decompress(one, output_type, allow_partial, preview) for one in data]
        data = _read(cast(DataInput, data))
        if (earlier := self._earlier.pipeline_of(data, self, allow_partial)) is not None:
            return earlier.decompress(data, output_type, allow_partial, preview)
        # 1. The file and its symbols: hyper-latent, then the four passes of the latent. Every check happens here.
        symbols = self._read_own(data, allow_partial, preview)
        if (named := dict(symbols.extensions).get(Tag.IDENTITY)) is not None:
            with suppress(ModelError):  # weights that are put away cannot be compared; that is no reason to refuse
                warn_of_another_decoder(named, self.decoder_id)
        if (named := dict(symbols.extensions).get(Tag.ADAPTER)) is not None:
            warn_of_another_adapter(named, self.adapter_id)
        # 2. The picture: detail features, one step of diffusion, pixels.
        pixels = self._rebuild(symbols)  # [height, width, 3] uint8
        self.maybe_free_model_hooks()
        # 3. What came beside it.
        pixels = with_alpha(pixels, symbols.extensions)  # [height, width, 3 or 4]
        if output_type != "pil":
            with torch.inference_mode(False):  # a tensor that may be worked on and learned from, as of other pipelines
                return to_output(pixels, output_type)
        result: Any = with_metadata(to_output(pixels), symbols.extensions)
        part = preview and symbols.header.kind != Kind.Z_ONLY
        result.info |= provenance_info(self.model_id, symbols.header.bpp, symbols.received, part)
        return result

    def _rebuild(self, symbols: Symbols) -> np.ndarray:
        """The decoder side, from symbols to pixels `[height, width, 3]` uint8."""
        # The semantic map belongs to the picture as a whole: every tile attends to all of its tokens.
        semantic = self.codec.adapt(symbols.semantic_seed)  # [1, S, Z, V]
        height, width = symbols.header.height, symbols.header.width
        pixels = torch.empty(height, width, 3, dtype=torch.uint8)

        def rebuild_tile(rows: slice, columns: slice) -> tuple[Tensor]:
            tile = self._rebuild_tile(symbols.y_hat, semantic, symbols.row, rows, columns)
            return (torch.from_numpy(from_tensor(tile)[0]),)

        assemble(rebuild_tile, *self._tiles(height, width), [Canvas(pixels, POSITION, rows=0, columns=1)])
        return pixels.numpy()

    def _rebuild_tile(self, y_hat: Tensor, semantic: Tensor, row: int | None, rows: slice, columns: slice) -> Tensor:
        """One tile of the picture, `[1, 3, H, W]` in [-1, 1]."""
        tokens = semantic_tokens(semantic)  # [1, Z*V, S]
        quality = torch.tensor([self._coder.quality(row)], dtype=torch.float32, device=tokens.device)
        part = part_of(y_hat, rows, columns, Y_PER_Z)
        detail = self.codec.synthesise(part, part_of(semantic, rows, columns, 1))  # [1, D, h, w]
        latent = self.generator(detail, tokens, quality)  # [1, L, h, w], from one step of diffusion
        latent = (latent / self.vae.config.scaling_factor).to(self.vae.dtype)
        place = {}
        if getattr(self.vae.config, "noise_channels", 0):  # noise belongs to a place in the picture
            place["origin"] = (_LATENT_PER_POSITION * rows.start, _LATENT_PER_POSITION * columns.start)
        return self.vae.decode(latent, **place).sample

    def _refiner(self, rgb: np.ndarray, analysed: Analysed) -> Refiner:
        """What refines latents of a picture, with a decoder side that passes gradients on."""
        height, width, _ = rgb.shape
        rows, columns = map(gradient_tiles, self._tiles(height, width))
        with torch.inference_mode(False), torch.no_grad():
            semantic = self.codec.adapt(analysed.hyper.semantic_seed.clone())
            distance = PictureDistance(to_tensor(rgb).to(semantic.device))

        def rebuild(y_hat: Tensor, row: int) -> Tensor:
            def rebuild_tile(rows: slice, columns: slice) -> tuple[Tensor]:
                # Its activations are computed again when the gradient comes back: memory stays that of one tile.
                return (checkpoint(self._rebuild_tile, y_hat, semantic, row, rows, columns, use_reentrant=False),)

            pixels = torch.empty_like(distance.original)
            assemble(rebuild_tile, rows, columns, [Canvas(pixels, POSITION)])
            return pixels

        return Refiner(self._coder, rebuild, distance)

    @torch.inference_mode()
    def read_symbols(self, data: DataInput, allow_partial: bool = False, preview: bool = False) -> Symbols:
        """Decodes and checks everything in a file, without rebuilding the picture (`onedc verify`).

        Args:
            data (`bytes`, path or open file): the file.
            allow_partial (`bool`): as for `decompress`.
            preview (`bool`): as for `decompress`.

        Raises:
            BitstreamError: as for `decompress`.
        """
        data = _read(data)
        if (earlier := self._earlier.pipeline_of(data, self, allow_partial)) is not None:
            return earlier.read_symbols(data, allow_partial, preview)
        return self._read_own(data, allow_partial, preview)

    def _read_own(self, data: bytes | bytearray | memoryview, allow_partial: bool, preview: bool) -> Symbols:
        """The symbols of a file that takes these networks, or of the authors' program, on the networks' device."""
        if is_authors_file(data, self.codec):
            file, y_hat, seed = decode_authors_file(
                bytes(data), self.codec, max_pixels=self.max_pixels, preview=preview
            )
            symbols = Symbols(header_of(file), None if preview else 0, y_hat, seed)
        else:
            symbols = self._earlier.coder_of(data, self._coder).read(data, allow_partial, preview, self.max_pixels)
        device = self._execution_device
        return replace(symbols, y_hat=symbols.y_hat.to(device), semantic_seed=symbols.semantic_seed.to(device))

    @torch.inference_mode()
    def transcode(self, data: DataInput) -> bytes:
        """A file of the authors' program (`.bin`) as an `.odc` file, without going through pixels.

        Args:
            data (`bytes`, path or open file): the file; it must come from the checkpoint that this model was
                converted from.

        Returns:
            `bytes`: the `.odc` file. Its latent is within half a step of the original's, as in any encoding.

        Raises:
            BitstreamError: for a file that is damaged, or was written with another model or by other arithmetic.
            ModelError: if this model was not converted from the authors' weights.
        """
        data = _read(data)
        if self.codec.authors_entropy is None:
            raise ModelError(
                "Only a model made by `onedc convert` opens files of the authors' program: it keeps their float "
                "entropy model."
            )
        file, y_hat, _ = decode_authors_file(bytes(data), self.codec, max_pixels=self.max_pixels)
        coder = self._coder
        hyper = coder.hyper_synthesis(file.z_index)
        analysed = Analysed(file.width, file.height, y_hat.to(coder.entropy.device), file.z_index, hyper)
        transcoded = coder.write(analysed, None if self.codec.config.z_only else 0, nearest=True)
        coder.prove(transcoded, analysed)
        return transcoded

    # Both ---------------------------------------------------------------------------------------------------------

    def enable_tiling(self, tile_size: int = 1024, overlap: int = 192) -> None:
        """Works on every picture that is larger than a tile in overlapping tiles: less memory, up to half more time.

        By default only pictures of more than 4 megapixels are tiled. A file decodes to the same symbols with and
        without tiling. Pixels are almost the same for models made of local layers, such as the model in the box
        (docs/large-pictures.md); models with GroupNorms and self-attention, such as the paper's, compute those for each
        tile, and only the fading between tiles hides the difference. A picture that is *compressed* in tiles gives
        slightly other bytes, which any OneDC pipeline with the same model reads.

        Args:
            tile_size (`int`): side of a tile in pixels, overlap included; a multiple of 64.
            overlap (`int`): what neighbours share at least, in pixels; a multiple of 64.

        Raises:
            ValueError: for numbers that are no multiples of 64, or an overlap that is not smaller than a tile.
        """
        for name, value in (("tile_size", tile_size), ("overlap", overlap)):
            if value % POSITION:
                raise ValueError(f"`{name}` must be a multiple of {POSITION}; got {value}.")
        self._tiling = Tiling(tile_size // POSITION, overlap // POSITION, above_pixels=0)

    def disable_tiling(self) -> None:
        """Works on every picture in one piece; memory then grows with it (box model: 130 MiB for each megapixel)."""
        self._tiling = None

    def _tiles(self, height: int, width: int) -> tuple[list[slice], list[slice]]:
        """Rows and columns of the tiles of a picture, in positions of the hyper-latent."""
        rows, columns, tiling = -(-height // POSITION), -(-width // POSITION), self._tiling
        # Of the padded picture: one row of pixels costs as much as 64.
        if tiling is not None and rows * columns * POSITION**2 <= tiling.above_pixels:
            tiling = None
        return spans(rows, tiling), spans(columns, tiling)

    @torch.inference_mode()
    def __call__(
        self,
        image: PictureInput | Sequence[PictureInput],
        quality: int | None = None,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        z_only: bool = False,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
        keep_metadata: bool = False,
        name_decoder: bool = False,
        effort: int = 0,
    ) -> OneDCPipelineOutput | tuple[list[Any], list[bytes], list[float]]:
        """Compresses and rebuilds: see `compress` and `decompress` for the arguments.

        Returns:
            `OneDCPipelineOutput`, or with `return_dict=False` its three lists as a tuple.
        """
        images: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
        rate = (quality, target_bytes, target_bpp, z_only)
        bitstreams = self.compress(images, *rate, keep_metadata, name_decoder, effort)
        rebuilt = self.decompress(bitstreams, output_type)
        bpp = [parse_header(data).bpp for data in bitstreams]  # type: ignore[arg-type]
        if not return_dict:
            return rebuilt, bitstreams, bpp  # type: ignore[return-value]
        return OneDCPipelineOutput(images=rebuilt, bitstreams=bitstreams, bpp=bpp)  # type: ignore[arg-type]


def _read(data: DataInput) -> bytes | bytearray | memoryview:
    if isinstance(data, bytes | bytearray | memoryview):
        return data if not isinstance(data, memoryview) or data.contiguous else bytes(data)
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        if not path.exists():
            if "://" in str(data):
                raise FileNotFoundError(f"{data}: addresses are not fetched; download the file, and give its path.")
            path = path.expanduser()
        if path.is_dir():
            raise IsADirectoryError(f"{str(path)!r} is a folder; give one `.odc` file, or a list of them.")
        return path.read_bytes()
    if is_open_file(data) and isinstance(content := data.read(), bytes):
        return content
    raise TypeError(f"`data` must be bytes, the path of an .odc file, or a binary file; got {type(data).__name__}.")
