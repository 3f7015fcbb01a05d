"""Who may log in, whom to trust, and what ssh's own configuration says about it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from fscache_core.errors import CallerError, OriginPermissionError
from netfs_sshfs import SshfsNetfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fscache_core.testing.sftp_server import OpenSSHServer

    MakeNetfs = Callable[..., SshfsNetfs]

pytestmark = pytest.mark.integration


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory without an agent; returns its ``.ssh``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    ssh = tmp_path / ".ssh"
    ssh.mkdir(mode=0o700)
    return ssh


def make_key(path: Path, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path], check=True)
    return path


async def look_up_root(netfs: SshfsNetfs, url: str, server: OpenSSHServer) -> None:
    volume = await netfs.open_volume(netfs.parse_url(url))
    try:
        await netfs.look_up(volume, str(server.root))
    finally:
        await netfs.close_volume(volume)


async def test_a_key_that_does_not_open_the_account_is_refused(
    server: OpenSSHServer, tmp_path: Path, make_netfs: MakeNetfs
) -> None:
    key = make_key(tmp_path / "key")
    with pytest.raises(OriginPermissionError, match=f"{server.port}{server.root}: login refused: "):
        await look_up_root(make_netfs(server, client_keys=key), server.url, server)


async def test_more_keys_than_the_server_lets_one_try_are_a_refusal(
    server: OpenSSHServer, tmp_path: Path, make_netfs: MakeNetfs
) -> None:
    keys = [make_key(tmp_path / f"key-{n}") for n in range(7)]
    with pytest.raises(OriginPermissionError, match="login refused: Too many authentication failures"):
        await look_up_root(make_netfs(server, client_keys=keys), server.url, server)


async def test_a_host_key_that_is_not_known_is_refused_and_the_line_says_how_to_add_it(
    server: OpenSSHServer, tmp_path: Path, make_netfs: MakeNetfs
) -> None:
    empty = tmp_path / "known_hosts"
    empty.touch()
    with pytest.raises(OriginPermissionError, match="host key not known: ssh-ed25519 SHA256:") as caught:
        await look_up_root(make_netfs(server, known_hosts=empty), server.url, server)
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> ~/.ssh/known_hosts" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_host_key_that_has_changed_is_refused_in_other_words(
    server: OpenSSHServer, tmp_path: Path, make_netfs: MakeNetfs
) -> None:
    make_key(tmp_path / "key")
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{server.port} {(tmp_path / 'key.pub').read_text()}")
    with pytest.raises(OriginPermissionError, match="host key has changed") as caught:
        await look_up_root(make_netfs(server, known_hosts=known_hosts), server.url, server)
    assert "ssh-keyscan" not in str(caught.value)


async def test_nobody_is_trusted_for_want_of_a_known_hosts_file(
    server: OpenSSHServer, home: Path, make_netfs: MakeNetfs
) -> None:
    with pytest.raises(OriginPermissionError, match="host key not known"):
        await look_up_root(make_netfs(server, known_hosts=None), server.url, server)
    (home / "config").write_text("UserKnownHostsFile none\n")
    with pytest.raises(OriginPermissionError, match="host key not known"):
        await look_up_root(make_netfs(server, known_hosts=None, config=None), server.url, server)


async def test_keys_and_known_hosts_of_the_home_directory_are_used(server: OpenSSHServer, home: Path) -> None:
    (home / "known_hosts").write_bytes(server.known_hosts.read_bytes())
    (home / "id_ed25519").write_bytes(server.client_key.read_bytes())
    (home / "id_ed25519").chmod(0o600)
    await look_up_root(SshfsNetfs(), server.url, server)


async def test_an_alias_of_ssh_config_is_a_host(server: OpenSSHServer, home: Path) -> None:
    (home / "config").write_text(
        f"Host box\n  HostName 127.0.0.1\n  Port {server.port}\n  User {server.user}\n"
        f"  IdentityFile {server.client_key}\n  UserKnownHostsFile {server.known_hosts}\n"
    )
    await look_up_root(SshfsNetfs(), "sshfs://box/", server)


async def test_the_address_to_come_from_is_heeded(server: OpenSSHServer, home: Path) -> None:
    (home / "config").write_text(
        f"Host *\n  BindAddress 127.0.0.77\n  AddressFamily inet\n  IdentityFile {server.client_key}\n"
        f"  UserKnownHostsFile {server.known_hosts}\n"
    )
    log = server.client_key.parent / "sshd.log"
    await look_up_root(SshfsNetfs(), server.url, server)
    assert f"Accepted publickey for {server.user} from 127.0.0.77 " in log.read_text()


async def test_a_jump_host_is_gone_through(server: OpenSSHServer, home: Path) -> None:
    (home / "config").write_text(
        f"Host jump\n  HostName 127.0.0.1\n  Port {server.port}\n"
        f"Host inside\n  HostName 127.0.0.1\n  Port {server.port}\n  ProxyJump jump\n"
        f"Host *\n  User {server.user}\n  IdentityFile {server.client_key}\n"
        f"  UserKnownHostsFile {server.known_hosts}\n"
    )
    log = server.client_key.parent / "sshd.log"
    logins = log.read_text().count("Accepted publickey")
    await look_up_root(SshfsNetfs(), "sshfs://inside/", server)
    assert log.read_text().count("Accepted publickey") == logins + 2


async def test_a_jump_host_named_as_an_option_is_gone_through(server: OpenSSHServer, home: Path) -> None:
    (home / "config").write_text(
        f"Host *\n  IdentityFile {server.client_key}\n  UserKnownHostsFile {server.known_hosts}\n"
    )
    log = server.client_key.parent / "sshd.log"
    logins = log.read_text().count("Accepted publickey")
    netfs = SshfsNetfs(proxy_jump=f"{server.user}@127.0.0.1:{server.port}")
    await look_up_root(netfs, server.url, server)
    assert log.read_text().count("Accepted publickey") == logins + 2


async def test_a_proxy_command_is_gone_through(server: OpenSSHServer, home: Path) -> None:
    carry = home / "carry.py"
    carry.write_text(
        "import os, socket, sys, threading\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "    s.shutdown(socket.SHUT_WR)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    (home / "config").write_text(
        f"Host inside\n  HostName 127.0.0.1\n  Port {server.port}\n  User {server.user}\n"
        f"  ProxyCommand {sys.executable} {carry} %h %p\n"
        f"  IdentityFile {server.client_key}\n  UserKnownHostsFile {server.known_hosts}\n"
    )
    await look_up_root(SshfsNetfs(), "sshfs://inside/", server)


@pytest.fixture
def agent(tmp_path: Path, server: OpenSSHServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent that holds the server's client key."""
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
    subprocess.run(["ssh-add", "-q", server.client_key], env=environment, check=True)
    yield
    process.terminate()
    process.wait()
    process.stdout.close()


async def test_a_key_of_an_agent_is_used(
    server: OpenSSHServer, home: Path, agent: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netfs = SshfsNetfs(known_hosts=server.known_hosts)
    with pytest.raises(OriginPermissionError, match="login refused"):
        await look_up_root(netfs, server.url, server)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    await look_up_root(netfs, server.url, server)


async def test_a_file_that_is_no_key_is_a_callers_error(
    server: OpenSSHServer, tmp_path: Path, make_netfs: MakeNetfs
) -> None:
    key = tmp_path / "key"
    key.write_text("not a key")
    with pytest.raises(CallerError, match="cannot connect: "):
        await look_up_root(make_netfs(server, client_keys=key), server.url, server)


@pytest.mark.parametrize("text", ["nothing\n", "caf\xe9 ssh-ed25519 AAAA\n"])
async def test_known_hosts_that_make_no_sense_are_a_callers_error(
    server: OpenSSHServer, tmp_path: Path, make_netfs: MakeNetfs, text: str
) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_bytes(text.encode("latin-1"))
    with pytest.raises(CallerError, match="cannot connect: "):
        await look_up_root(make_netfs(server, known_hosts=known_hosts), server.url, server)


async def test_a_key_that_needs_a_passphrase_is_a_callers_error(
    server: OpenSSHServer, tmp_path: Path, make_netfs: MakeNetfs
) -> None:
    key = make_key(tmp_path / "key", "secret")
    with pytest.raises(CallerError, match=r"[Pp]assphrase"):
        await look_up_root(make_netfs(server, client_keys=key), server.url, server)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to log in as somebody else")
async def test_a_file_that_the_user_may_not_read_is_refused(
    server: OpenSSHServer, directory: Path, make_netfs: MakeNetfs
) -> None:
    netfs = make_netfs(server)
    (directory / "a").write_bytes(b"12345")
    (directory / "a").chmod(0o600)
    server.client_key.parent.chmod(0o711)  # sshd reads authorized_keys as the user who logs in
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://nobody@127.0.0.1:{server.port}"))
    try:
        file = await netfs.look_up(volume, f"{directory}/a")
        with pytest.raises(OriginPermissionError, match="permission denied"):
            await netfs.fetch(file, 0, memoryview(bytearray(5)), lambda n: None)
    finally:
        server.client_key.parent.chmod(0o700)
        await netfs.close_volume(volume)
