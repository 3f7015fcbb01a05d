"""The same on every filesystem: what is stored comes back, the hot path works, names may be long."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]

from fscache_cachefiles.ledger import NOTHING

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
