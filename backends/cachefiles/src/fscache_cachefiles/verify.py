"""Checking a whole cache directory while it is in use: names, labels, seals, maps, checksums, strays.

Nothing is changed unless ``repair`` is set; then what is wrong is buried, graves that nobody holds are
reaped, empty directories removed and the account counted anew.  Blocks its thread.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from fscache_cachefiles.backing import Backing
from fscache_cachefiles.bind import OPEN_DIRECTORY
from fscache_cachefiles.graveyard import Graveyard
from fscache_cachefiles.key import ObjectKind, uncook_key
from fscache_cachefiles.ledger import NOTHING, Ledger, Weight
from fscache_cachefiles.namei import BusyError, ForeignEntryError, Namei, Opened, Stale
from fscache_cachefiles.place import Index, Place
from fscache_cachefiles.removal import Removal
from fscache_cachefiles.scan import names_in, raise_if_exhausted, walk
from fscache_core.folio import PAGE_SHIFT

_READ_PAGES = 256  # at a time
#: What removing one entry may fail with, and another not.
_REFUSED = (errno.EACCES, errno.EPERM, errno.EBUSY)

#: ``progress(done, total)``: entries looked at, and how many there were when the walk began.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    path: str  #: relative to the cache directory
    fault: str
    repaired: bool


@dataclass(slots=True)
class Report:
    """What was looked at and what was wrong with it."""

    n_indices: int = 0
    n_objects: int = 0
    n_bytes: int = 0  #: that were read and compared with their checksum
    problems: list[Problem] = field(default_factory=list)
    n_graves: int = 0  #: reaped, or left because somebody holds them or nothing was to be repaired
    drift: Weight = NOTHING  #: how much the account was too high, if it was counted anew

    @property
    def is_sound(self) -> bool:
        return not self.problems


class Verification:
    """One walk over a cache.

    Args:
      cache: descriptor of ``cache/``; the caller closes it.
    """

    def __init__(
        self,
        cache: int,
        namei: Namei,
        removal: Removal,
        graveyard: Graveyard,
        ledger: Ledger,
        *,
        repair: bool,
        progress: Progress | None = None,
    ) -> None:
        self._cache = cache
        self._namei = namei
        self._removal = removal
        self._graveyard = graveyard
        self._ledger = ledger
        self._repair = repair
        self._progress = progress
        self._n_done = self._n_total = 0
        self.report = Report()

    def run(self) -> Report:
        self._n_total = sum(1 for _ in walk(self._cache))
        self._check_index(Index("", os.dup(self._cache)))
        self.report.n_graves = len(names_in(self._graveyard.descriptor))
        if self._repair:
            self.report.n_graves = self._graveyard.reap()
            self.report.drift = self._ledger.recount()
        return self.report

    # -- the tree ------------------------------------------------------------------------

    def _check_index(self, index: Index) -> None:
        """Everything below one index, which holds hash directories and nothing else."""
        for name in sorted(names_in(index.descriptor)):
            path = f"{index.path}/{name}" if index.path else name
            if not _is_hash_name(name):
                self._stray(index.descriptor, name, path, "no hash directory")
                continue
            self._check_container(index, index.descriptor, name)
            if self._repair:
                with contextlib.suppress(OSError):
                    self._removal.prune(Place(index, f"{name}/D"))

    def _check_container(self, index: Index, above: int, cooked: str) -> None:
        """One ``@`` or ``+`` directory; ``cooked`` is its path below the index."""
        self._tick()
        name = cooked.rpartition("/")[2]
        path = f"{index.path}/{cooked}" if index.path else cooked
        try:
            descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            return
        except OSError as error:
            raise_if_exhausted(error)
            other = error.errno in (errno.ENOTDIR, errno.ELOOP)
            self._stray(above, name, path, "not a directory" if other else f"unreadable: {error.strerror}")
            return
        try:
            for below in sorted(names_in(descriptor)):
                if below.startswith("+"):
                    self._check_container(index, descriptor, f"{cooked}/{below}")
                else:
                    self._check_entry(Place(index, f"{cooked}/{below}"), descriptor)
        finally:
            os.close(descriptor)

    def _check_entry(self, place: Place, container: int) -> None:
        self._tick()
        try:
            _, kind = uncook_key(place.cooked)
        except ValueError:
            self._stray(container, place.name, place.path, "no key cooks to this name")
            return
        try:
            if kind is ObjectKind.INDEX:
                self._check_index_entry(place)
            else:
                self._check_object(place, kind)
        except BusyError:
            pass  # it is being removed
        except ForeignEntryError:
            self._stray(container, place.name, place.path, "not what belongs here")

    def _check_index_entry(self, place: Place) -> None:
        found = self._namei.open_index(place)
        if found is None:
            return
        if isinstance(found, Stale):
            self._stale(place, found)
        elif found.label.cookie_type != ObjectKind.INDEX.value:
            self._stale(place, Stale(found.index.inode, f"labelled as type {found.label.cookie_type}"))
        else:
            self.report.n_indices += 1
            self._check_index(found.index)

    def _check_object(self, place: Place, kind: ObjectKind) -> None:
        found = self._namei.open_object(place)
        if found is None:
            return
        if isinstance(found, Stale):
            self._stale(place, found)
            return
        self.report.n_objects += 1
        fault = self._fault_of(found, kind)
        if fault:
            inode = found.backing.inode
            del found  # not in use by us when it is deleted
            self._stale(place, Stale(inode, fault))

    def _fault_of(self, found: Opened, kind: ObjectKind) -> str:
        if ObjectKind.of(found.label.cookie_type) is not kind:
            return f"labelled as type {found.label.cookie_type}"
        try:
            return self._fault_of_content(found.backing)
        except OSError as error:
            raise_if_exhausted(error)
            return f"cannot be read: {error.strerror}"

    def _fault_of_content(self, backing: Backing) -> str:
        buffer = memoryview(bytearray(_READ_PAGES << PAGE_SHIFT))
        damaged: list[int] = []
        for first, n_pages in backing.resident_runs():
            for at in range(first, first + n_pages, _READ_PAGES):
                stop = min(first + n_pages, at + _READ_PAGES)
                size = min(stop << PAGE_SHIFT, backing.size) - (at << PAGE_SHIFT)
                if size <= 0:
                    return "its map speaks of pages beyond its end"
                runs, bad = backing.read_runs(at, buffer[:size])
                self.report.n_bytes += sum(count for _, count in runs) << PAGE_SHIFT
                damaged += bad
                self._show()  # a chance to end the walk, also within a large object
        if damaged:
            blocks = ", ".join(map(str, sorted(set(damaged))))
            return f"block {blocks} does not match its checksum"
        if backing.is_small and not backing.is_complete:
            return "it is not whole"
        return ""

    # -- what is wrong -------------------------------------------------------------------

    def _stale(self, place: Place, found: Stale) -> None:
        self._note(place.path, found.fault, lambda: self._removal.delete(place, found.inode))

    def _stray(self, container: int, name: str, path: str, fault: str) -> None:
        """Something that no cache makes: unlinked, or buried if it is a directory; never followed."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=container, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    self._graveyard.reap_grave(self._graveyard.bury_directory(container, name))
                else:
                    os.unlink(name, dir_fd=container)

        self._note(path, fault, remove)

    def _note(self, path: str, fault: str, remove: Callable[[], None]) -> None:
        """Report a problem, and repair it if told to.  One that cannot be does not keep the rest from it."""
        repaired = False
        if self._repair:
            try:
                remove()
                repaired = True
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                fault += f"; it cannot be removed: {error.strerror}"
        self.report.problems.append(Problem(f"cache/{path}", fault, repaired))

    def _tick(self) -> None:
        self._n_done += 1
        self._show()

    def _show(self) -> None:
        if self._progress is not None:
            self._progress(min(self._n_done, self._n_total), self._n_total)


def _is_hash_name(name: str) -> bool:
    return len(name) == 3 and name[0] == "@" and all(digit in "0123456789abcdef" for digit in name[1:])
