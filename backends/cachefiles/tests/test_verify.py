import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import xattr
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]
from test_damage import (  # type: ignore[import-not-found]
    ATTRIBUTE_DAMAGE,
    FILE_DAMAGE,
    LARGE,
    SMALL,
    entry_of,
)

from fscache_cachefiles import CachefilesBackend
from fscache_cachefiles.ledger import NOTHING

#: Damage that only the origin can tell: the label is one, but not that of the file.
UNTOLD = {"other version", "shortened label"}


async def _fill(cache: Path) -> None:
    async with bound(cache) as session:
        for name, size in (
            ("file", LARGE),
            ("small", SMALL),
            ("empty", 0),
            ("x" * 400, 10),
            ("\0" * 300, 10),
        ):
            await session.read(await session.open(Netfile(name, size)))
        part = await session.open(Netfile("part", LARGE))
        await session.fill(part, 3, 20)


async def test_a_sound_cache_has_no_problems(tmp_path: Path) -> None:
    await _fill(tmp_path)
    steps: list[tuple[int, int]] = []
    report = CachefilesBackend(tmp_path).verify_store(
        progress=lambda done, total: steps.append((done, total))
    )
    assert report.problems == []
    assert (report.n_indices, report.n_objects) == (2, 6)
    assert report.n_bytes >= LARGE + SMALL + 20 * 4096
    assert steps[-1][0] == steps[-1][1]


async def test_a_cache_can_be_verified_while_it_is_in_use(tmp_path: Path) -> None:
    await _fill(tmp_path)
    async with bound(tmp_path) as session:
        cookie = await session.open(Netfile("file", LARGE))
        assert CachefilesBackend(tmp_path).verify_store(repair=True).is_sound
        assert session.read_resident(cookie, 0, LARGE) == cookie.netfs_data.content


@pytest.mark.parametrize("which", ["small", "data", "map"])
@pytest.mark.parametrize("damage", FILE_DAMAGE)
async def test_every_damage_to_a_file_is_found_and_repaired(tmp_path: Path, which: str, damage: str) -> None:
    await _fill(tmp_path)
    entry = entry_of(tmp_path, "small" if which == "small" else "file")
    FILE_DAMAGE[damage](entry if which == "small" else entry / which)
    # What is not there is no fault: an object, or every entry of a map.
    missing = (which, damage) in (("small", "removed"), ("map", "zeroed"))
    await _found_and_repaired(tmp_path, missing=missing)


@pytest.mark.parametrize("damage", [name for name in ATTRIBUTE_DAMAGE if name not in UNTOLD])
@pytest.mark.parametrize("name", ["small", "file"])
async def test_every_damage_to_an_attribute_is_found_and_repaired(
    tmp_path: Path, name: str, damage: str
) -> None:
    await _fill(tmp_path)
    ATTRIBUTE_DAMAGE[damage](entry_of(tmp_path, name))
    await _found_and_repaired(tmp_path)


async def _found_and_repaired(cache: Path, *, missing: bool = False) -> None:
    backend = CachefilesBackend(cache)
    found = backend.verify_store()
    assert bool(found.problems) is not missing
    assert not any(problem.repaired for problem in found.problems)
    repaired = backend.verify_store(repair=True)
    assert [problem.path for problem in repaired.problems] == [problem.path for problem in found.problems]
    again = backend.verify_store(repair=True)
    assert again.problems == []
    assert again.drift == NOTHING
    for name, size in (("file", LARGE), ("small", SMALL)):
        for turn in range(2):
            file = Netfile(name, size)
            async with bound(cache) as session:
                assert await session.read(await session.open(file)) == file.content
            assert turn == 0 or file.n_fetched == 0


async def test_strays_are_found_and_removed_and_never_followed(tmp_path: Path) -> None:
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("data")
    await _fill(cache)
    container = entry_of(cache, "file").parent
    (cache / "cache" / "note").write_text("x")
    (cache / "cache" / "directory").mkdir()
    (container / "link").symlink_to(outside)
    (container / "+link").symlink_to(outside)
    (container / "D05wrong").write_text("x")
    (container / "tree").mkdir()
    (container / "tree" / "file").write_text("x")
    backend = CachefilesBackend(cache)
    assert len(backend.verify_store(repair=True).problems) == 6
    assert backend.verify_store().problems == []
    assert (outside / "precious").read_text() == "data"


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A directory that cannot be removed, in the place of a cache's index."""
    directory = tmp_path / "cache/a mount"
    directory.mkdir(parents=True)
    xattr.set(str(directory.parent), "user.CacheFiles.cache", b"C3")
    command = ["mount", "-t", "tmpfs", "none", str(directory)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no filesystem to mount here")
    yield directory
    subprocess.run(["umount", directory], check=True)


@pytest.mark.root
async def test_what_cannot_be_removed_is_told_and_does_not_keep_the_rest_from_it(
    tmp_path: Path, mount: Path
) -> None:
    await _fill(tmp_path)
    stray = mount.parent / "stray"
    stray.mkdir()
    report = CachefilesBackend(tmp_path).verify_store(repair=True)
    first, second = report.problems
    assert (first.path, first.repaired) == ("cache/a mount", False)
    assert "cannot be removed: Device or resource busy" in first.fault
    assert (second.path, second.repaired) == ("cache/stray", True)
    assert not stray.exists()
    assert report.n_objects == 6
