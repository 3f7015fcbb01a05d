"""Calls of every adapter cancelled at every checkpoint, at real servers: nothing leaks, the next is right.

Of trio's checkpoints, that is; sshfs has tests of its own that go through the steps of its asyncio loop.
"""

from __future__ import annotations

import functools
import http.server
import os
import random
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core.plugins import NetfsFacade
from fscache_core.testing.interruption import cancelled_after

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.integration.conftest import Origins

pytestmark = pytest.mark.integration

DATA = random.Random(41).randbytes(2_000_000)
BUCKET = "fscache-cancellation"
PARALLEL = 4


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass


@asynccontextmanager
async def serving(
    name: str, origins: Origins, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[NetfsFacade, str]]:
    """A netfs, and the URL of a directory that holds one file."""
    for variable, value in origins.environment.items():
        monkeypatch.setenv(variable, value)
    (directory / "a.bin").write_bytes(DATA)
    os.utime(directory / "a.bin", (1_000_000_000, 1_000_000_000))
    if name == "sshfs":
        from netfs_sshfs import SshfsNetfs

        sftp = origins.sftp
        yield (
            NetfsFacade(SshfsNetfs(**origins.netfs_options["sshfs"], config="")),  # type: ignore[arg-type]
            f"sshfs://{sftp.user}@{sftp.host}:{sftp.port}{directory}",
        )
    elif name == "s3":
        from netfs_s3 import S3Netfs

        origins.s3.create_bucket(BUCKET)
        origins.s3.put(BUCKET, "d/a.bin", DATA)
        netfs = S3Netfs(**origins.netfs_options["s3"], parallel=PARALLEL)  # type: ignore[arg-type]
        yield NetfsFacade(netfs), f"s3://{BUCKET}/d"
    elif name == "http":
        from netfs_http import HttpNetfs

        handler = functools.partial(_Quiet, directory=str(directory))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield NetfsFacade(HttpNetfs(connections=PARALLEL)), f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()
    else:
        from netfs_localdir import LocaldirNetfs

        yield NetfsFacade(LocaldirNetfs()), f"file://{directory}"


async def read(netfs: NetfsFacade, file: object, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    await netfs.fetch(file, offset, memoryview(buffer), lambda n: None)
    return bytes(buffer)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (name, what)
        for name in ("sshfs", "s3", "http", "localdir")
        for what in ("look_up", "list_directory", "fetch", "open and fetch")
        if (name, what) != ("http", "list_directory")  # it has none
    ],
)
async def test_cancelled_at_any_checkpoint(
    origins: Origins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    async with serving(name, origins, tmp_path, monkeypatch) as (netfs, url):
        location = netfs.parse_url(f"{url}/a.bin")
        parent = netfs.parse_url(f"{url}/").path
        volume = await netfs.open_volume(location)
        file = await netfs.look_up(volume, location.path)
        assert await read(netfs, file, 0, len(DATA)) == DATA
        n_descriptors = len(os.listdir("/proc/self/fd"))
        buffers: list[tuple[bytearray, bytes]] = []

        async def open_and_fetch(buffer: bytearray, arrived: Callable[[int], None]) -> None:
            own = await netfs.open_volume(location)
            try:
                own_file = await netfs.look_up(own, location.path)
                await netfs.fetch(own_file, 0, memoryview(buffer), arrived)
            finally:
                with trio.CancelScope(shield=True):
                    await netfs.close_volume(own)

        for n_steps in range(100_000):
            buffer, arrived = bytearray(len(DATA)), [0]
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "look_up": functools.partial(netfs.look_up, volume, location.path),
                "fetch": functools.partial(netfs.fetch, file, 0, memoryview(buffer), arrived.append),
                "list_directory": functools.partial(netfs.list_directory, volume, parent),
                "open and fetch": functools.partial(open_and_fetch, buffer, arrived.append),
            }
            cancelled, _ = await cancelled_after(n_steps, calls[what])
            assert buffer[: arrived[-1]] == DATA[: arrived[-1]]
            if "fetch" in what and not cancelled:
                assert buffer == DATA
            buffers.append((buffer, bytes(buffer)))
            assert await read(netfs, file, 1_000_000, 1000) == DATA[1_000_000:1_001_000]
            if not cancelled:
                break
        assert n_steps >= 1
        # Connections may be kept, so many as are allowed, and no more; other threads still close some.
        with trio.fail_after(240):
            while len(os.listdir("/proc/self/fd")) > n_descriptors + 2 * PARALLEL:
                await trio.testing.wait_all_tasks_blocked(0.01)
        await netfs.close_volume(volume)
        assert all(buffer == after for buffer, after in buffers), "written to after it was given back"
