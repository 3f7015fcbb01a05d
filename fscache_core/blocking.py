"""The same files for code that is not async: `io.RawIOBase` over a trio loop in a background thread.

Hits never enter that loop: they are answered by the backend's ``read_resident`` on the caller's thread.
Files may be used from many threads.  `BlockingFile.pread_into` and `BlockingFile.pread` do not touch the
file's position, so threads that share a file should use those.

After ``fork`` the child has no loop: cached bytes can still be read there from files that are open,
everything else raises `CallerError`; open the cache again in the child.

Ctrl-C ends a wait: what was waited for is cancelled, and has let go of the caller's buffer when
`KeyboardInterrupt` arrives.  A program that ends without closing the cache closes it at exit.

Signal handlers and finalizers may use all this, whatever code of ours they come between.  To open and close
a warm file and to ``pread`` what is cached takes no lock and no loop.  Who could only wait for itself gets a
`CallerError` with ``EDEADLK``:

- who reads on or seeks in a file while the same thread is at its position (``pread`` it);
- who would wait for the loop in its own thread, where finalizers may be called;
- a handler that would wait for the loop, and has interrupted its thread just as that handed something over.
"""

from __future__ import annotations

import atexit
import errno
import io
import os
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio

from fscache_core import fscache as _fscache
from fscache_core.errors import CallerError
from fscache_core.file import File
from fscache_core.loop import Call, Loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

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

_n_forks = 0  # that led to this process


def _forked() -> None:
    global _n_forks
    _n_forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class BlockingFile(io.RawIOBase):
    """An open file.  Wrap it in `io.BufferedReader` for code that reads in small pieces."""

    def __init__(self, owner: BlockingFsCache, file: File, url: str) -> None:
        super().__init__()
        self._owner = owner
        self._file = file
        self._to_close = [file]  # until somebody has: taking it out is atomic
        self._position = 0
        # Of the position, by process: a fork may leave one taken.
        self._locks: dict[int, threading.RLock] = {}
        self._used_in = -1  # the process where somebody is at the position, as `_n_forks`
        self.name = url

    @property
    def _lock(self) -> threading.RLock:
        return self._locks.get(_n_forks) or self._locks.setdefault(_n_forks, threading.RLock())

    def _check_position(self) -> None:
        """Under the lock, which lets the thread that has it in again: refuse that."""
        if self._used_in == _n_forks:
            raise CallerError(
                f"{self.name}: its position is in use by the read that this one interrupted; pread it",
                errno=errno.EDEADLK,
            )

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
        file = self._file
        inode = file.inode
        plain = type(buffer) is bytearray
        view = memoryview(buffer) if plain or type(buffer) is not memoryview else buffer
        n = len(view)
        # What is no plain run of bytes, or not to be written, is for `File.readinto`.
        if offset >= 0 and (plain or (view.nbytes == n and view.c_contiguous and not view.readonly)):
            size = inode.size
            part = view
            if offset + n > size:
                n = max(0, size - offset)
                part = view[:n]
            read = inode.cookie.read_resident
            if (
                n
                and read is not None
                and self._to_close  # it is not closed; `closed` takes longer
                and read(offset, part) == n
                and (file._version is inode or file.decide(inode))
            ):
                stats = inode.volume.stats
                stats.hits += 1  # a count lost to a race of two threads is no harm
                stats.bytes_from_cache += n
                window = file._window
                sequential, window.expected = offset == window.expected, offset + n
                if offset + n >= window.trigger:
                    window.rest()
                    if sequential:
                        self._owner.soon(file.read_on, offset + n)
                return n
            if not n and file._version is inode and not self.closed:
                return 0  # else a longer one may have taken its place
        if self.closed:
            raise ValueError(f"{self.name}: read of closed file")  # as every file object does
        try:
            return self._owner.run(file.readinto, offset, view)
        except CallerError:
            if self.closed:  # meanwhile, so what was said is that its cookie is gone
                raise ValueError(f"{self.name}: read of closed file") from None
            raise

    def pread(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes at ``offset``; fewer only at the end."""
        while True:
            inode = self._file.inode
            buffer = bytearray(max(0, min(size, inode.size - offset)))
            n = self.pread_into(offset, buffer)
            if inode is self._file.inode:  # else it was reopened, and has another size
                return bytes(memoryview(buffer)[:n])

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        with self._lock:
            self._check_position()
            try:
                self._used_in = _n_forks
                n = self.pread_into(self._position, buffer)
                self._position += n
            finally:
                self._used_in = -1
        return n

    def readall(self) -> bytes:
        with self._lock:
            self._check_position()
            try:
                self._used_in = _n_forks
                data = self.pread(self._position, sys.maxsize)
                self._position += len(data)
            finally:
                self._used_in = -1
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, _data: object) -> int:
        raise io.UnsupportedOperation(f"{self.name} is open read only; write with the fscache")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._lock:
            self._check_position()
            try:
                self._used_in = _n_forks
                match whence:
                    case os.SEEK_SET:
                        start = 0
                    case os.SEEK_CUR:
                        start = self._position
                    case os.SEEK_END:
                        start = self.size
                    case _:
                        raise CallerError(f"{self.name}: whence {whence} is not supported")
                if start + offset < 0:
                    raise CallerError(f"{self.name}: position {start + offset} is negative")
                self._position = start + offset
                return self._position
            finally:
                self._used_in = -1

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        super().close()
        with suppress(IndexError):  # closed before, or by another thread just now
            self._owner.close_file(self._to_close.pop())


class BlockingFsCache:
    """`FsCache` for blocking code.  Made by `open_fscache`; may be used from any thread."""

    def __init__(self, loop: Loop, fscache: FsCache) -> None:
        self._loop = loop
        self._fscache = fscache
        self._known: dict[str, tuple[Volume, str]] = {}  # URLs that were opened

    # -- the loop --

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run an async function in the loop and wait for it.

        Raises:
          CallerError: the cache is closed, or was opened before a fork.
          KeyboardInterrupt: while waiting; the function was cancelled and has ended.
        """
        if not self._loop.is_ours:
            raise CallerError("this fscache was opened before a fork; open it again in this process")
        if self._loop.has_me:
            raise CallerError(
                "a finalizer or signal handler waits for an fscache that waits for it; "
                "read what is cached there, or do it later",
                errno=errno.EDEADLK,
            )
        call = Call(function, args)
        try:
            self._loop.enter(call.begin)
            return call.result()
        except (trio.RunFinishedError, trio.Cancelled):
            raise CallerError("this fscache is closed") from None
        except BaseException:
            if not call.ended.is_set():
                self.soon(call.give_up)
                while not call.ended.wait(0.05) and self._loop.is_alive():
                    pass
            raise

    def soon(self, function: Callable[..., object], *args: object) -> None:
        """Have a function called in the loop, without waiting for it."""
        if self._loop.is_ours:
            with suppress(trio.RunFinishedError):
                self._loop.enter(function, *args)

    def close_file(self, file: File) -> None:
        if not self._loop.is_ours:
            return
        if file._version is None:
            self.soon(file.close_now)  # it may be being reopened
        elif file.close_warm():
            self.soon(file.settle)  # closing the cache has seen to it, if that is over

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
        if (known := self._known.get(url)) is not None and self._loop.is_ours:
            volume, path = known
            if (inode := volume.namei.open_warm(path)) is not None:
                volume.stats.opens += 1
                return BlockingFile(self, File(volume, inode, reopen=reopen == "auto"), url)

        async def open_file() -> BlockingFile:
            file = await self._fscache.open_file(url, reopen=reopen)
            if len(self._known) >= KNOWN_URLS:
                self._known.clear()
            self._known[url] = file.volume, file.inode.path
            return BlockingFile(self, file, url)  # made here: if it gets lost on the way, it closes itself

        return self.run(open_file)

    def set_coherency(self, url: str, coherency: Coherency | str) -> None:
        """See `FsCache.set_coherency`."""

        async def choose() -> None:
            self._fscache.set_coherency(url, coherency)

        self.run(choose)

    def look_up(self, url: str) -> FileAttributes:
        """See `FsCache.look_up`."""
        return self.run(self._fscache.look_up, url)

    def list_directory(self, url: str) -> Sequence[DirectoryEntry]:
        """See `FsCache.list_directory`."""
        return self.run(self._fscache.list_directory, url)

    # -- changes, written through: as `FsCache` --

    def put_file(
        self,
        url: str,
        source: bytes | bytearray | memoryview | Iterable[bytes],
        *,
        replaces: BlockingFile | None = None,
    ) -> FileAttributes:
        """See `FsCache.put_file`; the chunks of an iterable are made in a worker thread."""
        known = None if replaces is None else replaces._file

        async def put() -> FileAttributes:
            content = source if isinstance(source, bytes | bytearray | memoryview) else _in_thread(source)
            return await self._fscache.put_file(url, content, replaces=known)

        return self.run(put)

    def write(self, url: str, offset: int, data: bytes | bytearray | memoryview) -> FileAttributes:
        return self.run(self._fscache.write, url, offset, data)

    def truncate(self, url: str, size: int) -> FileAttributes:
        return self.run(self._fscache.truncate, url, size)

    def rename(self, url: str, new_url: str) -> None:
        self.run(self._fscache.rename, url, new_url)

    def unlink(self, url: str) -> None:
        self.run(self._fscache.unlink, url)

    def mkdir(self, url: str, mode: int = 0o777) -> None:
        self.run(self._fscache.mkdir, url, mode)

    def rmdir(self, url: str) -> None:
        self.run(self._fscache.rmdir, url)

    def symlink(self, target: str, url: str) -> None:
        self.run(self._fscache.symlink, target, url)

    def chmod(self, url: str, mode: int) -> None:
        self.run(self._fscache.chmod, url, mode)

    def utimens(self, url: str, atime_ns: int, mtime_ns: int) -> None:
        self.run(self._fscache.utimens, url, atime_ns, mtime_ns)


async def _in_thread(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    iterator = iter(chunks)
    while (chunk := await trio.to_thread.run_sync(next, iterator, None)) is not None:
        yield chunk


@contextmanager
def open_fscache(
    *,
    coherency: Coherency | str = "always",
    offline: bool = False,
    stale_if_error: bool = False,
    limits: Limits | None = None,
    readahead: Readahead | None = None,
    volumes: Mapping[str, Coherency | str] | None = None,
) -> Iterator[BlockingFsCache]:
    """`fscache_core.open_fscache` for blocking code; its loop runs in a background thread."""
    loop = Loop(
        _fscache.open_fscache(
            coherency=coherency,
            offline=offline,
            stale_if_error=stale_if_error,
            limits=limits,
            readahead=readahead,
            volumes=volumes,
        )
    )
    loop.start()
    atexit.register(loop.end)
    try:
        loop.opened.wait()
        if loop.fscache is not None:
            yield BlockingFsCache(loop, loop.fscache)
    except BaseException:
        loop.store = False
        raise
    finally:
        atexit.unregister(loop.end)
        loop.end()
        if loop.error is not None and loop.is_ours:
            raise loop.error
