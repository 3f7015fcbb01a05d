"""Walking what is stored: every entry below a directory, and what it weighs.

Never follows a symbolic link and never opens anything but directories, maps and data files.
"""

import errno
import os
import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from fscache_cachefiles.bind import OPEN_DIRECTORY
from fscache_cachefiles.blockmap import ENTRY_SIZE, PAGES_PER_BLOCK, mask_of
from fscache_cachefiles.ledger import (
    HASH_DIRECTORY,
    INDEX_DIRECTORY,
    NOTHING,
    Weight,
    weigh_large,
    weigh_pages,
    weigh_small,
)
from fscache_cachefiles.xattr import BadAttributeError, read_pin
from fscache_core.folio import page_count

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of a walk.  ``container`` is valid until the walk goes on."""

    path: str  #: relative to where the walk began
    name: str
    container: int  #: descriptor of the directory it is in
    status: os.stat_result  #: of the entry itself, not followed

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


def raise_if_exhausted(error: OSError) -> None:
    """Raise an error that is not about the entry: then nothing is known of it."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise error


def names_in(directory: int) -> list[str]:
    """What is in a directory now.

    Listed through a descriptor of its own: the offset of a shared one is shared as well, and btrfs shows
    through an old one only what was there when it was opened.
    """
    descriptor = os.open(".", OPEN_DIRECTORY, dir_fd=directory)
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def walk(directory: int, prefix: str = "", *, descend: str = "@+IJ") -> Iterator[Found]:
    """Every entry below ``directory``, parents first; data objects are not descended into.

    Entries that vanish meanwhile are skipped.

    Args:
      descend: first letters of the directories whose entries are wanted too.
    """
    for name in sorted(names_in(directory)):
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        found = Found(prefix + name, name, directory, status)
        yield found
        if found.is_directory and name[:1] in descend:
            try:
                below = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
            except OSError as error:
                raise_if_exhausted(error)
                continue
            try:
                yield from walk(below, f"{found.path}/", descend=descend)
            finally:
                os.close(below)


def walk_containers(index: int) -> Iterator[Found]:
    """The objects of one index: what is in its ``@`` and ``+`` directories."""
    return (found for found in walk(index, descend="@+") if found.name[:1] not in "@+")


def weigh_all(cache: int, graveyard: int) -> Weight:
    """What a whole cache weighs, graves included."""
    total = NOTHING
    for found in walk(cache):
        total += weigh(found)
    for name in names_in(graveyard):
        total += weigh_grave(graveyard, name)
    return total


def weigh(found: Found) -> Weight:
    """What one entry of a walk weighs, without what is below it."""
    if not found.is_directory:
        return weigh_small(found.status.st_size)
    match found.name[:1]:
        case "@" | "+":
            return HASH_DIRECTORY
        case "I" | "J":
            return INDEX_DIRECTORY
        case _:
            return weigh_directory(found.container, found.name)


def weigh_grave(graveyard: int, name: str) -> Weight:
    """What one entry of the graveyard weighs, with all that is below it."""
    try:
        status = os.stat(name, dir_fd=graveyard, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            return weigh_small(status.st_size)
        grave = os.open(name, OPEN_DIRECTORY, dir_fd=graveyard)
    except OSError as error:
        raise_if_exhausted(error)
        return NOTHING
    try:
        names = names_in(grave)
        if any(name.startswith("@") for name in names):
            return sum((weigh(found) for found in walk(grave)), INDEX_DIRECTORY)
        if "data" not in names:
            return INDEX_DIRECTORY
    finally:
        os.close(grave)
    return weigh_directory(graveyard, name)


def weigh_directory(container: int, name: str) -> Weight:
    """What a large object weighs: its three inodes and every page that is valid or reserved."""
    try:
        directory = os.open(name, OPEN_DIRECTORY, dir_fd=container)
    except OSError as error:
        raise_if_exhausted(error)
        return NOTHING
    try:
        size = os.stat("data", dir_fd=directory, follow_symlinks=False).st_size
        map_ = os.open("map", _OPEN_FILE, dir_fd=directory)
    except OSError as error:
        os.close(directory)
        raise_if_exhausted(error)
        return INDEX_DIRECTORY  # not an object: a directory of some kind
    try:
        pin = read_pin(directory)
        reserved_pages = page_count(min(pin.reserved_size, size)) if pin else 0
    except (BadAttributeError, OSError):
        reserved_pages = 0
    finally:
        os.close(directory)
    try:
        if not stat.S_ISREG(os.fstat(map_).st_mode):
            return weigh_large(size)
        return weigh_large(size) + weigh_pages(count_pages(map_, reserved_pages))
    finally:
        os.close(map_)


def count_pages(map_: int, reserved_pages: int = 0) -> int:
    """How many pages a map calls valid, or were reserved at the beginning of the object."""
    total = reserved_pages
    block = 0
    while raw := os.pread(map_, 1 << 16, block * ENTRY_SIZE):
        whole = len(raw) // ENTRY_SIZE
        for entry in array("Q", raw[: whole * ENTRY_SIZE]):
            mask = mask_of(entry)
            if reserved_pages > block * PAGES_PER_BLOCK:
                mask &= -1 << min(reserved_pages - block * PAGES_PER_BLOCK, PAGES_PER_BLOCK)
            total += mask.bit_count()
            block += 1
        if not whole:
            break
    return total
