"""Every number of the authors' program: networks, symbols, tables, bytes (tests/fixtures/reference/README.md).

The weights are those of a narrow model with random weights; they go through `convert_checkpoint` first, so that the
conversion is tested with them. Another folder of the same layout can be named by `ONEDC_REFERENCE`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from onedc_hf import OneDCPipeline
from onedc_hf.coding.authors import read_authors_file
from onedc_hf.coding.rans import RansDecoder
from onedc_hf.coding.tables import paper_tables
from onedc_hf.conversion import convert_checkpoint
from onedc_hf.models.codec import semantic_tokens
from onedc_hf.models.context import CodingPass, EntropyModel, fold
from onedc_hf.models.fsq import FiniteScalarQuantizer
from onedc_hf.pictures import pad

from .authors_encoder import container, rans_bytes

REFERENCE = Path(os.environ.get("ONEDC_REFERENCE") or Path(__file__).parent / "fixtures" / "reference")
CONFIG = json.loads((REFERENCE / "config.json").read_text())
ALPHA = CONFIG["lora_config"]["lora_alpha"]
PATCH = 64  # pixels of `..._top_left_64`
FAR = ("unet_out", "unet_out_merged", "reduced", "x0", "image")  # behind the codec: looser in float32


def _names(case: str) -> list[str]:
    with safe_open(str(REFERENCE / f"{case}.safetensors"), "pt") as file:
        return sorted(set(file.keys()) - {"picture_u8"})


TENSORS = [(case, name) for case in CONFIG["cases"] for name in _names(case)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reference weights, converted: with the LoRA merged and kept."""
    root = tmp_path_factory.mktemp("reference")
    vae = AutoencoderKL(**CONFIG["vae"])
    vae.load_state_dict({k: v.float() for k, v in load_file(REFERENCE / "weights" / "vae.safetensors").items()})
    vae.save_pretrained(root / "vae")
    codec, generator = (REFERENCE / "weights" / f"{name}.safetensors" for name in ("codec", "generator_lora"))
    for lora in ("merge", "keep"):
        convert_checkpoint(codec, generator, root / "vae", root / lora, lora=lora, lora_alpha=ALPHA)
    return {lora: root / lora for lora in ("merge", "keep")}


@pytest.fixture(scope="module")
def pipes(folders: dict[str, Path]) -> dict[str, OneDCPipeline]:
    return {lora: OneDCPipeline.from_pretrained(folder, dtype=torch.float32) for lora, folder in folders.items()}


@torch.no_grad()
def _run(pipe: OneDCPipeline, unmerged: OneDCPipeline, case: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The whole chain from the picture on, by the names of the reference's tensors."""
    given = load_file(REFERENCE / f"{case}.safetensors")
    codec, vae, entropy = pipe.codec.to(dtype), pipe.vae.to(dtype), pipe.codec.authors_entropy
    assert isinstance(entropy, EntropyModel)
    entropy.to(dtype)
    found: dict[str, Tensor] = {}
    hooks = [
        codec.enc.pix_fusion.register_forward_hook(lambda _, __, out: found.update(x_emb=out)),
        entropy.hyper_dec["to_entropy"].register_forward_hook(lambda _, __, out: found.update(z_entropy=out)),
    ]
    pixels = pad(given["picture_u8"].to(dtype) / 255 * 2 - 1)
    found["x_pix"] = pixels
    found["latent_mean"] = vae.encode(pixels).latent_dist.mode()
    found["x_latent"] = found["latent_mean"] * vae.config.scaling_factor
    found["y"], found["sem"] = codec.analyse(pixels, found["x_latent"])
    found["z"] = codec.hyper_enc(found["y"], found["sem"])
    found["z_hat"] = codec.z_vq(found["z"])
    found["z_indices"] = codec.z_vq.codes_to_index(found["z_hat"])
    hyper = entropy.hyper_synthesis(found["z_hat"])
    found |= {"z_semantic": hyper.semantic_seed, "params": hyper.params, "params_reduced": hyper.reduced}
    so_far = torch.zeros_like(found["y"])

    def code(step: CodingPass) -> Tensor:
        nonlocal so_far
        symbols = torch.round((found["y"] - step.means) * step.gain) * step.mask
        so_far = so_far + (symbols + step.means) * step.mask
        found.update(
            {
                f"mask{step.index}": step.mask,
                f"pass{step.index}.scales": step.scales,
                f"pass{step.index}.means": step.means,
                f"pass{step.index}.y_q": symbols,
                f"pass{step.index}.y_hat_so_far": so_far,
                f"write{step.index}.symbols": fold(symbols, step.index),
                f"write{step.index}.indexes": fold(entropy.scale_index(step.scales, 0), step.index),
            }
        )
        return symbols

    def skip(step: CodingPass) -> None:
        found[f"zonly.pass{step.index}.means"] = step.means

    found["y_hat"] = entropy.run_passes(hyper, entropy.gain(0), code)
    found["zonly.y_hat"] = entropy.run_passes(hyper, entropy.gain(0), skip)
    for hook in hooks:
        hook.remove()
    found["y_semantic"] = codec.adapt(hyper.semantic_seed)
    tokens = semantic_tokens(found["y_semantic"])
    generators = pipe.generator.to(dtype), unmerged.generator.to(dtype)
    for prefix in ("", "zonly."):
        detail = found[prefix + "x_hat"] = codec.synthesise(found[prefix + "y_hat"], found["y_semantic"])
        merged, found[prefix + "reduced"] = generators[0].predict(detail, tokens)
        found[prefix + "unet_out_merged"] = merged
        found[prefix + "unet_out"] = generators[1].predict(detail, tokens)[0]
        found[prefix + "x0"] = generators[0].to_clean_latent(merged, found[prefix + "reduced"])
        found[prefix + "image"] = vae.decode(found[prefix + "x0"].to(dtype) / vae.config.scaling_factor).sample
    return found


@pytest.fixture(scope="module", params=["float64", "float32"])
def runs(request: pytest.FixtureRequest, pipes: dict[str, OneDCPipeline]) -> Iterator[tuple[str, dict]]:
    dtype = getattr(torch, request.param)
    yield request.param, {case: _run(pipes["merge"], pipes["keep"], case, dtype) for case in CONFIG["cases"]}


@pytest.fixture(scope="module")
def stored() -> dict[str, dict[str, Tensor]]:
    return {case: load_file(REFERENCE / f"{case}.safetensors") for case in CONFIG["cases"]}


@pytest.mark.parametrize(("case", "name"), TENSORS, ids=[f"{case}.{name}" for case, name in TENSORS])
def test_tensor(runs: tuple[str, dict], stored: dict, case: str, name: str) -> None:
    precision, found = runs
    wanted, base = stored[case][name], name.removesuffix("_top_left_64")
    value = found[case][base]
    if base != name:
        value = value[..., :PATCH, :PATCH]
    assert value.shape == wanted.shape
    whole_numbers = not wanted.is_floating_point() or name.endswith((".y_q", ".symbols", "z_hat"))
    if whole_numbers:
        assert torch.equal(value.double(), wanted.double())
        return
    bound = 1e-5 if precision == "float64" else 1e-4 if base.removeprefix("zonly.") in FAR else 3e-5
    error = (value.double() - wanted.double()).abs().max() / wanted.double().abs().max()
    assert error <= bound, f"{error:.2e} of the largest magnitude"


# Integers and bytes -------------------------------------------------------------------------------------------------


def test_the_cdf_tables_are_those_of_the_program() -> None:
    wanted, tables = load_file(REFERENCE / "gaussian_cdf.safetensors"), paper_tables()
    assert np.array_equal(tables.cdf, wanted["quantized_cdf"].numpy())
    assert np.array_equal(tables.cdf_length, wanted["cdf_length"].numpy())
    assert np.array_equal(tables.offset, wanted["offset"].numpy())


def _groups(file: str) -> list[str]:
    with safe_open(str(REFERENCE / file), "pt") as tensors:
        return sorted({name.partition(".")[0] for name in tensors.keys()})  # noqa: SIM118


@pytest.mark.parametrize("levels", _groups("fsq_cases.safetensors"))
def test_the_quantiser(levels: str) -> None:
    cases = load_file(REFERENCE / "fsq_cases.safetensors")
    quantiser = FiniteScalarQuantizer(cases[f"{levels}.levels"].tolist())
    z, codes, indices = (cases[f"{levels}.{name}"] for name in ("z", "codes", "indices"))
    if z.dim() == 2:  # [positions, channels]
        z, codes = (x.t()[None, :, None] for x in (z, codes))
        indices = indices[None, None]
    found = quantiser(z)
    assert torch.equal(found, codes) and torch.equal(quantiser.codes_to_index(found), indices.to(torch.int32))
    table = cases[f"{levels}.table_indices"].reshape(1, 1, -1)
    assert torch.equal(
        quantiser.index_to_codes(table)[0, :, 0].t(), cases[f"{levels}.table_codes"].reshape(table.numel(), -1)
    )


@pytest.mark.parametrize("name", _groups("rans_cases.safetensors"))
def test_the_entropy_coder(name: str) -> None:
    cases = load_file(REFERENCE / "rans_cases.safetensors")
    symbols, indexes, data = (cases[f"{name}.{part}"].reshape(-1).numpy() for part in ("symbols", "indexes", "bytes"))
    tables, wanted = paper_tables(), bytes(data.astype(np.uint8))
    stream = rans_bytes(symbols.tolist(), indexes.tolist(), tables)
    assert stream == wanted or b"\x01" + stream == wanted
    coded = indexes >= 0
    decoder = RansDecoder(stream, tables)
    assert np.array_equal(decoder.read(indexes[coded]), symbols[coded])
    decoder.finish()


@pytest.mark.parametrize("case", CONFIG["cases"])
def test_the_container_is_the_programs_own(runs: tuple[str, dict], case: str) -> None:
    _, found = runs
    passes = [
        [found[case][f"write{p}.{part}"].reshape(-1).tolist() for p in range(4)] for part in ("symbols", "indexes")
    ]
    symbols, indexes = ([int(value) for part in parts for value in part] for parts in passes)
    size = CONFIG["cases"][case]
    z_index = found[case]["z_indices"][0].numpy()
    stream = rans_bytes(symbols, indexes, paper_tables())
    assert (
        container(size["height"], size["width"], stream, z_index) == (REFERENCE / f"{case}.container.bin").read_bytes()
    )


@pytest.mark.parametrize("case", CONFIG["cases"])
def test_a_file_of_the_program_opens_and_is_transcoded(folders: dict[str, Path], stored: dict, case: str) -> None:
    pipe = OneDCPipeline.from_pretrained(folders["merge"], dtype=torch.float32)
    path = REFERENCE / f"{case}.container.bin"
    file = read_authors_file(path.read_bytes(), pipe.codec.z_vq.levels)
    assert np.array_equal(file.z_index, stored[case]["z_indices"][0].numpy())
    symbols = pipe.read_symbols(path)
    torch.testing.assert_close(symbols.y_hat, stored[case]["y_hat"], rtol=0, atol=1e-3)
    picture = np.asarray(pipe.decompress(path), int)
    size = CONFIG["cases"][case]
    assert picture.shape == (size["height"], size["width"], 3)
    wanted = stored[case]["image"][0, :, : size["height"], : size["width"]].permute(1, 2, 0)
    assert np.abs(picture - ((wanted + 1) * 127.5).round().clamp(0, 255).numpy()).max() <= 1
    transcoded = pipe.transcode(path)
    again = pipe.read_symbols(transcoded)
    assert (again.y_hat - symbols.y_hat).abs().max() <= 0.5 + 1e-3
    assert abs(len(transcoded) - path.stat().st_size) <= 40
