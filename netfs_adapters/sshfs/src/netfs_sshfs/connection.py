"""The connection to one server: made when first needed, shared, made again when it is lost.

Everything here runs in the asyncio loop.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import asyncssh

from fscache_core.errors import FscacheError, OriginTimeoutError, OriginUnreachableError
from netfs_sshfs.faults import FAULTS, LOST, about, why_failed, why_not_connected
from netfs_sshfs.handles import Handles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from netfs_sshfs.options import Options
    from netfs_sshfs.url import Endpoint

T = TypeVar("T")

#: Measured on loopback: AES-GCM moves twice what ChaCha20, which asyncssh would choose, does.
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
_CLOSE_SECONDS = 2.0


class Session:
    """One connection while it lives."""

    def __init__(
        self, connection: asyncssh.SSHClientConnection, sftp: asyncssh.SFTPClient, options: Options
    ) -> None:
        self.connection = connection
        self.sftp = sftp
        self.handles = Handles(sftp, options)

    async def close(self) -> None:
        self.connection.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.connection.wait_closed()
        except TimeoutError:
            self.connection.abort()
            with suppress(*FAULTS):
                await self.connection.wait_closed()


class _HostKey(asyncssh.SSHClient):
    """Refuses a host key that is not known, and remembers what to say about it."""

    refusal: str | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.refusal = (
            f"host key not known: {key.get_algorithm()} {key.get_fingerprint()}; if it is the right one, "
            f"add it: ssh-keyscan -p {port} {host} >> ~/.ssh/known_hosts"
        )
        return False


class Connection:
    """The way to one server.  Sessions come and go below it."""

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        self.endpoint = endpoint
        self.options = options
        self._session: Session | None = None
        self._connecting: asyncio.Task[Session] | None = None
        self._ever_connected = False

    async def use(
        self,
        what: str,
        work: Callable[[Session, Callable[[], None]], Awaitable[T]],
        *,
        repeat: bool,
        persist: bool = False,
    ) -> T:
        """Do ``work(session, progressed)``; call ``progressed()`` there whenever something arrived.

        Args:
          what: beginning of the line of an error: origin, file, range.
          repeat: whether the work may be done again after the connection was lost amidst it.  From then on
            it is tried until the deadline, with growing pauses.
          persist: try until the deadline from the beginning, if the server was there before.

        Raises:
          FscacheError: an origin error for whatever happened.
        """
        persist = persist and self._ever_connected
        pauses = _pauses()
        unreachable: FscacheError | None = None
        loop = asyncio.get_running_loop()
        deadline_seconds = self.options.deadline_seconds
        try:
            async with asyncio.timeout(deadline_seconds) as limit:

                def progressed() -> None:
                    nonlocal unreachable, pauses
                    unreachable, pauses = None, _pauses()
                    limit.reschedule(loop.time() + deadline_seconds)

                while True:
                    try:
                        session = await self._get_session()
                    except OriginUnreachableError as error:
                        if not persist:
                            raise
                        unreachable = error
                        await asyncio.sleep(next(pauses))
                        continue
                    try:
                        return await work(session, progressed)
                    except LOST as error:
                        self._drop(session)
                        if not repeat:
                            raise
                        unreachable = why_failed(error)
                        persist = True
        except FscacheError as error:
            raise about(what, error) from error.__cause__
        except TimeoutError as error:
            late = OriginTimeoutError(f"no answer for {deadline_seconds:g} s")
            raise about(what, unreachable or late) from error
        except FAULTS as error:
            raise about(what, why_failed(error)) from error

    async def _get_session(self) -> Session:
        """The session, connecting if there is none.  Who wait at the same time share one attempt."""
        if self._session is not None and self._session.connection.is_closed():
            self._drop(self._session)
        if self._session is not None:
            return self._session
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
        connecting = self._connecting
        try:
            return await asyncio.shield(connecting)
        finally:
            if connecting.done() and self._connecting is connecting:
                self._connecting = None

    async def _connect(self) -> Session:
        client = _HostKey()
        try:
            async with asyncio.timeout(self.options.connect_timeout):
                connection = await self._log_in(client)
                try:
                    sftp = await connection.start_sftp_client(path_encoding=None)
                except BaseException:
                    connection.abort()
                    raise
        except (*FAULTS, ValueError) as error:
            raise why_not_connected(error, client.refusal) from error
        self._session = Session(connection, sftp, self.options)
        self._ever_connected = True
        return self._session

    async def _log_in(self, client: asyncssh.SSHClient) -> asyncssh.SSHClientConnection:
        endpoint, options = self.endpoint, self.options
        known_hosts: object = () if options.known_hosts is None else list(options.known_hosts) or b""
        asked = asyncssh.SSHClientConnectionOptions(
            host=endpoint.host,
            port=endpoint.port,
            username=endpoint.user,
            client_factory=lambda: client,
            config=() if options.config is None else list(options.config),
            known_hosts=known_hosts,
            client_keys=() if options.client_keys is None else list(options.client_keys),
            # An agent may hold more keys than a server allows attempts; keys that were named go alone.
            agent_path=() if options.client_keys is None else None,
            keepalive_interval=options.keepalive_seconds or (),
            login_timeout=options.connect_timeout,
            tunnel=() if options.proxy_jump is None else options.proxy_jump,
        )
        if asked.known_hosts is None:
            # "UserKnownHostsFile none", by which ssh means that nobody is known, asyncssh that anybody is.
            asked = asyncssh.SSHClientConnectionOptions(asked, known_hosts=b"")
        if asked.config.get("Ciphers") is None:
            asked = asyncssh.SSHClientConnectionOptions(asked, encryption_algs=_CIPHERS)
        return await asyncssh.connect(endpoint.host, endpoint.port, options=asked)

    def _drop(self, session: Session) -> None:
        session.connection.abort()
        if self._session is session:
            self._session = None

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None


def _pauses() -> Iterator[float]:
    """Seconds to wait before each further attempt; partly random, so that clients do not come all at once."""
    pause = 0.05
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, 5.0)
