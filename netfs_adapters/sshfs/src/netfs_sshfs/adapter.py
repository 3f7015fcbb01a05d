"""The adapter: the hooks of `fscache_core.hookspecs.NetfsSpec` for files on an SFTP server."""

from __future__ import annotations

import errno
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import trio

from fscache_core.errors import CallerError, OriginError, StaleError
from fscache_core.hookspecs import API_VERSION, DirectoryEntry, FileKind, Location, netfs_hook
from fscache_core.netfs import fit_key
from fscache_core.option import read_count, read_number, read_text
from netfs_sshfs.file import File
from netfs_sshfs.options import Options, paths
from netfs_sshfs.url import printable, split_url, wire_path
from netfs_sshfs.version import Version
from netfs_sshfs.volume import Volume

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterable, Awaitable, Callable, Sequence

    from fscache_core.hookspecs import AuxOutcome, FileAttributes
    from netfs_sshfs.connection import Connection, Session
    from netfs_sshfs.writing import Writer

T = TypeVar("T")

_BATCH_SIZE = 4 << 20  #: bytes of a stream gathered before they are sent
_CLEAN_UP_SECONDS = 5.0


class SshfsNetfs:
    """Files on an SFTP server.

    Args:
      known_hosts: files of host keys; default what ssh_config says, else ``~/.ssh/known_hosts``.
      client_keys: private keys; default the agent's and those in ``~/.ssh``.
      config: ssh_config files; default ``~/.ssh/config``.
      proxy_jump: ``user@host:port`` to go through; default what ssh_config says.
      connect_timeout: seconds for one attempt to connect and log in.
      deadline_seconds: seconds without any progress after which an operation fails.
      reconnect_seconds: how long after a loss of the connection new operations wait for the server; later
        they fail at once.
      outage_seconds: likewise for reads, also those under way.
      keepalive_seconds: idle seconds after which the server is asked whether it is there; 0 for never;
        default what ssh_config says, else 10.
      clock_margin_seconds: by how much this machine's clock may be ahead of the server's.
      max_requests: read requests under way per fetch.
      max_open_files: handles kept open at the server, per volume.

    Raises:
      CallerError: an option makes no sense.
    """

    name = "sshfs"
    version = 1
    api_version = API_VERSION

    def __init__(
        self,
        *,
        known_hosts: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        client_keys: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        config: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        proxy_jump: str | None = None,
        connect_timeout: float | str = 15,
        deadline_seconds: float | str = 60,
        reconnect_seconds: float | str = 5,
        outage_seconds: float | str = 15,
        keepalive_seconds: float | str | None = None,
        clock_margin_seconds: float | str = 2,
        max_requests: int | str = 128,
        max_open_files: int | str = 32,
    ) -> None:
        self._options = Options(
            known_hosts=paths("known_hosts", known_hosts),
            client_keys=paths("client_keys", client_keys),
            config=paths("config", config),
            proxy_jump=read_text("sshfs: proxy_jump", proxy_jump) or None,
            connect_timeout=read_number("sshfs: connect_timeout", connect_timeout, at_least=0.001),
            deadline_seconds=read_number("sshfs: deadline_seconds", deadline_seconds, at_least=0.001),
            reconnect_seconds=read_number("sshfs: reconnect_seconds", reconnect_seconds),
            outage_seconds=read_number("sshfs: outage_seconds", outage_seconds),
            keepalive_seconds=None
            if keepalive_seconds is None
            else read_number("sshfs: keepalive_seconds", keepalive_seconds),
            clock_margin_seconds=read_number("sshfs: clock_margin_seconds", clock_margin_seconds),
            max_requests=read_count("sshfs: max_requests", max_requests),
            max_open_files=read_count("sshfs: max_open_files", max_open_files),
        )

    # Volumes and names.

    @netfs_hook
    def parse_url(self, url: str) -> Location:
        endpoint, path = split_url(url, self._options.config)
        return Location(str(endpoint), path)

    @netfs_hook
    async def open_volume(self, location: Location) -> Volume:
        endpoint, _ = split_url(location.volume, self._options.config)
        return Volume(endpoint, self._options)

    @netfs_hook
    async def close_volume(self, volume: object) -> None:
        await _volume(volume).close()

    @netfs_hook
    def get_key(self, netfs_data: object) -> bytes:
        if isinstance(netfs_data, Volume):
            return str(netfs_data).encode("utf-8", "surrogateescape")
        return fit_key(_file(netfs_data).path.encode("utf-8", "surrogateescape"))

    @netfs_hook
    def name_file(self, volume: object, path: str) -> File:
        _check_path(path)
        return File(_volume(volume), path)

    # Versions.

    @netfs_hook
    def get_attr(self, netfs_data: object) -> FileAttributes:
        return _file(netfs_data).known_version.attributes()

    @netfs_hook
    def get_aux(self, netfs_data: object) -> bytes:
        return _file(netfs_data).known_version.aux()

    @netfs_hook
    def check_aux(self, netfs_data: object, aux: bytes, object_size: int) -> AuxOutcome:
        return _file(netfs_data).known_version.check(aux, object_size)

    @netfs_hook
    def recall_file(self, volume: object, path: str, aux: bytes, object_size: int) -> File:
        _check_path(path)
        return File(_volume(volume), path, Version.from_aux(aux, object_size), recalled=True)

    # Reading.

    @netfs_hook
    async def look_up(self, volume: object, path: str) -> File:
        target = _volume(volume)
        _check_path(path)

        async def ask(session: Session, progressed: Callable[[], None]) -> Version:
            asked_ns = time.time_ns()
            attributes = await session.sftp.stat(wire_path(path))
            if attributes.size is None:
                raise OriginError("the server does not tell the size")
            return Version.from_attributes(attributes, asked_ns, target.options.clock_margin_ns)

        return File(target, path, await _do(target, target.describe(path), ask, repeat=True))

    @netfs_hook
    async def fetch(
        self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        file = _file(netfs_data)
        version = file.known_version
        what = f"{file}, bytes {offset} to {offset + len(buffer) - 1}"
        if version.kind is FileKind.DIRECTORY:
            raise OriginError(f"{what}: is a directory", errno=errno.EISDIR)
        if version.kind is not FileKind.FILE:
            raise OriginError(f"{what}: not a regular file")
        if file.recalled and not version.strong:
            # What is cached of it may be from before a second change within the same second.
            raise StaleError(f"{what}: the cached version cannot be told from a later one")
        done = 0

        async def read(connection: Connection, report: Callable[[int], None]) -> None:
            async def attempt(session: Session, progressed: Callable[[], None]) -> None:
                start = done

                def landed(n: int) -> None:
                    nonlocal done
                    done = start + n
                    report(done)

                await session.handles.read(file, offset + start, buffer[start:], landed, progressed)

            await connection.use(what, attempt, repeat=True, persist=True)

        await file.volume.run(read, arrived)

    @netfs_hook
    async def list_directory(self, volume: object, path: str) -> list[DirectoryEntry]:
        target = _volume(volume)
        _check_path(path)

        async def ask(session: Session, progressed: Callable[[], None]) -> list[DirectoryEntry]:
            from asyncssh import SFTPError  # which there is a session of, so this takes no time

            asked_ns = time.time_ns()
            entries = []
            listed = []
            try:
                async for entry in session.sftp.scandir(wire_path(path)):
                    progressed()
                    listed.append(entry)
            except SFTPError:
                # Of a file most servers say that there is none.
                with suppress(SFTPError):
                    kind = stat.S_IFMT((await session.sftp.stat(wire_path(path))).permissions or 0)
                    if kind not in (0, stat.S_IFDIR):
                        raise CallerError("is not a directory", errno=errno.ENOTDIR) from None
                raise
            for entry in listed:
                name = entry.filename
                assert isinstance(name, bytes)  # because the path is
                if name not in (b".", b".."):
                    version = Version.from_attributes(entry.attrs, asked_ns, target.options.clock_margin_ns)
                    entries.append(
                        DirectoryEntry(name.decode("utf-8", "surrogateescape"), version.attributes())
                    )
            return sorted(entries, key=lambda entry: entry.name)

        return await _do(target, target.describe(path), ask, repeat=True)

    # Writing through.

    @netfs_hook
    async def put_file(
        self, volume: object, path: str, source: AsyncIterable[bytes], replaces: object | None
    ) -> File:
        target = _volume(volume)
        _check_path(path)
        what = target.describe(path)
        raw_path = wire_path(path)
        replaced = None if replaces is None else _file(replaces).known_version
        batch = bytearray()
        upload = await _do(target, what, lambda s, _: s.writer.begin_upload(raw_path), repeat=False)

        async def write(_: Session, progressed: Callable[[], None]) -> None:
            await upload.write(batch, progressed)
            batch.clear()

        try:
            async for chunk in source:
                batch += chunk
                if len(batch) >= _BATCH_SIZE:
                    await _do(target, what, write, repeat=False)
            await _do(target, what, write, repeat=False)
            version = await _do(target, what, lambda *_: upload.commit(replaced), repeat=False)
        except BaseException:
            with trio.move_on_after(_CLEAN_UP_SECONDS, shield=True), suppress(OriginError):
                await _do(target, what, lambda s, _: s.writer.abandon(upload), repeat=True)
            raise
        return File(target, path, version)

    @netfs_hook
    async def store(self, netfs_data: object, offset: int, buffer: memoryview) -> File:
        span = f", bytes {offset} to {offset + len(buffer) - 1}"
        return await _change(_file(netfs_data), span, offset=offset, buffer=buffer)

    @netfs_hook
    async def truncate(self, netfs_data: object, size: int) -> File:
        return await _change(_file(netfs_data), "", size=size)

    @netfs_hook
    async def rename(self, volume: object, path: str, new_path: str) -> None:
        _check_path(new_path)
        raw_path, raw_new_path = wire_path(path), wire_path(new_path)
        await _alter(volume, path, lambda writer: writer.rename(raw_path, raw_new_path))

    @netfs_hook
    async def unlink(self, volume: object, path: str) -> None:
        await _alter(volume, path, lambda writer: writer.unlink(wire_path(path)))

    @netfs_hook
    async def mkdir(self, volume: object, path: str, mode: int) -> None:
        await _alter(volume, path, lambda writer: writer.mkdir(wire_path(path), mode))

    @netfs_hook
    async def rmdir(self, volume: object, path: str) -> None:
        await _alter(volume, path, lambda writer: writer.rmdir(wire_path(path)))

    @netfs_hook
    async def symlink(self, volume: object, target: str, path: str) -> None:
        raw_target = target.encode("utf-8", "surrogateescape")
        await _alter(volume, path, lambda writer: writer.symlink(raw_target, wire_path(path)))

    @netfs_hook
    async def chmod(self, volume: object, path: str, mode: int) -> None:
        await _alter(volume, path, lambda writer: writer.chmod(wire_path(path), mode))

    @netfs_hook
    async def utimens(self, volume: object, path: str, atime_ns: int, mtime_ns: int) -> None:
        if not all(0 <= time_ns < 2**32 * 10**9 for time_ns in (atime_ns, mtime_ns)):
            raise CallerError(
                f"{_volume(volume).describe(path)}: SFTP has no times before 1970 or after 2106"
            )
        await _alter(volume, path, lambda writer: writer.utimens(wire_path(path), atime_ns, mtime_ns))


async def _do(
    volume: Volume,
    what: str,
    work: Callable[[Session, Callable[[], None]], Awaitable[T]],
    *,
    repeat: bool,
) -> T:
    """Do something with a session of the volume; see `Connection.use`."""

    async def job(connection: Connection, report: Callable[[int], None]) -> T:
        return await connection.use(what, work, repeat=repeat)

    return await volume.run(job)


async def _alter(volume: object, path: str, work: Callable[[Writer], Awaitable[None]]) -> None:
    """Do something that may have been done even if the connection was lost before the answer came."""
    target = _volume(volume)
    _check_path(path)
    await _do(target, target.describe(path), lambda session, _: work(session.writer), repeat=False)


async def _change(
    file: File, span: str, *, offset: int = 0, buffer: memoryview | None = None, size: int | None = None
) -> File:
    """Change an existing file; returns it in its new version."""
    raw_path, old = file.wire_path, file.known_version

    async def work(session: Session, progressed: Callable[[], None]) -> Version:
        return await session.writer.change(raw_path, old, progressed, offset=offset, buffer=buffer, size=size)

    return File(file.volume, file.path, await _do(file.volume, f"{file}{span}", work, repeat=False))


def _volume(volume: object) -> Volume:
    if not isinstance(volume, Volume):
        raise CallerError(f"not a volume of sshfs: {volume!r}")
    return volume


def _file(netfs_data: object) -> File:
    if not isinstance(netfs_data, File):
        raise CallerError(f"not a file of sshfs: {netfs_data!r}")
    return netfs_data


def _check_path(path: str) -> None:
    if not path.startswith("/") or "\0" in path:
        raise CallerError(f"not an absolute path: {printable(path)!r}")
    wire_path(path)
