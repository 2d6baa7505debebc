"""The tree of exceptions."""

import pickle

import pytest

from onedc_hf import errors

BITSTREAM = ["NotOneDC", "UnsupportedVersion", "Truncated", "Corrupt", "UnsupportedFeature"]


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_a_onedc_error(name):
    assert issubclass(getattr(errors, name), errors.OneDCError)


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name not in ("OneDCError", "EncodeError")])
def test_every_error_about_what_was_given_is_also_a_value_error(name):
    assert issubclass(getattr(errors, name), ValueError)


@pytest.mark.parametrize("name", [*BITSTREAM, "WrongModel"])
def test_every_bad_file_is_caught_by_bitstream_error(name):
    assert issubclass(getattr(errors, name), errors.BitstreamError)


@pytest.mark.parametrize(
    "error",
    [
        errors.Corrupt("check B does not match"),
        errors.WrongModel("12ab", "34cd", "It is at someone/model."),
        errors.TargetError("150 bytes is too few; the smallest file takes 163", 163),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_the_way_to_another_process(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error) and vars(copy) == vars(error)


def test_wrong_model_names_both_ids_and_where_to_get_the_model():
    text = str(errors.WrongModel("12ab", "34cd", "It is at someone/model."))
    assert "12ab" in text and "34cd" in text and text.endswith("It is at someone/model.")
    assert "onedc info" in str(errors.WrongModel("12ab", "34cd"))


def test_target_error_knows_the_smallest_size():
    assert errors.TargetError("too small", 163).smallest == 163
