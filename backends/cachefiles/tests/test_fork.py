"""A child that was forked while another thread read."""

import os
import random
import signal
from pathlib import Path

from fscache_cachefiles.object import CachefilesObject
from fscache_core import blocking

MIB = 1 << 20


def test_a_child_forked_while_a_block_was_being_noted_reads_on(tmp_path: Path) -> None:
    data = random.Random(4).randbytes(2 * MIB)
    (tmp_path / "file").write_bytes(data)
    os.utime(tmp_path / "file", (1, 1))
    url = f"file://{tmp_path}/file"
    with blocking.open_fscache() as fscache:
        fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        fscache.open_file(url).read()
    with blocking.open_fscache() as fscache:
        fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        with fscache.open_file(url) as file:
            assert file.pread(0, 10) == data[:10]
            obj = file._file.inode.cookie.object
            assert isinstance(obj, CachefilesObject)
            assert obj.backing is not None
            with obj.backing._mutex:  # as a thread of the parent may have it just then
                pid = os.fork()
                if pid == 0:
                    signal.alarm(10)  # ends a child that hangs
                    status = 1
                    try:
                        status = 0 if file.pread(MIB, 65536) == data[MIB : MIB + 65536] else 2
                    finally:
                        os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
