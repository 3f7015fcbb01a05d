"""The lookup of one object: what is stored under its name, and whether that is its version."""

import errno
import logging

from fscache_cachefiles.namei import BusyError, Opened, OpenedIndex
from fscache_cachefiles.object import CachefilesObject, own
from fscache_cachefiles.place import Place
from fscache_cachefiles.threads import Threads
from fscache_cachefiles.work import Work
from fscache_cachefiles.xattr import Label
from fscache_core.errors import WorldError
from fscache_core.outcome import AuxOutcome, LookupOutcome

log = logging.getLogger(__name__)

_STALE_TRIES = 8


class Lookup:
    """Finds an object, or makes it.  What is stale under its name is buried."""

    def __init__(self, obj: CachefilesObject, work: Work, threads: Threads) -> None:
        self._obj = obj
        self._work = work
        self._threads = threads

    async def run(self) -> LookupOutcome:
        """Returns and raises as the hook ``lookup_object``."""
        obj, master = self._obj, self._work.master
        parent = obj.parent
        if parent is None:
            obj.index = master
            return LookupOutcome.OBTAINED
        index = master if parent.parent is None else own(parent).index
        if index is None:
            raise WorldError(f"{obj!r}: its parent is not an index", errno=errno.ENOBUFS)
        obj.place = Place(index, obj.cooked)
        obj.take_version()
        for _ in range(_STALE_TRIES):
            try:
                outcome = await (self._find_index(obj.place) if obj.is_index else self._find(obj.place))
            except BusyError:
                return LookupOutcome.RETRY
            if outcome is not None:
                return outcome
        return LookupOutcome.RETRY

    async def _find(self, place: Place) -> LookupOutcome | None:
        """Find a data object.  None: look again."""
        obj, attachment = self._obj, self._work.attachment
        found = await self._threads.run(attachment.find, place)
        if found is None:
            if not obj.lookup_negative():
                return LookupOutcome.ABSENT
            if obj.size == 0:
                await self._threads.run(attachment.store_empty, obj)
            return LookupOutcome.CREATED
        if isinstance(found, Opened):
            outcome = obj.judge(found.label, found.backing.size)
            if outcome is not AuxOutcome.OBSOLETE:
                obj.backing = found.backing
                obj.pinned, obj.reserved_size = found.pin.pinned, found.pin.reserved_size
                obj.label, obj.size = found.label, found.backing.size
                obj.check_time = found.check_time
                await self._bring_up_to_date(outcome)
                del found
                if self._work.namei.descriptors.is_over:
                    # It can be retired, or used as soon as others are closed; until then it is not held.
                    await self._threads.run(lambda: attachment.relinquish_backing(obj, retire=False))
                obj.obtained_object()
                return LookupOutcome.OBTAINED
            inode = found.backing.inode
            del found
        else:
            log.warning("%r (%r): %s; not used", obj, obj.cookie, found.fault)
            inode = found.inode
        await self._threads.run(self._work.removal.delete, place, inode)
        obj.retrying_stale()
        return None

    async def _bring_up_to_date(self, outcome: AuxOutcome) -> None:
        obj, cookie = self._obj, self._obj.cookie
        if cookie.aux is None:
            return
        if outcome is AuxOutcome.NEEDS_UPDATE:
            obj.label = Label(cookie.type, cookie.aux)
            await self._threads.run(self._work.relabel, obj)
        if obj.size != cookie.object_size:
            await self._threads.run(self._work.remake, obj, cookie.object_size)

    async def _find_index(self, place: Place) -> LookupOutcome | None:
        obj, work = self._obj, self._work
        found = await self._threads.run(work.attachment.find_index, place)
        if found is None:
            if not obj.lookup_negative():
                return LookupOutcome.ABSENT
            obj.index = await self._threads.run(work.creation.make_index, place, obj.label)
            return None if obj.index is None else LookupOutcome.CREATED
        if isinstance(found, OpenedIndex):
            outcome = obj.judge(found.label, 0)
            if outcome is not AuxOutcome.OBSOLETE:
                obj.index = found.index
                if outcome is AuxOutcome.NEEDS_UPDATE and obj.cookie.aux is not None:
                    await self._threads.run(work.relabel, obj)
                obj.obtained_object()
                return LookupOutcome.OBTAINED
            inode = found.index.inode
            del found
        else:
            inode = found.inode
        await self._threads.run(work.removal.delete, place, inode)
        obj.retrying_stale()
        return None
