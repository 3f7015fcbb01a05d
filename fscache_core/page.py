"""Page I/O for netfs use: read or allocate, write, uncache (reference sections 4 and 8).

Reads run in the caller's task: it waits for its turn on the object, and the backend fills the folios'
buffers.  Stores are queued on the cookie and written behind (`fscache_core.write_behind`), in the order of
the calls.  Memory waiting to be stored is bounded over all cookies (``Limits.store_size``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from fscache_core.errors import CacheIOError, FscacheError, NoMemoryError, NoSpaceError, PluginError
from fscache_core.hook_call import call_backend
from fscache_core.operation import OperationState, Retrieval, SubmitOutcome
from fscache_core.outcome import CookieType, ReadOutcome, WriteOutcome
from fscache_core.write_behind import start_storage

if TYPE_CHECKING:
    from fscache_core.cookie import Cookie
    from fscache_core.folio import Folio
    from fscache_core.object import CacheObject

#: ``end_io(first, n_pages, error)``: these pages were read (error None), or must not be trusted.
EndIo = Callable[[int, int, BaseException | None], None]


# -- reading -----------------------------------------------------------------------------


async def read_or_alloc_page(
    cookie: Cookie, folio: Folio, end_io: EndIo | None = None, context: object | None = None
) -> ReadOutcome:
    """`read_or_alloc_pages` for one folio of one page."""
    return await _retrieve(cookie, [folio], end_io, context, allocate=False, single=folio.n_pages == 1)


async def read_or_alloc_pages(
    cookie: Cookie, folios: Sequence[Folio], end_io: EndIo | None = None, context: object | None = None
) -> ReadOutcome:
    """Read what is cached of these pages and make room for the rest (4.2).

    Args:
      folios: ascending and disjoint; their buffers are filled.
      end_io: called for each run that was read, before this returns.  Pages it was not called for without
        error are not in the cache and their bytes are undefined.
      context: given to the netfs's ``get_context`` and ``put_context``.

    Returns:
      ``HIT``: all were read.  ``NO_DATA``: fetch the others and `write_page` them.  ``NO_BUFFERS``: fetch the
      others; they cannot be stored now.

    Never raises for a fault of the cache or its backend; what ``end_io`` raises comes out at the end.

    Cancellation: pages that ``end_io`` reported are good.
    """
    return await _retrieve(cookie, folios, end_io, context, allocate=False, single=False)


async def alloc_page(cookie: Cookie, folio: Folio) -> ReadOutcome:
    """Make room for pages that will be written, without reading: ``NO_DATA`` or ``NO_BUFFERS``."""
    return await _retrieve(cookie, [folio], None, None, allocate=True, single=folio.n_pages == 1)


async def _retrieve(
    cookie: Cookie,
    folios: Sequence[Folio],
    end_io: EndIo | None,
    context: object | None,
    *,
    allocate: bool,
    single: bool,
) -> ReadOutcome:
    cookie.check_holds_data()
    if not cookie.enabled:
        return ReadOutcome.NO_BUFFERS
    count = _AllocCounts(cookie) if allocate else _ReadCounts(cookie)
    count.requested()
    if cookie.object is None:
        return count.no_buffers()
    if cookie.invalidating:
        return ReadOutcome.NO_BUFFERS
    if cookie.looking_up:
        started = trio.current_time()
        count.waited_for_lookup()
        try:
            await cookie.wait_lookup()
        except trio.Cancelled:
            count.interrupted()
            raise
        finally:
            cookie.domain.histogram.note("retrv_dly", trio.current_time() - started)
    obj = cookie.object
    if obj is None or cookie.unavailable or not cookie.enabled:
        return count.no_buffers()
    if cookie.no_data_yet and obj.looked_up and not obj.available and obj.live and not allocate:
        # Known to be absent and being created: nobody need wait for that.
        for folio in folios:
            cookie.mark_pages_cached(folio.first, folio.n_pages)
        return count.done(ReadOutcome.NO_DATA)
    op = Retrieval(obj, folios, end_io, context)
    cancelled = True
    obj.ops.n_reads += 1
    try:
        count.submitted()
        if obj.ops.submit(op) is not SubmitOutcome.ACCEPTED:
            cancelled = False
            return count.no_buffers()
        if op.state is OperationState.PENDING:
            count.waited()
        try:
            running = await op.wait_active()
        except trio.Cancelled:
            count.interrupted()
            raise
        if not running or not obj.active:
            count.aborted()
            return count.no_buffers()
        outcome = await _run_hook(op, obj, folios, count, allocate=allocate, single=single)
        cancelled = False
        if op.caller_error is not None:
            raise op.caller_error
        if outcome is ReadOutcome.NO_DATA:
            if op.outdated:
                return count.no_buffers()
            for folio in folios:
                cookie.mark_pages_cached(folio.first, folio.n_pages)
        return count.done(outcome)
    finally:
        obj.ops.n_reads -= 1
        op.finish(cancelled=cancelled)


async def _run_hook(
    op: Retrieval,
    obj: CacheObject,
    folios: Sequence[Folio],
    count: _ReadCounts,
    *,
    allocate: bool,
    single: bool,
) -> ReadOutcome:
    backend = obj.cache.backend
    try:
        if single:
            gauge, one = ("alp", backend.allocate_page) if allocate else ("rap", backend.read_or_alloc_page)
            outcome = await call_backend(obj.cache, gauge, ReadOutcome, one, op, folios[0])
        else:
            gauge, many = (
                ("als", backend.allocate_pages) if allocate else ("ras", backend.read_or_alloc_pages)
            )
            outcome = await call_backend(obj.cache, gauge, ReadOutcome, many, op, folios)
        if outcome is ReadOutcome.HIT and not op.all_ended:
            message = f"backend {backend.name}: {op!r}: it said HIT, but not every page was ended"
            raise PluginError(message, plugin=backend.name)
    except NoSpaceError as error:
        if isinstance(error, NoMemoryError):
            count.out_of_memory()
        return ReadOutcome.NO_BUFFERS
    except FscacheError as error:
        obj.hook_failed(error)
        if not isinstance(error, CacheIOError):
            obj.abort()
        return ReadOutcome.NO_BUFFERS
    return outcome


class _ReadCounts:
    """The counters of the `Retrvls` rows."""

    def __init__(self, cookie: Cookie) -> None:
        self.stats = cookie.domain.stats

    def requested(self) -> None:
        self.stats.retrvls_n += 1

    def waited_for_lookup(self) -> None:
        self.stats.retrvls_wt += 1

    def out_of_memory(self) -> None:
        self.stats.retrvls_oom += 1

    def no_buffers(self) -> ReadOutcome:
        self.stats.retrvls_nbf += 1
        return ReadOutcome.NO_BUFFERS

    def interrupted(self) -> None:
        self.stats.retrvls_int += 1

    def submitted(self) -> None:
        self.stats.retrvl_ops += 1

    def waited(self) -> None:
        self.stats.retrvl_owt += 1

    def aborted(self) -> None:
        self.stats.retrvl_abt += 1

    def done(self, outcome: ReadOutcome) -> ReadOutcome:
        match outcome:
            case ReadOutcome.HIT:
                self.stats.retrvls_ok += 1
            case ReadOutcome.NO_DATA:
                self.stats.retrvls_nod += 1
            case ReadOutcome.NO_BUFFERS:
                self.stats.retrvls_nbf += 1
        return outcome


class _AllocCounts(_ReadCounts):
    """The counters of the `Allocs` rows."""

    def requested(self) -> None:
        self.stats.allocs_n += 1

    def waited_for_lookup(self) -> None:
        self.stats.retrvls_wt += 1  # as in the reference
        self.stats.allocs_wt += 1

    def no_buffers(self) -> ReadOutcome:
        self.stats.allocs_nbf += 1
        return ReadOutcome.NO_BUFFERS

    def interrupted(self) -> None:
        self.stats.allocs_int += 1

    def submitted(self) -> None:
        self.stats.alloc_ops += 1

    def waited(self) -> None:
        self.stats.alloc_owt += 1

    def aborted(self) -> None:
        self.stats.alloc_abt += 1

    def done(self, outcome: ReadOutcome) -> ReadOutcome:
        if outcome is ReadOutcome.NO_BUFFERS:
            self.stats.allocs_nbf += 1
        else:
            self.stats.allocs_ok += 1
        return outcome


# -- writing -----------------------------------------------------------------------------


async def write_page(cookie: Cookie, folio: Folio, object_size: int | None = None) -> WriteOutcome:
    """Queue pages for storing (4.3), waiting while too much is queued already.

    Args:
      folio: its buffer must not change until the pages were stored or dropped (`wait_on_page_write`).
      object_size: the file's size, bytes, if it has grown.

    Returns:
      ``STORED``: queued.  ``NO_BUFFERS``: not kept, because the cookie is uncached, or because these pages
      have not been read or allocated since the last invalidation.

    Cancellation: not queued.
    """
    cookie.check_holds_data()
    domain, generation = cookie.domain, cookie.generation
    while domain.stores_size and domain.stores_size + len(folio.buffer) > domain.limits.store_size:
        await domain.stores_changed.park()
    if cookie.generation != generation:  # invalidated meanwhile, and perhaps allocated by others since
        domain.stats.stores_n += 1
        domain.stats.stores_nbf += 1
        return WriteOutcome.NO_BUFFERS
    return write_page_nowait(cookie, folio, object_size)


def write_page_nowait(cookie: Cookie, folio: Folio, object_size: int | None = None) -> WriteOutcome:
    """`write_page` for a caller that bounds its memory itself."""
    cookie.check_holds_data()
    if not cookie.enabled:
        return WriteOutcome.NO_BUFFERS
    stats = cookie.domain.stats
    stats.stores_n += 1
    obj = cookie.object
    if (
        cookie.invalidating
        or obj is None
        or obj.dying
        or obj.cache.broken
        # Marks are cleared by an invalidation, so bytes fetched before it cannot slip in after it.
        or not cookie.marks.covers(folio.first, folio.n_pages)
    ):
        stats.stores_nbf += 1
        return WriteOutcome.NO_BUFFERS
    if object_size is not None:
        obj.set_store_limit(object_size)
    if cookie.stores.overlaps(folio.first, folio.n_pages):
        stats.stores_agn += 1  # unlike the reference's, the newer bytes are stored too, after the older
    cookie.stores.append(folio)
    if obj.storage is None and not start_storage(obj):
        cookie.stores.pop()
        stats.stores_nbf += 1
        return WriteOutcome.NO_BUFFERS
    stats.stores_ok += 1
    return WriteOutcome.STORED


# -- letting go --------------------------------------------------------------------------


def check_page_write(cookie: Cookie, first: int, n_pages: int = 1) -> bool:
    """Whether a store of any of these pages is pending or running."""
    return cookie.stores.overlaps(first, n_pages)


async def wait_on_page_write(cookie: Cookie, first: int, n_pages: int = 1) -> None:
    """Wait until no store of these pages is pending or running."""
    await cookie.wait_on_page_write(first, n_pages)


async def uncache_page(cookie: Cookie, first: int, n_pages: int = 1) -> None:
    """Tell that the netfs lets go of these pages; what is stored may stay."""
    cookie.check_usable()
    stats = cookie.domain.stats
    stats.pages_unc += n_pages
    if not cookie.marks.overlaps(first, n_pages):
        return
    cookie.marks.remove(first, n_pages)
    obj = cookie.object
    if obj is None:
        return
    cookie.no_data_yet = False
    hook = obj.cache.backend.uncache_page
    if hook is not None and cookie.type != CookieType.INDEX:
        try:
            await call_backend(obj.cache, "ucp", type(None), hook, obj, first, n_pages)
        except FscacheError as error:
            obj.hook_failed(error)


async def readpages_cancel(cookie: Cookie, folios: Sequence[Folio]) -> None:
    """Uncache pages that were allocated for a read that did not take place."""
    cookie.check_usable()
    for folio in folios:
        if cookie.marks.overlaps(folio.first, folio.n_pages):
            await uncache_page(cookie, folio.first, folio.n_pages)


async def uncache_all_inode_pages(cookie: Cookie) -> None:
    """Uncache every marked page of a file, after its store has ended."""
    cookie.check_usable()
    for first, n_pages in list(cookie.marks):
        await cookie.wait_on_page_write(first, n_pages)
        await uncache_page(cookie, first, n_pages)


async def maybe_release_page(cookie: Cookie, page_index: int, *, may_wait: bool = False) -> bool:
    """Whether the netfs may free a page's memory: True if it was uncached, False to keep it (section 8)."""
    cookie.check_usable()
    stats = cookie.domain.stats
    if page_index not in cookie.marks:
        return True
    if any(_holds(folio, page_index) for folio in cookie.stores.running):
        if not may_wait:
            stats.vmscan_bsy += 1
            return False
        stats.vmscan_wt += 1
        with trio.move_on_after(1):
            await cookie.wait_on_page_write(page_index)
        if page_index not in cookie.marks:
            stats.vmscan_gon += 1
            return True
        return await maybe_release_page(cookie, page_index)
    if cookie.stores.discard_page(page_index):
        stats.vmscan_can += 1
    else:
        stats.vmscan_nos += 1
    await uncache_page(cookie, page_index)
    return True


def _holds(folio: Folio, page_index: int) -> bool:
    return folio.first <= page_index < folio.end
