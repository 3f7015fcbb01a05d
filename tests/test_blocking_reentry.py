"""The blocking form used by what comes in between itself: signal handlers, finalizers, other threads.

What hangs when it goes wrong runs in a child that is given so much time.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio.testing

from fscache_core import Limits, Readahead, blocking, icache, namei
from fscache_core.testing.http_origin import Fault, Stall
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from _typeshed import TraceFunction

    from fscache_core.inode import Inode
    from fscache_core.testing.http_origin import CountingOrigin

MIB = 1 << 20

#: What every child begins with: two small files, both of them warm.
BEGINNING = """
import errno, faulthandler, gc, signal, sys, threading, time
from types import SimpleNamespace
import trio.testing
from fscache_core import CallerError, blocking, file, icache, loop, namei

faulthandler.dump_traceback_later(120, exit=True)
opened = blocking.open_fscache(coherency="ttl=100000")
fscache = opened.__enter__()
fscache.add_cache("memory")
urls = ["file://" + path for path in sys.argv[1:]]
inodes = []
for url in urls:
    with fscache.open_file(url) as warm:
        assert warm.pread(0, 10) == url[-1:].encode() * 10
        inodes.append(warm._file.inode)
        fscache.run(warm._file.inode.wait_stored)

def use(url):
    with fscache.open_file(url) as warm:
        assert warm.pread(0, 10) == url[-1:].encode() * 10

def interrupt(action, step, interruption, *modules):
    # Calls one in the middle of the other: before the step-th instruction in these modules.  False if there
    # are not so many.
    files = {module.__file__ for module in modules}
    n_steps = 0
    def trace(frame, event, _):
        nonlocal n_steps
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if n_steps == step:
                interruption()
            n_steps += 1
        return trace
    sys._getframe().f_trace_opcodes = True  # else 3.12 reports none of other frames
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(None)
    return n_steps > step
"""

END = """
fscache.run(trio.testing.wait_all_tasks_blocked)
assert [inode.n_open for inode in inodes] == [0, 0]
opened.__exit__(None, None, None)
print("done")
"""


def run_in_child(tmp_path: Path, code: str, end: str = END) -> None:
    paths = []
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * 5000)
        paths.append(str(tmp_path / name))
    code = BEGINNING + code + end
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_file_that_is_collected_while_another_is_opened_is_closed(tmp_path: Path) -> None:
    run_in_child(
        tmp_path,
        """
def collect():
    gc.collect()
    return time.time()

gc.disable()
lost = fscache.open_file(urls[0])
lost.pread(0, 10)
lost.itself = lost
del lost
namei.time = SimpleNamespace(time=collect)
use(urls[1])
""",
    )


def test_files_are_collected_in_a_forked_child_and_after_the_cache_was_closed(tmp_path: Path) -> None:
    run_in_child(
        tmp_path,
        """
import os, warnings

warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
gc.disable()
for size in (0, 10):  # one whose version is not decided, and one whose is
    lost = fscache.open_file(urls[0])
    lost.pread(0, size)
    lost.itself = lost
    del lost
pid = os.fork()
if pid == 0:
    signal.alarm(120)
    os._exit(0 if gc.collect() else 1)
assert os.waitpid(pid, 0)[1] == 0
opened.__exit__(None, None, None)
assert gc.collect()
""",
        end="print('done')",
    )


def test_warm_files_are_opened_and_closed_between_any_two_steps_of_doing_so(tmp_path: Path) -> None:
    run_in_child(
        tmp_path,
        """
def others():
    for url in urls:
        use(url)

step = 0
while interrupt(lambda: use(urls[0]), step, others, blocking, loop, file, icache, namei):
    step += 1
assert step > 100
""",
    )


def test_who_interrupts_a_wait_may_wait_too_or_is_told_that_it_cannot(tmp_path: Path) -> None:
    """Trio's own threads report back under a lock that is held while something is handed to the loop."""
    run_in_child(
        tmp_path,
        """
import trio._core._entry_queue as entry_queue

outcomes = []
def wait():
    try:
        outcomes.append(fscache.look_up(urls[1]).size == 5000)
    except CallerError as error:
        outcomes.append(error.errno == errno.EDEADLK)

step = 0
while interrupt(lambda: fscache.look_up(urls[0]), step, wait, blocking, loop, entry_queue):
    step += 1
assert step > 100
assert all(outcomes) and len(outcomes) == step
# Just afterwards nobody is told so.
assert fscache.look_up(urls[0]).size == 5000
""",
    )


def test_ctrl_c_at_any_step_of_a_wait_ends_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run_in_child(
        tmp_path,
        """
n_ended = step = 0
was_reached = True
while was_reached:
    try:
        was_reached = interrupt(
            lambda: fscache.look_up(urls[0]), step, lambda: signal.raise_signal(signal.SIGINT), blocking, loop
        )
    except KeyboardInterrupt:
        n_ended += 1
    assert fscache.look_up(urls[0]).size == 5000
    step += 1
assert n_ended == step - 1 > 100
""",
    )


def test_to_wait_for_the_loop_in_its_own_thread_is_refused(tmp_path: Path) -> None:
    run_in_child(
        tmp_path,
        """
class Finalized:
    def __del__(self):
        use(urls[0])  # needs no waiting
        try:
            fscache.look_up(urls[0])
        except CallerError as error:
            outcomes.append(error.errno == errno.EDEADLK)

outcomes = []
finalized = Finalized()
finalized.itself = finalized
del finalized
fscache.soon(gc.collect)
fscache.run(trio.testing.wait_all_tasks_blocked)
assert outcomes == [True]
""",
    )


def test_a_handler_that_reads_the_file_whose_read_it_interrupted_is_refused_and_may_pread(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", bytes(MIB))
    code = """
import errno, faulthandler, signal, sys
from fscache_core import CallerError, Readahead, blocking

faulthandler.dump_traceback_later(120, exit=True)
with blocking.open_fscache(readahead=Readahead(max_size=0)) as fscache:
    fscache.add_cache("memory")
    with fscache.open_file(sys.argv[1]) as file:
        def interrupted(*_):
            for use in (lambda: file.read(10), file.readall, lambda: file.seek(0)):
                try:
                    use()
                except CallerError as error:
                    assert error.errno == errno.EDEADLK
                else:
                    raise AssertionError
            assert (file.pread(5, 10), file.tell()) == (bytes(10), 0)
            print("interrupted", flush=True)
        signal.signal(signal.SIGUSR1, interrupted)
        assert file.pread(5, 10) == bytes(10)
        print("opened", flush=True)
        input()
        assert len(file.read(1 << 20)) == 1 << 20 == file.tell()
        assert (file.seek(0), file.read(10)) == (0, bytes(10))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, origin.url("a")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        said = child.stdout.readline()
        origin.fault("a", Fault(stall=(stall := Stall(after=65536))))
        print(file=child.stdin, flush=True)
        stall.wait_reached()
        child.send_signal(signal.SIGUSR1)
        said += child.stdout.readline()  # before the read goes on
        stall.release()
        out, err = child.communicate(timeout=240)
    assert (said, out, err, child.returncode) == ("opened\ninterrupted\n", "", "", 0)


def test_a_read_whose_file_is_closed_meanwhile_says_so(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", bytes(3 * MIB))
    with blocking.open_fscache(limits=Limits(warm_inodes=0), readahead=Readahead(max_size=0)) as fscache:
        fscache.add_cache(MemoryBackend())
        file = fscache.open_file(origin.url("a"))
        origin.fault("a", Fault(stall=(stall := Stall(after=65536))))
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(file.pread, 0, 3 * MIB)
            stall.wait_reached()
            file.close()
            fscache.run(file._file.inode.evict)
            stall.release()
            with pytest.raises(ValueError, match=f"{origin.url('a')}: read of closed file"):
                reading.result()


# -- opening beside evicting ---------------------------------------------------------------


@pytest.fixture
def fscache(tmp_path: Path) -> Iterator[blocking.BlockingFsCache]:
    """One of six small files stays warm."""
    for name in "abcdef":
        (tmp_path / name).write_bytes(name.encode() * 5000)
    with blocking.open_fscache(coherency="ttl=100000", limits=Limits(warm_inodes=1)) as opened:
        opened.add_cache(MemoryBackend())
        yield opened


def warm_inode(fscache: blocking.BlockingFsCache, path: Path) -> Inode:
    """The inode of a file, which is open once more, and stored."""
    file = fscache.open_file(f"file://{path}")
    file.pread(0, 10)
    inode = file._file.inode
    fscache.run(inode.wait_stored)
    inode.volume.icache.hold(inode)
    file.close()
    return inode


def interrupt(action: Callable[[], object], step: int, interruption: Callable[[], object]) -> bool:
    """Call one in the middle of the other, before its ``step``-th instruction; False if it has fewer.

    To the code that is interrupted it is the same whether that is another thread or a signal handler.
    """
    n_steps = 0

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        nonlocal n_steps
        if frame.f_code.co_filename not in (icache.__file__, namei.__file__):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if n_steps == step:
                interruption()
            n_steps += 1
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # else 3.12 reports none of other frames
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return n_steps > step


def release(inode: Inode) -> None:
    """What closing a warm file does in any thread."""
    if inode.volume.icache.release(inode):
        inode.volume.domain.token.run_sync_soon(inode.volume.icache.settle, inode)


def at_every_step(
    fscache: blocking.BlockingFsCache,
    directory: Path,
    act: Callable[[Inode, Inode, int, bool], Awaitable[tuple[bool, bool]]],
    variant: bool,
) -> None:
    """Interrupt ``act(cold, other, step, variant)`` at each of its steps; each time one file stays warm."""
    n_opened = step = 0
    was_reached = True
    while was_reached:
        cold, other = (warm_inode(fscache, directory / name) for name in "ab")
        was_reached, was_opened = fscache.run(act, cold, other, step, variant)
        n_opened += was_opened
        fscache.run(trio.testing.wait_all_tasks_blocked)
        assert (cold.n_open, other.n_open) == (0, 0)
        # One of them is warm, and nothing else is left.
        (warm,) = cold.volume.icache.below("")
        assert [inode for inode in (cold, other) if not inode.leaving] == [warm]
        step += 1
    assert 0 < n_opened < step


async def evict_while_opened(cold: Inode, other: Inode, step: int, kept_open: bool) -> tuple[bool, bool]:
    """Whether there were so many steps, and whether the file was opened."""
    volume = cold.volume
    opened: list[Inode] = []

    def interruption() -> None:
        if (inode := volume.namei.open_warm(cold.path)) is not None:
            opened.append(inode)
            if not kept_open:
                release(inode)

    volume.icache.close(cold)
    was_reached = interrupt(partial(volume.icache.close, other), step, interruption)
    await trio.testing.wait_all_tasks_blocked()
    if opened and kept_open:
        assert opened == [cold]
        assert not cold.leaving
        volume.icache.close(cold)
    return was_reached, bool(opened)


@pytest.mark.parametrize("kept_open", [False, True])
def test_a_file_is_opened_between_any_two_steps_of_evicting_it(
    fscache: blocking.BlockingFsCache, tmp_path: Path, kept_open: bool
) -> None:
    at_every_step(fscache, tmp_path, evict_while_opened, kept_open)


async def open_while_evicted(cold: Inode, other: Inode, step: int, stale: bool) -> tuple[bool, bool]:
    """Whether there were so many steps, and whether the file was opened."""
    volume = cold.volume
    opened: list[Inode] = []

    def open_and_close() -> None:
        if (inode := volume.namei.open_warm(cold.path)) is not None:
            opened.append(inode)
            release(inode)

    def interruption() -> None:
        if stale:
            cold.become_stale()
        volume.icache.close(other)

    volume.icache.close(cold)
    was_reached = interrupt(open_and_close, step, interruption)
    if not was_reached:
        volume.icache.close(other)
    return was_reached, bool(opened)


@pytest.mark.parametrize("stale", [False, True])
def test_a_file_is_evicted_between_any_two_steps_of_opening_and_closing_it(
    fscache: blocking.BlockingFsCache, tmp_path: Path, stale: bool
) -> None:
    at_every_step(fscache, tmp_path, open_while_evicted, stale)


def test_many_threads_open_and_close_more_files_than_stay_warm(
    fscache: blocking.BlockingFsCache, tmp_path: Path
) -> None:
    inodes: set[Inode] = set()
    started = threading.Barrier(8)

    def reader(seed: int) -> bool:
        chooser = random.Random(seed)
        started.wait()
        for _ in range(300):
            name = chooser.choice("abcdef")
            with fscache.open_file(f"file://{tmp_path}/{name}") as file:
                inodes.add(file._file.inode)
                if file.pread(0, 10) != name.encode() * 10:
                    return False
        return True

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(reader, range(8)))
    finally:
        sys.setswitchinterval(interval)
    with fscache.open_file(f"file://{tmp_path}/a") as last:
        last.pread(0, 10)
        inodes.add(last._file.inode)
    fscache.run(trio.testing.wait_all_tasks_blocked)
    assert {inode.n_open for inode in inodes} == {0}
    assert sum(not inode.leaving for inode in inodes) == 1
    (volume,) = fscache.volumes
    assert len(volume.icache.below("")) == 1
