"""Tokenizers: the specification's test vector, a slow reference, the grid of every kind, what files are taken."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import VQModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from onedc_hf.errors import ModelError
from onedc_hf.training.fit_tokenizer import fit_kmeans, fit_projection, main
from onedc_hf.training.tokenizers import KMeansTokenizer, VQGANTokenizer, VQModelTokenizer, load_tokenizer
from onedc_hf.training.vqgan import MaskGITVQGAN, load_vqgan, nearest_code
from tests.training.fill import fill, numbers, summary

FIXTURES = Path(__file__).parents[1] / "fixtures" / "checkpoint_keys"
TINY: dict[str, int | Sequence[int]] = {
    "width": 4, "multipliers": (1, 1, 2, 2, 4), "layers": 2, "latent_channels": 3, "codes": 6, "groups": 2,
}  # fmt: skip


@pytest.fixture
def vqgan() -> MaskGITVQGAN:
    torch.manual_seed(0)
    return MaskGITVQGAN(**TINY).eval()  # type: ignore[arg-type]


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3)) * 2 - 1


def _norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    parts = x.view(x.shape[0], groups, -1)
    mean, variance = parts.mean(-1, keepdim=True), parts.var(-1, keepdim=True, correction=0)
    normed = ((parts - mean) / (variance + 1e-6).sqrt()).view(x.shape)
    return normed * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)


def _slowly(state: dict[str, Tensor], x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The tokenizer written out from the names of its weights, one code at a time."""

    def resnet(name: str, x: Tensor) -> Tensor:
        h = x
        for i in ("1", "2"):
            h = _norm(h, state[f"{name}.norm{i}.weight"], state[f"{name}.norm{i}.bias"], groups)
            h = F.conv2d(h * h.sigmoid(), state[f"{name}.conv{i}.weight"], padding=1)
        shortcut = state.get(f"{name}.nin_shortcut.weight")
        return h + (x if shortcut is None else torch.einsum("oc,bchw->bohw", shortcut[..., 0, 0], h))

    h = F.conv2d(x, state["encoder.conv_in.weight"], padding=1)
    for level in range(5):
        for block in range(2):
            h = resnet(f"encoder.down.{level}.block.{block}", h)
        if level < 4:
            h = (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4
    for block in range(2):
        h = resnet(f"encoder.mid.{block}", h)
    h = _norm(h, state["encoder.norm_out.weight"], state["encoder.norm_out.bias"], groups)
    h = F.conv2d(h * h.sigmoid(), state["encoder.conv_out.weight"], state["encoder.conv_out.bias"])
    codebook = state["quantize.embedding.weight"]
    indices = torch.zeros(h.shape[0], *h.shape[2:], dtype=torch.long)
    latent = torch.zeros_like(h)
    for b in range(h.shape[0]):
        for i in range(h.shape[2]):
            for j in range(h.shape[3]):
                distances = [float((h[b, :, i, j] - code).square().sum()) for code in codebook]
                indices[b, i, j] = distances.index(min(distances))
                latent[b, :, i, j] = codebook[indices[b, i, j]]
    return indices, latent


def test_the_vqgan_agrees_with_a_slow_reference_on_the_halved_picture(vqgan: MaskGITVQGAN, pixels: Tensor) -> None:
    with torch.no_grad():
        vqgan.codebook.copy_(torch.randn(6, 3) * 0.5)
    half = (pixels[..., ::2, ::2] + pixels[..., 1::2, ::2] + pixels[..., ::2, 1::2] + pixels[..., 1::2, 1::2]) / 4
    with torch.no_grad():
        indices, latent = _slowly(vqgan.state_dict(), (half + 1) / 2, groups=2)
    found = VQGANTokenizer(vqgan).encode(pixels)
    assert found.indices.dtype == torch.int64 and found.indices.shape == (2, 2, 3)
    assert len(indices.unique()) > 1
    assert torch.equal(found.indices, indices)
    torch.testing.assert_close(found.latent, latent)


def test_the_full_size_vqgan_gives_the_specifications_codes() -> None:
    model = MaskGITVQGAN()
    fill(model)
    with torch.no_grad():
        picture = numbers("input.vq", (1, 3, 64, 64)) * 0.5 + 0.5
        encoded = model.encoder(picture)
        indices, latent = model(picture)
    expected = [-0.02643827, 0.3380017, 0.1766542, -0.1859068, -0.2445202]
    assert summary(encoded) == pytest.approx(expected, abs=5e-6)
    quantised = [-0.0004509406, 0.03850435, 0.05111406, 0.0002834392, -0.05111517]
    assert summary(latent) == pytest.approx(quantised, abs=1e-6)
    codes = "533 229 679 35 238 839 238 342 288 257 833 410 1022 1022 465 525"
    assert indices.flatten().tolist() == [int(code) for code in codes.split()]


def test_names_and_shapes_at_full_size_are_the_checkpoints() -> None:
    kept = json.loads((FIXTURES / "vqgan_tokenizer.json").read_text())
    wanted = {name: tuple(shape) for name, (shape, _) in kept.items() if not name.startswith("decoder.")}
    with torch.device("meta"):
        model = MaskGITVQGAN()
        indices, latent = model(torch.empty(1, 3, 256, 256))
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == wanted
    assert indices.shape == (1, 16, 16) and latent.shape == (1, 256, 16, 16)


def test_nearest_takes_the_first_of_equals() -> None:
    codebook = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert nearest_code(torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.0, 2.0]]), codebook).tolist() == [1, 1, 2]


@pytest.mark.parametrize("name", ["vqgan.safetensors", "vqgan.bin"])
def test_weights_are_read_with_a_decoder_and_refused_with_anything_else(
    name: str, vqgan: MaskGITVQGAN, pixels: Tensor, tmp_path: Path
) -> None:
    def write(state: dict[str, Tensor]) -> Path:
        path = tmp_path / name
        save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
        return path

    state = dict(vqgan.state_dict())
    loaded = load_tokenizer(write(state | {"decoder.conv_in.weight": torch.zeros(2)}), **TINY)
    assert isinstance(loaded, VQGANTokenizer)
    assert torch.equal(loaded.encode(pixels).indices, VQGANTokenizer(vqgan).encode(pixels).indices)
    assert torch.equal(load_tokenizer(tmp_path, **TINY).codebook, vqgan.codebook)  # the only file of a folder
    with pytest.raises(ModelError, match=r"encoder\.extra"):
        load_vqgan(write(state | {"encoder.extra": torch.zeros(2)}), **TINY)
    with pytest.raises(ModelError, match=r"encoder\.conv_out\.bias"):
        load_vqgan(write({key: value for key, value in state.items() if key != "encoder.conv_out.bias"}), **TINY)
    with pytest.raises(ModelError, match=r"quantize\.embedding\.weight"):
        load_vqgan(write(state | {"quantize.embedding.weight": torch.zeros(5, 3)}), **TINY)


def test_a_file_that_would_run_a_program_is_not_opened(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "weights.bin")
    with pytest.raises(ModelError, match="nothing but tensors"):
        load_vqgan(tmp_path / "weights.bin")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with pytest.raises(ModelError, match="safetensors"):
        load_tokenizer(tmp_path / "cut.safetensors")


def test_a_place_without_a_tokenizer_is_named_and_so_is_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file or folder.*'box'"):
        load_tokenizer(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="0 files"):
        load_tokenizer(tmp_path)
    with pytest.raises(ModelError, match=r"no/such.*'box'"):
        load_tokenizer("no/such")  # the Hub is offline in tests
    with pytest.raises(ModelError, match=r"no/such/file\.bin"):
        load_tokenizer("no/such/file.bin")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ModelError, match="AutoencoderKL"):
        load_tokenizer(tmp_path)


def vq_model(levels: int) -> VQModel:
    torch.manual_seed(0)
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": (4,) * levels, "norm_num_groups": 2,
    }  # fmt: skip
    return VQModel(**blocks, latent_channels=3, num_vq_embeddings=8, vq_embed_dim=3)


@pytest.mark.parametrize("levels", [3, 5, 6])  # reducing by 4, 16, 32
def test_any_vq_model_gives_a_code_for_32_pixels(levels: int, pixels: Tensor, tmp_path: Path) -> None:
    model = vq_model(levels)
    with torch.no_grad():
        encoded = model.encode(pixels).latents.permute(0, 2, 3, 1)  # type: ignore[union-attr]
        model.quantize.embedding.weight.copy_(encoded.flatten(0, 2)[:8])  # so that more than one is near
    model.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert isinstance(tokenizer, VQModelTokenizer)
    found = tokenizer.encode(pixels)
    assert found.indices.shape == (2, 2, 3) and found.latent.shape == (2, 3, 2, 3)
    # The latent is the code's own vector, and the code the nearest one to what the encoder says.
    torch.testing.assert_close(found.latent, F.embedding(found.indices, tokenizer.codebook).permute(0, 3, 1, 2))
    if levels == 6:  # the picture as it is
        assert torch.equal(found.indices, nearest_code(encoded, tokenizer.codebook))
        assert len(found.indices.unique()) > 1


def test_a_vq_model_with_too_coarse_a_grid_is_refused() -> None:
    with pytest.raises(ModelError, match="64x64"):
        VQModelTokenizer(vq_model(7))
    with pytest.raises(ModelError, match="must reduce by 16"):
        VQGANTokenizer(MaskGITVQGAN(width=4, multipliers=(1, 2), groups=2))


def test_well_separated_clusters_are_found() -> None:
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(7, 5, generator=draw) * 10
    vectors = centres.repeat_interleave(40, 0) + torch.randn(280, 5, generator=draw) * 0.1
    found = fit_kmeans(vectors, 7, 5, draw)
    assert (torch.cdist(found, centres).min(0).values < 0.1).all()
    with pytest.raises(ValueError, match="at least as many"):
        fit_kmeans(vectors[:3], 7, 5, draw)
    assert torch.isfinite(fit_kmeans(torch.ones(9, 2), 4, 2, draw)).all()  # fewer different vectors than clusters


def test_whitened_components_have_variance_one_and_plain_ones_keep_theirs() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(500, 6, generator=draw) @ torch.randn(6, 6, generator=draw) + 4
    for whiten in (True, False):
        mean, projection = fit_projection(features, 4, whiten)
        covariance = ((features - mean) @ projection).T.cov()
        assert torch.allclose(covariance - covariance.diag().diag(), torch.zeros(4, 4), atol=1e-3)
        variances = covariance.diag()
        if whiten:
            assert torch.allclose(variances, torch.ones(4), atol=0.01)
        else:  # of the correlation matrix, largest first; all six would add up to six
            assert (variances.diff() < 0).all() and 4 < variances.sum() < 6
    with pytest.raises(ValueError, match="`components`"):
        fit_projection(features, 7, True)


@pytest.mark.parametrize("level", [2, 3])
def test_a_tokenizer_is_fitted_saved_and_read_back(
    level: int, photographs: Path, tmp_path: Path, pixels: Tensor
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `train`")
    path = tmp_path / "codes.safetensors"
    options = f"--network lite1 --clusters 12 --components 6 --crops 33 --resolution 64 --iterations 3 --level {level}"
    fitted = main(["--train_data_dir", str(photographs), "--output", str(path), *options.split()])
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert {"network": "lite1", "level": str(level), "clusters": "12", "whiten": "false"}.items() <= said.items()
    loaded = load_tokenizer(path)
    assert isinstance(loaded, KMeansTokenizer) and loaded.codebook.shape == (12, 6)
    torch.testing.assert_close(loaded.codebook, fitted.codebook, rtol=2e-3, atol=2e-3)
    found = loaded.encode(pixels)
    assert found.indices.shape == (2, 2, 3) and found.latent.shape == (2, 6, 2, 3)
    assert torch.equal(found.indices, nearest_code(loaded.project(pixels), loaded.codebook))
    assert not list(loaded.parameters())[0].requires_grad and not loaded.train().training


def test_the_network_reserved_for_measuring_cannot_be_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lite0"):
        KMeansTokenizer("lite0", 3, 1.0, torch.zeros(1), torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(SystemExit):
        main(["--train_data_dir", str(tmp_path), "--output", "x", "--network", "lite0"])


def test_the_packages_own_tokenizer_tells_pictures_apart_and_is_small() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `train`")
    import onedc_hf.training as training

    path = Path(training.__file__).parent / "data" / "box-tokenizer.safetensors"
    assert path.stat().st_size < 300_000
    tokenizer = load_tokenizer("box")
    assert isinstance(tokenizer, KMeansTokenizer)
    draw = torch.Generator().manual_seed(0)
    flat = torch.zeros(1, 3, 128, 128)
    noise = torch.rand(1, 3, 128, 128, generator=draw) * 2 - 1
    codes = tokenizer.encode(torch.cat([flat, noise])).indices
    assert codes.shape == (2, 4, 4) and not torch.equal(codes[0], codes[1])
    assert tokenizer.codebook.shape == (256, 64) and tokenizer.network == "lite1"


def test_pictures_that_no_grid_covers_are_refused(vqgan: MaskGITVQGAN) -> None:
    with pytest.raises(ValueError, match=r"multiples of 32.*\[1, 3, 64, 60\]"):
        VQGANTokenizer(vqgan).encode(torch.zeros(1, 3, 64, 60))
