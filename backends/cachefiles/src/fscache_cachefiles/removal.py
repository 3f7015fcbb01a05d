"""Taking objects away from their names: burying, culling, and what is empty then.

Lock order: the container (hash) directory, then the ledger.  The container's lock is needed where a
rename or a removal relies on what the name means; a link needs none, because it never replaces.

Source: the on-disk format, sections 4 and 5.
"""

import errno
import fcntl
import os
import stat

from fscache_cachefiles import xattr
from fscache_cachefiles.bind import OPEN_DIRECTORY
from fscache_cachefiles.graveyard import Graveyard, is_linked
from fscache_cachefiles.ledger import HASH_DIRECTORY, INDEX_DIRECTORY, Ledger, weigh_small
from fscache_cachefiles.lock import close_locked, try_own
from fscache_cachefiles.namei import Namei, open_file
from fscache_cachefiles.place import Place
from fscache_cachefiles.xattr import NO_PIN


class Removal:
    """Removes objects of one bound cache directory.  Usable from any thread; blocks."""

    def __init__(self, namei: Namei, graveyard: Graveyard, ledger: Ledger) -> None:
        self._namei = namei
        self._graveyard = graveyard
        self._ledger = ledger

    def bury(self, place: Place, inode: int) -> str | None:
        """Take an object away from its name, also while others use it.

        Args:
          inode: which one; if something else has the name by now, that stays.

        Returns:
          The name of its grave, if it has one: reap it when it is not in use any more.

        Raises:
          OSError: as unlink and rename.
        """
        grave = None
        container = self._namei.open_container(place)
        if container is None:
            return None
        try:
            fcntl.flock(container, fcntl.LOCK_EX)
            status = os.stat(place.name, dir_fd=container, follow_symlinks=False)
            if status.st_ino == inode:
                if stat.S_ISDIR(status.st_mode):
                    grave = self._graveyard.bury_directory(container, place.name)
                else:
                    with self._ledger.removal(weigh_small(status.st_size)):
                        os.unlink(place.name, dir_fd=container)
        except FileNotFoundError:
            pass
        finally:
            close_locked(container)
        return grave

    def delete(self, place: Place, inode: int) -> None:
        """`bury` an object and, if nobody uses it, delete it."""
        grave = self.bury(place, inode)
        if grave is not None:
            self._graveyard.reap_grave(grave)

    def cull(self, place: Place) -> None:
        """Evict an object for its space.  Its label goes first, so that a crash leaves it stale.

        Raises:
          OSError: EBUSY (in use, or pinned), ESTALE (not there any more), or as the filesystem says.
        """
        container = self._namei.open_container(place)
        if container is None:
            raise OSError(errno.ESTALE, f"{place.path} is not there any more")
        try:
            status = os.stat(place.name, dir_fd=container, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                descriptor = os.open(place.name, OPEN_DIRECTORY, dir_fd=container)
            else:
                descriptor = open_file(place.name, container)
            try:
                if not try_own(descriptor) or not is_linked(descriptor, container, place.name):
                    raise OSError(errno.EBUSY, f"{place.path} is in use")
                if (xattr.read_pin(descriptor) or NO_PIN).pinned:
                    raise OSError(errno.EBUSY, f"{place.path} is pinned")
                xattr.remove_label(descriptor)
                grave = self.bury(place, status.st_ino)
            finally:
                close_locked(descriptor)
        except FileNotFoundError as error:
            raise OSError(errno.ESTALE, f"{place.path} is not there any more") from error
        finally:
            os.close(container)
        self.prune(place)
        if grave is not None:
            self._graveyard.reap_grave(grave)

    def prune(self, place: Place) -> None:
        """Remove the containers of a place, as far as they are empty."""
        names = place.container
        while names:
            path = "/".join(names)
            try:
                with self._ledger.removal(HASH_DIRECTORY):
                    os.rmdir(path, dir_fd=place.index.descriptor)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EBUSY):
                    return
                raise
            names.pop()

    def remove_empty_index(self, place: Place, inode: int) -> bool:
        """Remove an index that nobody uses and nothing is below.  The caller must not use it any more."""
        container = self._namei.open_container(place)
        if container is None:
            return False
        try:
            fcntl.flock(container, fcntl.LOCK_EX)
            descriptor = os.open(place.name, OPEN_DIRECTORY, dir_fd=container)
            try:
                if os.fstat(descriptor).st_ino != inode or not try_own(descriptor):
                    return False
                with self._ledger.removal(INDEX_DIRECTORY):
                    os.rmdir(place.name, dir_fd=container)
            finally:
                close_locked(descriptor)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        finally:
            close_locked(container)
        self.prune(place)
        return True
