"""Both SFTP servers, through OpenSSH's own client."""

from __future__ import annotations

import hashlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from fscache_core.testing import sftp_server as module
from fscache_core.testing.sftp_server import (
    AsyncsshServer,
    OpenSSHServer,
    SftpServer,
    asyncssh_missing,
    openssh_missing,
    sftp_server,
)
from fscache_core.testing.workspace import LOOPBACK, ServerFailedError, ServerNotInstalledError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("sftp") is None, reason="no sftp client (Debian: openssh-client)"),
]


@pytest.fixture(params=["openssh", "asyncssh"])
def server(request: pytest.FixtureRequest) -> Iterator[SftpServer]:
    openssh = request.param == "openssh"
    if (why := openssh_missing() if openssh else asyncssh_missing()) is not None:
        pytest.skip(why)
    with OpenSSHServer() if openssh else AsyncsshServer() as running:
        yield running


def _client(server: SftpServer, *arguments: str) -> list[str]:
    options = {
        "UserKnownHostsFile": str(server.known_hosts),
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
    }
    words = ["-F", "none", "-i", str(server.client_key), "-P", str(server.port)]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    return ["sftp", *words, *arguments]


def _get(server: SftpServer, path: Path, to: Path) -> subprocess.CompletedProcess[str]:
    where = f"{server.user}@{server.host}:{path}"
    return subprocess.run(
        _client(server, where, str(to)), capture_output=True, text=True, timeout=240, check=False
    )


def test_a_file_arrives_byte_for_byte_by_its_absolute_path(server: SftpServer, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3_000_001)
    (server.root / "file.bin").write_bytes(data)
    done = _get(server, server.root / "file.bin", tmp_path / "got")
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256((tmp_path / "got").read_bytes()).digest() == hashlib.sha256(data).digest()


def test_stopped_it_refuses_and_started_again_it_is_the_same_host(server: SftpServer, tmp_path: Path) -> None:
    (server.root / "file").write_bytes(b"abc")
    port = server.port
    server.stop()
    done = _get(server, server.root / "file", tmp_path / "got")
    assert done.returncode != 0
    assert "refused" in done.stderr
    server.start()
    assert server.port == port
    done = _get(server, server.root / "file", tmp_path / "got")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got").read_bytes() == b"abc"


@pytest.mark.parametrize("how", ["kill_connections", "stop"])
def test_open_connections_break(server: SftpServer, tmp_path: Path, how: str) -> None:
    command = _client(server, "-b", "-", f"{server.user}@{server.host}")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(f"cd {server.root}\npwd\n".encode())
        client.stdin.flush()
        lines = iter(client.stdout.readline, b"")
        assert any(line.startswith(b"Remote working directory:") for line in lines)
        if how == "stop":
            server.stop()
        else:
            assert server.kill_connections() >= 1
        with suppress(BrokenPipeError):  # it may have noticed, and ended, already
            client.stdin.write(f"ls {server.root}\n".encode())
            client.stdin.flush()
        with suppress(BrokenPipeError):
            client.stdin.close()
        assert client.wait(240) != 0
        client.stdout.read()
    if how == "kill_connections":
        (server.root / "file").write_bytes(b"abc")
        assert _get(server, server.root / "file", tmp_path / "got").returncode == 0


def test_a_stranger_is_refused(server: SftpServer, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
    shutil.copyfile(stranger, server.client_key)
    (server.root / "file").write_bytes(b"abc")
    done = _get(server, server.root / "file", tmp_path / "got")
    assert done.returncode != 0
    assert "Permission denied" in done.stderr


def test_a_directory_of_the_caller_is_served_and_left_alone(tmp_path: Path) -> None:
    if (why := openssh_missing()) is not None and asyncssh_missing() is not None:
        pytest.skip(why)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").write_bytes(b"abc")
    with sftp_server(tmp_path / "root") as server:
        keys = server.client_key.parent
        assert _get(server, server.root / "file", tmp_path / "got").returncode == 0
    assert (tmp_path / "root/file").read_bytes() == b"abc"
    assert not keys.exists()


def test_started_stopped_and_closed_twice_is_as_good_as_once(server: SftpServer, tmp_path: Path) -> None:
    (server.root / "file").write_bytes(b"abc")
    server.start()
    assert _get(server, server.root / "file", tmp_path / "got").returncode == 0
    for _ in range(2):
        server.stop()
        assert "refused" in _get(server, server.root / "file", tmp_path / "got").stderr
        assert server.kill_connections() == 0
    keys = server.client_key.parent
    for _ in range(2):
        server.close()
        assert not keys.exists()


def test_a_port_that_another_program_has_is_an_error_until_it_is_free(tmp_path: Path) -> None:
    if (why := openssh_missing()) is not None:
        pytest.skip(why)
    with OpenSSHServer() as server:
        (server.root / "file").write_bytes(b"abc")
        server.stop()
        with socket.socket() as other:
            other.bind((server.host, server.port))
            with pytest.raises(ServerFailedError, match=r"(?s)sshd ended with 255.*Address already in use"):
                server.start()
        server.start()
        assert _get(server, server.root / "file", tmp_path / "got").returncode == 0


@pytest.mark.parametrize("kind", [OpenSSHServer, AsyncsshServer])
def test_a_server_that_cannot_start_leaves_nothing(
    kind: type[OpenSSHServer | AsyncsshServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (why := openssh_missing() if kind is OpenSSHServer else asyncssh_missing()) is not None:
        pytest.skip(why)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(threading.enumerate())
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        monkeypatch.setattr(module, "free_port", lambda: other.getsockname()[1])
        with pytest.raises((ServerFailedError, OSError), match="ddress already in use"):
            kind()
    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) <= before


def test_what_is_not_installed_is_named_and_the_other_server_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    if (why := asyncssh_missing()) is not None:
        pytest.skip(why)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServerNotInstalledError, match=r"no ssh-keygen .*openssh-client|no /.*openssh-server"):
        OpenSSHServer()
    with sftp_server() as server:
        assert server.name == "asyncssh"
    monkeypatch.setattr(module, "SSHD", "/missing/sshd")
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    with pytest.raises(ServerNotInstalledError, match=r"no asyncssh .*pip install asyncssh"):
        AsyncsshServer()
    with pytest.raises(ServerNotInstalledError, match=r"no /missing/sshd .*openssh-server.*; no asyncssh"):
        sftp_server()
