"""The same on every filesystem: what is stored comes back, the hot path works, names may be long."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
import trio
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]

from fscache_cachefiles.ledger import NOTHING
from fscache_core.testing.filesystems import loop_mount, why_unavailable

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {"short": b"key", "split": b"k" * 500, "encoded": b"/../\0" * 100, "dots": b"..", "slash": b"/"}
SIZES = (0, 1, 65_536, 65_537, 1_000_001)


@pytest.mark.root
async def test_a_cache_works_on_this_filesystem(fscache_filesystem: Path) -> None:
    directory = fscache_filesystem / "cache"
    for turn in range(2):
        async with bound(directory) as session:
            for key in KEYS.values():
                for size in SIZES:
                    file = Netfile(f"{size}", size, key=key + bytes([65 + SIZES.index(size)]))
                    cookie = await session.open(file)
                    assert await session.read(cookie) == file.content
                    assert not size or session.read_resident(cookie, 0, size) == file.content
                    assert turn == 0 or file.n_fetched == 0
                    await session.close(cookie)
            assert session.backend.recount() == NOTHING
    assert sorted(os.listdir(fscache_filesystem)) == ["cache"]


@pytest.mark.root
async def test_objects_are_retired_resized_and_relabelled_on_this_filesystem(
    fscache_filesystem: Path,
) -> None:
    async with bound(fscache_filesystem) as session:
        for size in SIZES:
            file = Netfile(f"{size}", size)
            cookie = await session.open(file)
            await session.read(cookie)
            file.size += 100_000
            cookie.attr_changed()
            file.version = 2
            cookie.invalidate()
            assert await session.read(cookie) == file.content
            file.version = 3
            cookie.update()
            await session.close(cookie, retire=size == 1)
        assert session.backend.recount() == NOTHING
    assert os.listdir(fscache_filesystem / "graveyard") == []


@pytest.mark.root
async def test_with_sync_what_was_stored_is_there_after_a_power_cut(tmp_path: Path) -> None:
    if (why := why_unavailable("ext4")) is not None:
        pytest.skip(why)
    with loop_mount("ext4", 32 << 20, tmp_path) as mount:
        for sync in (False, True):
            async with bound(mount.path / "cache", sync=sync) as session:
                for size in SIZES:
                    await session.read(await session.open(Netfile(f"{size}", size)))
        shutil.copy(mount.path.parent / "image", tmp_path / "image")  # what the disk holds at this moment
    after = tmp_path / "after"
    after.mkdir()
    await trio.run_process(["mount", "-o", "loop", tmp_path / "image", after])
    try:
        async with bound(after / "cache") as session:
            for size in SIZES:
                file = Netfile(f"{size}", size)
                assert await session.read(await session.open(file)) == file.content
                assert file.n_fetched == 0
    finally:
        await trio.run_process(["umount", after])
