"""Attachment: which backing an object has, from finding or making it to letting go of it."""

import contextlib
import os
import threading
import time

from fscache_cachefiles.backing import LARGE_DESCRIPTORS, Backing
from fscache_cachefiles.creation import Creation
from fscache_cachefiles.graveyard import Graveyard
from fscache_cachefiles.namei import Namei, Opened, OpenedIndex, Stale
from fscache_cachefiles.object import CachefilesObject
from fscache_cachefiles.place import Place
from fscache_cachefiles.promise import Promises
from fscache_cachefiles.removal import Removal
from fscache_core.errors import NoSpaceError

_TRIES = 4
_LOCKS = 16


class Attachment:
    """Attaches the objects of one bound cache.  Usable from any thread; blocks."""

    def __init__(
        self, namei: Namei, creation: Creation, removal: Removal, graveyard: Graveyard, promises: Promises
    ) -> None:
        self._namei = namei
        self._creation = creation
        self._removal = removal
        self._graveyard = graveyard
        self._promises = promises
        self._making = [threading.Lock() for _ in range(_LOCKS)]  # each for a share of all objects

    # -- finding and making --------------------------------------------------------------

    def find(self, place: Place) -> Opened | Stale | None:
        """Open a data object for a cookie: from now on it is the most recently used one."""
        found = self._namei.open_object(place)
        if isinstance(found, Opened):
            with contextlib.suppress(OSError):
                _touch(found.backing.descriptor)
        return found

    def find_index(self, place: Place) -> OpenedIndex | Stale | None:
        found = self._namei.open_index(place)
        if isinstance(found, OpenedIndex):
            with contextlib.suppress(OSError):
                _touch(found.index.descriptor)
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
                obj.backing = self._creation.draft_small(obj.place, obj.size)
            else:
                obj.backing = self._creation.make_large(obj.place, obj.label, obj.size)
                if obj.backing is None:
                    self.adopt(obj)
                else:
                    obj.keep_check_time()
                    self._promises.carry_over(obj, obj.backing)
        return obj.backing

    def adopt(self, obj: CachefilesObject) -> bool:
        """Use what another process has stored meanwhile under our name, if it is this version."""
        assert obj.place is not None
        self._namei.descriptors.check(1 if obj.is_small else LARGE_DESCRIPTORS)
        found = self._namei.open_object(obj.place)
        if isinstance(found, Stale):
            self._removal.delete(obj.place, found.inode)
        elif isinstance(found, Opened):
            if found.label == obj.label and found.backing.size == obj.size:
                old, obj.backing = obj.backing, found.backing
                if old is not None:
                    self._creation.discard_draft(old)
                return True
            obj.superseded = obj.backing is None
        return False

    # -- publishing ----------------------------------------------------------------------

    def publish(self, obj: CachefilesObject, draft: Backing) -> None:
        """Let others find a small object that is whole."""
        if self._creation.publish_small(draft, obj.label):
            obj.keep_check_time()
            return
        # Somebody else was first.  If it is another version, ours stays as it is: for us alone.
        self.adopt(obj)

    def store_empty(self, obj: CachefilesObject) -> None:
        """An empty file is whole from the start.  Lack of room is no fault."""
        if obj.size == 0 and obj.backing is None:
            with contextlib.suppress(NoSpaceError):
                backing = self.ensure_backing(obj)
                if backing is not None:
                    self.publish(obj, backing)

    # -- letting go ----------------------------------------------------------------------

    def relinquish_backing(self, obj: CachefilesObject, *, retire: bool) -> None:
        """Let go of the backing; with ``retire`` nobody finds it any more."""
        backing, obj.backing = obj.backing, None
        if backing is None:
            return
        if not backing.published:
            self._creation.discard_draft(backing)
            return
        place, inode = backing.place, backing.inode
        if not retire:
            with contextlib.suppress(OSError):
                _touch(backing.descriptor)
            if not backing.is_small and not self._namei.has_name(place, inode):
                del backing
                self._graveyard.reap()  # buried by somebody else, and we may have been its last user
            return
        grave = self._removal.bury(place, inode)
        del backing  # gives the in-use lock back, unless a reader is in it just now
        if grave is not None:
            self._graveyard.reap_grave(grave)

    def discard(self, obj: CachefilesObject, place: Place) -> None:
        """See to it that nobody finds what is stored of the object's version."""
        if obj.backing is None and not obj.superseded:
            # Others may have stored this version.  Another version is not ours to delete.
            found = self._namei.open_object(place)
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
            self._removal.prune(place)
            place.index.emptied = True  # perhaps; who lets go of it looks


def _touch(descriptor: int) -> None:
    """Make an entry the most recently used, whatever the mount options say of access times."""
    status = os.fstat(descriptor)
    os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
