"""Bytes: the `.odc` file format and its range coder.

Integers only: it needs numpy and constriction, no model and no torch.

    bitstream.py    BitstreamWriter, BitstreamReader; its docstring is the format's specification. READ THIS FIRST
    header.py       the front of a file, its sections and extensions
    entropy.py      symbols to bits and back: SymbolEncoder, SymbolDecoder
    order.py        coding units, order of symbols, skip group
    escapes.py      symbols outside their table
    hyper.py        digits of z, their contexts and static tables
    tables.py       GaussianTables, SymbolModel
    categorical.py  integer counts as constriction's models
    tail.py         words to bytes: the shortest ending
    checks.py       check A and check B
    metadata.py     alpha, EXIF, XMP, colour profile
    partial.py      what arrived of a file that was cut
    authors.py      files of the authors' program, and rans.py their entropy coder
"""

from .bitstream import BitstreamReader, BitstreamWriter
from .entropy import clamp_symbols, ideal_bits
from .header import Header, Kind, Tag, inspect, parse_header
from .hyper import fit_hyper_tables
from .partial import PartialReader, is_cut, readable_extensions, sections_before_cut
from .tables import SYMBOL_LIMIT, GaussianTables, SymbolModel, paper_tables

__all__ = [
    "SYMBOL_LIMIT",
    "BitstreamReader",
    "BitstreamWriter",
    "GaussianTables",
    "Header",
    "Kind",
    "PartialReader",
    "SymbolModel",
    "Tag",
    "clamp_symbols",
    "fit_hyper_tables",
    "ideal_bits",
    "inspect",
    "is_cut",
    "paper_tables",
    "parse_header",
    "readable_extensions",
    "sections_before_cut",
]
