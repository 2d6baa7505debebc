"""torch's default dtype belongs to the whole program, and loading another model changes it for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from onedc_hf import OneDCPipeline


@pytest.fixture
def set_default() -> Iterator[Callable[[torch.dtype], None]]:
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_files_and_pictures_do_not_depend_on_the_default_dtype(
    dtype: torch.dtype, picture: Callable[..., np.ndarray], set_default: Callable[[torch.dtype], None]
) -> None:
    pipe = OneDCPipeline.from_pretrained(dtype=torch.float32)
    photo = picture(130, 200)
    settings: list[dict[str, object]] = [{"quality": 20}, {"quality": 90}, {"z_only": True}, {"target_bpp": 0.2}]
    files = [pipe.compress(photo, **setting) for setting in settings]  # type: ignore[arg-type]
    pictures = [np.asarray(pipe.decompress(data)) for data in files]
    pipe.enable_tiling(128, 64)
    tiled = np.asarray(pipe.decompress(files[1]))
    pipe.disable_tiling()
    set_default(dtype)
    assert [pipe.compress(photo, **setting) for setting in settings] == files  # type: ignore[arg-type]
    for data, expected in zip(files, pictures, strict=True):
        assert np.array_equal(np.asarray(pipe.decompress(data)), expected)
    pipe.enable_tiling(128, 64)
    assert np.array_equal(np.asarray(pipe.decompress(files[1])), tiled)
