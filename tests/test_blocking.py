"""The blocking form: ordinary file objects, used from many threads."""

from __future__ import annotations

import io
import os
import random
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from fscache_core import CallerError, InstallationError, OriginNotFoundError, blocking
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fscache_core.testing.http_origin import CountingOrigin

MIB = 1 << 20


@pytest.fixture
def fscache() -> Iterator[blocking.BlockingFsCache]:
    with blocking.open_fscache() as opened:
        opened.add_cache(MemoryBackend())
        yield opened


@pytest.fixture
def data(fscache_http_origin: CountingOrigin) -> bytes:
    data = random.Random(3).randbytes(3 * MIB + 17)
    fscache_http_origin.put("a", data)
    return data


def test_it_is_an_ordinary_file_object(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin, data: bytes
) -> None:
    with fscache.open_file(fscache_http_origin.url("a")) as file:
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        assert file.size == len(data)
        assert file.read(10) == data[:10]
        assert file.tell() == 10
        assert file.seek(-5, os.SEEK_END) == len(data) - 5
        assert file.read() == data[-5:]
        assert file.read(1) == b""
        file.seek(100)
        file.seek(50, os.SEEK_CUR)
        assert file.read(3) == data[150:153]
        buffer = bytearray(7)
        file.seek(1)
        assert file.readinto(buffer) == 7
        assert buffer == data[1:8]
        with pytest.raises(CallerError):
            file.seek(-1)
    assert file.closed
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_a_buffered_reader_and_tarfile_read_through_it(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("x", "y"):
            member = tarfile.TarInfo(name)
            member.size = 100_000
            tar.addfile(member, io.BytesIO(name.encode() * 100_000))
    fscache_http_origin.put("a.tar", packed.getvalue())
    with (
        fscache.open_file(fscache_http_origin.url("a.tar")) as file,
        tarfile.open(fileobj=io.BufferedReader(file)) as tar,
    ):
        member_file = tar.extractfile("y")
        assert member_file is not None
        assert member_file.read() == b"y" * 100_000


def test_many_threads_read_one_file_and_each_gets_its_bytes(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin, data: bytes
) -> None:
    with fscache.open_file(fscache_http_origin.url("a")) as file:

        def reader(seed: int) -> bool:
            chooser = random.Random(seed)
            for _ in range(200):
                offset, size = chooser.randrange(len(data)), chooser.randrange(100_000)
                if file.pread(offset, size) != data[offset : offset + size]:
                    return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(reader, range(8)))
    assert fscache_http_origin.bytes_sent == len(data)


def test_threads_that_share_a_position_get_every_byte_once(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin, data: bytes
) -> None:
    with fscache.open_file(fscache_http_origin.url("a")) as file, ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(file.read, 50_000) for _ in range(100)]
        pieces = [future.result() for future in futures]
    assert sorted(pieces) == sorted(
        [data[at : at + 50_000] for at in range(0, len(data), 50_000)]
        + [b""] * (100 - -(-len(data) // 50_000))
    )


def test_files_are_opened_and_closed_from_many_threads(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin, data: bytes
) -> None:
    def reader(_: int) -> bytes:
        with fscache.open_file(fscache_http_origin.url("a")) as file:
            return file.read()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(reader, range(40))) == {data}


def test_an_error_arrives_as_itself(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin
) -> None:
    with pytest.raises(OriginNotFoundError):
        fscache.open_file(fscache_http_origin.url("nothing"))
    with pytest.raises(InstallationError):
        fscache.open_file("nosuchscheme://x/y")


def test_what_the_body_raises_goes_through_and_the_thread_ends() -> None:
    before = threading.active_count()

    def use() -> None:
        with blocking.open_fscache() as fscache:
            fscache.add_cache(MemoryBackend())
            raise KeyError("mine")

    with pytest.raises(KeyError):
        use()
    assert threading.active_count() == before


def test_bad_arguments_are_the_callers_error_at_once() -> None:
    with pytest.raises(CallerError), blocking.open_fscache(coherency="sometimes"):
        pass


def test_a_closed_cache_says_so(fscache_http_origin: CountingOrigin, data: bytes) -> None:
    with blocking.open_fscache() as fscache:
        fscache.add_cache(MemoryBackend())
        file = fscache.open_file(fscache_http_origin.url("a"))
        assert file.pread(0, 10) == data[:10]
    with pytest.raises(CallerError):
        file.pread(0, 10)
    file.close()
    with pytest.raises(CallerError):
        fscache.open_file(fscache_http_origin.url("a"))


def test_after_a_fork_cached_bytes_are_read_and_the_rest_is_refused(tmp_path: Path) -> None:
    data = random.Random(4).randbytes(2 * MIB)
    (tmp_path / "file").write_bytes(data)
    os.utime(tmp_path / "file", (1, 1))
    with blocking.open_fscache() as fscache:
        fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        with fscache.open_file(f"file://{tmp_path}/file") as file:
            file.read()
            (volume,) = fscache.volumes
            while volume.stats.hits == 0:  # stored behind the first read
                file.pread(4096, 8192)
            pid = os.fork()
            if pid == 0:  # the child says what it found by its exit status
                status = 1
                try:
                    if file.pread(4096, 8192) == data[4096 : 4096 + 8192]:
                        status = 2
                        fscache.open_file(f"file://{tmp_path}/file")
                except CallerError as error:
                    status = 0 if status == 2 and "fork" in str(error) else 3
                finally:
                    os._exit(status)
            _, result = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(result) == 0
            assert file.pread(0, 4096) == data[:4096]
