"""`onedc convert`: what the folder holds, and what happens with files that are not what they should be."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from onedc_hf import BitstreamError, ConversionError, Corrupt, ModelError, OneDCPipeline, TooLarge, Truncated
from onedc_hf.cli.main import main
from onedc_hf.coding import Kind, parse_header
from onedc_hf.coding.rans import RansDecoder
from onedc_hf.coding.tables import paper_tables
from onedc_hf.conversion import convert_checkpoint
from onedc_hf.conversion.vae import load_vae, vae_files
from onedc_hf.loading import check_stock_vae

from ..authors_encoder import rans_bytes

REFERENCE = Path(__file__).parents[1] / "fixtures" / "reference"
CODEC, GENERATOR = (REFERENCE / "weights" / f"{name}.safetensors" for name in ("codec", "generator_lora"))
SETTINGS = json.loads((REFERENCE / "config.json").read_text())
ALPHA = SETTINGS["lora_config"]["lora_alpha"]


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The VAE of the reference as a folder, in a subfolder as Stable Diffusion repositories have it."""
    root = tmp_path_factory.mktemp("stable-diffusion")
    model = AutoencoderKL(**SETTINGS["vae"])
    model.load_state_dict({k: v.float() for k, v in load_file(REFERENCE / "weights" / "vae.safetensors").items()})
    model.save_pretrained(root / "vae")
    return root


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, vae: Path) -> Path:
    """By the command line, with the defaults but for the LoRA's alpha."""
    folder = tmp_path_factory.mktemp("converted") / "model"
    arguments = ["--codec", CODEC, "--generator", GENERATOR, "--vae", vae, "--lora-alpha", ALPHA, "--out", folder]
    assert main(["convert", *map(str, arguments)]) == 0
    return folder


def test_the_folder_is_self_contained(converted: Path) -> None:
    names = {path.name for path in converted.iterdir()}
    assert names == {
        "model_index.json", "codec", "generator", "vae", "scheduler", "conversion.json", "config.json", "README.md",
        "LICENCES.md", "licences",
    }  # fmt: skip
    assert len(list((converted / "licences").glob("*.txt"))) == 3
    card = (converted / "README.md").read_text()
    assert "license: other" in card and "license_link: LICENCES.md" in card and "base_model:" in card
    assert "You agree not to use the Model" in card and "None" not in card
    record = json.loads((converted / "conversion.json").read_text())
    assert [source["part"] for source in record["sources"]] == ["codec", "generator", "vae"]
    assert all(len(source["sha256"]) == 64 for source in record["sources"])
    assert record["model_id"] == OneDCPipeline.from_pretrained(converted).model_id


def test_the_same_sources_give_the_same_id(converted: Path, vae: Path, tmp_path: Path) -> None:
    record = convert_checkpoint(CODEC, GENERATOR, vae / "vae", tmp_path / "again", lora_alpha=ALPHA, lora="keep")
    assert record["model_id"] == json.loads((converted / "conversion.json").read_text())["model_id"]


def test_a_picture_goes_through_a_converted_model(converted: Path, picture: Callable[..., np.ndarray]) -> None:
    pipe = OneDCPipeline.from_pretrained(converted)
    data = pipe.compress(picture(100, 70))
    assert parse_header(data).kind == Kind.ONE_LEVEL
    assert np.asarray(pipe.decompress(data)).shape == (100, 70, 3)
    assert pipe.compress(picture(100, 70)) == data


def test_half_precision_keeps_what_decides_symbols(converted: Path, vae: Path, tmp_path: Path) -> None:
    record = convert_checkpoint(CODEC, GENERATOR, vae, tmp_path / "half", lora_alpha=ALPHA, dtype=torch.float16)
    assert record["model_id"] == OneDCPipeline.from_pretrained(converted).model_id
    pipe = OneDCPipeline.from_pretrained(tmp_path / "half", dtype=torch.float32)
    sizes = [sum(f.stat().st_size for f in (folder / "generator").glob("*.safetensors")) for folder in
             (tmp_path / "half", converted)]  # fmt: skip
    assert sizes[0] < 0.6 * sizes[1]
    symbols = pipe.read_symbols(REFERENCE / "case2.container.bin")  # by the float entropy model, which stays float32
    wanted = load_file(REFERENCE / "case2.safetensors")["y_hat"]
    torch.testing.assert_close(symbols.y_hat, wanted, rtol=0, atol=1e-3)


def test_the_z_only_model_writes_z_only_files(vae: Path, tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    convert_checkpoint(CODEC, GENERATOR, vae, tmp_path / "z", lora_alpha=ALPHA, z_only=True)
    pipe = OneDCPipeline.from_pretrained(tmp_path / "z")
    data = pipe.compress(picture(768, 768))
    assert parse_header(data).kind == Kind.Z_ONLY and len(data) <= 266
    assert pipe.compress(picture(768, 768), target_bytes=5000) == data
    assert OneDCPipeline.from_pretrained(tmp_path / "z").decompress(data).size == (768, 768)


def test_the_command_line_reads_files_of_the_program(converted: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.bin"
    old.write_bytes((REFERENCE / "case2.container.bin").read_bytes())
    model = ["--model", str(converted)]
    assert main(["decompress", str(old), "-o", str(tmp_path / "a.png"), *model]) == 0
    assert main(["transcode", str(old), "-o", str(tmp_path / "new.odc"), *model]) == 0
    assert main(["decompress", str(tmp_path / "new.odc"), *model]) == 0
    old.write_bytes(old.read_bytes()[:-1])
    assert main(["transcode", str(old), "-o", str(tmp_path / "cut.odc"), *model]) == 1
    assert not (tmp_path / "cut.odc").exists()


def test_damaged_files_of_the_program_are_typed_errors(converted: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(converted)
    data = (REFERENCE / "case2.container.bin").read_bytes()
    rng = np.random.default_rng(0)
    with pytest.raises(Truncated):
        pipe.read_symbols(data[:300])
    short = data[:8] + (20).to_bytes(4, "big") + data[12:36] + data[-11:]  # a stream that ends too early
    with pytest.raises((Truncated, Corrupt), match="rANS"):
        pipe.read_symbols(short)
    with pytest.raises(TooLarge):
        pipe.read_symbols((60_000).to_bytes(4, "big") * 2 + data[8:])
    pipe.max_pixels = 100
    for read in (pipe.read_symbols, pipe.transcode):
        with pytest.raises(TooLarge, match="limit of 100"):
            read(data)
    pipe.max_pixels = None
    unnoticed = 0
    for place in [*range(16), *(int(n) for n in rng.integers(17, len(data) - 11, 20))]:  # header, stream
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        try:
            pipe.read_symbols(bytes(damaged))
            unnoticed += 1
        except BitstreamError:
            pass
    # Two flips change the size within one position of 64x64 pixels, one the uncoded bits of a symbol off the table.
    assert unnoticed <= 3


def test_another_model_is_noticed_at_the_end_of_the_stream(converted: Path) -> None:
    pipe = OneDCPipeline.from_pretrained(converted)
    with torch.no_grad():
        pipe.codec.authors_entropy.y_spatial_prior_reduction.bias.add_(0.01)
    with pytest.raises(BitstreamError, match="rANS"):
        pipe.decompress(REFERENCE / "case2.container.bin")


def test_an_absurd_symbol_is_refused() -> None:
    tables = paper_tables()
    with pytest.raises(Corrupt, match="30000"):
        RansDecoder(rans_bytes([1 << 31], [0], tables), tables).read(np.array([0]))


def test_other_models_say_that_they_cannot(tiny_pipeline: OneDCPipeline) -> None:
    with pytest.raises(ModelError, match="onedc convert"):
        tiny_pipeline.transcode(b"anything")


# Wrong files --------------------------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[Callable[[dict], object], str]] = {
    "removed": (
        lambda t: t.pop("dec.trans_coding.1.block.0.conv2.bias"),
        "lacks dec.trans_coding.1.block.0.conv2.bias",
    ),
    "removed, of the entropy model": (lambda t: t.pop("y_prior_fusion.0.block.0.conv2.bias"), "y_prior_fusion.0"),
    "removed, one that says how wide it is": (lambda t: t.pop("enc.pix_fusion.weight"), "enc.pix_fusion.weight"),
    "renamed": (
        lambda t: t.update({"enc.other": t.pop("enc.pix_emb.bias")}),
        "enc.pix_emb.bias and holds .* enc.other",
    ),
    "reshaped": (
        lambda t: t.update({"enc.pix_emb.bias": torch.zeros(7)}),
        r"enc.pix_emb.bias is \[7\] instead of \[192\]",
    ),
    "of a width that no codec has": (
        lambda t: t.update({"y_spatial_prior_reduction.weight": torch.zeros(6, 12, 1, 1)}),
        "widths that no codec has",
    ),
    "left over": (lambda t: t.update({"more": torch.zeros(1)}), "no place here: more"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_codec_file_is_one_clear_error(vae: Path, tmp_path: Path, change: str) -> None:
    alter, message = CHANGES[change]
    tensors = load_file(CODEC)
    alter(tensors)
    save_file(tensors, tmp_path / "codec.safetensors")
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(tmp_path / "codec.safetensors", GENERATOR, vae, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["codec.safetensors"]


def test_a_wrong_generator_file_is_one_clear_error(vae: Path, tmp_path: Path) -> None:
    tensors = load_file(GENERATOR)
    gone = next(name for name in tensors if name.endswith("lora_B.default.weight"))
    del tensors[gone]
    save_file(tensors, tmp_path / "generator.safetensors")
    for lora in ("merge", "keep"):
        with pytest.raises(ConversionError, match=gone):
            convert_checkpoint(CODEC, tmp_path / "generator.safetensors", vae, tmp_path / "out", lora=lora)
    assert [path.name for path in tmp_path.iterdir()] == ["generator.safetensors"]


def test_a_generator_without_a_lora_is_not_said_to_have_one(converted: Path, vae: Path, tmp_path: Path) -> None:
    card = (converted / "README.md").read_text()
    assert "The LoRA of the generator was merged into its weights." in card
    assert "renamed, the LoRA merged into its weights, the entropy model" in card
    tensors = {n.replace(".base_layer.", "."): t for n, t in load_file(GENERATOR).items() if ".lora_" not in n}
    save_file(tensors, tmp_path / "generator.safetensors")
    record = convert_checkpoint(CODEC, tmp_path / "generator.safetensors", vae, tmp_path / "out")
    assert record["lora"] == "none" and record["lora_alpha"] is None
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The generator's file holds no LoRA." in card and "renamed, the entropy model" in card


def test_lora_halves_that_do_not_fit_are_one_clear_error(vae: Path, tmp_path: Path) -> None:
    tensors = load_file(GENERATOR)
    name = next(name for name in tensors if name.endswith("lora_B.default.weight"))
    tensors[name] = tensors[name][:, :2].clone()
    save_file(tensors, tmp_path / "generator.safetensors")
    with pytest.raises(ConversionError, match="do not fit together"):
        convert_checkpoint(CODEC, tmp_path / "generator.safetensors", vae, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["generator.safetensors"]


def test_distillation_files_come_along(vae: Path, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "predictor.safetensors")
    options = {"lora_alpha": ALPHA, "distillation": [tmp_path / "predictor.safetensors"]}
    record = convert_checkpoint(CODEC, GENERATOR, vae, tmp_path / "out", **options)
    assert (tmp_path / "out" / "distillation" / "predictor.safetensors").is_file()
    assert "distillation" in [source["part"] for source in record["sources"]]
    with pytest.raises(ConversionError, match="no file"):
        convert_checkpoint(CODEC, GENERATOR, vae, tmp_path / "b", distillation=[tmp_path / "nothing.safetensors"])
    with pytest.raises(ConversionError, match="one name"):
        convert_checkpoint(CODEC, GENERATOR, vae, tmp_path / "b", distillation=["a/m.safetensors", "b/m.safetensors"])


@pytest.mark.parametrize("kind", ["pickle", "truncated", "missing", "folder"])
def test_what_is_no_safetensors_file_is_one_clear_error(vae: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model_1.safetensors"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"enc.pix_emb.weight": 1}))
    elif kind == "truncated":
        path.write_bytes(CODEC.read_bytes()[:100_000])
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(ConversionError, match={"pickle": "pickle", "truncated": "cut short"}.get(kind, "no file")):
        convert_checkpoint(path, GENERATOR, vae, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_vae_that_is_none_and_a_folder_that_is_taken(vae: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConversionError, match="config.json"):
        convert_checkpoint(CODEC, GENERATOR, tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "mine.txt").write_text("mine")
    with pytest.raises(ConversionError, match="exists already"):
        convert_checkpoint(CODEC, GENERATOR, vae, tmp_path / "empty")
    with pytest.raises(ConversionError, match="no folder"):
        convert_checkpoint(CODEC, GENERATOR, vae, tmp_path / "nowhere" / "out")
    assert (tmp_path / "empty" / "mine.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.conv_in.weight"), "lacks decoder.conv_in.weight"),
        (lambda t: t.update(more=torch.zeros(1)), "no place here: more"),
        (lambda t: t.update({"decoder.conv_in.bias": torch.zeros(3)}), "decoder.conv_in.bias"),
    ],
)
def test_a_vae_of_other_tensors_is_one_clear_error(
    vae: Path, tmp_path: Path, change: Callable[[dict], object], message: str
) -> None:
    path = Path(shutil.copytree(vae / "vae", tmp_path / "vae")) / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ConversionError, match=message):
        load_vae(str(tmp_path))


def test_the_files_of_a_vae_are_those_that_are_read(vae: Path, tmp_path: Path) -> None:
    model = AutoencoderKL.from_pretrained(vae, subfolder="vae")
    model.save_pretrained(tmp_path / "both")
    model.save_pretrained(tmp_path / "both", variant="fp16")
    load_vae(str(tmp_path / "both"))
    assert vae_files(str(tmp_path / "both")) == [(tmp_path / "both" / "diffusion_pytorch_model.safetensors", {})]
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    load_vae(str(tmp_path / "shards"))
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 1 and vae_files(str(tmp_path / "shards")) == [(path, {}) for path in shards]


def test_a_saved_model_whose_stock_vae_is_not_whole_is_refused(converted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted, tmp_path / "model"))
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["decoder.conv_in.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"not whole: 1 tensors are missing, among them decoder\.conv_in\.weight"):
        OneDCPipeline.from_pretrained(folder)
    OneDCPipeline.from_pretrained(folder, vae=load_vae(str(converted)))  # one's own, instead


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_stock_vae_of_an_older_file_is_whole(vae: Path, tmp_path: Path, kind: str) -> None:
    path = Path(shutil.copytree(vae / "vae", tmp_path / "vae")) / f"diffusion_pytorch_model.{kind}"
    tensors = load_file(path.with_suffix(".safetensors"))
    path.with_suffix(".safetensors").unlink()
    older = {name.replace(".to_q.", ".query.").replace(".to_out.0.", ".proj_attn."): t for name, t in tensors.items()}
    assert older.keys() != tensors.keys()
    for whole in (True, False):
        if not whole:
            del older["decoder.conv_in.weight"]
        save_file(older, path, metadata={"format": "pt"}) if kind == "safetensors" else torch.save(older, path)
        loaded = AutoencoderKL.from_pretrained(path.parent, use_safetensors=None if kind == "safetensors" else False)
        with nullcontext() if whole else pytest.raises(ModelError, match="not whole: 1 tensors"):
            check_stock_vae(loaded)
