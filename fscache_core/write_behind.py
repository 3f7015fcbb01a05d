"""Writing behind: the storage operation that brings a cookie's pending stores to the backend (section 8).

An object has one while something waits to be stored.  It writes in the order in which pages were queued.  To
an exclusive operation it gives way, and another behind that takes what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fscache_core.errors import CacheIOError, FscacheError, NoMemoryError, NoSpaceError
from fscache_core.folio import Folio
from fscache_core.hook_call import call_backend
from fscache_core.operation import Operation, Storage, SubmitOutcome
from fscache_core.outcome import WriteOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fscache_core.object import CacheObject


def start_storage(obj: CacheObject) -> bool:
    """Have the pending stores of an object's cookie written; False if the object takes no more operations."""
    op = obj.storage = Storage(obj, processor=_write_behind)
    obj.domain.stats.store_ops += 1
    accepted = obj.ops.submit(op) is SubmitOutcome.ACCEPTED
    op.put()
    if not accepted:
        obj.storage = None
    return accepted


async def _write_behind(op: Operation) -> None:
    """Write a cookie's pending stores, first come first served, until there is none."""
    obj = op.object
    cookie, limits = obj.cookie, obj.domain.limits
    try:
        # An exclusive operation that waits goes first: what is left is taken by a storage op behind it.
        while cookie.stores and obj.active and not obj.ops.n_exclusive:
            # Where one call takes several runs, the other half of what may wait comes meanwhile.
            several = obj.cache.backend.write_pages is not None
            try:
                await _write(op, obj, cookie.stores.begin(limits.store_size // 2 if several else 0))
            finally:
                cookie.stores.end()
    finally:
        if obj.storage is op:
            obj.storage = None
        if not obj.active or (cookie.stores and obj.storage is None and not start_storage(obj)):
            cookie.stores.discard()
        if not op.ended:  # the backend may have completed it
            op.complete(cancelled=not obj.active)


async def _write(op: Operation, obj: CacheObject, begun: Sequence[Folio]) -> None:
    assert isinstance(op, Storage)
    cookie, stats, backend = obj.cookie, obj.domain.stats, obj.cache.backend
    folios: list[Folio] = []
    for folio in begun:
        stats.store_run += 1
        fits = obj.store_limit_size - folio.offset
        within = folio
        if fits < len(folio.buffer):
            within = Folio(folio.first, folio.buffer[: max(fits, 0)])
            stats.store_olm += folio.n_pages - within.n_pages
        if within.n_pages:
            stats.store_pgs += within.n_pages
            folios.append(within)
    if not folios:
        return
    try:
        if len(folios) > 1 and backend.write_pages is not None:
            outcome = await call_backend(obj.cache, "wrp", WriteOutcome, backend.write_pages, op, folios)
        else:
            (folio,) = folios
            outcome = await call_backend(obj.cache, "wrp", WriteOutcome, backend.write_page, op, folio)
    except NoSpaceError as error:
        if isinstance(error, NoMemoryError):
            stats.stores_oom += 1
        outcome = WriteOutcome.NO_BUFFERS
    except FscacheError as error:
        obj.hook_failed(error)
        if not isinstance(error, CacheIOError):
            # What it left is not to be believed.
            obj.retired = True
            obj.abort()
        return
    if outcome is not WriteOutcome.STORED:
        for folio in folios:
            cookie.marks.remove(folio.first, folio.n_pages)
