"""Symbols with the statistics of real pictures, and whole files in one call: no networks are needed."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from onedc_hf.coding import BitstreamReader, BitstreamWriter, SymbolModel, fit_hyper_tables, paper_tables
from onedc_hf.coding.order import unit_row_slices

LEVELS = (4,) * 7
STEP = 0.02496532547666428  # of the logarithm of the scale, from one table to the next (spec section 3.2)


def synthetic_codes(generator, rows, columns, levels=LEVELS):
    """Codes of z whose digits resemble their neighbours, int32 [rows, columns]."""
    code, basis = np.zeros((rows, columns), dtype=np.int64), 1
    for level in levels:
        noise = generator.normal(size=(rows + 2, columns + 2))
        smooth = (noise[:-2, :-2] + noise[1:-1, 1:-1] + noise[2:, 2:] + noise[1:-1, :-2]) / 2
        code += basis * np.clip(np.rint(smooth * level / 5 + (level - 1) / 2), 0, level - 1).astype(np.int64)
        basis *= level
    return code.astype(np.int32)


def likely_codes(tables, rows, columns):
    """Codes whose digits are the likeliest in their contexts, but every tenth one, int32 [rows, columns]."""
    depth, border = len(tables), tables.shape[-1]
    digits = np.full((rows + 1, columns + 1, depth), border)
    for place, (y, x, k) in enumerate(np.ndindex(rows, columns, depth)):
        previous = digits[y + 1, x + 1, k - 1] if k else border
        best = int(tables[k, previous, digits[y + 1, x, k], digits[y, x + 1, k]].argmax())
        digits[y + 1, x + 1, k] = (best + (place % 10 == 9)) % border
    return (digits[1:, 1:] @ border ** np.arange(depth)).astype(np.int32)


def synthetic_pass(generator, shape, mean_index, skip_index=20, deviation=50.0):
    """Symbols and scale indexes of one pass, drawn from the very scales that the indexes name."""
    scale_index = np.clip(generator.normal(mean_index, deviation, shape), 0, 255).astype(np.int32)
    symbols = np.rint(generator.normal(size=shape) * 0.11 * np.exp(STEP * scale_index)).astype(np.int32)
    symbols[scale_index < skip_index] = 0
    return symbols, scale_index


def make_model(**changes):
    """The symbol model of the tests: 8 channels, 101 rows, raw z, no skip group; `changes` replace arguments."""
    arguments = dict(
        digest=hashlib.sha256(b"tests of onedc-hf").digest(),
        fsq_levels=LEVELS,
        y_channels=8,
        rows=101,
        tables=paper_tables(),
    )
    return SymbolModel(**(arguments | changes))


def make_picture(model, width, height, seed=0, mean_index=40.0):
    """Codes and passes for a picture of this size."""
    generator = np.random.default_rng(seed)
    z_rows, z_columns = -(-height // 64), -(-width // 64)
    shape = (model.y_channels // 4, 4 * z_rows, 4 * z_columns)
    passes = [synthetic_pass(generator, shape, mean_index, model.skip_index) for _ in range(4)]
    z_index = synthetic_codes(generator, z_rows, z_columns, model.fsq_levels)
    return SimpleNamespace(width=width, height=height, z_index=z_index, passes=passes)


def write_pass(writer, symbols, scale_index):
    """All units of the next pass; both arrays int [C/4, 4 Zh, 4 Zw]."""
    for rows in unit_row_slices(symbols.shape[1] // 4, symbols.shape[2] // 4):
        writer.write_unit(symbols[:, rows], scale_index[:, rows])


def read_pass(reader, scale_index):
    """All units of the next pass, int [C/4, 4 Zh, 4 Zw]."""
    units = unit_row_slices(scale_index.shape[1] // 4, scale_index.shape[2] // 4)
    return np.concatenate([reader.read_unit(scale_index[:, rows]) for rows in units], axis=1)


def write(model, picture, *, z_only=False, quality_row=None, extensions=()):
    """The file of a picture."""
    if quality_row is None and model.rows > 1 and not z_only:
        quality_row = model.rows // 2
    writer = BitstreamWriter(
        model,
        width=picture.width,
        height=picture.height,
        quality_row=quality_row,
        z_only=z_only,
        extensions=extensions,
    )
    writer.write_hyper(picture.z_index)
    for symbols, scale_index in () if z_only else picture.passes:
        write_pass(writer, symbols, scale_index)
    return writer.finish()


def read(model, data, scale_index_of_pass=None):
    """Header, codes and symbols of a file; scale indexes are those of the encoder, or 0 where there are too few."""
    reader = BitstreamReader(data, model)
    z_index, symbols = reader.read_hyper(), []
    if reader.header.kind:
        shape = (model.y_channels // 4, 4 * reader.header.z_rows, 4 * reader.header.z_columns)
        for number in range(4):
            scale_index = scale_index_of_pass[number] if scale_index_of_pass else None
            if scale_index is None or scale_index.shape != shape:
                scale_index = np.zeros(shape, dtype=np.int32)
            symbols.append(read_pass(reader, scale_index))
    reader.finish()
    return SimpleNamespace(header=reader.header, extensions=reader.extensions, z_index=z_index, symbols=symbols)


@pytest.fixture(scope="session")
def odc():
    """What the tests of this folder share: functions and models."""
    generator = np.random.default_rng(7)
    hyper_tables = fit_hyper_tables([synthetic_codes(generator, 16, 16) for _ in range(40)], LEVELS)
    return SimpleNamespace(
        synthetic_codes=synthetic_codes,
        likely_codes=likely_codes,
        synthetic_pass=synthetic_pass,
        make_model=make_model,
        make_picture=make_picture,
        write_pass=write_pass,
        read_pass=read_pass,
        write=write,
        read=read,
        hyper_tables=hyper_tables,
        plain=make_model(),
        full=make_model(y_channels=64, hyper_tables=hyper_tables, skip_index=20),
        one_level=make_model(rows=1),
    )
