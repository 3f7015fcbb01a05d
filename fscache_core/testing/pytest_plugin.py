"""Fixtures for whoever tests an adapter or a backend; pytest finds them where fscache-core is installed.

Servers start when the first test asks, and serve the whole session: use names of your own in them, and bring
back what you stop. What is not installed skips the test, with the reason.

A bug of core's own that core got over must not go unnoticed: it fails the test during which it was logged,
without being asked for (`fscache_bugs`).  And what skips says why, also in async tests.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from fscache_core.testing.filesystems import FilesystemKind
    from fscache_core.testing.http_origin import CountingOrigin
    from fscache_core.testing.s3_server import S3Server
    from fscache_core.testing.sftp_server import SftpServer

# Nothing of fscache_core is imported before a fixture is used: pytest loads this module in every project that
# has fscache-core installed.
_MOUNT_SIZE = 512 << 20


class _Bugs(logging.Handler):
    """Keeps what is logged as critical, which core does with its own bugs alone."""

    def __init__(self) -> None:
        super().__init__(logging.CRITICAL)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture(autouse=True)
def fscache_bugs() -> Iterator[list[str]]:
    """What core logged as its own bugs.  A test that plants one looks, and clears the list."""
    bugs, log = _Bugs(), logging.getLogger("fscache")
    log.addHandler(bugs)
    yield bugs.messages
    log.removeHandler(bugs)
    if bugs.messages:
        pytest.fail("\n".join(["core got over a bug of its own:", *bugs.messages]))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Give a test that is skipped within a nursery its reason back, which pytest-trio drops."""
    try:
        return (yield)
    except pytest.skip.Exception as skip:
        reason = skip.__context__
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        if skip.msg or not isinstance(reason, pytest.skip.Exception):
            raise
        raise reason from None


@pytest.fixture(scope="session")
def fscache_sftp() -> Iterator[SftpServer]:
    """A running SFTP server: OpenSSH, else asyncssh."""
    from fscache_core.testing.sftp_server import sftp_server
    from fscache_core.testing.workspace import ServerNotInstalledError

    try:
        server = sftp_server()
    except ServerNotInstalledError as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def fscache_s3() -> Iterator[S3Server]:
    """A running S3 server: Ceph, else moto.  Skip what is in its ``lacks``."""
    from fscache_core.testing.s3_server import s3_server
    from fscache_core.testing.workspace import ServerNotInstalledError

    try:
        server = s3_server()
    except ServerNotInstalledError as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def fscache_http_origin() -> Iterator[CountingOrigin]:
    """An empty `CountingOrigin` of the test's own: it starts in milliseconds, and counts start at nothing."""
    from fscache_core.testing.http_origin import CountingOrigin

    with CountingOrigin() as origin:
        yield origin


@pytest.fixture(scope="session")
def _fscache_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[FilesystemKind], Path]]:
    """Root of the session's one mount of each kind."""
    from fscache_core.testing.filesystems import loop_mount

    paths: dict[FilesystemKind, Path] = {}
    with ExitStack() as mounts:

        def mount(kind: FilesystemKind) -> Path:
            if kind not in paths:
                directory = tmp_path_factory.mktemp(f"fscache-{kind}")
                paths[kind] = mounts.enter_context(loop_mount(kind, _MOUNT_SIZE, directory)).path
            return paths[kind]

        yield mount


_directory_numbers = itertools.count()


@pytest.fixture(params=["ext4", "xfs", "btrfs", "tmpfs"])
def fscache_filesystem(
    request: pytest.FixtureRequest, _fscache_mount: Callable[[FilesystemKind], Path]
) -> Iterator[Path]:
    """A fresh directory (0700) on each filesystem in turn, 512 MiB large."""
    from fscache_core.testing.filesystems import why_unavailable

    kind: FilesystemKind = request.param
    if (why := why_unavailable(kind)) is not None:
        pytest.skip(why)
    directory = _fscache_mount(kind) / f"test-{next(_directory_numbers)}"
    directory.mkdir(mode=0o700)
    yield directory
    shutil.rmtree(directory)
