"""The graveyard: where objects are put to be deleted, and where large ones are built.

A grave holds what can no longer be found by its name.  Whoever still uses it holds it with the
in-use lock, and so does a process that builds an object here; everything else is rubbish, also
what a crash left, and any process may reap it.

Source: the on-disk format, section 5.
"""

import contextlib
import errno
import itertools
import os
import secrets
import stat
import time

from fscache_cachefiles.bind import DIRECTORY_MODE, OPEN_DIRECTORY
from fscache_cachefiles.ledger import Ledger
from fscache_cachefiles.lock import close_locked, try_own, try_share
from fscache_cachefiles.scan import names_in, weigh_grave


class Graveyard:
    """The open graveyard.  Usable from any thread; blocks."""

    def __init__(self, descriptor: int, ledger: Ledger) -> None:
        self.descriptor = descriptor
        self._ledger = ledger
        # The reference counts from 0.  With many processes that would give them the same names in the
        # same second, and a rename replaces an empty directory.
        self._counter = itertools.count(secrets.randbits(32))

    def new_name(self) -> str:
        """A grave name that this process has not used: seconds and a counter, in hex."""
        return f"{int(time.time()) & 0xFFFFFFFF:08x}{next(self._counter) & 0xFFFFFFFF:08x}"

    def make_directory(self) -> tuple[str, int]:
        """Make an empty directory that no reaper touches while its descriptor is open."""
        while True:
            name = self.new_name()
            try:
                os.mkdir(name, DIRECTORY_MODE, dir_fd=self.descriptor)
            except FileExistsError:
                continue
            try:
                descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=self.descriptor)
            except FileNotFoundError:
                continue  # another process took it for rubbish
            if try_share(descriptor) and is_linked(descriptor, self.descriptor, name):
                return name, descriptor
            os.close(descriptor)

    def bury_directory(self, container: int, name: str) -> str:
        """Move a directory here; returns the name of its grave.

        Raises:
          FileNotFoundError: it is not there any more.
        """
        while True:
            grave = self.new_name()
            try:
                os.rename(name, grave, src_dir_fd=container, dst_dir_fd=self.descriptor)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    continue
                raise
            return grave

    def reap(self) -> int:
        """Delete every grave that nobody holds; returns how many."""
        return sum(self.reap_grave(name) for name in names_in(self.descriptor))

    def reap_grave(self, name: str) -> bool:
        """Delete one grave.  False if somebody holds it or it is gone."""
        try:
            status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.descriptor)
            return True
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                return False
            raise
        try:
            if not try_own(descriptor) or not is_linked(descriptor, self.descriptor, name):
                return False
            with self._ledger.removal(weigh_grave(self.descriptor, name)):
                if stat.S_ISDIR(status.st_mode):
                    _empty(descriptor)
                    os.rmdir(name, dir_fd=self.descriptor)
                else:
                    os.unlink(name, dir_fd=self.descriptor)
            return True
        except FileNotFoundError:
            return False
        except OSError as error:
            # Emptied, and then replaced: another process has buried something under this name.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        finally:
            close_locked(descriptor)


def is_linked(descriptor: int, container: int, name: str) -> bool:
    """Whether the name in ``container`` still means what the descriptor has open."""
    try:
        there = os.stat(name, dir_fd=container, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return there.st_ino == here.st_ino and there.st_dev == here.st_dev


def _empty(directory: int) -> None:
    """Delete all below a directory, until nothing is left: who works in a buried index may add to it."""
    while names := names_in(directory):
        for name in names:
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    os.unlink(name, dir_fd=directory)
                    continue
                below = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
            except FileNotFoundError:
                continue
            try:
                _empty(below)
            finally:
                os.close(below)
            with contextlib.suppress(FileNotFoundError, OSError):
                os.rmdir(name, dir_fd=directory)
