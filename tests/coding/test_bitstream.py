"""Whole files: sizes, kinds, overhead, misuse."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onedc_hf.coding import BitstreamReader, BitstreamWriter, Kind, ideal_bits, inspect, parse_header
from onedc_hf.coding.hyper import split_digits, table_bits
from onedc_hf.errors import BitstreamError, Corrupt, UnsupportedFeature, UnsupportedVersion, WrongModel

SIZES = [(1, 1), (7, 5), (64, 64), (65, 64), (511, 767), (256, 256), (257, 1), (1, 4097), (4096, 64), (70000, 3)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("z_only", [False, True], ids=["y", "z_only"])
def test_a_file_gives_back_what_was_written(odc, size, z_only):
    model = odc.full if size[0] < 1000 else odc.plain
    picture = odc.make_picture(model, *size)
    found = odc.read(model, odc.write(model, picture, z_only=z_only), [index for _, index in picture.passes])
    assert (found.header.width, found.header.height) == size
    assert found.header.kind == (Kind.Z_ONLY if z_only else Kind.QUALITY_ROW)
    assert found.z_index.dtype == np.int32
    np.testing.assert_array_equal(found.z_index, picture.z_index)
    for (symbols, _), read_back in zip([] if z_only else picture.passes, found.symbols, strict=True):
        np.testing.assert_array_equal(read_back, symbols)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    seed=st.integers(0, 1 << 32),
    mean_index=st.floats(0, 255),
    row=st.integers(0, 100),
    z_only=st.booleans(),
    extensions=st.dictionaries(st.integers(1, 60).map(lambda n: 2 * n), st.binary(max_size=300), max_size=4),
)
def test_any_file_gives_back_what_was_written(odc, size, seed, mean_index, row, z_only, extensions):
    picture = odc.make_picture(odc.full, *size, seed=seed, mean_index=mean_index)
    row = None if z_only else row
    data = odc.write(odc.full, picture, z_only=z_only, quality_row=row, extensions=sorted(extensions.items()))
    found = odc.read(odc.full, data, [index for _, index in picture.passes])
    assert (found.header.width, found.header.height, found.header.quality_row) == (*size, row)
    assert dict(found.extensions) == extensions
    np.testing.assert_array_equal(found.z_index, picture.z_index)
    for (symbols, _), read_back in zip([] if z_only else picture.passes, found.symbols, strict=True):
        np.testing.assert_array_equal(read_back, symbols)


def test_a_picture_of_several_coding_units_comes_back(odc):
    model = odc.make_model(y_channels=4, skip_index=20)
    picture = odc.make_picture(model, 64 * 400, 64 * 5 - 7)  # units of 2, 2 and 1 rows
    found = odc.read(model, odc.write(model, picture), [index for _, index in picture.passes])
    for (symbols, _), read_back in zip(picture.passes, found.symbols, strict=True):
        np.testing.assert_array_equal(read_back, symbols)


def test_a_model_with_one_row_writes_kind_1_without_a_row(odc):
    picture = odc.make_picture(odc.one_level, 100, 60)
    header = parse_header(odc.write(odc.one_level, picture))
    assert (header.kind, header.quality_row) == (Kind.ONE_LEVEL, None)


def test_the_exact_entropy_path_writes_version_1_with_the_same_layout(odc):
    exact = odc.make_model(version=1)
    picture = odc.make_picture(exact, 100, 60)
    old, new = odc.write(odc.plain, picture), odc.write(exact, picture)
    assert [parse_header(data).version for data in (old, new)] == [0, 1]
    assert len(old) == len(new)
    with pytest.raises(UnsupportedVersion, match="version 1"):
        odc.read(odc.plain, new)


def test_the_same_symbols_give_the_same_bytes(odc):
    picture = odc.make_picture(odc.full, 300, 200)
    assert odc.write(odc.full, picture) == odc.write(odc.full, picture)


def test_overhead_over_ideal_code_length_is_at_most_20_bytes_on_average_and_22_at_most(odc):
    overheads = []
    for seed, mean_index in enumerate([-90, -75, -60, -50, -40, -30, -20, -10, 0, 10, 20, 30, 45, 60, 75, 90]):
        picture = odc.make_picture(odc.full, 768, 512, seed, mean_index)
        y_bits = sum(ideal_bits(*one, odc.full.tables, odc.full.skip_index) for one in picture.passes)
        z_bits = _z_bits(odc.full, picture.z_index)
        overheads.append(len(odc.write(odc.full, picture)) - (y_bits + z_bits) / 8)
    assert np.mean(overheads) <= 20
    assert max(overheads) <= 22


@pytest.mark.parametrize("size", [(768, 512), (512, 768), (64, 64), (1, 1), (2048, 1024), (6000, 64)])
def test_a_z_only_file_is_at_most_14_bytes_over_coded_z(odc, size):
    for model in (odc.plain, odc.full):
        for seed in range(20):
            picture = odc.make_picture(odc.make_model(y_channels=4), *size, seed)
            assert len(odc.write(model, picture, z_only=True)) <= 14 + np.ceil(_z_bits(model, picture.z_index) / 8)


def _z_bits(model, z_index):
    raw = z_index.size * float(np.log2(model.fsq_levels).sum())
    if model.hyper_tables is None:
        return raw
    return min(raw, table_bits(split_digits(z_index, model.fsq_levels), model.hyper_tables))


def test_z_is_raw_whenever_that_is_not_longer(odc):
    generator = np.random.default_rng(3)
    smooth = odc.make_picture(odc.full, 768, 512)
    noise = odc.make_picture(odc.full, 768, 512)
    noise.z_index = generator.integers(0, 4**7, noise.z_index.shape)
    coded, raw = (odc.write(odc.full, picture, z_only=True) for picture in (smooth, noise))
    assert (parse_header(coded).z_coded, parse_header(raw).z_coded) == (True, False)
    assert len(raw) == 8 * 12 * 14 // 8 + 13 and len(coded) < len(raw)


def test_z_that_costs_no_byte_by_chance_still_bounds_the_declared_size(odc):
    # All digits 0 make a stream of zeros, which the tail rule would drop: the least length keeps them.
    picture = odc.make_picture(odc.plain, 640, 640)
    picture.z_index = np.zeros_like(picture.z_index)
    data = odc.write(odc.plain, picture, z_only=True)
    assert len(data) >= 100 * 14 // 8 + 12
    np.testing.assert_array_equal(odc.read(odc.plain, data).z_index, picture.z_index)


def test_coding_calls_functions_for_groups_and_not_for_symbols(odc):
    picture = odc.make_picture(odc.full, 768, 512, mean_index=20)  # 98,304 symbols
    scale_indexes = [index for _, index in picture.passes]
    data = odc.write(odc.full, picture)
    assert _calls(lambda: odc.write(odc.full, picture)) < 20_000  # a few for each scale index of a unit
    assert _calls(lambda: odc.read(odc.full, data, scale_indexes)) < 20_000


def _calls(action):
    """Calls of functions, Python's and C's."""
    seen = []
    before = sys.getprofile()
    sys.setprofile(lambda _, event, __: seen.append(event) if event in ("call", "c_call") else None)
    try:
        action()
    finally:
        sys.setprofile(before)
    return len(seen)


def test_extensions_travel_with_the_file_in_ascending_order(odc):
    picture = odc.make_picture(odc.plain, 30, 30)
    for z_only in (False, True):
        data = odc.write(odc.plain, picture, z_only=z_only, extensions=[(8, b"profile" * 50), (2, b"")])
        assert odc.read(odc.plain, data, [i for _, i in picture.passes]).extensions == ((2, b""), (8, b"profile" * 50))


def test_an_unknown_critical_extension_is_refused(odc):
    picture = odc.make_picture(odc.plain, 30, 30)
    with pytest.raises(UnsupportedFeature, match="extension 7"):
        odc.read(odc.plain, odc.write(odc.plain, picture, extensions=[(7, b"x")]))


@pytest.mark.parametrize("extensions", [[(2, b""), (2, b"")], [(0, b"")], [(256, b"")]])
def test_a_writer_refuses_extensions_that_no_file_may_have(odc, extensions):
    with pytest.raises(ValueError, match="extensions"):
        BitstreamWriter(odc.plain, width=1, height=1, quality_row=0, extensions=extensions)


def test_another_model_is_named_with_both_ids(odc):
    other = odc.make_model(digest=b"\xab" * 32)
    data = odc.write(odc.plain, odc.make_picture(odc.plain, 30, 30))
    with pytest.raises(WrongModel, match=f"{odc.plain.model_id}.*abab") as caught:
        odc.read(other, data)
    assert (caught.value.wanted, caught.value.at_hand) == (odc.plain.model_id, "abab")
    with pytest.raises(Corrupt):  # a damaged file is never blamed on the model
        odc.read(other, data[:-1] + bytes([data[-1] ^ 1]))


def test_a_model_with_the_same_two_id_bytes_is_noticed_by_check_a(odc):
    other = odc.make_model(digest=odc.plain.digest[:2] + bytes(30))
    with pytest.raises(Corrupt, match="Check A"):
        odc.read(other, odc.write(odc.plain, odc.make_picture(odc.plain, 30, 30)))


def test_other_scale_indexes_than_the_encoders_are_noticed(odc):
    picture = odc.make_picture(odc.full, 300, 200)
    scale_indexes = [index.copy() for _, index in picture.passes]
    data = odc.write(odc.full, picture)
    missed = 0
    for place in range(40):
        wrong = [index.copy() for index in scale_indexes]
        wrong[place % 4].flat[place * 17] = (wrong[place % 4].flat[place * 17] + 90) % 256
        try:
            odc.read(odc.full, data, wrong)
            missed += 1
        except BitstreamError:
            pass
    assert missed == 0  # by check B (missing one in 256) and the form of the stream together; fixed seed


def test_a_reader_and_a_writer_refuse_calls_out_of_order(odc):
    picture = odc.make_picture(odc.plain, 30, 30)
    symbols, scale_index = picture.passes[0]
    writer = BitstreamWriter(odc.plain, width=30, height=30, quality_row=3)
    for call in (lambda: odc.write_pass(writer, symbols, scale_index), writer.finish):
        with pytest.raises(RuntimeError):
            call()
    writer.write_hyper(picture.z_index)
    for call in (lambda: writer.write_hyper(picture.z_index), writer.finish):
        with pytest.raises(RuntimeError):
            call()
    reader = BitstreamReader(odc.write(odc.plain, picture), odc.plain)
    for call in (lambda: odc.read_pass(reader, scale_index), reader.finish):
        with pytest.raises(RuntimeError):
            call()
    reader.read_hyper()
    with pytest.raises(RuntimeError):
        reader.read_hyper()


def test_a_reader_and_a_writer_end_once(odc):
    picture = odc.make_picture(odc.plain, 30, 30)
    data = odc.write(odc.plain, picture)
    writer = BitstreamWriter(odc.plain, width=30, height=30, quality_row=3)
    writer.write_hyper(picture.z_index)
    reader = BitstreamReader(data, odc.plain)
    reader.read_hyper()
    for symbols, scale_index in picture.passes:
        odc.write_pass(writer, symbols, scale_index)
        odc.read_pass(reader, scale_index)
    writer.finish()
    reader.finish()
    for call in (writer.finish, reader.finish):
        with pytest.raises(RuntimeError, match="twice"):
            call()


def test_a_writer_names_the_argument_that_is_wrong(odc):
    picture = odc.make_picture(odc.plain, 30, 30)
    symbols, scale_index = picture.passes[0]
    with pytest.raises(ValueError, match="width"):
        BitstreamWriter(odc.plain, width=0, height=30, quality_row=3)
    for row in (None, -1, 101):
        with pytest.raises(ValueError, match="quality_row"):
            BitstreamWriter(odc.plain, width=30, height=30, quality_row=row)
    writer = BitstreamWriter(odc.plain, width=30, height=30, quality_row=3)
    for codes in (
        picture.z_index[None],
        picture.z_index.astype(float),
        picture.z_index + 4**7,
        picture.z_index * 0 - 1,
    ):
        with pytest.raises(ValueError, match="z_index"):
            writer.write_hyper(codes)
    writer.write_hyper(picture.z_index)
    with pytest.raises(ValueError, match="symbols"):
        odc.write_pass(writer, symbols + 40000, scale_index)
    with pytest.raises(ValueError, match="scale_index"):
        odc.write_pass(writer, symbols, scale_index + 256)


def test_inspect_tells_a_whole_file_from_a_damaged_one(odc):
    data = odc.write(odc.full, odc.make_picture(odc.full, 768, 512), extensions=[(10, b"1234"), (200, b"")])
    facts = inspect(data)
    assert (facts["width"], facts["height"], facts["bytes"]) == (768, 512, len(data))
    assert facts["bpp"] == 8 * len(data) / (768 * 512) == parse_header(data[:32], size=len(data)).bpp
    assert (facts["kind"], facts["quality_row"], facts["model_id"]) == ("quality_row", 50, odc.full.model_id)
    assert sum(facts["sections"].values()) == len(data)
    assert [entry["name"] for entry in facts["extensions"]] == ["identity", "unknown"]
    assert facts["valid"] and facts["problem"] is None
    for damaged in (data[:-7], data[:60] + b"\0" + data[61:]):
        facts = inspect(damaged)
        assert not facts["valid"] and facts["problem"] and facts["width"] == 768


def test_coding_needs_no_torch():
    program = (
        "import sys, onedc_hf.coding, onedc_hf.errors\n"
        "assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
