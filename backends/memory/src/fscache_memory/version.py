"""What is stored of one file or index: a version, and the blocks of pages it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fscache_core.folio import PAGE_SHIFT, page_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fscache_memory.backend import MemoryObject

BLOCK_SHIFT = 16
BLOCK_SIZE = 1 << BLOCK_SHIFT  #: bytes; an object takes memory in blocks of this size
BLOCK_PAGES = BLOCK_SIZE >> PAGE_SHIFT

#: What the records themselves take, key and label at their longest included, bytes.  Counted, so that many
#: small objects stay under the ceiling as well.
VERSION_OVERHEAD = 2048
BLOCK_OVERHEAD = 512

Name = tuple[int, bytes]  #: type and key of a cookie, unique below one parent


def page_mask(start: int, length: int) -> int:
    """The pages that bytes ``start`` to ``start + length - 1`` of a block touch, as bits."""
    return (1 << page_count(start + length)) - (1 << (start >> PAGE_SHIFT))


class Block:
    """The pages of one 64 KiB block.

    A valid page never changes: overwriting one replaces the block.  So a thread that has looked at ``valid``
    may copy from ``view`` whatever happens meanwhile.
    """

    __slots__ = ("index", "valid", "version", "view")

    def __init__(self, version: Version, index: int, buffer: bytearray, valid: int = 0) -> None:
        self.version = version
        self.index = index
        self.view = memoryview(buffer)  #: ends where the object ended when the block was made
        self.valid = valid  #: bit i: page i of the block is valid

    @property
    def size(self) -> int:
        """What it counts as, bytes."""
        return len(self.view) + BLOCK_OVERHEAD


class Version:
    """One version of one stored object: its label and its blocks.

    An old version that somebody still reads is unlinked from the tree and lasts until the last of its
    ``users`` drops it.
    """

    __slots__ = (
        "aux",
        "blocks",
        "charge",
        "check_time",
        "children",
        "floor",
        "held",
        "linked",
        "name",
        "object_size",
        "parent",
        "pinned",
        "reserved",
        "users",
    )

    def __init__(self, parent: Version | None, name: Name, aux: bytes, object_size: int) -> None:
        self.parent = parent
        self.name = name
        self.aux = aux
        self.object_size = object_size
        self.children: dict[Name, Version] = {}
        self.blocks: dict[int, Block] = {}
        self.users: set[MemoryObject] = set()
        self.linked = False  #: a lookup finds it
        self.check_time = 0.0  #: see ``set_check_time``
        self.pinned = False
        self.reserved = 0  #: bytes of data that there is a promise of room for
        self.held = VERSION_OVERHEAD  #: bytes taken
        self.charge = 0  #: what `Space` counts for it, bytes
        self.floor = 0  #: what of that eviction cannot free, bytes

    @property
    def promised(self) -> int:
        """What the reservation counts as, bytes: data without gaps, and the records."""
        n_blocks = -(-self.reserved // BLOCK_SIZE)
        return self.reserved + n_blocks * BLOCK_OVERHEAD + VERSION_OVERHEAD if self.reserved else 0

    def capacity(self, index: int) -> int:
        """Bytes of the object that fall into block ``index``."""
        return min(BLOCK_SIZE, self.object_size - (index << BLOCK_SHIFT))

    def runs(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield ``(first, n_pages)`` of each run of valid pages in ``first`` to ``end - 1``, ascending."""
        low, high = first // BLOCK_PAGES, -(-end // BLOCK_PAGES)
        # Whichever is less: the blocks of the range, or those there are of a large and sparse object.
        indices = range(low, high) if high - low <= len(self.blocks) else sorted(self.blocks)
        run_first = run_end = first
        for index in indices:
            block = self.blocks.get(index)
            if block is None:
                continue
            base = index * BLOCK_PAGES
            for page_index in range(max(base, first), min(base + BLOCK_PAGES, end)):
                if block.valid >> (page_index - base) & 1:
                    if page_index != run_end:
                        if run_end > run_first:
                            yield run_first, run_end - run_first
                        run_first = page_index
                    run_end = page_index + 1
        if run_end > run_first:
            yield run_first, run_end - run_first
