"""Whatever is done to the files of a cache, a reader gets the right bytes and the cache goes on working."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import xattr
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]

from fscache_core.folio import PAGE_SIZE

SMALL, LARGE = 50_000, 300_000


def entry_of(cache: Path, name: str) -> Path:
    """The entry of the data object whose key is ``name``."""
    (found,) = [path for path in cache.rglob("D*") if path.name[3:] == name]
    return found


def damageable(cache: Path) -> list[Path]:
    """Every file of the object ``file``: itself, or its data and map."""
    entry = entry_of(cache, "file")
    return [entry] if entry.is_file() else [entry / "data", entry / "map"]


def _truncate_to(fraction: float, at_least: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        os.truncate(path, max(at_least, int(path.stat().st_size * fraction)))

    return damage


def _flip_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))


def _flip(position: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        size = path.stat().st_size
        _flip_byte(path, min(int(size * position), size - 1))

    return damage


def _extend(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _remove(path: Path) -> None:
    path.unlink()


def _replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def _replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _replace_by_symlink(path: Path) -> None:
    moved = path.with_name(path.name + ".moved")
    path.rename(moved)
    path.symlink_to(moved)


def _add_link(path: Path) -> None:
    os.link(path, path.parents[3] / "link")


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


FILE_DAMAGE: dict[str, Callable[[Path], None]] = {
    "emptied": _truncate_to(0, 0),
    "cut to one byte": _truncate_to(0, 1),
    "cut in half": _truncate_to(0.5, 0),
    "cut by one byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "extended": _extend,
    "first byte flipped": _flip(0),
    "byte flipped": _flip(0.4),
    "last byte flipped": _flip(1),
    "zeroed": _zero,
    "removed": _remove,
    "replaced by a directory": _replace_by_directory,
    "replaced by a FIFO": _replace_by_fifo,
    "replaced by a symbolic link": _replace_by_symlink,
    "linked twice": _add_link,
}


def _remove_attribute(name: str) -> Callable[[Path], None]:
    return lambda path: xattr.remove(str(path), name)


def _shorten_attribute(name: str, size: int) -> Callable[[Path], None]:
    return lambda path: xattr.set(str(path), name, xattr.get(str(path), name)[:size])


def _flip_attribute(name: str, at: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        value = bytearray(xattr.get(str(path), name))
        value[at] ^= 0x10
        xattr.set(str(path), name, bytes(value))

    return damage


LABEL, SEAL = "user.CacheFiles.cache", "user.CacheFiles.seal"
ATTRIBUTE_DAMAGE: dict[str, Callable[[Path], None]] = {
    "no label": _remove_attribute(LABEL),
    "empty label": _shorten_attribute(LABEL, 0),
    "shortened label": _shorten_attribute(LABEL, 2),
    "other type": _flip_attribute(LABEL, 0),
    "other version": _flip_attribute(LABEL, 1),
    "no seal": _remove_attribute(SEAL),
    "empty seal": _shorten_attribute(SEAL, 0),
    "shortened seal": _shorten_attribute(SEAL, 31),
    **{f"seal byte {at} flipped": _flip_attribute(SEAL, at) for at in (0, 8, 10, 16, 20, 24)},
}


async def _fill(cache: Path, size: int) -> None:
    async with bound(cache) as session:
        for name in ("file", "other"):
            await session.read(await session.open(Netfile(name, size)))


async def _check(cache: Path, size: int) -> None:
    """Right bytes in one process after the other."""
    for _ in range(3):
        file = Netfile("file", size)
        async with bound(cache) as session:
            cookie = await session.open(file)
            assert await session.read(cookie) == file.content
            offset, length = size // 3, min(70_000, size // 2)
            part = session.read_resident(cookie, offset, length)
            assert part is None or part == file.content[offset : offset + length]
            other = Netfile("other", size)
            assert await session.read(await session.open(other)) == other.content
            assert other.n_fetched == 0
            for index, data in (await session.read_cached(cookie)).items():
                assert data == file.content[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]


async def _n_fetched(cache: Path, size: int) -> int:
    """How many pages another process has to fetch."""
    file = Netfile("file", size)
    async with bound(cache) as session:
        await session.read(await session.open(file))
    n_fetched: int = file.n_fetched
    return n_fetched


@pytest.mark.parametrize("damage", FILE_DAMAGE)
@pytest.mark.parametrize("which", ["small", "data", "map"])
async def test_a_damaged_file_costs_a_fetch_and_nothing_else(tmp_path: Path, which: str, damage: str) -> None:
    cache = tmp_path / "cache"
    size = SMALL if which == "small" else LARGE
    await _fill(cache, size)
    path = damageable(cache)[1 if which == "map" else 0]
    FILE_DAMAGE[damage](path)
    await _check(cache, size)
    foreign = which == "small" and damage in ("replaced by a FIFO", "replaced by a symbolic link")
    assert (await _n_fetched(cache, size) > 0) is foreign


@pytest.mark.parametrize("damage", ATTRIBUTE_DAMAGE)
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_damaged_attribute_costs_a_fetch_and_nothing_else(
    tmp_path: Path, size: int, damage: str
) -> None:
    cache = tmp_path / "cache"
    await _fill(cache, size)
    ATTRIBUTE_DAMAGE[damage](entry_of(cache, "file"))
    await _check(cache, size)
    assert await _n_fetched(cache, size) == 0


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("part", ["entry", "data", "map", "label", "seal"])
async def test_parts_of_two_objects_that_were_swapped_are_not_believed(
    tmp_path: Path, size: int, part: str
) -> None:
    cache = tmp_path / "cache"
    await _fill(cache, size)
    one, two = entry_of(cache, "file"), entry_of(cache, "other")
    if part in ("label", "seal"):
        name = LABEL if part == "label" else SEAL
        first, second = xattr.get(str(one), name), xattr.get(str(two), name)
        xattr.set(str(one), name, second)
        xattr.set(str(two), name, first)
    else:
        if part != "entry":
            if size == SMALL:
                pytest.skip("a small object has no such part")
            one, two = one / part, two / part
        spare = tmp_path / "spare"
        one.rename(spare)
        two.rename(one)
        spare.rename(two)
    for _ in range(2):
        async with bound(cache) as session:
            for name in ("file", "other"):
                file = Netfile(name, size)
                assert await session.read(await session.open(file)) == file.content


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_file_damaged_while_it_is_open_is_fetched_again(tmp_path: Path, size: int) -> None:
    cache = tmp_path / "cache"
    await _fill(cache, size)
    file = Netfile("file", size)
    async with bound(cache, verify="always") as session:
        cookie = await session.open(file)
        assert await session.read(cookie) == file.content
        assert file.n_fetched == 0
        FILE_DAMAGE["byte flipped"](damageable(cache)[0])
        assert session.read_resident(cookie, 0, size) is None
        assert await session.read(cookie) == file.content
        assert file.n_fetched > 0
        assert session.backend.verification_failures == 1
        assert session.read_resident(cookie, 0, size) == file.content


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_under_always_a_read_finds_what_happened_to_its_bytes_since_the_last_one(
    tmp_path: Path, size: int
) -> None:
    cache = tmp_path / "cache"
    await _fill(cache, size)
    file = Netfile("file", size)
    async with bound(cache, verify="always") as session:
        cookie = await session.open(file)
        for at in (0, 16_383, 16_384, size // 2, size - 1):
            ranges = [
                (max(0, at - before), min(size, at + after))
                for before, after in ((0, 1), (100, 5_000), (40_000, 1), (30_000, 70_000), (size, size))
            ]
            for _ in range(2):  # the second time all blocks are known
                for start, end in ranges:
                    assert session.read_resident(cookie, start, end - start) == file.content[start:end]
            _flip_byte(damageable(cache)[0], at)
            for start, end in ranges:
                assert session.read_resident(cookie, start, end - start) is None
            _flip_byte(damageable(cache)[0], at)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_an_old_version_of_the_same_object_is_not_believed(tmp_path: Path, size: int) -> None:
    cache = tmp_path / "cache"
    await _fill(cache, size)
    entry = entry_of(cache, "file")
    data = entry if entry.is_file() else entry / "data"
    old = data.read_bytes()
    async with bound(cache) as session:
        await session.read(await session.open(Netfile("file", size, version=2)))
    data.write_bytes(old)
    async with bound(cache) as session:
        file = Netfile("file", size, version=2)
        assert await session.read(await session.open(file)) == file.content


async def test_a_cache_whose_directories_are_gone_serves_nothing_and_says_so(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    await _fill(cache, LARGE)
    async with bound(cache) as session:
        shutil.rmtree(cache / "cache")
        shutil.rmtree(cache / "graveyard")
        file = Netfile("file", LARGE)
        assert await session.read(await session.open(file)) == file.content
    async with bound(cache) as session:
        file = Netfile("file", LARGE)
        assert await session.read(await session.open(file)) == file.content


async def test_damage_is_counted_once_each_time_it_is_done(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    await _fill(cache, LARGE)
    file = Netfile("file", LARGE)
    async with bound(cache, verify="always") as session:
        cookie = await session.open(file)
        for turn in range(1, 4):
            FILE_DAMAGE["first byte flipped"](damageable(cache)[0])
            await session.read_cached(cookie)
            await session.read_cached(cookie)
            assert cookie.n_damaged == 16 * turn
            assert await session.read(cookie) == file.content
            assert session.read_resident(cookie, 0, LARGE) == file.content
