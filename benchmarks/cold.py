"""Reading what is not cached from real servers, against the client libraries alone.

Our side ends when the reader has every byte *and* every byte is stored, the library's when every byte is in
one file.  All write to files that were not there before, and connect before the clock starts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncssh
import obstore
import trio
import xxhash
from obstore.store import S3Store

from benchmarks.row import Figure, Outcome, Row, the_same
from benchmarks.stage import BUCKET, MIB, digest_of
from fscache_core import open_fscache
from fscache_core.readahead import WHOLE_READAHEAD
from netfs_sshfs.wire import Road

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from benchmarks.rounds import Rounds
    from benchmarks.stage import Stage

READ_SIZE = MIB
#: Measured: a whole range at once takes longer, for the kernel then takes memory that nobody has used lately.
WRITE_SIZE = 256 << 10
#: Measured on loopback: what asyncssh would choose moves half as much.  The adapter asks for the same.
CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
#: What the adapter asks for.
KEEPALIVE_SECONDS = 10
WINDOW_SIZE = 16 << 20
#: How much memory is made to be at hand before each side, in files as long as the one it reads.
AT_HAND = 1.5
LIKEWISE = "asyncssh over the adapter's wire, to a file"


# -- SFTP --------------------------------------------------------------------------------


def cold_sftp(stage: Stage) -> Outcome:
    server = stage.sftp
    root = f"sshfs://{server.user}@{server.host}:{server.port}{server.root}"
    options = {"known_hosts": str(server.known_hosts), "client_keys": str(server.client_key)}
    memory = memoryview(bytearray(stage.cold_size))
    rounds = stage.rounds()
    digests = {"origin": digest_of(server.root / "cold")}
    for _ in rounds:
        path = stage.new_path("alone")
        asyncio.run(sftp_alone(stage, rounds, path, memory))
        digests["asyncssh to a file"] = digest_of(path)
        path.unlink()
        asyncio.run(sftp_likewise(stage, rounds, path))
        digests[LIKEWISE] = digest_of(path)
        path.unlink()
        trio.run(read_cold, stage, rounds, "sshfs", options, root, memory, digests)
    likewise = rounds.ratio(
        "fscache", LIKEWISE, name="speed, asyncssh set as the adapter sets it", faster=True
    )
    return outcome(rounds, "asyncssh", digests, stage.cold_size, likewise)


async def sftp_alone(stage: Stage, rounds: Rounds, path: Path, memory: memoryview) -> None:
    async with connected(stage) as sftp:
        remote = str(stage.sftp.root / "cold")
        stage.have_memory(int(AT_HAND * stage.cold_size))
        with rounds.timed("asyncssh to memory"):
            async with sftp.open(remote, "rb") as file:
                await file.read()
        stage.have_memory(int(AT_HAND * stage.cold_size))
        with rounds.timed("asyncssh to a file"):
            await sftp.get(remote, path)


async def sftp_likewise(stage: Stage, rounds: Rounds, path: Path) -> None:
    """asyncssh with all that the adapter gives it: a window, keepalives, a TCP connection of its own."""
    road = Road(asyncssh.SSHClientConnectionOptions(config=None, keepalive_interval=KEEPALIVE_SECONDS))
    async with connected(stage, road) as sftp:
        stage.have_memory(int(AT_HAND * stage.cold_size))
        with rounds.timed(LIKEWISE):
            await sftp.get(str(stage.sftp.root / "cold"), path)


@asynccontextmanager
async def connected(stage: Stage, road: Road | None = None) -> AsyncIterator[asyncssh.SFTPClient]:
    server = stage.sftp
    more: dict[str, Any] = {}
    if road is not None:
        more = {"tunnel": road, "keepalive_interval": KEEPALIVE_SECONDS, "window": WINDOW_SIZE}
    async with (
        asyncssh.connect(
            server.host,
            server.port,
            username=server.user,
            client_keys=[str(server.client_key)],
            known_hosts=str(server.known_hosts),
            encryption_algs=CIPHERS,
            config=None,
            agent_path=None,
            **more,
        ) as connection,
        connection.start_sftp_client() as sftp,
    ):
        yield sftp


# -- S3 ----------------------------------------------------------------------------------


def cold_s3(stage: Stage) -> Outcome:
    server = stage.s3
    os.environ |= {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    options = {"endpoint": server.endpoint, "region": server.region}
    memory = memoryview(bytearray(stage.cold_size))
    rounds = stage.rounds()
    digests = {"origin": xxhash.xxh3_64_hexdigest(server.get(BUCKET, "cold"))}
    for _ in rounds:
        path = stage.new_path("alone")
        s3_alone(stage, rounds, path, memory)
        digests["obstore to a file"] = digest_of(path)
        path.unlink()
        trio.run(read_cold, stage, rounds, "s3", options, f"s3://{BUCKET}", memory, digests)
    return outcome(rounds, "obstore", digests, stage.cold_size)


def s3_alone(stage: Stage, rounds: Rounds, path: Path, memory: memoryview) -> None:
    """As many requests of the same size at once as read-ahead makes."""
    server = stage.s3
    size, piece = len(memory), WHOLE_READAHEAD.fetch_size
    store = S3Store(
        BUCKET,
        endpoint=server.endpoint,
        region=server.region,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        client_options={"allow_http": True},
    )
    obstore.get_range(store, "warm-up", start=0, length=4096)
    with ThreadPoolExecutor(WHOLE_READAHEAD.max_size // piece + 1) as threads:

        def to_memory(start: int) -> None:
            memory[start : start + piece] = memoryview(
                obstore.get_range(store, "cold", start=start, length=min(piece, size - start))
            )

        def to_file(start: int) -> None:
            data = memoryview(obstore.get_range(store, "cold", start=start, length=min(piece, size - start)))
            for at in range(0, len(data), WRITE_SIZE):
                os.pwrite(descriptor, data[at : at + WRITE_SIZE], start + at)

        stage.have_memory(int(AT_HAND * size))
        with rounds.timed("obstore to memory"):
            list(threads.map(to_memory, range(0, size, piece)))
        stage.have_memory(int(AT_HAND * size))
        with rounds.timed("obstore to a file"):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            list(threads.map(to_file, range(0, size, piece)))
            os.close(descriptor)


# -- our side ----------------------------------------------------------------------------


async def read_cold(
    stage: Stage,
    rounds: Rounds,
    netfs: str,
    options: dict[str, Any],
    root: str,
    memory: memoryview,
    digests: dict[str, str],
) -> None:
    """One round, and then the same offline: what was handed out and what was stored are both compared."""
    directory = stage.new_path("cache")
    for offline in (False, True):
        memory[:] = bytes(len(memory))
        async with open_fscache(offline=offline) as fscache:
            await fscache.add_cache("cachefiles", dir=str(directory))
            fscache.add_netfs(netfs, **options)
            if offline:
                async with await fscache.open_file(f"{root}/cold") as file:
                    await file.readinto(0, memory)
                digests["fscache, stored"] = xxhash.xxh3_64_hexdigest(memory)
                continue
            async with await fscache.open_file(f"{root}/warm-up") as file:
                await file.read(0, READ_SIZE)
            stage.have_memory(int(AT_HAND * stage.cold_size))
            with rounds.timed("fscache"):
                async with await fscache.open_file(f"{root}/cold") as file:
                    for offset in range(0, len(memory), READ_SIZE):
                        await file.readinto(offset, memory[offset : offset + READ_SIZE])
                    await file.inode.wait_stored()
            digests["fscache"] = xxhash.xxh3_64_hexdigest(memory)
    shutil.rmtree(directory)


def outcome(rounds: Rounds, library: str, digests: dict[str, str], size: int, *more: Figure) -> Outcome:
    figures = [
        rounds.ratio("fscache", f"{library} to a file", name="speed", at_least=0.95, faster=True),
        rounds.ratio("fscache", f"{library} to memory", name="speed, to memory", faster=True),
        *more,
        rounds.processor_ratio("fscache", f"{library} to a file"),
    ]
    return Outcome(figures, the_same(f"{size >> 20} MiB", digests), rounds.speeds(size), rounds.samples)


ROWS = (
    Row(
        "cold-sftp",
        "cold sequential read of a large file from an SFTP server, 1 MiB at a time, until stored: speed of "
        "File.readinto / of asyncssh's get to a file",
        cold_sftp,
    ),
    Row(
        "cold-s3",
        "cold sequential read of a large object from an S3 server, 1 MiB at a time, until stored: speed of "
        "File.readinto / of obstore's get_range, as many at once, to a file",
        cold_s3,
    ),
)
