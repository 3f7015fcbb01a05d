"""Disks that fail, read-only filesystems, full inode tables, damage: wherever there can be such."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from typing import TYPE_CHECKING

import pytest
import trio
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]
from test_damage import (  # type: ignore[import-not-found]
    ATTRIBUTE_DAMAGE,
    FILE_DAMAGE,
    damageable,
    entry_of,
)

from fscache_cachefiles import CachefilesBackend
from fscache_core.errors import CacheUnusableError
from fscache_core.folio import page_count
from fscache_core.testing.filesystems import (
    FILESYSTEM_KINDS,
    FilesystemError,
    FilesystemKind,
    loop_mount,
    why_unavailable,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

SIZES = (0, 5000, 60_000, 300_000)
ANY_SPACE = {"bstop": 0, "bcull": 1, "brun": 2, "fstop": 0, "fcull": 1, "frun": 2}


def need(kind: FilesystemKind) -> None:
    if (why := why_unavailable(kind)) is not None:
        pytest.skip(why)


async def read_all(cache: Path, **options: object) -> int:
    """Read one file of each size; how many pages had to be fetched."""
    n_fetched = 0
    async with bound(cache, **options) as session:
        for size in SIZES:
            file = Netfile(f"file{size}", size)
            assert await session.read(await session.open(file)) == file.content
            n_fetched += file.n_fetched
    return n_fetched


def forget_pages(cache: Path) -> None:
    """Have the kernel need the disk for what is stored."""
    for path in (path for path in cache.rglob("*") if path.is_file()):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def leave_inodes(ballast: Path, n_left: int) -> None:
    """Make empty files until there is no inode left, and delete a few of them."""
    ballast.mkdir()
    made: list[Path] = []
    with contextlib.suppress(OSError):
        while True:
            made.append(ballast / str(len(made)))
            made[-1].touch()
    made.pop()
    for path in made[-n_left:]:
        path.unlink()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
async def test_a_disk_that_fails_while_in_use_costs_the_cache_and_nothing_else(
    tmp_path: Path, kind: FilesystemKind
) -> None:
    need(kind)
    with loop_mount(kind, 320 << 20, tmp_path) as mount:
        cache = mount.path / "cache"
        await read_all(cache)
        await trio.run_process(["sync", "-f", mount.path])
        async with bound(cache) as session:
            cookies = [await session.open(Netfile(f"file{size}", size)) for size in SIZES]
            half = [await session.open(Netfile(f"half{size}", size)) for size in SIZES]
            for cookie in half:
                await session.fill(cookie, 0, min(1, page_count(cookie.object_size)))
            forget_pages(cache)
            mount.break_disk()
            for turn in range(2):
                for cookie in (*cookies, *half):
                    assert await session.read(cookie) == cookie.netfs_data.content
                for size in SIZES:
                    new = Netfile(f"new{size} {turn}", size)
                    assert await session.read(await session.open(new)) == new.content
                # Between the turns the filesystem finds out that it cannot write, too.
                await trio.run_process(["sync", "-f", mount.path], check=False, capture_stderr=True)
            assert session.cache.broken
            await session.close(cookies[-1], retire=True)
        mount.mend_disk()
        await read_all(cache)
        assert await read_all(cache) == 0


@pytest.mark.parametrize("kind", FILESYSTEM_KINDS)
async def test_a_filesystem_is_not_made_read_only_in_use_and_is_used_again_afterwards(
    tmp_path: Path, kind: FilesystemKind
) -> None:
    need(kind)
    with loop_mount(kind, 320 << 20, tmp_path) as mount:
        cache = mount.path / "cache"
        async with bound(cache) as session:
            cookie = await session.open(Netfile("file300000", 300_000))
            await session.read(cookie)
            with pytest.raises(FilesystemError):  # busy; what the kernel does by itself is in other tests
                mount.remount_read_only()
            await session.close(cookie)
        await read_all(cache)
        mount.remount_read_only()
        with pytest.raises(CacheUnusableError) as caught:
            CachefilesBackend(cache).verify_store()
        assert caught.value.errno == errno.EROFS
        mount.remount_read_write()
        assert await read_all(cache) == 0


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
async def test_a_full_inode_table_costs_the_store_and_nothing_else(
    tmp_path: Path, kind: FilesystemKind
) -> None:
    need(kind)
    with loop_mount(kind, 320 << 20, tmp_path, n_inodes=200) as mount:
        ballast = mount.path / "ballast"
        leave_inodes(ballast, 60)
        cache, n_stored = mount.path / "cache", 0
        for turn in range(2):
            async with bound(cache, **ANY_SPACE) as session:
                for number in range(80):
                    file = Netfile(f"file{number}", 5000)
                    cookie = await session.open(file)
                    assert await session.read(cookie) == file.content
                    n_stored += turn and not file.n_fetched
                    await session.close(cookie)
        assert 0 < n_stored < 80
        shutil.rmtree(ballast)
        await read_all(cache, **ANY_SPACE)
        assert await read_all(cache, **ANY_SPACE) == 0


@pytest.mark.parametrize("which", ["small", "data", "map"])
async def test_damage_on_this_filesystem_costs_a_fetch_and_nothing_else(
    fscache_filesystem: Path, which: str
) -> None:
    size = 50_000 if which == "small" else 300_000
    damages = {name: (damage, False) for name, damage in FILE_DAMAGE.items()}
    if which != "map":
        damages |= {name: (damage, True) for name, damage in ATTRIBUTE_DAMAGE.items()}
    for name, (damage, to_attribute) in damages.items():
        cache = fscache_filesystem / "cache"
        async with bound(cache) as session:
            await session.read(await session.open(Netfile("file", size)))
        damage(entry_of(cache, "file") if to_attribute else damageable(cache)[1 if which == "map" else 0])
        for _ in range(2):
            async with bound(cache) as session:
                file = Netfile("file", size)
                assert await session.read(await session.open(file)) == file.content, name
        shutil.rmtree(cache)
