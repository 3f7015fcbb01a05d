"""Every file, directory and attribute of a cache, damaged in every way, closed and in use.

Whatever was done: readers get the right bytes and no exception, and after a check that repairs the cache
keeps everything again.  A root that no cache can be in is refused when it is bound.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import xattr
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]
from test_damage import FILE_DAMAGE  # type: ignore[import-not-found]

from fscache_cachefiles import CachefilesBackend
from fscache_core.errors import CacheUnusableError
from fscache_core.folio import page_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIZES = {"empty": 0, "small": 10_000, "block": 65_536, "large": 200_000}


async def fill(cache: Path) -> int:
    """Read every file in one session; how many pages had to be fetched."""
    n_fetched = 0
    async with bound(cache) as session:
        for name, size in SIZES.items():
            file = Netfile(name, size)
            cookie = await session.open(file)
            assert await session.read(cookie) == file.content, name
            if cookie.object is not None:  # not something foreign that is left alone
                await session.backend.set_check_time(cookie.object, 1.5)
            n_fetched += file.n_fetched
    return n_fetched


@pytest.fixture
async def full(tmp_path: Path) -> Path:
    """A cache that holds everything, with promises and statistics."""
    cache = tmp_path / "full"
    async with bound(cache) as session:
        for name, size in SIZES.items():
            cookie = await session.open(Netfile(name, size))
            await session.read(cookie)
            await session.backend.set_check_time(cookie.object, 1.5)
            await cookie.pin()
            await cookie.reserve_space(size)
    return cache


async def check(cache: Path, what: object) -> None:
    """Readers get what is right; afterwards the cache is whole again, or says that it cannot be used."""
    backend = CachefilesBackend(cache)
    try:
        backend.verify_store()
    except CacheUnusableError:
        return
    for _ in range(2):
        await fill(cache)
    backend.verify_store(repair=True)
    await fill(cache)
    assert await fill(cache) == 0, what
    assert backend.verify_store().is_sound, what


async def check_in_use(cache: Path, damage: Callable[[], None], what: object) -> None:
    """The same while the files are open, as a reader that trusts nothing sees it."""
    async with bound(cache, verify="always") as session:
        opened = [(file, await session.open(file)) for file in (Netfile(*each) for each in SIZES.items())]
        for file, cookie in opened:
            assert len(await session.read_cached(cookie)) == page_count(file.size)
        damage()
        for file, cookie in opened:
            part = session.read_resident(cookie, 0, file.size) if file.size else None
            assert part is None or part == file.content, what
            assert await session.read(cookie) == file.content, what
        for _, cookie in opened[1:]:
            await session.close(cookie, retire=True)


def copies(full: Path, wanted: Callable[[Path], bool]) -> Iterator[tuple[Path, Path]]:
    """For each wanted path of the cache a fresh copy of all of it, and that path there."""
    for path in sorted(path for path in full.rglob("*") if wanted(path)):
        copy = full.with_name("copy")
        shutil.copytree(full, copy, symlinks=True)
        yield copy, copy / path.relative_to(full)
        shutil.rmtree(copy)


@pytest.mark.parametrize("in_use", [False, True])
@pytest.mark.parametrize("damage", FILE_DAMAGE)
async def test_any_damaged_file(full: Path, damage: str, in_use: bool) -> None:
    n_files = 0
    for cache, path in copies(full, lambda path: path.is_file()):

        def spoil(path: Path = path) -> None:
            with suppress(ValueError, OSError):  # an empty file has no byte to flip
                FILE_DAMAGE[damage](path)

        if in_use:
            await check_in_use(cache, spoil, path)
        else:
            spoil()
        await check(cache, path)
        n_files += 1
    assert n_files >= 6  # ledger, statistics or not, three small ones, data and map


def _remove(path: Path) -> None:
    shutil.rmtree(path)


def _empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir(0o700)


def _to_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"precious")


def _to_fifo(path: Path) -> None:
    shutil.rmtree(path)
    os.mkfifo(path)


def _to_symlink(path: Path) -> None:
    moved = path.parent / ".moved"
    path.rename(moved)
    path.symlink_to(moved)


def _rename(path: Path) -> None:
    path.rename(path.with_name(path.name + "x"))


DIRECTORY_DAMAGE: dict[str, Callable[[Path], None]] = {
    "removed": _remove,
    "emptied": _empty,
    "replaced by a file": _to_file,
    "replaced by a FIFO": _to_fifo,
    "replaced by a symbolic link": _to_symlink,
    "renamed": _rename,
}


@pytest.mark.parametrize("in_use", [False, True])
@pytest.mark.parametrize("damage", DIRECTORY_DAMAGE)
async def test_any_damaged_directory(full: Path, damage: str, in_use: bool) -> None:
    n_directories = 0
    for cache, path in copies(full, lambda path: path.is_dir()):

        def spoil(path: Path = path) -> None:
            DIRECTORY_DAMAGE[damage](path)

        if in_use:
            await check_in_use(cache, spoil, path)
        else:
            spoil()
        await check(cache, path)
        n_directories += 1
    assert n_directories >= 10  # the two at the top, two indices, the hash directories, the large object


def _flip_at(value: bytes, at: int) -> bytes:
    return value[:at] + bytes([value[at] ^ 0x21]) + value[at + 1 :]


#: What becomes of an attribute's value, given that of the same attribute elsewhere; None removes it.
ATTRIBUTE_DAMAGE: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "removed": lambda value, other: None,
    "emptied": lambda value, other: b"",
    "one byte left": lambda value, other: value[:1],
    "half left": lambda value, other: value[: len(value) // 2],
    "shortened": lambda value, other: value[:-1],
    "extended": lambda value, other: value + b"\1",
    "grown beyond its limit": lambda value, other: value.ljust(600, b"\7"),
    "first byte flipped": lambda value, other: _flip_at(value, 0),
    "middle byte flipped": lambda value, other: _flip_at(value, len(value) // 2),
    "last byte flipped": lambda value, other: _flip_at(value, len(value) - 1),
    "swapped": lambda value, other: other,
}


@pytest.mark.parametrize("in_use", [False, True])
@pytest.mark.parametrize("damage", ATTRIBUTE_DAMAGE)
async def test_any_damaged_attribute(full: Path, damage: str, in_use: bool) -> None:
    names: set[bytes] = set()
    for cache, path in copies(full, lambda path: bool(xattr.list(str(path)))):
        before = {name: xattr.get(str(path), name) for name in xattr.list(str(path))}
        for name, value in before.items():
            names.add(name)
            others: list[bytes] = [
                xattr.get(str(other), name)
                for other in sorted(cache.rglob("*"))
                if other != path and name in xattr.list(str(other))
            ]

            new = ATTRIBUTE_DAMAGE[damage](value, others[0] if others else value[::-1])

            def spoil(path: Path = path, name: bytes = name, new: bytes | None = new) -> None:
                if new is None:
                    xattr.remove(str(path), name)
                else:
                    xattr.set(str(path), name, new)

            if in_use:
                await check_in_use(cache, spoil, (path, name))
            else:
                spoil()
            await check(cache, (path, name))
            shutil.rmtree(cache)
            shutil.copytree(full, cache, symlinks=True)
    assert {name.rpartition(b".")[2] for name in names} == {b"cache", b"seal", b"pin", b"checked"}
