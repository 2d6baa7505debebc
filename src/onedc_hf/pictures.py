"""Pictures as people have them -> `uint8` sRGB arrays -> tensors, and back.

Everything the codec sees is plain 8-bit sRGB, upright, without alpha. `load_picture` makes it so from a file, a
`PIL.Image.Image`, a NumPy array or a torch tensor, and names the cause when it cannot.

    open_picture -> with alpha, metadata
    load_picture -> [H, W, 3] uint8      to_tensor -> [1, 3, H, W] in [-1, 1]      pad -> multiples of 64
    from_tensor -> [H, W, 3] uint8       to_output -> what the caller wants

Shapes: B batch, H W pixels. torch is imported inside the functions that return tensors, so that this module is light.
"""

from __future__ import annotations

import io
import os
import re
import sys
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard, cast

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ._register import FORMAT
from .camera_files import DEVELOP, is_raw_tiff
from .coding.limits import MAX_PIXELS, too_large
from .colour import is_rgb_profile, to_srgb
from .errors import PictureError
from .exif import exif_facts
from .opening import IS_ODC, guarded, load_pixels, open_plain, seekable
from .sample_values import Numbers, read_numbers
from .user_warning import warn_user

if TYPE_CHECKING:
    import torch

__all__ = [
    "OpenedPicture",
    "PictureInput",
    "from_tensor",
    "is_open_file",
    "load_picture",
    "load_picture_bytes",
    "open_picture",
    "pad",
    "to_output",
    "to_tensor",
]

PictureInput: TypeAlias = "str | os.PathLike[str] | IO[bytes] | Image.Image | np.ndarray | torch.Tensor"

_ROUNDING = 1 / 255  # floats may leave [0, 1] by this much: resampling and half precision do
_MODES_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_XMP_TURN = re.compile(rb'tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>')
_EXIF_START = b"Exif\0\0"


@dataclass(frozen=True)
class OpenedPicture:
    """A picture with what it carries.

    Args:
        rgb (`np.ndarray`): `uint8` `[H, W, 3]`, sRGB, upright, not multiplied by alpha; white where alpha is 0. To be
            read only: it may be the caller's own array.
        alpha (`np.ndarray`, *optional*): `uint8` `[H, W]`; `None` where every pixel is opaque.
        metadata (`dict[str, bytes]`): `exif`, `xmp` and `icc_profile` (of RGB), as far as there are any. The EXIF
            orientation has been applied and taken out.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    metadata: dict[str, bytes] = field(default_factory=dict)


def open_picture(image: PictureInput, max_pixels: int | None = MAX_PIXELS) -> OpenedPicture:
    """Reads any picture as 8-bit sRGB, with its alpha channel and metadata.

    Files and PIL images are turned upright by their EXIF orientation, converted to sRGB by their ICC profile, and
    scaled from 16 to 8 bits (grey by rounding; of colours Pillow keeps the upper byte). Animations and multi-page files
    give one frame, with a `UserWarning`.

    Args:
        image (`str`, `os.PathLike`, open binary file, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            A picture. Arrays are height, width, channels: `[H, W]`, `[H, W, C]` with 1 (grey), 2 (grey, alpha),
            3 (RGB) or 4 (RGB, alpha) channels. Tensors are channels first: `[H, W]`, `[C, H, W]` or `[1, C, H, W]`.
            Values: `uint8` in [0, 255], `uint16` in [0, 65535], `bool`, or floats in [0, 1].
        max_pixels (`int`, *optional*, defaults to 268,435,456): larger pictures are refused, before they are unpacked;
            `None` or 0: no limit. Pillow's own limit, `PIL.Image.MAX_IMAGE_PIXELS`, plays no part.

    Raises:
        `PictureError`: The file is missing, a folder, damaged, a camera's raw file or no picture; the picture is larger
            than `max_pixels`; or the array's shape, type or values are not those above.
    """
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        return _load_file(path if os.path.exists(path) else os.path.expanduser(path), max_pixels)
    if isinstance(image, Image.Image):
        return guarded(lambda: _from_pil(image, "the PIL image", max_pixels), "the PIL image")
    if is_open_file(image):
        return _load_open_file(image, max_pixels)
    if isinstance(image, np.ndarray):
        return _from_array(image, "NumPy array", "[H, W] or [H, W, C]", max_pixels)
    if _is_tensor(image):
        return _from_torch(cast("torch.Tensor", image), max_pixels)
    raise PictureError(
        f"cannot read a picture from a {type(image).__name__}: expected a path, an open file, a PIL image, a "
        "NumPy array [H, W, C] or a torch tensor [C, H, W]. For the bytes of a file, use io.BytesIO(data)."
    )


def load_picture(image: PictureInput, max_pixels: int | None = MAX_PIXELS) -> np.ndarray:
    """Reads any picture as 8-bit sRGB without alpha: see `open_picture`.

    Where a picture has alpha it is put on white, with a `UserWarning` if any pixel is not opaque.

    Returns:
        `np.ndarray`: A fresh `uint8` array `[H, W, 3]`, sRGB, values in [0, 255].

    Raises:
        `PictureError`: as `open_picture`.
    """
    opened = open_picture(image, max_pixels)
    if opened.alpha is None:
        return opened.rgb.copy() if isinstance(image, np.ndarray) or _is_tensor(image) else opened.rgb
    return _on_white(opened, os.fspath(image) if isinstance(image, (str, os.PathLike)) else _kind_of(image))


def load_picture_bytes(data: bytes, name: str, max_pixels: int | None = MAX_PIXELS) -> np.ndarray:
    """Reads the bytes of a picture's file as `load_picture` does; errors and warnings name it `name`.

    Raises:
        PictureError: if they are no picture, a damaged one, or one of more than `max_pixels`.
    """
    opened = _read(io.BytesIO(data), name, max_pixels)
    return opened.rgb if opened.alpha is None else _on_white(opened, name)


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    """Turns `uint8` `[H, W, 3]` into a `float32` tensor `[1, 3, H, W]` in [-1, 1] (0 -> -1, 255 -> 1)."""
    import torch

    channels_first = np.ascontiguousarray(rgb.transpose(2, 0, 1))  # [3, H, W]
    return torch.from_numpy(channels_first)[None].float().div_(127.5).sub_(1.0)  # [1, 3, H, W]


def from_tensor(x: torch.Tensor) -> list[np.ndarray]:
    """Turns a batch `[B, 3, H, W]` in [-1, 1] (any float dtype; values outside are clamped) into `uint8` pictures.

    Returns:
        `list[np.ndarray]`: B arrays `[H, W, 3]`, values in [0, 255], the exact inverse of `to_tensor`.

    Raises:
        `PictureError`: The batch has another shape, or holds NaN or infinity.
    """
    import torch

    if x.ndim != 4 or x.shape[1] != 3:
        raise PictureError(f"expected a batch of pictures [B, 3, H, W], got {list(x.shape)}")
    pixels = x.detach().float().add(1.0).mul_(127.5)
    if not torch.isfinite(pixels).all():
        raise PictureError("the rebuilt picture holds NaN or infinity: try dtype=torch.float32, and check the weights")
    pixels = pixels.round_().clamp_(0, 255).to(torch.uint8)  # [B, 3, H, W]
    return list(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())  # B x [H, W, 3]


def pad(x: torch.Tensor, multiple: int = 64) -> torch.Tensor:
    """Pads `[B, C, H, W]` on the right and at the bottom by repeating the border, to multiples of `multiple` pixels."""
    from torch.nn import functional

    height, width = x.shape[-2:]
    right, bottom = -width % multiple, -height % multiple
    return functional.pad(x, (0, right, 0, bottom), mode="replicate") if right or bottom else x


def to_output(rgb: np.ndarray, output_type: Literal["pil", "np", "pt"] = "pil") -> Image.Image | np.ndarray | Any:
    """Hands a picture out in the form the caller asked for; `load_picture` reads each of them back exactly.

    Args:
        rgb (`np.ndarray`): `uint8` `[H, W, 3]`.
        output_type (`str`, *optional*, defaults to `"pil"`):
            `"pil"`: RGB image. `"np"`: `float32` `[H, W, 3]` in [0, 1]. `"pt"`: `float32` tensor `[3, H, W]` in [0, 1].
            (The ranges are those of diffusers' image processor.)

    Raises:
        `ValueError`: Another `output_type`.
    """
    if output_type == "pil":
        return Image.fromarray(rgb)
    if output_type == "np":
        return rgb.astype(np.float32) / 255
    if output_type == "pt":
        import torch

        return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))).float().div_(255)
    raise ValueError(f"output_type: expected 'pil', 'np' or 'pt', got {output_type!r}")


# --- files and PIL images -------------------------------------------------------------------------------------------


def _load_file(path: str, max_pixels: int | None) -> OpenedPicture:
    if os.path.isdir(path):
        raise PictureError(f"{path} is a folder: name a picture in it, or pass a list of pictures")
    if not os.path.exists(path):
        if "://" in path:
            raise PictureError(f"{path}: addresses are not fetched; diffusers.utils.load_image gives a picture of one")
        raise PictureError(f"{path}: no such file (looked in {os.path.dirname(os.path.abspath(path))})")

    def read() -> OpenedPicture:
        with open(path, "rb") as file:
            return _read(file, path, max_pixels, path)

    return guarded(read, path)


def _load_open_file(file: IO[bytes], max_pixels: int | None) -> OpenedPicture:
    """From its beginning, as Pillow does it; the file stays open, since it is its owner's to close."""
    where = _name_of(file)
    if not isinstance(file.read(0), bytes):
        raise PictureError(f"{where} gives no bytes: a picture is read from a binary file, open(path, 'rb')")
    return _read(file, where, max_pixels)


def _read(file: IO[bytes], where: str, max_pixels: int | None, path: str = "") -> OpenedPicture:
    def read() -> OpenedPicture:
        with open_plain(seekable(file), path) as picture:
            return _from_pil(picture, where, max_pixels)

    return guarded(read, where)


def _name_of(file: IO[bytes]) -> str:
    name = getattr(file, "name", None)  # a number, of a file without a name
    return name if isinstance(name, str) else "the open file"


def is_open_file(source: object) -> TypeGuard[IO[bytes]]:
    """Say whether something is read like a file: an open one, a download, `io.BytesIO`."""
    return callable(getattr(source, "read", None))


def _check_size(width: int, height: int, max_pixels: int | None) -> None:
    if (reason := too_large(width, height, max_pixels)) is not None:
        raise PictureError(
            f"This picture has {reason}. Set the pipeline's `max_pixels` (or --max-pixels) if that is meant."
        )


def _from_pil(picture: Image.Image, where: str, max_pixels: int | None) -> OpenedPicture:
    """The order matters: size, frame, orientation, bit depth, profile, alpha."""
    if picture.format == FORMAT:  # Pillow knows it from us, and would rebuild it to be compressed once more
        raise PictureError(f"{where}: {IS_ODC}")
    if is_raw_tiff(picture):
        raise PictureError(f"{where}: {DEVELOP}")
    _check_size(*picture.size, max_pixels)  # before its pixels ask for memory
    # Previews or a gain map behind a photograph (MPO), layers behind the picture that they make (PSD): no animation.
    if getattr(picture, "is_animated", False) and picture.format not in ("MPO", "PSD"):
        frames = getattr(picture, "n_frames", 1)
        warn_user(f"{where}: frame {picture.tell() + 1} of {frames} is used, the others are ignored")
    if 0 in picture.size:
        raise PictureError(f"{where}: the picture is empty ({picture.width}x{picture.height} pixels)")
    profile = picture.info.get("icc_profile")
    numbers = read_numbers(picture)
    among_tags = _exif_among_tags(picture)  # now, since they are gone once the picture is turned
    if (turn := _turn(picture)) is not None:  # else it would be copied, and pictures can be large
        picture = _turned(picture, turn, where)
    metadata = among_tags | _metadata(picture)
    if not is_rgb_profile(metadata.get("icc_profile", b"")):  # such as those of printing presses, which are large
        metadata.pop("icc_profile", None)
    load_pixels(picture)  # some formats know their mode only then, and an icon its size
    _check_size(*picture.size, max_pixels)
    picture = _to_8_bits(picture, where, numbers)
    if numbers.clear is not None:
        picture = picture.copy()  # it may be the caller's own
        picture.info["transparency"] = numbers.clear
    colour, alpha = _split_alpha(picture)
    if profile or colour.mode == "LAB":
        colour = to_srgb(colour, profile, where)
    elif colour.mode != "RGB":
        colour = colour.convert("RGB")
    rgb = np.array(colour, dtype=np.uint8)  # [H, W, 3]
    return _opened(rgb, None if alpha is None else np.array(alpha), metadata)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """How the pixels lie, as EXIF has it; `None` if they are upright."""
    if picture.format == "PNG":  # its `getexif` unpacks, and after a failure Pillow takes what it has for the whole
        load_pixels(picture)
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # other programs' tags can be anything, and so is what Pillow raises; the pixels are whole
        return None


def _turned(picture: Image.Image, turn: Image.Transpose, where: str) -> Image.Image:
    load_pixels(picture)  # what is wrong with the pixels is said of them
    try:
        return ImageOps.exif_transpose(picture)  # writes the tags anew, without the orientation
    except Exception:  # as above: some tags can be read and not written
        warn_user(f"{where}: its EXIF is damaged and left out")
        turned = picture.transpose(turn)
        turned.info.pop("exif", None)
        for key in ("xmp", "XML:com.adobe.xmp"):  # which may say how the pixels lay, too
            if packet := turned.info.get(key):
                turned.info[key] = _XMP_TURN.sub(b"", packet if isinstance(packet, bytes) else packet.encode())
        return turned


def _exif_among_tags(picture: Image.Image) -> dict[str, bytes]:
    """EXIF of a TIFF, which keeps it among the tags of its pixels."""
    if picture.format != "TIFF" or "exif" in picture.info:
        return {}
    try:
        found = exif_facts(picture.getexif())
        return {"exif": found.tobytes()} if len(found) else {}
    except Exception:  # as above
        return {}


def _metadata(picture: Image.Image) -> dict[str, bytes]:
    """EXIF, XMP and colour profile as bytes, as far as there are any."""
    xmp = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp")
    exif = picture.info.get("exif")
    if isinstance(exif, bytes) and exif and not exif.startswith(_EXIF_START):
        exif = _EXIF_START + exif  # a WebP leaves the word out
    found = {
        "exif": exif,
        "xmp": xmp.encode() if isinstance(xmp, str) else xmp,
        "icc_profile": picture.info.get("icc_profile"),
    }
    return {key: content for key, content in found.items() if isinstance(content, bytes) and content}


def _opened(rgb: np.ndarray, alpha: np.ndarray | None, metadata: dict[str, bytes]) -> OpenedPicture:
    if alpha is None or alpha.min() == 255:
        return OpenedPicture(rgb, None, metadata)
    rgb[alpha == 0] = 255  # nobody sees this colour; white is cheap, and right where alpha is left out
    return OpenedPicture(rgb, alpha, metadata)


def _to_8_bits(picture: Image.Image, where: str, numbers: Numbers) -> Image.Image:
    """Scales grey pictures of more than 8 bits (`convert("L")` would clip them at 255); others pass unchanged."""
    if picture.mode == "F":
        floats = np.asarray(picture)
        return Image.fromarray(_float_to_bytes(1 - floats if numbers.white_is_zero else floats, where))
    if picture.mode != "I" and picture.mode not in _MODES_16_BIT:
        return picture
    values = np.asarray(picture).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise PictureError(
            f"{where}: integer pixels from {low} to {high}, expected 16 bits (0 to 65535); scale them to 8 bits first"
        )
    shown = np.minimum(values, numbers.highest)
    shown = numbers.highest - shown if numbers.white_is_zero else shown
    grey = Image.fromarray(_scale_16_bits(shown * 65535 // numbers.highest, where))
    clear = picture.info.get("transparency")  # tRNS of a 16-bit grey PNG: the one value that is transparent
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _scale_16_bits(values: np.ndarray, where: str) -> np.ndarray:
    if 0 < (high := int(values.max())) <= 255:
        warn_user(
            f"{where}: integer pixels of at most {high} are read as 16 bits (0 to 65535), which is nearly black; if "
            "they are meant to be 8 bits (0 to 255), pass them as uint8"
        )
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)  # round(v / 257)


def _split_alpha(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colour without alpha, in a mode that a profile can apply to (L, RGB, CMYK, LAB ...), and the alpha channel."""
    if picture.mode in ("La", "RGBa"):  # premultiplied
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
    alpha_in_palette = picture.mode == "P" and picture.palette is not None and picture.palette.mode == "RGBA"
    keyed = "transparency" in picture.info and picture.mode in ("1", "L", "P", "RGB")
    if picture.mode == "PA" or alpha_in_palette or keyed:
        picture = picture.convert("LA" if picture.mode == "L" else "RGBA")  # a profile of grey is for grey
    if picture.mode in ("LA", "RGBA"):
        return picture.convert(picture.mode[:-1]), picture.getchannel("A")
    if picture.mode == "1":
        return picture.convert("L"), None
    if picture.mode in ("P", "RGBX", "YCbCr", "HSV"):
        return picture.convert("RGB"), None
    return picture, None


def _on_white(opened: OpenedPicture, where: str) -> np.ndarray:
    assert opened.alpha is not None
    warn_user(f"{where}: transparency is left out, the picture was put on white")
    return _flatten(opened.rgb, opened.alpha)


def _flatten(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Puts `rgb` `[H, W, 3]` on white by `alpha` `[H, W]`, both `uint8`."""
    opacity = alpha[..., None].astype(np.uint32)
    return ((rgb * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


# --- arrays and tensors ---------------------------------------------------------------------------------------------


def _is_tensor(image: object) -> bool:
    torch = sys.modules.get("torch")  # whoever holds a tensor has imported torch
    return torch is not None and isinstance(image, torch.Tensor)


def _kind_of(image: object) -> str:
    if isinstance(image, Image.Image):
        return "the PIL image"
    if is_open_file(image):
        return _name_of(image)
    return "NumPy array" if isinstance(image, np.ndarray) else "torch tensor"


def _from_torch(tensor: torch.Tensor, max_pixels: int | None) -> OpenedPicture:
    shape, expected = list(tensor.shape), "[C, H, W] or [1, C, H, W]"
    if tensor.ndim == 4:
        if tensor.shape[0] != 1:
            raise PictureError(f"torch tensor: a batch {shape}, expected one picture {expected}; pass list(tensor)")
        tensor = tensor[0]
    if tensor.ndim == 3:
        if tensor.shape[0] not in (1, 2, 3, 4):
            hint = "; it looks like [H, W, C]: use tensor.permute(2, 0, 1)" if tensor.shape[2] in (1, 3, 4) else ""
            raise PictureError(f"torch tensor: shape {shape}, expected {expected} with 1 to 4 channels{hint}")
        tensor = tensor.permute(1, 2, 0)
    if tensor.ndim in (2, 3):  # before it is copied from a device, or to floats of twice the size
        _check_size(tensor.shape[1], tensor.shape[0], max_pixels)
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # NumPy knows no bfloat16
    return _from_array(tensor.numpy(), "torch tensor", expected, max_pixels, shape)


def _from_array(
    array: np.ndarray, what: str, expected: str, max_pixels: int | None, shape: list[int] | None = None
) -> OpenedPicture:
    shape = list(array.shape) if shape is None else shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; it looks like [C, H, W]: use array.transpose(1, 2, 0)"
        elif array.ndim == 4:
            hint = "; for several pictures pass a list"
        raise PictureError(f"{what}: shape {shape}, expected {expected} with 1 to 4 channels{hint}")
    if array.size == 0:
        raise PictureError(f"{what}: shape {shape} holds no pixel; height and width must be at least 1")
    _check_size(array.shape[1], array.shape[0], max_pixels)
    values = _to_bytes(array, what)  # [H, W, C] uint8
    channels = values.shape[2]
    colour = values[..., :3] if channels >= 3 else values[..., :1].repeat(3, axis=2)
    if channels in (2, 4):
        return _opened(np.array(colour, order="C"), values[..., -1].copy(), {})
    return _opened(np.ascontiguousarray(colour), None, {})


def _to_bytes(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.newbyteorder("=") == np.uint16:  # also of a file whose bytes lie the other way round
        return _scale_16_bits(array.astype(np.uint16, copy=False), what)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "f":
        return _float_to_bytes(array, what)
    raise PictureError(
        f"{what}: values of type {array.dtype}, expected uint8 in [0, 255], uint16 in [0, 65535] or floats in [0, 1]"
    )


def _float_to_bytes(array: np.ndarray, what: str) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):  # min and max hand NaN on
        raise PictureError(f"{what}: holds NaN or infinity, expected floats in [0, 1]")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        hint = ""
        if low >= -1 - _ROUNDING and high <= 1 + _ROUNDING:
            hint = "; from [-1, 1] use (x + 1) / 2"
        elif low >= 0 and high <= 255:
            hint = "; from [0, 255] use x / 255"
        raise PictureError(f"{what}: values from {low:.4g} to {high:.4g}, expected floats in [0, 1]{hint}")
    return (array.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
