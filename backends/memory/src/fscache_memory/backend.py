"""The memory backend.  It keeps what it stores over withdrawal and re-adding, as long as it lives itself."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fscache_core.errors import CallerError, NoSpaceError
from fscache_core.folio import PAGE_SHIFT, PAGE_SIZE, page_count
from fscache_core.hookspecs import (
    API_VERSION,
    NOT_RESIDENT,
    AuxOutcome,
    ConsistencyOutcome,
    CookieType,
    Folio,
    LookupOutcome,
    ReadOutcome,
    ReserveOutcome,
    WriteOutcome,
    cache_hook,
)
from fscache_core.object import CacheObject
from fscache_core.option import read_size
from fscache_memory.space import Space
from fscache_memory.version import (
    BLOCK_OVERHEAD,
    BLOCK_SHIFT,
    BLOCK_SIZE,
    VERSION_OVERHEAD,
    Block,
    Version,
    page_mask,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie
    from fscache_core.operation import Operation, Retrieval, Storage

#: What an object has that was not looked up yet, or was dropped: nothing is resident.
NOWHERE = Version(None, (CookieType.INDEX, b""), b"", 0)


class MemoryObject(CacheObject):
    """An object and the version that it reads and writes."""

    __slots__ = ("version",)

    def __init__(self, cache: Cache, cookie: Cookie) -> None:
        super().__init__(cache, cookie)
        self.version = NOWHERE  #: swapped as a whole; `read_resident` in other threads looks at it once


class MemoryBackend:
    """A cache in the memory of this process.

    ``max_bytes`` is the ceiling on the memory it takes (None: no ceiling), a number or a text like ``500M``.
    At the ceiling what was used longest ago is evicted; see `Space`.
    """

    api_version = API_VERSION

    def __init__(self, max_bytes: int | str | None = None) -> None:
        ceiling = None if max_bytes is None else read_size("memory: max_bytes", max_bytes, at_least=1)
        self.space = Space(ceiling)
        self._touch = self.space.touch
        self.root = Version(None, (CookieType.INDEX, b""), b"", 0)
        self.root.linked = True
        self._cache: Cache | None = None
        self._counts: Counter[str] = Counter()

    @cache_hook
    async def bind_cache(self, cache: Cache) -> None:
        if self._cache is not None:
            raise CallerError(f"memory: this backend is in use by cache {self._cache.tag}; make another one")
        self._cache = cache

    @cache_hook
    async def unbind_cache(self) -> None:
        self._cache = None

    # -- objects --

    @cache_hook
    def alloc_object(self, cache: Cache, cookie: Cookie) -> MemoryObject:
        obj = MemoryObject(cache, cookie)
        if cookie.parent is None:
            obj.version = self.root  # the master index is always there, and never looked up
        return obj

    @cache_hook
    async def lookup_object(self, obj: MemoryObject) -> LookupOutcome:
        assert obj.parent is not None
        parent = version_of(obj.parent)
        found = parent.children.get((obj.cookie.type, obj.cookie.key))
        if found is not None and any(user.retired for user in found.users):
            self.space.unlink(found)  # its user is about to delete it, and has it to itself till then
            found = None
        if found is not None:
            fit = obj.check_aux(found.aux, found.object_size)
            if fit is AuxOutcome.OBSOLETE:
                self.space.unlink(found)
                obj.retrying_stale()
                found = None
            elif fit is AuxOutcome.NEEDS_UPDATE:
                self._relabel(obj, found)
                self._resize(found, obj.cookie.object_size)
        if found is not None:
            self._attach(obj, found)
            return LookupOutcome.OBTAINED
        if not obj.lookup_negative():
            return LookupOutcome.ABSENT
        self._attach(obj, self._make(obj, parent))
        return LookupOutcome.CREATED

    @cache_hook
    async def check_consistency(self, op: Operation) -> ConsistencyOutcome:
        version = version_of(op.object)
        fit = op.object.check_aux(version.aux, version.object_size)
        return ConsistencyOutcome.CONSISTENT if fit is AuxOutcome.OKAY else ConsistencyOutcome.STALE

    @cache_hook
    async def update_object(self, obj: MemoryObject) -> None:
        self._relabel(obj, obj.version)

    @cache_hook
    async def invalidate_object(self, op: Operation) -> None:
        old = version_of(op.object)
        assert isinstance(op.object, MemoryObject)
        assert old.parent is not None
        pinned, reserved, old.pinned, old.reserved = old.pinned, old.reserved, False, 0
        self.space.settle(old)
        self.space.unlink(old)
        self._detach(op.object)
        version = self._make(op.object, old.parent)
        version.pinned = pinned
        self._attach(op.object, version)
        self.space.reserve(version, reserved)

    @cache_hook
    async def drop_object(self, obj: MemoryObject) -> None:
        if obj.retired:
            self.space.unlink(obj.version)
        self._detach(obj)

    @cache_hook
    async def sync_cache(self) -> None:
        pass

    @cache_hook
    async def attr_changed(self, obj: MemoryObject) -> None:
        self._resize(obj.version, obj.cookie.object_size)
        obj.set_store_limit(obj.cookie.object_size)

    @cache_hook
    async def pin_object(self, obj: MemoryObject) -> ReserveOutcome:
        obj.version.pinned = True
        self.space.settle(obj.version)
        return ReserveOutcome.GRANTED

    @cache_hook
    async def unpin_object(self, obj: MemoryObject) -> None:
        obj.version.pinned = False
        self.space.settle(obj.version)

    @cache_hook
    async def is_pinned(self, obj: MemoryObject) -> bool:
        return obj.version.pinned

    @cache_hook
    async def reserve_space(self, obj: MemoryObject, reserved_size: int) -> ReserveOutcome:
        """The promise ends when the last user drops the object."""
        granted = self.space.reserve(obj.version, reserved_size)
        return ReserveOutcome.GRANTED if granted else ReserveOutcome.REFUSED

    # -- pages --

    @cache_hook
    def read_resident(self, obj: MemoryObject, offset: int, buffer: memoryview) -> int:
        # Written out for speed: calls in it cost as much as the copy of a page.
        blocks = obj.version.blocks
        want = len(buffer)
        index, start = offset >> BLOCK_SHIFT, offset & (BLOCK_SIZE - 1)
        at, stop = 0, start + want
        while True:
            block = blocks.get(index)
            if block is None:
                return NOT_RESIDENT
            end = stop if stop < BLOCK_SIZE else BLOCK_SIZE
            mask = (1 << ((end + PAGE_SIZE - 1) >> PAGE_SHIFT)) - (1 << (start >> PAGE_SHIFT))
            if block.valid & mask != mask:
                return NOT_RESIDENT
            if end - start == want:
                buffer[:] = block.view[start:end]
            else:
                buffer[at : at + end - start] = block.view[start:end]
            self._touch(block)
            if stop <= BLOCK_SIZE:
                return want
            at += end - start
            index, start, stop = index + 1, 0, stop - BLOCK_SIZE

    @cache_hook
    async def read_or_alloc_pages(self, op: Retrieval, folios: Sequence[Folio]) -> ReadOutcome:
        assert isinstance(op.object, MemoryObject)
        n_holes = 0
        for folio in folios:
            n_holes += folio.n_pages
            for first, n_pages in op.object.version.runs(folio.first, folio.end):
                part = folio.part(first, n_pages)
                if self.read_resident(op.object, part.offset, part.buffer) != NOT_RESIDENT:
                    op.end_io(first, n_pages)
                    n_holes -= n_pages
        return self._room_for_a_block(op.object.version) if n_holes else ReadOutcome.HIT

    @cache_hook
    async def allocate_pages(self, op: Retrieval) -> ReadOutcome:
        return self._room_for_a_block(version_of(op.object))

    @cache_hook
    async def write_page(self, op: Storage, folio: Folio) -> WriteOutcome:
        version = version_of(op.object)
        offset, end = folio.offset, folio.offset + len(folio.buffer)
        if end > version.object_size:  # the netfs told of a new size with the pages
            self._resize(version, op.object.store_limit_size)
        if end % PAGE_SIZE and end != version.object_size:
            return WriteOutcome.NO_BUFFERS  # cut where the object does not end
        indices = range(offset >> BLOCK_SHIFT, ((end - 1) >> BLOCK_SHIFT) + 1)
        kept = sum(version.blocks[index].size for index in indices if index in version.blocks)
        size = sum(version.capacity(i) + BLOCK_OVERHEAD for i in indices if i not in version.blocks)
        if not self.space.has_room(version, size, kept=kept):
            return WriteOutcome.NO_BUFFERS
        for index in indices:
            base = index << BLOCK_SHIFT
            start, stop = max(offset, base), min(end, base + BLOCK_SIZE)
            self._fill(version, index, start - base, folio.buffer[start - offset : stop - offset])
        return WriteOutcome.STORED

    @cache_hook
    async def resident_pages(self, obj: MemoryObject) -> Sequence[tuple[int, int]]:
        return list(obj.version.runs(0, page_count(obj.version.object_size)))

    @cache_hook
    async def get_check_time(self, obj: MemoryObject) -> float:
        return obj.version.check_time

    @cache_hook
    async def set_check_time(self, obj: MemoryObject, check_time: float) -> None:
        obj.version.check_time = check_time

    @cache_hook
    async def child_keys(self, obj: MemoryObject) -> Sequence[tuple[int, bytes]]:
        return list(obj.version.children)

    # -- statistics --

    @cache_hook
    async def add_statistics(self, counts: Mapping[str, int]) -> None:
        self._counts.update(counts)

    @cache_hook
    async def statistics(self) -> Mapping[str, int]:
        return dict(self._counts)

    def _fill(self, version: Version, index: int, start: int, data: memoryview) -> None:
        """Store whole pages into one block; there is room for it."""
        stop, mask = start + len(data), page_mask(start, len(data))
        block = version.blocks.get(index)
        if block is not None and not block.valid & mask:
            block.view[start:stop] = data
            block.valid |= mask  # last: a reader in another thread trusts it
            self.space.touch(block)
            return
        capacity = version.capacity(index)
        if len(data) == capacity:
            buffer = bytearray(data)
        else:
            buffer = bytearray(capacity) if block is None else bytearray(block.view)
            buffer[start:stop] = data
        if block is None:
            self.space.make_room(version, capacity + BLOCK_OVERHEAD)
        else:
            mask |= block.valid
        self.space.add(Block(version, index, buffer, mask))

    def _room_for_a_block(self, version: Version) -> ReadOutcome:
        room = self.space.has_room(version, min(BLOCK_SIZE, version.object_size) + BLOCK_OVERHEAD)
        return ReadOutcome.NO_DATA if room else ReadOutcome.NO_BUFFERS

    # -- versions --

    def _make(self, obj: CacheObject, parent: Version) -> Version:
        if not self.space.has_room(None, VERSION_OVERHEAD):
            raise NoSpaceError(f"memory: no room for {obj.cookie!r}; all is in use, pinned or reserved")
        self.space.make_room(None, VERSION_OVERHEAD)
        cookie = obj.cookie
        version = Version(parent, (cookie.type, cookie.key), cookie.aux or b"", cookie.object_size)
        self.space.link(version)
        return version

    def _attach(self, obj: MemoryObject, version: Version) -> None:
        version.users.add(obj)
        self.space.use(version)
        obj.version = version

    def _detach(self, obj: MemoryObject) -> None:
        version, obj.version = obj.version, NOWHERE
        version.users.discard(obj)
        if not version.users:
            self.space.unuse(version)

    def _relabel(self, obj: CacheObject, version: Version) -> None:
        if obj.cookie.aux is not None:
            version.aux = obj.cookie.aux

    def _resize(self, version: Version, object_size: int) -> None:
        """Drop what is beyond the new size, and a last page that was cut at the old one."""
        old_size, version.object_size = version.object_size, object_size
        if old_size == object_size:
            return
        index, start = divmod(min(old_size, object_size), BLOCK_SIZE)
        n_pages = start >> PAGE_SHIFT if object_size > old_size else page_count(start)
        last = version.blocks.get(index)
        for block in [block for block in version.blocks.values() if block.index >= index]:
            self.space.remove(block)
        if last is None or not n_pages or not last.valid & ((1 << n_pages) - 1):
            return
        capacity = version.capacity(index)
        if self.space.has_room(version, capacity + BLOCK_OVERHEAD):
            self.space.make_room(version, capacity + BLOCK_OVERHEAD)
            buffer = bytearray(capacity)
            whole = min(start, n_pages << PAGE_SHIFT)
            buffer[:whole] = last.view[:whole]
            self.space.add(Block(version, index, buffer, last.valid & ((1 << n_pages) - 1)))


def version_of(obj: CacheObject) -> Version:
    assert isinstance(obj, MemoryObject)  # core hands back what alloc_object made
    return obj.version
