"""The cachefiles backend: hooks of the contract over a cache directory.

One directory, any number of processes, no daemon: the filesystem is all they share.  What is on disk
is described in `namei` (names and representations), `blockmap` (which pages are valid), `ledger`
(how much is stored) and `graveyard` (what is being built or deleted).

Threads: everything that may wait for the disk runs in worker threads of this cache's own limiter,
one hop per hook; only `read_resident` and the byte-range locks are done where they are called.
"""

import errno
import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import trio

from fscache_cachefiles import options, statistics, xattr
from fscache_cachefiles.admission import Admission
from fscache_cachefiles.backing import Backing
from fscache_cachefiles.bind import Root, open_root, sync_filesystem
from fscache_cachefiles.blockmap import PAGES_PER_BLOCK
from fscache_cachefiles.descriptors import Descriptors, default_max_open
from fscache_cachefiles.graveyard import Graveyard
from fscache_cachefiles.ledger import Ledger, Weight, fill_lock_start
from fscache_cachefiles.lock import try_lock_range, unlock_range
from fscache_cachefiles.namei import BusyError, Namei, Opened, OpenedIndex
from fscache_cachefiles.object import NO_BLOCKS, NO_ROOM, CachefilesObject, Work
from fscache_cachefiles.place import Index, Place
from fscache_cachefiles.scan import weigh_all
from fscache_cachefiles.secctx import CreationLabel
from fscache_cachefiles.space import SpaceGuard, statvfs_of
from fscache_cachefiles.verify import Progress, Report, Verification
from fscache_cachefiles.xattr import Label
from fscache_core.errors import (
    CacheIOError,
    CacheUnusableError,
    CallerError,
    FscacheError,
    NoSpaceError,
    WorldError,
)
from fscache_core.folio import PAGE_SHIFT, Folio
from fscache_core.hookspecs import API_VERSION, Problem, VerifyReport, cache_hook
from fscache_core.option import read_flag, read_text
from fscache_core.outcome import (
    NOT_RESIDENT,
    AuxOutcome,
    ConsistencyOutcome,
    LockOutcome,
    LookupOutcome,
    ReadOutcome,
    ReserveOutcome,
    WriteOutcome,
)

if TYPE_CHECKING:
    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie
    from fscache_core.object import CacheObject
    from fscache_core.operation import Operation, Retrieval, Storage

log = logging.getLogger(__name__)

preadv = os.preadv  # looked up once: the hot path is a few hundred nanoseconds

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Bytes read per thread hop: others get their turn in between.
_READ_SIZE = 4 << 20
_SMALL_LOCK_SIZE = 16  # one byte per page of a small object
_STALE_TRIES = 8
_TELL_SECONDS = 0.05  # between two reports of progress: each is a round to the trio thread

# What a failing disk says.  Everything else concerns one object only.
_IO_ERRORS = frozenset(
    {errno.EIO, errno.ENODEV, errno.ENXIO, errno.EUCLEAN, errno.ESHUTDOWN, errno.EREMOTEIO}
)


class CachefilesBackend:
    """A cache in a directory.

    Args:
      dir: the cache directory; made with mode 0700 if it is missing.
      verify: when checksums are compared: ``touch`` (first use, and whenever the disk was read),
        ``always`` or ``never``.
      brun, bcull, bstop, frun, fcull, fstop: percentages of the filesystem's blocks and inodes;
        0 <= stop < cull < run < 100.
      max_bytes, max_files: ceilings for the whole directory, whoever writes to it.  Sizes may be
        written as ``500M`` or ``20G``.
      max_open: descriptors that objects may hold; half of what the process may have if not given.  A small
        object takes 1, a larger one 3; one that would be too many is read from the origin.
      force: use a directory on a network filesystem, or one with files of somebody else in it.
      sync: flush the filesystem when the cache is withdrawn.  Nothing needs it: a crash costs cached
        data, never wrong data.
      secctx: SELinux label for new files, where SELinux is on.

    Raises:
      CallerError: an option makes no sense.
    """

    name = "cachefiles"
    api_version = API_VERSION

    def __init__(
        self,
        dir: str | os.PathLike[str] | None = None,  # the option's name, as the reference has it
        *,
        verify: str = "touch",
        brun: int | str = 7,
        bcull: int | str = 5,
        bstop: int | str = 1,
        frun: int | str = 7,
        fcull: int | str = 5,
        fstop: int | str = 1,
        max_bytes: int | str | None = None,
        max_files: int | str | None = None,
        max_open: int | str | None = None,
        force: int | str = False,
        sync: int | str = False,
        secctx: str | None = None,
    ) -> None:
        self.dir = os.fspath(dir) if isinstance(dir, os.PathLike) else read_text("cachefiles: dir", dir)
        if not self.dir:
            raise CallerError("cachefiles: no directory given (dir=/path/of/the/cache)")
        self._verify = options.verify(verify)
        self._percent = options.percentages(
            brun=brun, bcull=bcull, bstop=bstop, frun=frun, fcull=fcull, fstop=fstop
        )
        self._max_bytes = options.size("max_bytes", max_bytes)
        self._max_files = options.size("max_files", max_files)
        self._max_open = options.size("max_open", max_open)
        self._force = read_flag("cachefiles: force", force)
        self._sync = read_flag("cachefiles: sync", sync)
        self._label = CreationLabel(read_text("cachefiles: secctx", secctx) or None)
        self._limiter = trio.CapacityLimiter(16)
        self._root: Root | None = None
        self._work: Work | None = None
        self._master: Index | None = None
        #: Blocks that did not match their checksum since the cache was bound.
        self.verification_failures = 0

    # -- the cache -----------------------------------------------------------------------

    @cache_hook
    async def bind_cache(self, cache: "Cache") -> None:
        del cache
        root, self._work = await trio.to_thread.run_sync(self._label.run, self._bind, limiter=self._limiter)
        self._root = root
        self._master = Index("", os.dup(root.cache))

    def _bind(self) -> tuple[Root, Work]:
        root = open_root(self.dir, force=self._force)
        try:
            guard = SpaceGuard(statvfs_of(root.directory), self._percent)
            ledger = Ledger(
                root.ledger, self._max_files, self._max_bytes, lambda: weigh_all(root.cache, root.graveyard)
            )
            ledger.open()
            admission = Admission(guard, ledger)
            graveyard = Graveyard(root.graveyard, ledger)
            max_open = default_max_open() if self._max_open is None else self._max_open
            namei = Namei(root, admission, graveyard, self._verify, Descriptors(max_open))
            work = Work(namei, admission, graveyard)
            graveyard.reap()
        except BaseException as error:
            root.close()
            if isinstance(error, OSError) and not isinstance(error, FscacheError):
                reason = error.strerror or str(error)
                raise CacheUnusableError(
                    f"cache directory {root.path}: {reason}", errno=error.errno
                ) from error
            raise
        return root, work

    @cache_hook
    async def unbind_cache(self) -> None:
        root, self._root = self._root, None
        self._work = None
        if self._master is not None:
            self._master.close()
        if root is not None:
            root.close()

    @cache_hook
    async def sync_cache(self) -> None:
        if self._sync:
            await self._in_thread(sync_filesystem, self._bound_root().directory)

    def usage(self) -> Weight:
        """How much of the ceilings is taken, by all who share the directory.  The cache must be bound."""
        return self._bound().admission.ledger.usage()

    @property
    def n_open(self) -> int:
        """How many descriptors objects hold.  The cache must be bound."""
        return self._bound().namei.descriptors.n_open

    def recount(self) -> Weight:
        """Put the account right by counting what is stored; returns how much it was too high.  Blocks."""
        return self._bound().admission.ledger.recount()

    def verify_store(self, *, repair: bool = False, progress: Progress | None = None) -> Report:
        """Check everything that is stored, while others use it; see `fscache_cachefiles.verify`.  Blocks.

        Works on a backend that is not bound to a cache.

        Raises:
          CacheUnusableError: the directory is no cache, or cannot be used.
        """
        root, work = self._bind()
        try:
            return Verification(
                root.cache,
                work.namei,
                work.graveyard,
                work.admission.ledger,
                repair=repair,
                progress=progress,
            ).run()
        finally:
            root.close()

    @cache_hook
    async def verify_cache(self, repair: bool, progress: Callable[[int, int], None]) -> VerifyReport:
        told = 0.0

        def tell(done: int, total: int) -> None:
            nonlocal told
            trio.from_thread.check_cancelled()
            if done == total or time.monotonic() - told > _TELL_SECONDS:
                trio.from_thread.run_sync(progress, done, total)
                told = time.monotonic()

        def verify() -> Report:
            return self.verify_store(repair=repair, progress=tell)

        report = await self._in_thread(verify)
        problems = [Problem(each.path, each.fault, each.repaired) for each in report.problems]
        return VerifyReport(report.n_objects, report.n_bytes, problems)

    # -- objects -------------------------------------------------------------------------

    @cache_hook
    def alloc_object(self, cache: "Cache", cookie: "Cookie") -> CachefilesObject:
        return CachefilesObject(cache, cookie)

    @cache_hook
    async def lookup_object(self, obj: "CacheObject") -> LookupOutcome:
        obj = _own(obj)
        parent = obj.parent
        if parent is None:
            obj.index = self._master
            return LookupOutcome.OBTAINED
        index = self._master if parent.parent is None else _own(parent).index
        if index is None:
            raise WorldError(f"{obj!r}: its parent is not an index", errno=errno.ENOBUFS)
        obj.place = Place(index, obj.cooked)
        obj.take_version()
        for _ in range(_STALE_TRIES):
            try:
                outcome = await (self._find_index(obj) if obj.is_index else self._find(obj))
            except BusyError:
                return LookupOutcome.RETRY
            if outcome is not None:
                return outcome
        return LookupOutcome.RETRY

    async def _find(self, obj: CachefilesObject) -> LookupOutcome | None:
        """Find a data object.  None: look again."""
        assert obj.place is not None
        work = self._bound()
        found = await self._in_thread(work.find, obj.place)
        if found is None:
            if not obj.lookup_negative():
                return LookupOutcome.ABSENT
            if obj.size == 0:
                await self._in_thread(work.store_empty, obj)
            return LookupOutcome.CREATED
        if isinstance(found, Opened):
            outcome = _judge(obj, found.label, found.backing.size)
            if outcome is not AuxOutcome.OBSOLETE:
                obj.backing = found.backing
                obj.pinned, obj.reserved_size = found.pin.pinned, found.pin.reserved_size
                obj.label, obj.size = found.label, found.backing.size
                obj.check_time = found.check_time
                await self._bring_up_to_date(obj, outcome)
                del found
                if work.namei.descriptors.is_over:
                    # It can be retired, or used as soon as others are closed; until then it is not held.
                    await self._in_thread(lambda: work.relinquish_backing(obj, retire=False))
                obj.obtained_object()
                return LookupOutcome.OBTAINED
            inode = found.backing.inode
            del found
        else:
            log.warning("%r (%r): %s; not used", obj, obj.cookie, found.fault)
            inode = found.inode
        await self._in_thread(work.bury, obj.place, inode)
        obj.retrying_stale()
        return None

    async def _bring_up_to_date(self, obj: CachefilesObject, outcome: AuxOutcome) -> None:
        cookie = obj.cookie
        if cookie.aux is None:
            return
        work = self._bound()
        if outcome is AuxOutcome.NEEDS_UPDATE:
            obj.label = Label(cookie.type, cookie.aux)
            await self._in_thread(work.relabel, obj)
        if obj.size != cookie.object_size:
            await self._in_thread(work.remake, obj, cookie.object_size)

    async def _find_index(self, obj: CachefilesObject) -> LookupOutcome | None:
        assert obj.place is not None
        work = self._bound()
        found = await self._in_thread(work.find_index, obj.place)
        if found is None:
            if not obj.lookup_negative():
                return LookupOutcome.ABSENT
            obj.index = await self._in_thread(work.creation.make_index, obj.place, obj.label)
            return None if obj.index is None else LookupOutcome.CREATED
        if isinstance(found, OpenedIndex):
            outcome = _judge(obj, found.label, 0)
            if outcome is not AuxOutcome.OBSOLETE:
                obj.index = found.index
                if outcome is AuxOutcome.NEEDS_UPDATE and obj.cookie.aux is not None:
                    await self._in_thread(work.relabel, obj)
                obj.obtained_object()
                return LookupOutcome.OBTAINED
            inode = found.index.inode
            del found
        else:
            inode = found.inode
        await self._in_thread(work.bury, obj.place, inode)
        obj.retrying_stale()
        return None

    @cache_hook
    async def check_consistency(self, op: "Operation") -> ConsistencyOutcome:
        obj = _own(op.object)
        label: Label | None = obj.label
        backing = obj.backing
        if backing is not None and backing.published:
            try:
                label = await self._in_thread(xattr.read_label, backing.descriptor)
            except xattr.BadAttributeError:
                return ConsistencyOutcome.STALE
        if label is None or _judge(obj, label, obj.size) is not AuxOutcome.OKAY:
            return ConsistencyOutcome.STALE
        return ConsistencyOutcome.CONSISTENT

    @cache_hook
    async def update_object(self, obj: "CacheObject") -> None:
        obj = _own(obj)
        if obj.cookie.aux is None:
            return
        obj.label = Label(obj.cookie.type, obj.cookie.aux)
        await self._in_thread(self._bound().relabel, obj)

    @cache_hook
    async def attr_changed(self, obj: "CacheObject") -> None:
        obj = _own(obj)
        size = obj.cookie.object_size
        obj.set_store_limit(size)
        if size != obj.size:
            await self._in_thread(self._bound().remake, obj, size)

    @cache_hook
    async def invalidate_object(self, op: "Operation") -> None:
        obj = _own(op.object)
        work = self._bound()
        assert obj.place is not None
        await self._in_thread(work.discard, obj, obj.place)
        obj.take_version()
        obj.damaged = NO_BLOCKS
        if obj.size == 0:
            await self._in_thread(work.store_empty, obj)
        if obj.pinned or obj.reserved_size:
            await self._in_thread(work.renew_promises, obj)

    @cache_hook
    async def drop_object(self, obj: "CacheObject") -> None:
        obj = _own(obj)
        self._unlock_all(obj)
        place, obj.place = obj.place, None  # it holds the index, and the index a descriptor
        index, obj.index = obj.index, None
        if place is None:
            return  # not looked up, or the master index, which is never removed
        work = self._bound()
        if not obj.is_index:
            await self._in_thread(work.drop, obj, place)
        elif index is not None:
            inode = index.inode
            index.close()  # nothing is below it any more
            if obj.retired:
                await self._in_thread(work.bury, place, inode)
                await self._in_thread(work.namei.prune, place)
                place.index.emptied = True
            elif index.emptied and await self._in_thread(work.namei.remove_empty_index, place, inode):
                place.index.emptied = True

    # -- promises ------------------------------------------------------------------------

    @cache_hook
    async def pin_object(self, obj: "CacheObject") -> ReserveOutcome:
        try:
            granted = await self._in_thread(self._bound().pin, _own(obj))
        except NoSpaceError:
            return ReserveOutcome.REFUSED
        return ReserveOutcome.GRANTED if granted else ReserveOutcome.REFUSED

    @cache_hook
    async def unpin_object(self, obj: "CacheObject") -> None:
        await self._in_thread(self._bound().unpin, _own(obj))

    @cache_hook
    async def is_pinned(self, obj: "CacheObject") -> bool:
        return (await self._in_thread(self._bound().promise_of, _own(obj))).pinned

    @cache_hook
    async def reserve_space(self, obj: "CacheObject", reserved_size: int) -> ReserveOutcome:
        granted = await self._in_thread(self._bound().reserve, _own(obj), reserved_size)
        return ReserveOutcome.GRANTED if granted else ReserveOutcome.REFUSED

    # -- pages ---------------------------------------------------------------------------

    @cache_hook
    def read_resident(self, obj: "CacheObject", offset: int, buffer: memoryview) -> int:
        backing: Backing | None = obj.backing  # type: ignore[attr-defined]  # a check here costs as much as the rest
        if backing is None:
            return NOT_RESIDENT
        if backing.whole:
            try:
                count = preadv(backing.data, (buffer,), offset, backing.read_flags)
            except OSError:
                return backing.disk_needed(offset, buffer)
            return count if count == len(buffer) else backing.disk_needed(offset, buffer)
        return backing.read_resident(offset, buffer)

    @cache_hook
    async def read_or_alloc_pages(self, op: "Retrieval", folios: Sequence[Folio]) -> ReadOutcome:
        obj = _own(op.object)
        missing = sum(folio.n_pages for folio in folios)
        backing = obj.backing
        if backing is not None:
            for folio in folios:
                if not backing.count_present(folio.first, folio.n_pages):
                    continue
                for at in range(folio.first, folio.end, _READ_SIZE >> PAGE_SHIFT):
                    part = folio.part(at, min(_READ_SIZE >> PAGE_SHIFT, folio.end - at))
                    if part.n_pages < folio.n_pages and not backing.count_present(part.first, part.n_pages):
                        continue
                    runs, damaged = await self._in_thread(backing.read_runs, part.first, part.buffer)
                    for first, n_pages in runs:
                        op.end_io(first, n_pages)
                        missing -= n_pages
                    for block in set(damaged) - obj.damaged:
                        self.verification_failures += 1
                        low, high = block * PAGES_PER_BLOCK, (block + 1) * PAGES_PER_BLOCK
                        obj.verification_failed(min(high, part.end) - max(low, part.first))
                    self._bound().note_damage(obj, damaged)
        return ReadOutcome.HIT if not missing else self._room(missing)

    @cache_hook
    async def allocate_pages(self, op: "Retrieval", folios: Sequence[Folio]) -> ReadOutcome:
        del op
        return self._room(sum(folio.n_pages for folio in folios))

    def _room(self, n_pages: int) -> ReadOutcome:
        # One statvfs and one read of a page that is in memory: not worth a thread.
        try:
            has_room = self._bound().admission.has_room(n_pages)
        except OSError as error:
            raise _translated(error, "asking for space") from error
        return ReadOutcome.NO_DATA if has_room else ReadOutcome.NO_BUFFERS

    @cache_hook
    async def write_page(self, op: "Storage", folio: Folio) -> WriteOutcome:
        return await self._in_thread(self._bound().store, _own(op.object), folio.first, folio.buffer)

    @cache_hook
    async def write_pages(self, op: "Storage", folios: Sequence[Folio]) -> WriteOutcome:
        # To go to a thread and come back costs a third of what storing a MiB does.
        return await self._in_thread(self._bound().store_several, _own(op.object), folios)

    @cache_hook
    async def resident_pages(self, obj: "CacheObject") -> list[tuple[int, int]]:
        backing = _own(obj).backing
        if backing is None:
            return []
        return await self._in_thread(backing.resident_runs)

    @cache_hook
    async def child_keys(self, obj: "CacheObject") -> list[tuple[int, bytes]]:
        index = self._master if obj.parent is None else _own(obj).index
        if index is None:
            return []
        return await self._in_thread(self._bound().namei.children_of, index)

    @cache_hook
    async def get_check_time(self, obj: "CacheObject") -> float:
        return _own(obj).check_time

    @cache_hook
    async def set_check_time(self, obj: "CacheObject", check_time: float) -> None:
        await self._in_thread(self._bound().set_check_time, _own(obj), check_time)

    # -- fill locks ----------------------------------------------------------------------

    @cache_hook
    async def lock_pages(self, obj: "CacheObject", first: int, n_pages: int, seconds: float) -> LockOutcome:
        """Large objects are locked page by page on their map, small ones as a whole on the ledger."""
        obj = _own(obj)
        if obj.place is None:  # dropped, or never found its parent: nothing will be stored
            return LockOutcome.LOCKED
        work = self._bound()
        try:
            if not obj.is_small and obj.backing is None:
                await self._in_thread(work.ensure_backing, obj)
            backing = obj.backing
            if not self._try_lock(obj, backing, first, n_pages):
                # Counted only now: almost always the lock is to be had.
                present = 0 if backing is None else backing.count_present(first, n_pages)
                deadline = trio.current_time() + seconds
                pause = 0.001
                while not self._try_lock(obj, backing, first, n_pages):
                    if trio.current_time() >= deadline:
                        return LockOutcome.CHANGED
                    await trio.sleep(pause)
                    pause = min(pause * 2, 0.02)
                    if backing is not None and backing.count_present(first, n_pages) != present:
                        return LockOutcome.CHANGED
            obj.held.add(first, n_pages)
            if obj.is_small and (backing is None or not backing.published):
                # Nobody sees a small object before it is whole; the one before us may have finished it.
                await self._in_thread(work.adopt, obj)
        except (FscacheError, BusyError) as error:
            log.debug("%r: no fill lock: %s", obj, error)
        return LockOutcome.LOCKED

    def _try_lock(self, obj: CachefilesObject, backing: Backing | None, first: int, n_pages: int) -> bool:
        try:
            if obj.is_small:
                if obj.held:
                    return True
                return try_lock_range(self._ledger, self._small_lock_start(obj), _SMALL_LOCK_SIZE)
            if backing is None or not backing.writable:
                return True
            return try_lock_range(backing.map, first, n_pages)
        except OSError as error:
            raise _translated(error, "locking") from error

    @cache_hook
    def unlock_pages(self, obj: "CacheObject", first: int, n_pages: int) -> None:
        obj = _own(obj)
        if not obj.held.overlaps(first, n_pages):
            return
        obj.held.remove(first, n_pages)
        try:
            if not obj.is_small:
                if obj.backing is not None:
                    unlock_range(obj.backing.map, first, n_pages)
            elif not obj.held and obj.place is not None:
                unlock_range(self._ledger, self._small_lock_start(obj), _SMALL_LOCK_SIZE)
        except OSError as error:  # ENOLCK when a range is split: it ends with the descriptor then
            log.warning("%r: unlocking: %s", obj, error)

    def _unlock_all(self, obj: CachefilesObject) -> None:
        for first, n_pages in list(obj.held):
            self.unlock_pages(obj, first, n_pages)

    @staticmethod
    def _small_lock_start(obj: CachefilesObject) -> int:
        assert obj.place is not None
        return fill_lock_start(obj.place.path)

    # -- statistics ----------------------------------------------------------------------

    @cache_hook
    async def add_statistics(self, counts: Mapping[str, int]) -> None:
        await self._in_thread(statistics.add, self._bound_root().directory, counts)

    @cache_hook
    async def statistics(self) -> Mapping[str, int]:
        return await self._in_thread(statistics.read, self._bound_root().directory)

    def _bound_root(self) -> Root:
        if self._root is None:
            raise CacheIOError(f"the cache in {self.dir} is not bound")
        return self._root

    # -- threads -------------------------------------------------------------------------

    @property
    def _ledger(self) -> int:
        assert self._root is not None
        return self._root.ledger

    def _bound(self) -> Work:
        if self._work is None:
            raise CacheIOError(f"the cache in {self.dir} is not bound")
        return self._work

    async def _in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run blocking work; what the filesystem says comes out as the contract wants it."""
        done: list[T] = []
        failed: list[OSError] = []
        await trio.to_thread.run_sync(
            _note_outcome, done, failed, self._label, function, *args, limiter=self._limiter
        )
        if not failed:
            return done.pop()
        error = failed.pop()
        # Whoever keeps the exception, a log for instance, must not keep descriptors open by it.
        chain: BaseException | None = error
        while chain is not None:
            traceback.clear_frames(chain.__traceback__)
            chain = chain.__cause__ or chain.__context__
        if isinstance(error, FscacheError):
            raise error
        raise _translated(error, getattr(function, "__name__", "work")) from error


def _note_outcome(
    done: list[T], failed: list[OSError], label: CreationLabel, function: Callable[[*Ts], T], *args: *Ts
) -> None:
    """In a thread, which would keep an error that it raised, and all frames of it, until its next work."""
    try:
        done.append(label.run(function, *args))
    except OSError as error:
        failed.append(error)


def _own(obj: "CacheObject") -> CachefilesObject:
    assert isinstance(obj, CachefilesObject)
    return obj


def _judge(obj: CachefilesObject, label: Label, object_size: int) -> AuxOutcome:
    if label.cookie_type != obj.cookie.type:
        return AuxOutcome.OBSOLETE
    return obj.check_aux(label.aux, object_size)


def _translated(error: OSError, doing: str) -> FscacheError:
    number = error.errno or errno.EIO
    where = f"{error.filename}: " if isinstance(error.filename, str) else ""
    text = f"cachefiles: {doing}: {where}{error.strerror or error}"
    if number in NO_ROOM:
        return NoSpaceError(text)
    if number in _IO_ERRORS:
        return CacheIOError(text, errno=number)
    return WorldError(text, errno=number)
