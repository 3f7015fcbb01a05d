"""A child that was forked after a file was opened reads on what is cached."""

import os
import random
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fscache_cachefiles.object import CachefilesObject
from fscache_core import blocking
from fscache_core.blocking import BlockingFile

MIB = 1 << 20
DATA = random.Random(4).randbytes(2 * MIB)


@contextmanager
def cached_file(directory: Path) -> Iterator[BlockingFile]:
    """A file that is cached, opened anew; nothing of it is verified but the first bytes."""
    (directory / "file").write_bytes(DATA)

    @contextmanager
    def opened() -> Iterator[BlockingFile]:
        # Immutable: a file as young as this one proves nothing, and would be fetched again.
        with blocking.open_fscache(coherency="immutable") as fscache:
            fscache.add_cache("cachefiles", dir=str(directory / "cache"))
            with fscache.open_file(f"file://{directory}/file") as file:
                yield file

    with opened() as file:
        assert file.read() == DATA
    with opened() as file:
        assert file.pread(0, 10) == DATA[:10]
        yield file


def object_of(file: BlockingFile) -> CachefilesObject:
    obj = file._file.inode.cookie.object
    assert isinstance(obj, CachefilesObject)
    return obj


def fork_to_read(file: BlockingFile, offset: int, size: int) -> int:
    """Status of a child that reads there."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(240)  # ends a child that hangs
        status = 1
        try:
            status = 0 if file.pread(offset, size) == DATA[offset : offset + size] else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def test_a_child_forked_while_a_block_was_being_noted_reads_on(tmp_path: Path) -> None:
    with cached_file(tmp_path) as file:
        backing = object_of(file).backing
        assert backing is not None
        with backing._mutex:  # as a thread of the parent may have it just then
            assert fork_to_read(file, MIB, 65536) == 0


@pytest.mark.parametrize("size", [4096, 65536, MIB])
def test_a_child_reads_from_the_disk_what_the_page_cache_has_not(tmp_path: Path, size: int) -> None:
    with cached_file(tmp_path) as file:
        for path in (tmp_path / "cache").rglob("*"):
            if path.is_file():
                with path.open("rb+") as stored:
                    os.fsync(stored)
                    os.posix_fadvise(stored.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert fork_to_read(file, MIB, size) == 0
