"""Changes made through the cache: at the origin first, then in the cache (write-through).

When a call returns, the change has been made at the origin, and the next open in this process sees it.
Other processes see it as their coherency lets them.  Files that are open keep their version.

What is put whole is stored as well, so that reading it back costs no fetch.  After a change in place nothing
is kept of the file: somebody else may have written beside us, and only the origin knows what came of it.
When a change fails or is cancelled half-way, this process asks the origin again before it uses anything
cached of the file.

What is known here of a file is its path.  If it has others (links), it is under those as if another process
had changed it.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from inspect import isasyncgen
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import trio

from fscache_core.errors import CallerError, FscacheError, OfflineError, StaleError, UnsupportedError
from fscache_core.folio import PAGE_SHIFT, Folio
from fscache_core.outcome import ReadOutcome
from fscache_core.page import alloc_page, write_page_nowait

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator

    from fscache_core.file import File
    from fscache_core.hookspecs import FileAttributes
    from fscache_core.inode import Inode
    from fscache_core.volume import Volume

    Bytes = bytes | bytearray | memoryview

#: Bytes per piece in which what is in memory goes to the origin and into the cache.
PIECE_SIZE = 1 << 20

#: Bytes that are remembered of a stream while it goes to the origin; what is longer is not stored.
REMEMBERED_SIZE = 16 << 20


class Changes:
    """What can be changed in a volume.  Paths are those of `FsCache.locate`.

    Every call raises `OfflineError` if the volume is offline, `UnsupportedError` if the adapter cannot do it,
    and otherwise what the origin says: `OriginError` and its kinds.
    """

    __slots__ = ("_volume", "_writers")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        #: By path, as long as somebody has it or waits for it.
        self._writers: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    async def put_file(
        self,
        path: str,
        source: Bytes | AsyncIterable[bytes],
        *,
        replaces: File | None,
    ) -> FileAttributes:
        """Create or replace a whole file; see `FsCache.put_file`."""
        volume, stream = self._volume, _Stream(source)
        async with self._changing(path):
            known = None if replaces is None else self._version(path, replaces)
            try:
                async with aclosing(stream.pieces()) as pieces:
                    with self._overwriting(path):
                        new = await volume.netfs.call(
                            "put_file", volume.netfs.put_file, volume.data, path, pieces, known
                        )
            except FscacheError:
                if stream.error is not None:
                    raise stream.error from None  # the caller's own, which the netfs cannot help
                raise
            return await self._adopt(path, new, stream.content)

    async def write(self, path: str, offset: int, data: Bytes, *, replaces: File | None) -> FileAttributes:
        """Write into an existing file; see `FsCache.write`."""
        if offset < 0:
            raise CallerError(f"{self._volume.named(path)}: offset {offset} is negative")
        async with self._changing(path):
            known = await self._known(path, replaces)
            netfs = self._volume.netfs
            with self._overwriting(path):
                new = await netfs.call("store", netfs.store, known, offset, memoryview(data).cast("B"))
            return await self._adopt(path, new, None)

    async def truncate(self, path: str, size: int, *, replaces: File | None) -> FileAttributes:
        """Set the size of an existing file; see `FsCache.truncate`."""
        if size < 0:
            raise CallerError(f"{self._volume.named(path)}: size {size} is negative")
        async with self._changing(path):
            known = await self._known(path, replaces)
            netfs = self._volume.netfs
            with self._overwriting(path):
                new = await netfs.call("truncate", netfs.truncate, known, size)
            return await self._adopt(path, new, None)

    async def rename(self, path: str, new_path: str) -> None:
        """Rename a file or directory, replacing a file of the new name."""
        volume = self._volume
        async with self._changing(path, new_path):
            with self._overwriting(path, new_path):
                await volume.netfs.call("rename", volume.netfs.rename, volume.data, path, new_path)
            for name in (path, new_path):
                volume.namei.changed(name)
                await volume.invalidate(name)
                # A backend may have no list of what it has.
                try:
                    await volume.invalidate_below(_below(name))
                except UnsupportedError:
                    volume.namei.distrust_below(_below(name))

    async def unlink(self, path: str) -> None:
        """Remove a file or symbolic link, and what is cached of it."""
        volume = self._volume
        async with self._changing(path):
            with self._overwriting(path):
                await volume.netfs.call("unlink", volume.netfs.unlink, volume.data, path)
            volume.namei.changed(path)
            volume.namei.changed_below(_below(path))  # it may have been a link to a directory
            await volume.invalidate(path)

    async def mkdir(self, path: str, mode: int) -> None:
        """Make a directory; ``mode`` are its permission bits."""
        volume = self._volume
        async with self._changing(path):
            await volume.netfs.call("mkdir", volume.netfs.mkdir, volume.data, path, mode)
            volume.namei.changed(path)

    async def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        volume = self._volume
        async with self._changing(path):
            await volume.netfs.call("rmdir", volume.netfs.rmdir, volume.data, path)
            volume.namei.changed(path)

    async def symlink(self, target: str, path: str) -> None:
        """Make ``path`` a symbolic link to ``target``, which is not interpreted."""
        volume = self._volume
        async with self._changing(path):
            with self._overwriting(path):
                await volume.netfs.call("symlink", volume.netfs.symlink, volume.data, target, path)
            volume.namei.changed(path)
            # There may have been another link of that name.
            volume.namei.distrust_below(_below(path))

    async def chmod(self, path: str, mode: int) -> None:
        """Set permission bits."""
        volume = self._volume
        async with self._changing(path):
            await volume.netfs.call("chmod", volume.netfs.chmod, volume.data, path, mode)
            volume.namei.changed(path)

    async def utimens(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        """Set access and modification time, nanoseconds since the epoch."""
        volume = self._volume
        async with self._changing(path):
            await volume.netfs.call("utimens", volume.netfs.utimens, volume.data, path, atime_ns, mtime_ns)
            volume.namei.changed(path)

    # -- inside --------------------------------------------------------------------------

    @asynccontextmanager
    async def _changing(self, *paths: str) -> AsyncIterator[None]:
        """Around a change: one at a time per path in this process.

        When it fails, nobody knows what the origin has now.
        """
        volume = self._volume
        volume.check_open()
        if volume.coherency.offline:
            raise OfflineError(f"{volume.named(paths[0])}: offline, and changes are made at the origin")
        async with AsyncExitStack() as stack:
            for path in sorted(set(paths)):
                await stack.enter_async_context(self._writers.setdefault(path, trio.Lock()))
            volume.check_open()
            with volume.under_way():
                try:
                    yield
                except BaseException:
                    for path in paths:
                        volume.namei.changed(path)
                        # It may be a directory, renamed all the same.
                        volume.namei.distrust_below(_below(path))
                    raise
                return
        raise volume.closed_error()

    async def _known(self, path: str, replaces: File | None) -> object:
        """The version that is to be changed: that of an open file, or the present one."""
        if replaces is not None:
            return self._version(path, replaces)
        netfs = self._volume.netfs
        return await netfs.call("look_up", netfs.look_up, self._volume.data, path)

    def _version(self, path: str, replaces: File) -> object:
        if replaces.volume is not self._volume or replaces.inode.path != path:
            raise CallerError(f"{self._volume.named(path)} cannot replace another file, {replaces.inode}")
        if replaces.inode.overwritten:
            raise StaleError(f"{replaces.inode}: changed through this cache since it was opened")
        return replaces.inode.netfs_data

    @contextmanager
    def _overwriting(self, *paths: str) -> Iterator[None]:
        """Around a change of what is under these names.

        Nothing more is fetched of versions that could not be told from those about to be.
        """
        weak = [
            inode
            for path in paths
            for inode in self._volume.icache.at_or_below(path)
            if inode.weak and not inode.overwritten
        ]
        for inode in weak:
            inode.overwritten = True
        try:
            yield
        except UnsupportedError:  # nothing was even tried
            for inode in weak:
                inode.overwritten = False
            raise

    async def _adopt(self, path: str, netfs_data: object, content: Bytes | None) -> FileAttributes:
        """Make what the origin has now the version to open, and store its content if that is known."""
        volume = self._volume
        volume.namei.changed(path)
        inode = volume.namei.open_version(path, netfs_data, time.time())
        try:
            if content is not None and len(content) == inode.size:
                await _store(inode, content)
            assert inode.attributes is not None
            return inode.attributes
        finally:
            volume.icache.close(inode)


class _Stream:
    """A source in pieces, which remembers what it gave as long as that is not too much."""

    __slots__ = ("_source", "content", "error")

    def __init__(self, source: Bytes | AsyncIterable[bytes]) -> None:
        self._source = source
        self.content: Bytes | None = None  #: all of it, once the origin has taken it
        self.error: Exception | None = None  #: what the source raised

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        if isinstance(self._source, bytes | bytearray | memoryview):
            content = bytes(self._source)  # nobody changes it now
            for at in range(0, len(content), PIECE_SIZE):
                yield content[at : at + PIECE_SIZE]
            self.content = content
            return
        remembered: bytearray | None = bytearray()
        try:
            async for given in self._source:
                # What is no bytes object may change while the netfs has it: `File.stream` gives such.
                piece = given if isinstance(given, bytes) else bytes(memoryview(given))
                if remembered is not None:
                    remembered += piece
                    if len(remembered) > REMEMBERED_SIZE:
                        remembered = None
                yield piece
        except Exception as error:
            self.error = error
            raise
        finally:
            if isasyncgen(self._source):
                await self._source.aclose()  # here and not when it is found to be garbage
        self.content = remembered


def _below(path: str) -> str:
    """What the paths of everything below a directory begin with."""
    return path.rstrip("/") + "/"


async def _store(inode: Inode, content: Bytes) -> None:
    """Store a whole file, if there is room in memory and in the cache; returns when it can be read back."""
    domain = inode.volume.domain
    if not content or domain.stores_size + len(content) > domain.limits.store_size:
        return
    view = memoryview(content)
    if await alloc_page(inode.cookie, Folio(0, view)) is ReadOutcome.NO_DATA:
        inode.volume.check_open()  # closed meanwhile, it has taken the cookie back
        for offset in range(0, len(view), PIECE_SIZE):
            write_page_nowait(inode.cookie, Folio(offset >> PAGE_SHIFT, view[offset : offset + PIECE_SIZE]))
        inode.volume.stats.bytes_stored += len(view)
        await inode.wait_stored()
