"""The hooks, called as core calls them, on real filesystems of fsspec."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from fsspec_session import opened, read  # type: ignore[import-not-found]

from fscache_core.errors import (
    CallerError,
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
    StaleError,
)
from fscache_core.hookspecs import FileKind, Location, Strength
from fscache_core.testing.http_origin import CountingOrigin, Fault
from fscache_core.testing.interruption import cancelled_after
from netfs_fsspec import FsspecNetfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = bytes(range(256)) * 4096  # 1 MiB


def quick(**options: object) -> FsspecNetfs:
    """An adapter that does not wait long before it tries again."""
    return FsspecNetfs(**{"backoff_seconds": 0.001, **options})  # type: ignore[arg-type]


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/tests/a.bin", DATA)
    yield filesystem
    filesystem.rm("/tests", recursive=True)


# -- names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "volume", "path"),
    [
        ("fsspec:gs://bucket/a/b", "fsspec:gs://bucket", "/a/b"),
        ("FSSPEC:GS://bucket", "fsspec:gs://bucket", "/"),
        ("fsspec:memory://a/b", "fsspec:memory://", "/a/b"),
        ("fsspec:file:///a/b c", "fsspec:file://", "/a/b c"),
        ("fsspec:ftp://joe@host:21/a", "fsspec:ftp://joe@host:21", "/a"),
        ("fsspec:zip://in/x::gs://bucket/a.zip", "fsspec:zip://::gs://bucket/a.zip", "/in/x"),
        ("fsspec:zip:///x::tar://a.zip::file:///a.tar", "fsspec:zip://::tar://a.zip::file:///a.tar", "/x"),
    ],
)
async def test_a_url_is_split_where_its_filesystem_ends(url: str, volume: str, path: str) -> None:
    netfs = FsspecNetfs()
    assert netfs.parse_url(url) == Location(volume, path)
    await netfs.open_volume(Location(volume, path))


@pytest.mark.parametrize(
    "url",
    [
        "gs://bucket/a",
        "fsspec://bucket/a",
        "fsspec:bucket/a",
        "fsspec:file://relative/a",
        "fsspec:simplecache::gs://bucket/a",
        "fsspec:filecache://::gs://bucket/a",
        "fsspec:zip://x::/a.zip",
        "fsspec:fscache://x",
    ],
)
def test_what_cannot_be_an_origin_is_refused(url: str) -> None:
    with pytest.raises(CallerError):
        FsspecNetfs().parse_url(url)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    for url in ("fsspec:ftp://joe:secret@host/a", "fsspec:zip://x::ftp://joe:secret@host/a.zip"):
        with pytest.raises(CallerError) as caught:
            FsspecNetfs().parse_url(url)
        assert "secret" not in str(caught.value)


async def test_an_unknown_protocol_is_a_mistake_of_the_caller() -> None:
    netfs = FsspecNetfs()
    async with opened(netfs, "fsspec:no-such-protocol://x/y") as (volume, path):
        with pytest.raises(CallerError, match="no-such-protocol"):
            await netfs.look_up(volume, path)


async def test_other_options_make_another_volume_unless_an_identity_is_given() -> None:
    location = Location("fsspec:gs://bucket", "/")
    keys = {
        netfs.get_key(await netfs.open_volume(location))
        for netfs in (
            FsspecNetfs(),
            FsspecNetfs(storage_options={"gs": {"token": "geheim"}}),
            FsspecNetfs(storage_options={"gs": {"token": "other"}}),
            FsspecNetfs(storage_options={"gs": {"token": "geheim"}}, identity="team"),
            FsspecNetfs(storage_options='{"gs": {"token": "other"}}', identity="team"),
            FsspecNetfs(storage_options={"s3": {"anon": True}}),
        )
    }
    assert len(keys) == 4
    assert not any(b"geheim" in key for key in keys)


async def test_keys_are_short_and_distinct() -> None:
    netfs = FsspecNetfs()
    volume = await netfs.open_volume(Location("fsspec:gs://bucket", "/"))
    names = ["/", "/a", "/" + "a" * 600, "/" + "a" * 601, "/\udcff"]
    keys = {netfs.get_key(netfs.name_file(volume, name)) for name in names}
    assert len(keys) == len(names)
    assert all(1 <= len(key) <= 511 for key in keys)


def test_importing_the_adapter_does_not_import_fsspec() -> None:
    program = "import sys, netfs_fsspec; netfs_fsspec.FsspecNetfs(); print('fsspec' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert printed.stdout.strip() == "False"


# -- local and memory --------------------------------------------------------------------


async def test_a_local_file_is_looked_up_and_read_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    os.utime(tmp_path / "f", ns=(1, 1_000_000_000_500_000_000))
    netfs = quick(piece_bytes=100_000)
    async with opened(netfs, f"fsspec:file://{tmp_path}/f") as (volume, path):
        file = await netfs.look_up(volume, path)
        attributes = netfs.get_attr(file)
        assert (attributes.kind, attributes.size, attributes.strength) == (
            FileKind.FILE,
            len(DATA),
            Strength.STRONG,
        )
        seen: list[int] = []
        assert await read(netfs, file, 5, 450_000, seen.append) == DATA[5:450_005]
        assert seen == [100_000, 200_000, 300_000, 400_000, 450_000]
        recalled = netfs.recall_file(volume, path, netfs.get_aux(file), len(DATA))
        assert recalled == file
        assert await read(netfs, recalled, 0, 9) == DATA[:9]


async def test_a_file_in_memory_is_dated_by_modified_as_info_has_no_date(memory: MemoryFileSystem) -> None:
    netfs = quick()
    async with opened(netfs, "fsspec:memory://tests/a.bin") as (volume, path):
        file = await netfs.look_up(volume, path)
        assert "modified" in netfs.get_attr(file).evidence
        assert await read(netfs, file) == DATA
        memory.pipe_file("/tests/a.bin", DATA[::-1])
        with pytest.raises(StaleError):
            await read(netfs, file)


async def test_a_file_that_changes_between_two_pieces_gives_no_further_byte(memory: MemoryFileSystem) -> None:
    netfs = quick(piece_bytes=100_000)
    async with opened(netfs, "fsspec:memory://tests/a.bin") as (volume, path):
        file = await netfs.look_up(volume, path)
        seen: list[int] = []

        def change(n_bytes: int) -> None:
            seen.append(n_bytes)
            if n_bytes == 200_000:
                memory.pipe_file("/tests/a.bin", DATA[::-1])

        buffer = bytearray(len(DATA))
        with pytest.raises(
            StaleError, match=r"^fsspec:memory:///tests/a.bin, bytes 200000-299999: it has changed"
        ):
            await netfs.fetch(file, 0, memoryview(buffer), change)
        assert seen == [100_000, 200_000]
        assert buffer == DATA[:200_000] + bytes(len(DATA) - 200_000)


async def test_a_listing_has_every_entry_sorted(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"12")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "below").write_bytes(b"")
    netfs = quick()
    async with opened(netfs, f"fsspec:file://{tmp_path}") as (volume, path):
        entries = await netfs.list_directory(volume, path)
        assert [(entry.name, entry.attributes.kind, entry.attributes.size) for entry in entries] == [
            ("a", FileKind.DIRECTORY, 0),
            ("b", FileKind.FILE, 2),
        ]
        assert netfs.get_attr(await netfs.look_up(volume, path)).kind is FileKind.DIRECTORY
        with pytest.raises(OriginNotFoundError):
            await netfs.list_directory(volume, path + "/b")
        with pytest.raises(OriginNotFoundError, match=r"^fsspec:file:///.*/none: "):
            await netfs.look_up(volume, path + "/none")


# -- archives ----------------------------------------------------------------------------


def archive(path: Path, data: bytes, mtime: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr(zipfile.ZipInfo("in/a.bin"), data)
        target.writestr(zipfile.ZipInfo("b.bin"), b"b")
    os.utime(path, (mtime, mtime))


async def test_a_file_in_an_archive_is_read_and_its_version_is_that_of_the_archive(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", DATA, 1_000_000_000)
    netfs = quick(piece_bytes=300_000)
    async with opened(netfs, f"fsspec:zip://in/a.bin::file://{tmp_path}/a.zip") as (volume, path):
        file = await netfs.look_up(volume, path)
        assert netfs.get_attr(file).strength is Strength.STRONG
        assert "CRC" in netfs.get_attr(file).evidence
        assert await read(netfs, file, 70_000, 500_000) == DATA[70_000:570_000]
        assert [entry.name for entry in await netfs.list_directory(volume, "/")] == ["b.bin", "in"]
        assert [entry.name for entry in await netfs.list_directory(volume, "/in")] == ["a.bin"]
        archive(tmp_path / "a.zip", DATA[::-1], 1_000_000_001)
        with pytest.raises(StaleError):
            await read(netfs, file, 0, 10)
        again = await netfs.look_up(volume, path)
        assert await read(netfs, again, 0, 10) == DATA[::-1][:10]


async def test_an_archive_replaced_by_one_with_the_same_times_is_told_by_its_inode(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", DATA, 1_000_000_000)
    archive(tmp_path / "b.zip", DATA[1:] + DATA[:1], 1_000_000_000)
    netfs = quick()
    async with opened(netfs, f"fsspec:zip://in/a.bin::file://{tmp_path}/a.zip") as (volume, path):
        file = await netfs.look_up(volume, path)
        (tmp_path / "b.zip").rename(tmp_path / "a.zip")
        with pytest.raises(StaleError):
            await read(netfs, file, 0, 10)


async def test_a_missing_member_and_a_missing_archive_are_not_found(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", DATA, 1_000_000_000)
    netfs = quick()
    for url in (f"fsspec:zip://none::file://{tmp_path}/a.zip", f"fsspec:zip://x::file://{tmp_path}/none.zip"):
        async with opened(netfs, url) as (volume, path):
            with pytest.raises(OriginNotFoundError):
                await netfs.look_up(volume, path)


# -- http, an asynchronous filesystem with a server behind it ----------------------------


@pytest.fixture
def origin() -> Iterator[CountingOrigin]:
    pytest.importorskip("aiohttp")
    with CountingOrigin() as server:
        server.put("a.bin", DATA, modified=1_000_000_000.0)
        yield server


async def test_a_file_of_a_server_is_read_and_costs_no_more_than_its_bytes(origin: CountingOrigin) -> None:
    netfs = quick(piece_bytes=300_000)
    async with opened(netfs, f"fsspec:{origin.url('a.bin')}") as (volume, path):
        file = await netfs.look_up(volume, path)
        assert netfs.get_attr(file).strength is Strength.STRONG
        assert await read(netfs, file) == DATA
        assert origin.bytes_sent == len(DATA)
        origin.put("a.bin", DATA[::-1])
        with pytest.raises(StaleError, match="bytes 0-9: it has changed"):
            await read(netfs, file, 0, 10)


async def test_a_server_without_ranges_and_validators_is_declared_as_such(origin: CountingOrigin) -> None:
    origin.ranges = False
    origin.validators = "none"
    netfs = quick()
    async with opened(netfs, f"fsspec:{origin.url('a.bin')}") as (volume, path):
        file = await netfs.look_up(volume, path)
        assert netfs.get_attr(file).strength is not Strength.STRONG
        assert await read(netfs, file, 70, 10) == DATA[70:80]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, OriginPermissionError), (404, OriginNotFoundError), (503, OriginUnreachableError)],
)
async def test_a_refusal_is_told_by_its_kind(
    origin: CountingOrigin, status: int, kind: type[OriginError]
) -> None:
    netfs = quick(retries=1)
    async with opened(netfs, f"fsspec:{origin.url('a.bin')}") as (volume, path):
        origin.fault("a.bin", Fault(status=status), times=100)
        with pytest.raises(kind):
            await netfs.look_up(volume, path)


@pytest.mark.parametrize("fault", [Fault(reset_after=1000), Fault(short_by=5), Fault(status=500)], ids=repr)
async def test_a_fault_that_passes_is_survived(origin: CountingOrigin, fault: Fault) -> None:
    netfs = quick()
    async with opened(netfs, f"fsspec:{origin.url('a.bin')}") as (volume, path):
        file = await netfs.look_up(volume, path)
        origin.fault("a.bin", fault)
        assert await read(netfs, file) == DATA


async def test_a_server_that_is_away_is_unreachable_and_not_empty(origin: CountingOrigin) -> None:
    netfs = quick(retries=0)
    async with opened(netfs, f"fsspec:{origin.url('a.bin')}") as (volume, path):
        origin.stop()
        with pytest.raises(OriginUnreachableError):
            await netfs.look_up(volume, path)


# -- filesystems that answer look-ups from listings ---------------------------------------


class ListingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Memory that looks a file up in the listing of its directory, which it keeps, as FTP and Azure do."""

    protocol = "listing"
    async_impl = True  #: so that several threads may use it at once
    #: What another thread's listing brings back, once, between a look-up's forgetting and its asking.
    late: ClassVar[list[tuple[str, list[dict[str, object]]]]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("listing:/")))

    def ls(self, path: str, detail: bool = True, **kwargs: object) -> list[dict[str, object]]:
        entries = self.dircache.get(path) or [
            {**entry, "mtime": entry.get("created")} for entry in super().ls(path, detail=True, **kwargs)
        ]
        self.dircache[path] = entries
        return entries

    def info(self, path: str, **kwargs: object) -> dict[str, object]:
        info: dict[str, object] = super().info(path, **kwargs)
        listed = [entry for entry in self.ls(self._parent(path)) if entry["name"] == info["name"]]
        return listed[0] if listed else info

    def invalidate_cache(self, path: str | None = None) -> None:
        if path is None:
            self.dircache.clear()
        else:
            self.dircache.pop(path, None)
        while self.late:
            directory, entries = self.late.pop()
            self.dircache[directory] = entries


@pytest.fixture
def listing(memory: MemoryFileSystem) -> type[ListingFileSystem]:
    fsspec.register_implementation("listing", ListingFileSystem, clobber=True)
    return ListingFileSystem


async def test_a_listing_that_a_filesystem_keeps_does_not_hide_a_change(
    listing: type[ListingFileSystem], memory: MemoryFileSystem
) -> None:
    netfs = quick()
    async with opened(netfs, "fsspec:listing://tests/a.bin") as (volume, path):
        assert await netfs.list_directory(volume, "/")
        file = await netfs.look_up(volume, path)
        memory.pipe_file("/tests/a.bin", DATA[::-1])
        with pytest.raises(StaleError):
            await read(netfs, file)
        assert await read(netfs, await netfs.look_up(volume, path)) == DATA[::-1]


async def test_a_listing_begun_before_a_change_does_not_answer_a_look_up_after_it(
    listing: type[ListingFileSystem], memory: MemoryFileSystem
) -> None:
    netfs = quick()
    async with opened(netfs, "fsspec:listing://tests/a.bin") as (volume, path):
        file = await netfs.look_up(volume, path)
        begun = fsspec.filesystem("listing", skip_instance_cache=True).ls("/tests")
        memory.pipe_file("/tests/a.bin", DATA[::-1])
        listing.late.append(("/tests", begun))
        with pytest.raises(StaleError):
            await read(netfs, file)
        assert listing.late == []


# -- a filesystem that misbehaves: registered with fsspec as a third party's -------------


class OddFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Memory, with answers a test chooses."""

    protocol = "odd"
    release = threading.Event()
    short = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("odd:/")))

    def info(self, path: str, **kwargs: object) -> dict[str, object]:
        if path.endswith("hang"):
            self.release.wait(60)
        info: dict[str, object] = super().info(path.removesuffix("hang"), **kwargs)
        info.pop("created", None)
        if path.endswith("link"):
            info["type"] = "link"
        if path.endswith("endless"):
            info["size"] = None
        return info

    def modified(self, path: str) -> object:
        raise NotImplementedError

    def cat_file(self, path: str, start: int = 0, end: int = 0, **kwargs: object) -> bytes:
        data: bytes = super().cat_file(path, start=start, end=end, **kwargs)
        return data[: len(data) - self.short]


@pytest.fixture
def odd(memory: MemoryFileSystem) -> Iterator[type[OddFileSystem]]:
    fsspec.register_implementation("odd", OddFileSystem, clobber=True)
    OddFileSystem.release.clear()
    OddFileSystem.short = 0
    yield OddFileSystem
    OddFileSystem.release.set()


async def test_what_tells_nothing_of_its_version_is_declared_so(odd: type[OddFileSystem]) -> None:
    netfs = quick()
    async with opened(netfs, "fsspec:odd://tests/a.bin") as (volume, path):
        file = await netfs.look_up(volume, path)
        assert netfs.get_attr(file).strength is Strength.NONE
        assert netfs.get_attr(file).evidence == "nothing"
        assert await read(netfs, file) == DATA


async def test_a_short_answer_is_an_error_and_nothing_of_it_is_used(odd: type[OddFileSystem]) -> None:
    netfs = quick()
    async with opened(netfs, "fsspec:odd://tests/a.bin") as (volume, path):
        file = await netfs.look_up(volume, path)
        odd.short = 1
        seen: list[int] = []
        with pytest.raises(OriginError, match="bytes 0-1048575: got 1048575 bytes"):
            await read(netfs, file, seen=seen.append)
        assert seen == []


async def test_a_call_that_hangs_is_a_timeout(odd: type[OddFileSystem]) -> None:
    netfs = quick(deadline_seconds=0.05)
    async with opened(netfs, "fsspec:odd://tests/a.bin") as (volume, path):
        with pytest.raises(OriginTimeoutError, match=r"no answer within 0\.05 s"):
            await netfs.look_up(volume, path + "hang")
        # Closing the volume does not wait for it: the call is released after the test.


async def test_a_fetch_cancelled_at_any_step_leaves_good_bytes(memory: MemoryFileSystem) -> None:
    netfs = quick(piece_bytes=300_000)
    async with opened(netfs, "fsspec:memory://tests/a.bin") as (volume, path):
        file = await netfs.look_up(volume, path)
        cancelled = True
        n_steps = 0
        while cancelled:
            buffer = bytearray(len(DATA))
            seen = [0]
            fetch = partial(netfs.fetch, file, 0, memoryview(buffer), seen.append)
            cancelled, _ = await cancelled_after(n_steps, fetch)
            assert buffer == DATA[: seen[-1]] + bytes(len(DATA) - seen[-1])
            n_steps += 1
        assert n_steps > 3
        assert seen[-1] == len(DATA)


@pytest.mark.parametrize(
    ("name", "cause"), [("link", "does not follow"), ("endless", "does not tell how long it is")]
)
async def test_a_file_that_cannot_be_read_as_one_is_refused(
    odd: type[OddFileSystem], memory: MemoryFileSystem, name: str, cause: str
) -> None:
    memory.pipe_file(f"/tests/{name}", b"x")
    netfs = quick()
    async with opened(netfs, f"fsspec:odd://tests/{name}") as (volume, path):
        with pytest.raises(OriginError, match=cause):
            await netfs.look_up(volume, path)


@pytest.mark.parametrize(
    "options",
    [
        {"storage_options": "no JSON"},
        {"storage_options": '{"gs": 1}'},
        {"storage_options": "[1]"},
        {"threads": "0"},
        {"piece_bytes": "x"},
    ],
)
def test_an_option_that_makes_no_sense_is_refused_by_name(options: dict[str, str]) -> None:
    with pytest.raises(CallerError, match=next(iter(options))):
        FsspecNetfs(**options)
