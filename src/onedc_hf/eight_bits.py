"""Half-size copies of saved pipelines: weights in 8 bits, packed, for what is kept on disk and seldom read.

Every float16 tensor of two dimensions or more becomes int8 with one scale for each of its rows (output channels); the
rest stays as it is: biases, the layers that are kept in float32, and the integers of an exact entropy model, so that
symbols do not change. Pictures do by about two levels of 255 (41 dB on the model in the box), and the decoder side's
digest with them: files that name theirs (`name_decoder=True`) are read with the warning that another one is at hand.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from .errors import ModelError

__all__ = ["expanded", "shrink"]

_SCALES = ".eight_bit_scales"
_PACKED = ".xz"


def _shrink_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    small: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float16 or tensor.ndim < 2:
            small[name] = tensor
            continue
        rows = tensor.float().flatten(1)
        scales = (rows.abs().amax(dim=1) / 127).clamp_min(1e-12)
        small[name] = (rows / scales[:, None]).round().to(torch.int8).view(tensor.shape)
        small[name + _SCALES] = scales
    return small


def _expand_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    large: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name + _SCALES in tensors:
            scales = tensors[name + _SCALES]
            large[name] = (tensor * scales.view(-1, *[1] * (tensor.ndim - 1))).half()
        elif not name.endswith(_SCALES):
            large[name] = tensor
    return large


def _lzma() -> ModuleType:
    try:
        import lzma
    except ImportError as error:  # a Python that was built without it
        raise ModelError(
            "Earlier releases of the model in the box are packed with lzma, which this Python was built without: use "
            "another Python (its `import lzma` must work), or a release of onedc-hf from the file's time."
        ) from error
    return lzma


def shrink(folder: Path) -> None:
    """Brings the weights of a saved pipeline (in float16) to 8 bits and packs them, in place; see `expanded`.

    Raises:
        ModelError: if this Python has no lzma.
    """
    lzma = _lzma()
    for path in sorted(folder.rglob("*.safetensors")):
        small = save(_shrink_tensors(load_file(path)), metadata={"format": "pt"})
        path.with_name(path.name + _PACKED).write_bytes(lzma.compress(small, preset=9))
        path.unlink()


@contextmanager
def expanded(folder: Path) -> Iterator[Path]:
    """A folder that `from_pretrained` reads, for as long as the context lasts.

    Args:
        folder (`Path`): a saved pipeline, after `shrink` or not.

    Raises:
        ModelError: if this Python has no lzma.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        copy = Path(temporary) / folder.name
        for path in sorted(folder.rglob("*")):
            target = copy / path.relative_to(folder)
            if path.is_dir():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)  # without the modes, which may forbid to write
            if path.suffix == _PACKED:
                tensors = _expand_tensors(load(_lzma().decompress(path.read_bytes())))
                save_file(tensors, target.with_suffix(""), metadata={"format": "pt"})
            else:
                shutil.copyfile(path, target)
        yield copy
