"""The ``fscache`` command, run as a user runs it: a process with arguments, output and an exit status."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fscache_core.exit_status import ExitStatus
from fscache_core.testing.http_origin import CountingOrigin, Fault, Stall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fscache_core.testing.s3_server import S3Server
    from fscache_core.testing.sftp_server import SftpServer

COMMAND = [sys.executable, "-c", "from fscache_core.cli import main; main()"]
CONTENT = bytes(range(256)) * 1000
MEMORY = ("--cache", "memory")


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
                output, complaint = process.communicate(timeout=120)
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
    assert "b.bin" in complaint
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
    assert b"1 file(s) served as they were cached" in done.stderr


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


def test_ctrl_c_ends_cat_while_the_origin_stalls(shell: Shell, origin: CountingOrigin) -> None:
    origin.put("large", os.urandom(4 << 20))
    stall = Stall(after=100_000)
    origin.fault("large", Fault(stall=stall), times=100)
    with shell.start("cat", *MEMORY, origin.url("large")) as process:
        stall.wait_reached()
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
        stall.release()
    assert (process.returncode, complaint) == (ExitStatus.INTERRUPTED, b"")


def test_ctrl_c_ends_cat_while_nobody_reads_its_output(shell: Shell, origin: CountingOrigin) -> None:
    origin.put("large", os.urandom(4 << 20))
    with shell.start("cat", *MEMORY, origin.url("large")) as process:
        assert process.stdout is not None
        wait_until_full(process.stdout.fileno())
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == ExitStatus.INTERRUPTED
        assert process.stderr is not None
        assert process.stderr.read() == b""


def wait_until_full(pipe: int) -> None:
    """Wait until the writer of a pipe cannot write any more: its buffer is full."""
    capacity = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    deadline = time.monotonic() + 60
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


def test_cp_to_a_device_writes_to_it_and_leaves_it(
    shell: Shell, origin: CountingOrigin, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with shell.start("cp", *MEMORY, origin.url("a.bin"), fifo) as process:
        assert fifo.read_bytes() == CONTENT
        assert process.wait(timeout=60) == 0
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


def test_cp_asks_the_origin_once_about_a_file(shell: Shell, origin: CountingOrigin, tmp_path: Path) -> None:
    shell.output("cat", origin.url("a.bin"))
    asked = origin.n_requests
    shell.output("cp", origin.url("a.bin"), tmp_path / "copy")
    assert origin.n_requests == asked + 1


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


def test_cp_of_several_files_wants_a_directory(shell: Shell, origin: CountingOrigin, tmp_path: Path) -> None:
    url = origin.url("a.bin")
    assert "not a directory" in shell.complaint(ExitStatus.USAGE, "cp", *MEMORY, url, url, tmp_path / "x")
    assert "DEST" in shell.complaint(ExitStatus.USAGE, "cp", *MEMORY, url)


def test_cp_names_a_destination_it_cannot_write(shell: Shell, origin: CountingOrigin, tmp_path: Path) -> None:
    target = tmp_path / "missing" / "copy"
    complaint = shell.complaint(ExitStatus.OUTPUT, "cp", *MEMORY, origin.url("a.bin"), target)
    assert complaint == f"{target}: No such file or directory"


def test_a_full_disk_is_the_destinations_fault(shell: Shell, origin: CountingOrigin) -> None:
    complaint = shell.complaint(ExitStatus.OUTPUT, "cp", *MEMORY, origin.url("a.bin"), "/dev/full")
    assert "No space left" in complaint


# -- ls, stat, stats, plugins ------------------------------------------------------------


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


def test_ls_offline_has_nothing_to_list(shell: Shell, tmp_path: Path) -> None:
    assert "not cached" in shell.complaint(ExitStatus.NOT_CACHED, "ls", "--offline", tmp_path.as_uri())


def test_stat_shows_which_version_a_file_is(shell: Shell, origin: CountingOrigin) -> None:
    facts = json.loads(shell.output("stat", "--json", origin.url("a.bin")))
    assert (facts["kind"], facts["size"], facts["strength"]) == ("file", len(CONTENT), "strong")
    assert origin.etag("a.bin").strip('"') in facts["evidence"]
    text = shell.output("stat", origin.url("a.bin")).decode()
    assert re.search(rf"^size +{len(CONTENT)}$", text, re.MULTILINE)


def test_stat_shows_what_is_cached(shell: Shell, origin: CountingOrigin, cachefiles: str) -> None:
    url = origin.url("a.bin")
    stat = ("stat", "--cache", cachefiles, url)
    assert json.loads(shell.output(*stat, "--json"))["cached"] is None
    assert re.search(r"^cached +-$", shell.output(*stat).decode(), re.MULTILINE)
    shell.output("cat", "--cache", cachefiles, url)
    cached = json.loads(shell.output(*stat, "--json"))["cached"]
    assert (cached["cache"], cached["bytes"], cached["size"]) == ("cachefiles", len(CONTENT), len(CONTENT))
    assert f"{len(CONTENT)} bytes in cachefiles, checked " in shell.output(*stat).decode()
    origin.put("a.bin", CONTENT[1:])
    assert "of another version in cachefiles" in shell.output(*stat).decode()


def test_stat_offline_reads_the_label(shell: Shell, origin: CountingOrigin, cachefiles: str) -> None:
    shell.output("cat", "--cache", cachefiles, origin.url("a.bin"))
    origin.stop()
    facts = json.loads(
        shell.output("stat", "--json", "--offline", "--cache", cachefiles, origin.url("a.bin"))
    )
    assert facts["size"] == len(CONTENT)


def test_stats_tells_of_the_cache_and_counts(shell: Shell, tmp_path: Path, cachefiles: str) -> None:
    found = json.loads(shell.output("stats", "--json", "--cache", cachefiles))
    assert found["caches"][0]["backend"] == "cachefiles"
    assert found["caches"][0]["dir"] == str(tmp_path / "cache")
    assert found["counters"]["objects_alc"] == 1
    text = shell.output("stats", "--cache", "memory:tag=mine").decode()
    assert text.startswith("tag=mine backend=memory\nFS-Cache statistics\n")
    assert b"# TYPE fscache_lookups_n_total counter" in shell.output("stats", "--prometheus", *MEMORY)


def test_plugins_lists_what_is_installed_without_importing_it(shell: Shell, plugin_directory: Path) -> None:
    install(plugin_directory, "fscache-broken", "fscache.backend", "broken = no_such_module:Backend")
    lines = shell.output("plugins").decode().splitlines()
    assert "backend\tbroken\tfscache-broken 1.0\tno_such_module:Backend" in lines
    found = json.loads(shell.output("plugins", "--json"))
    assert {"memory", "cachefiles", "broken"} <= {each["name"] for each in found}


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


def test_a_plugin_that_cannot_be_imported_is_named_with_its_distribution(
    shell: Shell, plugin_directory: Path
) -> None:
    install(plugin_directory, "fscache-broken", "fscache.backend", "broken = no_such_module:Backend")
    complaint = shell.complaint(ExitStatus.BROKEN_PLUGIN, "cat", "--cache", "broken", "file:///etc/hostname")
    assert "fscache-broken 1.0" in complaint
    assert "no_such_module" in complaint


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
    assert b"Traceback" in shell.run("--traceback", *arguments).stderr


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


def test_a_url_without_an_adapter_lists_the_schemes_there_are(shell: Shell) -> None:
    complaint = shell.complaint(ExitStatus.NO_NETFS, "cat", *MEMORY, "gopher://x/y")
    assert "gopher://" in complaint
    assert "sshfs://" in complaint


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
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
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
    shell.environment |= {
        "AWS_ENDPOINT_URL": fscache_s3.endpoint,
        "AWS_REGION": fscache_s3.region,
        "AWS_ACCESS_KEY_ID": fscache_s3.access_key,
        "AWS_SECRET_ACCESS_KEY": fscache_s3.secret_key,
    }
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
        ("cat", "--config", "/no/such/file", "file:///x"),
    ],
)
def test_a_malformed_command_line_is_one_line(shell: Shell, arguments: tuple[str, ...]) -> None:
    shell.complaint(ExitStatus.USAGE, *arguments)


@pytest.mark.parametrize("command", ["", "cat", "cp", "ls", "stat", "stats", "plugins"])
def test_every_command_has_help(shell: Shell, command: str) -> None:
    text = shell.output(*command.split(), "--help").decode()
    assert text.startswith("Usage: ")


def test_reading_a_cached_file_imports_nothing_that_only_others_need(
    shell: Shell, origin: CountingOrigin, cachefiles: str, tmp_path: Path
) -> None:
    """What keeps a cached read short.  Its time is measured by the benchmarks, not here."""
    shell.output("cat", "--cache", cachefiles, origin.url("a.bin"))
    program = (
        "import sys; from fscache_core.cli import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    arguments = ["cat", "--cache", cachefiles, "--offline", origin.url("a.bin")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=shell.environment, capture_output=True, check=True
    )
    assert done.stdout == CONTENT
    unneeded = {"rich", "asyncio", "asyncssh", "obstore", "httpx", "ssl_match_hostname", "tomllib", "pytest"}
    assert not unneeded & set(done.stderr.decode().split())
