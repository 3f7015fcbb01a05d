"""The road to a server: what goes through, and what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core.testing.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def proxy(nursery: trio.Nursery) -> AsyncIterator[TcpProxy]:
    """Before a server that sends back what it gets."""

    async def echo(stream: trio.SocketStream) -> None:
        async with stream:
            async for data in stream:
                await stream.send_all(data)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, echo, [listener])
    proxy = TcpProxy("127.0.0.1", listener.socket.getsockname()[1])
    await nursery.start(proxy.run)
    yield proxy
    nursery.cancel_scope.cancel()


async def ask(stream: trio.SocketStream, data: bytes) -> bytes:
    await stream.send_all(data)
    answer = b""
    while len(answer) < len(data) and (piece := await stream.receive_some()):
        answer += piece
    return answer


async def ask_for_ever(stream: trio.SocketStream) -> None:
    while await ask(stream, b"0123456789"):
        pass


async def test_bytes_go_through_both_ways(proxy: TcpProxy) -> None:
    async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
        assert await ask(stream, bytes(300_000)) == bytes(300_000)
        assert (proxy.n_open, proxy.n_connections, proxy.bytes_sent) == (1, 1, 300_000)


async def test_a_connection_is_reset_after_so_many_bytes_and_the_next_is_whole(proxy: TcpProxy) -> None:
    proxy.reset_after(5)
    async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
        with pytest.raises(trio.BrokenResourceError):
            await ask_for_ever(stream)
    assert proxy.bytes_sent == 5
    async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
        assert await ask(stream, b"0123456789") == b"0123456789"
        assert proxy.reset_connections() == 1
        with pytest.raises(trio.BrokenResourceError):
            await ask_for_ever(stream)


async def test_nothing_moves_while_it_is_blocked(proxy: TcpProxy) -> None:
    async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
        assert await ask(stream, b"1") == b"1"
        proxy.block()
        await stream.send_all(b"2")
        with trio.move_on_after(0.1) as waiting:
            await stream.receive_some()
        assert waiting.cancelled_caught
        proxy.clear()
        assert await stream.receive_some() == b"2"


async def test_it_can_be_stopped_and_started_again(proxy: TcpProxy, nursery: trio.Nursery) -> None:
    async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
        assert await ask(stream, b"1") == b"1"
        proxy.stop()
        assert await stream.receive_some() == b""
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        await trio.open_tcp_stream(proxy.host, proxy.port)
    await nursery.start(proxy.run)
    async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
        assert await ask(stream, b"1") == b"1"
