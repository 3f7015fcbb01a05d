# The methods of a spec are only their signatures and docstrings.
# mypy: disable-error-code="empty-body"
"""Hooks of a backend for its objects: a part of the contract, `fscache_core.hookspecs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie
    from fscache_core.object import CacheObject
    from fscache_core.operation import Operation
    from fscache_core.outcome import ConsistencyOutcome, LookupOutcome, ReserveOutcome

_spec = pluggy.HookspecMarker("fscache.backend")


class ObjectHooks:
    """The life of an object, in about the order in which core calls for it; what is promised to it and noted
    of it."""

    @_spec(firstresult=True)
    def alloc_object(self, cache: Cache, cookie: Cookie) -> CacheObject:
        """Make the record of one cookie in this cache: a `CacheObject` or the backend's subclass.

        Mandatory.  Kernel: ``fscache_cache_ops.alloc_object``.

        Called: when a cookie needs an object here; nothing has been looked up.  Must not touch
            the backing store.  A good place to encode the key.

        Args:
          cache: the cache it is for; hand it to ``CacheObject(cache, cookie)``.
          cookie: whose ``key`` (raw bytes), ``type`` and ``parent`` name the object.

        Returns:
          The new object.  Core owns it.

        Raises:
          FscacheError: the key cannot be represented.  The cookie stays uncached.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    async def lookup_object(self, obj: CacheObject) -> LookupOutcome:
        """Find the backing of ``obj``, creating it if there is none.

        Mandatory.  Kernel: ``fscache_cache_ops.lookup_object``.

        Called: once per object (again after ``RETRY``), when its parent is available and before
            any page operation; core runs no other hook on ``obj`` meanwhile.

        Call ``obj.lookup_negative()`` as soon as it is known that there is nothing, so that
        readers need not wait for the creation; if it returns False, create nothing and return
        ``ABSENT``.  Ask ``obj.check_aux(label, object_size)`` whether an existing label
        is valid: on ``OBSOLETE`` retire what is there, call ``obj.retrying_stale()`` and go on as
        if it were absent; on ``NEEDS_UPDATE`` rewrite the label.  Label a new object with
        ``obj.cookie.aux`` and give it ``obj.cookie.object_size``.

        Args:
          obj: as returned by `alloc_object`.  ``obj.parent`` is the object of the parent cookie and
            available.  The master index itself (``cookie.parent`` None) is allocated but never looked
            up, never written and never dropped: `bind_cache` made what it stands for.

        Returns:
          ``OBTAINED``, ``CREATED``, ``ABSENT`` or ``RETRY``.  Core calls ``obj.obtained_object()``
          if the backend has not.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.
          NoSpaceError: no room for the object.  Core kills this object only.
          FscacheError: this object cannot be had.  Core kills this object only.

        Cancellation: all-or-nothing.  After ``Cancelled`` there is either a labelled object or
            none; `drop_object` is still called.
        """

    @_spec
    async def lookup_complete(self, obj: CacheObject) -> None:
        """Free what only the lookup needed.

        Optional.  Kernel: ``fscache_cache_ops.lookup_complete``.

        Called: after the lookup succeeded or failed; not for an object killed before it.

        Cancellation: no-effect.
        """

    @_spec
    def grab_object(self, obj: CacheObject) -> None:
        """Note that core holds one more reference.

        Optional.  Kernel: ``fscache_cache_ops.grab_object``.  Core counts references itself.

        Called: from any task; must not block.

        Cancellation: no-effect.
        """

    @_spec
    def put_object(self, obj: CacheObject) -> None:
        """Note that core dropped a reference; ``obj.usage`` is what is left.

        Optional.  Kernel: ``fscache_cache_ops.put_object``.  Core counts references itself.

        Called: from any task; must not block.  At 0 the object is never used again.

        Cancellation: no-effect.
        """

    @_spec
    async def lock_object(self, obj: CacheObject) -> None:
        """Lock the object against other changes of its state.

        Optional.  Kernel: ``fscache_cache_ops.lock_object`` (documented, gone from the code).
        Core has a lock per object; a backend implements this only if it needs to know.

        Called: by core, before it changes what ``obj`` refers to.

        Cancellation: no-effect.
        """

    @_spec
    def unlock_object(self, obj: CacheObject) -> None:
        """Undo `lock_object`.

        Optional.  Kernel: ``fscache_cache_ops.unlock_object`` (documented, gone from the code).

        Called: by the task that called `lock_object`.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    async def pin_object(self, obj: CacheObject) -> ReserveOutcome:
        """Keep the object from being culled until `unpin_object`, over restarts too.

        Optional.  Kernel: ``fscache_cache_ops.pin_object`` (never called by the reference).

        Called: for an available object.  Idempotent.

        Returns:
          ``GRANTED`` or ``REFUSED``.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: all-or-nothing.
        """

    @_spec
    async def unpin_object(self, obj: CacheObject) -> None:
        """Undo `pin_object`.

        Optional.  Kernel: ``fscache_cache_ops.unpin_object`` (never called by the reference).

        Called: for an available object.  Idempotent.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: all-or-nothing.
        """

    @_spec(firstresult=True)
    async def is_pinned(self, obj: CacheObject) -> bool:
        """Tell whether the object is pinned.

        Optional.  Kernel: none.  Default: False.

        Called: for an available object.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    async def reserve_space(self, obj: CacheObject, reserved_size: int) -> ReserveOutcome:
        """Promise room for ``reserved_size`` bytes of this object (0 gives the promise back).

        Optional.  Kernel: ``fscache_cache_ops.reserve_space`` (never called by the reference).

        Called: for an available object.

        Returns:
          ``GRANTED`` or ``REFUSED``.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: all-or-nothing.
        """

    @_spec(firstresult=True)
    async def check_consistency(self, op: Operation) -> ConsistencyOutcome:
        """Compare the stored label with the cookie's aux data once more.

        Mandatory.  Kernel: ``fscache_cache_ops.check_consistency``.

        Called: for the netfs, as a shared operation in progress on ``op.object``.

        Returns:
          ``CONSISTENT`` if the label is there and ``op.object.check_aux`` says ``OKAY``, else ``STALE``.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: no-effect.
        """

    @_spec
    async def update_object(self, obj: CacheObject) -> None:
        """Write ``obj.cookie.aux`` into the label.

        Mandatory.  Kernel: ``fscache_cache_ops.update_object``.

        Called: in the object's own task, after the netfs updated the cookie, and before
            `drop_object` if an update is outstanding.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: all-or-nothing.
        """

    @_spec
    async def invalidate_object(self, op: Operation) -> None:
        """Discard all data of ``op.object``; give it the cookie's present size and label.

        Mandatory.  Kernel: ``fscache_cache_ops.invalidate_object``.

        Called: as an exclusive operation; no other operation of the object is in progress,
            but `read_resident` may be called from other threads: from here on it must not return old data.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.
          FscacheError: it could not be done.  Core kills the object as retired.

        Cancellation: all-or-nothing.
        """

    @_spec
    async def drop_object(self, obj: CacheObject) -> None:
        """Let go of the object; if ``obj.retired``, delete what is stored.

        Mandatory.  Kernel: ``fscache_cache_ops.drop_object``.

        Called: last, exactly once for every object whose `lookup_object` was called; no operation
            and no child is left.  `read_resident` may still be running in another thread: close descriptors
            only when the last user is gone.  ``obj.retired`` means delete, whatever state it is in.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: shielded (core allows 10 seconds).
        """

    @_spec
    async def attr_changed(self, obj: CacheObject) -> None:
        """Apply ``obj.cookie.object_size``, which the netfs changed.

        Mandatory.  Kernel: ``fscache_cache_ops.attr_changed``.

        Called: as an exclusive operation.  Growing keeps the whole pages that are cached; an old last
            page that was cut is no longer valid.  Shrinking drops what is beyond; of the page that is
            cut, what is left may be kept or dropped.  Call ``obj.set_store_limit(size)``.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.
          FscacheError: it could not be done.  Core kills the object.

        Cancellation: all-or-nothing.
        """

    @_spec(firstresult=True)
    async def get_check_time(self, obj: CacheObject) -> float:
        """Tell what `set_check_time` noted for this object.

        Optional.  Kernel: none.  Default: 0.0, so that a ttl holds within one process only.

        Called: for an available object.

        Returns:
          Seconds since the epoch; 0.0 if nothing is noted, or what is noted cannot be read.

        Cancellation: no-effect.
        """

    @_spec
    async def set_check_time(self, obj: CacheObject, check_time: float) -> None:
        """Note when the origin last said that what is stored is the present version.

        Optional.  Kernel: none.  Not a part of the label: it changes while the version stays.

        Called: for an available object, when nothing waits to be stored.  To lose it costs one question to
            the origin, so it need not be safe.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: all-or-nothing.
        """

    @_spec(firstresult=True)
    async def child_keys(self, obj: CacheObject) -> list[tuple[int, bytes]]:
        """Tell what is stored below an index, as pairs of cookie type and raw key.

        Optional.  Kernel: none.  Without it, invalidating a prefix or a volume is refused.

        Called: for an available index object, beside other operations.  What comes or goes meanwhile may be
            in the answer or not.

        Returns:
          In any order; every child once.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: no-effect.
        """
