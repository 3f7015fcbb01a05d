"""What the rows stand on: how large things are, a directory, and what is expensive to make, made once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from benchmarks.made import MadeNetfs
from benchmarks.rounds import Rounds
from benchmarks.row import SkippedError
from fscache_core import blocking
from fscache_core.testing.s3_server import s3_server
from fscache_core.testing.sftp_server import sftp_server
from fscache_core.testing.workspace import ServerNotInstalledError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fscache_core.testing.s3_server import S3Server
    from fscache_core.testing.sftp_server import SftpServer

MIB = 1 << 20
BUCKET = "fscache-bench"


class Stage:
    """Everything on it is gone when it is closed.

    Args:
      quick: small and few, to find out what is broken; the figures mean little.
      directory: where to put files and caches; must be on the filesystem to measure.
    """

    def __init__(self, *, quick: bool, directory: Path) -> None:
        self.quick = quick
        self.n_rounds = 2 if quick else 7
        self._stack = ExitStack()
        self.directory = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fscache-bench-", dir=directory))
        )
        self._n_names = 0

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rounds(self) -> Rounds:
        return Rounds(self.n_rounds)

    def short_rounds(self) -> Rounds:
        """For sides that take a tenth of a millisecond: less than the scheduler gives anybody at a time."""
        return Rounds(self.n_rounds * 100)

    def new_path(self, name: str) -> Path:
        """A path that nothing is at."""
        self._n_names += 1
        return self.directory / f"{name}-{self._n_names}"

    def have_memory(self, size: int) -> None:
        """Have ``size`` bytes of memory at hand for the files that the next side writes.

        Free memory of a virtual machine may have gone back to its host.  To get it again costs ten times what
        is done with it, and falls to whoever writes next, whichever side that is.
        """
        piece = bytes(MIB)
        with tempfile.TemporaryFile(dir=self.directory) as file:
            for _ in range(-(-size // MIB)):
                file.write(piece)

    @property
    def filesystem(self) -> str:
        """Kind of the filesystem below the directory."""
        done = subprocess.run(
            ["stat", "-f", "-c", "%T", self.directory], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    # -- files -----------------------------------------------------------------------------

    @property
    def large_size(self) -> int:
        """Bytes of the file of the rows about one large file."""
        return (64 if self.quick else 512) * MIB

    @property
    def large_url(self) -> str:
        return f"made://{self.large_size}/large"

    @cached_property
    def large_cache(self) -> Path:
        """A cache directory that holds all of the large file, and nothing else."""
        directory = self.new_path("cache")
        with blocking.open_fscache() as fscache:
            fscache.add_cache("cachefiles", dir=str(directory))
            fscache.add_netfs(MadeNetfs())
            read_whole(fscache, self.large_url)
        return directory

    @property
    def large_stored(self) -> Path:
        """The file in `large_cache` that has the bytes: raw reads of it share every page with ours."""
        (stored,) = (self.large_cache / "cache").rglob("data")
        return stored

    # -- servers ---------------------------------------------------------------------------

    @cached_property
    def cold_size(self) -> int:
        """Bytes of the file that is read cold."""
        return (32 if self.quick else 256) * MIB

    @cached_property
    def sftp(self) -> SftpServer:
        """With ``cold`` and ``warm-up`` in its root."""
        try:
            server = sftp_server()
        except ServerNotInstalledError as error:
            raise SkippedError(str(error)) from error
        self._stack.callback(server.close)
        make_file(server.root / "cold", self.cold_size)
        make_file(server.root / "warm-up", 4096)
        return server

    @cached_property
    def s3(self) -> S3Server:
        """With the objects ``cold`` and ``warm-up`` in `BUCKET`."""
        try:
            server = s3_server()
        except ServerNotInstalledError as error:
            raise SkippedError(str(error)) from error
        self._stack.callback(server.close)
        server.create_bucket(BUCKET)
        server.put(BUCKET, "cold", make_file(self.new_path("cold"), self.cold_size))
        server.put(BUCKET, "warm-up", make_file(self.new_path("warm-up"), 4096))
        return server


def make_file(path: Path, size: int, seed: int = 1) -> Path:
    """A file of incompressible bytes, long unchanged, so that its timestamp is evidence of its version."""
    chooser = random.Random(seed)
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(chooser.randbytes(min(MIB, size - start)))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def read_whole(fscache: blocking.BlockingFsCache, url: str) -> None:
    buffer = bytearray(MIB)
    with fscache.open_file(url) as file:
        while file.readinto(buffer):
            pass


def digest_of(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while data := file.read(MIB):
            digest.update(data)
    return digest.hexdigest()


def run_python(module: str, *arguments: object) -> str:
    """Standard output of a module of ours in a process of its own."""
    done = subprocess.run(
        _python_command(module, arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def start_python(module: str, *arguments: object) -> subprocess.Popen[str]:
    """`run_python` without waiting."""
    return subprocess.Popen(
        _python_command(module, arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )


def _python_command(module: str, arguments: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]
