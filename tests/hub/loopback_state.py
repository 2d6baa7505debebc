"""What the loopback Hub holds: repositories, their commits, the bytes of files."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from typing import Any

LFS_FROM = 256 * 1024  # bytes from which a file goes through LFS, whatever its name
LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".npz", ".png", ".odc")


class HubError(Exception):
    """An answer other than success: status, code for the header `X-Error-Code`, message."""

    def __init__(self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


@dataclass(frozen=True)
class Entry:
    """One file of a tree: SHA-256 of its bytes, their number, and whether it went through LFS."""

    sha256: str
    size: int
    lfs: bool
    git_oid: str

    def describe(self, path: str) -> dict[str, Any]:
        """Return the entry as listings show it."""
        row = {"type": "file", "path": path, "size": self.size, "oid": self.git_oid}
        if self.lfs:
            row["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return row


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    sha: str
    title: str
    tree: dict[str, Entry]
    parent: str | None


@dataclass
class Repo:
    """A repository: its commits and the names that point at them (`main`, `refs/pr/1`, branches, tags)."""

    kind: str
    id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        """Return the commit a revision names."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        sha = self.refs.get(name) or self.tags.get(name) or name
        if sha not in self.commits:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[sha]

    def add(self, ref: str, title: str, tree: dict[str, Entry]) -> Commit:
        """Put a commit on a ref; an unchanged tree makes none, as on the Hub."""
        parent = self.refs.get(ref)
        if parent is not None and self.commits[parent].tree == tree:
            return self.commits[parent]
        listing = json.dumps([parent, title, sorted((path, entry.sha256) for path, entry in tree.items())])
        commit = Commit(hashlib.sha1(listing.encode()).hexdigest(), title, dict(tree), parent)
        self.commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit


class Store:
    """Everything the server holds: repositories by kind and id, bytes by SHA-256."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.lock = threading.RLock()

    def keep(self, data: bytes, *, lfs: bool) -> Entry:
        """Keep a file's bytes and return its entry."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.blobs[sha256] = data
        # git's name of a blob; of an LFS file, that of its pointer, for which any stable name will do here
        blob = sha256.encode() if lfs else data
        git_oid = hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()
        return Entry(sha256, len(data), lfs, git_oid)


def is_lfs(path: str, size: int) -> bool:
    return size >= LFS_FROM or path.endswith(LFS_SUFFIXES)
