"""The TCP connection below asyncssh: what comes and goes through it, whole and in order."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import TYPE_CHECKING, cast

from netfs_sshfs.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncssh

MIB = 1 << 20


class Served(asyncio.Protocol):
    """What asyncssh is to a wire."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.keepalives: list[float] = []  # intervals set, seconds
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    def set_keepalive(self, interval: float) -> None:
        self.keepalives.append(interval)


def wired(test: Callable[[Served, socket.socket], Awaitable[None]], keepalive_interval: float = 0) -> None:
    """Run a test with a wire and the socket at its other end."""

    async def run() -> None:
        here, there = socket.socketpair()
        there.setblocking(False)
        with here, there:
            served = Served()
            await asyncio.get_running_loop().create_connection(
                lambda: Wire(cast("asyncssh.SSHClientConnection", served), keepalive_interval), sock=here
            )
            await test(served, there)
            if not served.lost.done():
                served.transport.abort()
            await served.lost

    asyncio.run(asyncio.wait_for(run(), 60))


async def receive(there: socket.socket) -> bytes:
    """Everything until the end."""
    data = b""
    while piece := await asyncio.get_running_loop().sock_recv(there, MIB):
        data += piece
    return data


def test_what_arrives_is_handed_on_in_order_and_in_small_pieces() -> None:
    data = random.Random(1).randbytes(3 * MIB + 77)

    async def test(served: Served, there: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(there, data)
        there.shutdown(socket.SHUT_WR)
        await served.lost
        assert b"".join(served.received) == data
        assert max(map(len, served.received)) <= 64 << 10

    wired(test)


def test_what_is_written_leaves_whole_and_in_order() -> None:
    data = random.Random(2).randbytes(3 * MIB)

    async def test(served: Served, there: socket.socket) -> None:
        receiving = asyncio.create_task(receive(there))
        for start in range(0, len(data), 50_000):
            buffer = bytearray(data[start : start + 50_000])
            served.transport.write(buffer)
            buffer[:] = bytes(len(buffer))  # which is its owner's again
            if start % 3 == 0:
                await asyncio.sleep(0)
        served.transport.close()
        assert await receiving == data

    wired(test)


def test_what_is_written_before_an_abort_leaves_too() -> None:
    async def test(served: Served, there: socket.socket) -> None:
        served.transport.write(b"why")
        served.transport.abort()
        assert await receive(there) == b"why"
        served.transport.write(b"too late")
        await served.lost

    wired(test)


def test_keepalives_are_back_to_what_they_were_after_much_has_come() -> None:
    async def test(served: Served, there: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(there, bytes(3 * MIB))
        there.shutdown(socket.SHUT_WR)
        await served.lost
        assert served.keepalives[-1] == 10
        assert len(served.keepalives) < len(served.received)

    wired(test, keepalive_interval=10)
