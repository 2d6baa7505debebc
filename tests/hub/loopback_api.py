"""The protocol of the loopback Hub: one method a request, entered into a table of routes by its decorator."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from .loopback_state import HubError, Repo, is_lfs

if TYPE_CHECKING:
    from .loopback import LoopbackHub

DATE = "2026-01-01T00:00:00.000Z"
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = []
KIND = r"(?P<kind>models|datasets|spaces)"
ID = r"(?P<id>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"


def route(methods: str, pattern: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a method of the handler into the table of routes; the groups of the pattern become its arguments."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        ROUTES.extend((method, re.compile(pattern), function) for method in methods.split())
        return function

    return enter


class HubRequestHandler(BaseHTTPRequestHandler):
    """One request: reads the body, finds the route, answers."""

    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet; the requests are recorded instead."""

    def _handle(self) -> None:
        # The body is read before anything can fail: a pooled client would otherwise reuse a socket with rests in it.
        self.body = self._read_body()
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.hub.requests.append((self.command, self.path))
        try:
            for method, pattern, function in ROUTES:
                match = pattern.fullmatch(parts.path) if method == self.command else None
                if match is not None:
                    arguments = {name: unquote(value or "") for name, value in match.groupdict().items()}
                    with self.hub.lock:
                        answer = function(self, **arguments)
                    break
            else:
                raise HubError(404, None, f"No route for {self.command} {parts.path}")
        except HubError as error:
            headers = {"X-Error-Message": error.message, **error.headers}
            if error.code is not None:
                headers["X-Error-Code"] = error.code
            self._send(error.status, json.dumps({"error": error.message}).encode(), headers)
        else:
            if isinstance(answer, tuple):
                self._send(*answer)
            else:
                self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    def _user(self, *, required: bool = False) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise HubError(401, None, "Invalid credentials in Authorization header")
        if required and not token:
            raise HubError(401, None, "Invalid username or password.")
        return self.hub.users.get(token)

    def _repo(self, kind: str, id: str, *, write: bool = False) -> Repo:
        user = self._user(required=write)
        repo = self.hub.repos.get((kind, id))
        owner = id.split("/")[0]
        if repo is None or (repo.private and user != owner):
            status = 404 if user is not None or repo is None else 401
            raise HubError(status, "RepoNotFound", "Repository not found")
        if write and user != owner:
            raise HubError(403, None, f"You don't have the rights to write to {id}")
        return repo

    @route("GET", r"/api/whoami-v2")
    def whoami(self) -> Any:
        user = self._user(required=True)
        return {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}}

    @route("POST", r"/api/validate-yaml")
    def validate_yaml(self) -> Any:
        content = self._json()["content"]
        if not content.startswith("---"):
            return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
        return {"errors": [], "warnings": []}

    @route("POST", r"/api/repos/create")
    def create(self) -> Any:
        user = self._user(required=True)
        wanted = self._json()
        kind = f"{wanted.get('type') or 'model'}s"
        id = f"{wanted.get('organization') or user}/{wanted['name']}"
        answer = {"url": f"{self.hub.url}/{prefix_of(kind)}{id}", "name": id, "id": id}
        if (kind, id) in self.hub.repos:
            return 409, json.dumps({**answer, "error": "You already created this repo"}).encode(), {}
        private = bool(wanted.get("private") or wanted.get("visibility") == "private")
        repo = self.hub.repos[kind, id] = Repo(kind, id, private)
        attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
        repo.add("main", "initial commit", {".gitattributes": self.hub.keep(attributes, lfs=False)})
        return answer

    @route("DELETE", r"/api/repos/delete")
    def delete(self) -> Any:
        wanted = self._json()
        kind = f"{wanted.get('type') or 'model'}s"
        repo = self._repo(
            kind, f"{wanted.get('organization') or self._user(required=True)}/{wanted['name']}", write=True
        )
        del self.hub.repos[kind, repo.id]
        return {}

    @route("PUT", rf"/api/{KIND}/{ID}/settings")
    def settings(self, kind: str, id: str) -> Any:
        repo, wanted = self._repo(kind, id, write=True), self._json()
        repo.private = wanted.get("private", wanted.get("visibility", "private" if repo.private else "")) in (
            True,
            "private",
        )
        repo.gated = bool(wanted.get("gated", repo.gated))
        return {}

    @route("POST", rf"/api/{KIND}/{ID}/preupload/{REVISION}")
    def preupload(self, kind: str, id: str, revision: str) -> Any:
        tree = self._repo(kind, id, write=True).at(revision).tree
        rows = []
        for file in self._json()["files"]:
            entry = tree.get(file["path"])
            oid = None if entry is None else entry.sha256 if entry.lfs else entry.git_oid
            mode = "lfs" if is_lfs(file["path"], file["size"]) else "regular"
            rows.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": rows}

    @route("POST", rf"/(?P<prefix>(?:datasets/|spaces/)?){ID}\.git/info/lfs/objects/batch")
    def lfs_batch(self, prefix: str, id: str) -> Any:
        self._repo(prefix.rstrip("/") or "models", id, write=True)
        rows = []
        for wanted in self._json()["objects"]:
            row = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.blobs:
                upload = {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}
                row["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs-verify"}}
            rows.append(row)
        return {"transfer": "basic", "objects": rows}

    @route("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})")
    def lfs_upload(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, None, "SHA-256 does not match")
        self.hub.blobs[oid] = self.body
        return {}

    @route("POST", r"/lfs-verify")
    def lfs_verify(self) -> Any:
        wanted = self._json()
        if len(self.hub.blobs.get(wanted["oid"], b"")) != wanted["size"]:
            raise HubError(404, None, "No such object")
        return {}

    @route("POST", rf"/api/{KIND}/{ID}/commit/{REVISION}")
    def commit(self, kind: str, id: str, revision: str) -> Any:
        repo = self._repo(kind, id, write=True)
        base, title = repo.at(revision), "Upload"
        tree = dict(base.tree)
        for line in self.body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, base.sha):
                    raise HubError(412, None, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                tree[value["path"]] = self.hub.keep(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                tree[value["path"]] = self.hub.keep(self.hub.blobs[value["oid"]], lfs=True)
            elif key == "deletedFile":
                tree.pop(value["path"], None)
            elif key == "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                tree = {path: entry for path, entry in tree.items() if not path.startswith(folder)}
            else:
                raise HubError(400, None, f"Unknown operation {key}")
        answer, ref = {}, revision
        if self.query.get("create_pr"):
            number = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
            ref = f"refs/pr/{number}"
            repo.refs[ref] = base.sha
            answer["pullRequestUrl"] = f"{self.hub.url}/{prefix_of(kind)}{id}/discussions/{number}"
        commit = repo.add(ref, title, tree)
        url = f"{self.hub.url}/{prefix_of(kind)}{id}/commit/{commit.sha}"
        return {"success": True, "commitUrl": url, "commitOid": commit.sha, **answer}

    @route("GET", rf"/api/{KIND}/{ID}(?:/revision/{REVISION})?")
    def info(self, kind: str, id: str, revision: str) -> Any:
        repo = self._repo(kind, id)
        commit = repo.at(revision or "main")
        siblings: list[dict[str, Any]] = []
        for path, entry in sorted(commit.tree.items()):
            row: dict[str, Any] = {"rfilename": path}
            if "blobs" in self.query:
                row |= {"size": entry.size, "blobId": entry.git_oid}
                if entry.lfs:
                    row["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": 134}
            siblings.append(row)
        gated = "manual" if repo.gated else False
        facts = {"id": id, "sha": commit.sha, "private": repo.private, "gated": gated, "siblings": siblings}
        return {**facts, "_id": "0", "author": id.split("/")[0], "lastModified": DATE, "tags": [], "downloads": 0}

    @route("GET", rf"/api/{KIND}/{ID}/tree/{REVISION}(?:/(?P<folder>.*))?")
    def tree(self, kind: str, id: str, revision: str, folder: str) -> Any:
        tree = self._repo(kind, id).at(revision).tree
        start = f"{folder.rstrip('/')}/" if folder else ""
        if start and not any(path.startswith(start) for path in tree):
            raise HubError(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        recursive = self.query.get("recursive", "").lower() in ("1", "true")
        rows, folders = [], set()
        for path, entry in sorted(tree.items()):
            if not path.startswith(start):
                continue
            below = path.removeprefix(start).split("/")[:-1]
            for depth in range(1, 1 + (len(below) if recursive else min(1, len(below)))):
                folders.add(start + "/".join(below[:depth]))
            if recursive or not below:
                rows.append(entry.describe(path))
        return [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)] + rows

    @route("POST", rf"/api/{KIND}/{ID}/paths-info/{REVISION}")
    def paths_info(self, kind: str, id: str, revision: str) -> Any:
        tree = self._repo(kind, id).at(revision).tree
        return [tree[path].describe(path) for path in parse_qs(self.body.decode()).get("paths", []) if path in tree]

    @route("GET", rf"/api/{KIND}/{ID}/refs")
    def refs(self, kind: str, id: str) -> Any:
        repo = self._repo(kind, id)
        heads = {name: sha for name, sha in repo.refs.items() if not name.startswith("refs/pr/")}
        pulls = {name: sha for name, sha in repo.refs.items() if name.startswith("refs/pr/")}

        def rows(refs: dict[str, str], where: str) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"{where}{name}", "targetCommit": sha} for name, sha in refs.items()]

        answer = {"branches": rows(heads, "refs/heads/"), "tags": rows(repo.tags, "refs/tags/"), "converts": []}
        return {**answer, "pullRequests": rows(pulls, "")}

    @route("GET", rf"/api/{KIND}/{ID}/commits/{REVISION}")
    def commits(self, kind: str, id: str, revision: str) -> Any:
        repo = self._repo(kind, id)
        rows, sha = [], repo.at(revision).sha
        while sha is not None:
            commit = repo.commits[sha]
            rows.append({"id": sha, "title": commit.title, "message": "", "date": DATE, "authors": []})
            sha = commit.parent
        return rows

    @route("POST", rf"/api/{KIND}/{ID}/tag/{REVISION}")
    def tag(self, kind: str, id: str, revision: str) -> Any:
        repo, name = self._repo(kind, id, write=True), self._json()["tag"]
        if name in repo.tags:
            raise HubError(409, None, f"Tag {name} exists already")
        repo.tags[name] = repo.at(revision).sha
        return {}

    @route("POST", rf"/api/{KIND}/{ID}/branch/(?P<name>[^/]+)")
    def branch(self, kind: str, id: str, name: str) -> Any:
        repo = self._repo(kind, id, write=True)
        if name in repo.refs:
            raise HubError(409, None, f"Reference {name} exists already")
        repo.refs[name] = repo.at(self._json().get("startingPoint") or "main").sha
        return {}

    @route("HEAD GET", rf"/(?P<prefix>(?:datasets/|spaces/)?){ID}/resolve/{REVISION}/(?P<path>.+)")
    def resolve(self, prefix: str, id: str, revision: str, path: str) -> Any:
        repo = self._repo(prefix.rstrip("/") or "models", id)
        commit = repo.at(revision)
        entry = commit.tree.get(path)
        if repo.gated and self._user() != id.split("/")[0]:
            raise HubError(403, "GatedRepo", f"Access to model {id} is restricted")
        if entry is None:
            raise HubError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.sha})
        data = self.hub.blobs[entry.sha256]
        headers = {"X-Repo-Commit": commit.sha, "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        headers["ETag"] = f'"{entry.sha256 if entry.lfs else entry.git_oid}"'
        if entry.lfs:
            headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or self.command == "HEAD":
            return 200, data, headers
        first, last = wanted.groups()
        start = int(first) if first else max(0, len(data) - int(last))
        stop = int(last) + 1 if first and last else len(data)
        headers["Content-Range"] = f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"
        return 206, data[start:stop], headers


def prefix_of(kind: str) -> str:
    return "" if kind == "models" else f"{kind}/"
