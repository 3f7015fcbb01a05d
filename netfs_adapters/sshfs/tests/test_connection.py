"""Connections that are refused, lost, stalled and made again."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from fscache_core.errors import OriginTimeoutError, OriginUnreachableError, StaleError
from fscache_core.testing.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from fscache_core.testing.sftp_server import OpenSSHServer
    from netfs_sshfs import SshfsNetfs
    from netfs_sshfs.file import File
    from netfs_sshfs.volume import Volume

    MakeFile = Callable[..., str]
    MakeNetfs = Callable[..., SshfsNetfs]
    Read = Callable[[SshfsNetfs, File, int, int], Awaitable[bytes]]

pytestmark = pytest.mark.integration

MIB = 1 << 20

#: Options for servers that come back: on a busy machine that takes a while.
PATIENT = {"deadline_seconds": 300, "reconnect_seconds": 300, "outage_seconds": 300}


class Road(TcpProxy):
    """A TCP proxy to a server, with the server's host key as its own."""

    def __init__(self, server: OpenSSHServer, known_hosts: Path) -> None:
        super().__init__(server.host, server.port)
        host_key = server.known_hosts.read_text().split(" ", 1)[1]
        known_hosts.write_text(f"[{self.host}]:{self.port} {host_key}")
        self.known_hosts = known_hosts


@pytest.fixture
async def road(server: OpenSSHServer, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Road]:
    road = Road(server, tmp_path / "known_hosts")
    await nursery.start(road.run)
    yield road
    nursery.cancel_scope.cancel()


async def look_up_in_the_end(netfs: SshfsNetfs, volume: Volume, path: str) -> File:
    """Look a file up, however short the deadlines are for a busy machine."""
    with trio.fail_after(120):
        while True:
            try:
                return await netfs.look_up(volume, path)
            except (OriginTimeoutError, OriginUnreachableError):
                await trio.lowlevel.checkpoint()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- no connection -----------------------------------------------------------------------


async def test_a_port_on_which_nobody_listens_is_unreachable_at_once(
    server: OpenSSHServer, make_netfs: MakeNetfs
) -> None:
    netfs = make_netfs(server, **PATIENT)
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://joe@127.0.0.1:{unused_port()}"))
    with trio.fail_after(30), pytest.raises(OriginUnreachableError, match="connect: Connection refused"):
        await netfs.look_up(volume, "/a")
    await netfs.close_volume(volume)


async def test_a_host_name_that_does_not_exist_is_unreachable(
    server: OpenSSHServer, make_netfs: MakeNetfs
) -> None:
    netfs = make_netfs(server)
    volume = await netfs.open_volume(netfs.parse_url("sshfs://joe@host.invalid/a"))
    with pytest.raises(OriginUnreachableError, match=r"sshfs://joe@host\.invalid:22/a: cannot connect: "):
        await netfs.look_up(volume, "/a")
    await netfs.close_volume(volume)


async def test_a_server_that_accepts_and_says_nothing_times_out(
    server: OpenSSHServer, make_netfs: MakeNetfs
) -> None:
    netfs = make_netfs(server, connect_timeout=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        volume = await netfs.open_volume(netfs.parse_url(f"sshfs://joe@127.0.0.1:{port}"))
        with pytest.raises(OriginTimeoutError, match="no answer in time"):
            await netfs.look_up(volume, "/a")
        await netfs.close_volume(volume)


async def test_a_banner_that_arrives_garbled_is_a_fault_of_the_origin(
    server: OpenSSHServer, make_netfs: MakeNetfs, nursery: trio.Nursery
) -> None:
    async def garble(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-Open\xd3SH\r\n")
        with suppress(trio.BrokenResourceError):
            async for _ in stream:
                pass

    (listener,) = await nursery.start(partial(trio.serve_tcp, garble, 0, host="127.0.0.1"))
    netfs, port = make_netfs(server), listener.socket.getsockname()[1]
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://joe@127.0.0.1:{port}"))
    with pytest.raises(OriginUnreachableError, match=f":{port}/a: cannot connect: the answer makes no sense"):
        await netfs.look_up(volume, "/a")
    await netfs.close_volume(volume)
    nursery.cancel_scope.cancel()


async def test_a_first_connection_that_a_busy_server_breaks_off_is_tried_again(
    server: OpenSSHServer, road: Road, make_netfs: MakeNetfs
) -> None:
    road.reset_after(0, 0)
    netfs = make_netfs(server, known_hosts=road.known_hosts, **PATIENT)
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://{server.user}@127.0.0.1:{road.port}"))
    await netfs.look_up(volume, str(server.root))
    assert road.n_connections == 3
    await netfs.close_volume(volume)


# From the banner to the last message of the login; a whole one is about 2700 bytes of OpenSSH 9.2.
@pytest.mark.parametrize("n_bytes", [1, 20, 41, 300, 1000, 1200, 1500, 1700, 1900, 2100, 2300])
async def test_a_connection_reset_in_the_key_exchange_or_the_login_is_made_again(
    server: OpenSSHServer, road: Road, make_netfs: MakeNetfs, n_bytes: int
) -> None:
    road.reset_after(n_bytes, n_bytes)
    netfs = make_netfs(server, known_hosts=road.known_hosts, **PATIENT)
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://{server.user}@127.0.0.1:{road.port}"))
    await netfs.look_up(volume, str(server.root))
    assert road.n_connections == 3
    await netfs.close_volume(volume)


async def test_a_server_that_always_breaks_off_the_key_exchange_is_unreachable(
    server: OpenSSHServer, road: Road, make_netfs: MakeNetfs
) -> None:
    road.reset_after(*[300] * 1000)
    netfs = make_netfs(server, known_hosts=road.known_hosts, reconnect_seconds=0.5)
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://{server.user}@127.0.0.1:{road.port}"))
    with trio.fail_after(60), pytest.raises(OriginUnreachableError, match="/a: cannot connect: ") as caught:
        await netfs.look_up(volume, "/a")
    assert "\n" not in str(caught.value)
    await netfs.close_volume(volume)


async def test_who_come_at_the_same_time_share_one_connection(
    server: OpenSSHServer, road: Road, make_netfs: MakeNetfs
) -> None:
    netfs = make_netfs(server, known_hosts=road.known_hosts)
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://{server.user}@127.0.0.1:{road.port}"))
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(netfs.look_up, volume, str(server.root))
    assert road.n_connections == 1
    await netfs.close_volume(volume)


# -- a lost connection -------------------------------------------------------------------


async def test_a_read_goes_on_when_its_connection_is_killed(
    own_server: OpenSSHServer, make_file: MakeFile, make_netfs: MakeNetfs
) -> None:
    data = random.Random(1).randbytes(48 * MIB)
    netfs = make_netfs(own_server, **PATIENT)
    volume = await netfs.open_volume(netfs.parse_url(own_server.url))
    file = await netfs.look_up(volume, make_file(own_server.root / "a", data))
    buffer = bytearray(len(data))
    n_killed = 0
    next_kill = 4 * MIB

    def arrived(n: int) -> None:
        nonlocal n_killed, next_kill
        assert buffer[:n] == data[:n]
        # The news may come late: one that was killed need not have been made again by now.
        if n > next_kill and own_server.kill_connections() > 0:
            n_killed += 1
            next_kill = n + 12 * MIB

    await netfs.fetch(file, 0, memoryview(buffer), arrived)
    assert n_killed > 0
    assert buffer == data
    await netfs.close_volume(volume)


async def test_a_read_goes_on_when_its_connection_is_reset_again_and_again(
    server: OpenSSHServer, directory: Path, road: Road, make_file: MakeFile, make_netfs: MakeNetfs
) -> None:
    data = random.Random(8).randbytes(16 * MIB)
    netfs = make_netfs(server, known_hosts=road.known_hosts, **PATIENT)
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://{server.user}@127.0.0.1:{road.port}"))
    file = await netfs.look_up(volume, make_file(directory / "a", data))
    buffer = bytearray(len(data))

    def arrived(n: int) -> None:
        assert buffer[n - 1] == data[n - 1]

    road.reset_after(3 * MIB, 4 * MIB + 1, 5 * MIB + 77)
    road.reset_connections()
    await netfs.fetch(file, 0, memoryview(buffer), arrived)
    assert buffer == data
    assert road.n_connections == 5
    assert road.bytes_sent < 1.5 * len(data), "what had come was read again"
    await netfs.close_volume(volume)


async def test_a_read_goes_on_when_the_server_is_stopped_and_started_again(
    own_server: OpenSSHServer, make_file: MakeFile, make_netfs: MakeNetfs, read: Read
) -> None:
    data = random.Random(2).randbytes(16 * MIB)
    netfs = make_netfs(own_server, **PATIENT)
    volume = await netfs.open_volume(netfs.parse_url(own_server.url))
    file = await netfs.look_up(volume, make_file(own_server.root / "a", data))
    buffer = bytearray(len(data))
    stopped = trio.Event()

    def arrived(n: int) -> None:
        if not stopped.is_set():
            own_server.stop()
            stopped.set()

    async def start_again() -> None:
        await stopped.wait()
        await trio.sleep(0.3)  # a few attempts are refused
        own_server.start()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start_again)
        await netfs.fetch(file, 0, memoryview(buffer), arrived)
        assert buffer == data
        assert await read(netfs, file, 5, 5) == data[5:10]
    await netfs.close_volume(volume)


async def test_a_read_begun_while_a_known_server_is_away_waits_for_it(
    own_server: OpenSSHServer, make_file: MakeFile, make_netfs: MakeNetfs, read: Read
) -> None:
    netfs = make_netfs(own_server, **PATIENT)
    volume = await netfs.open_volume(netfs.parse_url(own_server.url))
    file = await netfs.look_up(volume, make_file(own_server.root / "a", b"12345"))
    own_server.stop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, own_server.start)
        assert await read(netfs, file, 0, 5) == b"12345"
    await netfs.close_volume(volume)


@pytest.mark.parametrize("option", ["deadline_seconds", "outage_seconds"])
async def test_a_server_that_stays_away_is_unreachable_in_time(
    server: OpenSSHServer,
    directory: Path,
    road: Road,
    make_file: MakeFile,
    make_netfs: MakeNetfs,
    option: str,
) -> None:
    data = random.Random(3).randbytes(32 * MIB)
    longer = {"deadline_seconds": 900, "outage_seconds": 900}
    netfs = make_netfs(server, known_hosts=road.known_hosts, **{**longer, option: 2})
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://{server.user}@127.0.0.1:{road.port}"))
    path = make_file(directory / "a", data)
    file = await look_up_in_the_end(netfs, volume, path)
    buffer = bytearray(len(data))
    good = 0

    def arrived(n: int) -> None:
        nonlocal good
        good = n
        road.stop()  # which this thread carries: what has not gone by does not come any more

    unreachable = f"{path}, bytes 0 to {len(data) - 1}: cannot connect"
    with trio.fail_after(120), pytest.raises(OriginUnreachableError, match=unreachable):
        await netfs.fetch(file, 0, memoryview(buffer), arrived)
    assert 0 < good < len(data)
    assert buffer[:good] == data[:good]
    await netfs.close_volume(volume)


async def test_look_up_of_a_server_gone_away_fails_soon_and_works_when_it_is_back(
    own_server: OpenSSHServer, make_file: MakeFile, make_netfs: MakeNetfs
) -> None:
    netfs = make_netfs(own_server, **{**PATIENT, "reconnect_seconds": 0.1})
    volume = await netfs.open_volume(netfs.parse_url(own_server.url))
    path = make_file(own_server.root / "a", b"12345")
    await netfs.look_up(volume, path)
    own_server.stop()
    for _ in range(3):
        with trio.fail_after(60), pytest.raises(OriginUnreachableError, match="Connection refused"):
            await netfs.look_up(volume, path)
    own_server.start()
    assert netfs.get_attr(await netfs.look_up(volume, path)).size == 5
    await netfs.close_volume(volume)


async def test_look_up_waits_for_a_server_that_is_being_restarted(
    own_server: OpenSSHServer, make_file: MakeFile, make_netfs: MakeNetfs
) -> None:
    netfs = make_netfs(own_server, **PATIENT)
    volume = await netfs.open_volume(netfs.parse_url(own_server.url))
    path = make_file(own_server.root / "a", b"12345")
    await netfs.look_up(volume, path)
    own_server.stop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, own_server.start)
        assert netfs.get_attr(await netfs.look_up(volume, path)).size == 5
    await netfs.close_volume(volume)


async def test_look_up_is_repeated_when_its_connection_turns_out_to_be_dead(
    own_server: OpenSSHServer, make_file: MakeFile, make_netfs: MakeNetfs
) -> None:
    netfs = make_netfs(own_server, **PATIENT)
    volume = await netfs.open_volume(netfs.parse_url(own_server.url))
    path = make_file(own_server.root / "a", b"12345")
    for _ in range(5):
        await netfs.look_up(volume, path)
        own_server.kill_connections()
    assert netfs.get_attr(await netfs.look_up(volume, path)).size == 5
    await netfs.close_volume(volume)


async def test_a_file_changed_while_the_connection_was_down_is_not_mixed(
    own_server: OpenSSHServer, make_file: MakeFile, make_netfs: MakeNetfs, read: Read
) -> None:
    netfs = make_netfs(own_server, **PATIENT)
    volume = await netfs.open_volume(netfs.parse_url(own_server.url))
    file = await netfs.look_up(volume, make_file(own_server.root / "a", b"12345"))
    assert await read(netfs, file, 0, 2) == b"12"
    own_server.kill_connections()
    make_file(own_server.root / "a", b"abcde", 1_000_000_001)
    with pytest.raises(StaleError):
        await read(netfs, file, 2, 3)
    await netfs.close_volume(volume)


async def test_a_file_cut_short_while_it_is_read_is_stale_and_what_had_arrived_stays_good(
    server: OpenSSHServer, directory: Path, road: Road, make_file: MakeFile, make_netfs: MakeNetfs
) -> None:
    data = random.Random(3).randbytes(32 * MIB)
    netfs = make_netfs(server, known_hosts=road.known_hosts)
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://{server.user}@127.0.0.1:{road.port}"))
    path = make_file(directory / "a", data)
    file = await netfs.look_up(volume, path)
    buffer = bytearray(len(data))
    good = 0

    def arrived(n: int) -> None:
        nonlocal good
        if good == 0:
            os.truncate(path, 5 * MIB)  # the rest cannot have come: this thread carries it
        good = n

    with pytest.raises(StaleError, match=path):
        await netfs.fetch(file, 0, memoryview(buffer), arrived)
    assert 0 < good < len(data)
    assert buffer[:good] == data[:good]
    await netfs.close_volume(volume)


# -- a stalled connection ----------------------------------------------------------------


async def test_a_server_that_stops_answering_times_out_after_the_deadline(
    server: OpenSSHServer, directory: Path, road: Road, make_file: MakeFile, make_netfs: MakeNetfs
) -> None:
    netfs = make_netfs(server, known_hosts=road.known_hosts, deadline_seconds=2)
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://{server.user}@127.0.0.1:{road.port}"))
    path = make_file(directory / "a", bytes(16 * MIB))
    file = await look_up_in_the_end(netfs, volume, path)
    road.block()
    with pytest.raises(OriginTimeoutError, match=f"{path}: no answer for 2 s"):
        await netfs.look_up(volume, path)
    with pytest.raises(OriginTimeoutError, match=f"{path}, bytes 0 to 4095: no answer for 2 s"):
        await netfs.fetch(file, 0, memoryview(bytearray(4096)), lambda n: None)
    road.clear()
    assert netfs.get_attr(await look_up_in_the_end(netfs, volume, path)).size == 16 * MIB
    await netfs.close_volume(volume)


async def test_a_dead_connection_is_noticed_by_keepalives_and_made_again(
    server: OpenSSHServer, directory: Path, road: Road, make_file: MakeFile, make_netfs: MakeNetfs
) -> None:
    options = {**PATIENT, "keepalive_seconds": 0.5, "connect_timeout": 4}
    netfs = make_netfs(server, known_hosts=road.known_hosts, **options)
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://{server.user}@127.0.0.1:{road.port}"))
    file = await netfs.look_up(volume, make_file(directory / "a", b"12345"))
    buffer = bytearray(5)
    road.block()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(netfs.fetch, file, 0, memoryview(buffer), lambda n: None)
        with trio.fail_after(120):
            while road.n_connections < 2:  # noqa: ASYNC110 (another thread is waited for)
                await trio.sleep(0.01)
        road.clear()
    assert buffer == b"12345"
    await netfs.close_volume(volume)


async def test_a_slow_read_that_goes_on_arriving_outlives_the_deadline(
    server: OpenSSHServer, directory: Path, road: Road, make_file: MakeFile, make_netfs: MakeNetfs
) -> None:
    path = make_file(directory / "a", data := random.Random(4).randbytes(5 * MIB))
    for deadline_seconds in (2, 10, 60):
        netfs = make_netfs(
            server, known_hosts=road.known_hosts, deadline_seconds=deadline_seconds, keepalive_seconds=0
        )
        late = await read_slowly(netfs, server, road, path, data, deadline_seconds)
        if not late:
            break  # else the machine is so busy that a piece takes as long to arrive
    assert not late


async def read_slowly(
    netfs: SshfsNetfs, server: OpenSSHServer, road: Road, path: str, data: bytes, seconds: float
) -> list[OriginTimeoutError]:
    """Read a file of five MiB over a road that takes longer than that; what came of it if not the bytes."""
    late: list[OriginTimeoutError] = []
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://{server.user}@127.0.0.1:{road.port}"))
    file = await look_up_in_the_end(netfs, volume, path)
    buffer = bytearray(len(data))

    async def hold_up() -> None:
        while True:
            road.block()
            await trio.sleep(seconds / 40)
            n_sent = road.bytes_sent
            road.clear()
            while road.bytes_sent == n_sent:  # two pieces of 64 KiB get through, however fast the machine is
                await trio.lowlevel.checkpoint()

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold_up)
        try:
            await netfs.fetch(file, 0, memoryview(buffer), lambda n: None)
        except OriginTimeoutError as error:
            late.append(error)
        nursery.cancel_scope.cancel()
    road.clear()
    await netfs.close_volume(volume)
    assert late or buffer == data
    assert trio.current_time() - began > seconds, "the road was not slow enough to show anything"
    return late


async def test_closing_a_volume_whose_server_does_not_answer_ends_in_time(
    server: OpenSSHServer, road: Road, make_netfs: MakeNetfs
) -> None:
    netfs = make_netfs(server, known_hosts=road.known_hosts, keepalive_seconds=0)
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://{server.user}@127.0.0.1:{road.port}"))
    await netfs.look_up(volume, str(server.root))
    road.block()
    with trio.fail_after(60):  # nothing else would end it
        await netfs.close_volume(volume)
