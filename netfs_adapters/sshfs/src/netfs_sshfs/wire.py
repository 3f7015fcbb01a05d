"""The TCP connection below asyncssh, with fewer system calls and fewer copies than asyncio's own.

asyncssh takes every packet off the front of all that has come and is not dealt with yet, by copying the rest:
of what asyncio reads at once (256 KiB, into fresh memory) it copies each byte some six times for that
alone.  So it is given what comes in small pieces.  And it sends two packets for each request, by themselves,
and the server wakes up for each: what is written in one turn of the loop goes out together.

Everything here runs in the asyncio loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncssh

#: Bytes read from the socket at once, at most.
_READ_SIZE = 512 << 10

#: Bytes given to asyncssh at once: about a packet of most servers.  Measured: of 16 to 64 KiB the best.
_PIECE_SIZE = 32 << 10


class Wire(asyncio.BufferedProtocol, asyncio.Transport):
    """A protocol to asyncio, and to the protocol that it serves, its transport."""

    def __init__(self, served: asyncssh.SSHClientConnection, keepalive_interval: float) -> None:
        super().__init__()
        self.served = served
        self._keepalive_interval = keepalive_interval  # seconds; 0 for none
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._arriving = memoryview(bytearray(_READ_SIZE))
        self._leaving: list[bytes] = []

    # -- the protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.served.connection_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leaving.clear()
        self.served.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._arriving

    def buffer_updated(self, nbytes: int) -> None:
        # All that comes sets the timer of keepalives anew: once for all pieces is enough.
        at_once = self._keepalive_interval > 0 and nbytes > _PIECE_SIZE
        if at_once:
            self.served.set_keepalive(0)
        for start in range(0, nbytes, _PIECE_SIZE):
            self.served.data_received(bytes(self._arriving[start : min(start + _PIECE_SIZE, nbytes)]))
        if at_once:
            self.served.set_keepalive(self._keepalive_interval)

    def eof_received(self) -> None:
        self.served.eof_received()

    def pause_writing(self) -> None:
        self.served.pause_writing()

    def resume_writing(self) -> None:
        self.served.resume_writing()

    # -- the transport -------------------------------------------------------------------

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._leaving:
            self._loop.call_soon(self._flush)
        self._leaving.append(bytes(data))

    def _flush(self) -> None:
        if self._leaving and not self._transport.is_closing():
            self._transport.write(b"".join(self._leaving))
        self._leaving.clear()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._flush()  # which may say why
        self._transport.abort()


class Road:
    """What asyncssh calls a tunnel: whatever makes a connection for it."""

    def __init__(self, options: asyncssh.SSHClientConnectionOptions) -> None:
        self._options = options

    async def create_connection(
        self, session_factory: Callable[[], asyncssh.SSHClientConnection], remote_host: str, remote_port: int
    ) -> tuple[Wire, asyncssh.SSHClientConnection]:
        """Connect, as asyncssh would."""
        options = self._options
        _, wire = await asyncio.get_running_loop().create_connection(
            lambda: Wire(session_factory(), options.keepalive_interval),
            remote_host,
            remote_port,
            family=options.family,
            local_addr=options.local_addr,
        )
        return wire, wire.served
