"""A cache opened for tests, and a netfs of made-up files to drive it with, without the file layer.

::

    async with open_session(MyBackend()) as session:
        cookie = await session.file(b"key", aux=b"version 1", size=10000)
        data = await session.fill(cookie)
        await session.check(cookie, data)
"""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fscache_core import page
from fscache_core.cookie import Cookie, CookieDefinition, acquire_cookie
from fscache_core.folio import PAGE_SIZE, Folio, page_count
from fscache_core.fscache import open_fscache
from fscache_core.outcome import AuxOutcome, CookieType, ReadOutcome, WriteOutcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fscache_core.cache import Cache
    from fscache_core.domain import Domain, Limits
    from fscache_core.hookspecs import Wrapper
    from fscache_core.object import CacheObject

KIB = 1024
BLOCK = 64 * KIB  # what the tests cross on purpose; a backend may use any other size


@dataclass(eq=False, slots=True)
class OriginFile:
    """What the tests' netfs knows of a file.  Change it, then tell the cookie."""

    key: bytes
    aux: bytes | None = b"v1"  #: None: adopt what is stored
    size: int = 0
    verdict: AuxOutcome | None = None  #: what `check_aux` answers; None: whether aux and size are equal


def origin_file(netfs_data: object) -> OriginFile:
    assert isinstance(netfs_data, OriginFile)
    return netfs_data


def _check_aux(netfs_data: object, aux: bytes, object_size: int) -> AuxOutcome:
    file = origin_file(netfs_data)
    if file.verdict is not None:
        return file.verdict
    fits = file.aux is None or (file.aux == aux and file.size == object_size)
    return AuxOutcome.OKAY if fits else AuxOutcome.OBSOLETE


def _definition(type: int) -> CookieDefinition:
    return CookieDefinition(
        "contract",
        type,
        get_key=lambda data: origin_file(data).key,
        get_attr=lambda data: origin_file(data).size,
        get_aux=lambda data: origin_file(data).aux,
        check_aux=_check_aux,
    )


def content(version: bytes, size: int) -> bytes:
    """``size`` bytes that tell versions, and pages of a version, apart."""
    return hashlib.shake_128(version).digest(size) if size else b""


@dataclass(slots=True)
class Session:
    """One opened cache, and what the tests do with it."""

    domain: Domain
    cache: Cache
    volume: Cookie

    def index(self, key: bytes, *, below: Cookie | None = None) -> Cookie:
        definition = _definition(CookieType.INDEX)
        return acquire_cookie(self.domain, below or self.volume, definition, OriginFile(key))

    async def file(
        self,
        key: bytes = b"file",
        *,
        aux: bytes | None = b"v1",
        size: int = 8 * BLOCK,
        below: Cookie | None = None,
        type: int = CookieType.DATA,
        verdict: AuxOutcome | None = None,
    ) -> Cookie:
        """Acquire the cookie of a file and wait until its lookup is over."""
        origin = OriginFile(key, aux, size, verdict)
        cookie = acquire_cookie(self.domain, below or self.volume, _definition(type), origin)
        await cookie.wait_lookup()
        return cookie

    async def store(self, cookie: Cookie, first: int, data: bytes | bytearray) -> WriteOutcome:
        """Store pages as a netfs does that found them missing; returns when the backend has them."""
        folio = Folio(first, memoryview(data).toreadonly())
        scratch = Folio(first, memoryview(bytearray(len(data))))
        if await page.alloc_page(cookie, scratch) is not ReadOutcome.NO_DATA:
            return WriteOutcome.NO_BUFFERS
        outcome = await page.write_page(cookie, folio)
        await page.wait_on_page_write(cookie, first, folio.n_pages)
        return outcome

    async def fill(self, cookie: Cookie, version: bytes = b"v1") -> bytes:
        """Store all of a file in pieces of a megabyte; returns its bytes."""
        data = content(version, cookie.object_size)
        for offset in range(0, len(data), KIB * KIB):
            piece = data[offset : offset + KIB * KIB]
            assert await self.store(cookie, offset // PAGE_SIZE, piece) is WriteOutcome.STORED
        return data

    async def read(
        self, cookie: Cookie, first: int, n_pages: int, *, runs: Sequence[tuple[int, int]] | None = None
    ) -> tuple[ReadOutcome, dict[int, bytes]]:
        """Read pages, in one folio or in ``runs``; returns the outcome and the bytes of those there are.

        The buffers hold rubbish before, so that pages that were not filled do not look like zeros.
        """
        pages: dict[int, bytes] = {}
        folios = []
        for run_first, run_length in runs or [(first, n_pages)]:
            size = min(run_length * PAGE_SIZE, cookie.object_size - run_first * PAGE_SIZE)
            folios.append(Folio(run_first, memoryview(bytearray(b"\xa5" * size))))

        def page_bytes(page_index: int) -> bytes:
            folio = next(folio for folio in folios if folio.first <= page_index < folio.end)
            return bytes(folio.part(page_index, 1).buffer)

        def end_io(first: int, n_pages: int, error: BaseException | None) -> None:
            assert error is None
            for page_index in range(first, first + n_pages):
                assert page_index not in pages, f"page {page_index} was ended twice"
                pages[page_index] = page_bytes(page_index)

        outcome = await page.read_or_alloc_pages(cookie, folios, end_io)
        for page_index, ended in pages.items():
            assert page_bytes(page_index) == ended, f"page {page_index} changed after it was ended"
        return outcome, pages

    async def check(self, cookie: Cookie, data: bytes, pages: Sequence[int] | None = None) -> None:
        """Assert that exactly ``pages`` (all, if not given) are stored, and hold these bytes of ``data``."""
        n_pages = page_count(len(data))
        wanted = range(n_pages) if pages is None else pages
        want = {at: data[at * PAGE_SIZE : (at + 1) * PAGE_SIZE] for at in wanted}
        outcome, found = await self.read(cookie, 0, n_pages)
        assert sorted(found) == sorted(want)
        assert found == want
        assert outcome is (ReadOutcome.HIT if len(want) == n_pages else ReadOutcome.NO_DATA)

    def object(self, cookie: Cookie) -> CacheObject:
        obj = cookie.object
        assert obj is not None, f"{cookie!r} is not cached"
        return obj


@asynccontextmanager
async def open_session(
    backend: object, *, wrappers: Sequence[Wrapper] = (), limits: Limits | None = None
) -> AsyncIterator[Session]:
    """Open a cache on ``backend``, with a volume of the tests' netfs; at the end all is stored and closed."""
    async with open_fscache(limits=limits) as fscache:
        cache = await fscache.add_cache(backend, tag="contract", wrappers=wrappers)
        session = Session(fscache.domain, cache, fscache.register_netfs("contract", 1).primary_index)
        session.volume = session.index(b"volume")
        yield session
        for cookie in list(fscache.domain.cookies.values()):
            await cookie.wait_on_stores()
    assert cache.withdrawn
    assert not cache.objects
