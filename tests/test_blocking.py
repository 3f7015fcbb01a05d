"""The blocking form: ordinary file objects, used from many threads."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import trio.testing

from fscache_core import (
    CallerError,
    Coherency,
    InstallationError,
    OfflineError,
    OriginNotFoundError,
    Readahead,
    StaleError,
    blocking,
)
from fscache_core.testing.http_origin import Fault, Stall
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
        with pytest.raises(io.UnsupportedOperation, match="read only"):
            file.write(b"x")
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
    before = set(threading.enumerate())

    def use() -> None:
        with blocking.open_fscache() as fscache:
            fscache.add_cache(MemoryBackend())
            raise KeyError("mine")

    with pytest.raises(KeyError):
        use()
    begun = set(threading.enumerate()) - before  # a worker of trio's may stay for a while
    assert "fscache" not in {thread.name for thread in begun}


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


# -- one version -------------------------------------------------------------------------


def test_a_file_is_not_reopened_after_bytes_were_taken_from_the_cache(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", old := random.Random(1).randbytes(4 * MIB))
    with blocking.open_fscache(readahead=Readahead(max_size=0)) as fscache:
        fscache.add_cache(MemoryBackend())
        with fscache.open_file(origin.url("a")) as warm:
            warm.pread(0, 65536)
            while warm.pread(0, 4096) and not fscache.volumes[0].stats.hits:
                pass  # stored behind the first read
            with fscache.open_file(origin.url("a")) as file:
                hits = fscache.volumes[0].stats.hits
                assert file.pread(0, 4096) == old[:4096]
                assert fscache.volumes[0].stats.hits == hits + 1
                origin.put("a", random.Random(2).randbytes(4 * MIB))
                with pytest.raises(StaleError):
                    file.pread(MIB, 4096)
                assert file.pread(0, 4096) == old[:4096]


def test_a_file_that_grew_before_its_first_read_is_read_to_its_new_end(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin, data: bytes
) -> None:
    with fscache.open_file(fscache_http_origin.url("a")) as file:
        fscache_http_origin.put("a", grown := data + data)
        assert file.readall() == grown


# -- hits --------------------------------------------------------------------------------


def test_hits_do_not_enter_the_loop_not_even_at_the_end_of_the_file(
    fscache: blocking.BlockingFsCache,
    fscache_http_origin: CountingOrigin,
    data: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with fscache.open_file(fscache_http_origin.url("a")) as file:
        file.read()
        volume = file._file.volume
        fscache.run(file._file.inode.wait_stored)

        def never(*_: object) -> None:
            raise AssertionError("it entered the loop")

        monkeypatch.setattr(fscache, "run", never)
        hits = volume.stats.hits
        assert file.pread(5, 10) == data[5:15]
        buffer = bytearray(100)
        assert file.pread_into(len(data) - 10, buffer) == 10
        assert buffer[:10] == data[-10:]
        assert file.pread_into(len(data), buffer) == 0
        file.seek(-3, os.SEEK_END)
        assert file.read(100) == data[-3:]
        assert file.read(100) == b""
        assert volume.stats.hits == hits + 3
        monkeypatch.undo()


def test_within_the_ttl_a_warm_file_is_opened_and_closed_outside_the_loop(
    fscache_http_origin: CountingOrigin, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fscache_http_origin.url("a")
    with blocking.open_fscache(coherency="ttl=600") as fscache:
        fscache.add_cache(MemoryBackend())
        with fscache.open_file(url) as file:
            assert file.read() == data
            fscache.run(file._file.inode.wait_stored)
            fscache.run(trio.testing.wait_all_tasks_blocked)

        def never(*_: object) -> None:
            raise AssertionError("it entered the loop")

        with monkeypatch.context() as patch:
            patch.setattr(fscache, "run", never)
            patch.setattr(fscache, "soon", never)
            for _ in range(3):
                with fscache.open_file(url) as file:
                    assert file.pread(0, 4096) == data[:4096]


def test_a_buffer_of_another_shape_is_filled_all_the_same(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin, data: bytes
) -> None:
    with fscache.open_file(fscache_http_origin.url("a")) as file:
        for _ in range(2):
            numbers = array("I", bytes(4000))
            assert file.pread_into(0, memoryview(numbers)) == 4000
            assert numbers.tobytes() == data[:4000]
            square = memoryview(bytearray(4096)).cast("B", (64, 64))
            assert file.pread_into(0, square) == 4096
            assert square.tobytes() == data[:4096]
            with pytest.raises(TypeError):
                file.pread_into(0, memoryview(bytes(10)))
            fscache.run(file._file.inode.wait_stored)
        assert file.read() == data


# -- interruption, threads, the end ------------------------------------------------------


def test_ctrl_c_in_a_thread_that_waits_ends_the_wait_and_nothing_writes_its_buffer_later(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin, data: bytes
) -> None:
    origin = fscache_http_origin
    stall = Stall(after=65536)
    with fscache.open_file(origin.url("a")) as file:
        file.pread(2 * MIB, 10)  # it is of this version
        origin.fault("a", Fault(stall=stall))
        buffer = bytearray(MIB)

        def interrupt() -> None:
            stall.wait_reached()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            file.pread_into(0, buffer)
        interrupter.join()
        buffer[:] = bytes(MIB)
        stall.release()
        assert file.pread(0, MIB) == data[:MIB]
        assert buffer == bytes(MIB)


def test_ctrl_c_while_a_file_is_opened_leaves_no_file_open(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin, data: bytes
) -> None:
    url = fscache_http_origin.url("a")
    with fscache.open_file(url) as file:
        inode = file._file.inode
        fscache_http_origin.latency_seconds = 0.05
        for delay in (0.0, 0.01, 0.04, 0.05, 0.06):
            timer = threading.Timer(
                delay, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
            )
            try:
                timer.start()
                while timer.is_alive():
                    fscache.open_file(url).close()
                timer.join()
            except KeyboardInterrupt:
                pass
            timer.join()
        fscache.run(trio.testing.wait_all_tasks_blocked)
        assert inode.n_open == 1


def test_threads_that_read_while_the_cache_is_closed_get_bytes_or_one_clear_error(
    fscache_http_origin: CountingOrigin, data: bytes
) -> None:
    url = fscache_http_origin.url("a")
    fscache_http_origin.rate = 20 * MIB
    outcomes: list[str] = []
    started = threading.Barrier(9)

    def reader(fscache: blocking.BlockingFsCache, number: int) -> None:
        chooser = random.Random(number)
        try:
            started.wait()
            while True:
                with fscache.open_file(url) as file:
                    offset = chooser.randrange(len(data))
                    assert file.pread(offset, 50_000) == data[offset : offset + 50_000]
        except CallerError as error:
            outcomes.append(str(error))

    for _ in range(5):
        with blocking.open_fscache() as fscache:
            fscache.add_cache(MemoryBackend())
            threads = [threading.Thread(target=reader, args=(fscache, number)) for number in range(8)]
            for thread in threads:
                thread.start()
            started.wait()
            fscache.open_file(url).pread(0, 10)
        for thread in threads:
            thread.join(240)
            assert not thread.is_alive()
    assert len(outcomes) == 40
    assert all("closed" in outcome for outcome in outcomes)


def test_a_file_may_be_closed_while_others_read_it(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin, data: bytes
) -> None:
    for _ in range(20):
        file = fscache.open_file(fscache_http_origin.url("a"))
        started = threading.Barrier(5)

        def reader(file: blocking.BlockingFile, started: threading.Barrier) -> bool:
            started.wait()
            try:
                while True:
                    if file.pread(100, 50_000) != data[100:50_100]:
                        return False
            except (ValueError, CallerError) as error:
                return "closed" in str(error)

        with ThreadPoolExecutor(4) as pool:
            results = [pool.submit(reader, file, started) for _ in range(4)]
            started.wait()
            file.close()
            assert all(result.result(240) for result in results)


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.parametrize("how", ["pass", "sys.exit(0)", "del fscache", "1 / 0"])
def test_a_program_that_never_closes_the_cache_ends_all_the_same(
    fscache_http_origin: CountingOrigin, data: bytes, tmp_path: Path, how: str
) -> None:
    code = (
        "import sys\n"
        "from fscache_core import blocking\n"
        "opened = blocking.open_fscache()\n"
        "fscache = opened.__enter__()\n"
        "fscache.add_cache('cachefiles', dir=sys.argv[2])\n"
        "file = fscache.open_file(sys.argv[1])\n"
        "print(len(file.read(100_000)), flush=True)\n" + how
    )
    done = run_python(code, fscache_http_origin.url("a"), str(tmp_path / "cache"))
    assert done.stdout == "100000\n"
    assert ("ZeroDivisionError" in done.stderr) == (how == "1 / 0")
    assert done.returncode == (how == "1 / 0"), done.stderr
    assert "fatal" not in done.stderr.lower()
    if how != "1 / 0":
        assert not done.stderr


# -- fork --------------------------------------------------------------------------------


def test_a_fork_while_other_threads_read_leaves_nothing_locked_in_the_child(tmp_path: Path) -> None:
    data = random.Random(4).randbytes(2 * MIB)
    (tmp_path / "file").write_bytes(data)
    os.utime(tmp_path / "file", (1, 1))
    with blocking.open_fscache() as fscache:
        fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        with fscache.open_file(f"file://{tmp_path}/file") as file:
            file.read()
            fscache.run(file._file.inode.wait_stored)
            stop = threading.Event()

            def reader() -> None:
                while not stop.is_set():
                    file.seek(0)
                    file.readinto(bytearray(MIB))

            threads = [threading.Thread(target=reader) for _ in range(2)]
            for thread in threads:
                thread.start()
            results = []
            for _ in range(30):
                pid = os.fork()
                if pid == 0:
                    signal.alarm(120)  # ends the child with a signal if it hangs
                    status = 1
                    try:
                        file.seek(4096)
                        status = 0 if file.read(8192) == data[4096 : 4096 + 8192] else 2
                        file.close()
                    finally:
                        os._exit(status)
                results.append(os.waitpid(pid, 0)[1])
            stop.set()
            for thread in threads:
                thread.join()
            assert results == [0] * 30


def test_what_the_async_form_offers_is_offered(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin, data: bytes
) -> None:
    url = fscache_http_origin.url("a")
    cache = fscache.add_cache(MemoryBackend(), tag="second")
    with fscache.open_file(url) as file:
        assert file.attributes.size == len(data) == fscache.look_up(url).size
        assert file.read() == data
        with pytest.raises(CallerError, match="whence 7 is not supported"):
            file.seek(0, 7)
        assert fscache.stats.cookies_dat == 1
        fscache.withdraw_cache(cache)
        assert cache.withdrawn
        file.seek(0)
        assert file.read() == data
    with pytest.raises(CallerError, match="does not offer listing"):
        fscache.list_directory(fscache_http_origin.url(""))
    with pytest.raises(CallerError, match="attached already"):
        fscache.add_netfs("http")


def test_urls_are_not_remembered_without_bound(
    fscache: blocking.BlockingFsCache, fscache_http_origin: CountingOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "KNOWN_URLS", 2)
    for _ in range(2):
        for number in range(5):
            fscache_http_origin.put(f"f{number}", b"%d" % number)
            with fscache.open_file(fscache_http_origin.url(f"f{number}")) as file:
                assert file.read() == b"%d" % number
            assert len(fscache._known) <= 2


def test_a_volume_may_have_a_coherency_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with blocking.open_fscache(volumes={"file:///": "ttl=60"}, offline=True) as fscache:
        with pytest.raises(OfflineError):
            fscache.open_file((tmp_path / "a").as_uri())
        (volume,) = fscache.volumes
        assert volume.coherency == Coherency.parse("ttl=60", offline=True)


def test_a_volume_of_an_adapter_with_options_may_have_one_too() -> None:
    with blocking.open_fscache() as fscache:
        fscache.add_netfs("http", retries=0)
        fscache.set_coherency("http://127.0.0.1:8/", "immutable")
        with pytest.raises(CallerError, match="coherency 60 is not one of"):
            fscache.set_coherency("http://127.0.0.1:9/", 60)  # type: ignore[arg-type]
        fscache.set_coherency("http://127.0.0.1:9/", Coherency(offline=True))
        with pytest.raises(OfflineError):
            fscache.open_file("http://127.0.0.1:9/a")
