"""What decides the bits of a file: integer tables, and the record of a model that coding needs.

    SymbolModel = identity + layout + GaussianTables (for y) + hyper tables (for z)

No floating point decides anything here: tables are shipped as integers, never computed from scales at run time (float32
`erf` differs between platforms).
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from importlib import resources
from math import prod
from typing import Any

import numpy as np

from .categorical import TABLE_TOTAL, CategoricalCache
from .hyper import check_hyper_tables, fit_hyper_tables

__all__ = ["SYMBOL_LIMIT", "GaussianTables", "SymbolModel", "fit_hyper_tables", "paper_tables"]

SYMBOL_LIMIT = (1 << 15) - 1
"""Largest magnitude of a symbol of y: every symbol fits an int16 with its sign."""

PAPER_TABLES_SHA256 = "681191522681e23feb2d9a5f05c3bd0c17d225e377aa7e681a6f73e6b35fbf3d"  # spec section 3.3


@dataclass(frozen=True, eq=False)
class GaussianTables:
    """Cumulative counts of quantised zero-mean Gaussians, one row for each scale.

    Row i has n_i = cdf_length[i] - 2 regular entries, for the symbols offset[i] ... offset[i] + n_i - 1, then one entry
    for the escape (a symbol outside that range). `cdf[i]` begins with 0, ends (at cdf_length[i] - 1) with 65536, and
    rises strictly; what follows is padding.

    Args:
        cdf (`np.ndarray`): int32 [scales, entries].
        cdf_length (`np.ndarray`): int32 [scales], at least 3.
        offset (`np.ndarray`): int32 [scales], the lowest regular symbol; the symbol 0 lies in every row.
    """

    cdf: np.ndarray
    cdf_length: np.ndarray
    offset: np.ndarray

    def __post_init__(self) -> None:
        for name, dimensions in (("cdf", 2), ("cdf_length", 1), ("offset", 1)):
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) or value.dtype != np.int32 or value.ndim != dimensions:
                raise ValueError(f"GaussianTables.{name} must be an int32 numpy array with {dimensions} dimension(s).")
            if len(value) != len(self.cdf) or not len(value):
                raise ValueError(
                    f"GaussianTables.{name} has {len(value)} rows, but cdf has {len(self.cdf)}; at least one, and "
                    "equal, expected."
                )
        for i, (row, length, offset) in enumerate(zip(self.cdf, self.cdf_length, self.offset, strict=True)):
            if not 3 <= length <= len(row):
                raise ValueError(f"GaussianTables.cdf_length[{i}] is {length}, expected 3 to {len(row)}.")
            used = row[:length]
            if used[0] != 0 or used[-1] != TABLE_TOTAL or np.any(np.diff(used) < 1):
                raise ValueError(
                    f"GaussianTables.cdf[{i}] must rise strictly from 0 to {TABLE_TOTAL} in its first {length} entries."
                )
            if not offset <= 0 <= offset + length - 3 or offset < -SYMBOL_LIMIT or offset + length - 3 > SYMBOL_LIMIT:
                raise ValueError(
                    f"GaussianTables.offset[{i}] is {offset}: symbols {offset} ... {offset + length - 3} must hold 0, "
                    "within int16."
                )

    @property
    def scales(self) -> int:
        """Number of rows; scale indexes run from 0 to `scales - 1`."""
        return len(self.cdf)

    @functools.cached_property
    def entries(self) -> np.ndarray:
        """Regular entries of each row, int32 [scales]; this number is also the entry of the escape."""
        return self.cdf_length - 2

    @functools.cached_property
    def bits(self) -> np.ndarray:
        """Ideal length in bits of every entry, float64 [scales, entries]; infinite in the padding."""
        counts = np.zeros((self.scales, self.cdf.shape[1] - 1), dtype=np.float64)
        for i, length in enumerate(self.cdf_length):
            counts[i, : length - 1] = np.diff(self.cdf[i, :length])
        with np.errstate(divide="ignore"):
            return np.log2(TABLE_TOTAL / counts)


@functools.cache
def paper_tables() -> GaussianTables:
    """The paper's 256 tables, as shipped integers.

    Their scales run from 0.11 to 64 in equal steps of the logarithm (spec section 3.3).

    Raises:
        `RuntimeError`: the file in the package is not the one that was shipped.
    """
    with (
        resources.files("onedc_hf.coding").joinpath("gaussian_cdf.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as data,
    ):
        cdf, cdf_length, offset = (data[name].astype(np.int32) for name in ("cdf", "cdf_length", "offset"))
    if hashlib.sha256(cdf.astype("<i4").tobytes()).hexdigest() != PAPER_TABLES_SHA256:
        raise RuntimeError("onedc_hf/coding/gaussian_cdf.npz is not the file that was shipped. Install onedc-hf again.")
    for array in (cdf, cdf_length, offset):
        array.setflags(write=False)
    return GaussianTables(cdf, cdf_length, offset)


@dataclass(frozen=True, eq=False)
class SymbolModel:
    """Everything about a model that writing or reading a file needs, without its networks.

    Args:
        digest (`bytes`): 32 bytes, SHA-256 of the entropy path; the file holds the first two.
        fsq_levels (`tuple[int, ...]`): levels of each digit of z, digit 0 (the least significant) first; each 2 to 256,
            product at most 2^31 - 1.
        y_channels (`int`): channels of y, a multiple of 4; a pass codes a quarter of them.
        rows (`int`): quality rows, 1 to 256; 1 = a one-level model.
        tables (`GaussianTables`): tables of y.
        hyper_tables (`np.ndarray`, *optional*): static tables of z (`fit_hyper_tables`); `None`: z is always raw.
        skip_index (`int`, *optional*, defaults to 0): scale indexes below it form the skip group (order.py); 0 = there
            is none.
        version (`int`, *optional*, defaults to 0): 0 = float entropy path, 1 = exact integer path.
    """

    digest: bytes
    fsq_levels: tuple[int, ...]
    y_channels: int
    rows: int
    tables: GaussianTables
    hyper_tables: np.ndarray | None = None
    skip_index: int = 0
    version: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.digest, bytes) or len(self.digest) != 32:
            raise ValueError("SymbolModel.digest must be the 32 bytes of a SHA-256.")
        levels = tuple(int(level) for level in self.fsq_levels)
        object.__setattr__(self, "fsq_levels", levels)
        if not levels or min(levels) < 2 or max(levels) > 256 or prod(levels) >= 1 << 31:
            raise ValueError(
                f"SymbolModel.fsq_levels is {levels}; expected levels of 2 to 256 with a product below 2^31."
            )
        if self.y_channels < 4 or self.y_channels % 4:
            raise ValueError(f"SymbolModel.y_channels is {self.y_channels}; expected a positive multiple of 4.")
        if not 1 <= self.rows <= 256:
            raise ValueError(f"SymbolModel.rows is {self.rows}; expected 1 to 256 (a row number is one byte).")
        if not 0 <= self.skip_index <= self.tables.scales:
            raise ValueError(f"SymbolModel.skip_index is {self.skip_index}; expected 0 to {self.tables.scales}.")
        if self.version not in (0, 1):
            raise ValueError(f"SymbolModel.version is {self.version}; expected 0 (float entropy path) or 1 (exact).")
        if self.hyper_tables is not None:
            check_hyper_tables(self.hyper_tables, levels)

    @property
    def model_id(self) -> str:
        """The two bytes of the digest that a file holds, as 4 hex digits."""
        return self.digest[:2].hex()

    @functools.cached_property
    def categoricals(self) -> CategoricalCache:
        """Coder models of this symbol model, built on first use and kept with it."""
        return CategoricalCache(self.tables.cdf, self.tables.cdf_length, self.hyper_tables)

    def __getstate__(self) -> dict[str, Any]:
        # Coder models cannot be pickled and are cheap to build again.
        return {name: value for name, value in self.__dict__.items() if name != "categoricals"}
