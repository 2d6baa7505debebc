"""The tail rule: the fewest bytes that decode with zeros following."""

import numpy as np
import pytest

from onedc_hf.coding.categorical import categorical, range_decoder, range_encoder, uniform_counts
from onedc_hf.coding.tail import stream_bytes, stream_words


def random_table(generator):
    size = int(generator.integers(2, 12))
    weights = generator.random(size) ** generator.choice([0.3, 1, 6, 30])
    counts = np.maximum(1, np.floor(weights / weights.sum() * (65536 - size)).astype(np.int64))
    counts[generator.integers(0, size)] += 65536 - counts.sum()
    return counts


def decodes(stream, models, symbols):
    decoder = range_decoder(stream_words(stream))
    try:
        return all(decoder.decode(model) == symbol for model, symbol in zip(models, symbols, strict=True))
    except AssertionError:  # constriction: the point lies in no symbol's interval
        return False


@pytest.mark.parametrize("style", ["typical", "likely", "lowest", "highest"])
def test_thousands_of_random_streams_end_as_short_as_they_can(style):
    generator = np.random.default_rng(["typical", "likely", "lowest", "highest"].index(style))
    for number in range(1000):
        tables = [random_table(generator) for _ in range(4)]
        coders = [categorical(table) for table in tables]
        choice = generator.integers(0, 4, number % 40)
        models = [coders[k] for k in choice]
        symbols = [int(pick(generator, tables[k], style)) for k in choice]
        encoder = range_encoder()
        for model, symbol in zip(models, symbols, strict=True):
            encoder.encode(symbol, model)
        stream = stream_bytes(encoder)
        assert decodes(stream, models, symbols)
        assert not stream.endswith(b"\0")
        if stream:
            # The interval has no gaps: were a shorter string in it, one of the two beside the stream would be.
            below = int.from_bytes(stream[:-1], "big")
            for neighbour in (below, below + 1):
                if neighbour < 256 ** (len(stream) - 1):
                    assert not decodes(neighbour.to_bytes(len(stream) - 1, "big"), models, symbols)
            # And of those as short, it is the smallest.
            smaller = (int.from_bytes(stream, "big") - 1).to_bytes(len(stream), "big")
            assert not decodes(smaller, models, symbols)


def pick(generator, table, style):
    if style == "likely":
        return table.argmax()
    if style == "lowest":
        return 0
    if style == "highest":  # keeps the interval at the top: carries run far
        return len(table) - 1
    return generator.choice(len(table), p=table / 65536)


def test_nothing_encoded_is_no_byte():
    assert stream_bytes(range_encoder()) == b""


def test_a_least_length_is_filled_with_zeros():
    encoder = range_encoder()
    encoder.encode(np.full(3, 128, dtype=np.int32), categorical(uniform_counts(256)))
    assert stream_bytes(encoder) == b"\x80\x80\x80"
    assert stream_bytes(encoder, least=5) == b"\x80\x80\x80\0\0"


def test_zeros_follow_a_stream_for_ever():
    coder = categorical(uniform_counts(256))
    stream = b"\1\2\3\4\5"
    short, long = (
        range_decoder(stream_words(data)).decode(coder, 200).tolist() for data in (stream, stream + bytes(300))
    )
    assert short == long and short[:5] == [1, 2, 3, 4, 5]


def test_a_prefix_of_the_bytes_is_a_prefix_of_the_symbols():
    generator = np.random.default_rng(0)
    coder = categorical(uniform_counts(256))
    symbols = generator.integers(0, 256, 999).astype(np.int32)
    encoder = range_encoder()
    encoder.encode(symbols, coder)
    stream = stream_bytes(encoder)
    for length in (1, 2, 3, 4, 5, 17, 998):
        found = range_decoder(stream_words(stream[:length])).decode(coder, length)
        assert (found[: length - 1] == symbols[: length - 1]).all()
