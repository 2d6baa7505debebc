"""A running loopback Hub, and a way to run code against it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .loopback import LoopbackHub


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """A fresh Hub with two users, `alice` (whose token is used unless another is asked for) and `bob`."""
    with LoopbackHub({"hf_alice": "alice", "hf_bob": "bob"}) as running:
        yield running


@pytest.fixture
def client(hub: LoopbackHub, tmp_path: Path) -> Callable[..., str]:
    """A function `(code, home="home", token="hf_alice", **variables)` that runs code in a process of its own.

    Every variable is there as a string. Returns what the code printed.
    """

    def run(code: str, home: str = "home", token: str | None = "hf_alice", **variables: object) -> str:
        names = "".join(f"{name} = {str(value)!r}\n" for name, value in variables.items())
        done = subprocess.run(
            [sys.executable, "-W", "error::UserWarning:onedc_hf", "-c", names + code],
            env=hub.environment(tmp_path / home, token=token),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
