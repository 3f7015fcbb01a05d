"""The cachefiles backend: hooks of the contract over a cache directory.

One directory, any number of processes, no daemon: the filesystem is all they share.  What is on disk
is described in `namei` (names and representations), `blockmap` (which pages are valid), `ledger`
(how much is stored) and `graveyard` (what is being built or deleted).

Everything that may wait for the disk is done in `threads`, by `work` and its parts, one hop per hook; only
`read_resident` and the byte-range locks are done where they are called.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from fscache_cachefiles import options, statistics, xattr
from fscache_cachefiles.bind import sync_filesystem
from fscache_cachefiles.fault import translated
from fscache_cachefiles.ledger import Weight
from fscache_cachefiles.lookup import Lookup
from fscache_cachefiles.namei import BusyError
from fscache_cachefiles.object import NO_BLOCKS, CachefilesObject, own
from fscache_cachefiles.retrieval import PageRetrieval
from fscache_cachefiles.secctx import CreationLabel
from fscache_cachefiles.threads import Threads, tell_now_and_then
from fscache_cachefiles.verify import Progress, Report, Verification
from fscache_cachefiles.work import Work, open_work
from fscache_cachefiles.xattr import Label
from fscache_core.errors import CacheIOError, FscacheError, NoSpaceError
from fscache_core.folio import Folio
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
    from fscache_cachefiles.backing import Backing
    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie
    from fscache_core.object import CacheObject
    from fscache_core.operation import Operation, Retrieval, Storage

log = logging.getLogger(__name__)

preadv = os.preadv  # looked up once: the hot path is a few hundred nanoseconds


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
        self._options = options.read(
            dir,
            verify=verify,
            percent=dict(brun=brun, bcull=bcull, bstop=bstop, frun=frun, fcull=fcull, fstop=fstop),
            max_bytes=max_bytes,
            max_files=max_files,
            max_open=max_open,
            force=force,
        )
        self.dir = self._options.dir
        self._sync = read_flag("cachefiles: sync", sync)
        self._threads = Threads(CreationLabel(read_text("cachefiles: secctx", secctx) or None))
        self._retrieval = PageRetrieval(self._threads)
        self._work: Work | None = None

    # -- the cache -----------------------------------------------------------------------

    @cache_hook
    async def bind_cache(self, cache: "Cache") -> None:
        del cache
        self._work = await self._threads.run(open_work, self._options)

    @cache_hook
    async def unbind_cache(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.close()

    @cache_hook
    async def sync_cache(self) -> None:
        if self._sync:
            await self._threads.run(sync_filesystem, self._bound().root.directory)

    def usage(self) -> Weight:
        """How much of the ceilings is taken, by all who share the directory.  The cache must be bound."""
        return self._bound().admission.ledger.usage()

    @property
    def n_open(self) -> int:
        """How many descriptors objects hold.  The cache must be bound."""
        return self._bound().namei.descriptors.n_open

    @property
    def verification_failures(self) -> int:
        """Blocks that did not match their checksum."""
        return self._retrieval.n_damaged

    def recount(self) -> Weight:
        """Put the account right by counting what is stored; returns how much it was too high.  Blocks."""
        return self._bound().admission.ledger.recount()

    def verify_store(self, *, repair: bool = False, progress: Progress | None = None) -> Report:
        """Check everything that is stored, while others use it; see `fscache_cachefiles.verify`.  Blocks.

        Works on a backend that is not bound to a cache.

        Raises:
          CacheUnusableError: the directory is no cache, or cannot be used.
        """
        work = open_work(self._options)
        try:
            return Verification(
                work.root.cache,
                work.namei,
                work.removal,
                work.graveyard,
                work.admission.ledger,
                repair=repair,
                progress=progress,
            ).run()
        finally:
            work.close()

    @cache_hook
    async def verify_cache(self, repair: bool, progress: Callable[[int, int], None]) -> VerifyReport:
        def verify() -> Report:
            return self.verify_store(repair=repair, progress=tell_now_and_then(progress))

        report = await self._threads.run(verify)
        problems = [Problem(each.path, each.fault, each.repaired) for each in report.problems]
        return VerifyReport(report.n_objects, report.n_bytes, problems)

    # -- objects -------------------------------------------------------------------------

    @cache_hook
    def alloc_object(self, cache: "Cache", cookie: "Cookie") -> CachefilesObject:
        return CachefilesObject(cache, cookie)

    @cache_hook
    async def lookup_object(self, obj: "CacheObject") -> LookupOutcome:
        return await Lookup(own(obj), self._bound(), self._threads).run()

    @cache_hook
    async def check_consistency(self, op: "Operation") -> ConsistencyOutcome:
        obj = own(op.object)
        label: Label | None = obj.label
        backing = obj.backing
        if backing is not None and backing.published:
            try:
                label = await self._threads.run(xattr.read_label, backing.descriptor)
            except xattr.BadAttributeError:
                return ConsistencyOutcome.STALE
        if label is None or obj.judge(label, obj.size) is not AuxOutcome.OKAY:
            return ConsistencyOutcome.STALE
        return ConsistencyOutcome.CONSISTENT

    @cache_hook
    async def update_object(self, obj: "CacheObject") -> None:
        obj = own(obj)
        if obj.cookie.aux is None:
            return
        obj.label = Label(obj.cookie.type, obj.cookie.aux)
        await self._threads.run(self._bound().relabel, obj)

    @cache_hook
    async def attr_changed(self, obj: "CacheObject") -> None:
        obj = own(obj)
        size = obj.cookie.object_size
        obj.set_store_limit(size)
        if size != obj.size:
            await self._threads.run(self._bound().remake, obj, size)

    @cache_hook
    async def invalidate_object(self, op: "Operation") -> None:
        obj = own(op.object)
        work = self._bound()
        assert obj.place is not None
        await self._threads.run(work.attachment.discard, obj, obj.place)
        obj.take_version()
        obj.damaged = NO_BLOCKS
        if obj.size == 0:
            await self._threads.run(work.attachment.store_empty, obj)
        if obj.pinned or obj.reserved_size:
            await self._threads.run(work.renew_promises, obj)

    @cache_hook
    async def drop_object(self, obj: "CacheObject") -> None:
        obj = own(obj)
        if obj.held:
            self._bound().fill_locks.give_back_all(obj)
        place, obj.place = obj.place, None  # it holds the index, and the index a descriptor
        index, obj.index = obj.index, None
        if place is None:
            return  # not looked up, or the master index, which is never removed
        work = self._bound()
        if not obj.is_index:
            await self._threads.run(work.attachment.drop, obj, place)
        elif index is not None:
            inode = index.inode
            index.close()  # nothing is below it any more
            if obj.retired:
                await self._threads.run(work.removal.delete, place, inode)
                await self._threads.run(work.removal.prune, place)
                place.index.emptied = True
            elif index.emptied and await self._threads.run(work.removal.remove_empty_index, place, inode):
                place.index.emptied = True

    # -- promises ------------------------------------------------------------------------

    @cache_hook
    async def pin_object(self, obj: "CacheObject") -> ReserveOutcome:
        try:
            granted = await self._threads.run(self._bound().pin, own(obj))
        except NoSpaceError:
            return ReserveOutcome.REFUSED
        return ReserveOutcome.GRANTED if granted else ReserveOutcome.REFUSED

    @cache_hook
    async def unpin_object(self, obj: "CacheObject") -> None:
        await self._threads.run(self._bound().unpin, own(obj))

    @cache_hook
    async def is_pinned(self, obj: "CacheObject") -> bool:
        return (await self._threads.run(self._bound().promises.promise_of, own(obj))).pinned

    @cache_hook
    async def reserve_space(self, obj: "CacheObject", reserved_size: int) -> ReserveOutcome:
        granted = await self._threads.run(self._bound().reserve, own(obj), reserved_size)
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
        n_missing = await self._retrieval.read(op, own(op.object), folios)
        return ReadOutcome.HIT if not n_missing else self._room(n_missing)

    @cache_hook
    async def allocate_pages(self, op: "Retrieval", folios: Sequence[Folio]) -> ReadOutcome:
        del op
        return self._room(sum(folio.n_pages for folio in folios))

    def _room(self, n_pages: int) -> ReadOutcome:
        # One statvfs and one read of a page that is in memory: not worth a thread.
        try:
            has_room = self._bound().admission.has_room(n_pages)
        except OSError as error:
            raise translated(error, "asking for space") from error
        return ReadOutcome.NO_DATA if has_room else ReadOutcome.NO_BUFFERS

    @cache_hook
    async def write_page(self, op: "Storage", folio: Folio) -> WriteOutcome:
        storage = self._bound().storage
        return await self._threads.run(storage.store, own(op.object), folio.first, folio.buffer)

    @cache_hook
    async def write_pages(self, op: "Storage", folios: Sequence[Folio]) -> WriteOutcome:
        # To go to a thread and come back costs a third of what storing a MiB does.
        return await self._threads.run(self._bound().storage.store_several, own(op.object), folios)

    @cache_hook
    async def resident_pages(self, obj: "CacheObject") -> list[tuple[int, int]]:
        backing = own(obj).backing
        if backing is None:
            return []
        return await self._threads.run(backing.resident_runs)

    @cache_hook
    async def child_keys(self, obj: "CacheObject") -> list[tuple[int, bytes]]:
        index = self._bound().master if obj.parent is None else own(obj).index
        if index is None:
            return []
        return await self._threads.run(self._bound().namei.children_of, index)

    @cache_hook
    async def get_check_time(self, obj: "CacheObject") -> float:
        return own(obj).check_time

    @cache_hook
    async def set_check_time(self, obj: "CacheObject", check_time: float) -> None:
        obj = own(obj)
        obj.check_time = check_time
        await self._threads.run(obj.keep_check_time)  # what is not published yet gets it then

    # -- fill locks ----------------------------------------------------------------------

    @cache_hook
    async def lock_pages(self, obj: "CacheObject", first: int, n_pages: int, seconds: float) -> LockOutcome:
        obj = own(obj)
        if obj.place is None:  # dropped, or never found its parent: nothing will be stored
            return LockOutcome.LOCKED
        work = self._bound()
        try:
            if not obj.is_small and obj.backing is None:
                await self._threads.run(work.attachment.ensure_backing, obj)
            backing = obj.backing
            if not await work.fill_locks.take(obj, backing, first, n_pages, seconds):
                return LockOutcome.CHANGED
            if obj.is_small and (backing is None or not backing.published):
                # Nobody sees a small object before it is whole; the one before us may have finished it.
                await self._threads.run(work.attachment.adopt, obj)
        except (FscacheError, BusyError) as error:
            log.debug("%r: no fill lock: %s", obj, error)
        return LockOutcome.LOCKED

    @cache_hook
    def unlock_pages(self, obj: "CacheObject", first: int, n_pages: int) -> None:
        obj = own(obj)
        if obj.held:
            self._bound().fill_locks.give_back(obj, first, n_pages)

    # -- statistics ----------------------------------------------------------------------

    @cache_hook
    async def add_statistics(self, counts: Mapping[str, int]) -> None:
        await self._threads.run(statistics.add, self._bound().root.directory, counts)

    @cache_hook
    async def statistics(self) -> Mapping[str, int]:
        return await self._threads.run(statistics.read, self._bound().root.directory)

    # -- the bound cache -----------------------------------------------------------------

    def _bound(self) -> Work:
        if self._work is None:
            raise CacheIOError(f"the cache in {self.dir} is not bound")
        return self._work
