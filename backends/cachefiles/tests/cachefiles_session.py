"""A netfs side for these tests: files of known content over a bound cache, without a file layer."""

from __future__ import annotations

import functools
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from fscache_cachefiles import CachefilesBackend
from fscache_core import page
from fscache_core.cache import Cache, lookup_cache_tag, make_master_index
from fscache_core.cookie import Cookie, CookieDefinition, acquire_cookie
from fscache_core.domain import Domain, Limits
from fscache_core.folio import PAGE_SIZE, Folio, page_count
from fscache_core.netfs import Netfs, register_netfs
from fscache_core.outcome import NOT_RESIDENT, AuxOutcome, CookieType, LockOutcome, LookupOutcome, ReadOutcome
from fscache_core.plugins import BackendFacade

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Sequence


@functools.lru_cache(maxsize=64)
def content_of(name: str, version: int, size: int) -> bytes:
    """The bytes of one version of a file at the origin."""
    return random.Random(f"{name} {version}").randbytes(size)


@dataclass
class Netfile:
    """A file at the origin, as netfs data."""

    name: str
    size: int
    version: int = 1
    kind: int = CookieType.DATA
    n_fetched: int = 0  #: pages
    key: bytes = b""
    verdict: AuxOutcome | None = None  #: what check_aux says, whatever the label

    @property
    def content(self) -> bytes:
        return content_of(self.name, self.version, self.size)


def _aux(data: object) -> bytes:
    assert isinstance(data, Netfile)
    return data.version.to_bytes(4, "little")


def _check(data: object, aux: bytes, object_size: int) -> AuxOutcome:
    assert isinstance(data, Netfile)
    if data.verdict is not None:
        return data.verdict
    return AuxOutcome.OKAY if aux == _aux(data) and object_size == data.size else AuxOutcome.OBSOLETE


def _key(data: object) -> bytes:
    assert isinstance(data, Netfile)
    return data.key or data.name.encode()


def _size(data: object) -> int:
    assert isinstance(data, Netfile)
    return data.size


VOLUME = CookieDefinition("volume", CookieType.INDEX, get_key=lambda name: str(name).encode())


@dataclass
class Session:
    """One process's view of the cache."""

    domain: Domain
    backend: CachefilesBackend
    cache: Cache
    netfs: Netfs
    volume: Cookie
    open_files: list[Cookie] = field(default_factory=list)

    def make_volume(self, name: str = "volume") -> Cookie:
        return acquire_cookie(self.domain, self.netfs.primary_index, VOLUME, name)

    async def open(self, file: Netfile) -> Cookie:
        """Acquire the cookie of a file and wait for its lookup."""
        definition = CookieDefinition(
            "file", file.kind, get_key=_key, get_attr=_size, get_aux=_aux, check_aux=_check
        )
        cookie = acquire_cookie(self.domain, self.volume, definition, file)
        await cookie.wait_lookup()
        self.open_files.append(cookie)
        return cookie

    async def adopt(self, name: str) -> tuple[Cookie, int] | None:
        """Open whatever version of a file is stored: its cookie and that version."""
        definition = CookieDefinition(
            "file",
            CookieType.DATA,
            get_key=_key,
            get_aux=lambda _: None,
            check_aux=lambda _data, _aux, _size: AuxOutcome.OKAY,
        )
        cookie = acquire_cookie(self.domain, self.volume, definition, Netfile(name, 0))
        await cookie.wait_lookup()
        self.open_files.append(cookie)
        if cookie.aux is None:
            return None
        return cookie, int.from_bytes(cookie.aux, "little")

    async def close(self, cookie: Cookie, *, retire: bool = False) -> None:
        await cookie.wait_on_stores()
        await self.forget(cookie, retire=retire)

    async def forget(self, cookie: Cookie, *, retire: bool = False) -> None:
        objects = list(cookie.objects)
        self.open_files.remove(cookie)
        await cookie.relinquish(retire=retire)
        for obj in objects:
            await obj.wait_dead()

    async def read_cached(
        self, cookie: Cookie, first: int = 0, n_pages: int | None = None
    ) -> dict[int, bytes]:
        """What the cache has of a run of pages: page index -> bytes."""
        size = cookie.object_size
        if n_pages is None:
            n_pages = page_count(size) - first
        buffer = memoryview(bytearray(min(n_pages * PAGE_SIZE, size - first * PAGE_SIZE)))
        ended: dict[int, bytes] = {}

        def end_io(run: int, count: int, error: BaseException | None) -> None:
            assert error is None
            for index in range(run, run + count):
                at = (index - first) * PAGE_SIZE
                ended[index] = bytes(buffer[at : at + PAGE_SIZE])

        if not n_pages:
            return {}
        outcome = await page.read_or_alloc_pages(cookie, [Folio(first, buffer)], end_io)
        assert (outcome is ReadOutcome.HIT) == (len(ended) == n_pages)
        return ended

    async def fill(self, cookie: Cookie, first: int = 0, n_pages: int | None = None) -> None:
        """Read a run; fetch and store what the cache does not have, under the fill lock."""
        file = cookie.netfs_data
        assert isinstance(file, Netfile)
        if n_pages is None:
            n_pages = page_count(file.size) - first
        obj = cookie.object
        while obj is not None and n_pages:
            outcome = await self.backend.lock_pages(obj, first, n_pages, 1.0)
            if outcome is LockOutcome.LOCKED:
                break
        try:
            present = await self.read_cached(cookie, first, n_pages)
            content = file.content
            missing = [index for index in range(first, first + n_pages) if index not in present]
            for run, count in _runs(missing):
                file.n_fetched += count
                data = content[run * PAGE_SIZE : (run + count) * PAGE_SIZE]
                cookie.mark_pages_cached(run, count)
                await page.write_page(cookie, Folio(run, memoryview(data)))
            await cookie.wait_on_stores()
        finally:
            if obj is not None and n_pages:
                self.backend.unlock_pages(obj, first, n_pages)

    async def read(self, cookie: Cookie) -> bytes:
        """The whole file: from the cache, the rest from the origin.  Stores what it fetched."""
        file = cookie.netfs_data
        assert isinstance(file, Netfile)
        await self.fill(cookie)
        present = await self.read_cached(cookie)
        content = file.content
        return b"".join(
            present.get(index, content[index * PAGE_SIZE : (index + 1) * PAGE_SIZE])
            for index in range(page_count(file.size))
        )

    def read_resident(self, cookie: Cookie, offset: int, size: int) -> bytes | None:
        """What the hot path says."""
        read = cookie.read_resident
        if read is None:
            return None
        buffer = bytearray(size)
        count = read(offset, memoryview(buffer))
        if count == NOT_RESIDENT:
            return None
        assert count == size
        return bytes(buffer)


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and sum(runs[-1]) == index:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return runs


@asynccontextmanager
async def bound(
    directory: str | os.PathLike[str], *, volume: str = "volume", **options: object
) -> AsyncIterator[Session]:
    """A cache bound to ``directory``, with one netfs and one volume."""
    async with trio.open_nursery() as nursery:
        domain = Domain(nursery, Limits())
        master = make_master_index(domain)
        backend = CachefilesBackend(directory, **options)  # type: ignore[arg-type]
        cache = Cache(domain, BackendFacade(backend), lookup_cache_tag(domain, "CacheFiles"), master)
        await cache.add()
        netfs = register_netfs(domain, master, "testfs", 1)
        volume_cookie = acquire_cookie(domain, netfs.primary_index, VOLUME, volume)
        session = Session(domain, backend, cache, netfs, volume_cookie)
        try:
            yield session
            for cookie in list(session.open_files):
                await session.close(cookie)
            await session.volume.relinquish()
            await netfs.primary_index.relinquish()
        finally:
            with trio.CancelScope(shield=True):
                await cache.withdraw()


__all__ = ["LookupOutcome", "Netfile", "Session", "bound", "content_of"]
