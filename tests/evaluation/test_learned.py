"""CompressAI's models as codecs to compare with, with a substitute for that package."""

import sys
import types

import numpy as np
import pytest
import torch

from onedc_hf.errors import PictureError
from onedc_hf.evaluation import learned
from onedc_hf.evaluation.learned import LearnedLadder, is_learned


class SmallModel(torch.nn.Module):
    """Keeps every pixel in steps that get finer with quality; its strings are zlib's."""

    def __init__(self, quality, metric, pretrained):
        super().__init__()
        assert metric == "mse" and pretrained
        self.step, self.updated = 2.0 ** (3 - quality) / 8, False

    def update(self):
        self.updated = True

    def compress(self, x):
        import zlib

        assert self.updated and x.shape[-1] % 64 == x.shape[-2] % 64 == 0
        symbols = (x[0] / self.step).round().to(torch.int16).numpy()
        self.shape_of_x = x.shape
        return {
            "strings": [[zlib.compress(symbols.tobytes())], [b"z"]],
            "shape": (x.shape[-2] // 64, x.shape[-1] // 64),
        }

    def decompress(self, strings, shape):
        import zlib

        symbols = np.frombuffer(zlib.decompress(strings[0][0]), np.int16).reshape(3, shape[0] * 64, shape[1] * 64)
        assert strings[1] == [b"z"]
        return {"x_hat": torch.from_numpy(symbols.copy())[None].float() * self.step}


@pytest.fixture
def compressai(monkeypatch):
    package, zoo = types.ModuleType("compressai"), types.ModuleType("compressai.zoo")
    zoo.models = {"small": SmallModel, "cheng2020-anchor": SmallModel}
    package.zoo = zoo
    monkeypatch.setitem(sys.modules, "compressai", package)
    monkeypatch.setitem(sys.modules, "compressai.zoo", zoo)
    learned._model.cache_clear()
    yield
    learned._model.cache_clear()


def test_files_are_whole_and_grow_with_quality(compressai, picture):
    original = picture(70, 100)
    ladder = LearnedLadder(original, "compressai:small")
    sizes = [len(ladder.at(quality)) for quality in range(1, 9)]
    assert sizes == sorted(sizes) and len(set(sizes)) == 8
    errors = []
    for quality in (1, 4, 8):
        rebuilt = LearnedLadder.decode(ladder.at(quality))
        assert rebuilt.shape == original.shape and rebuilt.dtype == np.uint8
        errors.append(np.abs(rebuilt.astype(int) - original).mean())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1


def test_nearest_is_nearest_and_says_when_it_is_at_the_floor(compressai, picture):
    ladder = LearnedLadder(picture(64, 64), "compressai:cheng2020-anchor")
    sizes = {quality: len(ladder.at(quality)) for quality in range(1, 7)}
    for target in (sizes[1] + 1, (sizes[3] + sizes[4]) // 2, 10**6):
        found = ladder.nearest(target)
        assert abs(len(found.data) - target) == min(abs(size - target) for size in sizes.values())
    assert ladder.nearest(1).at_floor and not ladder.nearest(sizes[1]).at_floor


def test_what_is_no_file_of_such_a_model_is_an_error(compressai):
    with pytest.raises(PictureError, match="no file of a CompressAI model"):
        LearnedLadder.decode(b"short")


def test_without_the_package_or_such_a_model_the_message_says_so(picture, compressai, monkeypatch):
    assert is_learned("compressai:small") and not is_learned("avif")
    with pytest.raises(ValueError, match=r"no model 'big'; it has cheng2020-anchor, small"):
        LearnedLadder(picture(64, 64), "compressai:big")
    monkeypatch.setitem(sys.modules, "compressai", None)
    with pytest.raises(ModuleNotFoundError, match="pip install compressai"):
        LearnedLadder(picture(64, 64), "compressai:small")
