"""The hooks: files of any fsspec filesystem."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import trio

from fscache_core.errors import (
    CallerError,
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
)
from fscache_core.hookspecs import API_VERSION, DirectoryEntry, FileAttributes, Location, netfs_hook
from fscache_core.late_import import importing
from fscache_core.netfs import fit_key
from fscache_core.option import read_count, read_number, read_size, read_text, read_words
from netfs_fsspec.failure import fail
from netfs_fsspec.url import Place, split
from netfs_fsspec.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from netfs_fsspec.filesystem import Source

R = TypeVar("R")


@dataclass(slots=True, eq=False)
class FsspecVolume:
    place: Place
    key: bytes
    options: Mapping[str, Mapping[str, object]] = field(repr=False)
    opening: trio.Lock = field(default_factory=trio.Lock)
    source: Source | None = None
    limiter: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))


@dataclass(frozen=True, slots=True)
class FsspecFile:
    """A file by name; with ``version`` one that was looked up or recalled."""

    volume: FsspecVolume
    path: str
    version: Version | None = None

    @property
    def known(self) -> Version:
        if self.version is None:
            raise CallerError(f"{self.url}: only its name is known")
        return self.version

    @property
    def url(self) -> str:
        return f"fsspec:{self.volume.place.url(self.path)}"


class FsspecNetfs:
    """Files of fsspec filesystems, as ``fsspec:PROTOCOL://...``.  Options: README.md."""

    name = "fsspec"
    version = 1
    api_version = API_VERSION

    def __init__(
        self,
        *,
        storage_options: str | Mapping[str, Mapping[str, object]] = "",
        identity: str = "",
        trust: str | Iterable[str] = (),
        threads: int | str = 16,
        piece_bytes: int | str = 4 << 20,
        deadline_seconds: float | str = 60.0,
        retries: int | str = 3,
        backoff_seconds: float | str = 0.1,
        clock_margin_seconds: float | str = 2.0,
    ) -> None:
        self._storage_options = _table(storage_options)
        self._identity = read_text("fsspec: identity", identity)
        self._trusted = frozenset(read_words("fsspec: trust", trust))
        self._threads = read_count("fsspec: threads", threads)
        self._piece_size = read_size("fsspec: piece_bytes", piece_bytes, at_least=4096)
        self._deadline_seconds = read_number("fsspec: deadline_seconds", deadline_seconds, at_least=0.001)
        self._retries = read_count("fsspec: retries", retries, at_least=0)
        self._backoff_seconds = read_number("fsspec: backoff_seconds", backoff_seconds)
        margin_seconds = read_number("fsspec: clock_margin_seconds", clock_margin_seconds)
        self._margin_ns = int(margin_seconds * 1e9)

    # -- volumes and names ---------------------------------------------------------------

    @netfs_hook
    def parse_url(self, url: str) -> Location:
        return split(url)

    @netfs_hook
    async def open_volume(self, location: Location) -> object:
        place = Place.of(location.volume)
        options = {
            name: self._storage_options[name] for name in place.protocols if name in self._storage_options
        }
        # Most filesystems find credentials by themselves, in places that belong to the user.
        identity = self._identity or f"uid={os.geteuid()}"
        if options and not self._identity:
            text = json.dumps(options, sort_keys=True, default=str)
            identity += f" options={hashlib.sha256(text.encode()).hexdigest()[:16]}"
        return FsspecVolume(place, fit_key(f"{location.volume} {identity}".encode()), options)

    @netfs_hook
    async def close_volume(self, volume: object) -> None:
        where = _volume(volume)
        source, where.source = where.source, None
        if source is not None:
            await trio.to_thread.run_sync(source.close)  # not behind a thread that hangs

    @netfs_hook
    def name_file(self, volume: object, path: str) -> object:
        return FsspecFile(_volume(volume), path)

    @netfs_hook
    def recall_file(self, volume: object, path: str, aux: bytes, object_size: int) -> object:
        return FsspecFile(_volume(volume), path, Version.from_aux(aux, object_size))

    @netfs_hook
    def get_key(self, netfs_data: object) -> bytes:
        if isinstance(netfs_data, FsspecVolume):
            return netfs_data.key
        return fit_key(_file(netfs_data).path.encode("utf-8", "surrogateescape"))

    @netfs_hook
    def get_attr(self, netfs_data: object) -> FileAttributes:
        return _file(netfs_data).known.attributes

    @netfs_hook
    def get_aux(self, netfs_data: object) -> bytes:
        return _file(netfs_data).known.aux

    # -- reading -------------------------------------------------------------------------

    @netfs_hook
    async def look_up(self, volume: object, path: str) -> object:
        file = FsspecFile(_volume(volume), path)
        source = await self._source(file.volume, file.url)
        version = await self._persist(file.volume, file.url, source.look_up, path)
        return FsspecFile(file.volume, path, version)

    @netfs_hook
    async def fetch(
        self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        file = _file(netfs_data)
        source = await self._source(file.volume, file.url)
        done = 0
        while done < len(buffer):
            at, size = offset + done, min(self._piece_size, len(buffer) - done)
            where = f"{file.url}, bytes {at}-{at + size - 1}"
            piece = await self._persist(
                file.volume, where, source.read, file.path, file.known, at, size, done == 0
            )
            buffer[done : done + size] = piece
            done += size
            arrived(done)

    @netfs_hook
    async def list_directory(self, volume: object, path: str) -> Sequence[DirectoryEntry]:
        file = FsspecFile(_volume(volume), path)
        source = await self._source(file.volume, file.url)
        entries = await self._persist(file.volume, file.url, source.list_directory, path)
        return [DirectoryEntry(name, version.attributes) for name, version in entries]

    # -- threads and errors --------------------------------------------------------------

    async def _source(self, volume: FsspecVolume, where: str) -> Source:
        async with volume.opening:
            if volume.source is not None:
                return volume.source
            # fsspec and what its filesystems need are imported here, at the first need of the origin.
            source, concurrent = await self._in_thread(volume, where, self._open, volume)
            volume.limiter.total_tokens = self._threads if concurrent else 1
            volume.source = source
            return source

    def _open(self, volume: FsspecVolume) -> tuple[Source, bool]:
        with importing:
            from netfs_fsspec.filesystem import Source, import_filesystem

            for protocol in volume.place.protocols:
                import_filesystem(protocol)
        source = Source(volume.place, volume.options, self._margin_ns, self._trusted)
        return source, source.concurrent

    async def _persist(self, volume: FsspecVolume, where: str, call: Callable[..., R], *args: object) -> R:
        """Run ``call`` in a thread, and again after failures that may pass."""
        failures = 0
        while True:
            try:
                return await self._in_thread(volume, where, call, *args)
            except (OriginNotFoundError, OriginPermissionError, OriginTimeoutError):
                raise
            except OriginError as error:
                failures += 1
                if failures > self._retries or error.errno == errno.ESTALE:
                    raise
                delay = min(10.0, self._backoff_seconds * 2.0**failures) * random.uniform(0.5, 1)
                await trio.sleep(delay)

    async def _in_thread(self, volume: FsspecVolume, where: str, call: Callable[..., R], *args: object) -> R:
        """Run ``call`` in a thread until the deadline, and leave it behind then."""
        try:
            with trio.fail_after(self._deadline_seconds):
                return await trio.to_thread.run_sync(
                    call, *args, abandon_on_cancel=True, limiter=volume.limiter
                )
        except trio.TooSlowError:
            message = f"{where}: no answer within {self._deadline_seconds:g} s"
            raise OriginTimeoutError(message) from None
        except Exception as error:  # a filesystem may raise anything
            fail(where, error)


def _volume(volume: object) -> FsspecVolume:
    if not isinstance(volume, FsspecVolume):
        raise CallerError(f"not a volume of fsspec: {volume!r}")
    return volume


def _file(netfs_data: object) -> FsspecFile:
    if not isinstance(netfs_data, FsspecFile):
        raise CallerError(f"not a file of fsspec: {netfs_data!r}")
    return netfs_data


def _table(value: str | Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """Options by protocol, from a table or from JSON."""
    found: object = value or {}
    if isinstance(value, str) and value:
        try:
            found = json.loads(value)
        except ValueError as error:
            raise CallerError(f"fsspec: storage_options: not JSON: {error}") from None
    if not isinstance(found, Mapping) or not all(isinstance(each, Mapping) for each in found.values()):
        raise CallerError(
            'fsspec: storage_options: not a table by protocol, such as {"gs": {"token": "anon"}}'
        )
    return {str(name): dict(each) for name, each in found.items()}
