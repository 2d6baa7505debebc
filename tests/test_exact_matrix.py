"""One latent, one file: in every number format, on any threads, under every instruction set; and floats would not do.

For the same `y` and `z` every cell of the matrix writes identical bytes and decodes them to identical integers. (The
analysis networks stay in floats, so two machines may write two different, equally good files of one *picture*.)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from onedc_hf import OneDCPipeline
from onedc_hf.models.context import CodingPass, EntropyModel
from onedc_hf.models.quantize import dequantise_entropy
from onedc_hf.pictures import load_picture
from tests.exact_worker import FLOAT_ROW

WORKER = Path(__file__).with_name("exact_worker.py")
ROOT = Path(__file__).parents[1]
COUNT = 51
INSTRUCTION_SETS = {
    "as it is": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "SSE": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


def half_way(entropy: EntropyModel, y: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The latent with every residual of the float model moved half-way between two symbols, as this process has it.

    There the last bit of a float decides, so that it does not take luck to see two settings differ.
    """
    moved = y.clone()

    def code(step: CodingPass) -> torch.Tensor:
        symbols = torch.floor((y - step.means) * step.gain) * step.mask
        moved.copy_(torch.where(step.mask.bool(), step.means + (symbols + 0.5) / step.gain, moved))
        return torch.round((moved - step.means) * step.gain) * step.mask

    entropy.run_passes(entropy.hyper_synthesis(codes), entropy.gain(FLOAT_ROW), code)
    return moved


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`y`, codes and indexes of z of 51 crops of photographs, made once; and `y` as `half_way` moves it."""
    pipe = OneDCPipeline.from_pretrained()
    floats = dequantise_entropy(pipe._entropy)
    names = sorted(str(path) for path in files("onedc_hf").joinpath("box/pictures").iterdir())
    pictures = [load_picture(name) for name in names if name.endswith(".jpg")]
    rng, arrays = np.random.default_rng(0), {}
    with torch.inference_mode():
        for i in range(COUNT):
            picture = pictures[i % len(pictures)]
            height, width = (64 * int(n) for n in rng.integers(1, 3, 2))
            top, left = rng.integers(picture.shape[0] - height), rng.integers(picture.shape[1] - width)
            y, codes = pipe._analyse_networks(picture[top : top + height, left : left + width])
            y, codes = y.float(), codes.float()
            arrays |= {f"y{i}": y.numpy(), f"codes{i}": codes.numpy(), f"half{i}": half_way(floats, y, codes).numpy()}
            arrays[f"z{i}"] = pipe.codec.z_vq.codes_to_index(codes)[0].numpy()
    path = tmp_path_factory.mktemp("latents") / "latents.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def cells(latents: Path) -> dict[str, dict[str, list[str]]]:
    """Digests of every cell of the matrix."""
    found = {}
    for name, environment in INSTRUCTION_SETS.items():
        done = subprocess.run(
            [sys.executable, str(WORKER), str(latents)],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found |= {f"{name}: {cell}": digests for cell, digests in json.loads(done.stdout.splitlines()[-1]).items()}
    return found


@pytest.mark.parametrize("what", ["files", "decoded"])
def test_every_cell_writes_the_same_bytes_and_reads_the_same_symbols(cells: dict, what: str) -> None:
    assert len(cells) == 48
    first = next(iter(cells.values()))[what]
    assert len(first) == COUNT
    assert {name: digests for name, digests in cells.items() if digests[what] != first} == {}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_path_writes_and_reads_the_same(tiny_folder: Path) -> None:
    found = {}
    for how in ("eager", "compiled"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.exact_compiled", str(tiny_folder), "12", how],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found[how] = json.loads(done.stdout.splitlines()[-1])
    assert found["eager"].pop("frames compiled") == 0 and found["compiled"].pop("frames compiled") > 20
    assert len(set(found["eager"]["files"])) == 12
    assert found["compiled"] == found["eager"]


def test_the_float_path_breaks_under_the_same_matrix(cells: dict) -> None:
    by_cell = {name: digests["float"] for name, digests in cells.items() if digests["float"]}
    assert len(by_cell) == 24
    first = next(iter(by_cell.values()))
    differing = {name: sum(a != b for a, b in zip(one, first, strict=True)) for name, one in by_cell.items()}
    print(f"float files that differ from the first cell's, of {len(first)}: {differing}")
    assert max(differing.values()) > 0, "if floats never differ, the test above cannot fail either"
