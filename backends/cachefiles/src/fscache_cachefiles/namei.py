"""Names: finding objects below ``cache/``, putting new ones in place, burying them.

Every step is relative to a directory descriptor and follows no symbolic link.  An object appears
under its name in one step, complete with label and seal; who loses that race uses the winner's.
Nothing is ever rewritten under its name: another version is another inode.

Lock order: the container (hash) directory, then the ledger.  The container's lock is needed where a
rename or a removal relies on what the name means; a link needs none, because it never replaces.

Source: the on-disk format, sections 4 and 5.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fscache_cachefiles import xattr
from fscache_cachefiles.admission import Admission
from fscache_cachefiles.backing import Backing, Index, Place, Verify
from fscache_cachefiles.bind import DIRECTORY_MODE, FILE_MODE, OPEN_DIRECTORY, Root
from fscache_cachefiles.blockmap import BLOCK_SIZE, ENTRY_SIZE, block_count, seal_check, seed_of, time_check
from fscache_cachefiles.graveyard import Graveyard, is_linked
from fscache_cachefiles.key import ObjectKind, uncook_key
from fscache_cachefiles.ledger import HASH_DIRECTORY, INDEX_DIRECTORY, weigh_large, weigh_small
from fscache_cachefiles.lock import try_own, try_share
from fscache_cachefiles.scan import walk_containers
from fscache_cachefiles.xattr import NO_PIN, BadAttributeError, Checked, Label, Pin, Seal
from fscache_core.errors import WorldError
from fscache_core.folio import page_count

#: Objects of at most this size (bytes) are a single file.
SMALL_SIZE_MAX = BLOCK_SIZE

_OPEN_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
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

    def __init__(self, root: Root, admission: Admission, graveyard: Graveyard, verify: Verify) -> None:
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
        return self._backing(place, seal, data=data, entry=seal.entry, writable=False)

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
        return self._backing(
            place, seal, data=parts[0], directory=directory, map_=parts[1], writable=writable
        )

    def _backing(
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
            container = self._open_container(place)
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
        container = self._open_container(place)
        if container is None:
            return False
        try:
            return os.stat(place.name, dir_fd=container, follow_symlinks=False).st_ino == inode
        except FileNotFoundError:
            return False
        finally:
            os.close(container)

    def _open_container(self, place: Place) -> int | None:
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

    @contextlib.contextmanager
    def _container(self, place: Place) -> Iterator[int]:
        """The directory the name is in, made if it is not there."""
        while (descriptor := self._open_container(place)) is None:
            self._make_containers(place)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _make_containers(self, place: Place) -> None:
        descriptor = os.dup(place.index.descriptor)
        try:
            for name in place.container:
                try:
                    self._admission.admit(1, 0, HASH_DIRECTORY)
                    try:
                        os.mkdir(name, DIRECTORY_MODE, dir_fd=descriptor)
                    except BaseException:
                        self._admission.ledger.discharge(HASH_DIRECTORY)
                        raise
                except FileExistsError:
                    pass
                below = os.open(name, OPEN_DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
        except FileNotFoundError:
            # Somebody removed the empty directory we had just found: begin again.  But the index itself
            # may have been buried; nothing can be stored below it any more.
            if os.fstat(place.index.descriptor).st_nlink == 0:
                raise
        finally:
            os.close(descriptor)

    # -- making --------------------------------------------------------------------------

    def make_index(self, place: Place, label: Label) -> Index | None:
        """Make an index; None if somebody else was first."""
        self._admission.admit(1, 0, INDEX_DIRECTORY)
        grave, descriptor = self._graveyard.make_directory()
        try:
            xattr.create_label(descriptor, label)
            if self._rename_into_place(place, grave):
                index = Index(place.path, descriptor)
                descriptor = -1
                return index
            return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)
                self._discard(grave, lambda: self._admission.ledger.discharge(INDEX_DIRECTORY))

    def make_large(self, place: Place, label: Label, size: int, reserved_size: int = 0) -> Backing | None:
        """Make an empty large object; None if somebody else was first."""
        n_blocks = block_count(size)
        weight = weigh_large(size)
        self._admission.admit(3, page_count(n_blocks * ENTRY_SIZE), weight)
        grave, directory = self._graveyard.make_directory()
        keep = contextlib.ExitStack()
        keep.callback(os.close, directory)
        try:
            seal = _new_seal(place, size)
            xattr.create_label(directory, label)
            xattr.create_seal(directory, seal)
            parts: list[int] = []
            for name, length in (("data", size), ("map", n_blocks * ENTRY_SIZE)):
                parts.append(os.open(name, _OPEN_FILE | os.O_CREAT | os.O_EXCL, FILE_MODE, dir_fd=directory))
                keep.callback(os.close, parts[-1])
                os.ftruncate(parts[-1], length)
            if not self._rename_into_place(place, grave):
                return None
            backing = self._backing(place, seal, data=parts[0], directory=directory, map_=parts[1])
            grave = ""
            keep.pop_all()
            return backing
        finally:
            keep.close()
            if grave:
                self._discard(grave, lambda: self._admission.ledger.discharge(weight))

    def _rename_into_place(self, place: Place, grave: str) -> bool:
        """Give a directory built in the graveyard its name.  False if the name is taken."""
        while True:
            with self._container(place) as container:
                # rename() would replace an empty directory, so nobody else may put one there meanwhile.
                fcntl.flock(container, fcntl.LOCK_EX)
                if _exists(container, place.name):
                    return False
                try:
                    os.rename(grave, place.name, src_dir_fd=self._graveyard.descriptor, dst_dir_fd=container)
                except FileNotFoundError:
                    # The container was removed while it was empty, or our grave was emptied under us.
                    if not _exists(self._graveyard.descriptor, grave):
                        raise
                    continue
                except OSError as error:
                    if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                        return False
                    raise
                return True

    def draft_small(self, place: Place, size: int) -> Backing:
        """Begin a small object that nobody can find until `publish_small`."""
        self._admission.admit(1, page_count(size), weigh_small(size))
        try:
            temporary = None
            try:
                flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
                data = os.open(".", flags, FILE_MODE, dir_fd=self._graveyard.descriptor)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                    raise
                temporary, data = self._make_temporary()
            try:
                os.ftruncate(data, size)
                if not try_share(data):
                    raise OSError(errno.EAGAIN, "a new file is locked")
            except BaseException:
                os.close(data)
                raise
        except BaseException:
            self._admission.ledger.discharge(weigh_small(size))
            raise
        backing = self._backing(place, _new_seal(place, size), data=data, published=False)
        backing.temporary = temporary
        return backing

    def _make_temporary(self) -> tuple[str, int]:
        while True:
            name = self._graveyard.new_name()
            try:
                flags = _OPEN_FILE | os.O_CREAT | os.O_EXCL
                data = os.open(name, flags, FILE_MODE, dir_fd=self._graveyard.descriptor)
            except FileExistsError:
                continue
            if try_share(data) and is_linked(data, self._graveyard.descriptor, name):
                return name, data
            os.close(data)

    def publish_small(self, draft: Backing, label: Label) -> bool:
        """Give a whole draft its name.  False if the name is taken; the draft stays as it is."""
        descriptor = draft.data
        seal = Seal(draft.nonce, draft.size, draft.entry, seal_check(draft.seed, draft.size, draft.entry))
        xattr.create_label(descriptor, label)
        xattr.create_seal(descriptor, seal)
        if draft.reserved_size:
            xattr.write_pin(descriptor, Pin(False, draft.reserved_size))
        while True:
            with self._container(draft.place) as container:
                try:
                    if draft.temporary is None:
                        os.link(
                            f"/proc/self/fd/{descriptor}",
                            draft.place.name,
                            src_dir_fd=container,
                            dst_dir_fd=container,
                            follow_symlinks=True,
                        )
                    else:
                        fcntl.flock(container, fcntl.LOCK_EX)
                        if _exists(container, draft.place.name):
                            raise FileExistsError
                        os.rename(
                            draft.temporary,
                            draft.place.name,
                            src_dir_fd=self._graveyard.descriptor,
                            dst_dir_fd=container,
                        )
                except FileExistsError:
                    xattr.remove_label(descriptor)
                    xattr.remove_seal(descriptor)
                    return False
                except FileNotFoundError:
                    if os.fstat(container).st_nlink:
                        raise
                    continue  # the container was removed while it was empty
                draft.published = True
                draft.temporary = None
                return True

    def discard_draft(self, draft: Backing) -> None:
        """Forget a draft that was not published.  Its space is free when its last user is gone."""
        if not draft.published:
            draft.published = True  # once
            if draft.temporary is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft.temporary, dir_fd=self._graveyard.descriptor)
            self._admission.ledger.discharge(weigh_small(draft.size))

    def _discard(self, grave: str, settle: Callable[[], None]) -> None:
        with contextlib.suppress(FileNotFoundError):
            for name in ("data", "map"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{grave}/{name}", dir_fd=self._graveyard.descriptor)
            os.rmdir(grave, dir_fd=self._graveyard.descriptor)
            settle()

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
        container = self._open_container(place)
        if container is None:
            return None
        try:
            fcntl.flock(container, fcntl.LOCK_EX)
            status = os.stat(place.name, dir_fd=container, follow_symlinks=False)
            if status.st_ino == inode:
                if stat.S_ISDIR(status.st_mode):
                    grave = self._graveyard.bury_directory(container, place.name)
                else:
                    os.unlink(place.name, dir_fd=container)
                    self._admission.ledger.discharge(weigh_small(status.st_size))
        except FileNotFoundError:
            pass
        finally:
            os.close(container)
        return grave

    def cull(self, place: Place) -> None:
        """Evict an object for its space.  Its label goes first, so that a crash leaves it stale.

        Raises:
          OSError: EBUSY (in use, or pinned), ESTALE (not there any more), or as the filesystem says.
        """
        container = self._open_container(place)
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
                os.close(descriptor)
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
                os.rmdir(path, dir_fd=place.index.descriptor)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EBUSY):
                    return
                raise
            self._admission.ledger.discharge(HASH_DIRECTORY)
            names.pop()

    def remove_empty_index(self, place: Place, inode: int) -> bool:
        """Remove an index that nobody uses and nothing is below.  The caller must not use it any more."""
        container = self._open_container(place)
        if container is None:
            return False
        try:
            fcntl.flock(container, fcntl.LOCK_EX)
            descriptor = os.open(place.name, OPEN_DIRECTORY, dir_fd=container)
            try:
                if os.fstat(descriptor).st_ino != inode or not try_own(descriptor):
                    return False
                os.rmdir(place.name, dir_fd=container)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        finally:
            os.close(container)
        self._admission.ledger.discharge(INDEX_DIRECTORY)
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


def _new_seal(place: Place, size: int) -> Seal:
    nonce = secrets.randbits(64)
    return Seal(nonce, size, 0, seal_check(seed_of(place.path, nonce), size, 0))


def _is_own_file(status: os.stat_result) -> bool:
    # A second link means that somebody can change the content through another name.
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1


def _open_file(name: str, directory: int) -> int:
    try:
        return os.open(name, _OPEN_FILE, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(name, _OPEN_FILE & ~os.O_RDWR | os.O_RDONLY, dir_fd=directory)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
