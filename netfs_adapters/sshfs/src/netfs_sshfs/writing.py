"""Changing files at the server.  What returns has been done there.

Everything here runs in the asyncio loop.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncssh

from fscache_core.errors import OriginError, StaleError
from netfs_sshfs.loop import together
from netfs_sshfs.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from netfs_sshfs.handles import Handles
    from netfs_sshfs.options import Options

_MISSING = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)


class Writer:
    """Changes files by way of one session."""

    def __init__(self, sftp: asyncssh.SFTPClient, handles: Handles, options: Options) -> None:
        self._sftp = sftp
        self._handles = handles
        self._options = options
        # What a server does not tell (limits@openssh.com) is what every server must take: 32 KiB.
        self._block_size = min(sftp.limits.max_write_len or 32768, 262144)

    async def begin_upload(self, path: bytes) -> Upload:
        """Make a temporary file beside ``path``, with the permissions of the file it is to replace."""
        permissions = None
        with suppress(*_MISSING):
            old = await self._sftp.lstat(path)
            if stat.S_ISLNK(old.permissions or 0):
                path = await self._sftp.realpath(path)  # the file is replaced, not the link to it
                old = await self._sftp.stat(path)
            permissions = old.permissions
        if stat.S_ISDIR(permissions or 0):
            raise OriginError("is a directory", errno=errno.EISDIR)
        temporary = posixpath.join(posixpath.dirname(path), b".fscache-" + os.urandom(8).hex().encode())
        flags = asyncssh.FXF_READ | asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
        remote = await self._sftp.open(temporary, flags, encoding=None, block_size=None)
        if permissions is not None:
            await remote.setstat(asyncssh.SFTPAttrs(permissions=stat.S_IMODE(permissions)))
        return Upload(self, remote, temporary, path)

    async def abandon(self, upload: Upload) -> None:
        """Remove what an upload, perhaps of an earlier session, has left."""
        self._handles.close_later(upload.remote)
        with suppress(*_MISSING):
            await self._sftp.remove(upload.temporary)

    async def change(
        self,
        path: bytes,
        version: Version,
        progressed: Callable[[], None],
        *,
        offset: int = 0,
        buffer: memoryview | None = None,
        size: int | None = None,
    ) -> Version:
        """Write ``buffer`` at ``offset``, or set the size; return the new version.

        Raises:
          StaleError: it is not the version that was to be changed.
        """
        flags = asyncssh.FXF_READ | asyncssh.FXF_WRITE
        remote = await self._sftp.open(path, flags, encoding=None, block_size=None)
        try:
            _expect(version, await self.version(remote))
            if buffer is not None:
                await self.write(remote, offset, buffer, progressed)
            if size is not None:
                await remote.truncate(size)
            changed = await self.version(remote)
        except BaseException:
            self._handles.close_later(remote)
            raise
        await remote.close()  # waited for, because there are servers that write only now
        return changed

    async def write(
        self,
        remote: asyncssh.SFTPClientFile,
        offset: int,
        buffer: memoryview,
        progressed: Callable[[], None],
    ) -> None:
        """Write a range of an open file, with several requests under way."""
        starts = iter(range(0, len(buffer), self._block_size))

        async def write_blocks() -> None:
            for start in starts:
                await remote.write(bytes(buffer[start : start + self._block_size]), offset + start)
                progressed()

        n_requests = min(self._options.max_requests, -(-len(buffer) // self._block_size))
        await together(*(write_blocks() for _ in range(n_requests)))

    async def version(self, remote: asyncssh.SFTPClientFile) -> Version:
        """The version of an open file."""
        asked_ns = time.time_ns()
        return Version.from_attributes(await remote.stat(), asked_ns, self._options.clock_margin_ns)

    async def check(self, path: bytes, version: Version) -> None:
        """Make sure that a file is of a version.

        Raises:
          StaleError: it is not.
        """
        try:
            there = await self._sftp.stat(path)
        except _MISSING as error:
            raise StaleError("gone at the origin") from error
        _expect(version, Version.from_attributes(there, 0, 0))

    async def rename(self, path: bytes, new_path: bytes) -> None:
        """Rename, replacing what has the new name."""
        try:
            await self._sftp.posix_rename(path, new_path)
        except asyncssh.SFTPOpUnsupported:
            # For a moment there is no file of that name: SFTP 3 alone has nothing better.
            with suppress(*_MISSING):
                await self._sftp.remove(new_path)
            await self._sftp.rename(path, new_path)

    # SFTP 3 says of most failures no more than that they are some.  What is in the way is looked for.

    async def mkdir(self, path: bytes, mode: int) -> None:
        try:
            await self._sftp.mkdir(path, asyncssh.SFTPAttrs(permissions=mode))
        except asyncssh.SFTPFailure as error:
            await self._refuse_existing(path, error)
            raise

    async def symlink(self, target: bytes, path: bytes) -> None:
        try:
            await self._sftp.symlink(target, path)
        except asyncssh.SFTPFailure as error:
            await self._refuse_existing(path, error)
            raise

    async def rmdir(self, path: bytes) -> None:
        try:
            await self._sftp.rmdir(path)
        except asyncssh.SFTPFailure as error:
            if any(entry.filename not in (b".", b"..") for entry in await self._sftp.readdir(path)):
                raise OriginError("directory not empty", errno=errno.ENOTEMPTY) from error
            raise

    async def unlink(self, path: bytes) -> None:
        try:
            await self._sftp.remove(path)
        except asyncssh.SFTPFailure as error:
            if stat.S_ISDIR((await self._sftp.lstat(path)).permissions or 0):
                raise OriginError("is a directory", errno=errno.EISDIR) from error
            raise

    async def chmod(self, path: bytes, mode: int) -> None:
        await self._sftp.chmod(path, mode)

    async def utimens(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        await self._sftp.utime(path, ns=(atime_ns, mtime_ns))

    async def _refuse_existing(self, path: bytes, cause: Exception) -> None:
        with suppress(*_MISSING):
            await self._sftp.lstat(path)
            raise OriginError("exists already", errno=errno.EEXIST) from cause


class Upload:
    """A whole file being written under a temporary name beside its own.

    Other clients see the old file, or none, until `commit` renames it.
    """

    def __init__(
        self, writer: Writer, remote: asyncssh.SFTPClientFile, temporary: bytes, path: bytes
    ) -> None:
        self.remote = remote
        self.temporary = temporary
        self._writer = writer
        self._path = path
        self._size = 0

    async def write(self, data: bytearray, progressed: Callable[[], None]) -> None:
        """Add to the end."""
        with memoryview(data) as buffer:
            await self._writer.write(self.remote, self._size, buffer, progressed)
        self._size += len(data)

    async def commit(self, replaces: Version | None) -> Version:
        """Put the file in its place.

        Raises:
          StaleError: ``replaces`` is not what is there.
        """
        version = await self._writer.version(self.remote)
        await self.remote.close()
        if replaces is not None:
            await self._writer.check(self._path, replaces)
        await self._writer.rename(self.temporary, self._path)
        return version


def _expect(version: Version, there: Version) -> None:
    if not there.same_bytes(version):
        raise StaleError(f"changed at the origin: was {version}, is {there}")
