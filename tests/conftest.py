"""A bug that core got over must not go unnoticed: it fails the test that saw it."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Started in the background of a shell, pytest ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class _Bugs(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.CRITICAL)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture(autouse=True)
def core_bugs() -> Iterator[list[str]]:
    """What core logged as its own bugs.  A test that plants one looks, and clears the list."""
    bugs, log = _Bugs(), logging.getLogger("fscache")
    log.addHandler(bugs)
    yield bugs.messages
    log.removeHandler(bugs)
    assert not bugs.messages
