"""A stand-in for the Hugging Face Hub on 127.0.0.1, as much of it as the client libraries use.

    with LoopbackHub() as hub:
        subprocess.run([sys.executable, "script.py"], env=hub.environment(home), check=True)

The client reads its environment at import, so whatever talks to the hub runs in a process of its own with
`hub.environment(home)`: the endpoint, a token, a home for its caches, and Xet off (which this server does not speak).

What it does: repositories of models, datasets and Spaces, private and gated ones; commits with regular and LFS files,
deletions, branches, tags and pull requests; listings, metadata and downloads with ranges; the error headers that make
the client raise its own exceptions. `hub.requests` records every request, which is how a test notices a lost cache.
"""

import os
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from .loopback_api import HubRequestHandler
from .loopback_state import Commit, Repo, Store, is_lfs


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Clients connect from several threads at once; beyond the queue a connection waits for seconds to be tried again.
    request_queue_size = 64


class LoopbackHub(Store):
    """The server and its state; a context manager.

    Args:
        users (`dict[str, str]`, *optional*): token -> user name. Defaults to one user, `alice`.
    """

    def __init__(self, users: dict[str, str] | None = None):
        super().__init__()
        self.users = users or {"hf_alice": "alice"}
        self.requests: list[tuple[str, str]] = []
        handler = type("BoundHandler", (HubRequestHandler,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Base address, for `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "LoopbackHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, home: str | os.PathLike[str], *, token: str | None = "hf_alice") -> dict[str, str]:
        """Return the environment of a client process with its caches in `home`."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": os.fspath(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        if token is not None:
            environment["HF_TOKEN"] = token
        return environment

    def files(self, repo_id: str, *, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """Return what a repository holds: path -> bytes."""
        tree = self.repos[kind, repo_id].at(revision).tree
        return {path: self.blobs[entry.sha256] for path, entry in tree.items()}

    def upload(self, repo_id: str, folder: str | os.PathLike[str], *, kind: str = "models") -> Commit:
        """Put a folder into a repository without a client, for tests that only read."""
        repo = self.repos.setdefault((kind, repo_id), Repo(kind, repo_id))
        root = Path(folder)
        tree = {
            path.relative_to(root).as_posix(): self.keep(path.read_bytes(), lfs=is_lfs(path.name, path.stat().st_size))
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }
        return repo.add("main", "Upload folder", tree)
