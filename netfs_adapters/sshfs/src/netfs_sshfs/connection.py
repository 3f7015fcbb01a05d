"""The connection to one server: made when first needed, shared, made again when it is lost.

Everything here runs in the asyncio loop.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import asyncssh

from fscache_core.errors import FscacheError, OriginTimeoutError, OriginUnreachableError
from netfs_sshfs.faults import (
    FAULTS,
    LOST,
    about,
    was_answered,
    why_failed,
    why_not_asked,
    why_not_connected,
)
from netfs_sshfs.flight import LARGEST_SIZE
from netfs_sshfs.handles import Handles
from netfs_sshfs.url import DEFAULT_PORT
from netfs_sshfs.wire import Road
from netfs_sshfs.writing import Writer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from asyncssh.known_hosts import KnownHostsArg

    from netfs_sshfs.options import Options
    from netfs_sshfs.url import Endpoint

T = TypeVar("T")

#: Measured on loopback: AES-GCM moves twice what ChaCha20, which asyncssh would choose, does.
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
#: Bytes that the server may send before it must be told to go on: not less than is asked for at once.
#: Measured at 50 ms there and back: five times the speed that asyncssh's 2 MiB allow.
_WINDOW_SIZE = LARGEST_SIZE
_KEEPALIVE_SECONDS = 10.0
_CLOSE_SECONDS = 2.0


class Session:
    """One connection while it lives."""

    def __init__(
        self, connection: asyncssh.SSHClientConnection, sftp: asyncssh.SFTPClient, options: Options
    ) -> None:
        self.connection = connection
        self.sftp = sftp
        server = str(connection.get_extra_info("server_version", ""))
        self.handles = Handles(sftp, options, in_order=server.startswith("SSH-2.0-OpenSSH"))
        self.writer = Writer(sftp, self.handles, options)

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
    """Refuses every host key that is not trusted already, and knows what to say then."""

    known_hosts: KnownHostsArg = b""
    refusal: str | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        port_to_match = None if port == DEFAULT_PORT else port
        known, *_ = asyncssh.match_known_hosts(self.known_hosts, host, addr, port_to_match)
        presented = f"{key.get_algorithm()} {key.get_fingerprint()}"
        if known:
            self.refusal = (
                f"host key has changed: {presented} is not the one in known_hosts; "
                "somebody may be listening in, or the server was set up anew"
            )
        else:
            self.refusal = (
                f"host key not known: {presented}; if it is the right one, add it: "
                f"ssh-keyscan -p {port} {shlex.quote(host)} >> ~/.ssh/known_hosts"
            )
        return False


class Connection:
    """The way to one server.  Sessions come and go below it."""

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        self.endpoint = endpoint
        self.options = options
        self._session: Session | None = None
        self._connecting: asyncio.Task[Session] | None = None
        self._lost_at = -math.inf  # when a session was last found lost

    async def use(
        self,
        what: str,
        work: Callable[[Session, Callable[[], None]], Awaitable[T]],
        *,
        repeat: bool,
        persist: bool = False,
    ) -> T:
        """Do ``work(session, progressed)``; call ``progressed()`` there whenever something arrived.

        A server that was never reached gets one attempt.  One that was is waited for, with growing pauses,
        after the connection was lost or broken off, because servers are restarted or busy: for
        ``reconnect_seconds``, or if ``persist``, for ``outage_seconds``.

        Args:
          what: beginning of the line of an error: origin, file, range.
          repeat: whether the work may be done again if the connection is lost amidst it.

        Raises:
          FscacheError: an origin error for whatever happened.
        """
        deadline_seconds = self.options.deadline_seconds
        away_seconds = self.options.outage_seconds if persist else self.options.reconnect_seconds
        loop = asyncio.get_running_loop()
        began = loop.time()
        pauses, moved = _pauses(), began  # when the deadline was last moved
        unreachable: FscacheError | None = None
        try:
            async with asyncio.timeout(deadline_seconds) as limit:

                def progressed() -> None:
                    nonlocal unreachable, pauses, moved
                    now = loop.time()
                    # To move the deadline costs as much as to read a block: not for each.
                    if unreachable is not None or now - moved >= deadline_seconds / 64:
                        unreachable, pauses, moved = None, _pauses(), now
                        limit.reschedule(now + deadline_seconds)

                while True:
                    try:
                        session = await self._get_session()
                    except OriginUnreachableError as error:
                        since = max(self._lost_at, began if was_answered(error.__cause__) else -math.inf)
                        if loop.time() >= since + away_seconds:
                            raise
                        unreachable = error
                    else:
                        try:
                            return await work(session, progressed)
                        except FscacheError:
                            raise
                        except LOST as error:
                            self._drop(session)
                            if not repeat:
                                cause = f"{why_failed(error)}; whether it was done is not known"
                                raise OriginUnreachableError(cause) from error
                            unreachable = why_failed(error)
                    await asyncio.sleep(next(pauses))
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
            self._connecting.add_done_callback(self._connected)
        return await asyncio.shield(self._connecting)

    def _connected(self, connecting: asyncio.Task[Session]) -> None:
        self._connecting = None
        if not connecting.cancelled():
            connecting.exception()  # retrieved, should everybody who waited have been cancelled

    async def _connect(self) -> Session:
        client = _HostKey()
        try:
            asked = self._login(client)
        except (*FAULTS, ValueError) as error:
            raise why_not_asked(error) from error
        try:
            async with asyncio.timeout(self.options.connect_timeout):
                # Host and port are named here, not only in the options: `connect` would overrule them.
                connection = await asyncssh.connect(
                    self.endpoint.host,
                    self.endpoint.port,
                    options=asked,
                    tunnel=Road(asked) if _is_direct(asked) else asked.tunnel,
                )
                try:
                    sftp = await connection.start_sftp_client(path_encoding=None)
                except BaseException as error:
                    lost = connection.is_closed()
                    connection.abort()
                    if lost and isinstance(error, FAULTS):
                        raise asyncssh.ConnectionLost("broken off") from error
                    raise
        except (*FAULTS, ValueError) as error:
            raise why_not_connected(error, client.refusal) from error
        self._session = Session(connection, sftp, self.options)
        return self._session

    def _login(self, client: _HostKey) -> asyncssh.SSHClientConnectionOptions:
        """What to log in with.  Reads all files that the options name: what is wrong in one is found here."""
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
            login_timeout=options.connect_timeout,
            window=_WINDOW_SIZE,
            tunnel=() if options.proxy_jump is None else options.proxy_jump,
        )
        more: dict[str, object] = {}
        if asked.known_hosts is None:
            # "UserKnownHostsFile none", by which ssh means that nobody is known, asyncssh that anybody is.
            more["known_hosts"] = b""
        if asked.config.get("Ciphers") is None:
            more["encryption_algs"] = _CIPHERS
        if options.keepalive_seconds is not None:
            more["keepalive_interval"] = options.keepalive_seconds
        elif asked.config.get("ServerAliveInterval") is None:
            more["keepalive_interval"] = _KEEPALIVE_SECONDS
        asked = asyncssh.SSHClientConnectionOptions(asked, **more)
        client.known_hosts = asked.known_hosts or _default_known_hosts()
        asyncssh.match_known_hosts(client.known_hosts, endpoint.host, "", None)
        return asked

    def _drop(self, session: Session) -> None:
        session.connection.abort()
        if self._session is session:
            self._session = None
            self._lost_at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None


def _is_direct(options: asyncssh.SSHClientConnectionOptions) -> bool:
    """Whether a connection is made to the host itself, whatever more asyncssh finds in ssh_config."""
    return not (
        options.tunnel
        or options.proxy_command
        or options.canonicalize_hostname
        or options.config.has_match_final()
    )


def _default_known_hosts() -> str | bytes:
    path = Path("~/.ssh/known_hosts").expanduser()
    return str(path) if os.access(path, os.R_OK) else b""


def _pauses() -> Iterator[float]:
    """Seconds to wait before each further attempt; partly random, so that clients do not come all at once."""
    pause = 0.05
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, 5.0)
