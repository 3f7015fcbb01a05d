"""Ceilings, promises and full filesystems."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import xattr
from cachefiles_session import Netfile, Session, bound  # type: ignore[import-not-found]

from fscache_cachefiles import CachefilesBackend
from fscache_cachefiles.ledger import NOTHING, Ledger, Weight
from fscache_core import page
from fscache_core.folio import PAGE_SIZE, Folio, page_count
from fscache_core.outcome import ReadOutcome, ReserveOutcome
from fscache_core.testing.filesystems import loop_mount, why_unavailable

if TYPE_CHECKING:
    from pathlib import Path


def disk_usage(cache: Path) -> tuple[int, int]:
    """What the kernel says the cache takes: (files, bytes), the three top directories left out."""
    paths = [path for part in ("cache", "graveyard") for path in (cache / part).rglob("*")]
    return len(paths), sum(path.lstat().st_blocks * 512 for path in paths)


def usage(session: Session) -> tuple[int, int]:
    """What the account says."""
    held = session.backend.usage()
    return held.n_files, held.n_bytes


def promise_on_disk(cache: Path) -> tuple[bool, int]:
    """Whether the object "file" is pinned, and how many bytes are reserved for it."""
    (entry,) = [path for path in cache.rglob("D*") if path.name[3:] == "file"]
    if b"user.CacheFiles.pin" not in xattr.list(str(entry)):
        return False, 0
    value: bytes = xattr.get(str(entry), "user.CacheFiles.pin")
    return bool(value[0]), int.from_bytes(value[1:], "little")


async def _read_many(cache: Path, names: list[str], size: int, **options: object) -> int:
    """Read files in one process; how many pages it had to fetch."""
    n_fetched = 0
    async with bound(cache, **options) as session:
        for name in names:
            file = Netfile(name, size)
            cookie = await session.open(file)
            assert await session.read(cookie) == file.content
            n_fetched += file.n_fetched
            await session.close(cookie)
    return n_fetched


@pytest.mark.parametrize("size", [4096, 60_000, 300_000])
async def test_max_bytes_holds_with_many_writers_and_over_restarts(tmp_path: Path, size: int) -> None:
    limit = 4 << 20
    for turn in range(2):
        async with trio.open_nursery() as nursery:
            for writer in range(4):
                names = [f"{turn} {writer} {number}" for number in range(2 * limit // size // 4)]
                nursery.start_soon(partial(_read_many, tmp_path, names, size, max_bytes=limit))
        _, taken = disk_usage(tmp_path)
        assert limit / 3 < taken <= limit  # on a tmpfs names and attributes take nothing


async def test_max_files_holds(tmp_path: Path) -> None:
    await _read_many(tmp_path, [f"file{number}" for number in range(200)], 100, max_files=50)
    files, _ = disk_usage(tmp_path)
    assert 40 <= files <= 50


@pytest.mark.parametrize("size", [0, 4096, 60_000, 300_000])
async def test_the_account_is_back_where_it_was_when_everything_is_retired(tmp_path: Path, size: int) -> None:
    async with bound(tmp_path) as session:
        keep = await session.open(Netfile("keep", 10))
        await session.read(keep)
        before = usage(session)
        for number in range(20):
            cookie = await session.open(Netfile(f"file{number}", size))
            await session.read(cookie)
            if number % 3 == 0:
                cookie.invalidate()
                await session.fill(cookie, 0, page_count(size) // 2)
            await session.close(cookie, retire=True)
        assert usage(session) == before
        assert session.backend.recount() == NOTHING


async def test_an_account_that_is_lost_is_counted_anew(tmp_path: Path) -> None:
    for size in (0, 5000, 300_000):
        await _read_many(tmp_path, [f"{size} {number}" for number in range(5)], size)
    async with bound(tmp_path) as session:
        before = usage(session)
    for damage in (partial(os.truncate, tmp_path / "ledger", 3), (tmp_path / "ledger").unlink):
        damage()
        async with bound(tmp_path) as session:
            assert usage(session) == before


async def test_what_a_crash_left_in_the_account_does_not_fill_the_cache_for_ever(tmp_path: Path) -> None:
    await _read_many(tmp_path, ["first"], 5000, max_files=100)
    descriptor = os.open(tmp_path / "ledger", os.O_RDWR)
    Ledger(descriptor, None, None, lambda: NOTHING).charge(Weight(90, 0))  # and dies before it stores
    os.close(descriptor)
    assert await _read_many(tmp_path, [f"file{number}" for number in range(15)], 5000, max_files=100) == 30
    assert await _read_many(tmp_path, [f"file{number}" for number in range(15)], 5000, max_files=100) == 0


@pytest.mark.root
async def test_below_bstop_nothing_is_stored_and_everything_is_read(tmp_path: Path) -> None:
    if (why := why_unavailable("tmpfs")) is not None:
        pytest.skip(why)
    with loop_mount("tmpfs", 8 << 20, tmp_path) as mount:
        (mount.path / "ballast").write_bytes(bytes(4 << 20))
        async with bound(mount.path / "cache", brun=99, bcull=98, bstop=97) as session:
            file = Netfile("file", 100_000)
            cookie = await session.open(file)
            assert await session.read(cookie) == file.content
            assert await session.read_cached(cookie) == {}
            wanted = Folio(0, memoryview(bytearray(PAGE_SIZE)))
            assert await page.read_or_alloc_page(cookie, wanted) is ReadOutcome.NO_BUFFERS


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
async def test_a_full_filesystem_costs_the_store_and_nothing_else(tmp_path: Path, kind: str) -> None:
    if (why := why_unavailable(kind)) is not None:  # type: ignore[arg-type]
        pytest.skip(why)
    size = {"ext4": 8 << 20, "xfs": 300 << 20, "btrfs": 128 << 20, "tmpfs": 4 << 20}[kind]
    names = [f"file{number}" for number in range(30)]
    with loop_mount(kind, size, tmp_path) as mount:  # type: ignore[arg-type]
        options = {"bstop": 0, "bcull": 1, "brun": 2, "fstop": 0, "fcull": 1, "frun": 2}
        left = os.statvfs(mount.path).f_bavail * os.statvfs(mount.path).f_frsize
        (mount.path / "ballast").write_bytes(bytes(max(left - (3 << 20), 0)))
        cache = mount.path / "cache"
        for length in (50_000, 300_000):
            assert await _read_many(cache, names, length, **options) > 0
        (mount.path / "ballast").unlink(missing_ok=True)
        for name in ("file0", "file29"):
            await _read_many(cache, [name], 50_000, **options)
            assert await _read_many(cache, [name], 50_000, **options) == 0


@pytest.mark.root
async def test_a_filesystem_that_turns_read_only_while_in_use_costs_the_store_and_nothing_else(
    tmp_path: Path,
) -> None:
    if (why := why_unavailable("ext4")) is not None:
        pytest.skip(why)
    sizes = (0, 5000, 300_000)
    with loop_mount("ext4", 32 << 20, tmp_path) as mount:
        async with bound(mount.path / "cache") as session:
            cookies = [await session.open(Netfile(f"file{size}", size)) for size in sizes]
            for cookie in cookies:
                await session.fill(cookie, 0, min(1, page_count(cookie.object_size)))
            # As ext4 does by itself when its disk fails: a plain remount is refused while files are written.
            await trio.run_process(["mount", "-o", "remount,abort", mount.path])
            for cookie in cookies:
                assert await session.read(cookie) == cookie.netfs_data.content
            for size in sizes:
                new = Netfile(f"new{size}", size)
                assert await session.read(await session.open(new)) == new.content
            for cookie in cookies:
                await session.close(cookie, retire=True)
        image = mount.path.parent / "image"
        await trio.run_process(["umount", mount.path])
        await trio.run_process(["mount", "-o", "loop", image, mount.path])
        names = [f"file{size}" for size in sizes]
        await _read_many(mount.path / "cache", names, 5000)
        assert await _read_many(mount.path / "cache", names, 5000) == 0


@pytest.mark.parametrize("size", [5000, 300_000])
async def test_who_pins_and_who_reserves_leave_each_other_what_they_were_promised(
    tmp_path: Path, size: int
) -> None:
    promised = partial(promise_on_disk, tmp_path)
    async with bound(tmp_path) as session:
        await session.read(await session.open(Netfile("file", size)))
    async with bound(tmp_path) as one, bound(tmp_path) as other:
        mine = await one.open(Netfile("file", size))
        others = await other.open(Netfile("file", size))
        assert await mine.pin() is ReserveOutcome.GRANTED
        assert await others.reserve_space(4096) is ReserveOutcome.GRANTED
        assert promised() == (True, 4096)
        assert await mine.pin() is ReserveOutcome.GRANTED
        assert promised() == (True, 4096)
        await others.unpin()
        assert promised() == (False, 4096)
        assert await mine.reserve_space(0) is ReserveOutcome.GRANTED
        assert promised() == (False, 0)


async def test_a_pin_is_on_disk_and_survives_restart_relabelling_and_resizing(tmp_path: Path) -> None:
    def pin_of(name: str) -> bytes | None:
        (entry,) = [path for path in tmp_path.rglob("D*") if path.name[3:] == name]
        names = xattr.list(str(entry))
        if b"user.CacheFiles.pin" not in names:
            return None
        value: bytes = xattr.get(str(entry), "user.CacheFiles.pin")
        return value

    for size in (5000, 300_000):
        name = f"file{size}"
        async with bound(tmp_path) as session:
            cookie = await session.open(Netfile(name, size))
            assert await cookie.pin() is ReserveOutcome.GRANTED
            await session.read(cookie)
        assert pin_of(name) == b"\1" + bytes(8)
        async with bound(tmp_path) as session:
            file = Netfile(name, size)
            cookie = await session.open(file)
            file.size += 100_000
            cookie.attr_changed()
            await session.read(cookie)
        assert pin_of(name) == b"\1" + bytes(8)
        async with bound(tmp_path) as session:
            cookie = await session.open(Netfile(name, size + 100_000))
            await cookie.unpin()
        assert pin_of(name) is None


@pytest.mark.parametrize("n_stored", [0, 2])
@pytest.mark.parametrize("size", [10_000, 300_000])
async def test_a_promise_to_an_object_that_is_not_whole_holds_over_restarts(
    tmp_path: Path, size: int, n_stored: int
) -> None:
    async with bound(tmp_path) as session:
        for name in ("pinned", "reserved", "both"):
            cookie = await session.open(Netfile(name, size))
            await session.fill(cookie, 0, n_stored)
            if name != "reserved":
                assert await cookie.pin() is ReserveOutcome.GRANTED
            if name != "pinned":
                assert await cookie.reserve_space(size) is ReserveOutcome.GRANTED
            assert len(await session.read_cached(cookie)) == n_stored
        assert session.backend.recount() == NOTHING
    for turn in range(2):
        async with bound(tmp_path) as session:
            for name in ("pinned", "reserved", "both"):
                file = Netfile(name, size)
                cookie = await session.open(file)
                assert await session.backend.is_pinned(cookie.object) is (name != "reserved")
                assert cookie.object.reserved_size == (size if name != "pinned" else 0)
                assert await session.read(cookie) == file.content
                assert file.n_fetched == (0 if turn else page_count(size) - n_stored)
            assert session.backend.recount() == NOTHING
    assert CachefilesBackend(tmp_path).verify_store().is_sound


@pytest.mark.parametrize("change", ["resize", "relabel", "invalidate"])
@pytest.mark.parametrize("n_stored", [0, 2])
@pytest.mark.parametrize("size", [10_000, 300_000])
async def test_a_promise_is_kept_when_the_file_changes(
    tmp_path: Path, size: int, n_stored: int, change: str
) -> None:
    file = Netfile("file", size)
    async with bound(tmp_path) as session:
        cookie = await session.open(file)
        await session.fill(cookie, 0, n_stored)
        assert await cookie.pin() is ReserveOutcome.GRANTED
        assert await cookie.reserve_space(size) is ReserveOutcome.GRANTED
        if change == "resize":
            file.size += 50_000
            cookie.attr_changed()
        else:
            file.version = 2
            (cookie.update if change == "relabel" else cookie.invalidate)()
        await session.close(cookie)
        assert session.backend.recount() == NOTHING
    async with bound(tmp_path) as session:
        cookie = await session.open(file)
        assert await session.backend.is_pinned(cookie.object)
        assert cookie.object.reserved_size == size
        await session.read(cookie)
        assert session.backend.recount() == NOTHING


async def test_a_promise_to_an_object_that_others_store_is_kept_or_refused(tmp_path: Path) -> None:
    async with bound(tmp_path) as one, bound(tmp_path) as other:
        file, same, newer = Netfile("a", 10_000), Netfile("a", 10_000), Netfile("b", 10_000, version=2)
        cookie = await one.open(file)
        await one.fill(cookie, 0, 1)
        await other.read(await other.open(same))
        assert await cookie.pin() is ReserveOutcome.GRANTED
        assert len(await one.read_cached(cookie)) == 3  # of what the other stored
        older = await one.open(Netfile("b", 10_000))
        await one.fill(older, 0, 1)
        await other.read(await other.open(newer))
        assert await older.pin() is ReserveOutcome.REFUSED
        assert await older.reserve_space(10_000) is ReserveOutcome.REFUSED
        assert not await one.backend.is_pinned(older.object)
        assert await one.read(older) == older.netfs_data.content
    async with bound(tmp_path) as session:
        assert await session.backend.is_pinned((await session.open(file)).object)
        assert not await session.backend.is_pinned((await session.open(newer)).object)


async def test_reserved_room_is_there_when_the_ceiling_is_reached_by_others(tmp_path: Path) -> None:
    limit, size = 4 << 20, 1 << 20
    async with bound(tmp_path, max_bytes=limit) as session:
        kept = Netfile("kept", size)
        cookie = await session.open(kept)
        assert await cookie.reserve_space(size) is ReserveOutcome.GRANTED
        await session.close(cookie)
    await _read_many(tmp_path, [f"file{number}" for number in range(40)], 200_000, max_bytes=limit)
    _, taken = disk_usage(tmp_path)
    assert taken <= limit
    async with bound(tmp_path, max_bytes=limit) as session:
        cookie = await session.open(Netfile("kept", size))
        await session.read(cookie)
        assert len(await session.read_cached(cookie)) == page_count(size)
        assert session.backend.recount() == NOTHING
        assert await cookie.reserve_space(0) is ReserveOutcome.GRANTED
        assert session.backend.recount() == NOTHING


async def test_a_reservation_without_room_is_refused(tmp_path: Path) -> None:
    async with bound(tmp_path, max_bytes=1 << 20) as session:
        await session.read(await session.open(Netfile("other", 10)))  # so that the indices are there
        before = usage(session)
        cookie = await session.open(Netfile("file", 3 << 20))
        assert await cookie.reserve_space(3 << 20) is ReserveOutcome.REFUSED
        assert await cookie.reserve_space(PAGE_SIZE) is ReserveOutcome.GRANTED
        await session.close(cookie, retire=True)
        assert usage(session) == before


async def test_of_runs_that_come_together_as_many_are_stored_as_there_is_room_for(tmp_path: Path) -> None:
    file = Netfile("a", 16 << 20)
    content = memoryview(file.content)
    async with bound(tmp_path, max_bytes="4M") as session:
        cookie = await session.open(file)
        await page.alloc_page(cookie, Folio(0, memoryview(bytearray(1 << 20))))
        cookie.mark_pages_cached(0, page_count(file.size))
        for at in range(0, file.size, 1 << 20):
            page.write_page_nowait(cookie, Folio(at // PAGE_SIZE, content[at : at + (1 << 20)]))
        await cookie.wait_on_stores()
        _, taken = usage(session)
        assert 3 << 20 <= taken <= 4 << 20
        folio = Folio(0, memoryview(bytearray(3 << 20)))
        assert await page.read_or_alloc_pages(cookie, [folio]) is ReadOutcome.HIT
        assert folio.buffer == content[: 3 << 20]
        await session.close(cookie)
    assert CachefilesBackend(tmp_path).verify_store().is_sound


@pytest.mark.parametrize("max_bytes", [None, "100K"])
async def test_nothing_stays_open_after_the_cache_is_withdrawn(tmp_path: Path, max_bytes: str | None) -> None:
    def open_files() -> list[str]:
        found = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/self/fd/{name}"))
        return [path for path in found if path.startswith(str(tmp_path))]

    async with bound(tmp_path, max_bytes=max_bytes) as session:
        for number, size in enumerate((0, 10, 50_000, 300_000, 500_000)):
            cookie = await session.open(Netfile(f"file{number}", size))
            await session.read(cookie)
            if number % 2:
                cookie.invalidate()
                await session.fill(cookie, 0, min(page_count(size), 1))
        assert open_files()
    assert open_files() == []


@pytest.mark.parametrize("size", [5000, 300_000])
async def test_promises_made_at_the_same_moment_are_all_kept(tmp_path: Path, size: int) -> None:
    async with bound(tmp_path) as session:
        await session.read(await session.open(Netfile("file", size)))
    async with bound(tmp_path) as one, bound(tmp_path) as other:
        mine = await one.open(Netfile("file", size))
        others = await other.open(Netfile("file", size))
        for _ in range(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mine.pin)
                nursery.start_soon(others.reserve_space, 4096)
            assert promise_on_disk(tmp_path) == (True, 4096)
            assert await one.backend.is_pinned(mine.object)
            assert await other.backend.is_pinned(others.object)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(others.unpin)
                nursery.start_soon(mine.reserve_space, 0)
            assert promise_on_disk(tmp_path) == (False, 0)
            assert not await one.backend.is_pinned(mine.object)
            assert not await other.backend.is_pinned(others.object)
        assert one.backend.recount() == NOTHING
