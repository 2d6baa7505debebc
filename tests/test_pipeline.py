"""The pipeline from a user's side: round trips, rates, sizes, errors, saving and loading."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline
from PIL import Image

from onedc_hf import (
    BitstreamError,
    Corrupt,
    EncodeError,
    ModelError,
    NotOneDC,
    OneDCPipeline,
    OneDCPipelineOutput,
    PictureError,
    TargetError,
    TooLarge,
    Truncated,
    WrongModel,
)
from onedc_hf.coder import Analysed, SymbolCoder
from onedc_hf.coding import Tag, inspect, parse_header, partial
from onedc_hf.models.exact import ExactEntropyModel
from onedc_hf.rate_search import search_row

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


@pytest.fixture(scope="module")
def many_rates(tiny_folder: Path) -> OneDCPipeline:
    """The tiny model with a spread of gains, as training gives it: another entropy model, with its own id."""
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.codec.make_float()
    steps = torch.linspace(-40, 140, 101).round().int()
    pipe.codec.entropy.gain_steps.copy_(steps[:, None].expand(-1, 8))
    pipe.quantize_entropy([np.zeros((64, 64, 3), np.uint8)])
    return pipe


def test_quality_is_a_rate_scale(many_rates: OneDCPipeline, picture: Picture) -> None:
    sizes = [len(many_rates.compress(picture(128, 128), quality=q)) for q in (0, 25, 50, 75, 100)]
    assert sizes == sorted(sizes) and sizes[-1] > 2 * sizes[0]


def test_a_byte_target_is_met_from_below_and_closely(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(128, 192)
    sizes = {q: len(many_rates.compress(rgb, quality=q)) for q in (30, 70)}
    for wanted in (sizes[30], sizes[70], (sizes[30] + sizes[70]) // 2):
        found = len(many_rates.compress(rgb, target_bytes=wanted))
        assert 0.93 * wanted <= found <= wanted


def test_a_bpp_target_counts_the_pictures_own_pixels(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(100, 130)
    wanted = len(many_rates.compress(rgb, quality=50)) * 8 / rgb[..., 0].size
    data = many_rates.compress(rgb, target_bpp=wanted)
    assert 0.9 * wanted <= len(data) * 8 / rgb[..., 0].size <= wanted
    assert data == many_rates.compress(rgb, target_bytes=int(wanted * 100 * 130 / 8))


@pytest.mark.parametrize("rate", [{"target_bpp": 1e308}, {"target_bpp": np.float16(60000)}, {"target_bytes": 10**400}])
def test_a_target_above_every_file_gives_the_best(many_rates: OneDCPipeline, picture: Picture, rate: Any) -> None:
    rgb = picture(64, 64)
    assert many_rates.compress(rgb, **rate) == many_rates.compress(rgb, quality=100)


def test_the_default_quality_is_the_middle_of_the_scale(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(128, 128)
    data = many_rates.compress(rgb)
    assert data == many_rates.compress(rgb, quality=50) != many_rates.compress(rgb, quality=49)


@pytest.mark.parametrize(("rows", "expected"), [(101, [0, 50, 100]), (51, [0, 25, 50]), (2, [0, 0, 1]), (1, [0] * 3)])
def test_qualities_spread_over_the_rows_that_a_model_has(
    tiny_pipeline: OneDCPipeline, rows: int, expected: list[int]
) -> None:
    entropy: Any = SimpleNamespace(quality_rows=rows)
    coder = SymbolCoder(tiny_pipeline.codec, entropy, tiny_pipeline._symbols)
    assert [coder.row(quality) for quality in (0, 50, 100)] == expected
    assert [coder.quality(row) for row in (0, rows - 1)] == [0, 100 if rows > 1 else 0]
    assert coder.quality(None) == -1


def test_a_target_below_the_smallest_file_says_what_is_possible(many_rates: OneDCPipeline, picture: Picture) -> None:
    smallest = len(many_rates.compress(picture(64, 64), z_only=True))
    with pytest.raises(TargetError, match=str(smallest)) as caught:
        many_rates.compress(picture(64, 64), target_bytes=smallest - 1)
    assert caught.value.smallest == smallest
    assert len(many_rates.compress(picture(64, 64), target_bytes=smallest)) == smallest


def test_a_z_only_file_is_the_hyper_latent_and_little_more(tiny_pipeline: OneDCPipeline, picture: Picture) -> None:
    data = tiny_pipeline.compress(picture(128, 192), z_only=True)
    assert len(data) <= 6 * 14 / 8 + 14
    assert tiny_pipeline.decompress(data).size == (192, 128)


@pytest.mark.parametrize("trials", [1, 3, 5, 20])
def test_the_row_search_never_returns_a_row_known_to_be_too_large(trials: int) -> None:
    for budget in (5, 100, 150, 1000, 10_000):
        asked: dict[int, float] = {}

        def estimate(row: int, asked: dict[int, float] = asked) -> float:
            asked[row] = 100 * 1.03**row
            return asked[row]

        row = search_row(estimate, 101, budget, trials)
        assert len(asked) <= trials
        assert row == 0 or asked.get(row, 0) <= budget
        if trials >= 5 and 100 <= budget <= 1900:
            assert 0.9 * budget < 100 * 1.03**row <= budget


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


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"quality": 101}, ValueError, "0 to 100"),
        ({"quality": -1}, ValueError, "0 to 100"),
        ({"quality": 50.0}, TypeError, "integer"),
        ({"quality": True}, TypeError, "integer"),
        ({"target_bytes": 0}, ValueError, "at least 1"),
        ({"target_bpp": float("nan")}, ValueError, "positive"),
        ({"target_bpp": -1}, ValueError, "positive"),
        ({"target_bpp": "0.1"}, TypeError, "number"),
        ({"target_bpp": True}, TypeError, "number"),
        ({"quality": 50, "target_bytes": 100}, ValueError, "one of"),
        ({"quality": 50, "z_only": True}, ValueError, "one of"),
    ],
)
def test_rate_arguments_are_checked(
    tiny_pipeline: OneDCPipeline, picture: Picture, arguments: dict, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        tiny_pipeline.compress(picture(8, 8), **arguments)


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


# Saving and loading -------------------------------------------------------------------------------------------------


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


def test_components_are_named_by_the_short_library_name(tiny_folder: Path) -> None:
    import json

    index = json.loads((tiny_folder / "model_index.json").read_text())
    assert index["codec"] == ["onedc_hf", "OneDCCodec"]
    assert index["generator"] == ["onedc_hf", "OneDCGenerator"]
    assert index["vae"] == ["onedc_hf", "OneDCAutoencoder"]


def test_diffusers_own_class_finds_the_pipeline(tiny_folder: Path) -> None:
    assert isinstance(DiffusionPipeline.from_pretrained(tiny_folder), OneDCPipeline)


def test_bfloat16_reads_the_files_of_float32(tiny_folder: Path, tiny_pipeline: OneDCPipeline, picture: Picture) -> None:
    low = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    assert low.codec.dtype == low.generator.dtype == low.vae.dtype == torch.bfloat16
    data = tiny_pipeline.compress(picture(64, 64))
    exact, rough = (np.asarray(pipe.decompress(data), dtype=int) for pipe in (tiny_pipeline, low))
    assert np.abs(exact - rough).mean() < 3
    assert tiny_pipeline.decompress(low.compress(picture(64, 64))).size == (64, 64)


def test_casting_a_loaded_pipeline_does_not_change_its_identity(
    tiny_folder: Path, tiny_pipeline: OneDCPipeline
) -> None:
    assert OneDCPipeline.from_pretrained(tiny_folder).to(torch.bfloat16).model_id == tiny_pipeline.model_id


def test_changed_entropy_weights_are_noticed(tiny_folder: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.codec.entropy.reduction.weight[0, 0, 0] += 1
    with pytest.raises(ModelError, match="digest"):
        pipe.compress(np.zeros((8, 8, 3), np.uint8))


def test_integers_that_could_overflow_are_refused_though_the_identity_holds(tiny_folder: Path, tmp_path: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.codec.entropy.reduction.multiplier[0] = 1 << 16
    pipe.codec.config.model_id = pipe.codec.entropy.digest().hex()
    pipe.save_pretrained(tmp_path / "wild")
    with pytest.raises(ModelError, match=r"wild.*out of bounds"):
        OneDCPipeline.from_pretrained(tmp_path / "wild")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all"])
def test_a_mistyped_folder_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=r"does not exist"):
        OneDCPipeline.from_pretrained(name)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json"):
        OneDCPipeline.from_pretrained(tmp_path)


def test_an_unreachable_repository_is_named() -> None:
    with pytest.raises(ModelError, match="nobody/nothing"):
        OneDCPipeline.from_pretrained("nobody/nothing")


def test_components_that_do_not_fit_are_refused(tiny_pipeline: OneDCPipeline) -> None:
    from onedc_hf import OneDCAutoencoder

    with pytest.raises(ModelError, match="latent channels"):
        OneDCPipeline(
            OneDCAutoencoder(latent_channels=5, encoder_channels=8, decoder_channels=8),
            tiny_pipeline.codec,
            tiny_pipeline.generator,
            tiny_pipeline.scheduler,
        )


@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_stock_autoencoders_work(tiny_pipeline: OneDCPipeline, picture: Picture, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if kind == "kl":
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
        vae = AutoencoderKL(block_out_channels=[8] * 4, norm_num_groups=4, latent_channels=4, **blocks)
    else:
        vae = AutoencoderTiny(
            encoder_block_out_channels=[8] * 4, decoder_block_out_channels=[8] * 4, num_encoder_blocks=[1] * 4,
            num_decoder_blocks=[1] * 4, latent_channels=4,
        )  # fmt: skip
    pipe = OneDCPipeline(vae, tiny_pipeline.codec, tiny_pipeline.generator, tiny_pipeline.scheduler)
    data = pipe.compress(picture(64, 70))
    assert pipe.compress(picture(64, 70)) == data  # the posterior's mean, not a sample
    pipe.save_pretrained(tmp_path)
    assert OneDCPipeline.from_pretrained(tmp_path).decompress(data).size == (70, 64)


def test_model_offload_runs_every_part_through_its_hooks(
    tiny_folder: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    data = pipe.compress(picture(64, 64))
    expected = np.asarray(pipe.decompress(data))
    pipe.enable_model_cpu_offload(device="cpu")
    # On a CPU weights are at hand anyway: who asks for them is what counts.
    kind, brought = type(pipe.vae._hf_hook), []
    honest = kind.pre_forward

    def counted(hook: Any, module: Any, *given: Any, **named: Any) -> Any:
        brought.append(type(module).__name__)
        return honest(hook, module, *given, **named)

    monkeypatch.setattr(kind, "pre_forward", counted)
    assert pipe.compress(picture(64, 64)) == data
    assert brought == ["OneDCAutoencoder", "OneDCCodec", "OneDCCodec"]  # analysis, hyper-analysis
    brought.clear()
    assert np.array_equal(np.asarray(pipe.decompress(data)), expected)
    assert list(dict.fromkeys(brought)) == ["OneDCCodec", "OneDCGenerator", "OneDCAutoencoder"]
    assert brought.count("OneDCCodec") == 2  # adaptor, synthesis


# The exact entropy path, cut files, limits -------------------------------------------------------------------------


def test_a_float_model_is_made_exact_on_first_use_and_says_so(
    tiny_folder: Path, picture: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.codec.make_float()
    data = pipe.compress(picture(64, 64))
    assert "made exact" in caplog.text
    assert parse_header(data).version == 1 and pipe.codec.config.entropy_path == "exact"
    pipe.codec.entropy.z_counts.add_(0)  # not frozen by the inference mode it was made in
    assert pipe.decompress(data).size == (64, 64)


def test_a_file_that_does_not_decode_here_is_not_handed_out(
    tiny_folder: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    write = SymbolCoder.write

    def faulty(*arguments: object) -> bytes:
        data = bytearray(write(*arguments))  # type: ignore[arg-type]
        data[-6] ^= 1
        return bytes(data)

    monkeypatch.setattr(SymbolCoder, "write", faulty)
    with pytest.raises(EncodeError, match="does not decode"):
        pipe.compress(picture(64, 64))


@pytest.mark.parametrize("what", ["symbol", "scale index"])
def test_a_file_of_other_symbols_is_not_handed_out_though_its_container_is_whole(
    tiny_folder: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    encode_units, changed = SymbolCoder.encode_units, []

    def faulty(coder: SymbolCoder, analysed: Analysed, row: int, write: Any, nearest: bool = False) -> None:
        def write_changed(symbols: np.ndarray, index: np.ndarray) -> None:
            symbols, index = symbols.copy(), index.copy()
            if not changed and what == "symbol":
                symbols.flat[0] += 1000  # the passes that follow have another context
            elif not changed:
                index.flat[0] += 40  # as on a machine whose networks say something else
            changed.append(what)
            write(symbols, index)

        encode_units(coder, analysed, row, write_changed, nearest)

    monkeypatch.setattr(SymbolCoder, "encode_units", faulty)
    with pytest.raises(EncodeError, match="does not decode"):
        pipe.compress(picture(64, 64))
    changed.clear()
    monkeypatch.setattr(SymbolCoder, "prove", lambda *_: None)
    assert inspect(pipe.compress(picture(64, 64)))["valid"]


@pytest.mark.parametrize("rate", [{"z_only": True}, {"quality": 50}], ids=str)
def test_a_file_of_another_hyper_latent_is_not_handed_out(
    tiny_folder: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch, rate: dict[str, Any]
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    write = SymbolCoder.write

    def faulty(coder: SymbolCoder, analysed: Analysed, *rest: Any) -> bytes:
        return write(coder, dataclasses.replace(analysed, z_index=analysed.z_index ^ 1), *rest)

    monkeypatch.setattr(SymbolCoder, "write", faulty)
    with pytest.raises(EncodeError, match="hyper-latent differs"):
        pipe.compress(picture(64, 64), **rate)


def test_what_arrived_of_a_cut_file_gives_a_picture(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(128, 128)
    data = many_rates.compress(rgb, quality=80)
    whole = many_rates.read_symbols(data)
    errors = []
    for size in (len(data) - 4, len(data) * 3 // 4, len(data) // 3):
        with pytest.raises(BitstreamError):
            many_rates.decompress(data[:size])
        with pytest.warns(UserWarning, match=rf"{size:,} of its {len(data):,} bytes"):
            part = many_rates.read_symbols(data[:size], allow_partial=True)
        assert part.received == size / len(data)
        assert torch.equal(part.semantic_seed, whole.semantic_seed)
        errors.append(float((part.y_hat - whole.y_hat).abs().mean()))
    assert errors[0] == 0 < errors[1] < errors[2]
    with pytest.warns(UserWarning, match="cut"):
        assert many_rates.decompress(data[: len(data) // 2], allow_partial=True).size == (128, 128)


def test_a_pipeline_of_another_kind_is_named(tmp_path: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"{tmp_path}.*holds no OneDC pipeline"):
        OneDCPipeline.from_pretrained(tmp_path)


def test_a_file_that_was_cut_behind_the_picture_gives_the_whole_picture(
    many_rates: OneDCPipeline, picture: Picture
) -> None:
    alpha = np.full((128, 128), 255, np.uint8)
    alpha[:60, :50] = np.arange(50)
    image = Image.fromarray(np.dstack([picture(128, 128), alpha]))
    image.info["xmp"] = b"<x/>" * 9
    for options in ({"quality": 80}, {"z_only": True}):
        data = many_rates.compress(image, keep_metadata=True, **options)
        whole = many_rates.read_symbols(data)
        facts = inspect(data)["sections"]
        end = facts["header"] + facts["stream"]
        behind_alpha = end + 1 + 2 + len(dict(whole.extensions)[Tag.ALPHA])
        for size in (end, end + 1, end + 2, behind_alpha - 1, *range(behind_alpha, behind_alpha + 6), len(data) - 1):
            with pytest.raises(BitstreamError):
                many_rates.read_symbols(data[:size])
            with pytest.warns(UserWarning, match="The picture is whole"):
                part = many_rates.read_symbols(data[:size], allow_partial=True)
            assert part.received == 1 and torch.equal(part.y_hat, whole.y_hat)
            assert dict(whole.extensions).items() >= dict(part.extensions).items()
            assert (Tag.ALPHA in dict(part.extensions)) == (size >= behind_alpha)
        with pytest.warns(UserWarning, match="The picture is whole"):
            assert many_rates.decompress(data[: end + 3], allow_partial=True).mode == "RGB"
        with pytest.warns(UserWarning, match="The picture is whole"):
            assert many_rates.decompress(data[:-2], allow_partial=True).mode == "RGBA"
        with pytest.raises(Corrupt, match="CRC-32 does not hold"):  # what stands before must still be right
            many_rates.decompress(data[: end - 2] + b"\x5a\xa5" + data[end:-1], allow_partial=True)
        hole = data[: end + 6] + bytes(len(data) - end - 6)
        for damaged in (hole, data[:-4] + b"\xc9\0"):  # a hole, a remnant that looks like an unknown extension
            with pytest.warns(UserWarning, match="The picture is whole"):
                found = many_rates.decompress(damaged, allow_partial=True)
            assert found.mode == ("RGB" if damaged == hole else "RGBA")
        with pytest.warns(UserWarning, match=r"damaged\. Of what"):
            many_rates.decompress(data[:-1], allow_partial=True, preview=True)
        with pytest.raises(Truncated, match="another model"):
            many_rates.decompress(data[:5] + b"\0\0" + data[7:-1], allow_partial=True)


def test_what_comes_beside_is_unpacked_only_when_the_header_is_proved(
    many_rates: OneDCPipeline, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = many_rates.compress(np.dstack([picture(64, 128), np.full((64, 128), 200, np.uint8)]), quality=40)
    unpacked = []
    monkeypatch.setattr(partial, "unpack_alpha", lambda content, *size: unpacked.append(size))
    with pytest.warns(UserWarning, match="damaged"):
        many_rates.read_symbols(data[:-1], allow_partial=True)
    assert unpacked == [(64, 128)]
    flags, large = data[2] & 0xCF, ((1 << 24) - 1 << 24 | (1 << 24) - 1).to_bytes(6, "big")
    for size in (bytes([flags, 63, 63]), bytes([flags | 3 << 4]) + large):  # sides that alpha would be unpacked to
        with pytest.raises(BitstreamError):
            many_rates.read_symbols(data[:2] + size + data[5:], allow_partial=True)
    assert len(unpacked) == 1


def test_partial_is_no_licence_for_damage(many_rates: OneDCPipeline, picture: Picture) -> None:
    data = bytearray(many_rates.compress(picture(128, 128), quality=80))
    data[len(data) // 2] ^= 4
    with pytest.raises(Corrupt):
        many_rates.decompress(bytes(data), allow_partial=True)


def test_a_preview_is_the_hyper_latent_alone(many_rates: OneDCPipeline, picture: Picture) -> None:
    rgb = picture(128, 128)
    preview = many_rates.decompress(many_rates.compress(rgb, quality=80), preview=True)
    alone = many_rates.decompress(many_rates.compress(rgb, z_only=True))
    assert np.array_equal(np.asarray(preview), np.asarray(alone))
    assert preview.info["onedc:Preview"] == "True" and "onedc:Preview" not in alone.info


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


def test_the_limit_can_be_set_on_loading(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, max_pixels=1000)
    assert pipe.max_pixels == 1000 and "ignored" not in caplog.text
    with pytest.raises(PictureError, match="1,000"):
        pipe.compress(np.zeros((64, 65, 3), np.uint8))


def test_the_file_of_a_released_model_names_it(tiny_pipeline: OneDCPipeline) -> None:
    box = OneDCPipeline.from_pretrained()
    data = box.compress(np.zeros((64, 64, 3), np.uint8), z_only=True)
    with pytest.raises(WrongModel, match=r"model in the box of onedc-hf"):
        tiny_pipeline.decompress(data)


def test_a_saved_folder_does_not_say_where_the_model_came_from(tiny_folder: Path, tmp_path: Path) -> None:
    OneDCPipeline.from_pretrained(tiny_folder).save_pretrained(tmp_path / "again")
    texts = {path.name: path.read_text() for path in (tmp_path / "again").rglob("*.json")}
    assert len(texts) >= 3 and not [name for name, text in texts.items() if str(tiny_folder.parent) in text]
    assert OneDCPipeline.from_pretrained(tmp_path / "again").model_id


def test_saving_leaves_what_is_not_ours_in_a_folder(tiny_folder: Path, tmp_path: Path) -> None:
    others = {"config.json": '{"b": 1, "_name_or_path": "x", "a": 2}', "other/config.json": "[1]"}
    for name, text in others.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    OneDCPipeline.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in others} == others


def test_saving_and_pushing_at_once_is_our_push(tiny_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    pushed = []
    monkeypatch.setattr(
        OneDCPipeline, "push_to_hub", lambda self, repo_id, **options: pushed.append((repo_id, options))
    )
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    pipe.save_pretrained(tmp_path / "mine", push_to_hub=True, private=True)
    pipe.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/other")
    assert pushed == [("mine", {"private": True}), ("me/other", {})]


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
    from types import SimpleNamespace

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


def test_limits_go_along_to_a_pipeline_of_the_same_parts(tiny_folder: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, max_pixels=1000)
    pipe.disable_tiling()
    other = OneDCPipeline.from_pipe(pipe)
    assert other.max_pixels == 1000 and other._tiling is None and other.codec is pipe.codec


@pytest.mark.parametrize(
    ("limit", "error"), [("1e9", TypeError), (1e9, TypeError), (True, TypeError), (-5, ValueError)]
)
def test_a_limit_that_is_none_is_refused(tiny_folder: Path, limit: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_pixels"):
        OneDCPipeline.from_pretrained(tiny_folder, max_pixels=limit)  # type: ignore[arg-type]


def test_a_subfolder_is_not_passed_over(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="subfolder"):
        OneDCPipeline.from_pretrained(tiny_folder, subfolder="codec")


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


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, {"max_shard_size": "40KB"}), ({"max_shard_size": "40KB"}, {}), ({"variant": "fp16"}, {})],
)
def test_a_model_that_is_saved_over_another_takes_its_place(
    tiny_folder: Path, tmp_path: Path, before: dict[str, str], after: dict[str, str]
) -> None:
    pipe = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    (tmp_path / "notes.txt").write_text("mine")
    other_model = tmp_path / "another" / "model.safetensors"
    other_model.parent.mkdir()
    other_model.write_bytes(b"mine")
    other_model.with_name("config.json").write_text("{}")
    pipe.save_pretrained(tmp_path, **before)
    weights = next(pipe.generator.unet.parameters()).data
    old = weights.clone()
    weights.add_(1)
    pipe.vae.decoder[0].bias.data.add_(1)
    pipe.save_pretrained(tmp_path, **after)
    again = OneDCPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(next(again.generator.unet.parameters()), weights)
    assert torch.equal(again.vae.decoder[0].bias, pipe.vae.decoder[0].bias)
    assert other_model.read_bytes() == b"mine"
    assert (tmp_path / "notes.txt").read_text() == "mine" and not list(tmp_path.glob(".*"))
    if "variant" in before:  # of another name, and still whole
        other = OneDCPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float32)
        assert torch.equal(next(other.generator.unet.parameters()), old)
