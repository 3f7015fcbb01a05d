"""A fork while another thread imports something at its first use."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

#: Of what is called before a fork, the last registered comes first: so the program knows that the main thread
#: is about to.  Only then the import goes on, for a while: a fork that does not wait finds it half done.
PROGRAM = """
import importlib.abc, os, signal, sys, threading, time
from contextlib import suppress
from fscache_core import FscacheError, blocking

url, late, directory = sys.argv[1:]
begun, forking = threading.Event(), threading.Event()

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == late and not begun.is_set():
            begun.set()
            assert forking.wait(60)
            time.sleep(0.2)
        return None

def read():
    with blocking.open_fscache() as fscache:
        fscache.add_cache("memory")
        if url.startswith("sshfs:"):
            fscache.add_netfs("sshfs", config=directory + "/config", known_hosts=directory + "/known_hosts")
        with suppress(FscacheError):  # there is no such origin
            fscache.open_file(url)

sys.meta_path.insert(0, Slow())
threading.Thread(target=read, daemon=True).start()
assert begun.wait(60), "nothing imports " + late
os.register_at_fork(before=forking.set)
pid = os.fork()
if pid == 0:
    signal.alarm(60)  # ends the child with a signal if it hangs
    __import__(late)
    os._exit(0)
os._exit(0 if os.waitpid(pid, 0)[1] == 0 else 3)  # without waiting for the reader
"""


@pytest.mark.parametrize(
    ("url", "late"),
    [
        pytest.param("file:///etc/hosts", "netfs_localdir", id="an adapter"),
        pytest.param("http://127.0.0.1:9/a", "httpx", id="http"),
        pytest.param("http://127.0.0.1:9/a", "httpcore", id="http by httpx"),
        pytest.param("s3://bucket/key", "obstore", id="s3"),
        pytest.param("sshfs://joe@127.0.0.1:9/a", "asyncio", id="sshfs: asyncio"),
        pytest.param("sshfs://joe@127.0.0.1:9/a", "asyncssh", id="sshfs"),
        pytest.param("sshfs://host/a", "asyncssh", id="sshfs: configuration"),
        pytest.param("fsspec:http://127.0.0.1:9/a", "fsspec", id="fsspec"),
        pytest.param("fsspec:http://127.0.0.1:9/a", "aiohttp", id="fsspec: http"),
    ],
)
def test_a_fork_waits_until_what_is_imported_late_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, late: str
) -> None:
    (tmp_path / "config").write_text("Host host\n    Port 9\n    User joe\n")
    (tmp_path / "known_hosts").touch()
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
    ):
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM, url, late, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
