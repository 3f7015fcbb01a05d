"""Names: finding objects below ``cache/``, and burying them.

Every step is relative to a directory descriptor and follows no symbolic link.  Nothing is ever rewritten
under its name: another version is another inode.  `creation` puts objects in place.

Lock order: the container (hash) directory, then the ledger.  The container's lock is needed where a
rename or a removal relies on what the name means; a link needs none, because it never replaces.

Source: the on-disk format, sections 4 and 5.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from dataclasses import dataclass

from fscache_cachefiles import xattr
from fscache_cachefiles.admission import Admission
from fscache_cachefiles.backing import Backing
from fscache_cachefiles.bind import OPEN_DIRECTORY, Root
from fscache_cachefiles.blockmap import BLOCK_SIZE, ENTRY_SIZE, block_count, seal_check, seed_of, time_check
from fscache_cachefiles.descriptors import Descriptors
from fscache_cachefiles.graveyard import Graveyard, is_linked
from fscache_cachefiles.key import ObjectKind, uncook_key
from fscache_cachefiles.ledger import HASH_DIRECTORY, INDEX_DIRECTORY, weigh_small
from fscache_cachefiles.lock import close_locked, try_own, try_share
from fscache_cachefiles.options import Verify
from fscache_cachefiles.place import Index, Place
from fscache_cachefiles.scan import walk_containers
from fscache_cachefiles.xattr import NO_PIN, BadAttributeError, Checked, Label, Pin, Seal
from fscache_core.errors import WorldError

#: Objects of at most this size (bytes) are a single file.
SMALL_SIZE_MAX = BLOCK_SIZE

OPEN_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BUSY_SECONDS = 0.05
_PAUSE_SECONDS = 0.001


class ForeignEntryError(WorldError):
    """Something that no cache makes stands where an object belongs (ENOBUFS).  It is left alone."""

    default_errno = errno.ENOBUFS


class BusyError(Exception):
    """Somebody is removing the entry just now.  Look again."""


@dataclass(frozen=True, slots=True)
class Stale:
    """An entry that must not be used: which one, and what is wrong with it."""

    inode: int
    fault: str


@dataclass(frozen=True, slots=True)
class Opened:
    """An object that was found, in use from now on, and its label, which is still to be judged."""

    backing: Backing
    label: Label
    pin: Pin
    check_time: float  #: seconds since the epoch; 0.0 if it is not known


@dataclass(frozen=True, slots=True)
class OpenedIndex:
    index: Index
    label: Label


class Namei:
    """The objects of one bound cache directory.  Usable from any thread; blocks."""

    def __init__(
        self, root: Root, admission: Admission, graveyard: Graveyard, verify: Verify, descriptors: Descriptors
    ) -> None:
        self.descriptors = descriptors
        self._root = root
        self._admission = admission
        self._graveyard = graveyard
        self._verify = verify

    # -- finding -------------------------------------------------------------------------

    def open_object(self, place: Place) -> Opened | Stale | None:
        """Open the data object at ``place`` and mark it as in use; None if nothing is there.

        Raises:
          BusyError: it is being removed.
          ForeignEntryError: a FIFO, a device, a symbolic link, somebody else's file.
          OSError: the filesystem failed.
        """
        descriptor = self._open_entry(place)
        if descriptor is None:
            return None
        status = os.fstat(descriptor)
        if not status.st_nlink:  # buried since we found it
            os.close(descriptor)
            return self.open_object(place)
        keep = contextlib.ExitStack()
        keep.callback(os.close, descriptor)
        try:
            label = xattr.read_label(descriptor)
            seal = xattr.read_seal(descriptor)
            pin = xattr.read_pin(descriptor) or NO_PIN
            if label is None or seal is None:
                return Stale(status.st_ino, "no label" if label is None else "no seal")
            if seal.check != seal_check(seed_of(place.path, seal.nonce), seal.size, seal.entry):
                return Stale(status.st_ino, "its seal is not its own")
            if stat.S_ISDIR(status.st_mode):
                backing = self._open_large(place, descriptor, seal, keep)
            else:
                backing = self._open_small(place, descriptor, seal, status)
        except BadAttributeError as error:
            return Stale(status.st_ino, str(error))
        else:
            if isinstance(backing, Backing):
                keep.pop_all()  # the backing closes them
                pin = Pin(pin.pinned, min(pin.reserved_size, backing.size))  # more was never promised
                backing.reserved_size = pin.reserved_size
                return Opened(backing, label, pin, read_check_time(backing, label))
            return backing
        finally:
            keep.close()

    def _open_small(self, place: Place, data: int, seal: Seal, status: os.stat_result) -> Backing | Stale:
        if not _is_own_file(status):
            return Stale(status.st_ino, "it has a second link")
        if status.st_size != seal.size or seal.size > SMALL_SIZE_MAX:
            return Stale(status.st_ino, f"{status.st_size} bytes where {seal.size} belong")
        return self.backing_of(place, seal, data=data, entry=seal.entry, writable=False)

    def _open_large(
        self, place: Place, directory: int, seal: Seal, keep: contextlib.ExitStack
    ) -> Backing | Stale:
        inode = os.fstat(directory).st_ino
        parts: list[int] = []
        for name, size in (("data", seal.size), ("map", block_count(seal.size) * ENTRY_SIZE)):
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if not _is_own_file(status) or status.st_size != size:
                    return Stale(inode, f"its {name} is not what it should be")
                parts.append(_open_file(name, directory))
            except FileNotFoundError:
                return Stale(inode, f"it has no {name}")
            keep.callback(os.close, parts[-1])
        writable = bool(fcntl.fcntl(parts[0], fcntl.F_GETFL) & os.O_RDWR)
        return self.backing_of(
            place, seal, data=parts[0], directory=directory, map_=parts[1], writable=writable
        )

    def backing_of(
        self,
        place: Place,
        seal: Seal,
        *,
        data: int,
        directory: int = -1,
        map_: int = -1,
        entry: int = 0,
        writable: bool = True,
        published: bool = True,
    ) -> Backing:
        return Backing(
            place,
            seal.size,
            seal.nonce,
            data=data,
            directory=directory,
            map_=map_,
            entry=entry,
            writable=writable,
            published=published,
            verify=self._verify,
            read_flags=self._root.read_flags,
            descriptors=self.descriptors,
        )

    def open_index(self, place: Place) -> OpenedIndex | Stale | None:
        """Open an index and mark it as in use; raises as `open_object`."""
        descriptor = self._open_entry(place)
        if descriptor is None:
            return None
        status = os.fstat(descriptor)
        try:
            if not stat.S_ISDIR(status.st_mode):
                raise ForeignEntryError(f"{place.path}: a file where an index belongs")
            label = xattr.read_label(descriptor)
            if label is None:
                return Stale(status.st_ino, "no label")
            index = Index(place.path, descriptor)
            descriptor = -1
            return OpenedIndex(index, label)
        except BadAttributeError as error:
            return Stale(status.st_ino, str(error))
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _open_entry(self, place: Place) -> int | None:
        """Open the entry and take the in-use lock on what is then still under that name."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            container = self.open_container(place)
            if container is None:
                return None
            try:
                status = os.stat(place.name, dir_fd=container, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                    descriptor = os.open(place.name, OPEN_DIRECTORY, dir_fd=container)
                elif stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    descriptor = _open_file(place.name, container)
                else:
                    raise ForeignEntryError(f"{place.path}: something foreign where an object belongs")
                if try_share(descriptor) and is_linked(descriptor, container, place.name):
                    return descriptor
                os.close(descriptor)
            except FileNotFoundError:
                return None
            except OSError as error:
                # It was replaced between looking at it and opening it.
                if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
                    raise
            finally:
                os.close(container)
            if time.monotonic() > deadline:
                raise BusyError
            time.sleep(_PAUSE_SECONDS)

    def children_of(self, index: Index) -> list[tuple[int, bytes]]:
        """Cookie type and key of every object below an index."""
        found: list[tuple[int, bytes]] = []
        for entry in walk_containers(index.descriptor):
            try:
                key, kind = uncook_key(entry.path)
            except ValueError:
                continue  # a stray
            cookie_type = kind.value
            if kind is ObjectKind.SPECIAL:  # which of them, only the label tells
                opened = self.open_object(Place(index, entry.path))
                if not isinstance(opened, Opened):
                    continue
                cookie_type = opened.label.cookie_type
            found.append((cookie_type, key))
        return found

    def has_name(self, place: Place, inode: int) -> bool:
        """Whether this object can still be found under its name."""
        container = self.open_container(place)
        if container is None:
            return False
        try:
            return os.stat(place.name, dir_fd=container, follow_symlinks=False).st_ino == inode
        except FileNotFoundError:
            return False
        finally:
            os.close(container)

    def open_container(self, place: Place) -> int | None:
        """The directory the name is in; None if it is not there."""
        descriptor = os.dup(place.index.descriptor)
        for name in place.container:
            try:
                below = os.open(name, OPEN_DIRECTORY, dir_fd=descriptor)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise ForeignEntryError(f"{place.path}: {name} is not a directory") from error
                raise
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    # -- removing ------------------------------------------------------------------------

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
        container = self.open_container(place)
        if container is None:
            return None
        try:
            fcntl.flock(container, fcntl.LOCK_EX)
            status = os.stat(place.name, dir_fd=container, follow_symlinks=False)
            if status.st_ino == inode:
                if stat.S_ISDIR(status.st_mode):
                    grave = self._graveyard.bury_directory(container, place.name)
                else:
                    with self._admission.ledger.removal(weigh_small(status.st_size)):
                        os.unlink(place.name, dir_fd=container)
        except FileNotFoundError:
            pass
        finally:
            close_locked(container)
        return grave

    def cull(self, place: Place) -> None:
        """Evict an object for its space.  Its label goes first, so that a crash leaves it stale.

        Raises:
          OSError: EBUSY (in use, or pinned), ESTALE (not there any more), or as the filesystem says.
        """
        container = self.open_container(place)
        if container is None:
            raise OSError(errno.ESTALE, f"{place.path} is not there any more")
        try:
            status = os.stat(place.name, dir_fd=container, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                descriptor = os.open(place.name, OPEN_DIRECTORY, dir_fd=container)
            else:
                descriptor = _open_file(place.name, container)
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
                with self._admission.ledger.removal(HASH_DIRECTORY):
                    os.rmdir(path, dir_fd=place.index.descriptor)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EBUSY):
                    return
                raise
            names.pop()

    def remove_empty_index(self, place: Place, inode: int) -> bool:
        """Remove an index that nobody uses and nothing is below.  The caller must not use it any more."""
        container = self.open_container(place)
        if container is None:
            return False
        try:
            fcntl.flock(container, fcntl.LOCK_EX)
            descriptor = os.open(place.name, OPEN_DIRECTORY, dir_fd=container)
            try:
                if os.fstat(descriptor).st_ino != inode or not try_own(descriptor):
                    return False
                with self._admission.ledger.removal(INDEX_DIRECTORY):
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


def read_check_time(backing: Backing, label: Label) -> float:
    """When the origin last confirmed this version; 0.0 if that is not known."""
    try:
        checked = xattr.read_checked(backing.descriptor)
    except (BadAttributeError, OSError):
        return 0.0
    if checked is None or checked.check != time_check(backing.seed, label.pack(), checked.time):
        return 0.0
    return checked.time


def write_check_time(backing: Backing, label: Label, check_time: float) -> None:
    """Note it if that can be done: without it the origin is asked once more."""
    checked = Checked(check_time, time_check(backing.seed, label.pack(), check_time))
    try:
        xattr.write_checked(backing.descriptor, checked)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise


def touch(descriptor: int) -> None:
    """Make an entry the most recently used, whatever the mount options say of access times."""
    status = os.fstat(descriptor)
    os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))


def _is_own_file(status: os.stat_result) -> bool:
    # A second link means that somebody can change the content through another name.
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1


def _open_file(name: str, directory: int) -> int:
    try:
        return os.open(name, OPEN_FILE, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(name, OPEN_FILE & ~os.O_RDWR | os.O_RDONLY, dir_fd=directory)
