"""The ``fscache`` command, run as a user runs it: a process with arguments, output and an exit status."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import asyncssh
import click
import pytest

from fscache_core.cli import fscache_command
from fscache_core.exit_status import ExitStatus
from fscache_core.testing.http_origin import CountingOrigin, Fault, Stall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fscache_core.testing.s3_server import S3Server
    from fscache_core.testing.sftp_server import SftpServer

COMMAND = [sys.executable, "-m", "fscache_core"]
CONTENT = bytes(range(256)) * 1000
MEMORY = ("--cache", "memory")
COMMANDS = fscache_command.list_commands(click.Context(fscache_command))


class Shell:
    """Runs ``fscache`` in an environment of the test's own, where nothing of the machine is configured."""

    def __init__(self, home: Path) -> None:
        self.home = home
        ours = {name: text for name, text in os.environ.items() if name[:4] not in ("AWS_", "XDG_")}
        self.environment = {**ours, "HOME": str(home)}

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.home,
        )

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        with self.start(*arguments) as process:
            try:
                output, complaint = process.communicate(timeout=500)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, complaint)

    def output(self, *arguments: str | Path) -> bytes:
        """Standard output of a run that must succeed in silence."""
        done = self.run(*arguments)
        assert (done.returncode, done.stderr.decode()) == (0, "")
        return done.stdout

    def complaint(self, status: ExitStatus, *arguments: str | Path) -> str:
        """The one line of a run that must fail with this status and write nothing else."""
        done = self.run(*arguments)
        complaint = done.stderr.decode()
        assert (done.returncode, done.stdout) == (status, b""), complaint
        assert complaint.startswith("fscache: ")
        assert complaint.count("\n") == 1
        assert "Traceback" not in complaint
        return complaint.removeprefix("fscache: ").rstrip("\n")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    home = tmp_path / "home"
    home.mkdir()
    return Shell(home)


def s3_variables(server: S3Server) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_REGION": server.region,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
    }


@pytest.fixture
def origin(fscache_http_origin: CountingOrigin) -> CountingOrigin:
    fscache_http_origin.put("a.bin", CONTENT)
    return fscache_http_origin


@pytest.fixture
def cachefiles(tmp_path: Path) -> str:
    return f"cachefiles:dir={tmp_path / 'cache'}"


@pytest.fixture
def plugin_directory(tmp_path: Path, shell: Shell) -> Path:
    """A directory on the command's path, for distributions that are as good as installed."""
    directory = tmp_path / "site"
    directory.mkdir()
    shell.environment["PYTHONPATH"] = str(directory)
    return directory


def install(directory: Path, distribution: str, group: str, entry: str) -> None:
    info = directory / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")


# -- cat ---------------------------------------------------------------------------------


def test_cat_needs_no_configuration_and_caches_below_the_home_directory(
    shell: Shell, origin: CountingOrigin
) -> None:
    assert shell.output("cat", origin.url("a.bin")) == CONTENT
    assert (shell.home / ".cache/fscache/cache").is_dir()
    sent = origin.bytes_sent
    assert shell.output("cat", origin.url("a.bin")) == CONTENT
    assert origin.bytes_sent == sent


def test_cat_puts_files_one_after_another(shell: Shell, origin: CountingOrigin, tmp_path: Path) -> None:
    local = tmp_path / "with space & ü"
    local.write_bytes(b"local\n")
    origin.put("empty", b"")
    urls = [origin.url("a.bin"), local.as_uri(), origin.url("empty"), local.as_uri()]
    assert shell.output("cat", *MEMORY, *urls) == CONTENT + b"local\n" * 2


def test_cat_offline_never_contacts_the_origin(shell: Shell, origin: CountingOrigin, cachefiles: str) -> None:
    shell.output("cat", "--cache", cachefiles, origin.url("a.bin"))
    n_requests = origin.n_requests
    assert shell.output("cat", "--cache", cachefiles, "--offline", origin.url("a.bin")) == CONTENT
    complaint = shell.complaint(
        ExitStatus.NOT_CACHED, "cat", "--cache", cachefiles, "--offline", origin.url("b.bin")
    )
    assert "offline" in complaint
    assert f"{origin.url('b.bin')}: " in complaint
    assert origin.n_requests == n_requests


def test_cat_serves_stale_files_only_if_told_to_and_says_so(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    url = origin.url("a.bin")
    shell.output("cat", "--cache", cachefiles, url)
    origin.stop()
    assert "127.0.0.1" in shell.complaint(ExitStatus.UNREACHABLE, "cat", "--cache", cachefiles, url)
    done = shell.run("cat", "--cache", cachefiles, "--stale-if-error", url)
    assert (done.returncode, done.stdout) == (0, CONTENT)
    assert done.stderr.count(b"\n") == 1
    assert f"1 file(s) served as they were cached: {url}\n".encode() in done.stderr


def test_of_many_stale_files_some_are_named(shell: Shell, origin: CountingOrigin, cachefiles: str) -> None:
    for name in "abcdefg":
        origin.put(name, b"x")
    urls = [origin.url(name) for name in "abcdefg"]
    shell.output("cat", "--cache", cachefiles, *urls)
    origin.stop()
    done = shell.run("cat", "--cache", cachefiles, "--stale-if-error", *urls, *urls)
    assert (done.returncode, done.stdout) == (0, b"x" * 14)
    (line,) = done.stderr.decode().splitlines()
    assert line.endswith(f"7 file(s) served as they were cached: {', '.join(urls[:5])}, ...")


def test_cat_immutable_does_not_ask_about_what_is_cached(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    shell.output("cat", "--cache", cachefiles, origin.url("a.bin"))
    n_requests = origin.n_requests
    options = ("--cache", cachefiles, "--coherency", "immutable")
    assert shell.output("cat", *options, origin.url("a.bin")) == CONTENT
    assert origin.n_requests == n_requests


def test_cat_passes_bytes_on_while_the_rest_has_not_arrived(shell: Shell, origin: CountingOrigin) -> None:
    origin.put("large", large := os.urandom(8 << 20))
    stall = Stall(after=100_000)
    origin.fault("large", Fault(stall=stall), times=100)
    with shell.start("cat", *MEMORY, origin.url("large")) as process:
        assert process.stdout is not None
        first = process.stdout.read(64 << 10)  # every response waits till we have it
        stall.release()
        assert first + process.stdout.read() == large
    assert process.returncode == 0


def test_cat_goes_on_with_the_next_file_and_ends_with_the_first_failure(
    shell: Shell, origin: CountingOrigin
) -> None:
    urls = [origin.url("missing"), origin.url("a.bin"), "file:///proc/self/no-such-file"]
    done = shell.run("cat", *MEMORY, *urls)
    assert (done.returncode, done.stdout) == (ExitStatus.NOT_FOUND, CONTENT)
    assert done.stderr.count(b"\n") == 2


def test_a_url_without_an_adapter_keeps_nobody_from_the_other_files(
    shell: Shell, origin: CountingOrigin
) -> None:
    done = shell.run("cat", *MEMORY, origin.url("missing"), origin.url("a.bin"), "nosuch://x/y")
    assert (done.returncode, done.stdout) == (ExitStatus.NOT_FOUND, CONTENT)
    assert done.stderr.count(b"\n") == 2
    assert b"nosuch://" in done.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "0<&- 2>&-"])
def test_complaints_that_cannot_be_written_go_nowhere_and_change_no_status(
    shell: Shell, origin: CountingOrigin, redirection: str
) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'exec "$@" {redirection}',
            "-",
            *COMMAND,
            "cat",
            origin.url("missing"),
            origin.url("a.bin"),
        ],
        env=shell.environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (ExitStatus.NOT_FOUND, CONTENT, b"")


def test_cat_ends_quietly_when_nobody_reads_on(shell: Shell, origin: CountingOrigin) -> None:
    origin.put("large", os.urandom(4 << 20))
    with shell.start("cat", *MEMORY, origin.url("large")) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(10)) == 10
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == ExitStatus.BROKEN_PIPE


@pytest.mark.parametrize(
    "arguments", [("ls", "file:///usr/bin"), ("plugins",), ("stats", *MEMORY), ("cat", "file:///etc/passwd")]
)
def test_output_that_cannot_be_written_is_one_line(shell: Shell, arguments: tuple[str, ...]) -> None:
    for redirection in ("> /dev/full", ">&-"):
        script = f'exec "$@" {redirection}'
        done = subprocess.run(
            ["bash", "-c", script, "-", *COMMAND, *arguments],
            env=shell.environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == ExitStatus.OUTPUT
        assert done.stderr.count(b"\n") == 1


def test_ls_ends_quietly_when_nobody_reads_on(shell: Shell) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [*COMMAND, "ls", "file:///usr/bin"]
    done = subprocess.run(command, env=shell.environment, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (ExitStatus.BROKEN_PIPE, b"")


def test_ctrl_c_while_the_command_is_being_imported_is_silent(shell: Shell, plugin_directory: Path) -> None:
    (plugin_directory / "click.py").write_text(
        "import signal\nprint('imported', flush=True)\nsignal.pause()\n"
    )
    with shell.start("cat", "file:///etc/hostname") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"imported\n"
        process.send_signal(signal.SIGINT)
        assert (process.wait(timeout=240), process.stderr.read()) == (ExitStatus.INTERRUPTED, b"")


@pytest.mark.parametrize("arguments", [("--help",), ("cp", "--help"), ("--version",)])
def test_help_that_cannot_be_written_is_told_as_other_output(
    shell: Shell, arguments: tuple[str, ...]
) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *arguments], env=shell.environment, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == ExitStatus.OUTPUT
    assert done.stderr == b"fscache: standard output: No space left on device\n"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, *arguments], env=shell.environment, stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (ExitStatus.BROKEN_PIPE, b"")


def test_ctrl_c_ends_cat_while_the_origin_stalls(shell: Shell, origin: CountingOrigin) -> None:
    origin.put("large", os.urandom(4 << 20))
    stall = Stall(after=100_000)
    origin.fault("large", Fault(stall=stall), times=100)
    with shell.start("cat", *MEMORY, origin.url("large")) as process:
        stall.wait_reached()
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=240)
        stall.release()
    assert (process.returncode, complaint) == (ExitStatus.INTERRUPTED, b"")


def test_ctrl_c_ends_cat_while_nobody_reads_its_output(shell: Shell, origin: CountingOrigin) -> None:
    origin.put("large", os.urandom(4 << 20))
    with shell.start("cat", *MEMORY, origin.url("large")) as process:
        assert process.stdout is not None
        wait_until_full(process.stdout.fileno())
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=240) == ExitStatus.INTERRUPTED
        assert process.stderr is not None
        assert process.stderr.read() == b""


def wait_until_full(pipe: int) -> None:
    """Wait until the writer of a pipe cannot write any more: its buffer is full."""
    capacity = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        waiting = bytearray(4)
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)
        if int.from_bytes(waiting, sys.byteorder) >= capacity - 4096:
            return
        time.sleep(0.01)
    raise TimeoutError("the pipe was never full")


# -- cp ----------------------------------------------------------------------------------


def test_cp_makes_a_file_with_the_modes_the_user_wants(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    shell.output("cp", *MEMORY, origin.url("a.bin"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o666 & ~mask


def test_cp_into_a_directory_keeps_the_names(shell: Shell, origin: CountingOrigin, tmp_path: Path) -> None:
    local = tmp_path / "ü b"
    local.write_bytes(b"x")
    target = tmp_path / "target"
    target.mkdir()
    shell.output("cp", *MEMORY, origin.url("a.bin"), local.as_uri(), target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"a.bin": CONTENT, "ü b": b"x"}


def test_cp_replaces_a_file_and_follows_a_symbolic_link(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "link").symlink_to("old")
    shell.output("cp", *MEMORY, origin.url("a.bin"), tmp_path / "link")
    assert (tmp_path / "old").read_bytes() == CONTENT
    assert (tmp_path / "link").is_symlink()


def test_cp_that_fails_leaves_what_was_there(shell: Shell, origin: CountingOrigin, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "a.bin").write_bytes(b"old")
    origin.fault("a.bin", Fault(reset_after=0), times=1000)
    shell.complaint(ExitStatus.UNREACHABLE, "cp", *MEMORY, "--netfs", NO_RETRIES, origin.url("a.bin"), target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"a.bin": b"old"}


def test_a_killed_cp_leaves_no_half_file_under_the_final_name(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    origin.put("large", os.urandom(4 << 20))
    stall = Stall(after=100_000)
    origin.fault("large", Fault(stall=stall), times=100)
    with shell.start("cp", *MEMORY, origin.url("large"), tmp_path / "copy") as process:
        stall.wait_reached()
        process.kill()
        process.wait()
        stall.release()
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_cp_that_is_told_to_end_leaves_nothing_behind(
    shell: Shell, origin: CountingOrigin, tmp_path: Path, number: signal.Signals
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    origin.put("large", os.urandom(4 << 20))
    stall = Stall(after=100_000)
    origin.fault("large", Fault(stall=stall), times=100)
    with shell.start("cp", *MEMORY, origin.url("large"), target) as process:
        stall.wait_reached()
        process.send_signal(number)
        output, complaint = process.communicate(timeout=240)
        stall.release()
    assert (output, complaint) == (b"", b"")
    assert process.returncode == (ExitStatus.INTERRUPTED if number == signal.SIGINT else -number)
    assert list(target.iterdir()) == []


def test_ctrl_c_comes_at_a_checkpoint_and_the_second_one_at_once() -> None:
    program = """if True:
        import signal, trio, trio.testing
        from fscache_core.session import run

        async def work():
            await trio.testing.wait_all_tasks_blocked()
            signal.raise_signal(signal.SIGINT)
            print("went on", flush=True)
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                print("cleaned up", flush=True)
                SECOND

        run(work)()
    """
    for second, told, status in [
        ("", b"KeyboardInterrupt", -signal.SIGINT),
        ("signal.raise_signal(signal.SIGINT); print('still there')", b"", -signal.SIGINT),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", program.replace("SECOND", second)], capture_output=True, check=False
        )
        assert done.stdout.splitlines() == [b"went on", b"cleaned up"]
        assert done.stderr.splitlines()[-1:] == ([told] if told else [])
        assert done.returncode == status


def test_a_hangup_that_the_user_chose_to_survive_is_survived(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    origin.put("large", large := os.urandom(4 << 20))
    stall = Stall(after=100_000)
    origin.fault("large", Fault(stall=stall), times=100)
    command = ["nohup", *COMMAND, "cp", *MEMORY, origin.url("large"), str(tmp_path / "copy")]
    with subprocess.Popen(command, env=shell.environment, stderr=subprocess.PIPE) as process:
        stall.wait_reached()
        process.send_signal(signal.SIGHUP)
        stall.release()
        assert process.wait(timeout=240) == 0
    assert (tmp_path / "copy").read_bytes() == large


def test_cp_to_a_device_writes_to_it_and_leaves_it(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with shell.start("cp", *MEMORY, origin.url("a.bin"), fifo) as process:
        assert fifo.read_bytes() == CONTENT
        assert process.wait(timeout=240) == 0
    assert fifo.is_fifo()
    shell.output("cp", *MEMORY, origin.url("a.bin"), "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_cp_draws_a_bar_on_a_terminal_and_nowhere_else(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    arguments = ("cp", *MEMORY, origin.url("a.bin"), tmp_path / "copy")
    drawn = on_a_terminal(shell, *arguments)
    assert "copying" in drawn
    assert "250.0/250.0 KiB" in drawn
    assert on_a_terminal(shell, *arguments, "--quiet") == ""
    assert shell.output(*arguments) == b""


def test_plugins_draws_a_table_on_a_terminal(shell: Shell) -> None:
    drawn = on_a_terminal(shell, "plugins")
    assert "distribution" in drawn
    assert "fscache_memory:MemoryBackend" in drawn.replace("\n", "")


def on_a_terminal(shell: Shell, *arguments: str | Path) -> str:
    """What a run that must succeed shows, without colours."""
    ours, theirs = os.openpty()
    environment = {**shell.environment, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # EIO: the other side was closed
                break
    os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", shown.decode())


def test_cp_recursive_copies_a_tree(shell: Shell, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    names = ["a", "d/b c", "d/e/ü#?%41", "d/e/" + "n" * 250, "empty/x"]
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(name.encode() * 1000)
    undecodable = os.fsencode(tree) + b"/d/\xff"
    with open(undecodable, "wb") as file:
        file.write(b"raw")
    (tree / "link").symlink_to("d/b c")
    copy = tmp_path / "copy"
    summary = json.loads(shell.output("cp", "-r", *MEMORY, "--json", tree.as_uri(), copy))
    assert summary["files"] == len(names) + 2
    for name in names:
        assert (copy / name).read_bytes() == name.encode() * 1000
    assert (copy / "link").read_bytes() == b"d/b c" * 1000
    with open(os.fsencode(copy) + b"/d/\xff", "rb") as file:
        assert file.read() == b"raw"


@pytest.fixture
def deep_tree(tmp_path: Path) -> Iterator[Path]:
    """A directory 1,000 levels deep with a file at the bottom; it and the copy beside it are removed."""
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    levels = [tree.joinpath(*["d"] * depth) for depth in range(1000)]
    for level in levels:
        level.mkdir()
    bottom = levels[-1] / "file"
    bottom.write_bytes(CONTENT)
    os.utime(bottom, (10**9, 10**9))
    yield tree
    for level in reversed(levels):  # shutil.rmtree calls itself for each
        shutil.rmtree(level)
        shutil.rmtree(copy / level.relative_to(tree), ignore_errors=True)


def test_a_tree_deeper_than_pythons_stack_is_warmed_and_copied(
    shell: Shell, cachefiles: str, deep_tree: Path
) -> None:
    copy = deep_tree.with_name("copy")
    assert warmed(shell, "-r", "--cache", cachefiles, deep_tree.as_uri())["files"] == 1
    summary = json.loads(shell.output("cp", "-r", "--cache", cachefiles, "--json", deep_tree.as_uri(), copy))
    assert (summary["files"], summary["bytes_from_origin"]) == (1, 0)
    assert (copy.joinpath(*["d"] * 999) / "file").read_bytes() == CONTENT


def test_cp_counts_as_cached_only_what_was_so_before(
    shell: Shell, origin: CountingOrigin, cachefiles: str, tmp_path: Path
) -> None:
    for fetched in (len(CONTENT), 0):
        arguments = ("cp", "--json", "--cache", cachefiles, origin.url("a.bin"), tmp_path / "copy")
        summary = json.loads(shell.output(*arguments))
        assert (summary["bytes"], summary["bytes_from_origin"]) == (len(CONTENT), fetched)
        assert summary["bytes_from_cache"] == len(CONTENT) - fetched


def test_cp_asks_the_origin_once_about_a_file(shell: Shell, origin: CountingOrigin, tmp_path: Path) -> None:
    shell.output("cat", origin.url("a.bin"))
    asked = origin.n_requests
    shell.output("cp", origin.url("a.bin"), tmp_path / "copy")
    assert origin.n_requests == asked + 1


def test_cp_refuses_to_copy_a_directory_into_itself(shell: Shell, tree: Path) -> None:
    (tree.parent / "link").symlink_to(tree)
    before = sorted(tree.rglob("*"))
    for source, destination in (
        (tree.as_uri(), tree / "d"),
        (tree.as_uri(), tree / "new"),
        (tree.as_uri(), tree.parent / "link" / "new"),
        (f"{tree.as_uri()}/d", tree),
        ((tree.parent / "link").as_uri(), tree / "new"),
        ("file:///", tree / "new"),
    ):
        complaint = shell.complaint(ExitStatus.USAGE, "cp", "-r", *MEMORY, source, destination)
        assert "into itself" in complaint
    assert sorted(tree.rglob("*")) == before


def test_cp_refuses_to_copy_a_file_to_itself(shell: Shell, tree: Path) -> None:
    inode = (tree / "a").stat().st_ino
    complaint = shell.complaint(ExitStatus.USAGE, "cp", *MEMORY, f"{tree.as_uri()}/a", tree)
    assert "the same file" in complaint
    assert (tree / "a").stat().st_ino == inode


def test_cp_recursive_does_not_follow_links_to_directories(shell: Shell, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_bytes(b"a")
    (tree / "round").symlink_to(".")
    os.mkfifo(tree / "fifo")
    done = shell.run("cp", "-r", *MEMORY, tree.as_uri(), tmp_path / "copy")
    assert done.returncode == ExitStatus.ORIGIN
    assert done.stderr.count(b"skipped") == 2
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["a"]


def test_cp_wants_r_for_a_directory(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    complaint = shell.complaint(
        ExitStatus.USAGE, "cp", *MEMORY, (tmp_path / "tree").as_uri(), tmp_path / "copy"
    )
    assert "-r" in complaint
    assert not (tmp_path / "copy").exists()


def test_cp_does_not_replace_a_directory(shell: Shell, origin: CountingOrigin, tmp_path: Path) -> None:
    (tmp_path / "target/a.bin").mkdir(parents=True)
    complaint = shell.complaint(ExitStatus.OUTPUT, "cp", *MEMORY, origin.url("a.bin"), tmp_path / "target")
    assert complaint == f"{tmp_path}/target/a.bin: Is a directory"
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["a.bin"]


def test_cp_into_a_directory_wants_a_name(shell: Shell, tmp_path: Path) -> None:
    complaint = shell.complaint(ExitStatus.USAGE, "cp", *MEMORY, "file:///", tmp_path)
    assert complaint.startswith("file:/// has no name of its own")


def test_cp_of_a_name_that_no_file_has_is_one_line(shell: Shell, tmp_path: Path) -> None:
    complaint = shell.complaint(ExitStatus.USAGE, "cp", *MEMORY, "file:///tmp/a%00b", tmp_path / "copy")
    assert complaint.endswith("a file name cannot hold a NUL")
    assert not (tmp_path / "copy").exists()


def test_cp_of_several_files_wants_a_directory(shell: Shell, origin: CountingOrigin, tmp_path: Path) -> None:
    url = origin.url("a.bin")
    assert "not a directory" in shell.complaint(ExitStatus.USAGE, "cp", *MEMORY, url, url, tmp_path / "x")
    assert "DEST" in shell.complaint(ExitStatus.USAGE, "cp", *MEMORY, url)
    assert "not a directory" in shell.complaint(ExitStatus.USAGE, "cp", *MEMORY, url, f"{tmp_path}/x/")
    complaint = shell.complaint(ExitStatus.USAGE, "cp", *MEMORY, url, "file:///tmp/x")
    assert "DEST must be a local path, not file:///tmp/x" in complaint


def test_cp_to_a_name_that_cannot_be_is_one_line(shell: Shell, origin: CountingOrigin) -> None:
    complaint = shell.complaint(ExitStatus.OUTPUT, "cp", *MEMORY, origin.url("a.bin"), "x" * 300)
    assert complaint.endswith("File name too long")


def test_cp_does_not_overwrite_what_it_has_just_made(shell: Shell, tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tree / "d/a").write_bytes(b"other")
    urls = [f"{tree.as_uri()}/a", f"{tree.as_uri()}/d/a", f"{tree.as_uri()}/d2"]
    done = shell.run("cp", *MEMORY, *urls, target)
    assert done.returncode == ExitStatus.USAGE
    assert (
        done.stderr.decode()
        == f"fscache: {urls[1]}: not copied: {target}/a was made from {urls[0]} just now\n"
    )
    assert (target / "a").read_bytes() == b"a" * 50_000
    assert (target / "d2").exists()


def test_cp_names_a_destination_it_cannot_write(shell: Shell, origin: CountingOrigin, tmp_path: Path) -> None:
    target = tmp_path / "missing" / "copy"
    complaint = shell.complaint(ExitStatus.OUTPUT, "cp", *MEMORY, origin.url("a.bin"), target)
    assert complaint == f"{target}: No such file or directory"


def test_a_full_disk_is_the_destinations_fault(shell: Shell, origin: CountingOrigin) -> None:
    complaint = shell.complaint(ExitStatus.OUTPUT, "cp", *MEMORY, origin.url("a.bin"), "/dev/full")
    assert complaint == "/dev/full: No space left on device"


# -- ls, stat, plugins -------------------------------------------------------------------


def test_ls_lists_a_directory(shell: Shell, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "a\nb").write_bytes(b"12345")
    assert shell.output("ls", tree.as_uri()).decode() == "a\\nb\nd/\n"
    long = shell.output("ls", "-l", tree.as_uri()).decode().splitlines()
    assert re.fullmatch(r"-rw\S+ +5 \d{4}-\d\d-\d\d \d\d:\d\d a\\nb", long[0])
    assert re.fullmatch(r"drwx\S+ +\d+ \d{4}-\d\d-\d\d \d\d:\d\d d/", long[1])
    entries = json.loads(shell.output("ls", "--json", tree.as_uri()))
    assert (entries[0]["name"], entries[0]["kind"], entries[0]["size"]) == ("a\nb", "file", 5)


def test_ls_gives_scripts_urls_to_go_on_with(shell: Shell, tmp_path: Path) -> None:
    names = ["50% ü#?.txt", "a%41", "plain"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    for url in (tmp_path.as_uri(), tmp_path.as_uri() + "/"):
        listed = {entry["name"]: entry["url"] for entry in json.loads(shell.output("ls", "--json", url))}
        for name in names:
            assert shell.output("cat", *MEMORY, listed[name]) == name.encode()


def test_ls_of_a_file_lists_the_file(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(b"12345")
    url = f"{tmp_path.as_uri()}/a%20b"
    assert shell.output("ls", url) == b"a b\n"
    assert re.fullmatch(rb"-rw\S+ +5 .* a b\n", shell.output("ls", "-l", url))
    (entry,) = json.loads(shell.output("ls", "--json", url))
    assert (entry["name"], entry["size"], entry["url"]) == ("a b", 5, url)
    shell.complaint(ExitStatus.NOT_FOUND, "ls", f"{tmp_path.as_uri()}/missing")


@pytest.mark.integration
def test_ls_of_a_server_gives_urls_and_lists_a_single_file(
    shell: Shell, fscache_sftp: SftpServer, fscache_s3: S3Server
) -> None:
    fscache_s3.create_bucket("fscache-cli-ls")
    fscache_s3.put("fscache-cli-ls", "d/50% ü#.bin", CONTENT)
    shell.environment |= s3_variables(fscache_s3)
    top = fscache_sftp.root / "cli-ls"
    top.mkdir(exist_ok=True)
    (top / "50% ü#.bin").write_bytes(CONTENT)
    sshfs = f"sshfs:known_hosts={fscache_sftp.known_hosts},client_keys={fscache_sftp.client_key}"
    where = f"sshfs://{fscache_sftp.user}@{fscache_sftp.host}:{fscache_sftp.port}{quote(str(top))}"
    for url in ("s3://fscache-cli-ls/d", "s3://fscache-cli-ls/d/", where):
        (entry,) = json.loads(shell.output("ls", "--json", "--netfs", sshfs, url))
        assert shell.output("cat", *MEMORY, "--netfs", sshfs, entry["url"]) == CONTENT
        (alone,) = json.loads(shell.output("ls", "--json", "--netfs", sshfs, entry["url"]))
        assert (alone["name"], alone["size"]) == ("50% ü#.bin", len(CONTENT))
    assert shell.output("ls", "-l", "s3://fscache-cli-ls/d").startswith(b"-?????????  ")
    assert shell.output("ls", "-l", "s3://fscache-cli-ls").startswith(b"d?????????  ")


def test_ls_offline_has_nothing_to_list(shell: Shell, tmp_path: Path) -> None:
    assert "not cached" in shell.complaint(ExitStatus.NOT_CACHED, "ls", "--offline", tmp_path.as_uri())


def test_stat_shows_which_version_a_file_is(shell: Shell, origin: CountingOrigin) -> None:
    facts = json.loads(shell.output("stat", "--json", origin.url("a.bin")))
    assert (facts["kind"], facts["size"], facts["strength"]) == ("file", len(CONTENT), "strong")
    assert origin.etag("a.bin").strip('"') in facts["evidence"]
    assert facts["volume"] == origin.url("").rstrip("/")  # as [volume."..."] has it
    text = shell.output("stat", origin.url("a.bin")).decode()
    assert re.search(rf"^size +{len(CONTENT)}$", text, re.MULTILINE)
    assert re.search(rf"^volume +{facts['volume']}$", text, re.MULTILINE)


def test_stat_shows_what_is_cached(shell: Shell, origin: CountingOrigin, cachefiles: str) -> None:
    url = origin.url("a.bin")
    stat = ("stat", "--cache", cachefiles, url)
    assert json.loads(shell.output(*stat, "--json"))["cached"] is None
    assert re.search(r"^cached +-$", shell.output(*stat).decode(), re.MULTILINE)
    shell.output("cat", "--cache", cachefiles, url)
    cached = json.loads(shell.output(*stat, "--json"))["cached"]
    assert (cached["cache"], cached["bytes"], cached["size"]) == ("cachefiles", len(CONTENT), len(CONTENT))
    text = shell.output(*stat).decode()
    assert f"cached     {len(CONTENT)} of {len(CONTENT)} bytes (100 %) in cachefiles\n" in text
    assert "of version the same\n" in text
    assert "checked    -\npinned     no\ncoherency  always\n" in text
    old = origin.etag("a.bin")
    origin.put("a.bin", CONTENT[1:])
    assert f"of version etag {old} last-modified" in shell.output(*stat).decode()


def test_stat_shows_when_the_origin_was_asked_if_that_matters(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    ttl = ("--coherency", "ttl=3600", "--cache", cachefiles, origin.url("a.bin"))
    before = time.time()
    shell.output("cat", *ttl)
    found = json.loads(shell.output("stat", "--json", *ttl))
    assert before <= found["cached"]["checked_at"] <= time.time()
    assert found["coherency"] == "ttl=3600"
    assert re.search(r"^checked    20\d\d-", shell.output("stat", *ttl).decode(), re.MULTILINE)


def test_stat_shows_that_stale_files_may_be_served(shell: Shell, origin: CountingOrigin) -> None:
    stat = ("stat", *MEMORY, "--stale-if-error", origin.url("a.bin"))
    assert re.search(r"^coherency +always, stale-if-error$", shell.output(*stat).decode(), re.MULTILINE)
    assert json.loads(shell.output(*stat, "--json"))["coherency"] == "always, stale-if-error"


def test_stat_shows_evidence_that_proves_little(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    url = origin.url("a.bin")
    origin.validators = "none"
    shell.output("cat", "--cache", cachefiles, url)
    assert "(none: the origin has nothing" in shell.output("stat", "--cache", cachefiles, url).decode()
    origin.validators = "weak"
    shell.output("cat", "--cache", cachefiles, url)
    text = shell.output("stat", "--cache", cachefiles, url).decode()
    assert "(weak: it may have changed without a trace" in text
    found = json.loads(shell.output("stat", "--json", "--cache", cachefiles, url))
    assert (found["strength"], found["cached"]["strength"]) == ("weak", "weak")
    assert warmed(shell, "--cache", cachefiles, url)["weak"] == 1


def test_stat_offline_reads_the_label(shell: Shell, origin: CountingOrigin, cachefiles: str) -> None:
    shell.output("cat", "--cache", cachefiles, origin.url("a.bin"))
    origin.stop()
    facts = json.loads(
        shell.output("stat", "--json", "--offline", "--cache", cachefiles, origin.url("a.bin"))
    )
    assert facts["size"] == len(CONTENT)


def test_plugins_lists_what_is_installed_without_importing_it(shell: Shell, plugin_directory: Path) -> None:
    install(plugin_directory, "fscache-broken", "fscache.backend", "broken = no_such_module:Backend")
    lines = shell.output("plugins").decode().splitlines()
    assert "backend\tbroken\tfscache-broken 1.0\tno_such_module:Backend" in lines
    found = json.loads(shell.output("plugins", "--json"))
    assert {"memory", "cachefiles", "broken"} <= {each["name"] for each in found}


# -- warm --------------------------------------------------------------------------------


def warmed(shell: Shell, *arguments: str | Path) -> dict[str, int]:
    """The summary of a run of ``warm`` that must succeed."""
    found: dict[str, int] = json.loads(shell.output("warm", "--json", *arguments))
    return found


def test_warm_fetches_whole_files_once(shell: Shell, origin: CountingOrigin, cachefiles: str) -> None:
    origin.put("b.bin", CONTENT[::-1])
    origin.put("empty", b"")
    urls = [origin.url(name) for name in ("a.bin", "b.bin", "empty")]
    first = warmed(shell, "--cache", cachefiles, *urls)
    assert (first["files"], first["bytes"], first["bytes_from_origin"]) == (
        3,
        2 * len(CONTENT),
        2 * len(CONTENT),
    )
    sent = origin.bytes_sent
    again = warmed(shell, "--cache", cachefiles, *urls)
    assert (again["files"], again["bytes"], again["bytes_from_origin"]) == (3, 2 * len(CONTENT), 0)
    assert origin.bytes_sent == sent
    origin.stop()
    assert shell.output("cat", "--offline", "--cache", cachefiles, urls[1]) == CONTENT[::-1]


def test_warm_goes_on_where_a_killed_run_stopped(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    origin.put("large", large := os.urandom(8 << 20))
    stall = Stall(after=1 << 20)
    origin.fault("large", Fault(stall=stall), times=100)
    arguments = ("--cache", cachefiles, origin.url("large"))
    with shell.start("warm", *arguments) as process:
        stall.wait_reached()
        wait_until_stored(shell, *arguments)
        process.kill()
        process.wait()
        stall.release()
    origin.clear_faults()
    assert 0 < warmed(shell, *arguments)["bytes_from_origin"] < len(large)
    assert shell.output("cat", "--offline", *arguments) == large


def wait_until_stored(shell: Shell, *arguments: str | Path) -> None:
    """Wait until something of a file is cached."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        done = shell.run("stat", "--json", "--offline", *arguments)
        if done.returncode == 0 and (json.loads(done.stdout)["cached"] or {}).get("bytes"):
            return
    raise TimeoutError("nothing was stored")


def test_warm_goes_on_behind_a_file_that_fails(shell: Shell, origin: CountingOrigin, cachefiles: str) -> None:
    urls = [origin.url("missing"), origin.url("a.bin"), "gopher://x/y"]
    done = shell.run("warm", "--json", "--cache", cachefiles, *urls[:2])
    assert done.returncode == ExitStatus.NOT_FOUND
    assert done.stderr.count(b"\n") == 1
    summary = json.loads(done.stdout)
    assert (summary["files"], summary["failed"]) == (1, 1)
    done = shell.run("warm", "--json", "--cache", cachefiles, *reversed(urls))
    assert done.returncode == ExitStatus.NO_NETFS
    assert b"gopher://" in done.stderr
    assert json.loads(done.stdout)["failed"] == 2


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of files whose mtimes are old enough to be strong evidence."""
    tree = tmp_path / "tree"
    for name in ("a", "d/b", "d/e/c", "d2"):
        file = tree / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode() * 50_000)
        os.utime(file, (10**9, 10**9))
    return tree


@pytest.mark.parametrize("jobs", [1, 3])
def test_warm_recursive_fetches_all_that_is_in_a_tree(
    shell: Shell, tree: Path, cachefiles: str, jobs: int
) -> None:
    url = tree.as_uri()
    arguments = ("--cache", cachefiles, url)
    done = shell.run("warm", *arguments)
    assert done.returncode == ExitStatus.USAGE
    assert b"is a directory; warm what is in it with -r" in done.stderr
    assert warmed(shell, "-r", "--jobs", str(jobs), *arguments)["files"] == 4
    assert shell.output("cat", "--offline", "--cache", cachefiles, f"{url}/d/e/c") == b"d/e/c" * 50_000


@pytest.mark.integration
def test_warm_recursive_from_a_real_server_serves_all_of_it_offline(
    shell: Shell, fscache_sftp: SftpServer, cachefiles: str
) -> None:
    top = fscache_sftp.root / "cli-warm"
    contents = {"a b": b"a" * 100_000, "d/ü#?": b"b" * 10, "d/e/c": b""}
    for name, content in contents.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
        os.utime(top / name, (10**9, 10**9))
    where = f"sshfs://{fscache_sftp.user}@{fscache_sftp.host}:{fscache_sftp.port}"
    login = (f"known_hosts={fscache_sftp.known_hosts}", f"client_keys={fscache_sftp.client_key}")
    options = ("--cache", cachefiles, *(part for each in login for part in ("--netfs", f"sshfs:{each}")))
    summary = warmed(shell, "-r", *options, where + quote(str(top)))
    assert (summary["files"], summary["bytes"], summary["weak"]) == (3, 100_010, 0)
    assert warmed(shell, "-r", *options, where + quote(str(top)))["bytes_from_origin"] == 0
    for name, content in contents.items():
        assert shell.output("cat", "--offline", *options, where + quote(str(top / name))) == content
    removed = shell.output("invalidate", *options, where + quote(f"{top}/d/"))
    assert removed == b"2 cached file(s) invalidated\n"


def test_ctrl_c_ends_warm_and_keeps_what_arrived(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    origin.put("large", os.urandom(4 << 20))
    stall = Stall(after=100_000)
    origin.fault("large", Fault(stall=stall), times=100)
    with shell.start("warm", "--cache", cachefiles, origin.url("a.bin"), origin.url("large")) as process:
        stall.wait_reached()
        wait_until_stored(shell, "--cache", cachefiles, origin.url("a.bin"))
        process.send_signal(signal.SIGINT)
        output, complaint = process.communicate(timeout=240)
        stall.release()
    assert (process.returncode, output, complaint) == (ExitStatus.INTERRUPTED, b"", b"")
    assert shell.run("cat", "--offline", "--cache", cachefiles, origin.url("a.bin")).returncode == 0


def test_warm_says_how_much_it_did(shell: Shell, origin: CountingOrigin, cachefiles: str) -> None:
    arguments = ("warm", "--cache", cachefiles, origin.url("a.bin"))
    n = len(CONTENT)
    assert shell.output(*arguments).decode() == (f"1 file(s) cached, {n} bytes; {n} bytes were fetched now\n")
    drawn = on_a_terminal(shell, *arguments)
    assert "warming" in drawn
    assert "250.0/250.0 KiB" in drawn
    assert "warming" not in on_a_terminal(shell, *arguments, "--quiet")


def test_warm_fails_for_a_file_that_the_cache_has_no_room_for(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    done = shell.run("warm", "--cache", f"{cachefiles},max_bytes=128K", origin.url("a.bin"))
    assert done.returncode == ExitStatus.REFUSED
    assert done.stderr.count(b"\n") == 1
    assert f"of {len(CONTENT)} bytes".encode() in done.stderr


def test_warm_fails_for_an_empty_file_that_the_cache_has_no_room_for(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    origin.put("empty", b"")
    full = f"{cachefiles},max_bytes=10"
    done = shell.run("warm", "--json", "--cache", full, origin.url("empty"))
    assert done.returncode == ExitStatus.REFUSED
    assert json.loads(done.stdout)["files"] == 0
    assert b"empty: the cache took nothing of it; it is full, or stopped working" in done.stderr
    assert warmed(shell, "--cache", f"{cachefiles}2", origin.url("empty"))["files"] == 1


def test_warm_counts_what_is_cached_and_what_failed_apart(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    origin.put("small", b"abc")
    urls = [origin.url(name) for name in ("small", "a.bin", "missing")]
    arguments = ("warm", "--jobs", "1", "--cache", f"{cachefiles},max_bytes=128K", *urls)
    done = shell.run(*arguments)
    fetched = 3 + len(CONTENT)
    assert done.stdout.decode() == f"1 file(s) cached, 3 bytes; {fetched} bytes were fetched now; 2 failed\n"
    done = shell.run(*arguments, "--json")
    assert {**json.loads(done.stdout), "seconds": 0} == {
        "files": 1, "failed": 2, "bytes": 3, "bytes_from_origin": len(CONTENT), "weak": 0, "seconds": 0
    }  # fmt: skip


@pytest.mark.integration
def test_warm_takes_names_that_no_local_file_can_have(
    shell: Shell, fscache_s3: S3Server, cachefiles: str, tmp_path: Path
) -> None:
    bucket = "fscache-cli-odd"
    fscache_s3.create_bucket(bucket)
    keys = ["plain", "odd/sl//ash", "odd//", "/lead", "trail/", "trail/x"]
    for key in keys:
        fscache_s3.put(bucket, key, key.encode())
    shell.environment |= s3_variables(fscache_s3)
    found = warmed(shell, "-r", "--cache", cachefiles, f"s3://{bucket}")
    assert (found["files"], found["failed"]) == (len(keys), 0)
    for key in keys:
        assert shell.output("cat", "--offline", "--cache", cachefiles, f"s3://{bucket}/{key}") == key.encode()
    done = shell.run("cp", "-r", "--cache", cachefiles, f"s3://{bucket}", tmp_path / "copy")
    assert done.returncode == ExitStatus.ORIGIN
    assert done.stderr.count(b"is not a name a local file can have") == 4
    copied = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*")}
    assert copied == {"plain", "odd", "odd/sl", "trail", "trail/x"}


def test_warm_without_a_usable_cache_fails(shell: Shell, origin: CountingOrigin, tmp_path: Path) -> None:
    cache = f"cachefiles:dir={unusable_directory(tmp_path)}"
    shell.complaint(ExitStatus.CACHE_UNUSABLE, "warm", "--cache", cache, origin.url("a.bin"))
    assert origin.n_requests == 0


# -- invalidate, evict, pin, unpin -------------------------------------------------------


def is_cached(shell: Shell, cachefiles: str, url: str) -> bool:
    done = shell.run("stat", "--offline", "--cache", cachefiles, url)
    assert done.returncode in (0, ExitStatus.NOT_CACHED)
    return done.returncode == 0


def test_invalidate_has_a_file_fetched_again_without_asking_the_origin(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    url = origin.url("a.bin")
    immutable = ("cat", "--coherency", "immutable", "--cache", cachefiles, url)
    shell.output(*immutable)
    origin.put("a.bin", CONTENT[::-1])
    assert shell.output(*immutable) == CONTENT
    n_requests = origin.n_requests
    invalidate = ("invalidate", "--cache", cachefiles, "--json", url, origin.url("never cached"))
    assert json.loads(shell.output(*invalidate)) == {"files": 1, "failed": 0}
    assert json.loads(shell.output(*invalidate)) == {"files": 0, "failed": 0}
    assert origin.n_requests == n_requests
    assert shell.output(*immutable) == CONTENT[::-1]


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (("{}/d/",), {"a", "d2"}),
        (("--recursive", "{}/d"), {"a", "d2"}),
        (("-r", "{}/d", "{}/a"), {"d2"}),
        (("{}/a",), {"d/b", "d/e/c", "d2"}),
        (("--volume", "{}/nothing/here"), set()),
        (("file:///",), set()),
    ],
)
def test_invalidate_takes_a_tree_or_a_volume_and_no_neighbour(
    shell: Shell, tree: Path, cachefiles: str, arguments: tuple[str, ...], left: set[str]
) -> None:
    url, names = tree.as_uri(), {"a", "d/b", "d/e/c", "d2"}
    shell.output("warm", "-r", "--cache", cachefiles, url)
    done = shell.output("invalidate", "--cache", cachefiles, *(each.format(url) for each in arguments))
    assert done.decode() == f"{4 - len(left)} cached file(s) invalidated\n"
    assert {name for name in names if is_cached(shell, cachefiles, f"{url}/{name}")} == left


def test_evict_drops_files_but_no_pinned_one(shell: Shell, tree: Path, cachefiles: str) -> None:
    url = tree.as_uri()
    shell.output("warm", "-r", "--cache", cachefiles, url)
    assert shell.output("pin", "--cache", cachefiles, f"{url}/a") == b""
    assert json.loads(shell.output("stat", "--json", "--cache", cachefiles, f"{url}/a"))["cached"]["pinned"]
    done = shell.run("evict", "--json", "--cache", cachefiles, f"{url}/a", f"{url}/d2", f"{url}/none")
    assert done.returncode == ExitStatus.REFUSED
    assert done.stderr.decode() == f"fscache: {url}/a is pinned; unpin it first\n"
    assert json.loads(done.stdout) == {"files": 1, "bytes": 100_000, "failed": 1}
    assert is_cached(shell, cachefiles, f"{url}/a")
    assert not is_cached(shell, cachefiles, f"{url}/d2")
    assert shell.output("unpin", "--cache", cachefiles, f"{url}/a", f"{url}/none") == b""
    assert shell.output("evict", "--cache", cachefiles, f"{url}/a") == b"1 file(s) evicted, 50000 bytes\n"
    assert not is_cached(shell, cachefiles, f"{url}/a")


@pytest.mark.parametrize("command", ["invalidate", "evict"])
def test_a_file_is_dropped_from_every_cache_that_is_named(
    shell: Shell, tree: Path, tmp_path: Path, command: str
) -> None:
    url = f"{tree.as_uri()}/a"
    caches = [f"cachefiles:tag={tag},dir={tmp_path / tag}" for tag in "AB"]
    for cache in caches:
        shell.output("warm", "--cache", cache, url)
    both = [part for cache in caches for part in ("--cache", cache)]
    assert json.loads(shell.output(command, "--json", *both, url))["files"] == 2
    assert not any(is_cached(shell, cache, url) for cache in caches)
    reports = json.loads(shell.output("verify", "--json", *both))
    assert [report["cache"] for report in reports] == ["A", "B"]
    found = json.loads(shell.output("stats", "--json", *both))["caches"]
    assert [(cache["tag"], cache["options"]["dir"]) for cache in found] == [
        (tag, str(tmp_path / tag)) for tag in "AB"
    ]


def test_a_pinned_file_can_be_invalidated(shell: Shell, tree: Path, cachefiles: str) -> None:
    url = f"{tree.as_uri()}/a"
    shell.output("warm", "--cache", cachefiles, url)
    shell.output("pin", "--cache", cachefiles, url)
    shell.output("invalidate", "--cache", cachefiles, url)
    assert not is_cached(shell, cachefiles, url)


def test_a_pin_that_the_backend_does_not_know_is_refused(
    shell: Shell, origin: CountingOrigin, plugin_directory: Path
) -> None:
    install(plugin_directory, "fscache-plain", "fscache.backend", "plain = plain_backend:Backend")
    (plugin_directory / "plain_backend.py").write_text(PLAIN)
    complaint = shell.complaint(ExitStatus.REFUSED, "pin", "--cache", "plain", origin.url("a.bin"))
    assert "not pinned" in complaint


def test_a_pin_ends_with_the_version_and_what_is_not_cached_cannot_be_pinned(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    arguments = ("--cache", cachefiles, origin.url("a.bin"))
    assert "'fscache warm' it first" in shell.complaint(ExitStatus.REFUSED, "pin", *arguments)
    shell.output("warm", *arguments)
    shell.output("pin", *arguments)
    assert b"\npinned     yes\n" in shell.output("stat", *arguments)
    origin.put("a.bin", CONTENT[::-1])
    complaint = shell.complaint(ExitStatus.REFUSED, "pin", *arguments)
    assert complaint.endswith("not pinned: what was cached is another version; 'fscache warm' it first")
    shell.output("warm", *arguments)
    assert b"\npinned     no\n" in shell.output("stat", *arguments)


@pytest.mark.parametrize("strength", ["weak", "none"])
def test_a_version_that_cannot_be_told_from_another_is_pinned_without_asking(
    shell: Shell, origin: CountingOrigin, cachefiles: str, strength: Literal["weak", "none"]
) -> None:
    origin.validators = strength
    arguments = ("--cache", cachefiles, origin.url("a.bin"))
    shell.output("warm", *arguments)
    complaint = shell.complaint(ExitStatus.REFUSED, "pin", *arguments)
    assert f"evidence ({strength}) does not tell whether what was cached is the present version" in complaint
    assert "'fscache warm' it, then 'fscache pin --offline'" in complaint
    shell.output("warm", *arguments)
    shell.output("pin", "--offline", *arguments)
    assert b"\npinned     yes\n" in shell.output("stat", "--offline", *arguments)


def test_pin_names_a_file_that_is_not_there(shell: Shell, origin: CountingOrigin, cachefiles: str) -> None:
    url = origin.url("missing")
    assert url in shell.complaint(ExitStatus.NOT_FOUND, "pin", "--cache", cachefiles, url)


#: A backend that has hardly more than the mandatory hooks.
PLAIN = """
from fscache_memory import MemoryBackend


class Backend(MemoryBackend):
    pin_object = unpin_object = is_pinned = add_statistics = statistics = None
"""


# -- verify, stats, objects --------------------------------------------------------------


def flip_a_byte(directory: Path) -> None:
    """Damage what is stored of the one large file of a cache directory."""
    (data,) = directory.rglob("data")
    with data.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))


def test_verify_finds_damage_and_repairs_it_if_told_to(
    shell: Shell, origin: CountingOrigin, cachefiles: str, tmp_path: Path
) -> None:
    verify = ("verify", "--cache", cachefiles)
    shell.output("warm", "--cache", cachefiles, origin.url("a.bin"))
    assert shell.output(*verify).decode().startswith("cachefiles: 1 object(s), ")
    assert b"nothing is wrong" in shell.output(*verify)
    flip_a_byte(tmp_path / "cache")
    done = shell.run(*verify)
    assert (done.returncode, done.stderr) == (ExitStatus.DAMAGED, b"")
    assert b"block 0 does not match its checksum" in done.stdout
    assert b"1 problem(s), 0 repaired" in done.stdout
    assert shell.run(*verify).returncode == ExitStatus.DAMAGED  # nothing was changed
    (report,) = json.loads(shell.output(*verify, "--repair", "--json"))
    (problem,) = report["problems"]
    assert problem["repaired"]
    assert shell.output(*verify).decode() == "cachefiles: 0 object(s), 0 bytes compared: nothing is wrong\n"
    assert shell.output("cat", "--cache", cachefiles, origin.url("a.bin")) == CONTENT


def test_verify_says_which_backend_offers_no_check_and_does_the_others(shell: Shell, cachefiles: str) -> None:
    done = shell.run("verify", *MEMORY, "--cache", cachefiles)
    assert done.returncode == ExitStatus.UNSUPPORTED
    assert done.stderr == b"fscache: cache memory: its backend offers no check of what is stored\n"
    assert b"nothing is wrong" in done.stdout


def test_verify_draws_a_bar_on_a_terminal(shell: Shell, origin: CountingOrigin, cachefiles: str) -> None:
    shell.output("warm", "--cache", cachefiles, origin.url("a.bin"))
    assert "verifying cachefiles" in on_a_terminal(shell, "verify", "--cache", cachefiles)
    assert "verifying" not in on_a_terminal(shell, "verify", "-q", "--cache", cachefiles)


def test_stats_adds_up_what_every_process_counted(
    shell: Shell, origin: CountingOrigin, tmp_path: Path, cachefiles: str
) -> None:
    def counters() -> dict[str, int]:
        found = json.loads(shell.output("stats", "--json", "--cache", cachefiles))
        (cache,) = found["caches"]
        assert (cache["backend"], cache["options"]) == ("cachefiles", {"dir": str(tmp_path / "cache")})
        assert cache["counters"] == found["counters"]
        return dict(found["counters"])

    assert counters()["stores_n"] == 0
    shell.output("cat", "--cache", cachefiles, origin.url("a.bin"))
    first = counters()
    assert first["stores_n"] > 0
    origin.put("a.bin", CONTENT[::-1])
    shell.output("cat", "--cache", cachefiles, origin.url("a.bin"))
    second = counters()
    assert second["cookies_dat"] == 2 * first["cookies_dat"]
    assert second["stores_n"] > first["stores_n"]  # one more, or several where bytes came slowly


def test_stats_prints_what_the_kernel_or_prometheus_would(shell: Shell, cachefiles: str) -> None:
    kernel = shell.output("stats", "--cache", cachefiles).decode()
    assert kernel.startswith("FS-Cache statistics\nCookies: idx=")
    assert len(kernel.splitlines()) == 24
    text = shell.output("stats", "--format", "prometheus", "--cache", cachefiles)
    assert b"# TYPE fscache_lookups_n_total counter" in text
    assert json.loads(shell.output("stats", "--json", "--format", "json", "--cache", cachefiles))["counters"]
    for both in (("--json", "--format", "prometheus"), ("--format", "kernel", "--json")):
        assert "--json" in shell.complaint(ExitStatus.USAGE, "stats", *both, "--cache", cachefiles)


def test_stats_says_which_cache_keeps_none_and_shows_the_others(
    shell: Shell, cachefiles: str, plugin_directory: Path
) -> None:
    install(plugin_directory, "fscache-plain", "fscache.backend", "plain = plain_backend:Backend")
    (plugin_directory / "plain_backend.py").write_text(PLAIN)
    complaint = shell.complaint(ExitStatus.UNSUPPORTED, "stats", "--cache", "plain:tag=mine")
    assert complaint == "cache mine: its backend keeps no statistics"
    done = shell.run("stats", "--cache", "plain", "--cache", cachefiles)
    assert done.returncode == ExitStatus.UNSUPPORTED
    assert done.stdout.startswith(b"FS-Cache statistics\n")


def test_objects_lists_indices_and_the_files_that_are_named(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    url = origin.url("a.bin")
    shell.output("warm", "--cache", cachefiles, url)
    n_requests = origin.n_requests
    lines = json.loads(shell.output("objects", "--json", "--cache", cachefiles))
    assert [(line["parent"], line["type"], bytes.fromhex(line["key"])) for line in lines] == [
        (None, 0, b""),
        (1, 0, b"http"),
        (2, 0, url.removesuffix("/a.bin").encode()),
    ]
    text = shell.output("objects", "--cache", cachefiles, url).decode().splitlines()
    assert text[0].startswith("OBJECT   PARENT   STAT CHLDN OPS")
    assert len(text) == 2 + 4
    (data,) = [line for line in text if " DT " in line]
    assert data.split(" | ")[1].split()[-2] == b"/a.bin".hex() + ","
    (short,) = shell.output("objects", "--show", "B", "--cache", cachefiles).decode().splitlines()[2:3]
    assert short.split(" | ")[1].split()[0] == ".FS-Cache"
    assert origin.n_requests == n_requests


def test_objects_refuses_letters_it_does_not_know_and_files_that_are_not_cached(
    shell: Shell, origin: CountingOrigin, cachefiles: str
) -> None:
    shell.complaint(ExitStatus.USAGE, "objects", "--show", "Q", "--cache", cachefiles)
    done = shell.run("objects", "--cache", cachefiles, origin.url("a.bin"))
    assert done.returncode == ExitStatus.NOT_CACHED
    assert origin.n_requests == 0


# -- configuration -----------------------------------------------------------------------


def test_a_configuration_file_chooses_cache_and_coherency(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    file = shell.home / ".config/fscache/config.toml"
    file.parent.mkdir(parents=True)
    volume = origin.url("").rstrip("/")
    file.write_text(
        f'[cache]\nbackend = "cachefiles"\ndir = "{tmp_path}/mine"\n'
        f'[volume."{volume}"]\ncoherency = "immutable"\n'
    )
    shell.output("cat", origin.url("a.bin"))
    n_requests = origin.n_requests
    assert shell.output("cat", origin.url("a.bin")) == CONTENT
    assert origin.n_requests == n_requests
    assert (tmp_path / "mine").is_dir()
    assert not (shell.home / ".cache/fscache").exists()


def test_a_mistake_in_the_configuration_is_one_line(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("cahce = 1\n")
    complaint = shell.complaint(ExitStatus.USAGE, "cat", "--config", file, "file:///etc/hostname")
    assert complaint.startswith(f"{file}: unknown key cahce")


@pytest.mark.parametrize(
    ("volume", "status"), [("bad", ExitStatus.USAGE), ("s4://bucket", ExitStatus.UNKNOWN_PLUGIN)]
)
def test_a_misspelt_volume_of_the_configuration_does_not_go_unnoticed(
    shell: Shell, tmp_path: Path, volume: str, status: ExitStatus
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'[volume."{volume}"]\ncoherency = "immutable"\n')
    complaint = shell.complaint(status, "cat", *MEMORY, "--config", file, "file:///etc/hostname")
    assert volume.partition(":")[0] in complaint


def test_a_section_for_what_is_below_a_volume_is_refused(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    file, volume = tmp_path / "c.toml", origin.url("").rstrip("/")
    file.write_text(f'[volume."{volume}/a.bin"]\ncoherency = "immutable"\n')
    arguments = ("stat", "--config", file, origin.url("a.bin"))
    assert shell.complaint(ExitStatus.USAGE, *arguments) == (
        f'[volume."{volume}/a.bin"] is about a part of a volume; coherency is chosen for a whole one: '
        f'[volume."{volume}"]'
    )
    file.write_text(f'[volume."{volume}/"]\ncoherency = "immutable"\n')
    assert b"\ncoherency  immutable\n" in shell.output(*arguments)


def test_a_volume_of_the_configuration_matters_only_where_it_is_used(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    file, local = tmp_path / "c.toml", tmp_path / "local"
    local.write_bytes(b"local")
    volume = origin.url("").rstrip("/")
    file.write_text(f'[volume."{volume}"]\ncoherency = "ttl=77"\n')

    def coherency(url: str) -> str:
        return str(json.loads(shell.output("stat", "--json", "--config", file, url))["coherency"])

    assert coherency(origin.url("a.bin")) == "ttl=77"
    assert coherency(local.as_uri()) == "always"


def test_an_adapter_gets_its_options_from_the_command_line(shell: Shell, origin: CountingOrigin) -> None:
    complaint = shell.complaint(
        ExitStatus.USAGE, "cat", *MEMORY, "--netfs", "http:nonsense=1", origin.url("a.bin")
    )
    assert "nonsense" in complaint


def test_options_of_an_adapter_come_from_the_file_and_every_part_of_the_command_line(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[netfs.http]\nfrom_file = 1\n")
    twice = ("--netfs", "http:first=1", "--netfs", "http:second=1")
    complaint = shell.complaint(ExitStatus.USAGE, "cat", *MEMORY, *twice, origin.url("a.bin"))
    assert "'first'" in complaint  # the first of the options that the adapter does not have
    good = ("--netfs", "http:deadline_seconds=2")
    complaint = shell.complaint(
        ExitStatus.USAGE, "cat", *MEMORY, "--config", file, *good, origin.url("a.bin")
    )
    assert "'from_file'" in complaint
    complaint = shell.complaint(
        ExitStatus.USAGE, "cat", *MEMORY, *good, "--netfs", "http:deadline_seconds=3", origin.url("a.bin")
    )
    assert complaint == "netfs http: option deadline_seconds is given twice"


# -- what is installed -------------------------------------------------------------------


def test_an_unknown_backend_lists_what_is_installed(shell: Shell) -> None:
    complaint = shell.complaint(ExitStatus.UNKNOWN_PLUGIN, "cat", "--cache", "memry", "file:///etc/hostname")
    assert re.fullmatch(r"no backend is called 'memry'; installed: .*\bcachefiles, memory\b.*", complaint)
    assert not (shell.home / ".cache/fscache").exists()


def test_an_unknown_netfs_lists_what_is_installed(shell: Shell) -> None:
    complaint = shell.complaint(
        ExitStatus.UNKNOWN_PLUGIN, "cat", *MEMORY, "--netfs", "s4:a=1", "file:///etc/hostname"
    )
    assert re.fullmatch(r"no netfs is called 's4'; installed: .*\bs3, sshfs\b.*", complaint)


def test_a_bad_option_of_a_backend_names_the_options_it_has(shell: Shell) -> None:
    complaint = shell.complaint(ExitStatus.USAGE, "cat", "--cache", "memory:size=1", "file:///etc/hostname")
    assert "max_bytes" in complaint


def test_two_caches_of_one_tag_are_told_how_to_differ(shell: Shell) -> None:
    complaint = shell.complaint(ExitStatus.USAGE, "cat", *MEMORY, *MEMORY, "file:///etc/hostname")
    assert complaint == "two caches have the tag memory; give one another: --cache memory:tag=NAME"
    shell.output("cat", *MEMORY, "--cache", "memory:tag=other", "file:///etc/hostname")


def test_a_plugin_that_cannot_be_imported_is_named_with_its_distribution(
    shell: Shell, plugin_directory: Path
) -> None:
    install(plugin_directory, "fscache-broken", "fscache.backend", "broken = no_such_module:Backend")
    complaint = shell.complaint(ExitStatus.BROKEN_PLUGIN, "cat", "--cache", "broken", "file:///etc/hostname")
    assert "fscache-broken 1.0" in complaint
    assert "no_such_module" in complaint


@pytest.mark.parametrize("kind", ["backend", "netfs"])
def test_a_plugin_that_ends_the_program_when_imported_is_broken(
    shell: Shell, plugin_directory: Path, kind: str
) -> None:
    install(plugin_directory, "fscache-leaving", f"fscache.{kind}", "leaving = leaving_module:Plugin")
    (plugin_directory / "leaving_module.py").write_text("import sys\nsys.exit(7)\n")
    arguments = ("--cache", "leaving", "file:///x") if kind == "backend" else (*MEMORY, "leaving://x")
    complaint = shell.complaint(ExitStatus.BROKEN_PLUGIN, "cat", *arguments)
    assert "leaving (fscache-leaving 1.0) cannot be imported: SystemExit: 7" in complaint


NETFS = """
from netfs_localdir import LocaldirNetfs


class Netfs(LocaldirNetfs):
    def __init__(self):
        raise RuntimeError("oh")
"""


def test_an_adapter_that_cannot_be_made_is_named(shell: Shell, plugin_directory: Path) -> None:
    install(plugin_directory, "fscache-bad", "fscache.netfs", "bad = bad_netfs:Netfs")
    (plugin_directory / "bad_netfs.py").write_text(NETFS)
    complaint = shell.complaint(ExitStatus.UNFIT_PLUGIN, "cat", *MEMORY, "bad://x")
    assert complaint == "netfs bad (fscache-bad 1.0) raised RuntimeError: oh"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "async def update_object(self, obj, colour): ...",
            r".*'update_object'.*'colour'.* can not be found in the hookspec",
        ),
        ("async def updaet_object(self, obj): ...", "unknown hook 'updaet_object'"),
        ("def sync_cache(self): ...", "sync_cache must be an async function"),
        ("async def write_page(self, folio, op): ...", "write_page takes its arguments in another order.*"),
    ],
)
def test_a_hook_that_does_not_fit_is_told_with_its_plugin_and_distribution(
    shell: Shell, plugin_directory: Path, body: str, reason: str
) -> None:
    install(plugin_directory, "fscache-bad", "fscache.backend", "bad = bad_backend:Backend")
    (plugin_directory / "bad_backend.py").write_text(
        "from fscache_core.hookspecs import cache_hook\n"
        "from fscache_memory import MemoryBackend\n"
        f"class Backend(MemoryBackend):\n    @cache_hook\n    {body}\n"
    )
    complaint = shell.complaint(ExitStatus.UNFIT_PLUGIN, "cat", "--cache", "bad:tag=mine", "file:///x")
    assert re.fullmatch(rf"backend bad \(fscache-bad 1.0\)[ :].*{reason}", complaint), complaint
    assert " object at 0x" not in complaint


def test_two_plugins_of_one_name_are_an_error_that_names_both(shell: Shell, plugin_directory: Path) -> None:
    for distribution in ("fscache-one", "fscache-two"):
        install(plugin_directory, distribution, "fscache.backend", f"twin = {distribution[8:]}:Backend")
    complaint = shell.complaint(ExitStatus.AMBIGUOUS_PLUGIN, "cat", "--cache", "twin", "file:///etc/hostname")
    assert "fscache-one 1.0, fscache-two 1.0" in complaint


def test_two_adapters_for_one_scheme_are_an_error_as_well(shell: Shell, plugin_directory: Path) -> None:
    install(plugin_directory, "fscache-other", "fscache.netfs", "file = other:Netfs")
    shell.complaint(ExitStatus.AMBIGUOUS_PLUGIN, "cat", *MEMORY, "file:///etc/hostname")


def test_a_plugin_for_another_contract_is_refused(shell: Shell, plugin_directory: Path) -> None:
    install(plugin_directory, "fscache-old", "fscache.backend", "old = old_backend:Backend")
    (plugin_directory / "old_backend.py").write_text("class Backend:\n    api_version = 0\n")
    complaint = shell.complaint(ExitStatus.UNFIT_PLUGIN, "cat", "--cache", "old", "file:///etc/hostname")
    assert "API 0" in complaint


def test_a_plugin_without_mandatory_hooks_is_refused(shell: Shell, plugin_directory: Path) -> None:
    install(plugin_directory, "fscache-empty", "fscache.backend", "empty = empty_backend:Backend")
    (plugin_directory / "empty_backend.py").write_text("class Backend:\n    pass\n")
    complaint = shell.complaint(ExitStatus.UNFIT_PLUGIN, "cat", "--cache", "empty", "file:///etc/hostname")
    assert "lookup_object" in complaint


def test_a_bug_in_a_plugin_is_one_line_and_a_traceback_on_demand(
    shell: Shell, plugin_directory: Path
) -> None:
    install(plugin_directory, "fscache-buggy", "fscache.backend", "buggy = buggy_backend:make")
    (plugin_directory / "buggy_backend.py").write_text("def make():\n    raise RuntimeError('oh')\n")
    arguments = ("stats", "--cache", "buggy")
    assert "RuntimeError: oh" in shell.complaint(ExitStatus.UNFIT_PLUGIN, *arguments)
    for traceback in (("--traceback", *arguments), (*arguments, "--traceback")):
        assert b"in make\n" in shell.run(*traceback).stderr


def test_a_traceback_of_ordinary_errors_is_shown_on_demand(shell: Shell, origin: CountingOrigin) -> None:
    arguments = ("cat", *MEMORY, origin.url("missing"), origin.url("a.bin"))
    for traceback in (("--traceback", *arguments), (*arguments, "--traceback")):
        done = shell.run(*traceback)
        assert (done.returncode, done.stdout) == (ExitStatus.NOT_FOUND, CONTENT)
        assert done.stderr.startswith(b"Traceback (most recent call last):\n")
        assert b"\nfscache: " in done.stderr


BUGGY_BINDING = """
from fscache_memory import MemoryBackend
from fscache_core.hookspecs import cache_hook


class Backend(MemoryBackend):
    @cache_hook
    async def bind_cache(self, cache):
        raise RuntimeError("oh")
"""


@pytest.mark.parametrize("source", [BUGGY_BINDING, "def Backend():\n    raise RuntimeError('oh')\n"])
def test_a_bug_in_a_backend_keeps_nobody_from_the_origins_bytes(
    shell: Shell, origin: CountingOrigin, plugin_directory: Path, source: str
) -> None:
    install(plugin_directory, "fscache-buggy", "fscache.backend", "buggy = buggy_backend:Backend")
    (plugin_directory / "buggy_backend.py").write_text(source)
    done = shell.run("cat", "--cache", "buggy", origin.url("a.bin"))
    assert (done.returncode, done.stdout) == (0, CONTENT)
    assert done.stderr.count(b"\n") == 1
    assert b"reading from the origin" in done.stderr
    assert b"RuntimeError: oh" in done.stderr
    arguments = ("cat", "--offline", "--cache", "buggy", origin.url("a.bin"))
    assert "RuntimeError: oh" in shell.complaint(ExitStatus.UNFIT_PLUGIN, *arguments)


def test_a_url_without_an_adapter_lists_the_adapters_there_are(shell: Shell) -> None:
    complaint = shell.complaint(ExitStatus.NO_NETFS, "cat", *MEMORY, "gopher://x/y")
    assert complaint.startswith("no netfs for gopher:// URLs; installed: file, fsspec, http, https, ")


@pytest.mark.parametrize("url", ["/etc/hostname", "", "file:/etc/hostname", "sshfs://", "s3://B!/x"])
def test_what_is_no_url_is_a_usage_error(shell: Shell, url: str) -> None:
    shell.complaint(ExitStatus.USAGE, "cat", *MEMORY, url)


# -- the origin --------------------------------------------------------------------------

#: The http adapter's options that keep a failing origin from being asked again and again.
NO_RETRIES = "http:deadline_seconds=2"


def test_a_missing_file_is_named(shell: Shell, origin: CountingOrigin) -> None:
    url = origin.url("missing")
    assert url in shell.complaint(ExitStatus.NOT_FOUND, "cat", *MEMORY, url)


def test_an_unreachable_host_is_named(shell: Shell, origin: CountingOrigin) -> None:
    origin.stop()
    assert "127.0.0.1" in shell.complaint(
        ExitStatus.UNREACHABLE, "cat", *MEMORY, "--netfs", NO_RETRIES, origin.url("a.bin")
    )


@pytest.mark.integration
def test_sshfs_refused_and_unreachable_have_statuses_of_their_own(
    shell: Shell, fscache_sftp: SftpServer, tmp_path: Path
) -> None:
    (fscache_sftp.root / "cli.bin").write_bytes(CONTENT)
    where = f"{fscache_sftp.user}@{fscache_sftp.host}"
    url = f"sshfs://{where}:{fscache_sftp.port}{fscache_sftp.root}/cli.bin"
    good = f"sshfs:known_hosts={fscache_sftp.known_hosts},client_keys={fscache_sftp.client_key}"
    assert shell.output("cat", *MEMORY, "--netfs", good, url) == CONTENT

    key = tmp_path / "other_key"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(key))
    wrong = f"sshfs:known_hosts={fscache_sftp.known_hosts},client_keys={key}"
    assert fscache_sftp.host in shell.complaint(ExitStatus.PERMISSION, "cat", *MEMORY, "--netfs", wrong, url)
    assert "cli.missing" in shell.complaint(
        ExitStatus.NOT_FOUND, "cat", *MEMORY, "--netfs", good, url.replace("cli.bin", "cli.missing")
    )
    with CountingOrigin() as nobody:
        port = nobody.port
    nowhere = f"sshfs://{where}:{port}/x"
    shell.complaint(ExitStatus.UNREACHABLE, "cat", *MEMORY, "--netfs", good, nowhere)


@pytest.mark.integration
def test_s3_refused_is_a_status_of_its_own(shell: Shell, fscache_s3: S3Server) -> None:
    fscache_s3.create_bucket("fscache-cli")
    fscache_s3.put("fscache-cli", "a b/ü#%.bin", CONTENT)
    shell.environment |= s3_variables(fscache_s3)
    assert shell.output("cat", *MEMORY, "s3://fscache-cli/a b/ü#%.bin") == CONTENT
    copy = shell.home / "copy"
    shell.output("cp", "-r", *MEMORY, "s3://fscache-cli", copy)
    assert (copy / "a b/ü#%.bin").read_bytes() == CONTENT
    shell.complaint(ExitStatus.NOT_FOUND, "cat", *MEMORY, "s3://fscache-cli/missing")
    if "authentication" in fscache_s3.lacks:
        pytest.skip(f"{fscache_s3.name} takes any secret")
    shell.environment["AWS_SECRET_ACCESS_KEY"] = "wrong"
    shell.complaint(ExitStatus.PERMISSION, "cat", *MEMORY, "s3://fscache-cli/a b/ü#%.bin")


# -- the cache ---------------------------------------------------------------------------


def unusable_directory(tmp_path: Path) -> Path:
    """A directory that nobody, not even root, can use as a cache: others could write to it."""
    directory = tmp_path / "theirs"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


def test_cat_goes_on_without_a_cache_that_cannot_be_used(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    directory = unusable_directory(tmp_path)
    done = shell.run("cat", "--cache", f"cachefiles:dir={directory}", origin.url("a.bin"))
    assert (done.returncode, done.stdout) == (0, CONTENT)
    assert done.stderr.count(b"\n") == 1
    assert str(directory).encode() in done.stderr
    assert b"reading from the origin" in done.stderr
    assert list(directory.iterdir()) == []


def test_a_directory_of_other_files_is_not_made_a_cache(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    directory = tmp_path / "project"
    directory.mkdir(mode=0o700)
    (directory / "notes.txt").write_text("mine")
    cache = f"cachefiles:dir={directory}"
    done = shell.run("cat", "--cache", cache, origin.url("a.bin"))
    assert (done.returncode, done.stdout) == (0, CONTENT)
    assert done.stderr.count(b"\n") == 1
    assert b"reading from the origin" in done.stderr
    assert "not empty" in shell.complaint(ExitStatus.CACHE_UNUSABLE, "stats", "--cache", cache)
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]
    assert shell.run("cat", "--cache", f"{cache},force=true", origin.url("a.bin")).stderr == b""
    assert (directory / "cache").is_dir()


def test_a_home_directory_that_does_not_exist_is_not_made(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    shell.environment["HOME"] = str(tmp_path / "missing")
    done = shell.run("cat", origin.url("a.bin"))
    assert (done.returncode, done.stdout) == (0, CONTENT)
    assert done.stderr.count(b"\n") == 1
    assert b"reading from the origin" in done.stderr
    assert "home directory" in shell.complaint(ExitStatus.CACHE_UNUSABLE, "stats")
    assert not (tmp_path / "missing").exists()
    shell.output("cat", *MEMORY, origin.url("a.bin"))
    shell.environment["XDG_CACHE_HOME"] = str(tmp_path / "xdg")
    shell.output("cat", origin.url("a.bin"))
    assert (tmp_path / "xdg/fscache").is_dir()


def test_cp_goes_on_without_a_cache_that_cannot_be_used(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    cache = f"cachefiles:dir={unusable_directory(tmp_path)}"
    done = shell.run("cp", "--cache", cache, origin.url("a.bin"), tmp_path / "copy")
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "copy").read_bytes() == CONTENT


def test_offline_with_an_unusable_cache_there_is_nothing_to_serve(shell: Shell, tmp_path: Path) -> None:
    cache = f"cachefiles:dir={unusable_directory(tmp_path)}"
    shell.complaint(ExitStatus.CACHE_UNUSABLE, "cat", "--offline", "--cache", cache, "file:///etc/hostname")


def test_an_unreadable_cache_directory_is_a_status_of_its_own(shell: Shell, tmp_path: Path) -> None:
    directory = unusable_directory(tmp_path)
    complaint = shell.complaint(ExitStatus.CACHE_UNUSABLE, "stats", "--cache", f"cachefiles:dir={directory}")
    assert str(directory) in complaint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_a_directory_without_rights_cannot_be_a_cache(shell: Shell, tmp_path: Path) -> None:
    directory = tmp_path / "locked"
    directory.mkdir(mode=0)
    shell.complaint(ExitStatus.CACHE_UNUSABLE, "stats", "--cache", f"cachefiles:dir={directory}")


@pytest.fixture
def without_xattrs(tmp_path: Path) -> Iterator[Path]:
    """A directory on ramfs, which knows no user extended attributes."""
    directory = tmp_path / "ramfs"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "ramfs", "none", directory], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount ramfs: {mounted.stderr.decode().strip()}")
    directory.chmod(0o700)
    yield directory
    subprocess.run(["umount", directory], check=True)


@pytest.mark.root
def test_a_filesystem_without_user_xattrs_is_a_status_of_its_own(
    shell: Shell, without_xattrs: Path, origin: CountingOrigin
) -> None:
    cache = f"cachefiles:dir={without_xattrs / 'cache'}"
    assert "attributes" in shell.complaint(ExitStatus.NO_XATTRS, "stats", "--cache", cache)
    done = shell.run("cat", "--cache", cache, origin.url("a.bin"))
    assert (done.returncode, done.stdout) == (0, CONTENT)
    assert done.stderr.count(b"\n") == 1


# -- the command line --------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("cat",),
        ("dog",),
        ("cat", "--nonsense", "file:///x"),
        ("cat", "--coherency", "sometimes", "file:///x"),
        ("cat", "--coherency", "ttl=0", "file:///x"),
        ("cat", "--cache", "", "file:///x"),
        ("cat", "--cache", "memory:max_bytes", "file:///x"),
        ("cat", "--cache", "cachefiles:dir=2024", "file:///x"),
        ("cat", "http://[::1/x"),
        ("cat", "http://127.0.0.1:99999/x"),
        ("cat", "1x://x"),
        ("cat", "--config", "/no/such/file", "file:///x"),
    ],
)
def test_a_malformed_command_line_is_one_line(shell: Shell, arguments: tuple[str, ...]) -> None:
    shell.complaint(ExitStatus.USAGE, *arguments)


def test_without_a_command_there_is_the_help_as_a_complaint(shell: Shell) -> None:
    done = shell.run()
    assert (done.returncode, done.stdout) == (ExitStatus.USAGE, b"")
    assert done.stderr.startswith(b"Usage: fscache ")


def command_called(name: str) -> click.Command:
    command = fscache_command.get_command(click.Context(fscache_command), name)
    assert command is not None
    return command


def test_help_lists_every_command(shell: Shell) -> None:
    text = shell.output("--help").decode()
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", text, re.MULTILINE), name
        assert shell.output(name, "-h").decode().startswith("Usage: ")
        assert command_called(name).help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_has_help_and_is_documented(name: str) -> None:
    command = command_called(name)
    page = (Path(__file__).parent.parent / "docs/operations.md").read_text()
    assert re.search(rf"^fscache {name}\b", page, re.MULTILINE)
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.opts}"
            assert any(re.search(rf"(?<![\w-]){re.escape(opt)}(?![\w-])", page) for opt in option.opts), (
                f"{name} {option.opts}"
            )


def test_reading_a_cached_file_imports_nothing_that_only_others_need(
    shell: Shell, origin: CountingOrigin, cachefiles: str, tmp_path: Path
) -> None:
    """What keeps a cached read short.  Its time is measured by the benchmarks, not here."""
    shell.output("cat", "--cache", cachefiles, origin.url("a.bin"))
    program = (
        "import sys; from fscache_core.__main__ import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    arguments = ["cat", "--cache", cachefiles, "--offline", origin.url("a.bin")]
    # Unmeasured: coverage, under `make coverage`, imports some of it itself.
    plain = {name: text for name, text in shell.environment.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=plain, capture_output=True, check=True
    )
    assert done.stdout == CONTENT
    unneeded = {"rich", "asyncio", "asyncssh", "obstore", "httpx", "ssl_match_hostname", "tomllib", "pytest"}
    unneeded |= {"fscache_core.cache_commands", "fscache_core.object_list"}
    unneeded |= {"email.parser"}  # reads the metadata of distributions, of which none is to be named
    assert not unneeded & set(done.stderr.decode().split())
