"""The ceiling on memory, and what goes when it is reached.

Everything counts: blocks, labels, and what is promised to objects.  The least recently used goes first, block
by block; an object itself goes when nobody uses it.  Blocks of an object in use are no exception, since an
evicted page is only a miss.  What is pinned or reserved stays.

All of it belongs to the trio thread, except `touch`.
"""

from __future__ import annotations

from collections import OrderedDict

from fscache_memory.version import VERSION_OVERHEAD, Block, Version


class Space:
    __slots__ = ("_lru", "charged", "floor", "max_bytes")

    def __init__(self, max_bytes: int | None) -> None:
        self.max_bytes = max_bytes
        self.charged = 0  #: taken or promised, bytes; never more than ``max_bytes``
        self.floor = 0  #: what of that eviction cannot free, bytes
        # Blocks, and versions that nobody uses; first what was used longest ago.  Its methods are atomic.
        self._lru: OrderedDict[Block | Version, None] = OrderedDict()

    def touch(self, block: Block) -> None:
        """Note that a block was used.  Any thread."""
        try:
            self._lru.move_to_end(block)
        except KeyError:  # the trio thread evicted it since the caller found it
            return

    def has_room(self, version: Version | None, size: int, *, kept: int = 0) -> bool:
        """Whether ``size`` bytes more can be had for ``version`` while ``kept`` bytes of its blocks stay."""
        if self.max_bytes is None:
            return True
        if version is None:
            return self.floor + size <= self.max_bytes
        fixed = version.held if version.pinned else VERSION_OVERHEAD + kept
        return self.floor - version.floor + max(version.promised, fixed + size) <= self.max_bytes

    def make_room(self, version: Version | None, size: int) -> None:
        """Evict until ``size`` bytes more can be taken for ``version``, or for a new one.

        `has_room` has said that this is possible.
        """
        while self.max_bytes is not None:
            # Within a reservation, room was made when it was promised.
            growth = size if version is None else max(version.promised, version.held + size) - version.charge
            if self.charged + growth <= self.max_bytes:
                return
            entry, _ = self._lru.popitem(last=False)
            owner = entry.version if isinstance(entry, Block) else entry
            held = owner.held + size if owner is version else owner.held
            if owner.pinned or held <= owner.floor:  # all that is left of it is promised
                self._lru[entry] = None
            elif isinstance(entry, Block):
                self.remove(entry)
            else:
                self.unlink(entry)

    def reserve(self, version: Version, size: int) -> bool:
        """Promise room for ``size`` bytes of data from the start of the object; False if there is none."""
        before, version.reserved = version.reserved, size
        self.settle(version)
        if self.max_bytes is not None and self.floor > self.max_bytes:
            version.reserved = before
            self.settle(version)
            return False
        self.make_room(None, 0)
        return True

    # -- blocks --

    def add(self, block: Block) -> None:
        """Take in a block, or put it in the place of the one of its index.  `make_room` was called."""
        version = block.version
        old = version.blocks.get(block.index)
        version.blocks[block.index] = block  # a reader in another thread finds the old one or this
        self._lru[block] = None
        version.held += block.size
        if old is not None:
            self._lru.pop(old)
            version.held -= old.size
        self.settle(version)

    def remove(self, block: Block) -> None:
        del block.version.blocks[block.index]
        self._lru.pop(block, None)
        block.version.held -= block.size
        self.settle(block.version)

    # -- versions --

    def link(self, version: Version) -> None:
        """Let lookups find a version, unless its parent or another version of it is in the way."""
        parent = version.parent
        if parent is not None and parent.linked and version.name not in parent.children:
            parent.children[version.name] = version
            version.linked = True
            self.settle(parent)
        self.settle(version)

    def unlink(self, version: Version) -> None:
        """Hide a version and all below it from lookups; what nobody uses is gone at once."""
        if version.linked and version.parent is not None:
            del version.parent.children[version.name]
            version.linked = False
            if not version.parent.users:
                self.unuse(version.parent)
        for child in list(version.children.values()):
            self.unlink(child)
        if not version.users:
            self._discard(version)

    def use(self, version: Version) -> None:
        """Keep a version that has a user now."""
        self._lru.pop(version, None)
        self.settle(version)

    def unuse(self, version: Version) -> None:
        """Let a version go that has no user any more: now if it is unlinked, else when its turn comes."""
        version.reserved = 0
        if not version.linked:
            self._discard(version)
            return
        if version.parent is not None and not version.children:
            self._lru[version] = None
            self._lru.move_to_end(version)
        self.settle(version)

    def _discard(self, version: Version) -> None:
        for block in version.blocks.values():
            self._lru.pop(block, None)
        self._lru.pop(version, None)
        version.blocks.clear()  # also takes apart the cycle of version and blocks
        version.held = version.reserved = 0
        version.pinned = False
        self.settle(version)

    def settle(self, version: Version) -> None:
        """Bring the totals up to date after anything about a version changed."""
        if version.parent is None:
            return  # the root is always there
        charge = max(version.held, version.promised)
        if version.pinned or version.children:
            floor = charge
        else:
            floor = max(version.promised, min(version.held, VERSION_OVERHEAD) if version.users else 0)
        self.charged += charge - version.charge
        self.floor += floor - version.floor
        version.charge, version.floor = charge, floor
