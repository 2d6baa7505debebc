"""The loopback Hub does what the client library expects of the real one."""

import json
import urllib.request

import pytest

UPLOAD = """
from pathlib import Path
from huggingface_hub import HfApi
api = HfApi()
folder = Path("folder")
(folder / "codec").mkdir(parents=True, exist_ok=True)
(folder / "model_index.json").write_text("{}")
(folder / "codec" / "model.safetensors").write_bytes(bytes(range(256)) * 2000)
api.create_repo("alice/model", exist_ok=True)
api.upload_folder(repo_id="alice/model", folder_path=folder, commit_message="first")
"""


def test_upload_and_cold_download_are_equal(hub, client):
    client(UPLOAD)
    code = """
from huggingface_hub import snapshot_download
from pathlib import Path
root = Path(snapshot_download("alice/model"))
print(sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()))
print((root / "codec" / "model.safetensors").read_bytes() == bytes(range(256)) * 2000)
"""
    names, equal = client(code, home="other").splitlines()
    assert names == "['.gitattributes', 'codec/model.safetensors', 'model_index.json']"
    assert equal == "True"
    assert hub.files("alice/model")["model_index.json"] == b"{}"


def test_a_second_download_asks_for_no_file(hub, client):
    client(UPLOAD)
    code = "from huggingface_hub import snapshot_download; snapshot_download('alice/model')"
    client(code, home="other")
    hub.requests.clear()
    client(code, home="other")
    assert hub.requests
    assert not [path for _, path in hub.requests if "/resolve/" in path]


def test_unchanged_content_makes_no_commit(hub, client):
    client(UPLOAD)
    before = hub.repos["models", "alice/model"].refs["main"]
    client(UPLOAD)
    assert hub.repos["models", "alice/model"].refs["main"] == before


def test_revisions_tags_branches_and_pull_requests(hub, client):
    code = """
api.create_tag("alice/model", tag="v1")
api.create_branch("alice/model", branch="dev")
api.upload_file(path_or_fileobj=b"two", path_in_repo="a.txt", repo_id="alice/model", revision="dev")
pull = api.upload_file(path_or_fileobj=b"three", path_in_repo="a.txt", repo_id="alice/model", create_pr=True)
print(pull.pr_revision)
for revision in ("dev", "refs/pr/1"):
    print(Path(api.hf_hub_download("alice/model", "a.txt", revision=revision)).read_text())
print(api.file_exists("alice/model", "a.txt"), api.file_exists("alice/model", "a.txt", revision="v1"))
refs = api.list_repo_refs("alice/model", include_pull_requests=True)
print(*([row.ref for row in rows] for rows in (refs.branches, refs.tags, refs.pull_requests)))
print([commit.title for commit in api.list_repo_commits("alice/model")])
"""
    assert client(UPLOAD + code).splitlines() == [
        "refs/pr/1",
        "two",
        "three",
        "False False",
        "['refs/heads/main', 'refs/heads/dev'] ['refs/tags/v1'] ['refs/pr/1']",
        "['first', 'initial commit']",
    ]


def test_listing_and_deleting(hub, client):
    code = """
rows = api.list_repo_tree("alice/model", recursive=True)
print(sorted((row.path, getattr(row, "size", None)) for row in rows))
print([row.path for row in api.list_repo_tree("alice/model", path_in_repo="codec")])
print([row.path for row in api.get_paths_info("alice/model", ["model_index.json", "nope"])])
print(api.repo_info("alice/model", files_metadata=True).siblings[1].size)
api.delete_file("model_index.json", "alice/model")
print(api.list_repo_files("alice/model"))
api.delete_folder("codec", "alice/model")
print(api.list_repo_files("alice/model"))
api.delete_repo("alice/model")
print(api.repo_exists("alice/model"))
"""
    assert client(UPLOAD + code).splitlines() == [
        "[('.gitattributes', 50), ('codec', None), ('codec/model.safetensors', 512000), ('model_index.json', 2)]",
        "['codec/model.safetensors']",
        "['model_index.json']",
        "512000",
        "['.gitattributes', 'codec/model.safetensors']",
        "['.gitattributes']",
        "False",
    ]


@pytest.mark.parametrize("wanted, part", [("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-2", b"89")])
def test_a_range_of_a_file(hub, tmp_path, wanted, part):
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    hub.upload("alice/model", tmp_path)
    request = urllib.request.Request(f"{hub.url}/alice/model/resolve/main/a.txt", headers={"Range": wanted})
    with urllib.request.urlopen(request) as answer:
        assert (answer.status, answer.read()) == (206, part)


def test_errors_are_those_of_the_client_library(hub, client):
    client(UPLOAD)
    hub.repos["models", "alice/model"].gated = True
    hub.upload("alice/secret", "/dev/null")
    hub.repos["models", "alice/secret"].private = True
    code = """
import json
import urllib.request

import pytest
from huggingface_hub import HfApi
def name_of(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "fine"
api = HfApi()
print(json.dumps({
    "gated": name_of(lambda: api.hf_hub_download("alice/model", "model_index.json")),
    "private": name_of(lambda: api.repo_info("alice/secret")),
    "missing": name_of(lambda: api.repo_info("alice/nothing")),
    "revision": name_of(lambda: api.repo_info("alice/model", revision="nope")),
    "write": name_of(lambda: api.upload_file(path_or_fileobj=b"", path_in_repo="a", repo_id="alice/model")),
    "invalid token": name_of(lambda: HfApi(token="hf_wrong").whoami()),
    "who": api.whoami()["name"],
}))
"""
    assert json.loads(client(code, token="hf_bob")) == {
        "gated": "GatedRepoError",
        "private": "RepositoryNotFoundError",
        "missing": "RepositoryNotFoundError",
        "revision": "RevisionNotFoundError",
        "write": "HfHubHTTPError",
        "invalid token": "HfHubHTTPError",
        "who": "bob",
    }
    code = """
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
try:
    hf_hub_download("alice/model", "nope.json")
except EntryNotFoundError as error:
    print(type(error).__name__)
"""
    assert client(code) == "RemoteEntryNotFoundError"


def test_datasets_are_repositories_of_another_kind(hub, client):
    code = """
from huggingface_hub import HfApi
from pathlib import Path
api = HfApi()
api.create_repo("alice/pictures", repo_type="dataset")
upload = dict(repo_id="alice/pictures", repo_type="dataset")
api.upload_file(path_or_fileobj=b"x" * 300_000, path_in_repo="data/test.bin", **upload)
print(len(Path(api.hf_hub_download("alice/pictures", "data/test.bin", repo_type="dataset")).read_bytes()))
print(api.repo_exists("alice/pictures"), api.repo_exists("alice/pictures", repo_type="dataset"))
"""
    assert client(code).splitlines() == ["300000", "False True"]
