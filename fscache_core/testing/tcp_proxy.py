"""A road to a real server, over TCP, on which traffic can be held up and connections be broken.

::

    proxy = TcpProxy(server.host, server.port)
    await nursery.start(proxy.run)  # until `stop`, or cancelled
    ...  # connect to proxy.host, proxy.port
    proxy.block()  # silence in both directions; `clear` lets it on
    proxy.reset_after(1000, 0)  # the next connection after 1000 bytes of the server, the one after at once
    proxy.reset_connections()

For any protocol.  Runs in the trio task that tests run in; all attributes belong to it.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import trio

from fscache_core.testing.workspace import LOOPBACK, free_port

_PIECE_SIZE = 65536


@dataclass(slots=True, eq=False)
class _Connection:
    client: trio.SocketStream
    scope: trio.CancelScope
    left: float  #: bytes of the server until it is reset


class TcpProxy:
    """The proxy.  Its port is known before it runs.

    Args:
      server_host, server_port: where the server is.  It may come and go: a client whose server does not
        answer is reset.
    """

    def __init__(self, server_host: str, server_port: int) -> None:
        self._server = (server_host, server_port)
        self._open = trio.Event()
        self._open.set()
        self._resets: deque[int] = deque()
        self._connections: list[_Connection] = []
        self._running = trio.CancelScope()
        self.host = LOOPBACK
        self.port = free_port()
        self.n_connections = 0  #: accepted so far
        self.bytes_sent = 0  #: of the server to clients, over all connections

    @property
    def n_open(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    def block(self) -> None:
        """Let nothing through until `clear`."""
        self._open = trio.Event()

    def clear(self) -> None:
        self._open.set()

    def reset_after(self, *sizes: int) -> None:
        """Reset each of the next connections after that many bytes of the server have gone through."""
        self._resets.extend(sizes)

    def clear_resets(self) -> None:
        """Forget what `reset_after` has planned."""
        self._resets.clear()

    def reset_connections(self) -> int:
        """Reset every connection that is open; returns how many there were."""
        connections = list(self._connections)
        for connection in connections:
            _reset(connection.client)
            connection.scope.cancel()
        return len(connections)

    def stop(self) -> None:
        """Refuse new connections and close the open ones: `run` returns, and may be started again."""
        self._running.cancel()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept connections."""
        (listener,) = await trio.open_tcp_listeners(self.port, host=self.host)
        with trio.CancelScope() as self._running:
            task_status.started()
            await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, client: trio.SocketStream) -> None:
        self.n_connections += 1
        with trio.CancelScope() as scope:
            connection = _Connection(client, scope, self._resets.popleft() if self._resets else float("inf"))
            self._connections.append(connection)
            try:
                async with client:
                    await self._carry_both(connection)
            finally:
                self._connections.remove(connection)

    async def _carry_both(self, connection: _Connection) -> None:
        try:
            server = await trio.open_tcp_stream(*self._server)
        except OSError:
            _reset(connection.client)
            return
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(self._carry_up, connection, server)
            nursery.start_soon(self._carry_down, connection, server)

    async def _carry_up(self, connection: _Connection, server: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in connection.client:
                await self._open.wait()
                await server.send_all(data)
        connection.scope.cancel()

    async def _carry_down(self, connection: _Connection, server: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while connection.left > 0 and (data := await server.receive_some(_PIECE_SIZE)):
                await self._open.wait()
                data = data[: int(min(len(data), connection.left))]
                self.bytes_sent += len(data)  # before, so that it is never less than what has arrived
                await connection.client.send_all(data)
                connection.left -= len(data)
        if connection.left <= 0:
            _reset(connection.client)
        connection.scope.cancel()


def _reset(stream: trio.SocketStream) -> None:
    """End a connection with an RST."""
    with suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()
