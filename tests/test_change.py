"""Changes made through the cache: at the origin first, then in the cache."""

from __future__ import annotations

import errno
import os
import random
import stat
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import pytest
import trio

from fscache_core import (
    CallerError,
    Coherency,
    Limits,
    OfflineError,
    OriginError,
    OriginNotFoundError,
    StaleError,
    UnsupportedError,
    blocking,
    open_fscache,
)
from fscache_core.hookspecs import FileAttributes, FileKind, Strength, netfs_hook
from fscache_core.outdated_paths import OutdatedPaths
from fscache_core.testing.faulty import Fail, Faults, Hang
from fscache_core.testing.one_file import OneFile
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from fscache_core import FsCache
    from fscache_core.testing.http_origin import CountingOrigin

P = ParamSpec("P")
R = TypeVar("R")

MIB = 1 << 20
DATA = random.Random(3).randbytes(3 * MIB + 77)


async def read_all(fscache: FsCache, url: str) -> bytes:
    async with await fscache.open_file(url) as file:
        return await file.read(0, file.size)


def aged(path: Path) -> None:
    """Let a file's time prove something: it is older than its resolution."""
    os.utime(path, (1, 1))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/a"


@pytest.mark.parametrize("coherency", ["always", "ttl=600", "immutable"])
async def test_what_is_put_is_at_the_origin_and_is_what_the_next_open_reads(
    tmp_path: Path, url: str, coherency: str
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    async with open_fscache(coherency=coherency) as fscache:
        await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        async with await fscache.open_file(url) as before:
            assert await before.read(0, 3) == b"old"
            attributes = await fscache.put_file(url, DATA)
            assert attributes.size == len(DATA)
            assert (tmp_path / "a").read_bytes() == DATA
            assert await read_all(fscache, url) == DATA
            assert await before.read(0, 3) == b"old"  # an open file keeps its version


async def test_what_is_put_need_not_be_fetched_to_be_read_back(tmp_path: Path, url: str) -> None:
    for coherency in ("ttl=600", "immutable"):  # a file as young as this one proves nothing
        async with open_fscache(coherency=coherency) as fscache:
            await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
            if coherency == "ttl=600":
                await fscache.put_file(url, DATA)
            assert await read_all(fscache, url) == DATA
            (volume,) = fscache.volumes
            assert volume.stats.bytes_from_origin == 0


@pytest.mark.parametrize("n_pieces", [0, 1, 7, 40])
async def test_a_stream_is_put_however_long_it_is(tmp_path: Path, url: str, n_pieces: int) -> None:
    pieces = [random.Random(i).randbytes(MIB - 1) for i in range(n_pieces)]

    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async with open_fscache(coherency="immutable") as fscache:
        await fscache.add_cache(MemoryBackend())
        await fscache.put_file(url, stream())
        assert (tmp_path / "a").read_bytes() == b"".join(pieces)
        assert await read_all(fscache, url) == b"".join(pieces)


@pytest.mark.parametrize("coherency", ["always", "immutable"])
async def test_after_a_write_in_place_nothing_old_is_read(tmp_path: Path, url: str, coherency: str) -> None:
    (tmp_path / "a").write_bytes(DATA)
    aged(tmp_path / "a")
    expected = bytearray(DATA)
    async with open_fscache(coherency=coherency) as fscache:
        await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        assert await read_all(fscache, url) == DATA
        expected[5000:5100] = bytes(100)
        await fscache.write(url, 5000, bytes(100))
        assert await read_all(fscache, url) == expected
        await fscache.write(url, len(expected), b"more")
        expected += b"more"
        assert await read_all(fscache, url) == expected
        assert (await fscache.truncate(url, 4097)).size == 4097
        assert await read_all(fscache, url) == expected[:4097]
    async with open_fscache(coherency=coherency) as fscache:
        await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        assert await read_all(fscache, url) == expected[:4097]


@pytest.mark.parametrize("coherency", ["always", "immutable"])
async def test_names_that_change_take_nothing_cached_with_them(tmp_path: Path, coherency: str) -> None:
    base = f"file://{tmp_path}"
    async with open_fscache(coherency=coherency) as fscache:
        await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        await fscache.mkdir(f"{base}/d")
        await fscache.put_file(f"{base}/d/x", b"x")
        await fscache.put_file(f"{base}/d/y", b"y")
        assert await read_all(fscache, f"{base}/d/x") == b"x"
        await fscache.rename(f"{base}/d/x", f"{base}/d/y")
        assert await read_all(fscache, f"{base}/d/y") == b"x"
        with pytest.raises(OriginNotFoundError):
            await fscache.open_file(f"{base}/d/x")
        await fscache.rename(f"{base}/d", f"{base}/e")
        with pytest.raises(OriginNotFoundError):
            await fscache.open_file(f"{base}/d/y")
        assert await read_all(fscache, f"{base}/e/y") == b"x"
        await fscache.unlink(f"{base}/e/y")
        with pytest.raises(OriginNotFoundError):
            await fscache.open_file(f"{base}/e/y")
        await fscache.rmdir(f"{base}/e")
    assert not (tmp_path / "d").exists()
    assert not (tmp_path / "e").exists()


async def test_attributes_that_change_are_seen_by_the_next_open(tmp_path: Path, url: str) -> None:
    async with open_fscache(coherency="immutable") as fscache:
        await fscache.add_cache(MemoryBackend())
        await fscache.put_file(url, b"abc")
        await fscache.chmod(url, 0o600)
        await fscache.utimens(url, 5, 7_000_000_000)
        async with await fscache.open_file(url) as file:
            assert file.attributes.mtime_ns == 7_000_000_000
        await fscache.symlink("a", url + "-link")
        assert await read_all(fscache, url + "-link") == b"abc"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert os.readlink(tmp_path / "a-link") == "a"


async def test_a_name_that_was_missing_is_found_once_it_is_put(tmp_path: Path, url: str) -> None:
    async with open_fscache(coherency=Coherency(negative_ttl_seconds=3600)) as fscache:
        with pytest.raises(OriginNotFoundError):
            await fscache.open_file(url)
        await fscache.put_file(url, b"now")
        assert await read_all(fscache, url) == b"now"


async def test_a_file_is_replaced_only_in_the_version_that_was_read(tmp_path: Path, url: str) -> None:
    (tmp_path / "a").write_bytes(b"one")
    aged(tmp_path / "a")
    async with open_fscache() as fscache:
        async with await fscache.open_file(url) as file:
            (tmp_path / "b").write_bytes(b"somebody else's")
            os.replace(tmp_path / "b", tmp_path / "a")
            with pytest.raises(StaleError):
                await fscache.put_file(url, b"two", replaces=file)
        assert (tmp_path / "a").read_bytes() == b"somebody else's"
        assert await read_all(fscache, url) == b"somebody else's"


async def test_after_a_change_that_failed_half_way_the_origin_is_asked_again(
    tmp_path: Path, url: str
) -> None:
    faults = Faults()
    (tmp_path / "a").write_bytes(b"one")
    async with open_fscache(coherency="immutable") as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs("file", wrappers=[faults])
        assert await read_all(fscache, url) == b"one"
        # It was done, and nobody heard of it.
        faults.arm("put_file", Fail(OriginError("connection lost"), after=True))
        with pytest.raises(OriginError, match="connection lost"):
            await fscache.put_file(url, b"two")
        faults.disarm()
        assert await read_all(fscache, url) == b"two"


async def test_after_a_rename_that_failed_the_origin_is_asked_for_what_was_below(tmp_path: Path) -> None:
    faults, base = Faults(), f"file://{tmp_path}"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_bytes(b"one")
    async with open_fscache(coherency="immutable") as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs("file", wrappers=[faults])
        assert await read_all(fscache, f"{base}/d/x") == b"one"
        # It was done, and nobody heard of it.
        faults.arm("rename", Fail(OriginError("connection lost"), after=True))
        with pytest.raises(OriginError, match="connection lost"):
            await fscache.rename(f"{base}/d", f"{base}/e")
        faults.disarm()
        with pytest.raises(OriginNotFoundError):
            await fscache.open_file(f"{base}/d/x")
        assert await read_all(fscache, f"{base}/e/x") == b"one"


async def test_a_change_that_is_cancelled_leaves_the_file_readable(tmp_path: Path, url: str) -> None:
    faults, hang = Faults(), Hang()
    (tmp_path / "a").write_bytes(b"one")
    async with open_fscache(coherency="immutable") as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs("file", wrappers=[faults])
        assert await read_all(fscache, url) == b"one"
        faults.arm("put_file", hang)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fscache.put_file, url, b"two")
            await hang.wait_hit()
            nursery.cancel_scope.cancel()
        faults.disarm()
        (tmp_path / "a").write_bytes(b"three")  # as a server may have done with half of it
        assert await read_all(fscache, url) == b"three"
        await fscache.put_file(url, b"four")  # its turn was given back
        assert await read_all(fscache, url) == b"four"


async def test_writers_of_one_file_go_one_after_the_other(tmp_path: Path, url: str) -> None:
    contents = [bytes([i]) * MIB for i in range(8)]
    async with open_fscache(coherency="immutable") as fscache:
        await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        async with trio.open_nursery() as nursery:
            for content in contents:
                nursery.start_soon(fscache.put_file, url, content)
        assert await read_all(fscache, url) == (tmp_path / "a").read_bytes()
        assert (tmp_path / "a").read_bytes() in contents


async def test_while_the_cache_is_closed_a_change_under_way_ends_with_one_clear_error(
    tmp_path: Path, url: str
) -> None:
    faults, hang = Faults(), Hang()
    async with trio.open_nursery() as nursery:

        async def put(fscache: FsCache) -> None:
            with pytest.raises(CallerError, match="closed"):
                await fscache.put_file(url, b"two")

        async with open_fscache() as fscache:
            fscache.add_netfs("file", wrappers=[faults])
            faults.arm("put_file", hang)
            nursery.start_soon(put, fscache)
            await hang.wait_hit()


async def test_what_cannot_be_changed_says_so(
    tmp_path: Path, url: str, fscache_http_origin: CountingOrigin
) -> None:
    (tmp_path / "a").write_bytes(b"one")
    async with open_fscache(offline=True) as fscache:
        with pytest.raises(OfflineError):
            await fscache.put_file(url, b"two")
        with pytest.raises(OfflineError):
            await fscache.unlink(url)
    async with open_fscache() as fscache:
        fscache_http_origin.put("a", b"one")
        with pytest.raises(UnsupportedError):
            await fscache.put_file(fscache_http_origin.url("a"), b"two")
        with pytest.raises(CallerError) as caught:
            await fscache.rename(url, fscache_http_origin.url("b"))
        assert caught.value.errno == errno.EXDEV
        with pytest.raises(CallerError):
            await fscache.write(url, -1, b"x")
        with pytest.raises(CallerError):
            await fscache.truncate(url, -1)
        with pytest.raises(OriginNotFoundError):
            await fscache.write(url + "-nothere", 0, b"x")
    assert (tmp_path / "a").read_bytes() == b"one"


class LateAnswer:
    """A wrapper: the next ``look_up`` after `arm` is answered when `go` is set, with what was true before."""

    def __init__(self) -> None:
        self.armed = False
        self.asked, self.go = trio.Event(), trio.Event()

    def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
        if hook != "look_up":
            return proceed
        look_up = cast("Callable[..., Awaitable[object]]", proceed)

        async def late(*args: object) -> object:
            armed, self.armed = self.armed, False
            try:
                return await look_up(*args)
            finally:
                if armed:
                    self.asked.set()
                    await self.go.wait()

        return cast("Callable[P, R]", late)


@pytest.mark.parametrize("coherency", ["always", "ttl=600", "immutable"])
async def test_an_answer_from_before_a_change_is_not_believed_after_it(
    tmp_path: Path, url: str, coherency: str
) -> None:
    late = LateAnswer()
    (tmp_path / "a").write_bytes(b"old")
    aged(tmp_path / "a")
    async with open_fscache(coherency=coherency) as fscache:
        await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        fscache.add_netfs("file", wrappers=[late])
        late.armed = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all, fscache, url)
            await late.asked.wait()
            await fscache.put_file(url, b"new!")
            late.go.set()
        assert await read_all(fscache, url) == b"new!"


async def test_a_name_that_was_missing_before_a_change_is_not_missing_after_it(
    tmp_path: Path, url: str
) -> None:
    late = LateAnswer()
    async with open_fscache(coherency=Coherency(negative_ttl_seconds=3600)) as fscache:
        fscache.add_netfs("file", wrappers=[late])
        await fscache.mkdir(url + "-d")
        for change, name in (
            (partial(fscache.put_file, url, b"now"), url),
            (partial(fscache.rename, url, url + "-d/b"), url + "-d/b"),
            (partial(fscache.rename, url + "-d", url + "-e"), url + "-e/b"),
            (partial(fscache.symlink, "a-e", url + "-link"), url + "-link/b"),
        ):
            late.armed, late.asked, late.go = True, trio.Event(), trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_all, fscache, name)
                await late.asked.wait()
                await change()
                late.go.set()
            assert await read_all(fscache, name) == b"now"


@pytest.mark.parametrize("coherency", ["ttl=600", "immutable"])
@pytest.mark.parametrize("change", ["put_file", "write", "rename", "unlink"])
async def test_what_another_process_still_has_of_before_a_change_is_not_believed_after_it(
    tmp_path: Path, url: str, coherency: str, change: str
) -> None:
    def set_up(name: str) -> None:
        (tmp_path / name).write_text(name)
        aged(tmp_path / name)

    set_up("a")
    set_up("b")
    limits = Limits(warm_inodes=0)
    async with AsyncExitStack() as stack:
        # To the cache they are two processes.
        one, other = [
            await stack.enter_async_context(open_fscache(coherency=coherency, limits=limits))
            for _ in range(2)
        ]
        for fscache in (one, other):
            await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        async with await other.open_file(url) as old:
            assert await old.read(0, 1) == b"a"
            match change:
                case "put_file":
                    await one.put_file(url, b"c")
                case "write":
                    await one.write(url, 0, b"c")
                case "rename":
                    await one.rename(f"file://{tmp_path}/b", url)
                case "unlink":
                    await one.unlink(url)
            expected = (tmp_path / "a").read_bytes() if change != "unlink" else None
            for _ in range(2):
                with suppress(OriginNotFoundError):
                    assert await read_all(one, url) == expected
                async with await other.open_file(url) as again:  # puts its version into the cache once more
                    with suppress(StaleError):
                        await again.read(0, 1)


async def test_however_many_names_change_nothing_old_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fscache_core.outdated_paths.MAX_OUTDATED", 3)
    faults, names = Faults(), [f"file://{tmp_path}/{n}" for n in range(8)]
    async with open_fscache(coherency="immutable", limits=Limits(warm_inodes=0)) as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs("file", wrappers=[faults])
        for name in names:
            await fscache.put_file(name, b"old")
        faults.arm("put_file", Fail(OriginError("connection lost"), after=True))
        for name in names:
            with pytest.raises(OriginError, match="connection lost"):
                await fscache.put_file(name, b"new")
        for name in names:
            assert await read_all(fscache, name) == b"new"


def test_of_too_many_directories_that_changed_all_paths_are_outdated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fscache_core.outdated_paths.MAX_OUTDATED", 3)
    outdated = OutdatedPaths()
    for n in range(3):
        outdated.distrust_below(f"/{n}/")
    assert "/2/a" in outdated
    assert "/3/a" not in outdated
    outdated.distrust_below("/4/")
    assert "/2/a" in outdated
    assert "/3/a" in outdated


async def test_an_open_file_does_not_stand_for_another(tmp_path: Path, url: str) -> None:
    (tmp_path / "a").write_bytes(b"aaaa")
    (tmp_path / "b").write_bytes(b"bbbb")
    aged(tmp_path / "a")
    other = f"file://{tmp_path}/b"
    async with open_fscache() as fscache, await fscache.open_file(url) as file:
        for change in (
            partial(fscache.write, other, 0, b"X", replaces=file),
            partial(fscache.truncate, other, 0, replaces=file),
            partial(fscache.put_file, other, b"X", replaces=file),
            partial(fscache.put_file, f"localdir://{tmp_path}/a", b"X", replaces=file),
        ):
            with pytest.raises(CallerError, match="another file"):
                await change()
    assert (tmp_path / "a").read_bytes() == b"aaaa"
    assert (tmp_path / "b").read_bytes() == b"bbbb"


@pytest.mark.parametrize("n_pieces", [0, 1, 3])
async def test_what_a_source_raises_comes_out_as_it_is(tmp_path: Path, url: str, n_pieces: int) -> None:
    (tmp_path / "a").write_bytes(b"old")

    async def source() -> AsyncIterator[bytes]:
        for _ in range(n_pieces):
            yield bytes(MIB)
        raise ZeroDivisionError

    async with open_fscache(coherency="immutable") as fscache:
        await fscache.add_cache(MemoryBackend())
        with pytest.raises(ZeroDivisionError):
            await fscache.put_file(url, source())
        assert await read_all(fscache, url) == b"old"
    assert os.listdir(tmp_path) == ["a"]


async def test_a_source_that_was_not_read_to_its_end_is_closed(tmp_path: Path, url: str) -> None:
    ended = False

    async def source() -> AsyncIterator[bytes]:
        nonlocal ended
        try:
            while True:
                yield bytes(MIB)
        finally:
            await trio.lowlevel.checkpoint()
            ended = True

    class Full:
        def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
            async def put_file(
                volume: object, path: str, source: AsyncIterator[bytes], known: object
            ) -> None:
                async for _ in source:
                    raise OriginError("no space left")

            return proceed if hook != "put_file" else cast("Callable[P, R]", put_file)

    async with open_fscache() as fscache:
        fscache.add_netfs("file", wrappers=[Full()])
        with pytest.raises(OriginError, match="no space left"):
            await fscache.put_file(url, source())
        assert ended


async def test_an_open_file_can_be_the_source_whatever_the_netfs_does_with_the_pieces(
    tmp_path: Path, url: str
) -> None:
    class Keeping:
        """As an adapter that gathers parts."""

        def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
            put_file = cast("Callable[..., Awaitable[object]]", proceed)

            async def keeping(
                volume: object, path: str, source: AsyncIterator[bytes], known: object
            ) -> object:
                pieces = [piece async for piece in source]

                async def again() -> AsyncIterator[bytes]:
                    for piece in pieces:
                        yield piece

                return await put_file(volume, path, again(), known)

            return proceed if hook != "put_file" else cast("Callable[P, R]", keeping)

    (tmp_path / "a").write_bytes(DATA)
    async with open_fscache(coherency="immutable") as fscache:
        await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        fscache.add_netfs("file", wrappers=[Keeping()])
        async with await fscache.open_file(url) as file:
            await fscache.put_file(url, file.stream(100), replaces=file)  # type: ignore[arg-type]
            assert await file.read(0, file.size) == DATA
        assert await read_all(fscache, url) == DATA[100:]
    assert (tmp_path / "a").read_bytes() == DATA[100:]


@pytest.mark.parametrize("warm_inodes", [0, 100])
async def test_nothing_below_a_directory_that_was_renamed_is_believed_of_a_backend_without_lists(
    tmp_path: Path, warm_inodes: int
) -> None:
    base, faults = f"file://{tmp_path}", Faults()
    for name in ("d", "e"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    async with open_fscache(coherency="immutable", limits=Limits(warm_inodes=warm_inodes)) as fscache:
        await fscache.add_cache(MemoryBackend(), wrappers=[faults])
        faults.arm("child_keys", Fail(UnsupportedError("no lists")))
        assert await read_all(fscache, f"{base}/d/x") == b"d"
        await fscache.rename(f"{base}/d", f"{base}/f")
        await fscache.rename(f"{base}/e", f"{base}/d")
        assert await read_all(fscache, f"{base}/d/x") == b"e"


@pytest.mark.parametrize("warm_inodes", [0, 100])
async def test_a_link_to_another_directory_leads_to_its_files(tmp_path: Path, warm_inodes: int) -> None:
    base = f"file://{tmp_path}"
    for name in ("d", "e"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    async with open_fscache(coherency="immutable", limits=Limits(warm_inodes=warm_inodes)) as fscache:
        await fscache.add_cache(MemoryBackend())
        for name in ("d", "e"):
            await fscache.symlink(name, f"{base}/link")
            assert await read_all(fscache, f"{base}/link/x") == name.encode()
            await fscache.unlink(f"{base}/link")


async def test_two_processes_do_not_take_what_they_cannot_tell_apart_for_one_version(
    tmp_path: Path, fscache_http_origin: CountingOrigin
) -> None:
    origin, faults = fscache_http_origin, Faults()
    origin.validators = "none"
    origin.put("a", b"old" * 1000)
    async with open_fscache() as one, open_fscache() as other:  # to the cache they are two processes
        await one.add_cache("cachefiles", dir=str(tmp_path / "cache"), wrappers=[faults])
        await other.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        hang = Hang()
        faults.arm("write_page", hang)
        async with await one.open_file(origin.url("a")) as old:
            assert await old.read(0, 3) == b"old"
            await hang.wait_hit()
            origin.put("a", b"new" * 1000)
            async with await other.open_file(origin.url("a")) as new:
                await new.inode.cookie.wait_lookup()
                hang.release()
                faults.disarm()
                await old.inode.wait_stored()
                assert await new.read(0, 3000) == b"new" * 1000


def test_the_same_for_code_that_is_not_async(tmp_path: Path, url: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"one "
        yield b"two"

    with blocking.open_fscache() as fscache:
        fscache.add_cache("memory")
        fscache.put_file(url, chunks())
        with fscache.open_file(url) as file:
            assert file.read() == b"one two"
            fscache.put_file(url, b"three", replaces=file)
        fscache.write(url, 0, b"T")
        fscache.truncate(url, 3)
        fscache.chmod(url, 0o640)
        fscache.utimens(url, 0, 10**9)
        fscache.mkdir(url + "-d")
        fscache.rename(url, url + "-d/b")
        fscache.symlink("b", url + "-d/link")
        with fscache.open_file(url + "-d/link") as file:
            assert file.read() == b"Thr"
        fscache.unlink(url + "-d/link")
        fscache.unlink(url + "-d/b")
        fscache.rmdir(url + "-d")
    assert list(tmp_path.iterdir()) == []


class Blind(OneFile):
    """Says of no two versions that they differ: as an SFTP server does of two within a second."""

    name = "blind"

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.fetching: trio.Event | None = None  # set when a fetch begins, which then waits for `go`
        self.go = trio.Event()

    @netfs_hook
    def get_attr(self, netfs_data: object) -> FileAttributes:
        return FileAttributes(FileKind.FILE, len(self.data), strength=Strength.WEAK)

    @netfs_hook
    async def fetch(
        self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        if self.fetching is not None:
            self.fetching.set()
            await self.go.wait()
        await super().fetch(netfs_data, offset, buffer, arrived)

    @netfs_hook
    async def put_file(
        self, volume: object, path: str, source: AsyncIterable[bytes], replaces: object | None
    ) -> object:
        self.data = b"".join([piece async for piece in source])
        return path

    @netfs_hook
    async def store(self, netfs_data: object, offset: int, buffer: memoryview) -> object:
        self.data = self.data[:offset] + bytes(buffer) + self.data[offset + len(buffer) :]
        return netfs_data


BLIND_URL = "blind://a"
OLD, NEW = b"A" * 3 * MIB, b"N" * 3 * MIB
CHANGES = {
    "put_file": lambda fscache: fscache.put_file(BLIND_URL, NEW),
    "write": lambda fscache: fscache.write(BLIND_URL, 0, NEW),
}


@pytest.fixture
async def over_blind() -> AsyncIterator[tuple[FsCache, Blind]]:
    netfs = Blind(OLD)
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(netfs)
        yield fscache, netfs


@pytest.mark.parametrize("change", CHANGES)
async def test_an_open_file_mixes_no_versions_when_only_we_know_that_there_are_two(
    change: str, over_blind: tuple[FsCache, Blind]
) -> None:
    fscache, _ = over_blind
    async with await fscache.open_file(BLIND_URL) as first, await fscache.open_file(BLIND_URL) as second:
        for file in (first, second):
            assert await file.read(0, 10) == OLD[:10]
        await CHANGES[change](fscache)
        for file in (first, second):
            assert await file.read(5, 10) == OLD[:10]  # what there is of it
            with pytest.raises(StaleError, match="changed through this cache"):
                await file.read(0, len(OLD))
    assert await read_all(fscache, BLIND_URL) == NEW


@pytest.mark.parametrize("change", CHANGES)
async def test_what_is_being_fetched_while_we_change_the_file_is_of_no_version(
    change: str, over_blind: tuple[FsCache, Blind]
) -> None:
    fscache, netfs = over_blind
    async with await fscache.open_file(BLIND_URL, reopen="never") as file, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            with pytest.raises(StaleError, match="changed through this cache"):
                await file.read(0, len(OLD))

        netfs.fetching = trio.Event()
        await netfs.fetching.wait()
        await CHANGES[change](fscache)
        netfs.go.set()
    assert await read_all(fscache, BLIND_URL) == NEW


async def test_of_two_who_replace_one_version_the_later_is_told_though_the_origin_cannot_tell(
    over_blind: tuple[FsCache, Blind],
) -> None:
    fscache, netfs = over_blind
    async with await fscache.open_file(BLIND_URL) as file:
        await fscache.put_file(BLIND_URL, NEW, replaces=file)
        for change in (
            partial(fscache.put_file, BLIND_URL, OLD, replaces=file),
            partial(fscache.write, BLIND_URL, 0, OLD, replaces=file),
        ):
            with pytest.raises(StaleError, match="changed through this cache"):
                await change()
    assert netfs.data == NEW


async def test_what_is_renamed_over_a_directory_is_not_mixed_with_what_was_there() -> None:
    class Tree(Blind):
        """Reads by path, as most do; what is under a name now is what is read."""

        name = "tree"

        def __init__(self) -> None:
            super().__init__(OLD)
            self.files = {"/d/a": OLD, "/f/a": NEW}

        @netfs_hook
        async def fetch(
            self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
        ) -> None:
            buffer[:] = self.files[str(netfs_data)][offset : offset + len(buffer)]

        @netfs_hook
        async def rename(self, volume: object, path: str, new_path: str) -> None:
            self.files = {
                new_path + name.removeprefix(path) if name.startswith(path + "/") else name: data
                for name, data in self.files.items()
            }

    async with open_fscache() as fscache:
        fscache.add_netfs(Tree())
        async with await fscache.open_file("tree:///d/a") as file:
            assert await file.read(0, 10) == OLD[:10]
            await fscache.rename("tree:///d", "tree:///e")
            await fscache.rename("tree:///f", "tree:///d")
            with pytest.raises(StaleError, match="changed through this cache"):
                await file.read(0, len(OLD))
        assert await read_all(fscache, "tree:///d/a") == NEW


async def test_a_change_that_cannot_be_made_costs_who_reads_the_file_nothing(
    over_blind: tuple[FsCache, Blind],
) -> None:
    fscache, _ = over_blind
    async with await fscache.open_file(BLIND_URL) as file:
        assert await file.read(0, 10) == OLD[:10]
        for change in (fscache.truncate(BLIND_URL, 1), fscache.rename(BLIND_URL, "blind://b")):
            with pytest.raises(UnsupportedError):
                await change
        assert await file.read(0, len(OLD)) == OLD
