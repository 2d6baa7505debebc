"""Tables and the record of a model."""

import copy
import hashlib
import pickle

import numpy as np
import pytest

from onedc_hf.coding import GaussianTables, paper_tables
from onedc_hf.coding.categorical import categorical, range_decoder, range_encoder, uniform_counts


def test_the_shipped_tables_are_the_papers():
    tables = paper_tables()
    sha256 = [hashlib.sha256(array.astype("<i4").tobytes()).hexdigest() for array in (tables.cdf, tables.cdf_length)]
    assert sha256 == [  # spec section 3.3
        "681191522681e23feb2d9a5f05c3bd0c17d225e377aa7e681a6f73e6b35fbf3d",
        "1995b540369f1faeafa4eda0e4bcedc13239cb1936c5994cec146def01009c33",
    ]
    assert tables.cdf.shape == (256, 103)
    np.testing.assert_array_equal(tables.offset, -(tables.cdf_length - 3) // 2)
    assert tables.cdf[64, :9].tolist() == [0, 1, 188, 11719, 53813, 65344, 65534, 65535, 65536]


def test_shipped_tables_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        paper_tables().cdf[0, 0] = 1


@pytest.mark.parametrize(
    ("cdf", "length", "offset"),
    [
        ([[0, 65536]], [2], [0]),
        ([[0, 5, 65536]], [4], [0]),
        ([[0, 5, 65535]], [3], [0]),
        ([[1, 5, 65536]], [3], [0]),
        ([[0, 5, 5, 65536]], [4], [0]),
        ([[0, 5, 65536]], [3], [1]),
        ([[0, 5, 65536]], [3], [-1]),
        ([[0, 5, 65536]], [3, 3], [0]),
        ([[0, 5, 65536]], [[3]], [0]),
        (np.zeros((0, 3)), [], []),
    ],
)
def test_broken_tables_are_refused(cdf, length, offset):
    with pytest.raises(ValueError, match="GaussianTables"):
        GaussianTables(*(np.array(value, dtype=np.int32) for value in (cdf, length, offset)))


def test_tables_of_another_type_are_refused():
    with pytest.raises(ValueError, match="int32"):
        GaussianTables(paper_tables().cdf.astype(np.int64), paper_tables().cdf_length, paper_tables().offset)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": b"short"},
        {"fsq_levels": ()},
        {"fsq_levels": (1, 4)},
        {"fsq_levels": (257,)},
        {"fsq_levels": (256,) * 4},
        {"y_channels": 6},
        {"y_channels": 0},
        {"rows": 0},
        {"rows": 257},
        {"skip_index": 257},
        {"version": 2},
        {"hyper_tables": np.ones((7, 5, 5, 5, 4), dtype=np.int32)},
        {"hyper_tables": np.ones((7, 4), dtype=np.int32)},
    ],
    ids=str,
)
def test_a_model_that_no_file_can_name_is_refused(odc, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        odc.make_model(**change)


def test_a_model_survives_copying_and_pickling_and_codes_the_same(odc):
    picture = odc.make_picture(odc.full, 100, 60)
    data = odc.write(odc.full, picture)
    for twin in (copy.deepcopy(odc.full), pickle.loads(pickle.dumps(odc.full))):
        assert odc.write(twin, picture) == data


def test_models_keep_their_coder_tables_to_themselves(odc):
    first, second = odc.make_model(), odc.make_model()
    assert first.categoricals.scale(3) is first.categoricals.scale(3)
    assert first.categoricals.scale(3) is not second.categoricals.scale(3)


def test_integer_counts_reach_the_coder_exactly():
    # The boundaries of a table of 2^16 are multiples of 2^8 among the coder's 2^24: probe each, and the value below.
    generator = np.random.default_rng(0)
    counts = np.maximum(1, generator.integers(1, 2000, 40))
    counts[7] = 1
    counts[20] += 65536 - counts.sum()
    model, ends = categorical(counts), np.cumsum(counts)[:-1]
    scale = (2**64 - 1) >> 24
    for symbol, end in enumerate(ends.tolist()):
        for point, expected in ((scale * end * 256, symbol + 1), (scale * end * 256 - 1, symbol)):
            words = np.array([point >> 32, point & 0xFFFFFFFF], dtype=np.uint32)
            assert range_decoder(words).decode(model) == expected


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 255, 256])
def test_uniform_counts_sum_to_2_to_the_16(size):
    counts = uniform_counts(size)
    assert counts.sum() == 65536 and counts.max() - counts.min() <= 1
    encoder = range_encoder()
    encoder.encode(np.arange(size, dtype=np.int32), categorical(counts))
    assert range_decoder(encoder.get_compressed()).decode(categorical(counts), size).tolist() == list(range(size))
