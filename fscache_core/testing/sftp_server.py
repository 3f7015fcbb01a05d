"""Real SFTP servers on loopback: OpenSSH's ``sshd``, or asyncssh where that is not installed.

::

    with sftp_server(directory) as server:
        ...  # connect to server.host, server.port as server.user with server.client_key, server.known_hosts
        server.kill_connections()  # every client sees its connection break; new ones are accepted
        server.stop()  # offline: connections break, new ones are refused
        server.start()  # back on the same port, with the same host key

Paths over SFTP are the server's own absolute paths; ``server.root`` is the directory to use.  Constructed is
running; ``with`` or `close` ends it.  Methods may be called from any thread, one at a time.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

from fscache_core.testing.workspace import (
    LOOPBACK,
    ServerFailedError,
    ServerNotInstalledError,
    ServerProcess,
    Workspace,
    descendants,
    free_port,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    import asyncssh

_T = TypeVar("_T")

SSHD = "/usr/sbin/sshd"

_CONFIG = """\
Port {port}
ListenAddress {host}
HostKey "{directory}/host_key"
AuthorizedKeysFile "{directory}/authorized_keys"
PidFile "{directory}/sshd.pid"
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
MaxStartups 200
MaxSessions 200
Subsystem sftp internal-sftp
"""


class _SftpServerFiles:
    """What both servers have in common: the attributes clients need, and the directory they live in."""

    name: str

    def __init__(self, root: Path | None) -> None:
        self._workspace = Workspace(self.name)
        self.host = LOOPBACK
        self.port = free_port()
        self.user = getpass.getuser()
        directory = self._workspace.directory
        self.client_key = directory / "client_key"
        self.known_hosts = directory / "known_hosts"
        if root is None:
            root = directory / "root"
            root.mkdir()
        self.root = root.resolve()

    @property
    def url(self) -> str:
        return f"sftp://{self.user}@{self.host}:{self.port}{self.root}"

    def _write_public_keys(self, host_key: str, client_key: str) -> None:
        """Let clients know the server, and the server its client (both in OpenSSH's one-line format)."""
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {host_key}\n")
        (self._workspace.directory / "authorized_keys").write_text(f"{client_key}\n")

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Stop, and remove keys and, if the server made it, the root directory.  Idempotent."""
        self.stop()
        self._workspace.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class OpenSSHServer(_SftpServerFiles):
    """``sshd`` with throw-away ed25519 keys and ``internal-sftp``; as root or as any user, for the user that
    starts it.

    The client key opens the account of every user ``sshd`` may switch to, so a test that runs as root can
    connect as another user of the machine to see permissions refused.

    sshd lets nobody into a locked account (``!`` in the shadow file), whichever key they have.

    Raises:
      ServerNotInstalledError: no ``sshd`` or no ``ssh-keygen``.
    """

    name = "openssh"

    def __init__(self, root: Path | None = None) -> None:
        missing = openssh_missing()
        if missing:
            raise ServerNotInstalledError(missing)
        super().__init__(root)
        self._sshd: ServerProcess | None = None
        try:
            self._make_files()
            self.start()
        except BaseException:
            self._workspace.close()
            raise

    def _make_files(self) -> None:
        directory = self._workspace.directory
        for key in ("host_key", "client_key"):
            make_key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fscache-test", "-f"]
            self._workspace.run([*make_key, directory / key])
        self._write_public_keys(
            host_key=(directory / "host_key.pub").read_text().strip(),
            client_key=(directory / "client_key.pub").read_text().strip(),
        )
        config = directory / "sshd_config"
        config.write_text(_CONFIG.format(port=self.port, host=self.host, directory=directory))
        if os.geteuid() == 0:
            # sshd's fixed place to lock its unprivileged part in
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        # OpenSSH 9.8 and later punish an address for failed logins; older ones do not know the word.
        lenient = config.read_text() + "PerSourcePenalties no\n"
        probe = directory / "sshd_config_lenient"
        probe.write_text(lenient)
        with suppress(ServerFailedError):
            self._workspace.run([SSHD, "-t", "-f", probe])
            config.write_text(lenient)

    def start(self) -> None:
        """Listen again, on the same port with the same keys.  No effect on a running server."""
        if self._sshd is not None:
            return
        config = self._workspace.directory / "sshd_config"
        self._sshd = self._workspace.spawn([SSHD, "-D", "-e", "-f", config], "sshd.log")
        try:
            self._sshd.wait_ready(self._answers, 240, "sshd")
        except ServerFailedError:
            self.stop()
            raise

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((self.host, self.port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
        return False

    def stop(self) -> None:
        """Stop listening and break every connection.  Idempotent."""
        if self._sshd is not None:
            self._sshd.stop()
            self._sshd = None

    def kill_connections(self) -> int:
        """SIGKILL the processes that serve connections, as a crash would; the server goes on listening.

        Returns:
          the number of processes killed.
        """
        if self._sshd is None:
            return 0
        victims = descendants(self._sshd.pid)
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        return len(victims)


class AsyncsshServer(_SftpServerFiles):
    """asyncssh's SFTP server, in a thread of this process with an asyncio loop of its own.

    Raises:
      ServerNotInstalledError: no asyncssh.
    """

    name = "asyncssh"

    def __init__(self, root: Path | None = None) -> None:
        missing = asyncssh_missing()
        if missing:
            raise ServerNotInstalledError(missing)
        import asyncssh

        super().__init__(root)
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        client_key = asyncssh.generate_private_key("ssh-ed25519")
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="fscache-asyncssh-server", daemon=True
        )
        self._thread.start()
        try:
            client_key.write_private_key(str(self.client_key))
            self.client_key.chmod(0o600)
            self._write_public_keys(
                host_key=self._host_key.export_public_key().decode().strip(),
                client_key=client_key.export_public_key().decode().strip(),
            )
            self.start()
        except BaseException:
            self.close()
            raise

    async def _listen(self) -> None:
        import asyncssh

        connections = self._connections

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                self._connection = conn
                connections.add(conn)

            def connection_lost(self, exc: Exception | None) -> None:
                connections.discard(self._connection)

        self._acceptor = await asyncssh.create_server(
            Server,
            self.host,
            self.port,
            server_host_keys=[self._host_key],
            authorized_client_keys=str(self._workspace.directory / "authorized_keys"),
            sftp_factory=True,
            reuse_address=True,
        )

    async def _break_connections(self) -> int:
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        for connection in connections:
            await connection.wait_closed()
        return len(connections)

    async def _stop(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        await self._break_connections()

    def _run(self, coroutine: Coroutine[object, object, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(240)

    def start(self) -> None:
        """Listen again, on the same port with the same keys.  No effect on a running server."""
        if self._acceptor is None:
            self._run(self._listen())

    def stop(self) -> None:
        """Stop listening and break every connection.  Idempotent."""
        if self._thread.is_alive():
            self._run(self._stop())

    def kill_connections(self) -> int:
        """Break every connection without a word to the client; the server goes on listening.

        Returns:
          the number of connections broken.
        """
        return self._run(self._break_connections())

    def close(self) -> None:
        """Stop, end the loop and its thread, and remove the files.  Idempotent."""
        self.stop()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        self._workspace.close()


SftpServer: TypeAlias = OpenSSHServer | AsyncsshServer


def openssh_missing() -> str | None:
    """Why `OpenSSHServer` cannot run here, or None if it can."""
    if not os.access(SSHD, os.X_OK):
        return f"no {SSHD} (Debian: apt-get install openssh-server)"
    if shutil.which("ssh-keygen") is None:
        return "no ssh-keygen (Debian: apt-get install openssh-client)"
    return None


def asyncssh_missing() -> str | None:
    """Why `AsyncsshServer` cannot run here, or None if it can."""
    try:
        import asyncssh  # noqa: F401
    except ImportError as error:
        return f"no asyncssh (pip install asyncssh): {error}"
    return None


def sftp_server(root: Path | None = None) -> SftpServer:
    """Start the best SFTP server installed: OpenSSH, else asyncssh.

    Args:
      root: the directory to use, which the server does not remove; None for a fresh one that goes with the
        server.

    Raises:
      ServerNotInstalledError: neither is installed.
    """
    without_openssh = openssh_missing()
    if without_openssh is None:
        return OpenSSHServer(root)
    without_asyncssh = asyncssh_missing()
    if without_asyncssh is None:
        return AsyncsshServer(root)
    raise ServerNotInstalledError(f"{without_openssh}; {without_asyncssh}")
