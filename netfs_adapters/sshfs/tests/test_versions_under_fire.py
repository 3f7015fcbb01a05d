"""No wrong byte while the file is rewritten and connections are killed."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
import trio

from fscache_core.errors import OriginError, StaleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fscache_core.testing.sftp_server import OpenSSHServer
    from netfs_sshfs import SshfsNetfs

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIZE = 3 << 20
FIRST = 1_000_000_000  #: modification time of version 0, seconds; the next ones follow by a second each


def content(version: int) -> bytes:
    """The whole file in a version: no eight bytes of two versions are alike."""
    return version.to_bytes(8, "big") * (SIZE // 8)


def rewrite(path: Path, version: int, in_place: bool) -> None:
    """Write a version: over the old one piece by piece, or beside it and then in its place."""
    target = path if in_place else path.with_name("new")
    with target.open("r+b" if in_place else "wb", buffering=0) as file:
        data = content(version)
        for start in range(0, SIZE, 100_000):
            file.write(data[start : start + 100_000])
    # Whoever looks in between sees the time of writing, which is no version's.
    os.utime(target, (FIRST, FIRST + version))
    if not in_place:
        target.rename(path)


async def test_what_arrives_is_of_the_version_that_was_asked_for(
    own_server: OpenSSHServer, make_netfs: Callable[..., SshfsNetfs]
) -> None:
    path = own_server.root / "a"
    path.write_bytes(b"")
    rewrite(path, 0, True)
    netfs = make_netfs(own_server, deadline_seconds=300, reconnect_seconds=300, outage_seconds=300)
    volume = await netfs.open_volume(netfs.parse_url(own_server.url))
    n_good = n_stale = 0
    done = False

    async def write() -> None:
        nonlocal done
        version = 0
        # A busy machine may let few reads come between two versions.
        while version < 60 or (version < 999 and (n_good <= 20 or n_stale <= 5)):
            version += 1
            await trio.to_thread.run_sync(rewrite, path, version, version % 2 == 0)
            if version % 10 == 0:
                await trio.to_thread.run_sync(own_server.kill_connections)
            await trio.sleep(0.02)
        done = True

    async def read(seed: int) -> None:
        nonlocal n_good, n_stale
        choose = random.Random(seed)
        while not done:
            file = await netfs.look_up(volume, str(path))
            attributes = netfs.get_attr(file)
            assert attributes.mtime_ns is not None
            version = attributes.mtime_ns // 10**9 - FIRST
            if not 0 <= version < 1000 or attributes.size != SIZE:
                await trio.lowlevel.checkpoint()
                continue  # it is being written
            expected = content(version)
            try:
                for _ in range(3):
                    offset = choose.randrange(0, SIZE - 8, 8)
                    size = choose.choice([8, 4096, SIZE - offset])
                    size = min(size, SIZE - offset)
                    buffer = bytearray(size)
                    arrived = 0

                    def note(n: int) -> None:
                        nonlocal arrived
                        arrived = n
                        assert buffer[:n] == expected[:n]  # noqa: B023 (called before the loop goes on)

                    try:
                        await netfs.fetch(file, offset, memoryview(buffer), note)
                    except OriginError:
                        assert buffer[:arrived] == expected[:arrived]
                        raise
                    assert buffer == expected[:size]
                    n_good += 1
            except StaleError:
                n_stale += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for seed in range(4):
            nursery.start_soon(read, seed)
    await netfs.close_volume(volume)
    assert n_good > 20
    assert n_stale > 5
