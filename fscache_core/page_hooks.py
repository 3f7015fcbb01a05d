# The methods of a spec are only their signatures and docstrings.
# mypy: disable-error-code="empty-body"
"""Hooks of a backend for the pages of an object: a part of the contract, `fscache_core.hookspecs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fscache_core.folio import Folio
    from fscache_core.object import CacheObject
    from fscache_core.operation import Retrieval, Storage
    from fscache_core.outcome import LockOutcome, ReadOutcome, WriteOutcome

_spec = pluggy.HookspecMarker("fscache.backend")


class PageHooks:
    """Reading and storing pages, and who fetches them."""

    @_spec(firstresult=True)
    async def read_or_alloc_page(self, op: Retrieval, folio: Folio) -> ReadOutcome:
        """`read_or_alloc_pages` for a single page.

        Optional.  Kernel: ``fscache_cache_ops.read_or_alloc_page``.  Default: one element of the plural.

        Called: as `read_or_alloc_pages`.

        Cancellation: may-be-partial.
        """

    @_spec(firstresult=True)
    async def read_or_alloc_pages(self, op: Retrieval, folios: Sequence[Folio]) -> ReadOutcome:
        """Read the pages that are cached into their buffers; make room for the others.

        Mandatory.  Kernel: ``fscache_cache_ops.read_or_alloc_pages``.

        Called: for the netfs, as a shared operation in progress on ``op.object``; several may run
            at once on one object, also beside `write_page`.

        Args:
          op: call ``op.end_io(first, n_pages)`` for each run whose bytes are now in their
            place, as early as possible.  Pages never ended are holes.  A page for which ``end_io``
            was called with ``error=`` is not to be trusted.
          folios: ascending, disjoint.  The buffers are the backend's to write until it returns; the
            bytes of pages that were not ended are undefined afterwards.

        Returns:
          ``HIT`` if every page was ended; ``NO_DATA`` if some are holes and there is room for
          them; ``NO_BUFFERS`` if there is none.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache; pages ended before are good.

        Cancellation: may-be-partial.  Pages ended are good, all others undefined.
        """

    @_spec(firstresult=True)
    async def allocate_page(self, op: Retrieval, folio: Folio) -> ReadOutcome:
        """`allocate_pages` for a single page.

        Optional.  Kernel: ``fscache_cache_ops.allocate_page``.  Default: one element of the plural.

        Called: as `allocate_pages`.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    async def allocate_pages(self, op: Retrieval, folios: Sequence[Folio]) -> ReadOutcome:
        """Make room for pages without reading them.

        Mandatory.  Kernel: ``fscache_cache_ops.allocate_pages``.

        Called: as `read_or_alloc_pages`, when nothing is stored yet or the netfs wants no data.

        Returns:
          ``NO_DATA`` (there is room; store them) or ``NO_BUFFERS``.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    async def write_page(self, op: Storage, folio: Folio) -> WriteOutcome:
        """Store a run of pages.

        Mandatory.  Kernel: ``fscache_cache_ops.write_page``.

        Called: in the operation's task, one at a time per object, beside reads.  Never beyond the store
            limit (``op.object.store_limit_size``, bytes).

        Args:
          folio: read only; not changed by anybody until the hook returns.

        Returns:
          ``STORED``: from now on a read finds exactly these bytes or nothing.  ``NO_BUFFERS``:
          nothing was kept, for lack of room (ENOSPC, EDQUOT, a limit).

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.
          FscacheError: this object cannot take it.  Core kills the object.

        Cancellation: may-be-partial.  Each page is stored whole or is a hole.
        """

    @_spec(firstresult=True)
    async def write_pages(self, op: Storage, folios: Sequence[Folio]) -> WriteOutcome:
        """Store several runs of pages.

        Optional.  Kernel: none; it is to ``write_page`` what ``read_or_alloc_pages`` is to
        ``read_or_alloc_page``.  For backends to which a call costs more than a run.

        Called: as `write_page`, instead of it, when more than one run waits.  Never in a cache with
            wrappers: they see every store as a call of `write_page`.

        Args:
          folios: in the order in which they are to be stored, each as in `write_page`.  Of pages that are in
            two of them the later bytes hold.  At most half of ``Limits.store_size`` in all.

        Returns:
          ``STORED``: as `write_page` says, for all of them.  ``NO_BUFFERS``: not all were kept.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.
          FscacheError: this object cannot take it.  Core kills the object.

        Cancellation: may-be-partial.  Each page is stored whole or is a hole.
        """

    @_spec
    async def uncache_page(self, obj: CacheObject, first: int, n_pages: int) -> None:
        """Drop any tracking of pages that the netfs no longer holds.

        Optional.  Kernel: ``fscache_cache_ops.uncache_page``.  The data may stay.

        Called: for the netfs, on an object that may be in any state.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    def read_resident(self, obj: CacheObject, offset: int, buffer: memoryview) -> int:
        """Copy the range now, without blocking, if all of it is valid and at hand.

        Optional.  Kernel: the fast path of ``read_or_alloc_page`` for an up-to-date backing page.

        Called: for an available object, from ANY thread, beside any other hook, before and after
            `drop_object`.  It is the hot path: no task switch, no lock that may be held for long.

        Args:
          offset: any byte offset; ``offset + len(buffer)`` is not beyond the object's size.
          buffer: flat, writable; undefined afterwards if not resident.

        Returns:
          ``len(buffer)``, or ``NOT_RESIDENT`` (-1).  Never less.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    async def lock_pages(self, obj: CacheObject, first: int, n_pages: int, seconds: float) -> LockOutcome:
        """Take the fill lock of a range, so that only one process fetches it.

        Optional.  Kernel: none (the page lock of a shared page cache).  Default: ``LOCKED``; core
        already lets only one task of this process in.

        Called: before pages are fetched from the origin.  Ranges that one process holds never overlap.
            Advisory: `write_page` works without it.

        Args:
          seconds: how long to wait at most while another process holds some of it.

        Returns:
          ``LOCKED``: held until `unlock_pages`, or until the process dies.  ``CHANGED``: another
          process holds some of it; returned when pages of the range have arrived or the lock may be
          free, and at the latest after ``seconds``.

        Cancellation: all-or-nothing.  Not held after ``Cancelled``.
        """

    @_spec
    def unlock_pages(self, obj: CacheObject, first: int, n_pages: int) -> None:
        """Give back what `lock_pages` took, or a part of it.

        Optional.  Kernel: none.

        Called: at any time while the object exists, also when it is dying; must not block.  `drop_object`
            gives back all.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    async def resident_pages(self, obj: CacheObject) -> list[tuple[int, int]]:
        """Tell which pages are stored, as ascending runs ``(first, n_pages)``.

        Optional.  Kernel: none.  Default: unknown.  For ``fscache stat`` and ``fscache warm``; a hint
        that may be out of date when it is returned.

        Called: for an available object, beside other operations.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: no-effect.
        """
