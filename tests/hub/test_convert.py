"""A converted checkpoint goes to a Hub and is loaded from there."""

import json
from pathlib import Path

from diffusers import AutoencoderKL
from huggingface_hub import ModelCard
from safetensors.torch import load_file

REFERENCE = Path(__file__).parents[1] / "fixtures" / "reference"
CONVERT = """
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
api.create_repo("alice/onedc")
old = [CommitOperationAdd(f"codec/model{end}", b"old") for end in ("-00001-of-00001.safetensors", ".fp16.safetensors")]
api.create_commit("alice/onedc", old, commit_message="Earlier")
from onedc_hf.cli.main import main
weights = reference + "/weights/"
assert main([
    "convert", "--codec", weights + "codec.safetensors", "--generator", weights + "generator_lora.safetensors",
    "--vae", vae, "--lora-alpha", "2", "--out", "converted", "--push-to-hub", "alice/onedc",
]) == 0
"""
LOAD = """
from onedc_hf import OneDCPipeline
pipe = OneDCPipeline.from_pretrained("alice/onedc")
print(pipe.model_id, pipe.decompress(reference + "/case2.container.bin").size)
"""


def test_a_converted_model_is_pushed_with_its_licences_and_loads_by_id(hub, client, tmp_path):
    vae = AutoencoderKL(**json.loads((REFERENCE / "config.json").read_text())["vae"])
    vae.load_state_dict({k: v.float() for k, v in load_file(REFERENCE / "weights" / "vae.safetensors").items()})
    vae.save_pretrained(tmp_path / "vae")
    said = client(CONVERT, reference=REFERENCE, vae=tmp_path / "vae")
    files = hub.files("alice/onedc")
    assert "codec/model-00001-of-00001.safetensors" not in files and "codec/model.fp16.safetensors" in files
    assert sum(name.startswith("licences/") for name in files) == 3
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "other" and len(card.data.base_model) == 2
    assert 'OneDCPipeline.from_pretrained("alice/onedc")' in card.text
    model_id, size = client(LOAD, home="reader", reference=REFERENCE).split(" ", 1)
    assert model_id in said and size == "(150, 101)"


def test_a_repository_that_one_can_only_read_is_refused_before_the_work(hub, client, tmp_path):
    client("from huggingface_hub import create_repo; create_repo('alice/theirs')")
    said = client(
        """
import sys
from onedc_hf.cli.main import main
sys.stderr = sys.stdout
files = ["--codec", "none", "--generator", "none", "--vae", "none"]
print(main(["convert", *files, "--out", "out", "--push-to-hub", "alice/theirs"]))
""",
        home="bob",
        token="hf_bob",
    )
    assert "'alice/theirs' cannot be written to" in said and said.endswith("1")
