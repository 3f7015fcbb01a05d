"""The statistics of a cache directory: counts of every process that used it, in one small file.

The file ``statistics`` in the root holds two slots.  Who adds counts reads the newer of those that are whole
and writes the sums into the other, under a lock; a process that dies in between leaves the newer one as it
was.  No slot that is whole, or a file of another kind, counts as zero: statistics keep nobody from anything.
"""

import json
import logging
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import xxhash

from fscache_cachefiles.bind import FILE_MODE
from fscache_cachefiles.lock import unlock_range, wait_lock_range

log = logging.getLogger(__name__)

NAME = "statistics"
SLOT_SIZE = 16384  #: bytes; the counters of core take 3000
_HEAD = struct.Struct(
    "<8sQQQ"
)  # magic, number of this writing, XXH3-64 of number and counts, size of the counts
_MAGIC = b"fscstat1"
_LOCK_SECONDS = 5.0

Counts = dict[str, int]


def add(directory: int, counts: Mapping[str, int]) -> None:
    """Add to the sums.  Blocks.

    Args:
      directory: descriptor of the root.
    """
    with _opened(directory, os.O_RDWR | os.O_CREAT) as descriptor:
        if descriptor is None:
            return
        if not wait_lock_range(descriptor, 0, 1, _LOCK_SECONDS):
            log.warning("another process holds %s of the cache; these counts are lost", NAME)
            return
        try:
            number, sums = _newest(descriptor)
            for name, count in counts.items():
                sums[name] = sums.get(name, 0) + count
            data = json.dumps(sums, separators=(",", ":")).encode()
            if _HEAD.size + len(data) <= SLOT_SIZE:
                number += 1
                head = _HEAD.pack(_MAGIC, number, _checksum(number, data), len(data))
                os.pwrite(descriptor, head + data, number % 2 * SLOT_SIZE)
        finally:
            unlock_range(descriptor, 0, 1)


def read(directory: int) -> Counts:
    """The sums; empty if there are none.  Blocks only for the disk."""
    with _opened(directory, os.O_RDONLY) as descriptor:
        return {} if descriptor is None else _newest(descriptor)[1]


@contextmanager
def _opened(directory: int, flags: int) -> Iterator[int | None]:
    try:
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(NAME, flags, FILE_MODE, dir_fd=directory)
    except OSError as error:
        log.debug("%s of the cache: %s", NAME, error.strerror)
        yield None
        return
    try:
        yield descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)


def _newest(descriptor: int) -> tuple[int, Counts]:
    """Number and sums of the newer slot; (0, nothing) if none is whole."""
    return max(
        (_slot(os.pread(descriptor, SLOT_SIZE, at)) for at in (0, SLOT_SIZE)), key=lambda slot: slot[0]
    )


def _slot(raw: bytes) -> tuple[int, Counts]:
    if len(raw) >= _HEAD.size:
        magic, number, checksum, size = _HEAD.unpack_from(raw)
        data = raw[_HEAD.size : _HEAD.size + size]
        if magic == _MAGIC and len(data) == size and checksum == _checksum(number, data):
            return number, json.loads(data)
    return 0, {}


def _checksum(number: int, data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data, seed=number)
