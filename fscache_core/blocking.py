"""The same files for code that is not async: `io.RawIOBase` over a trio loop in a background thread.

Hits never enter that loop: they are answered by the backend's ``read_resident`` on the caller's thread.
Files may be used from many threads.  `BlockingFile.pread_into` and `BlockingFile.pread` do not touch the
file's position, so threads that share a file should use those.

After ``fork`` the child has no loop: cached bytes can still be read there, everything else raises
`CallerError`; open the cache again in the child.
"""

from __future__ import annotations

import io
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio

from fscache_core import fscache as _fscache
from fscache_core.errors import CallerError
from fscache_core.file import File
from fscache_core.readahead import NEVER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from fscache_core.cache import Cache
    from fscache_core.coherency import Coherency
    from fscache_core.domain import Limits
    from fscache_core.fscache import FsCache
    from fscache_core.hookspecs import DirectoryEntry, FileAttributes, Wrapper
    from fscache_core.readahead import Readahead
    from fscache_core.stats import Stats
    from fscache_core.volume import Volume

#: URLs whose volume and path are remembered.
KNOWN_URLS = 4096

P = ParamSpec("P")
T = TypeVar("T")


class BlockingFile(io.RawIOBase):
    """An open file.  Wrap it in `io.BufferedReader` for code that reads in small pieces."""

    def __init__(self, owner: BlockingFsCache, file: File, url: str) -> None:
        super().__init__()
        self._owner = owner
        self._file = file
        self._position = 0
        self._lock = threading.Lock()  # of the position
        self.name = url

    @property
    def attributes(self) -> FileAttributes:
        return self._file.attributes

    @property
    def size(self) -> int:
        """Bytes."""
        return self._file.size

    def pread_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill ``buffer`` from ``offset``; returns the number of bytes, less than asked only at the end.

        The hot path.  Raises as `File.readinto`.
        """
        view = memoryview(buffer)
        inode = self._file._inode
        n = len(view)
        if offset + n <= inode.attributes.size and offset >= 0 and view.format == "B":  # type: ignore[union-attr]
            read = inode.cookie.read_resident
            if read is not None and not self.closed and read(offset, view) == n:
                stats = inode.volume.stats
                stats.hits += 1  # a count lost to a race of two threads is no harm
                stats.bytes_from_cache += n
                window = self._file._window
                window.expected = end = offset + n
                if end < window.trigger:
                    return n
                window.trigger = NEVER
                self._owner.soon(self._file.read_on, end)
                return n
        if self.closed:
            raise ValueError(f"{self.name}: read of closed file")  # as every file object does
        return self._owner.run(self._file.readinto, offset, view)

    def pread(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes at ``offset``; fewer only at the end."""
        buffer = bytearray(max(0, min(size, self.size - offset)))
        n = self.pread_into(offset, buffer)
        return bytes(memoryview(buffer)[:n])

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        with self._lock:
            n = self.pread_into(self._position, memoryview(buffer).cast("B"))
            self._position += n
        return n

    def readall(self) -> bytes:
        with self._lock:
            data = self.pread(self._position, max(0, self.size - self._position))
            self._position += len(data)
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._lock:
            start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}.get(whence)
            if start is None:
                raise CallerError(f"{self.name}: whence {whence} is not supported")
            if start + offset < 0:
                raise CallerError(f"{self.name}: position {start + offset} is negative")
            self._position = start + offset
            return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._owner.close_file(self._file)


class BlockingFsCache:
    """`FsCache` for blocking code.  Made by `open_fscache`; may be used from any thread."""

    def __init__(self, token: trio.lowlevel.TrioToken, fscache: FsCache) -> None:
        self._token = token
        self._pid = os.getpid()
        self._fscache = fscache
        self._known: dict[str, tuple[Volume, str]] = {}  # URLs that were opened

    # -- the loop --

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run an async function in the loop and wait for it."""
        if os.getpid() != self._pid:
            raise CallerError("this fscache was opened before a fork; open it again in this process")
        try:
            return trio.from_thread.run(function, *args, trio_token=self._token)
        except trio.RunFinishedError:
            raise CallerError("this fscache is closed") from None

    def soon(self, function: Callable[..., object], *args: object) -> None:
        """Have a function called in the loop, without waiting for it."""
        if os.getpid() == self._pid:
            self._token.run_sync_soon(function, *args)

    def close_file(self, file: File) -> None:
        if os.getpid() == self._pid and file.close_warm():
            try:
                self._token.run_sync_soon(file.settle)
            except trio.RunFinishedError:
                return  # closing the cache has seen to it

    # -- as FsCache --

    @property
    def stats(self) -> Stats:
        return self._fscache.stats

    @property
    def volumes(self) -> tuple[Volume, ...]:
        return self._fscache.volumes

    def add_cache(
        self,
        backend: str | object,
        *,
        tag: str | None = None,
        wrappers: Sequence[Wrapper | str] = (),
        **options: object,
    ) -> Cache:
        """See `FsCache.add_cache`."""

        async def add() -> Cache:
            return await self._fscache.add_cache(backend, tag=tag, wrappers=wrappers, **options)

        return self.run(add)

    def withdraw_cache(self, cache: Cache) -> None:
        """See `FsCache.withdraw_cache`."""
        self.run(self._fscache.withdraw_cache, cache)

    def add_netfs(
        self,
        netfs: str | object,
        *,
        scheme: str | None = None,
        wrappers: Sequence[Wrapper] = (),
        **options: object,
    ) -> None:
        """See `FsCache.add_netfs`."""

        async def add() -> None:
            self._fscache.add_netfs(netfs, scheme=scheme, wrappers=wrappers, **options)

        self.run(add)

    def open_file(self, url: str, *, reopen: str = "auto") -> BlockingFile:
        """See `FsCache.open_file`."""

        # A file that is warm and need not be checked is opened here, without a trip through the loop.
        if (known := self._known.get(url)) is not None and os.getpid() == self._pid:
            volume, path = known
            if (inode := volume.open_warm(path)) is not None:
                volume.stats.opens += 1
                return BlockingFile(self, File(volume, inode, reopen=reopen == "auto"), url)

        async def open_file() -> File:
            file = await self._fscache.open_file(url, reopen=reopen)
            if len(self._known) >= KNOWN_URLS:
                self._known.clear()
            self._known[url] = file.volume, file.inode.path
            return file

        return BlockingFile(self, self.run(open_file), url)

    def look_up(self, url: str) -> FileAttributes:
        """See `FsCache.look_up`."""
        return self.run(self._fscache.look_up, url)

    def list_directory(self, url: str) -> Sequence[DirectoryEntry]:
        """See `FsCache.list_directory`."""
        return self.run(self._fscache.list_directory, url)


class _Loop(threading.Thread):
    """The background thread, from its start to the end of its `trio.run`."""

    def __init__(self, main: Callable[[], Awaitable[None]]) -> None:
        super().__init__(name="fscache", daemon=True)
        self._main = main
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # raised again, in the thread that waits for us
            self.error = error


@contextmanager
def open_fscache(
    *,
    coherency: Coherency | str = "always",
    offline: bool = False,
    stale_if_error: bool = False,
    limits: Limits | None = None,
    readahead: Readahead | None = None,
) -> Iterator[BlockingFsCache]:
    """`fscache_core.open_fscache` for blocking code; its loop runs in a background thread."""
    opened = threading.Event()
    made: list[BlockingFsCache] = []
    stop: list[trio.Event] = []
    store = True

    async def main() -> None:
        stop.append(trio.Event())
        async with _fscache.open_fscache(
            coherency=coherency,
            offline=offline,
            stale_if_error=stale_if_error,
            limits=limits,
            readahead=readahead,
        ) as fscache:
            made.append(BlockingFsCache(trio.lowlevel.current_trio_token(), fscache))
            opened.set()
            await stop[0].wait()
            fscache.store_at_close = store

    loop = _Loop(main)
    loop.start()
    while not opened.wait(0.05) and loop.is_alive():
        pass
    if not made:
        loop.join()
        assert loop.error is not None
        raise loop.error
    try:
        yield made[0]
    except BaseException:
        store = False
        raise
    finally:
        if os.getpid() == made[0]._pid:
            trio.from_thread.run_sync(stop[0].set, trio_token=made[0]._token)
            loop.join()
            if loop.error is not None:
                raise loop.error
