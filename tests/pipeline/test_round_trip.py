"""Round trips from a user's side: sizes, lists, kinds of input and output, number formats."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from onedc_hf import (
    BitstreamError,
    Corrupt,
    NotOneDC,
    OneDCPipeline,
    OneDCPipelineOutput,
    PictureError,
    TooLarge,
    WrongModel,
)
from onedc_hf.coding import parse_header
from onedc_hf.models.exact import ExactEntropyModel

Picture = Callable[..., np.ndarray]


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (64, 65), (63, 64), (130, 70)])
def test_any_size_comes_back(tiny_pipeline: OneDCPipeline, picture: Picture, size: tuple[int, int]) -> None:
    data = tiny_pipeline.compress(picture(*size))
    rebuilt = tiny_pipeline.decompress(data)
    assert rebuilt.size == size[::-1] and rebuilt.mode == "RGB"
    assert (parse_header(data).height, parse_header(data).width) == size


def test_the_same_picture_gives_the_same_bytes_and_the_same_pixels(
    tiny_pipeline: OneDCPipeline, picture: Picture
) -> None:
    data = tiny_pipeline.compress(picture(64, 96))
    assert tiny_pipeline.compress(picture(64, 96)) == data
    first, second = (np.asarray(tiny_pipeline.decompress(data)) for _ in range(2))
    assert np.array_equal(first, second)


def test_what_the_decoder_rebuilds_is_what_the_encoder_rounded(
    tiny_pipeline: OneDCPipeline, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, rebuilt = ExactEntropyModel.code, []
    monkeypatch.setattr(ExactEntropyModel, "code", lambda *given: rebuilt.append(code(*given)) or rebuilt[-1])
    with torch.inference_mode():
        analysed = tiny_pipeline._analyse(picture(64, 64))
        analysed.y[0, 0, 1, 2] = 1e6  # beyond what a symbol holds
        data = tiny_pipeline._coder.write(analysed, 50)
        found = tiny_pipeline.read_symbols(data).y_hat
    encoder, decoder = rebuilt
    assert torch.equal(encoder, decoder) and torch.equal(found, encoder)
    assert 10_000 < float(found.max()) < 5e5 and found.count_nonzero() > 1


def test_lists_of_mixed_kinds_and_sizes(tiny_pipeline: OneDCPipeline, picture: Picture, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture(20, 30)).save(path)
    tensor = torch.from_numpy(picture(8, 9)).permute(2, 0, 1)
    mixed = [path, str(path), Image.fromarray(picture(64, 70)), picture(10, 11), tensor]
    files = tiny_pipeline.compress(mixed)
    assert [image.size for image in tiny_pipeline.decompress(files)] == [(30, 20), (30, 20), (70, 64), (11, 10), (9, 8)]
    assert files[0] == files[1] == tiny_pipeline.compress(path)


def test_a_call_is_a_round_trip(tiny_pipeline: OneDCPipeline, picture: Picture) -> None:
    result = tiny_pipeline(picture(64, 80), quality=30)
    assert isinstance(result, OneDCPipelineOutput)
    assert result.bpp == [8 * len(result.bitstreams[0]) / (64 * 80)]
    images, bitstreams, bpp = tiny_pipeline(picture(64, 80), quality=30, return_dict=False)
    assert bitstreams == result.bitstreams and bpp == result.bpp
    assert np.array_equal(np.asarray(images[0]), np.asarray(result.images[0]))


def test_output_types_agree(tiny_pipeline: OneDCPipeline, picture: Picture) -> None:
    data = tiny_pipeline.compress(picture(32, 48))
    pil = np.asarray(tiny_pipeline.decompress(data))
    array, tensor = tiny_pipeline.decompress(data, "np"), tiny_pipeline.decompress(data, "pt")
    assert array.shape == (32, 48, 3) and tensor.shape == (3, 32, 48)
    assert np.array_equal(np.round(array * 255).astype(np.uint8), pil)
    assert torch.equal((tensor * 255).round().to(torch.uint8), torch.from_numpy(pil.copy()).permute(2, 0, 1))


def test_open_files_are_read(tiny_pipeline: OneDCPipeline, picture: Picture) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(64, 64)).save(buffer, "PNG")
    data = tiny_pipeline.compress(buffer)
    assert data == tiny_pipeline.compress(picture(64, 64))
    assert tiny_pipeline.decompress(io.BytesIO(data)).size == (64, 64)
    with pytest.raises(TypeError, match="StringIO"):
        tiny_pipeline.decompress(io.StringIO("words"))


def test_paths_are_read_when_decompressing(tiny_pipeline: OneDCPipeline, picture: Picture, tmp_path: Path) -> None:
    file = tmp_path / "a.odc"
    file.write_bytes(tiny_pipeline.compress(picture(16, 16)))
    assert tiny_pipeline.decompress(file).size == (16, 16)
    assert tiny_pipeline.decompress(str(file)).size == (16, 16)


def test_misspelt_arguments_are_errors(tiny_pipeline: OneDCPipeline, picture: Picture) -> None:
    with pytest.raises(TypeError, match="qualty"):
        tiny_pipeline.compress(picture(8, 8), qualty=3)  # pyright: ignore


def test_missing_files_and_non_pictures(tiny_pipeline: OneDCPipeline, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="nowhere.png"):
        tiny_pipeline.compress(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError):
        tiny_pipeline.decompress(tmp_path / "nowhere.odc")
    with pytest.raises(IsADirectoryError, match="folder"):
        tiny_pipeline.decompress(tmp_path)
    with pytest.raises(TypeError, match="int"):
        tiny_pipeline.decompress(3)  # pyright: ignore
    with pytest.raises(ValueError, match="output_type"):
        tiny_pipeline.decompress(b"", "jpeg")  # pyright: ignore


def test_bad_bytes_raise_the_right_error(
    tiny_pipeline: OneDCPipeline, many_rates: OneDCPipeline, picture: Picture
) -> None:
    data = tiny_pipeline.compress(picture(64, 64))
    with pytest.raises(WrongModel, match=parse_header(data).model_id):
        many_rates.decompress(data)
    with pytest.raises(NotOneDC):
        tiny_pipeline.decompress(b"\x89PNG\r\n\x1a\n" + bytes(40))
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 4
    with pytest.raises(Corrupt):
        tiny_pipeline.decompress(bytes(damaged))
    with pytest.raises(BitstreamError):
        tiny_pipeline.decompress(data[:-5])


def test_a_file_decodes_to_the_same_pixels_in_a_fresh_process(
    tiny_pipeline: OneDCPipeline, picture: Picture, tmp_path: Path
) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "model")
    data = tiny_pipeline.compress(picture(64, 96))
    (tmp_path / "a.odc").write_bytes(data)
    np.save(tmp_path / "picture.npy", picture(64, 96))
    program = (
        "import sys, numpy, torch\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "from onedc_hf import OneDCPipeline\n"
        "pipe = OneDCPipeline.from_pretrained('model')\n"
        "numpy.save('pixels.npy', numpy.asarray(pipe.decompress('a.odc')))\n"
        "open('b.odc', 'wb').write(pipe.compress(numpy.load('picture.npy')))\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    assert np.array_equal(np.load(tmp_path / "pixels.npy"), np.asarray(tiny_pipeline.decompress(data)))
    assert (tmp_path / "b.odc").read_bytes() == data


def test_bfloat16_reads_the_files_of_float32(tiny_folder: Path, tiny_pipeline: OneDCPipeline, picture: Picture) -> None:
    low = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    assert low.codec.dtype == low.generator.dtype == low.vae.dtype == torch.bfloat16
    data = tiny_pipeline.compress(picture(64, 64))
    exact, rough = (np.asarray(pipe.decompress(data), dtype=int) for pipe in (tiny_pipeline, low))
    assert np.abs(exact - rough).mean() < 3
    assert tiny_pipeline.decompress(low.compress(picture(64, 64))).size == (64, 64)


def test_rebuilt_pictures_carry_their_provenance(tiny_pipeline: OneDCPipeline, picture: Picture) -> None:
    data = tiny_pipeline.compress(picture(64, 64))
    info = tiny_pipeline.decompress(data).info
    assert info["onedc:ModelId"] == tiny_pipeline.model_id
    assert info["onedc:DigitalSourceType"].startswith("http://cv.iptc.org/")
    assert float(info["onedc:BitsPerPixel"]) == pytest.approx(8 * len(data) / 64**2, abs=1e-4)


def test_pictures_above_the_limit_are_refused_unless_asked_for(tiny_folder: Path, picture: Picture) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    data = pipe.compress(picture(64, 65))
    assert pipe.max_pixels == 1 << 28
    pipe.max_pixels = 64 * 64
    with pytest.raises(PictureError, match="4,096"):
        pipe.compress(picture(64, 65))
    with pytest.raises(TooLarge, match="4,096"):
        pipe.decompress(data)
    for limit in (None, 0):
        pipe.max_pixels = limit
        assert pipe.decompress(data).size == (65, 64) and pipe.compress(picture(64, 65)) == data


def test_warnings_point_at_the_line_that_asked(many_rates: OneDCPipeline, picture: Picture) -> None:
    data = many_rates.compress(picture(128, 128), quality=80)
    with pytest.warns(UserWarning, match="cut") as caught:
        many_rates.decompress(data[: len(data) // 2], allow_partial=True)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    ("norm", "dtype", "last"),
    [("group", torch.float32, False), ("group", torch.bfloat16, True), ("channel", torch.float32, True)],
)
def test_the_layout_of_weights_is_exact_in_float32_and_quick_in_half_precision(norm, dtype, last):

    from onedc_hf.memory_layout import settle

    module = torch.nn.Conv2d(4, 8, 3).to(dtype)
    module.config = SimpleNamespace(norm=norm)
    before = module.weight.clone()
    settle(module)
    assert module.weight.is_contiguous(memory_format=torch.channels_last) == last
    assert torch.equal(module.weight, before)


def test_tensors_that_are_handed_out_can_be_worked_on_and_learned_from(
    tiny_pipeline: OneDCPipeline, picture: Picture
) -> None:
    data = tiny_pipeline.compress(picture(64, 64))
    for tensor in (tiny_pipeline.decompress(data, "pt"), tiny_pipeline(picture(64, 64), output_type="pt").images[0]):
        tensor.mul_(2)
        torch.nn.Conv2d(3, 1, 3)(tensor[None]).sum().backward()


def test_addresses_are_said_not_to_be_fetched_and_home_is_known(
    tiny_pipeline: OneDCPipeline, picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PictureError, match="not fetched"):
        tiny_pipeline.compress("https://example.com/a.jpg")
    with pytest.raises(FileNotFoundError, match="not fetched"):
        tiny_pipeline.decompress("https://example.com/a.odc")
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.odc").write_bytes(tiny_pipeline.compress("~/a.png"))
    assert tiny_pipeline.decompress("~/a.odc").size == (64, 64)
