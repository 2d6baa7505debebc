"""A pipeline goes to a Hub and comes back in a fresh process: same file, same picture, and a card that describes it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from PIL import Image

from onedc_hf import OneDCError, OneDCPipeline
from onedc_hf.hub import push
from onedc_hf.saving import replaced_weights

PUSH = """
from onedc_hf import OneDCPipeline
pipe = OneDCPipeline.from_pretrained(folder)
info = pipe.push_to_hub("alice/tiny")
"""
LOAD = """
from onedc_hf import OneDCPipeline
pipe = OneDCPipeline.from_pretrained("alice/tiny")
data = pipe.compress(photo, quality=50)
pipe.decompress(data).save("there.png")
print(data.hex())
"""


@pytest.fixture
def photo(tmp_path, picture):
    path = tmp_path / "photo.png"
    Image.fromarray(picture(70, 100)).save(path)
    return path


def test_push_then_load_by_id_in_a_fresh_process(hub, client, tiny_folder, tiny_pipeline, photo):
    client(PUSH, folder=tiny_folder)
    data = bytes.fromhex(client(LOAD, home="reader", token=None, photo=photo))
    assert data == tiny_pipeline.compress(photo, quality=50)
    there = np.asarray(Image.open(photo.parent / "there.png"))
    assert np.array_equal(there, np.asarray(tiny_pipeline.decompress(data)))


def test_repository_holds_short_names_a_card_and_no_code(hub, client, tiny_folder):
    client(PUSH, folder=tiny_folder)
    files = hub.files("alice/tiny")
    index = json.loads(files["model_index.json"])
    assert index["codec"] == ["onedc_hf", "OneDCCodec"]
    assert index["generator"] == ["onedc_hf", "OneDCGenerator"]
    assert index["vae"] == ["onedc_hf", "OneDCAutoencoder"]
    assert not [name for name in files if name.endswith((".py", ".bin", ".pt", ".pkl"))]
    assert json.loads(files["config.json"])["library_name"] == "onedc_hf"
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "onedc_hf"
    assert 'OneDCPipeline.from_pretrained("alice/tiny")' in card.text
    assert len(hub.repos["models", "alice/tiny"].commits) == 2  # the initial one and ours


def test_a_second_load_asks_for_no_file(hub, client, tiny_folder, photo):
    client(PUSH, folder=tiny_folder)
    client(LOAD, home="reader", photo=photo)
    hub.requests.clear()
    client(LOAD, home="reader", photo=photo)
    assert len(hub.requests) <= 3
    assert not [path for method, path in hub.requests if "/resolve/" in path and method == "GET"]


LEFT = """
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
api.create_repo("alice/tiny")
api.create_commit("alice/tiny", [CommitOperationAdd(name, b"old") for name in left.split()], commit_message="Earlier")
"""


def test_weights_of_an_earlier_upload_do_not_hide_the_new_ones(hub, client, tiny_folder, photo):
    codec, vae = "codec/model", "vae/diffusion_pytorch_model"
    old = {
        f"{codec}-00001-of-00002.safetensors", f"{codec}-00002-of-00002.safetensors",
        f"{codec}.safetensors.index.json", f"{vae}-00001-of-00001.safetensors", f"{vae}.safetensors.index.json",
    }  # fmt: skip
    others = {
        f"{codec}.fp16.safetensors", f"{codec}.safetensors.index.fp16.json", f"{vae}.fp16-00001-of-00002.safetensors",
        f"{vae}-00001-of-00002.fp16.safetensors", "model.safetensors", "teacher/model.safetensors", "codec/notes.txt",
    }  # fmt: skip
    client(LEFT + PUSH, folder=tiny_folder, left=" ".join(old | others))
    files = hub.files("alice/tiny")
    assert not old & set(files) and others <= set(files)
    assert files[f"{codec}.safetensors"] != b"old"
    client(LOAD, home="reader", photo=photo)


def test_a_whole_file_makes_way_for_shards_of_its_variant_alone(tiny_folder):
    def replaced(variant):
        names = [
            f"{part}{middle}{end}"
            for part in ("codec/model", "generator/diffusion_pytorch_model")
            for middle in ("", ".fp16", ".bf16")
            for end in (".safetensors", "-00001-of-00002.safetensors")
        ]
        names.append("vae/diffusion_pytorch_model-00001-of-00002.fp16.safetensors")
        return set(filter_repo_objects(names, allow_patterns=replaced_weights(tiny_folder, variant)))

    for variant, label in ((None, ""), ("fp16", ".fp16")):
        wanted = {
            f"{part}{label}{end}"
            for part in ("codec/model", "generator/diffusion_pytorch_model")
            for end in (".safetensors", "-00001-of-00002.safetensors")
        }
        earlier = {"vae/diffusion_pytorch_model-00001-of-00002.fp16.safetensors"} if variant else set()
        assert replaced(variant) == wanted | earlier


def test_a_card_that_is_there_is_kept(hub, client, tiny_folder):
    client(
        'from huggingface_hub import HfApi\napi = HfApi()\napi.create_repo("alice/tiny")\n'
        'api.upload_file(path_or_fileobj=b"---\\nlicense: mit\\n---\\n# Written by hand\\n", path_in_repo="README.md", '
        'repo_id="alice/tiny")\n' + PUSH,
        folder=tiny_folder,
    )
    card = ModelCard(hub.files("alice/tiny")["README.md"].decode())
    assert "# Written by hand" in card.text
    assert (card.data.license, card.data.library_name) == ("mit", "onedc_hf")


def test_what_a_save_is_told_counts_for_its_push_too(tiny_folder, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(OneDCPipeline, "push_to_hub", lambda _, repo_id, **options: told.append((repo_id, options)))
    pipe, card = OneDCPipeline.from_pretrained(tiny_folder), ModelCard("# Mine")
    options = {"license": "mit", "card": card, "private": True}
    pipe.save_pretrained(tmp_path / "kept", variant="fp16", push_to_hub=True, repo_id="alice/tiny", **options)
    pipe.save_pretrained(tmp_path / "mine", True, "fp16", push_to_hub=True)
    assert told == [("alice/tiny", options | {"variant": "fp16"}), ("mine", {"variant": "fp16"})]


def test_a_card_that_is_there_states_the_licences_of_what_is_pushed(tiny_folder, tmp_path, monkeypatch, recwarn):
    source, readme, pushed = tmp_path / "source", tmp_path / "README.md", []
    shutil.copytree(tiny_folder, source)
    pipe = OneDCPipeline.from_pretrained(source)

    def keep(folder_path, **_):
        pushed.append(ModelCard.load(Path(folder_path) / "README.md"))

    monkeypatch.setattr(push, "create_repo", lambda repo_id, **_: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(push, "hf_hub_download", lambda *_, **__: str(readme))
    monkeypatch.setattr(push, "upload_folder", keep)
    readme.write_text("---\nlicense: mit\n---\n# Written by hand\n")
    pipe.push_to_hub("alice/tiny")
    pipe.push_to_hub("alice/tiny", license="mit")
    assert [card.data.license for card in pushed] == ["mit", "mit"] and not recwarn
    with pytest.warns(UserWarning, match=r"'alice/tiny' stated the licence 'mit'; .* 'cc-by-4.0'"):
        pipe.push_to_hub("alice/tiny", license="cc-by-4.0")
    assert pushed[-1].data.license == "cc-by-4.0"
    (source / "licences").mkdir()
    (source / "licences" / "CC-BY-NC-SA-4.0.txt").write_text("no commercial use")
    with pytest.warns(UserWarning, match="'other cc-by-nc-sa-4.0 licences/CC-BY-NC-SA-4.0.txt'"):
        pipe.push_to_hub("alice/tiny")
    card = pushed[-1]
    assert "# Written by hand" in card.text
    assert (card.data.license, card.data["license_name"]) == ("other", "cc-by-nc-sa-4.0")
    recwarn.clear()
    for text in (str(card), "# No metadata\n"):  # what was set before, and what stated nothing
        readme.write_text(text)
        pipe.push_to_hub("alice/tiny")
        assert pushed[-1].data["license_name"] == "cc-by-nc-sa-4.0" and not recwarn
    readme.write_text("---\nlicense: other\nlicense_name: own\n---\n")
    shutil.rmtree(source / "licences")
    pipe.push_to_hub("alice/tiny", license="other")
    assert pushed[-1].data["license_name"] == "own" and not recwarn


def test_a_card_that_cannot_be_asked_for_stops_the_push(tiny_folder, monkeypatch):
    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("check your connection")

    monkeypatch.setattr(push, "create_repo", lambda repo_id, **_: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(push, "hf_hub_download", unreachable)
    monkeypatch.setattr(push, "upload_folder", lambda **_: pytest.fail("it was pushed"))
    with pytest.raises(LocalEntryNotFoundError, match="connection"):
        OneDCPipeline.from_pretrained(tiny_folder).push_to_hub("alice/tiny")


def test_licences_go_along_when_a_model_is_saved_and_pushed(hub, client, tiny_folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny_folder, source)
    (source / "licences").mkdir()
    (source / "licences" / "CreativeML-OpenRAIL-M.txt").write_text("use it well")
    pipe = OneDCPipeline.from_pretrained(source)
    pipe.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "licences" / "CreativeML-OpenRAIL-M.txt").read_text() == "use it well"
    pipe.save_pretrained(source)  # over itself
    client(PUSH, folder=tmp_path / "copy")
    files = hub.files("alice/tiny")
    assert files["licences/CreativeML-OpenRAIL-M.txt"] == b"use it well"
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "other" and "use restrictions" in card.text


def test_licences_of_a_model_that_came_from_a_hub_go_along(hub, client, tiny_folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny_folder, source)
    (source / "licences").mkdir()
    (source / "licences" / "CC-BY-NC-SA-4.0.txt").write_text("no commercial use")
    client(PUSH, folder=source)
    again = 'from onedc_hf import OneDCPipeline\nOneDCPipeline.from_pretrained("alice/tiny").push_to_hub("alice/again")'
    client(again, home="cold")
    files = hub.files("alice/again")
    assert files["licences/CC-BY-NC-SA-4.0.txt"] == b"no commercial use"
    assert ModelCard(files["README.md"].decode()).data["license_name"] == "cc-by-nc-sa-4.0"


def test_a_public_repository_does_not_get_what_is_private(hub, client, tiny_folder):
    code = """
from huggingface_hub import HfApi
from onedc_hf import OneDCError, OneDCPipeline
HfApi().create_repo("alice/open")
pipe = OneDCPipeline.from_pretrained(folder)
try:
    pipe.push_to_hub("alice/open", private=True)
except OneDCError as error:
    print(error)
pipe.push_to_hub("alice/closed", private=True)
pipe.push_to_hub("alice/closed", private=True)
"""
    assert "everybody can see it: nothing was uploaded" in client(code, folder=tiny_folder)
    assert "model_index.json" not in hub.files("alice/open") and "model_index.json" in hub.files("alice/closed")


def test_a_card_with_metadata_that_are_none_is_named(tiny_folder, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags: [a\n---\n")
    monkeypatch.setattr(push, "create_repo", lambda repo_id, **_: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(push, "hf_hub_download", lambda *_, **__: str(tmp_path / "README.md"))
    monkeypatch.setattr(push, "upload_folder", lambda **_: pytest.fail("it was pushed"))
    with pytest.raises(OneDCError, match=r"README\.md of 'alice/tiny' has metadata that cannot be read"):
        OneDCPipeline.from_pretrained(tiny_folder).push_to_hub("alice/tiny")


def test_a_part_that_is_saved_does_not_say_where_it_came_from(tiny_folder, tmp_path):
    pipe = OneDCPipeline.from_pretrained(tiny_folder)
    for name in ("vae", "codec", "generator"):
        getattr(pipe, name).save_pretrained(tmp_path / name)
        assert str(tiny_folder) not in (tmp_path / name / "config.json").read_text()


def test_variant_pull_request_and_generic_loader(hub, client, tiny_folder, photo):
    code = """
import torch
from onedc_hf import OneDCPipeline
pipe = OneDCPipeline.from_pretrained(folder, dtype=torch.float32)
pipe.push_to_hub("alice/tiny")
pull = pipe.push_to_hub("alice/tiny", variant="fp16", create_pr=True)
print(pull.pr_revision)
pipe.push_to_hub("alice/half", variant="fp16")
"""
    assert client(code, folder=tiny_folder) == "refs/pr/1"
    card = hub.files("alice/half")["README.md"].decode()
    assert 'from_pretrained("alice/half", variant="fp16")' in card
    code = """
import onedc_hf, torch
from diffusers import DiffusionPipeline
from transformers import AutoModel
for kind, options in ((onedc_hf.OneDCPipeline, dict(variant="fp16", revision="refs/pr/1")), (DiffusionPipeline, {})):
    # diffusers' loader does not choose a number format for the processor, as ours does
    pipe = kind.from_pretrained("alice/tiny", dtype=torch.float32, **options)
    assert type(pipe) is onedc_hf.OneDCPipeline
    print(pipe.compress(photo, quality=50).hex())
print(type(AutoModel.from_pretrained("alice/tiny", subfolder="codec")).__name__)
"""
    data = OneDCPipeline.from_pretrained(tiny_folder, dtype=torch.float32).compress(photo, quality=50).hex()
    assert client(code, home="reader", photo=photo).splitlines() == [data, data, "OneDCCodec"]
