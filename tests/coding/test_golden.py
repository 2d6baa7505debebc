"""Files written once and kept: whoever changes a coded bit is told.

The symbols come from a small integer generator, so that no library can change them. A difference here is a break of the
format: old files would no longer decode. `goldens.json` is not to be regenerated; a new version of the format adds to
it. Of the one long file only the SHA-256 is kept.
"""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

GOLDENS = json.loads(Path(__file__).with_name("goldens.json").read_text())
CASES = {
    "z_only_raw": dict(size=(130, 70), z_only=True),
    "z_only_coded": dict(size=(300, 200), z_only=True, coded=True),
    "one_level": dict(size=(60, 70), rows=1),
    "quality_row_with_everything": dict(
        size=(150, 100), coded=True, skip_index=90, extensions=[(2, b"alpha"), (10, b"1234")]
    ),
    "two_units": dict(size=(64 * 513, 65), version=1, digest=bytes(range(32)), y_channels=4),
}


class Numbers:
    """A linear congruential generator (Knuth's MMIX constants); its high bits."""

    def __init__(self):
        self.state = 2024

    def below(self, limit):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % limit

    def array(self, shape, limit):
        return np.array([self.below(limit) for _ in range(int(np.prod(shape)))], dtype=np.int32).reshape(shape)


def build(odc, *, size, z_only=False, coded=False, extensions=(), **changes):
    """Model, symbols and options of one case."""
    numbers = Numbers()
    if coded:
        tables = np.full((7, 5, 5, 5, 4), 2000, dtype=np.int32)
        favourite = numbers.array((7, 5, 5, 5, 1), 4)
        np.put_along_axis(tables, favourite, 65536 - 3 * 2000, axis=-1)
        changes["hyper_tables"] = tables
    model = odc.make_model(**({"digest": bytes(range(100, 132)), "y_channels": 8} | changes))
    z_rows, z_columns = -(-size[1] // 64), -(-size[0] // 64)
    z_index = numbers.array((z_rows, z_columns), 4**7)
    if coded:  # digits that the tables like
        z_index = odc.likely_codes(model.hyper_tables, z_rows, z_columns)
    shape = (model.y_channels // 4, 4 * z_rows, 4 * z_columns)
    passes = []
    for number in range(0 if z_only else 4):
        scale_index = numbers.array(shape, 200)
        spread = scale_index // 40 + 1
        symbols = numbers.array(shape, 1000) % (2 * spread + 1) - spread
        symbols[scale_index < 60] = 0
        symbols.flat[number], symbols.flat[-1] = 32767 - number, -1000
        scale_index.flat[-2], symbols.flat[-2] = 5, number % 2  # in a skip group, where there is one
        passes.append((symbols, scale_index))
    picture = SimpleNamespace(width=size[0], height=size[1], z_index=z_index, passes=passes)
    return model, picture, {"z_only": z_only, "extensions": extensions}


@pytest.mark.parametrize("name", CASES)
def test_a_kept_file_is_written_and_read_as_ever(odc, name):
    model, picture, options = build(odc, **CASES[name])
    golden = odc.write(model, picture, **options)
    assert GOLDENS[name] in (golden.hex(), hashlib.sha256(golden).hexdigest())
    found = odc.read(model, golden, [scale_index for _, scale_index in picture.passes])
    np.testing.assert_array_equal(found.z_index, picture.z_index)
    for (symbols, _), read_back in zip(picture.passes, found.symbols, strict=True):
        np.testing.assert_array_equal(read_back, symbols)
