"""Filling a cache with whole files: what ``fscache warm`` does."""

from __future__ import annotations

import errno
from contextlib import aclosing
from typing import TYPE_CHECKING

import trio

from fscache_core.errors import CallerError, FscacheError, RefusedError
from fscache_core.hookspecs import FileKind, Strength
from fscache_core.transfer import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fscache_core.fscache import FsCache
    from fscache_core.progress import Meter
    from fscache_core.volume import Volume


class Warming:
    """Warms files, some at a time.

    What is cached already is not fetched.  What fails is reported, and the rest goes on.

    Args:
      n_jobs: how many files at a time.
      recursive: a directory stands for all that is in it.
    """

    def __init__(
        self, meter: Meter, report: Callable[[FscacheError], None], *, n_jobs: int, recursive: bool
    ) -> None:
        self.n_files = 0  #: cached now, all of each
        self.n_bytes = 0  #: of these files
        self.n_weak = 0  #: of these files, how many have version evidence that is not strong
        self._meter = meter
        self._report = report
        self._recursive = recursive
        self._slots = trio.Semaphore(n_jobs)

    async def run(self, fscache: FsCache, urls: Sequence[str]) -> None:
        async with trio.open_nursery() as nursery:
            for url in urls:
                try:
                    volume, path = await fscache.open_volume(url), fscache.locate(url).path
                except FscacheError as error:
                    self._report(error)
                    continue
                await self._slots.acquire()
                nursery.start_soon(self._warm, nursery, volume, path)

    async def _warm(self, nursery: trio.Nursery, volume: Volume, path: str) -> None:
        """Warm whatever is there; the caller has acquired a slot for it."""
        is_tree = False
        try:
            await self._warm_file(volume, path)
        except CallerError as error:
            is_tree = self._recursive and error.errno == errno.EISDIR
            if not is_tree:
                if error.errno == errno.EISDIR:
                    message = f"{volume.named(path)} is a directory; warm what is in it with -r"
                    error = CallerError(message, errno=errno.EISDIR)
                self._report(error)
        except FscacheError as error:
            self._report(error)
        finally:
            self._slots.release()
        if is_tree:
            async with aclosing(walk(volume, path, self._report, local=False)) as tree:
                async for found in tree:
                    if found.attributes.kind is FileKind.FILE:
                        await self._slots.acquire()
                        nursery.start_soon(self._warm, nursery, volume, found.path)

    async def _warm_file(self, volume: Volume, path: str) -> None:
        async with await volume.open_file(path) as file:
            self._meter.expect(file.size)
            await file.warm(self._meter.advance)
            # A cache without room takes no more, and nobody who reads is told; here it is the whole point.
            cached = await volume.status(path)
            if cached is None or (cached.cached_size is not None and cached.cached_size < file.size):
                size = 0 if cached is None else cached.cached_size
                took = f"{size} of {file.size} bytes" if file.size else "nothing of it"
                raise RefusedError(
                    f"{volume.named(path)}: the cache took {took}; it is full, or stopped working"
                )
            self.n_files += 1
            self.n_bytes += file.size
            if file.attributes.strength is not Strength.STRONG:
                self.n_weak += 1
        self._meter.finish_file()
