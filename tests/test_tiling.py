"""Large pictures in tiles: nothing is left out, symbols are the same, and nobody sees where a tile ends."""

from __future__ import annotations

import io
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image

from onedc_hf import OneDCPipeline
from onedc_hf.evaluation.seams import border_lines, seam_ratio
from onedc_hf.tiling import POSITION, Canvas, Tiling, assemble, part_of, spans

TILE, OVERLAP = 320, 128


@pytest.mark.parametrize("total", [1, 5, 15, 16, 17, 29, 30, 100, 1000])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 3), (5, 1), (4, 3)])
def test_tiles_cover_everything_and_overlap_enough(total: int, tile: int, overlap: int) -> None:
    found = spans(total, Tiling(tile, overlap))
    assert found[0].start == 0 and found[-1].stop == total
    assert all(s.stop - s.start == min(found[0].stop, total) <= tile for s in found)
    shared = [before.stop - after.start for before, after in zip(found, found[1:], strict=False)]
    assert all(s >= overlap for s in shared)
    # No tile more than needed: with one less they could not overlap enough.
    assert len(found) == 1 or (len(found) - 1) * (tile - overlap) + overlap < total


def test_no_tiling_is_one_tile() -> None:
    assert spans(1000, None) == [slice(0, 1000)]


@pytest.mark.parametrize(("tile", "overlap"), [(3, 3), (3, 0), (1, 2)])
def test_an_overlap_that_leaves_nothing_is_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        Tiling(tile, overlap)


def test_equal_tiles_give_back_the_whole_on_every_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    tiling = Tiling(5, 2)
    fine = torch.rand(1, 3, 4 * 17, 4 * 11, generator=generator)
    coarse = torch.rand(1, 2, 17, 11, generator=generator)
    pixels = torch.randint(0, 256, (8 * 17 - 5, 8 * 11 - 3, 3), generator=generator, dtype=torch.uint8)

    def make(rows: slice, columns: slice) -> list[torch.Tensor]:
        tile = pixels[8 * rows.start : 8 * rows.stop, 8 * columns.start : 8 * columns.stop]
        return [part_of(fine, rows, columns, 4), part_of(coarse, rows, columns, 1), tile]

    canvases = [
        Canvas(torch.full_like(fine, torch.nan), 4),
        Canvas(torch.full_like(coarse, torch.nan), 1),
        Canvas(torch.zeros_like(pixels), 8, rows=0, columns=1),
    ]
    assemble(make, spans(17, tiling), spans(11, tiling), canvases)
    torch.testing.assert_close(canvases[0].whole, fine)
    torch.testing.assert_close(canvases[1].whole, coarse)
    assert torch.equal(canvases[2].whole, pixels)


def test_tiles_that_differ_fade_into_each_other_evenly() -> None:
    tiling, whole = Tiling(4, 2), torch.zeros(64, 64)
    levels = iter([0.0, 1.0, 2.0, 3.0])
    rows = columns = spans(4 + 2, tiling)
    canvas = Canvas(torch.zeros(6 * 16, 6 * 16), 16)
    assemble(lambda r, c: [torch.full((64, 64), next(levels))], rows, columns, [canvas])
    whole = canvas.whole
    assert [whole[0, 0], whole[0, -1], whole[-1, 0], whole[-1, -1]] == [0, 1, 2, 3]
    for line in (whole[0], whole[48], whole[-1], whole[:, 0] / 2, whole[:, 48] / 2):
        assert (line.diff() >= 0).all() and line.diff().max() < 0.07  # no step: 16 lines share the change
        assert (line.diff() > 0).sum() == 17  # 16 mixed lines: the outer quarters belong to one tile alone
    # Where four tiles meet, the fade in one direction is the same all along the other.
    torch.testing.assert_close(whole[:, 1:] - whole[:, :-1], (whole[0, 1:] - whole[0, :-1]).expand(96, 95))


def test_a_seam_is_found() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(100, 130, (256, 256, 3)).astype(np.uint8)
    assert 0.95 < seam_ratio(picture, [128], [128]) < 1.05
    picture[:, 128:] += 12
    assert seam_ratio(picture, [], [128]) > 1.3
    with pytest.raises(ValueError, match="far enough"):
        seam_ratio(picture, [10], [])


# --- the model in the box --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """A photograph of the package, enlarged to odd sides, so that there are three by two tiles or more."""
    pictures = files("onedc_hf").joinpath("box/pictures").iterdir()
    path = next(p for p in pictures if p.name == "roses.jpg")
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        return np.array(picture.convert("RGB").resize((1031, 777), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def pipe() -> OneDCPipeline:
    return OneDCPipeline.from_pretrained()


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(np.float64) - b).mean()))


@pytest.fixture(scope="module")
def whole(pipe: OneDCPipeline, photograph: np.ndarray) -> tuple[bytes, np.ndarray]:
    """File and decoded picture, both in one piece."""
    data = pipe.compress(photograph, quality=60)
    return data, np.asarray(pipe.decompress(data))


@pytest.fixture
def tiled(pipe: OneDCPipeline) -> OneDCPipeline:
    """A second pipeline of the same components, that tiles."""
    other = OneDCPipeline(**pipe.components)
    other.enable_tiling(TILE, OVERLAP)
    return other


def test_tiles_decode_to_the_same_symbols_and_nearly_the_same_pixels(
    pipe: OneDCPipeline, tiled: OneDCPipeline, whole: tuple[bytes, np.ndarray]
) -> None:
    data, picture = whole
    assert torch.equal(tiled.read_symbols(data).y_hat, pipe.read_symbols(data).y_hat)
    other = np.asarray(tiled.decompress(data))
    assert other.shape == picture.shape and not np.array_equal(other, picture)
    assert _psnr(other, picture) >= 38
    tiling = Tiling(TILE // POSITION, OVERLAP // POSITION, 0)
    rows, columns = (border_lines(spans(-(-n // POSITION), tiling), POSITION) for n in picture.shape[:2])
    assert len(rows) >= 5 and len(columns) >= 10
    assert seam_ratio(other, rows, columns) <= 1.1 * max(1, seam_ratio(picture, rows, columns))


def test_a_picture_compressed_in_tiles_costs_hardly_more(
    pipe: OneDCPipeline, tiled: OneDCPipeline, photograph: np.ndarray, whole: tuple[bytes, np.ndarray]
) -> None:
    data = tiled.compress(photograph, quality=60)
    assert data != whole[0] and len(data) <= 1.02 * len(whole[0])
    assert _psnr(np.asarray(pipe.decompress(data)), whole[1]) > 30
    assert tiled.compress(photograph, quality=60) == data


def test_large_pictures_tile_by_default_and_small_ones_do_not(pipe: OneDCPipeline) -> None:
    assert pipe._tiles(2048, 2048) == ([slice(0, 32)], [slice(0, 32)])
    rows, columns = pipe._tiles(2049, 2048)
    assert len(rows) > 1 and len(columns) > 1
    assert len(pipe._tiles(1, 2048 * 2048)[1]) > 1  # padded, one row of pixels is sixty-four
    assert pipe._coder.row(np.uint8(80)) == pipe._coder.row(80)
    other = OneDCPipeline(**pipe.components)
    other.disable_tiling()
    assert other._tiles(9000, 100) == ([slice(0, 141)], [slice(0, 2)])
    other.enable_tiling()
    assert len(other._tiles(1200, 100)[0]) == 2


@pytest.mark.parametrize("sizes", [{"tile_size": 1000}, {"overlap": 100}, {"tile_size": 128, "overlap": 128}])
def test_sizes_that_do_not_fit_the_grid_are_refused(pipe: OneDCPipeline, sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="multiple of 64|overlap"):
        pipe.enable_tiling(**sizes)
