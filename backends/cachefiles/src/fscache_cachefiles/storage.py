"""Storing pages of the version that an object holds: in which backing, and whether there is room."""

import errno
import logging
from collections.abc import Iterator, Sequence

from fscache_cachefiles.admission import Admission
from fscache_cachefiles.attachment import Attachment
from fscache_cachefiles.backing import Backing
from fscache_cachefiles.blockmap import BLOCK_SIZE, PAGES_PER_BLOCK
from fscache_cachefiles.blockstore import ContentChangedError, EntryBusyError, new_pages, store_pages
from fscache_cachefiles.fault import NO_ROOM
from fscache_cachefiles.ledger import weigh_pages
from fscache_cachefiles.object import CachefilesObject
from fscache_core.errors import NoSpaceError
from fscache_core.folio import PAGE_SHIFT, PAGE_SIZE, Folio, page_count
from fscache_core.outcome import WriteOutcome

log = logging.getLogger(__name__)

_TRIES = 4


class PageStorage:
    """Stores pages of the objects of one bound cache.  Usable from any thread; blocks."""

    def __init__(self, attachment: Attachment, admission: Admission) -> None:
        self._attachment = attachment
        self._admission = admission

    def store(
        self, obj: CachefilesObject, first: int, content: memoryview, *more: memoryview
    ) -> WriteOutcome:
        """Store a run of pages of the version that the object holds; ``more`` as in `store_pages`."""
        if not more:
            left = obj.size - (first << PAGE_SHIFT)
            if len(content) > left:
                content = content[: max(left, 0)]
            elif len(content) < left:
                content = content[: len(content) & -PAGE_SIZE]  # a cut page in the middle is no page
        if not content:
            return WriteOutcome.NO_BUFFERS
        try:
            for _ in range(_TRIES):
                backing = self._attachment.ensure_backing(obj)
                if backing is None:
                    return WriteOutcome.NO_BUFFERS
                try:
                    if self._store(obj, backing, first, content, *more):
                        last = first + page_count(sum(map(len, (content, *more)))) - 1
                        blocks = range(first // PAGES_PER_BLOCK, last // PAGES_PER_BLOCK + 1)
                        obj.damaged = obj.damaged.difference(blocks)  # damage done from now on is new
                        return WriteOutcome.STORED
                except ContentChangedError:
                    # Others may be reading this version, and pages that are valid never change.  So
                    # they keep it, and we go on with an empty one.
                    log.warning("%r: other bytes for pages that are stored; starting it afresh", obj)
                self._attachment.relinquish_backing(obj, retire=True)
        except (NoSpaceError, EntryBusyError):
            return WriteOutcome.NO_BUFFERS
        except OSError as error:
            if error.errno in (*NO_ROOM, errno.EROFS, errno.EFBIG):
                return WriteOutcome.NO_BUFFERS
            raise
        return WriteOutcome.NO_BUFFERS

    def store_several(self, obj: CachefilesObject, folios: Sequence[Folio]) -> WriteOutcome:
        """`store` for one after the other.  Those that find no room are left out."""
        outcome = WriteOutcome.STORED
        for first, pieces in _neighbours(folios, obj.size):
            if self.store(obj, first, *pieces) is WriteOutcome.STORED:
                continue
            for piece in pieces if len(pieces) > 1 else ():  # there may be room for some
                self.store(obj, first, piece)
                first += len(piece) >> PAGE_SHIFT
            outcome = WriteOutcome.NO_BUFFERS
        return outcome

    def _store(
        self, obj: CachefilesObject, backing: Backing, first: int, content: memoryview, *more: memoryview
    ) -> bool:
        """Store into this backing.  False if it is damaged beyond use."""
        if backing.is_small:
            if backing.published:
                present = memoryview(bytearray(len(content)))
                runs, damaged = backing.read_runs(first, present)
                obj.note_damage(damaged)
                if damaged or runs != [(first, page_count(len(content)))]:
                    return False
                if present != content:
                    raise ContentChangedError
                return True
            was_complete = backing.is_complete
            obj.note_damage(store_pages(backing, first, content))
            if backing.is_complete and not was_complete:
                self._attachment.publish(obj, backing)
            return True
        if not backing.writable:
            raise OSError(errno.EROFS, "the cache is on a read-only filesystem")
        n_pages = page_count(sum(map(len, (content, *more))))
        n_new = new_pages(backing, first, n_pages)
        if n_new:
            self._admission.admit(0, n_new, weigh_pages(n_new))
        n_stored = n_new
        try:
            obj.note_damage(store_pages(backing, first, content, *more))
        except BaseException:
            # Some pages may be stored all the same.  If even that cannot be told, all stay charged.
            n_stored -= min(n_new, new_pages(backing, first, n_pages))
            self._admission.ledger.give_back(weigh_pages(n_new - n_stored))
            raise
        finally:
            self._admission.ledger.settle(weigh_pages(n_stored))
        return True


def _neighbours(folios: Sequence[Folio], size: int) -> Iterator[tuple[int, list[memoryview]]]:
    """Put together what lies one behind the other, where it is of whole blocks: ``(first page, pieces)``."""
    first, end, pieces = 0, -1, list[memoryview]()
    for folio in folios:
        n_bytes = len(folio.buffer)
        whole = not (folio.offset | n_bytes) % BLOCK_SIZE and folio.offset + n_bytes <= size
        if pieces and not (whole and folio.first == end):
            yield first, pieces
            pieces = []
        if not pieces:
            first = folio.first
        pieces.append(folio.buffer)
        end = folio.end if whole else -1
    if pieces:
        yield first, pieces
