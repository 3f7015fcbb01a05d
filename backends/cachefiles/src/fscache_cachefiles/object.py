"""The record of one cookie in a cachefiles cache, and the work on its backing that needs a thread.

``label`` and ``size`` say which version this object holds.  They are taken from the cookie when the
object is looked up, updated, resized or invalidated, never in between: the cookie may already know of
a newer version while pages of this one are still being stored.

A data object has no backing until something is stored in it (or promised to it).  The methods below
block; core runs no two of those that change the backing at once, except that pages are stored while
others are read.
"""

import contextlib
import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fscache_cachefiles import xattr
from fscache_cachefiles.admission import Admission
from fscache_cachefiles.backing import LARGE_DESCRIPTORS, Backing
from fscache_cachefiles.blockmap import BLOCK_SIZE, PAGES_PER_BLOCK
from fscache_cachefiles.blockstore import ContentChangedError, EntryBusyError, new_pages, store_pages
from fscache_cachefiles.creation import Creation
from fscache_cachefiles.graveyard import Graveyard
from fscache_cachefiles.key import cook_key
from fscache_cachefiles.ledger import weigh_pages
from fscache_cachefiles.lock import try_own, try_share
from fscache_cachefiles.namei import (
    SMALL_SIZE_MAX,
    Namei,
    Opened,
    OpenedIndex,
    Stale,
    touch,
    write_check_time,
)
from fscache_cachefiles.place import Index, Place
from fscache_cachefiles.scan import count_pages
from fscache_cachefiles.xattr import Label, Pin
from fscache_core.errors import CallerError, NoSpaceError
from fscache_core.folio import PAGE_SHIFT, PAGE_SIZE, Folio, PageRuns, page_count
from fscache_core.object import CacheObject
from fscache_core.outcome import CookieType, WriteOutcome

if TYPE_CHECKING:
    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie

log = logging.getLogger(__name__)

_COPY_PAGES = 16 * PAGES_PER_BLOCK  # pages copied at a time when an object changes its size
_TRIES = 4
_LOCKS = 16
#: One for all objects: almost none has any.
NO_BLOCKS: frozenset[int] = frozenset()
#: What a filesystem or the kernel says when there is no room: no fault of the cache.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


class CachefilesObject(CacheObject):
    """An object of this backend."""

    __slots__ = (
        "backing",
        "check_time",
        "cooked",
        "damaged",
        "held",
        "index",
        "label",
        "pinned",
        "place",
        "reserved_size",
        "size",
        "superseded",
    )

    def __init__(self, cache: "Cache", cookie: "Cookie") -> None:
        super().__init__(cache, cookie)
        try:
            self.cooked = cook_key(cookie.key, cookie.type)
        except ValueError as error:
            raise CallerError(str(error)) from error
        self.index: Index | None = None  #: of an index object that is available
        self.place: Place | None = None  #: known once it is looked up
        self.backing: Backing | None = None  #: of a data object that has something stored
        self.label = Label(cookie.type, b"")
        self.size = 0  #: bytes
        self.check_time = 0.0  #: when the origin last confirmed this version, seconds since the epoch
        self.pinned = False
        self.reserved_size = 0  #: bytes
        self.superseded = False  #: another version has the name; this one is stored nowhere
        self.held = PageRuns()  #: fill locks
        self.damaged = NO_BLOCKS  #: blocks reported as such

    @property
    def is_index(self) -> bool:
        return self.cookie.type == CookieType.INDEX

    @property
    def is_small(self) -> bool:
        return self.size <= SMALL_SIZE_MAX

    def take_version(self) -> None:
        """Take label and size from the cookie: what is stored from now on is that version."""
        if self.cookie.aux is not None:
            self.label = Label(self.cookie.type, self.cookie.aux)
        self.size = self.cookie.object_size
        self.check_time = 0.0
        self.superseded = False


class Work:
    """What is done to objects of one bound cache, in worker threads."""

    def __init__(self, namei: Namei, admission: Admission, graveyard: Graveyard) -> None:
        self.namei = namei
        self.creation = Creation(namei, admission, graveyard)
        self.admission = admission
        self.graveyard = graveyard
        self._making = [threading.Lock() for _ in range(_LOCKS)]  # each for a share of all objects

    # -- the backing ---------------------------------------------------------------------

    def find(self, place: Place) -> Opened | Stale | None:
        """Open a data object for a cookie: from now on it is the most recently used one."""
        found = self.namei.open_object(place)
        if isinstance(found, Opened):
            with contextlib.suppress(OSError):
                touch(found.backing.descriptor)
        return found

    def find_index(self, place: Place) -> OpenedIndex | Stale | None:
        found = self.namei.open_index(place)
        if isinstance(found, OpenedIndex):
            with contextlib.suppress(OSError):
                touch(found.index.descriptor)
        return found

    def ensure_backing(self, obj: CachefilesObject, *, promised: bool = False) -> Backing | None:
        """The object's backing, made if it has none; None if another version has taken its name.

        A small object is on disk when it is whole.  One that is ``promised`` something is made as large ones
        are: a promise must hold before.

        Raises:
          NoSpaceError: no room.
          OSError: the filesystem failed.
        """
        if obj.backing is not None or obj.superseded:
            return obj.backing
        # One at a time: who came second would put another opening of the entry in the place of the first, and
        # the fill locks that were taken on that would be gone.
        with self._making[hash(obj) % len(self._making)]:
            return self._make_backing(obj, promised)

    def _make_backing(self, obj: CachefilesObject, promised: bool) -> Backing | None:
        assert obj.place is not None
        for _ in range(_TRIES):
            if obj.backing is not None or obj.superseded:
                return obj.backing
            if obj.is_small and not (promised or obj.pinned or obj.reserved_size):
                obj.backing = self.creation.draft_small(obj.place, obj.size)
            else:
                obj.backing = self.creation.make_large(obj.place, obj.label, obj.size)
                if obj.backing is None:
                    self.adopt(obj)
                else:
                    self._note_check_time(obj)
                    reserved_size, obj.reserved_size = obj.reserved_size, 0
                    if obj.pinned:
                        xattr.write_pin(obj.backing.descriptor, Pin(True, 0))
                    self._reserve_again(obj, reserved_size)
        return obj.backing

    def store_empty(self, obj: CachefilesObject) -> None:
        """An empty file is whole from the start.  Lack of room is no fault."""
        if obj.size == 0 and obj.backing is None:
            with contextlib.suppress(NoSpaceError):
                backing = self.ensure_backing(obj)
                if backing is not None:
                    self._publish(obj, backing)

    def adopt(self, obj: CachefilesObject) -> bool:
        """Use what another process has stored meanwhile under our name, if it is this version."""
        assert obj.place is not None
        self.namei.descriptors.check(1 if obj.is_small else LARGE_DESCRIPTORS)
        found = self.namei.open_object(obj.place)
        if isinstance(found, Stale):
            self.bury(obj.place, found.inode)
        elif isinstance(found, Opened):
            if found.label == obj.label and found.backing.size == obj.size:
                old, obj.backing = obj.backing, found.backing
                if old is not None:
                    self.creation.discard_draft(old)
                return True
            obj.superseded = obj.backing is None
        return False

    def bury(self, place: Place, inode: int) -> None:
        """Bury an object and, if nobody uses it, delete it."""
        grave = self.namei.bury(place, inode)
        if grave is not None:
            self.graveyard.reap_grave(grave)

    def relinquish_backing(self, obj: CachefilesObject, *, retire: bool) -> None:
        """Let go of the backing; with ``retire`` nobody finds it any more."""
        backing, obj.backing = obj.backing, None
        if backing is None:
            return
        if not backing.published:
            self.creation.discard_draft(backing)
            return
        place, inode = backing.place, backing.inode
        if not retire:
            with contextlib.suppress(OSError):
                touch(backing.descriptor)
            if not backing.is_small and not self.namei.has_name(place, inode):
                del backing
                self.graveyard.reap()  # buried by somebody else, and we may have been its last user
            return
        grave = self.namei.bury(place, inode)
        del backing  # gives the in-use lock back, unless a reader is in it just now
        if grave is not None:
            self.graveyard.reap_grave(grave)

    def discard(self, obj: CachefilesObject, place: Place) -> None:
        """See to it that nobody finds what is stored of the object's version."""
        if obj.backing is None and not obj.superseded:
            # Others may have stored this version.  Another version is not ours to delete.
            found = self.namei.open_object(place)
            if isinstance(found, Opened) and found.label == obj.label:
                obj.backing = found.backing
            del found
        self.relinquish_backing(obj, retire=True)

    def drop(self, obj: CachefilesObject, place: Place) -> None:
        """The end of a data object."""
        if obj.retired:
            self.discard(obj, place)
        else:
            self.relinquish_backing(obj, retire=False)
        if obj.retired:
            self.namei.prune(place)
            place.index.emptied = True  # perhaps; who lets go of it looks

    # -- storing -------------------------------------------------------------------------

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
                backing = self.ensure_backing(obj)
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
                self.relinquish_backing(obj, retire=True)
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
                self.note_damage(obj, damaged)
                if damaged or runs != [(first, page_count(len(content)))]:
                    return False
                if present != content:
                    raise ContentChangedError
                return True
            was_complete = backing.is_complete
            self.note_damage(obj, store_pages(backing, first, content))
            if backing.is_complete and not was_complete:
                self._publish(obj, backing)
            return True
        if not backing.writable:
            raise OSError(errno.EROFS, "the cache is on a read-only filesystem")
        n_pages = page_count(sum(map(len, (content, *more))))
        n_new = new_pages(backing, first, n_pages)
        if n_new:
            self.admission.admit(0, n_new, weigh_pages(n_new))
        n_stored = n_new
        try:
            self.note_damage(obj, store_pages(backing, first, content, *more))
        except BaseException:
            # Some pages may be stored all the same.  If even that cannot be told, all stay charged.
            n_stored -= min(n_new, new_pages(backing, first, n_pages))
            self.admission.ledger.give_back(weigh_pages(n_new - n_stored))
            raise
        finally:
            self.admission.ledger.settle(weigh_pages(n_stored))
        return True

    def _publish(self, obj: CachefilesObject, draft: Backing) -> None:
        if self.creation.publish_small(draft, obj.label):
            self._note_check_time(obj)
            return
        # Somebody else was first.  If it is another version, ours stays as it is: for us alone.
        self.adopt(obj)

    def note_damage(self, obj: CachefilesObject, blocks: list[int]) -> None:
        """Log blocks whose checksum did not match, each once."""
        new = set(blocks) - obj.damaged
        if new:
            obj.damaged |= new
            log.warning(
                "%r (%r): block %s does not match its checksum and is fetched again",
                obj,
                obj.cookie,
                ", ".join(map(str, sorted(new))),
            )

    # -- label and size ------------------------------------------------------------------

    def relabel(self, obj: CachefilesObject) -> None:
        """Label what is stored with ``obj.label``.

        In place only if nobody else uses the entry: another process may be storing pages of the
        version that the old label names, and those must not come under the new one.  Otherwise the
        others keep the inode and we go on with a copy.
        """
        if obj.index is not None:
            xattr.replace_label(obj.index.descriptor, obj.label)
            return
        backing = obj.backing
        if backing is None or not backing.published:
            return
        if xattr.read_label(backing.descriptor) == obj.label:
            return
        obj.check_time = 0.0  # of the old label
        if try_own(backing.descriptor):
            try:
                xattr.replace_label(backing.descriptor, obj.label)
            finally:
                # Not atomic, and need not be: at worst it is culled in between.
                fcntl.flock(backing.descriptor, fcntl.LOCK_SH)
            return
        try_share(backing.descriptor)  # a refused conversion has dropped the lock
        self.remake(obj, obj.size)

    def remake(self, obj: CachefilesObject, size: int) -> None:
        """Put a new inode of ``size`` bytes in place of the old and copy the pages that stay valid."""
        old = obj.backing
        obj.size = size
        obj.check_time = 0.0
        if old is None:
            return
        old_size = old.size
        if old.published:
            grave = self.namei.bury(old.place, old.inode)
        else:
            grave = None
            self.creation.discard_draft(old)
        obj.backing = None
        reserved_size, obj.reserved_size = min(obj.reserved_size, size), 0
        try:
            # A page that was cut at the old end has other bytes if the object grew.
            kept = min(size, old_size if old_size >= size else old_size & -PAGE_SIZE)
            buffer = memoryview(bytearray(min(kept, _COPY_PAGES << PAGE_SHIFT)))
            for first, n_pages in old.resident_runs() if kept else ():
                for at in range(first, first + n_pages, _COPY_PAGES):
                    start = at << PAGE_SHIFT
                    end = min(kept, (at + _COPY_PAGES) << PAGE_SHIFT, (first + n_pages) << PAGE_SHIFT)
                    if start < end:
                        self._copy(obj, old, at, buffer[: end - start])
            self.store_empty(obj)
        finally:
            del old
            if grave is not None:
                self.graveyard.reap_grave(grave)
        self._reserve_again(obj, reserved_size)  # which the old one had until now
        self.renew_promises(obj)

    def _copy(self, obj: CachefilesObject, old: Backing, first: int, buffer: memoryview) -> None:
        wanted = len(buffer)
        # The old last page is longer than the part that is kept: read it whole, it is verified whole.
        whole = min(old.size - (first << PAGE_SHIFT), (wanted + PAGE_SIZE - 1) & -PAGE_SIZE)
        if whole > wanted:
            buffer = memoryview(bytearray(whole))
        runs, damaged = old.read_runs(first, buffer)
        self.note_damage(obj, damaged)
        for run_first, n_pages in runs:
            low = (run_first - first) << PAGE_SHIFT
            self.store(obj, run_first, buffer[low : min(low + (n_pages << PAGE_SHIFT), wanted)])

    def set_check_time(self, obj: CachefilesObject, check_time: float) -> None:
        """Note when the origin last confirmed this version.  What is not published yet gets it then."""
        obj.check_time = check_time
        self._note_check_time(obj)

    def _note_check_time(self, obj: CachefilesObject) -> None:
        if obj.check_time and obj.backing is not None and obj.backing.published:
            write_check_time(obj.backing, obj.label, obj.check_time)

    # -- promises ------------------------------------------------------------------------

    def pin(self, obj: CachefilesObject) -> bool:
        """False if another version has the name: what is stored nowhere cannot be kept."""
        backing = self._backing_for_promise(obj)
        if backing is None:
            return False
        with self.admission.ledger.promising():
            self._see_promises(obj, backing)
            xattr.write_pin(backing.descriptor, Pin(True, obj.reserved_size))
            obj.pinned = True
        return True

    def unpin(self, obj: CachefilesObject) -> None:
        if obj.backing is None:
            self.adopt(obj)
        with self.admission.ledger.promising():
            if obj.backing is not None and obj.backing.published:
                self._see_promises(obj, obj.backing)
                xattr.write_pin(obj.backing.descriptor, Pin(False, obj.reserved_size))
            obj.pinned = False

    def promise_of(self, obj: CachefilesObject) -> Pin:
        """What the object was promised, by whatever process."""
        backing = obj.backing
        if backing is None or not backing.published:
            return Pin(obj.pinned, obj.reserved_size)
        try:
            return xattr.read_pin(backing.descriptor) or xattr.NO_PIN
        except xattr.BadAttributeError:
            return xattr.NO_PIN  # a damaged one promises nothing

    def _see_promises(self, obj: CachefilesObject, backing: Backing) -> None:
        """Learn what other processes have been promised of the object since we looked."""
        pin = self.promise_of(obj)
        obj.pinned = pin.pinned
        obj.reserved_size = backing.reserved_size = min(pin.reserved_size, obj.size)

    def renew_promises(self, obj: CachefilesObject) -> None:
        """Put on disk what an object was promised of which nothing is stored any more, if there is room."""
        if obj.backing is None and (obj.pinned or obj.reserved_size):
            try:
                self.ensure_backing(obj)
            except OSError as error:
                if not isinstance(error, NoSpaceError) and error.errno not in NO_ROOM:
                    raise
                log.warning("%r (%r): no room to keep its pin: %s", obj, obj.cookie, error)

    def _reserve_again(self, obj: CachefilesObject, reserved_size: int) -> None:
        if reserved_size and not self.reserve(obj, reserved_size):
            log.warning("%r (%r): no room any more for what was reserved for it", obj, obj.cookie)

    def _backing_for_promise(self, obj: CachefilesObject) -> Backing | None:
        """A backing that is on disk under its name, also if none of it is stored; None as `ensure_backing`.

        Raises: as `ensure_backing`.
        """
        if obj.backing is None or not obj.backing.published:
            self.adopt(obj)
        draft = obj.backing
        if draft is None or draft.published:
            return self.ensure_backing(obj, promised=True)
        assert obj.place is not None
        backing = self.creation.make_large(obj.place, obj.label, obj.size)
        if backing is None:  # somebody was first
            return obj.backing if self.adopt(obj) else None
        obj.backing = backing
        self._note_check_time(obj)
        for first, n_pages in draft.resident_runs():
            size = min(draft.size - (first << PAGE_SHIFT), n_pages << PAGE_SHIFT)
            self._copy(obj, draft, first, memoryview(bytearray(size)))
        self.creation.discard_draft(draft)
        return obj.backing

    def reserve(self, obj: CachefilesObject, reserved_size: int) -> bool:
        """Have the first ``reserved_size`` bytes paid for.  False if there is no room."""
        reserved_size = min(reserved_size, obj.size)
        try:
            backing = self._backing_for_promise(obj)
            if backing is None:
                return False
            with self.admission.ledger.promising():
                self._see_promises(obj, backing)
                self._pay(backing, reserved_size, pinned=obj.pinned)
                obj.reserved_size = backing.reserved_size = reserved_size
        except NoSpaceError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                return False
            raise
        return True

    def _pay(self, backing: Backing, reserved_size: int, *, pinned: bool) -> None:
        """Charge or take off the difference, and put on disk what is reserved from now on."""
        ledger = self.admission.ledger
        old, new = 0, 0  # a small object is paid for as a whole
        if not backing.is_small:
            old = count_pages(backing.map, page_count(backing.reserved_size))
            new = count_pages(backing.map, page_count(reserved_size))
        more = weigh_pages(max(new - old, 0))
        if new > old:
            self.admission.admit(0, new - old, more)
        try:
            if reserved_size and not backing.is_small:
                os.posix_fallocate(backing.data, 0, reserved_size)
        except BaseException:
            ledger.give_back(more)
            raise
        try:
            with ledger.removal(weigh_pages(max(old - new, 0))):
                xattr.write_pin(backing.descriptor, Pin(pinned, reserved_size))
        finally:
            ledger.settle(more)


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
