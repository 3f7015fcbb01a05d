"""What a workspace promises: nothing is left, whoever ends first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from fscache_core.testing.workspace import ServerFailedError, Workspace, descendants, free_port, port_is_open

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOREVER = "import signal; signal.pause()"
# a parent that starts a child in a session of its own, as sshd does for each connection
FOREVER_TWICE = (
    "import subprocess, sys, signal; "
    f"subprocess.Popen([sys.executable, '-c', {FOREVER!r}], start_new_session=True); "
    "print('ready', flush=True); signal.pause()"
)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()[0] != b"Z"
    except FileNotFoundError:
        return False


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_closing_ends_processes_with_their_descendants_and_removes_the_directory() -> None:
    workspace = Workspace("test")
    process = workspace.spawn([sys.executable, "-c", FOREVER_TWICE], "log")
    process.wait_ready(lambda: "ready" in process.log_tail(), 240, "the parent")
    pids = [process.pid, *descendants(process.pid)]
    assert len(pids) == 2
    workspace.close()
    _wait_until(lambda: not any(map(_alive, pids)), "a process is left")
    assert not workspace.directory.exists()


def test_nothing_is_left_after_the_owner_was_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, signal, sys\n"
        "from fscache_core.testing.workspace import Workspace, descendants\n"
        f"workspace = Workspace('test', parent=pathlib.Path({str(tmp_path)!r}))\n"
        f"process = workspace.spawn([sys.executable, '-c', {FOREVER_TWICE!r}], 'log')\n"
        "process.wait_ready(lambda: 'ready' in process.log_tail(), 240, 'the parent')\n"
        "print(process.pid, *descendants(process.pid), flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(_alive, pids))
        owner.send_signal(signal.SIGKILL)
    _wait_until(lambda: not any(map(_alive, pids)), "a process is left")
    _wait_until(lambda: not list(tmp_path.iterdir()), "the directory is left")


def test_a_process_outlives_the_thread_that_started_it() -> None:
    import threading

    workspace = Workspace("test")
    try:
        thread = threading.Thread(target=workspace.spawn, args=([sys.executable, "-c", FOREVER], "log"))
        thread.start()
        thread.join()
        (process,) = workspace._processes
        assert process.alive
    finally:
        workspace.close()


def test_a_process_that_ends_early_is_reported_with_the_end_of_its_log() -> None:
    workspace = Workspace("test")
    try:
        process = workspace.spawn([sys.executable, "-c", "import sys; sys.exit('no such disk')"], "log")
        with pytest.raises(ServerFailedError, match=r"(?s)ended with 1.*no such disk"):
            process.wait_ready(lambda: False, 240, "the server")
        with pytest.raises(ServerFailedError, match=r"(?s)ended with 3.*wrong flag"):
            workspace.run([sys.executable, "-c", "import os; os.write(2, b'wrong flag'); os._exit(3)"])
    finally:
        workspace.close()


def test_free_ports_are_free_and_out_of_the_way_of_outgoing_connections() -> None:
    port = free_port()
    assert not port_is_open(port)
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first, last = map(int, file.read().split())
    assert port < first or port > last or first <= 17000


def test_a_process_that_is_not_ready_in_time_is_reported_and_goes_on() -> None:
    workspace = Workspace("test")
    try:
        process = workspace.spawn([sys.executable, "-c", FOREVER], "log")
        with pytest.raises(ServerFailedError, match=r"the server not ready after 0\.01 s"):
            process.wait_ready(lambda: False, 0.01, "the server")
        assert process.alive
    finally:
        workspace.close()


def test_a_command_that_takes_too_long_is_ended_and_reported() -> None:
    workspace = Workspace("test")
    try:
        before = set(descendants(os.getpid()))
        with pytest.raises(ServerFailedError, match=r"took more than 0\.1 s"):
            workspace.run([sys.executable, "-c", FOREVER], timeout_seconds=0.1)
        assert set(descendants(os.getpid())) <= before
    finally:
        workspace.close()


def test_stopping_and_closing_twice_is_as_good_as_once() -> None:
    workspace = Workspace("test")
    process = workspace.spawn([sys.executable, "-c", FOREVER], "log")
    for _ in range(2):
        process.stop()
        assert not process.alive
    for _ in range(2):
        workspace.close()
        assert not workspace.directory.exists()
