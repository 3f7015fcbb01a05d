"""The hooks: files of any mounted directory."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar
from urllib.parse import quote, unquote_to_bytes

import trio

from fscache_core.errors import (
    CallerError,
    FscacheError,
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
    StaleError,
)
from fscache_core.hookspecs import API_VERSION, DirectoryEntry, FileAttributes, Location, netfs_hook
from fscache_core.netfs import fit_key
from fscache_core.option import read_count, read_flag, read_number, read_size, read_words
from netfs_localdir import disk
from netfs_localdir.version import IGNORABLE, Filesystems, Version

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Sequence

R = TypeVar("R")

#: Both name the same files; to core they are two volumes.
_SCHEMES = ("file", "localdir")

#: What an errno says about the mount rather than about the file.
_UNREACHABLE = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN"),
        *("ENETUNREACH", "ENODEV", "ENOTCONN", "ENXIO", "EPIPE", "EREMOTEIO", "ESHUTDOWN"),
    )
    if hasattr(errno, name)
)
_ERRORS: dict[int, type[OriginError]] = {
    errno.ENOENT: OriginNotFoundError,
    errno.ENOTDIR: OriginNotFoundError,
    errno.EACCES: OriginPermissionError,
    errno.EPERM: OriginPermissionError,
    errno.ESTALE: StaleError,
    errno.ETIMEDOUT: OriginTimeoutError,
    **dict.fromkeys(_UNREACHABLE, OriginUnreachableError),
}


@dataclass(frozen=True, slots=True)
class LocaldirVolume:
    key: bytes
    limiter: trio.CapacityLimiter
    filesystems: Filesystems


@dataclass(frozen=True, slots=True)
class LocaldirFile:
    """A file by name; with ``version`` one that was looked up or recalled."""

    volume: LocaldirVolume
    path: str
    version: Version | None = None

    @property
    def known(self) -> Version:
        if self.version is None:
            raise CallerError(f"{_url(self.path)}: only its name is known")
        return self.version


class LocaldirNetfs:
    """Files of any mounted directory, as ``file:///path`` or ``localdir:///path``.  Options: README.md."""

    name = "localdir"
    version = 1
    api_version = API_VERSION

    def __init__(
        self,
        *,
        threads: int | str = 16,
        piece_bytes: int | str = 1 << 20,
        deadline_seconds: float | str = 60.0,
        clock_margin_seconds: float | str = 2.0,
        ignore: str | Iterable[str] = (),
        mount_points: str | Iterable[str] = (),
        shared: bool | str = False,
    ) -> None:
        self._threads = read_count("localdir: threads", threads)
        self._piece_size = read_size("localdir: piece_bytes", piece_bytes, at_least=4096)
        self._deadline_seconds = read_number("localdir: deadline_seconds", deadline_seconds, at_least=0.001)
        margin_seconds = read_number("localdir: clock_margin_seconds", clock_margin_seconds)
        self._clock_margin_ns = int(margin_seconds * 1e9)
        self._ignore = frozenset(read_words("localdir: ignore", ignore))
        if self._ignore - IGNORABLE:
            raise CallerError(
                f"localdir: ignore={','.join(sorted(self._ignore))}: can be {', '.join(sorted(IGNORABLE))}"
            )
        self._mount_points = read_words("localdir: mount_points", mount_points)
        for point in self._mount_points:
            if not os.path.isabs(point):
                raise CallerError(f"localdir: mount_points={point}: not an absolute path")
        self._shared = read_flag("localdir: shared", shared)

    # -- volumes and names ---------------------------------------------------------------

    @netfs_hook
    def parse_url(self, url: str) -> Location:
        scheme, colon, rest = url.partition(":")
        if not colon or scheme.lower() not in _SCHEMES:
            raise CallerError(f"{url}: not a file:// or localdir:// URL")
        if "?" in rest or "#" in rest:
            raise CallerError(f"{url}: write ? as %3F and # as %23 in the name of a local file")
        if rest.startswith("//"):
            host, slash, rest = rest[2:].partition("/")
            rest = slash + rest
            if host.lower() not in ("", "localhost"):
                raise CallerError(f"{url}: a local file has no host; write file:///path")
        if not rest.startswith("/"):
            raise CallerError(f"{url}: the path must be absolute; write file:///path")
        name = os.fsdecode(unquote_to_bytes(_encoded(rest)))
        return Location(f"{scheme.lower()}://", _canonical(name))

    @netfs_hook
    async def open_volume(self, location: Location) -> object:
        scheme = location.volume.removesuffix("://")
        if scheme not in _SCHEMES:
            raise CallerError(f"{location.volume}: not a volume of localdir")
        # Who may read what depends on the user, so users do not share what they read.
        key = scheme.encode() + (b"" if self._shared else b" uid=%d" % os.geteuid())
        if self._ignore:
            key += b" ignore=" + ",".join(sorted(self._ignore)).encode()
        return LocaldirVolume(key, trio.CapacityLimiter(self._threads), Filesystems(self._clock_margin_ns))

    @netfs_hook
    def name_file(self, volume: object, path: str) -> object:
        return LocaldirFile(_volume(volume), _canonical(path))

    @netfs_hook
    def recall_file(self, volume: object, path: str, aux: bytes, object_size: int) -> object:
        return LocaldirFile(_volume(volume), _canonical(path), Version.from_aux(aux, object_size))

    @netfs_hook
    def get_key(self, netfs_data: object) -> bytes:
        if isinstance(netfs_data, LocaldirVolume):
            return netfs_data.key
        return fit_key(os.fsencode(_file(netfs_data).path))

    @netfs_hook
    def get_attr(self, netfs_data: object) -> FileAttributes:
        return _file(netfs_data).known.attributes

    @netfs_hook
    def get_aux(self, netfs_data: object) -> bytes:
        return _file(netfs_data).known.aux

    # -- reading -------------------------------------------------------------------------

    @netfs_hook
    async def look_up(self, volume: object, path: str) -> object:
        where, path = _volume(volume), _canonical(path)
        version = await self._wait(where, path, "", disk.look_up, path, self._observe(where))
        return LocaldirFile(where, path, version)

    @netfs_hook
    async def fetch(
        self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        file = _file(netfs_data)
        reading = disk.Reading(file.path, file.known, self._observe(file.volume))
        done = 0
        try:
            while done < len(buffer):
                at, size = offset + done, min(self._piece_size, len(buffer) - done)
                last = done + size == len(buffer)
                what = f", bytes {at}-{at + size - 1}"
                # A thread stuck in a dead mount is left behind at the deadline, so it has memory of its own.
                piece = await self._wait(file.volume, file.path, what, reading.read_piece, at, size, last)
                buffer[done : done + size] = piece
                done += size
                arrived(done)
        finally:
            reading.close()

    @netfs_hook
    async def list_directory(self, volume: object, path: str) -> Sequence[DirectoryEntry]:
        where, path = _volume(volume), _canonical(path)
        try:
            entries = await self._wait(where, path, "", disk.list_directory, path, self._observe(where))
        except OriginNotFoundError as error:
            if error.errno == errno.ENOTDIR and await self._is_there(where, path):
                raise CallerError(f"{_url(path)} is not a directory", errno=errno.ENOTDIR) from None
            raise
        return [DirectoryEntry(name, version.attributes) for name, version in entries]

    async def _is_there(self, volume: LocaldirVolume, path: str) -> bool:
        """Whether a path that cannot be listed names something: ENOTDIR may as well be about a part of it."""
        return await self._wait(volume, path, "", os.path.exists, path)

    # -- writing -------------------------------------------------------------------------
    # A write is seen through to its end: one that is left behind in a thread could land after the next one.

    @netfs_hook
    async def put_file(
        self, volume: object, path: str, source: AsyncIterable[bytes], replaces: object | None
    ) -> object:
        where, path = _volume(volume), _canonical(path)
        old = None if replaces is None else _file(replaces).known
        replacement = await self._finish(where, path, disk.Replacement, path)
        try:
            async for chunk in source:
                await self._finish(where, path, replacement.write, chunk)
            version = await self._finish(where, path, replacement.publish, old, self._observe(where))
        finally:
            with trio.CancelScope(shield=True):
                await self._finish(where, path, replacement.discard)
        return LocaldirFile(where, path, version)

    @netfs_hook
    async def store(self, netfs_data: object, offset: int, buffer: memoryview) -> object:
        file = _file(netfs_data)
        observe = self._observe(file.volume)
        version = await self._finish(
            file.volume, file.path, disk.write, file.path, file.known, offset, buffer, observe
        )
        return LocaldirFile(file.volume, file.path, version)

    @netfs_hook
    async def truncate(self, netfs_data: object, size: int) -> object:
        file = _file(netfs_data)
        observe = self._observe(file.volume)
        version = await self._finish(
            file.volume, file.path, disk.truncate, file.path, file.known, size, observe
        )
        return LocaldirFile(file.volume, file.path, version)

    @netfs_hook
    async def rename(self, volume: object, path: str, new_path: str) -> None:
        await self._finish(_volume(volume), path, os.replace, _canonical(path), _canonical(new_path))

    @netfs_hook
    async def unlink(self, volume: object, path: str) -> None:
        await self._finish(_volume(volume), path, os.unlink, _canonical(path))

    @netfs_hook
    async def mkdir(self, volume: object, path: str, mode: int) -> None:
        await self._finish(_volume(volume), path, os.mkdir, _canonical(path), mode)

    @netfs_hook
    async def rmdir(self, volume: object, path: str) -> None:
        await self._finish(_volume(volume), path, os.rmdir, _canonical(path))

    @netfs_hook
    async def symlink(self, volume: object, target: str, path: str) -> None:
        await self._finish(_volume(volume), path, os.symlink, target, _canonical(path))

    @netfs_hook
    async def chmod(self, volume: object, path: str, mode: int) -> None:
        await self._finish(_volume(volume), path, os.chmod, _canonical(path), mode)

    @netfs_hook
    async def utimens(self, volume: object, path: str, atime_ns: int, mtime_ns: int) -> None:
        call = partial(os.utime, _canonical(path), ns=(atime_ns, mtime_ns))
        await self._finish(_volume(volume), path, call)

    # -- threads and errors --------------------------------------------------------------

    def _observe(self, volume: LocaldirVolume) -> disk.Observe:
        def observe(target: str | int, status: os.stat_result, fsid: int, now_ns: int) -> Version:
            margin_ns = volume.filesystems.margin_ns(status.st_dev, target)
            return Version.observe(status, fsid, now_ns=now_ns, margin_ns=margin_ns, ignore=self._ignore)

        return observe

    async def _wait(
        self, volume: LocaldirVolume, path: str, what: str, call: Callable[..., R], *args: object
    ) -> R:
        """Run ``call`` in a thread until the deadline, and leave it behind then."""
        try:
            with trio.fail_after(self._deadline_seconds):
                return await trio.to_thread.run_sync(
                    call, *args, abandon_on_cancel=True, limiter=volume.limiter
                )
        except trio.TooSlowError:
            message = f"{_url(path)}{what}: no answer within {self._deadline_seconds:g} s"
            raise OriginTimeoutError(message) from None
        except OSError as error:
            self._fail(error, path, what)

    async def _finish(self, volume: LocaldirVolume, path: str, call: Callable[..., R], *args: object) -> R:
        """Run ``call`` in a thread to its end."""
        try:
            return await trio.to_thread.run_sync(call, *args, limiter=volume.limiter)
        except OSError as error:
            self._fail(error, path, "")

    def _fail(self, error: OSError, path: str, what: str) -> NoReturn:
        """Raise ``error`` as the OriginError it amounts to, naming origin, file and range."""
        where = f"{_url(path)}{what}"
        if isinstance(error, FscacheError):
            raise type(error)(f"{where}: {error.message}") from error.__cause__
        number = error.errno or errno.EIO
        cause = error.strerror or str(error)
        kind = _ERRORS.get(number, OriginError)
        if kind is OriginNotFoundError:
            for point in self._mount_points:
                if path.startswith(point.rstrip("/") + "/") and not os.path.ismount(point):
                    kind, number, cause = (
                        OriginUnreachableError,
                        errno.EHOSTUNREACH,
                        f"{point} is not mounted",
                    )
        raise kind(f"{where}: {cause}", errno=number) from error


def _volume(volume: object) -> LocaldirVolume:
    if not isinstance(volume, LocaldirVolume):
        raise CallerError(f"not a volume of localdir: {volume!r}")
    return volume


def _file(netfs_data: object) -> LocaldirFile:
    if not isinstance(netfs_data, LocaldirFile):
        raise CallerError(f"not a file of localdir: {netfs_data!r}")
    return netfs_data


def _canonical(path: str) -> str:
    """Drop empty and ``.`` parts.  ``..`` stays: with links it need not be the directory named before it."""
    if not path.startswith("/"):
        raise CallerError(f"{path!r}: not an absolute path")
    if "\0" in path:
        raise CallerError(f"{path!r}: a file name cannot hold a NUL")
    _encoded(path)
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _encoded(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError as error:
        raise CallerError(f"{name!r}: no file name: {error.reason}") from None


def _url(path: str) -> str:
    return "file://" + quote(os.fsencode(path))
