"""When the origin was last asked is kept with what is stored, for every process."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import xattr
import xxhash
from cachefiles_session import Netfile, Session, bound  # type: ignore[import-not-found]

from fscache_core.testing.filesystems import loop_mount, why_unavailable

if TYPE_CHECKING:
    from fscache_core.cookie import Cookie
    from fscache_core.testing.http_origin import CountingOrigin

CHECKED = "user.CacheFiles.checked"
SIZES = [0, 5000, 300_000]
FILES = {f"file{size}": random.Random(size).randbytes(size) for size in SIZES}
READER = Path(__file__).with_name("reader.py")


async def read(cache: Path, coherency: str, origin: CountingOrigin) -> dict[str, object]:
    """Read every file in another process; what that says of itself."""
    urls = [origin.url(name) for name in FILES]
    command = [sys.executable, str(READER), str(cache), coherency, *urls]
    done = await trio.run_process(command, capture_stdout=True, stdin=subprocess.DEVNULL)
    said: dict[str, object] = json.loads(done.stdout)
    assert said["digests"] == [xxhash.xxh3_64_hexdigest(data) for data in FILES.values()]
    assert not said["broken"]
    return said


async def test_within_the_ttl_another_process_asks_the_origin_nothing(
    tmp_path: Path, fscache_http_origin: CountingOrigin
) -> None:
    origin = fscache_http_origin
    for name, data in FILES.items():
        origin.put(name, data)
    assert (await read(tmp_path, "ttl=600", origin))["checks"] == len(FILES)
    asked = origin.n_requests
    for _ in range(2):
        assert (await read(tmp_path, "ttl=600", origin))["checks"] == 0
    assert origin.n_requests == asked
    assert (await read(tmp_path, "ttl=0.000001", origin))["checks"] == len(FILES)
    assert origin.bytes_sent == sum(map(len, FILES.values()))


def entry_of(cache: Path, size: int) -> str:
    (found,) = [path for path in cache.rglob("D*") if path.name[3:] == f"file{size}"]
    return str(found)


async def noted(session: Session, cookie: Cookie) -> float:
    found: float = await session.backend.get_check_time(cookie.object)
    return found


@pytest.mark.parametrize("size", SIZES)
async def test_a_check_time_is_there_for_the_next_process_and_gone_with_its_version(
    tmp_path: Path, size: int
) -> None:
    async with bound(tmp_path) as session:
        cookie = await session.open(Netfile(f"file{size}", size))
        await session.backend.set_check_time(cookie.object, 1.5)  # nothing is stored yet
        await session.read(cookie)
        assert await noted(session, cookie) == 1.5
    async with bound(tmp_path) as session:
        cookie = await session.open(Netfile(f"file{size}", size))
        assert await noted(session, cookie) == 1.5
        await session.backend.set_check_time(cookie.object, 2.5)
    async with bound(tmp_path) as session:
        file = Netfile(f"file{size}", size)
        cookie = await session.open(file)
        assert await noted(session, cookie) == 2.5
        file.version = 2
        cookie.invalidate()
        await session.close(cookie)
        cookie = await session.open(file)
        await session.read(cookie)
        assert await noted(session, cookie) == 0.0
        await session.backend.set_check_time(cookie.object, 3.5)
        assert await noted(session, cookie) == 3.5
        file.version = 3
        cookie.update()
        await session.close(cookie)
    async with bound(tmp_path) as session:
        file = Netfile(f"file{size}", size, version=3)
        cookie = await session.open(file)
        await session.read(cookie)
        assert file.n_fetched == 0
        assert await noted(session, cookie) == 0.0


def _flipped(value: bytes) -> bytes:
    return bytes([value[0] ^ 1]) + value[1:]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("damage", ["empty", "short", "long", "flipped", "another object's", "removed"])
async def test_a_check_time_that_cannot_be_read_is_none(tmp_path: Path, size: int, damage: str) -> None:
    async with bound(tmp_path) as session:
        for number in (size, size + 1):
            cookie = await session.open(Netfile(f"file{number}", number))
            await session.read(cookie)
            await session.backend.set_check_time(cookie.object, 1e12)
    entry = entry_of(tmp_path, size)
    value = xattr.get(entry, CHECKED)
    if damage == "removed":
        xattr.remove(entry, CHECKED)
    else:
        damaged = {
            "empty": b"",
            "short": value[:8],
            "long": value + b"\0",
            "flipped": _flipped(value),
            "another object's": xattr.get(entry_of(tmp_path, size + 1), CHECKED),
        }
        xattr.set(entry, CHECKED, damaged[damage])
    async with bound(tmp_path) as session:
        file = Netfile(f"file{size}", size)
        cookie = await session.open(file)
        assert await noted(session, cookie) == 0.0
        await session.read(cookie)
        assert file.n_fetched == 0


@pytest.mark.root
async def test_no_room_for_a_check_time_is_no_fault(tmp_path: Path) -> None:
    if (why := why_unavailable("ext4")) is not None:
        pytest.skip(why)
    with loop_mount("ext4", 16 << 20, tmp_path) as mount:
        for size in SIZES[1:]:
            async with bound(mount.path) as session:
                await session.read(await session.open(Netfile(f"file{size}", size)))
            fill_attributes(entry_of(mount.path, size))
            async with bound(mount.path) as session:
                file = Netfile(f"file{size}", size)
                cookie = await session.open(file)
                await session.backend.set_check_time(cookie.object, 1.5)
                assert await session.read(cookie) == file.content
                assert not session.cache.broken
            async with bound(mount.path) as session:
                file = Netfile(f"file{size}", size)
                cookie = await session.open(file)
                assert await noted(session, cookie) == 0.0
                await session.read(cookie)
                assert file.n_fetched == 0


def fill_attributes(path: str) -> None:
    """Leave no byte of an ext4 inode's room for attributes."""
    for number in range(1000):
        for length in (1000, 100, 10, 0):
            try:
                xattr.set(path, f"user.{number}", os.urandom(length))
                break
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        else:
            return
