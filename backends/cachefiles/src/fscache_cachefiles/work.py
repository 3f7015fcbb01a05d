"""What is done to the objects of one bound cache: its parts, and the work that takes several of them.

That is work which puts one backing in the place of another: under a new label, of a new size, or because
something is promised to an object that is not on disk yet.
"""

import fcntl
import logging
import os

from fscache_cachefiles import xattr
from fscache_cachefiles.admission import Admission
from fscache_cachefiles.attachment import Attachment
from fscache_cachefiles.backing import Backing
from fscache_cachefiles.bind import Root, open_root
from fscache_cachefiles.blockmap import PAGES_PER_BLOCK
from fscache_cachefiles.creation import Creation
from fscache_cachefiles.descriptors import Descriptors, default_max_open
from fscache_cachefiles.fault import NO_ROOM
from fscache_cachefiles.fill_lock import FillLocks
from fscache_cachefiles.graveyard import Graveyard
from fscache_cachefiles.ledger import Ledger
from fscache_cachefiles.lock import try_own, try_share
from fscache_cachefiles.namei import Namei
from fscache_cachefiles.object import CachefilesObject
from fscache_cachefiles.options import Options
from fscache_cachefiles.place import Index
from fscache_cachefiles.promise import Promises, lacks_room, warn_of_lost_room
from fscache_cachefiles.removal import Removal
from fscache_cachefiles.scan import weigh_all
from fscache_cachefiles.space import SpaceGuard, statvfs_of
from fscache_cachefiles.storage import PageStorage
from fscache_core.errors import CacheUnusableError, FscacheError, NoSpaceError
from fscache_core.folio import PAGE_SHIFT, PAGE_SIZE

log = logging.getLogger(__name__)

_COPY_PAGES = 16 * PAGES_PER_BLOCK  # pages copied at a time when an object changes its size


class Work:
    """One bound cache.  Usable from any thread; its methods and those of its parts block, but `FillLocks`.

    Args:
      root: closed by `close`.
    """

    def __init__(self, root: Root, namei: Namei, admission: Admission, graveyard: Graveyard) -> None:
        self.root = root
        self.master = Index("", os.dup(root.cache))
        self.namei = namei
        self.admission = admission
        self.graveyard = graveyard
        self.creation = Creation(namei, admission, graveyard)
        self.removal = Removal(namei, graveyard, admission.ledger)
        self.promises = Promises(admission)
        self.attachment = Attachment(namei, self.creation, self.removal, graveyard, self.promises)
        self.storage = PageStorage(self.attachment, admission)
        self.fill_locks = FillLocks(root.ledger)

    def close(self) -> None:
        self.master.close()
        self.root.close()

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
            grave = self.removal.bury(old.place, old.inode)
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
            self.attachment.store_empty(obj)
        finally:
            del old
            if grave is not None:
                self.graveyard.reap_grave(grave)
        # What the old one had until now.
        if reserved_size and not self.reserve(obj, reserved_size):
            warn_of_lost_room(obj)
        self.renew_promises(obj)

    def _copy(self, obj: CachefilesObject, old: Backing, first: int, buffer: memoryview) -> None:
        wanted = len(buffer)
        # The old last page is longer than the part that is kept: read it whole, it is verified whole.
        whole = min(old.size - (first << PAGE_SHIFT), (wanted + PAGE_SIZE - 1) & -PAGE_SIZE)
        if whole > wanted:
            buffer = memoryview(bytearray(whole))
        runs, damaged = old.read_runs(first, buffer)
        obj.note_damage(damaged)
        for run_first, n_pages in runs:
            low = (run_first - first) << PAGE_SHIFT
            self.storage.store(obj, run_first, buffer[low : min(low + (n_pages << PAGE_SHIFT), wanted)])

    # -- promises ------------------------------------------------------------------------

    def pin(self, obj: CachefilesObject) -> bool:
        """False if another version has the name: what is stored nowhere cannot be kept."""
        backing = self._backing_for_promise(obj)
        if backing is None:
            return False
        self.promises.pin(obj, backing)
        return True

    def unpin(self, obj: CachefilesObject) -> None:
        if obj.backing is None:
            self.attachment.adopt(obj)
        self.promises.unpin(obj)

    def reserve(self, obj: CachefilesObject, reserved_size: int) -> bool:
        """Have the first ``reserved_size`` bytes paid for.  False if there is no room."""
        reserved_size = min(reserved_size, obj.size)
        try:
            backing = self._backing_for_promise(obj)
        except OSError as error:
            if not lacks_room(error):
                raise
            return False
        return backing is not None and self.promises.reserve(obj, backing, reserved_size)

    def renew_promises(self, obj: CachefilesObject) -> None:
        """Put on disk what an object was promised of which nothing is stored any more, if there is room."""
        if obj.backing is None and (obj.pinned or obj.reserved_size):
            try:
                self.attachment.ensure_backing(obj)
            except OSError as error:
                if not isinstance(error, NoSpaceError) and error.errno not in NO_ROOM:
                    raise
                log.warning("%r (%r): no room to keep its pin: %s", obj, obj.cookie, error)

    def _backing_for_promise(self, obj: CachefilesObject) -> Backing | None:
        """A backing that is on disk under its name, also if none of it is stored.

        Returns and raises as `Attachment.ensure_backing`.
        """
        if obj.backing is None or not obj.backing.published:
            self.attachment.adopt(obj)
        draft = obj.backing
        if draft is None or draft.published:
            return self.attachment.ensure_backing(obj, promised=True)
        assert obj.place is not None
        backing = self.creation.make_large(obj.place, obj.label, obj.size)
        if backing is None:  # somebody was first
            return obj.backing if self.attachment.adopt(obj) else None
        obj.backing = backing
        obj.keep_check_time()
        for first, n_pages in draft.resident_runs():
            size = min(draft.size - (first << PAGE_SHIFT), n_pages << PAGE_SHIFT)
            self._copy(obj, draft, first, memoryview(bytearray(size)))
        self.creation.discard_draft(draft)
        return obj.backing


def open_work(options: Options) -> Work:
    """Open a cache directory, make what is missing of it, and reap its graveyard.

    Raises:
      CacheUnusableError: naming the directory and what is wrong.
    """
    root = open_root(options.dir, force=options.force)
    try:
        guard = SpaceGuard(statvfs_of(root.directory), options.percent)
        ledger = Ledger(
            root.ledger,
            options.max_files,
            options.max_bytes,
            lambda: weigh_all(root.cache, root.graveyard),
        )
        ledger.open()
        graveyard = Graveyard(root.graveyard, ledger)
        max_open = default_max_open() if options.max_open is None else options.max_open
        namei = Namei(root, options.verify, Descriptors(max_open))
        graveyard.reap()
        return Work(root, namei, Admission(guard, ledger), graveyard)
    except BaseException as error:
        root.close()
        if isinstance(error, OSError) and not isinstance(error, FscacheError):
            reason = error.strerror or str(error)
            raise CacheUnusableError(f"cache directory {root.path}: {reason}", errno=error.errno) from error
        raise
