"""Retrieval: reading what is stored of the pages that a retrieval asks for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fscache_cachefiles.blockmap import PAGES_PER_BLOCK
from fscache_cachefiles.object import CachefilesObject
from fscache_cachefiles.threads import Threads
from fscache_core.folio import PAGE_SHIFT, Folio

if TYPE_CHECKING:
    from fscache_core.operation import Retrieval

#: Pages read per thread hop: others get their turn in between.
_READ_PAGES = (4 << 20) >> PAGE_SHIFT


class PageRetrieval:
    """Reads pages of the objects of one cache."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self.n_damaged = 0  #: blocks found that did not match their checksum

    async def read(self, op: "Retrieval", obj: CachefilesObject, folios: Sequence[Folio]) -> int:
        """Read what is stored, verified, and end the I/O of those pages; returns how many are missing.

        Raises:
          FscacheError: the disk failed.

        Cancellation: may-be-partial.
        """
        n_missing = sum(folio.n_pages for folio in folios)
        backing = obj.backing
        if backing is None:
            return n_missing
        for folio in folios:
            if not backing.count_present(folio.first, folio.n_pages):
                continue
            for at in range(folio.first, folio.end, _READ_PAGES):
                part = folio.part(at, min(_READ_PAGES, folio.end - at))
                if part.n_pages < folio.n_pages and not backing.count_present(part.first, part.n_pages):
                    continue
                runs, damaged = await self._threads.run(backing.read_runs, part.first, part.buffer)
                for first, n_pages in runs:
                    op.end_io(first, n_pages)
                    n_missing -= n_pages
                for block in set(damaged) - obj.damaged:
                    self.n_damaged += 1
                    low, high = block * PAGES_PER_BLOCK, (block + 1) * PAGES_PER_BLOCK
                    obj.verification_failed(min(high, part.end) - max(low, part.first))
                obj.note_damage(damaged)
        return n_missing
