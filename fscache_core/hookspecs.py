# The methods of a spec are only their signatures and docstrings.
# mypy: disable-error-code="empty-body"
"""THE contract between core and its plugins: what a backend and a netfs adapter implement.

A backend is any object whose methods, marked with `cache_hook`, implement hooks of
`CacheSpec`; an adapter implements hooks of `NetfsSpec`, marked with `netfs_hook`.  An
implementation takes the arguments it needs, by these names, in this order; core rejects hooks it does
not know, arguments that do not exist and missing mandatory hooks when the plugin is added.

Rules that hold for every hook:

* Hooks that may block are async and run in core's trio loop.  Blocking system calls go to
  worker threads.  Every ``await`` may raise ``trio.Cancelled``: let it through.
* What a caller must handle is a value from `fscache_core.outcome`.  An exception that a docstring
  does not list is the plugin's fault: core logs it with the plugin's name, ends the object, and
  the reader goes on from the origin.
* Buffers are borrowed: after a hook returned, it keeps no reference to a buffer it was given.
* ``first``, ``n_pages`` count pages of `PAGE_SIZE` (4096) bytes; ``offset`` and ``..._size`` bytes.

The ``Kernel:`` line of a docstring names the counterpart in Linux FS-Cache before 5.17.
``Cancellation:`` is one of ``no-effect``, ``all-or-nothing``, ``may-be-partial``, ``shielded``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

import pluggy

from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.outcome import (
    NOT_RESIDENT,
    AuxOutcome,
    ConsistencyOutcome,
    CookieType,
    KillReason,
    LockOutcome,
    LookupOutcome,
    ReadOutcome,
    ReserveOutcome,
    WriteOutcome,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Mapping, Sequence

    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie
    from fscache_core.object import CacheObject
    from fscache_core.operation import Operation, Retrieval, Storage

__all__ = [
    "API_VERSION",
    "NOT_RESIDENT",
    "PAGE_SIZE",
    "AuxOutcome",
    "CacheSpec",
    "ConsistencyOutcome",
    "CookieType",
    "DirectoryEntry",
    "FileAttributes",
    "FileKind",
    "Folio",
    "KillReason",
    "Location",
    "LockOutcome",
    "LookupOutcome",
    "NetfsSpec",
    "Problem",
    "ReadOutcome",
    "ReserveOutcome",
    "Strength",
    "VerifyReport",
    "Wrapper",
    "WriteOutcome",
    "cache_hook",
    "netfs_hook",
]

#: A plugin may carry ``api_version``; core refuses one that differs from this.
API_VERSION = 1

P = ParamSpec("P")
R = TypeVar("R")

_cache_spec = pluggy.HookspecMarker("fscache.backend")
_netfs_spec = pluggy.HookspecMarker("fscache.netfs")

#: Marks a method of a backend as the implementation of the hook of its name.
cache_hook = pluggy.HookimplMarker("fscache.backend")
#: Marks a method of a netfs adapter as the implementation of the hook of its name.
netfs_hook = pluggy.HookimplMarker("fscache.netfs")


# -- values of the cache side ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with what a cache has stored."""

    place: str  #: where, as a person can find it: a path below the cache directory, ...
    fault: str
    repaired: bool


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What ``verify_cache`` looked at, and what was wrong with it."""

    n_objects: int
    read_size: int  #: bytes that were read and compared with what they should be
    problems: Sequence[Problem] = ()


# -- values of the netfs side ------------------------------------------------------------


class FileKind(enum.Enum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


class Strength(enum.Enum):
    """How much an origin's version evidence proves."""

    STRONG = "strong"  #: equal evidence means equal bytes (ETag, version id, an mtime that has aged)
    WEAK = "weak"  #: equal evidence proves nothing yet (an mtime as young as its resolution)
    NONE = "none"  #: the origin offers no evidence at all


@dataclass(frozen=True, slots=True)
class FileAttributes:
    """What an origin says of a file at one moment."""

    kind: FileKind
    size: int  #: bytes
    mtime_ns: int | None = None  #: since the epoch; None if the origin does not tell
    mode: int | None = None  #: permission bits
    evidence: str = ""  #: the version evidence as a person would read it, e.g. ``etag "5d41"``
    strength: Strength = Strength.STRONG


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One entry of a listing."""

    #: Without its directory; undecodable bytes as surrogate escapes.  What no local file can be called (an
    #: empty name, one with a ``/``) is listed all the same: recursive work says that it leaves it out.
    name: str
    attributes: FileAttributes


@dataclass(frozen=True, slots=True)
class Location:
    """A URL, split where the volume ends.

    ``volume`` is canonical (default port left out or put in, host in lower case, ...): equal text
    means the same files seen with the same rights.  It holds no secret.  ``path`` names a file of it.
    """

    volume: str  #: e.g. ``sshfs://joe@host:22``, ``s3://bucket``, ``https://host``, ``file://``
    path: str  #: e.g. ``/data/a.bin``, ``a/b.bin``


# -- the backend's side ------------------------------------------------------------------


class CacheSpec:
    """Hooks of a cache backend, after ``struct fscache_cache_ops``."""

    @_cache_spec
    async def bind_cache(self, cache: Cache) -> None:
        """Make the backing store ready for use.

        Optional.  Kernel: ``cachefiles_daemon_bind`` (before ``fscache_add_cache``).

        Called: once, before every other hook; again only after `unbind_cache`.

        Args:
          cache: the cache as core knows it; ``cache.tag`` is its name.  Keep it for
            ``cache.io_error()`` and ``cache.stats``.

        Raises:
          CacheUnusableError: the store cannot be used.  The cache is not added.
          CallerError: an option makes no sense.  The cache is not added.

        Cancellation: all-or-nothing.
        """

    @_cache_spec
    async def unbind_cache(self) -> None:
        """Let go of the backing store: close what `bind_cache` opened.

        Optional.  Kernel: ``cachefiles_daemon_unbind``.

        Called: once, last; no object exists any more.  What is cached stays.

        Cancellation: shielded (core allows 10 seconds).
        """

    @_cache_spec(firstresult=True)
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

    @_cache_spec(firstresult=True)
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

    @_cache_spec
    async def lookup_complete(self, obj: CacheObject) -> None:
        """Free what only the lookup needed.

        Optional.  Kernel: ``fscache_cache_ops.lookup_complete``.

        Called: after the lookup succeeded or failed; not for an object killed before it.

        Cancellation: no-effect.
        """

    @_cache_spec
    def grab_object(self, obj: CacheObject) -> None:
        """Note that core holds one more reference.

        Optional.  Kernel: ``fscache_cache_ops.grab_object``.  Core counts references itself.

        Called: from any task; must not block.

        Cancellation: no-effect.
        """

    @_cache_spec
    def put_object(self, obj: CacheObject) -> None:
        """Note that core dropped a reference; ``obj.usage`` is what is left.

        Optional.  Kernel: ``fscache_cache_ops.put_object``.  Core counts references itself.

        Called: from any task; must not block.  At 0 the object is never used again.

        Cancellation: no-effect.
        """

    @_cache_spec
    async def lock_object(self, obj: CacheObject) -> None:
        """Lock the object against other changes of its state.

        Optional.  Kernel: ``fscache_cache_ops.lock_object`` (documented, gone from the code).
        Core has a lock per object; a backend implements this only if it needs to know.

        Called: by core, before it changes what ``obj`` refers to.

        Cancellation: no-effect.
        """

    @_cache_spec
    def unlock_object(self, obj: CacheObject) -> None:
        """Undo `lock_object`.

        Optional.  Kernel: ``fscache_cache_ops.unlock_object`` (documented, gone from the code).

        Called: by the task that called `lock_object`.

        Cancellation: no-effect.
        """

    @_cache_spec(firstresult=True)
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

    @_cache_spec
    async def unpin_object(self, obj: CacheObject) -> None:
        """Undo `pin_object`.

        Optional.  Kernel: ``fscache_cache_ops.unpin_object`` (never called by the reference).

        Called: for an available object.  Idempotent.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: all-or-nothing.
        """

    @_cache_spec(firstresult=True)
    async def is_pinned(self, obj: CacheObject) -> bool:
        """Tell whether the object is pinned.

        Optional.  Kernel: none.  Default: False.

        Called: for an available object.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: no-effect.
        """

    @_cache_spec(firstresult=True)
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

    @_cache_spec(firstresult=True)
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

    @_cache_spec
    async def update_object(self, obj: CacheObject) -> None:
        """Write ``obj.cookie.aux`` into the label.

        Mandatory.  Kernel: ``fscache_cache_ops.update_object``.

        Called: in the object's own task, after the netfs updated the cookie, and before
            `drop_object` if an update is outstanding.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: all-or-nothing.
        """

    @_cache_spec
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

    @_cache_spec
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

    @_cache_spec
    async def sync_cache(self) -> None:
        """Bring what was stored to stable storage, or do nothing if a crash costs only cached data.

        Mandatory.  Kernel: ``fscache_cache_ops.sync_cache``.

        Called: on withdrawal, before objects are killed.

        Raises:
          CacheIOError: the backing store failed.  Core notes it; the withdrawal goes on.

        Cancellation: may-be-partial.
        """

    @_cache_spec
    async def dissociate_pages(self) -> None:
        """Forget any tie between netfs pages and this cache.

        Optional.  Kernel: ``fscache_cache_ops.dissociate_pages``.

        Called: on withdrawal, after `sync_cache`.

        Cancellation: may-be-partial.
        """

    @_cache_spec
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

    @_cache_spec(firstresult=True)
    async def read_or_alloc_page(self, op: Retrieval, folio: Folio) -> ReadOutcome:
        """`read_or_alloc_pages` for a single page.

        Optional.  Kernel: ``fscache_cache_ops.read_or_alloc_page``.  Default: one element of the plural.

        Called: as `read_or_alloc_pages`.

        Cancellation: may-be-partial.
        """

    @_cache_spec(firstresult=True)
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

    @_cache_spec(firstresult=True)
    async def allocate_page(self, op: Retrieval, folio: Folio) -> ReadOutcome:
        """`allocate_pages` for a single page.

        Optional.  Kernel: ``fscache_cache_ops.allocate_page``.  Default: one element of the plural.

        Called: as `allocate_pages`.

        Cancellation: no-effect.
        """

    @_cache_spec(firstresult=True)
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

    @_cache_spec(firstresult=True)
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

    @_cache_spec
    async def uncache_page(self, obj: CacheObject, first: int, n_pages: int) -> None:
        """Drop any tracking of pages that the netfs no longer holds.

        Optional.  Kernel: ``fscache_cache_ops.uncache_page``.  The data may stay.

        Called: for the netfs, on an object that may be in any state.

        Cancellation: no-effect.
        """

    @_cache_spec(firstresult=True)
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

    @_cache_spec(firstresult=True)
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

    @_cache_spec
    def unlock_pages(self, obj: CacheObject, first: int, n_pages: int) -> None:
        """Give back what `lock_pages` took, or a part of it.

        Optional.  Kernel: none.

        Called: at any time while the object exists, also when it is dying; must not block.  `drop_object`
            gives back all.

        Cancellation: no-effect.
        """

    @_cache_spec(firstresult=True)
    async def resident_pages(self, obj: CacheObject) -> list[tuple[int, int]]:
        """Tell which pages are stored, as ascending runs ``(first, n_pages)``.

        Optional.  Kernel: none.  Default: unknown.  For ``fscache stat`` and ``fscache warm``; a hint
        that may be out of date when it is returned.

        Called: for an available object, beside other operations.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: no-effect.
        """

    @_cache_spec(firstresult=True)
    async def get_check_time(self, obj: CacheObject) -> float:
        """Tell what `set_check_time` noted for this object.

        Optional.  Kernel: none.  Default: 0.0, so that a ttl holds within one process only.

        Called: for an available object.

        Returns:
          Seconds since the epoch; 0.0 if nothing is noted, or what is noted cannot be read.

        Cancellation: no-effect.
        """

    @_cache_spec
    async def set_check_time(self, obj: CacheObject, check_time: float) -> None:
        """Note when the origin last said that what is stored is the present version.

        Optional.  Kernel: none.  Not a part of the label: it changes while the version stays.

        Called: for an available object, when nothing waits to be stored.  To lose it costs one question to
            the origin, so it need not be safe.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: all-or-nothing.
        """

    @_cache_spec(firstresult=True)
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

    @_cache_spec
    async def add_statistics(self, counts: Mapping[str, int]) -> None:
        """Add counts to those kept in the backing store, for all who use it and over restarts.

        Optional.  Kernel: none (its counters end with the machine).  Without it counts end with the process.

        Called: every few seconds while something is counted, and on withdrawal before `unbind_cache`; never
            twice at once.

        Args:
          counts: what came to be since the last call, by counter (fields of ``fscache_core.stats.Stats``);
            positive.  Counters that the backing store does not know yet begin at 0.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache; these counts are lost.

        Cancellation: all-or-nothing.
        """

    @_cache_spec(firstresult=True)
    async def statistics(self) -> Mapping[str, int]:
        """Give the counts kept in the backing store: those of every process that used it.

        Optional, with `add_statistics`.  Kernel: none.

        Called: by ``fscache stats``, at any time.

        Returns:
          The sums; empty if nothing can be read.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: no-effect.
        """

    @_cache_spec(firstresult=True)
    async def verify_cache(self, repair: bool, progress: Callable[[int, int], None]) -> VerifyReport:
        """Check everything that is stored, while others use it.

        Optional.  Kernel: none.  Default: ``UnsupportedError``.

        Called: by ``fscache verify``, at any time; may take as long as it needs.

        Args:
          repair: remove what is wrong, so that it is fetched again; else change nothing.
          progress: call ``progress(done, total)`` now and then, from the trio thread only; the unit is the
            backend's.

        Returns:
          What was found.  What others remove or store meanwhile is not wrong.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: may-be-partial.  What was repaired stays so.
        """


# -- the netfs's side --------------------------------------------------------------------


class NetfsSpec:
    """Hooks of a netfs adapter.

    ``volume`` is whatever the adapter's `open_volume` returned; ``netfs_data`` is a volume or a file
    of the adapter's own making (`name_file`, `look_up`).  Both are opaque to core, and a file's
    is never changed after it was made: it stands for one version.
    """

    # The definition of a cookie (reference section 2).

    @_netfs_spec(firstresult=True)
    def get_key(self, netfs_data: object) -> bytes:
        """Give the key of a volume within its netfs, or of a file within its volume.

        Mandatory.  Kernel: ``fscache_cookie_def.get_key``.

        Called: when a cookie is acquired.  Must not block.

        Returns:
          1 to 511 bytes, the same for ever for the same thing.  A volume's key holds everything that
          makes bytes or access differ: endpoint, host, port, user or identity of the credentials.
          Longer names: ``fscache_core.netfs.fit_key``.

        Raises:
          FscacheError: goes to whoever opens the file.
          anything else, as a wrong answer: logged with the adapter's name; the file is read from the origin,
            uncached.  What is cached stays.

        Cancellation: no-effect.
        """

    @_netfs_spec(firstresult=True)
    def get_attr(self, netfs_data: object) -> FileAttributes:
        """Give size, times and strength of evidence of a file that was looked up or recalled.

        Mandatory.  Kernel: ``fscache_cookie_def.get_attr``.

        Called: when a file is opened.  Must not block.

        Raises:
          anything: goes to whoever opens the file; what is no `FscacheError`, and a wrong answer, as a
            `PluginError` that names the adapter.  What is cached stays.

        Cancellation: no-effect.
        """

    @_netfs_spec(firstresult=True)
    def get_aux(self, netfs_data: object) -> bytes:
        """Give the version evidence of a file that was looked up, as it goes into the label.

        Mandatory.  Kernel: ``fscache_cookie_def.get_aux``.

        Called: when a file is opened or updated.  Must not block.

        Returns:
          At most 509 bytes (the file layer adds one of its own) holding all that the origin offers:
          ETag, version id, size, mtime with its resolution, inode, change counter.
          `recall_file` must be able to read it.  Longer: hash.

        Raises:
          FscacheError: goes to whoever opens the file.
          anything else, as a wrong answer: logged with the adapter's name; the file is read from the origin,
            uncached.  What is cached stays.

        Cancellation: no-effect.
        """

    @_netfs_spec(firstresult=True)
    def check_aux(self, netfs_data: object, aux: bytes, object_size: int) -> AuxOutcome:
        """Say whether a stored label still describes the file.

        Optional.  Kernel: ``fscache_cookie_def.check_aux``.  Default: ``OKAY`` if ``aux`` equals
        `get_aux` and ``object_size`` equals the size, else ``OBSOLETE``.

        Called: during lookup, in the object's task; must not block.

        Raises:
          anything: logged with the adapter's name; the label counts as obsolete.  Backends see none of it.

        Cancellation: no-effect.
        """

    @_netfs_spec
    def get_context(self, netfs_data: object, context: object) -> None:
        """Hold ``context`` for the time of a read.

        Optional.  Kernel: ``fscache_cookie_def.get_context``.

        Called: when a retrieval with a context is made.  Must not block.

        Raises:
          anything: logged with the adapter's name; nothing else comes of it.

        Cancellation: no-effect.
        """

    @_netfs_spec
    def put_context(self, netfs_data: object, context: object) -> None:
        """Release what `get_context` held.

        Optional.  Kernel: ``fscache_cookie_def.put_context``.

        Called: when that retrieval is released; exactly once.  Must not block.

        Raises:
          anything: logged with the adapter's name; nothing else comes of it.

        Cancellation: no-effect.
        """

    @_netfs_spec
    def mark_pages_cached(self, netfs_data: object, first: int, n_pages: int) -> None:
        """Note that the cache has, or has room for, these pages.

        Optional.  Kernel: ``fscache_cookie_def.mark_page_cached``.

        Called: after a read or an allocation.  Must not block.

        Raises:
          anything: logged with the adapter's name; nothing else comes of it.

        Cancellation: no-effect.
        """

    @_netfs_spec
    def now_uncached(self, netfs_data: object) -> None:
        """Note that the file is not cached any more: its object went away.

        Optional.  Kernel: ``fscache_cookie_def.now_uncached`` (documented, never called there).

        Called: after the object of a cookie still in use was dropped.  Must not block.

        Raises:
          anything: logged with the adapter's name; nothing else comes of it.

        Cancellation: no-effect.
        """

    @_netfs_spec(firstresult=True)
    def select_cache(self, parent_netfs_data: object, netfs_data: object) -> str | None:
        """Choose a cache by its tag.

        Optional.  Kernel: ``fscache_cookie_def.select_cache``.  Default: None.

        Called: of the parent index of a file, if that index has no object yet.  Must not block.

        Returns:
          A tag, or None for no preference.

        Raises:
          anything: logged with the adapter's name; there is no preference.

        Cancellation: no-effect.
        """

    # Where files are.

    @_netfs_spec(firstresult=True)
    def parse_url(self, url: str) -> Location:
        """Split a URL of one of this adapter's schemes.

        Mandatory.  Kernel: none (mount options).

        Called: for every URL; must not block, look anything up on a network or need credentials.

        Raises:
          CallerError: not a URL of this adapter, or a malformed one.

        Cancellation: no-effect.
        """

    @_netfs_spec(firstresult=True)
    async def open_volume(self, location: Location) -> object:
        """Make a volume.  The origin need not be reachable: connect when first needed.

        Mandatory.  Kernel: a netfs's mount.

        Called: once per volume and `FsCache`; then `close_volume`.

        Returns:
          The adapter's volume; `get_key` of it works without the origin.

        Raises:
          CallerError: an option or credential is malformed.

        Cancellation: all-or-nothing.
        """

    @_netfs_spec
    async def close_volume(self, volume: object) -> None:
        """Close connections, threads and descriptors of a volume.

        Optional.  Kernel: a netfs's umount.

        Called: once; nothing is being fetched.

        Cancellation: shielded (core allows 10 seconds).
        """

    @_netfs_spec(firstresult=True)
    def name_file(self, volume: object, path: str) -> object:
        """Make a file of which nothing is known but its name.

        Mandatory.  Kernel: none.

        Called: to find a file in the cache without the origin.  Must not block or contact the origin.

        Returns:
          A file for which `get_key` works; core asks it for nothing else.

        Raises:
          CallerError: not a name this origin can have.

        Cancellation: no-effect.
        """

    @_netfs_spec(firstresult=True)
    def recall_file(self, volume: object, path: str, aux: bytes, object_size: int) -> object:
        """Make a file as its label described it: the version that the cache holds.

        Mandatory.  Kernel: none.

        Called: when a cached version is used without asking the origin.  Must not block.

        Args:
          aux: what `get_aux` returned once.
          object_size: size of that version, bytes.

        Returns:
          A file like that from `look_up`; `fetch` of it gets that version or raises ``StaleError``.

        Raises:
          CallerError: ``aux`` is not readable.  Core treats the object as stale.

        Cancellation: no-effect.
        """

    @_netfs_spec(firstresult=True)
    async def look_up(self, volume: object, path: str) -> object:
        """Ask the origin what the file is now.  Follows symbolic links.

        Mandatory.  Kernel: a netfs's lookup and getattr.

        Called: when a file is opened, as coherency demands; several at once.

        Returns:
          The file in its present version.  A directory is returned too (``get_attr().kind``).

        Raises:
          OriginNotFoundError, OriginPermissionError, OriginUnreachableError, OriginTimeoutError, OriginError:
            naming origin, file and cause.  The open fails, or is served stale if the user chose that.

        Cancellation: no-effect.
        """

    @_netfs_spec
    async def fetch(
        self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        """Fetch a byte range of exactly this version into ``buffer``.

        Mandatory.  Kernel: a netfs's readpages.

        Called: beside others, also on one file.  Retries, back-off and deadline are the adapter's.

        Args:
          netfs_data: from `look_up` or `recall_file`.
          offset: bytes; ``offset + len(buffer)`` is not beyond the version's size; buffer not empty.
          buffer: the adapter's to write until it returns.
          arrived: call ``arrived(n)`` when the first ``n`` bytes of ``buffer`` are there AND known to be
            of this version; ascending; from the trio thread only.  They are handed on at once, and the
            adapter must not touch them again.  On return all of it has arrived (no final call needed).

        Raises:
          StaleError: the origin has another version now (also: shorter or longer than it should be).
          OriginError and its kinds: naming origin, file, range and cause.
            In both cases bytes that had arrived stay good; the rest is dropped.

        Cancellation: may-be-partial.  Bytes that had arrived are good; the buffer is not touched any more.
        """

    @_netfs_spec(firstresult=True)
    async def list_directory(self, volume: object, path: str) -> Sequence[DirectoryEntry]:
        """List a directory, not recursively, without ``.`` and ``..``, sorted by name.

        Optional.  Kernel: a netfs's readdir.  Default: ``UnsupportedError``.

        Called: by ``fscache ls`` and recursive work.

        Raises:
          OriginNotFoundError, OriginError and its kinds.

        Cancellation: no-effect.
        """

    # Writing through.  Every one of these is done at the origin when it returns.

    @_netfs_spec(firstresult=True)
    async def put_file(
        self, volume: object, path: str, source: AsyncIterable[bytes], replaces: object | None
    ) -> object:
        """Create or replace a whole file from a stream.

        Optional.  Kernel: a netfs's create and writepages.  Default: ``UnsupportedError``.

        Called: by one writer at a time per file and process.

        Args:
          source: chunks of any size.
          replaces: the version that must be there now, or None for no condition.

        Returns:
          The file in its new version.

        Raises:
          StaleError: ``replaces`` is not what is there.
          OriginError and its kinds.

        Cancellation: may-be-partial.  Whether other clients can see a part is the origin's nature.
        """

    @_netfs_spec(firstresult=True)
    async def store(self, netfs_data: object, offset: int, buffer: memoryview) -> object:
        """Write bytes into an existing file.

        Optional.  Kernel: a netfs's writepage.  Default: ``UnsupportedError``.

        Called: by one writer at a time per file and process.

        Returns:
          The file in its new version.

        Raises:
          OriginError and its kinds.

        Cancellation: may-be-partial.
        """

    @_netfs_spec(firstresult=True)
    async def truncate(self, netfs_data: object, size: int) -> object:
        """Set the size of an existing file; returns it in its new version.

        Optional.  Kernel: a netfs's setattr.  Default: ``UnsupportedError``.

        Called: by one writer at a time per file and process.

        Cancellation: all-or-nothing.
        """

    @_netfs_spec
    async def rename(self, volume: object, path: str, new_path: str) -> None:
        """Rename a file or directory, replacing a file of the new name.

        Optional.  Kernel: a netfs's rename.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """

    @_netfs_spec
    async def unlink(self, volume: object, path: str) -> None:
        """Remove a file or symbolic link.

        Optional.  Kernel: a netfs's unlink.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """

    @_netfs_spec
    async def mkdir(self, volume: object, path: str, mode: int) -> None:
        """Make a directory.

        Optional.  Kernel: a netfs's mkdir.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """

    @_netfs_spec
    async def rmdir(self, volume: object, path: str) -> None:
        """Remove an empty directory.

        Optional.  Kernel: a netfs's rmdir.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """

    @_netfs_spec
    async def symlink(self, volume: object, target: str, path: str) -> None:
        """Make ``path`` a symbolic link to ``target``, which is not interpreted.

        Optional.  Kernel: a netfs's symlink.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """

    @_netfs_spec
    async def chmod(self, volume: object, path: str, mode: int) -> None:
        """Set permission bits.

        Optional.  Kernel: a netfs's setattr.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """

    @_netfs_spec
    async def utimens(self, volume: object, path: str, atime_ns: int, mtime_ns: int) -> None:
        """Set access and modification time, nanoseconds since the epoch.

        Optional.  Kernel: a netfs's setattr.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """


# -- wrappers ----------------------------------------------------------------------------


class Wrapper(Protocol):
    """Wraps hooks of the cache or netfs it is added to, without the plugin's knowledge.

    Found in the group ``fscache.wrapper``.  Tracing, fault injection, encryption and rate limits are
    built this way.  pluggy's own wrappers cannot await, hence this protocol.
    """

    def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
        """Return what is to be called in place of ``proceed``, or ``proceed`` itself.

        Called once per hook when the cache is added; ``hook`` is its name.  For an async hook
        ``proceed`` is an async function and so must be the result.  The wrapper added first is outermost.
        """
        ...
