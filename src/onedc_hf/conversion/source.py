"""One of the authors' files: its tensors, read one by one, and all of them used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import set_module_tensor_to_device
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import ConversionError

__all__ = ["Recipe", "Source", "check", "fill", "sha256_of"]

_SHOWN = 8  # names in a message


class Source:
    """A safetensors file.

    Args:
        path (`Path`): the file.
        what (`str`): what it should be, for messages.

    Raises:
        ConversionError: if there is no such file, or it is no whole safetensors file.
    """

    def __init__(self, path: Path, what: str):
        self.path, self.what = path, what
        if not path.is_file():
            raise ConversionError(f"{what}: {path} is no file. docs/convert.md says where the weights are found.")
        with path.open("rb") as file:
            head = file.read(10)
        # A safetensors file begins with 8 bytes of length, which may be any, and then "{".
        if head[8:9] != b"{" and (head[:1] == b"\x80" or head[:2] == b"PK"):
            raise ConversionError(
                f"{what}: {path} is a pickle, which can run any program when it is read. Only safetensors files are "
                "converted; load it where you trust it, and write it again with safetensors.torch.save_file."
            )
        try:
            with safe_open(str(path), "pt") as file:
                self.shapes: dict[str, tuple[int, ...]] = {
                    name: tuple(file.get_slice(name).get_shape())
                    for name in file.keys()  # noqa: SIM118  no mapping
                }
        except (SafetensorError, OSError, ValueError) as error:
            raise ConversionError(
                f"{what}: {path} is no whole safetensors file ({error}). Was the download cut short?"
            ) from error

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor.

        Raises:
            ConversionError: if the file has no such tensor.
        """
        if name not in self.shapes:
            raise ConversionError(f"{self.what}: {self.path} has no tensor {name!r}; is it another kind of file?")
        return self.shapes[name]

    def tensor(self, name: str) -> Tensor:
        """Reads one tensor, into memory of its own.

        The file is opened anew each time: pages of a mapped file stay with the process while it is open, and would soon
        be a second copy of the whole checkpoint.
        """
        try:
            with safe_open(str(self.path), "pt") as file:
                return file.get_tensor(name).clone()
        except (SafetensorError, OSError) as error:
            raise ConversionError(f"{self.what}: {self.path} changed while it was read ({error}).") from error

    def count(self, pattern: str) -> int:
        """How many of `pattern.format(0)`, `pattern.format(1)`, ... begin the name of a tensor."""
        number = 0
        while any(name.startswith(pattern.format(number)) for name in self.shapes):
            number += 1
        return number


@dataclass(frozen=True)
class Recipe:
    """What a tensor of ours is made from.

    Args:
        names (`tuple[str, ...]`): tensors of the file; the first has the shape of the result.
        combine (`Callable`): the tensors, in that order, to the result.
    """

    names: tuple[str, ...]
    combine: Callable[..., Tensor] = lambda tensor: tensor


def check(module: nn.Module, recipes: Mapping[str, Recipe], source: Source) -> None:
    """Compares a module's tensors with a file's, by names and shapes alone.

    Args:
        module (`nn.Module`): what is to be filled; it may be on the meta device.
        recipes (`Mapping[str, Recipe]`): by the names of the module's tensors. Tensors without one that are on the meta
            device are missing; others keep their values.
        source (`Source`): the file, all of which must be used.

    Raises:
        ConversionError: for tensors that are missing, of a wrong shape, or left over; it lists the names.
    """
    targets = module.state_dict()
    missing = [n for name in targets for n in recipes.get(name, Recipe(())).names if n not in source.shapes]
    missing += [name for name, tensor in targets.items() if tensor.is_meta and name not in recipes]
    left = source.shapes.keys() - {n for name, recipe in recipes.items() if name in targets for n in recipe.names}
    if missing or left:
        told = [f"lacks {_list(missing)}"] if missing else []
        told += [f"holds what has no place here: {_list(left)}"] if left else []
        raise ConversionError(f"{source.what}: {source.path} {' and '.join(told)}.")
    wrong = [
        f"{recipe.names[0]} is {list(source.shapes[recipe.names[0]])} instead of {list(targets[name].shape)}"
        for name, recipe in recipes.items()
        if source.shapes[recipe.names[0]] != tuple(targets[name].shape)
    ]
    if wrong:
        raise ConversionError(f"{source.what}: {source.path} has tensors of a wrong shape: {_list(wrong)}.")


def fill(module: nn.Module, recipes: Mapping[str, Recipe], source: Source) -> None:
    """Fills a module that has shapes but no memory (made on the meta device), tensor by tensor, on the CPU.

    Raises:
        ConversionError: as `check`.
    """
    check(module, recipes, source)
    for name, tensor in module.state_dict().items():
        if name in recipes:
            recipe = recipes[name]
            try:
                value = recipe.combine(*[source.tensor(n) for n in recipe.names])
            except RuntimeError as error:
                names = ", ".join(recipe.names)
                raise ConversionError(f"{source.what}: {source.path}: {names} do not fit together ({error})") from error
            set_module_tensor_to_device(module, name, "cpu", value=value.to(tensor.dtype).contiguous())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _list(names: Iterable[str]) -> str:
    ordered = sorted(set(names))
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
