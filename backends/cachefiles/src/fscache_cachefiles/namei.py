"""Names: finding objects below ``cache/``.

Every step is relative to a directory descriptor and follows no symbolic link.  Nothing is ever rewritten
under its name: another version is another inode.  `creation` puts objects in place, and `removal` takes
them away.

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
from fscache_cachefiles.backing import Backing
from fscache_cachefiles.bind import OPEN_DIRECTORY, Root
from fscache_cachefiles.blockmap import BLOCK_SIZE, ENTRY_SIZE, block_count, seal_check, seed_of
from fscache_cachefiles.check_time import read_check_time
from fscache_cachefiles.descriptors import Descriptors
from fscache_cachefiles.graveyard import is_linked
from fscache_cachefiles.key import ObjectKind, uncook_key
from fscache_cachefiles.lock import try_share
from fscache_cachefiles.options import Verify
from fscache_cachefiles.place import Index, Place
from fscache_cachefiles.scan import walk_containers
from fscache_cachefiles.xattr import NO_PIN, BadAttributeError, Label, Pin, Seal
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

    def __init__(self, root: Root, verify: Verify, descriptors: Descriptors) -> None:
        self.descriptors = descriptors
        self._root = root
        self._verify = verify

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
                parts.append(open_file(name, directory))
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
                    descriptor = open_file(place.name, container)
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


def _is_own_file(status: os.stat_result) -> bool:
    # A second link means that somebody can change the content through another name.
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1


def open_file(name: str, directory: int) -> int:
    """Open a file for reading and, where the filesystem allows it, writing; nothing else is waited for."""
    try:
        return os.open(name, OPEN_FILE, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(name, OPEN_FILE & ~os.O_RDWR | os.O_RDONLY, dir_fd=directory)
