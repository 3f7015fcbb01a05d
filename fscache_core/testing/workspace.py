"""A temporary directory and the processes that run in it, gone when their owner is gone.

Every real server of this package is ordinary processes in one `Workspace`.  Closing it stops them by process
id and removes the directory.  If the owning process dies first, even by SIGKILL, a reaper (this file run as a
script, in a session of its own) sees the end of its standard input and does the same.  ``PR_SET_PDEATHSIG``
would be shorter, but it follows the *thread* that forked, so a server started from a worker thread would die
with that thread.

Linux only: process trees are read from ``/proc``.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LOOPBACK = "127.0.0.1"


class ServerNotInstalledError(RuntimeError):
    """The programs or modules of a test server are missing; the text names them and says how to get them."""


class ServerFailedError(RuntimeError):
    """A test server ended, or was not ready in time; the text carries the end of its log."""


def free_port() -> int:
    """Return a loopback TCP port that nothing listens on now.

    Taken from below the range the kernel uses for outgoing connections, so that no client takes the port
    while a server is stopped and about to come back on it.
    """
    ephemeral_start = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    first = 15000 if ephemeral_start > 17000 else ephemeral_start
    last = ephemeral_start if ephemeral_start > 17000 else 65535
    for _ in range(200):
        port = random.SystemRandom().randrange(first, last)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
            return port
    raise ServerFailedError(f"no free TCP port between {first} and {last}")


def port_is_open(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _parents() -> dict[int, int]:
    """Process id -> parent's id, for every process alive (zombies left out)."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                stat = Path("/proc", name, "stat").read_bytes()
                # the second field is the command in parentheses, and may hold any byte
                state, parent = stat[stat.rindex(b")") + 2 :].split()[:2]
                if state != b"Z":
                    parents[int(name)] = int(parent)
    return parents


def descendants(pid: int) -> list[int]:
    """Ids of all living processes below `pid`, parents before their children."""
    parents = _parents()
    found = [pid]
    for ancestor in found:
        found.extend(child for child, parent in parents.items() if parent == ancestor)
    return found[1:]


def kill_tree(pid: int) -> None:
    """SIGKILL `pid` and all below it.  Stopped first, so that it cannot fork while we look.  Idempotent."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    for victim in (*descendants(pid), pid):
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


class ServerProcess:
    """One process of a workspace, its log, and how to end it."""

    def __init__(self, workspace: Workspace, popen: subprocess.Popen[bytes], log_path: Path) -> None:
        self._workspace = workspace
        self._popen = popen
        self.log_path = log_path

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def log_tail(self, lines: int = 15) -> str:
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def send(self, line: str) -> None:
        """Write one line to the process's standard input (needs ``spawn(..., stdin=True)``)."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(line.encode() + b"\n")
        self._popen.stdin.flush()

    def wait_ready(self, ready: Callable[[], bool], timeout_seconds: float, what: str) -> None:
        """Ask `ready` until it says yes.

        Raises:
          ServerFailedError: the process ended, or the time is over.
        """
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            if not self.alive:
                raise ServerFailedError(f"{what} ended with {self._popen.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerFailedError(f"{what} not ready after {timeout_seconds:g} s:\n{self.log_tail()}")
            time.sleep(0.01)

    def stop(self, grace_seconds: float = 0.0) -> None:
        """End the process and all below it: SIGTERM if there is a grace, SIGKILL after it.  Idempotent."""
        if grace_seconds and self.alive:
            self._popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(grace_seconds)
        if self._popen.returncode is None:
            kill_tree(self.pid)
            self._popen.wait()
        if self._popen.stdin is not None:
            with suppress(BrokenPipeError):
                self._popen.stdin.close()
        self._workspace.forget(self)


class Workspace:
    """Owner of a temporary directory, of processes, and of mounts.  Constructed is running; `close` ends it
    all."""

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"fscache-{prefix}-", dir=parent)).resolve()
        self._processes: list[ServerProcess] = []
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _tell_reaper(self, line: str) -> None:
        assert self._reaper.stdin is not None
        with suppress(BrokenPipeError):  # somebody ended the reaper: we lose the safety net, not the server
            self._reaper.stdin.write(line.encode() + b"\n")
            self._reaper.stdin.flush()

    def spawn(
        self,
        command: Sequence[str | Path],
        log_name: str,
        *,
        environment: Mapping[str, str] | None = None,
        stdin: bool = False,
    ) -> ServerProcess:
        """Start `command` in a session of its own (a Ctrl-C in the terminal is the owner's business, not the
        server's).

        Standard output and error are appended to `log_name` in the directory; `environment` adds to ours.
        """
        log_path = self.directory / log_name
        with log_path.open("ab") as log:
            popen = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._tell_reaper(f"pid {popen.pid}")
        process = ServerProcess(self, popen, log_path)
        self._processes.append(process)
        return process

    def run(self, command: Sequence[str | Path], timeout_seconds: float = 240.0) -> bytes:
        """Run a set-up command to its end and return its standard output.

        Raises:
          ServerFailedError: it failed or took too long; with what it wrote to standard error.
        """
        words = [str(word) for word in command]
        try:
            done = subprocess.run(
                words,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerFailedError(f"{words[0]} took more than {timeout_seconds:g} s") from error
        if done.returncode != 0:
            stderr = done.stderr.decode(errors="replace")
            raise ServerFailedError(f"{' '.join(words)} ended with {done.returncode}:\n{stderr}")
        return done.stdout

    def forget(self, process: ServerProcess) -> None:
        """Called by a process that has ended: its id may now belong to somebody else."""
        if process in self._processes:
            self._processes.remove(process)
            self._tell_reaper(f"gone {process.pid}")

    def mounted(self, mount_point: Path) -> None:
        """Have the reaper detach this mount if we die."""
        self._tell_reaper(f"mount {mount_point}")

    def unmounted(self, mount_point: Path) -> None:
        self._tell_reaper(f"unmount {mount_point}")

    def close(self) -> None:
        """Stop what still runs, newest first, and remove the directory.  Idempotent."""
        for process in reversed(self._processes.copy()):
            process.stop()
        if self._reaper.stdin is not None and not self._reaper.stdin.closed:
            with suppress(BrokenPipeError):
                self._reaper.stdin.close()
        self._reaper.wait()
        shutil.rmtree(
            self.directory, ignore_errors=True
        )  # only if the reaper was killed is there anything left


def _reap(directory: str) -> None:
    """The reaper: keep book of what the owner tells, and clear up at the end of standard input."""
    pids: dict[str, None] = {}
    mounts: dict[str, None] = {}
    for line in sys.stdin:
        verb, _, what = line.rstrip("\n").partition(" ")
        if verb == "pid":
            pids[what] = None
        elif verb == "gone":
            pids.pop(what, None)
        elif verb == "mount":
            mounts[what] = None
        elif verb == "unmount":
            mounts.pop(what, None)
    for pid in pids:
        kill_tree(int(pid))
    for mount_point in mounts:
        subprocess.run(["umount", "--lazy", mount_point], check=False)
    # A process just killed may still be writing: ask a few times.
    for _ in range(50):
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.exists(directory):
            break
        time.sleep(0.1)


if __name__ == "__main__":
    _reap(sys.argv[1])
