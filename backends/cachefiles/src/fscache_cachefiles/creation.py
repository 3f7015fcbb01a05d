"""Making objects, and putting them in place.

An object is built where nobody can find it, and appears under its name in one step, complete with label and
seal.  Who loses that race uses the winner's.  A directory is built in the graveyard and renamed; a small
object is a file without a name, linked at the end (a temporary one in the graveyard where the filesystem
has none without a name).

Source: the on-disk format, section 4.
"""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator

from fscache_cachefiles import xattr
from fscache_cachefiles.admission import Admission
from fscache_cachefiles.backing import LARGE_DESCRIPTORS, Backing
from fscache_cachefiles.bind import DIRECTORY_MODE, FILE_MODE, OPEN_DIRECTORY
from fscache_cachefiles.blockmap import ENTRY_SIZE, block_count, seal_check, seed_of, zeros
from fscache_cachefiles.graveyard import Graveyard, is_linked
from fscache_cachefiles.ledger import HASH_DIRECTORY, INDEX_DIRECTORY, Weight, weigh_large, weigh_small
from fscache_cachefiles.lock import close_locked, try_share
from fscache_cachefiles.namei import OPEN_FILE, Namei
from fscache_cachefiles.place import Index, Place
from fscache_cachefiles.xattr import Label, Seal
from fscache_core.folio import page_count

#: What a filesystem says that has no files without a name.
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


class Creation:
    """Makes the objects of one bound cache directory.  Usable from any thread; blocks."""

    def __init__(self, namei: Namei, admission: Admission, graveyard: Graveyard) -> None:
        self._namei = namei
        self._admission = admission
        self._ledger = admission.ledger
        self._graveyard = graveyard

    # -- making --------------------------------------------------------------------------

    def make_index(self, place: Place, label: Label) -> Index | None:
        """Make an index; None if somebody else was first."""
        grave, descriptor = self._make_grave(1, 0, INDEX_DIRECTORY)
        try:
            xattr.create_label(descriptor, label)
            if self._rename_into_place(place, grave):
                index = Index(place.path, descriptor)
                descriptor = -1
                self._ledger.settle(INDEX_DIRECTORY)
                return index
            return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)
                self._discard(grave, INDEX_DIRECTORY)

    def make_large(self, place: Place, label: Label, size: int) -> Backing | None:
        """Make an empty large object; None if somebody else was first."""
        self._namei.descriptors.check(LARGE_DESCRIPTORS)
        n_blocks = block_count(size)
        zeros(n_blocks)  # raises if there is no memory for a table of them: then none is made at all
        weight = weigh_large(size)
        grave, directory = self._make_grave(3, page_count(n_blocks * ENTRY_SIZE), weight)
        keep = contextlib.ExitStack()
        keep.callback(os.close, directory)
        try:
            seal = _new_seal(place, size)
            xattr.create_label(directory, label)
            xattr.create_seal(directory, seal)
            parts: list[int] = []
            for name, length in (("data", size), ("map", n_blocks * ENTRY_SIZE)):
                parts.append(os.open(name, OPEN_FILE | os.O_CREAT | os.O_EXCL, FILE_MODE, dir_fd=directory))
                keep.callback(os.close, parts[-1])
                os.ftruncate(parts[-1], length)
            if not self._rename_into_place(place, grave):
                return None
            backing = self._namei.backing_of(place, seal, data=parts[0], directory=directory, map_=parts[1])
            grave = ""
            keep.pop_all()
            self._ledger.settle(weight)
            return backing
        finally:
            keep.close()
            if grave:
                self._discard(grave, weight)

    def _make_grave(self, n_files: int, n_pages: int, weight: Weight) -> tuple[str, int]:
        """A directory to build in, paid for."""
        self._admission.admit(n_files, n_pages, weight)
        try:
            return self._graveyard.make_directory()
        except BaseException:
            self._ledger.settle(weight)  # it may be there: who reaps it, or counts, takes it off
            raise

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
        self._namei.descriptors.check(1)
        self._admission.admit(1, page_count(size), weigh_small(size))
        data, temporary = -1, None
        try:
            flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
            data = os.open(".", flags, FILE_MODE, dir_fd=self._graveyard.descriptor)
            os.ftruncate(data, size)
            if not try_share(data):
                raise OSError(errno.EAGAIN, "a new file is locked")
        except BaseException as error:
            if data >= 0:
                os.close(data)
            self._ledger.give_back(weigh_small(size))
            if not isinstance(error, OSError) or error.errno not in _NO_TMPFILE:
                raise
            temporary, data = self._make_temporary(size)
        backing = self._namei.backing_of(place, _new_seal(place, size), data=data, published=False)
        backing.temporary = temporary
        return backing

    def _make_temporary(self, size: int) -> tuple[str, int]:
        """A file with a name in the graveyard.  Who deletes it settles the account: the reaper if we fail."""
        while True:
            name = self._graveyard.new_name()
            self._ledger.charge(weigh_small(size))
            try:
                flags = OPEN_FILE | os.O_CREAT | os.O_EXCL
                data = os.open(name, flags, FILE_MODE, dir_fd=self._graveyard.descriptor)
            except BaseException as error:
                self._ledger.give_back(weigh_small(size))
                if isinstance(error, FileExistsError):
                    continue
                raise
            try:
                os.ftruncate(data, size)
                if try_share(data) and is_linked(data, self._graveyard.descriptor, name):
                    return name, data
            except BaseException:
                os.close(data)
                self._ledger.settle(weigh_small(size))
                self._graveyard.reap_grave(name)
                raise
            os.close(data)  # another process took it for rubbish
            self._ledger.settle(weigh_small(size))

    def publish_small(self, draft: Backing, label: Label) -> bool:
        """Give a whole draft its name.  False if the name is taken; the draft stays as it is."""
        descriptor = draft.data
        seal = Seal(draft.nonce, draft.size, draft.entry, seal_check(draft.seed, draft.size, draft.entry))
        xattr.create_label(descriptor, label)
        xattr.create_seal(descriptor, seal)
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
                self._ledger.settle(weigh_small(draft.size))
                return True

    def discard_draft(self, draft: Backing) -> None:
        """Forget a draft that was not published.  Its space is free when its last user is gone."""
        if not draft.published:
            draft.published = True  # once
            if draft.temporary is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft.temporary, dir_fd=self._graveyard.descriptor)
            self._ledger.give_back(weigh_small(draft.size))

    def _discard(self, grave: str, weight: Weight) -> None:
        with contextlib.suppress(FileNotFoundError):
            for name in ("data", "map"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{grave}/{name}", dir_fd=self._graveyard.descriptor)
            os.rmdir(grave, dir_fd=self._graveyard.descriptor)
            self._ledger.give_back(weight)
            return
        self._ledger.settle(weight)  # whoever took it for rubbish has taken it off

    # -- the directories above ------------------------------------------------------------

    @contextlib.contextmanager
    def _container(self, place: Place) -> Iterator[int]:
        """The directory the name is in, made if it is not there."""
        while (descriptor := self._namei.open_container(place)) is None:
            self._make_containers(place)
        try:
            yield descriptor
        finally:
            close_locked(descriptor)

    def _make_containers(self, place: Place) -> None:
        descriptor = os.dup(place.index.descriptor)
        try:
            for name in place.container:
                try:
                    self._admission.admit(1, 0, HASH_DIRECTORY)
                    try:
                        os.mkdir(name, DIRECTORY_MODE, dir_fd=descriptor)
                    except BaseException:
                        self._ledger.give_back(HASH_DIRECTORY)
                        raise
                    self._ledger.settle(HASH_DIRECTORY)
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


def _new_seal(place: Place, size: int) -> Seal:
    nonce = secrets.randbits(64)
    return Seal(nonce, size, 0, seal_check(seed_of(place.path, nonce), size, 0))


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
