"""The tracing wrapper by itself; that core applies wrappers is tested with core."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import pytest
import trio

from fscache_core.errors import CacheIOError, CallerError
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.outcome import LookupOutcome
from fscache_core.testing.cache_session import open_session
from fscache_core.tracing import Debug, Tracing
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Sequence


async def lookup_object(obj: object) -> LookupOutcome:
    del obj
    await trio.lowlevel.checkpoint()
    return LookupOutcome.CREATED


async def failing(obj: object) -> None:
    del obj
    raise CacheIOError("the disk is gone")


def read_resident(obj: object, offset: int, buffer: memoryview) -> int:
    del obj, offset
    return len(buffer)


def read_pages(folios: Sequence[Folio]) -> None:
    del folios


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="fscache.trace")
    return caplog


async def test_enter_and_leave_are_logged_with_arguments_and_result(lines: pytest.LogCaptureFixture) -> None:
    assert await Tracing().wrap("lookup_object", lookup_object)("file") is LookupOutcome.CREATED
    assert lines.messages == ["==> lookup_object('file')", "<== lookup_object('file') = CREATED"]


async def test_the_mask_chooses_what_is_logged(lines: pytest.LogCaptureFixture) -> None:
    for debug, begins in (
        (0, []),
        (1, ["==>"]),
        (2, ["<=="]),
        (4, ["   "]),
        (7, ["==>", "   ", "<=="]),
    ):
        lines.clear()
        await Tracing(debug).wrap("lookup_object", lookup_object)("file")
        assert [message[:3] for message in lines.messages] == begins


async def test_objects_and_operations_are_named_as_everywhere(lines: pytest.LogCaptureFixture) -> None:
    async with open_session(MemoryBackend(), wrappers=[Tracing(3)]) as session:
        cookie = await session.file(size=5000)
        name = f"OBJ{session.object(cookie).debug_id:x}"
        await session.fill(cookie)
    text = "\n".join(lines.messages)
    assert f"==> lookup_object({name})\n<== lookup_object({name}) = CREATED\n" in text
    assert re.search(
        r"==> write_page\(OP[0-9a-f]+, 0\+2\)\n<== write_page\(OP[0-9a-f]+, 0\+2\) = STORED\n", text
    )
    assert f"==> drop_object({name})\n<== drop_object({name})\n" in text


async def test_the_mask_can_be_changed_while_a_cache_is_in_use(lines: pytest.LogCaptureFixture) -> None:
    tracing = Tracing("0")
    hook = tracing.wrap("lookup_object", lookup_object)
    await hook("a")
    tracing.debug = Debug.ENTER
    await hook("b")
    assert lines.messages == ["==> lookup_object('b')"]


async def test_an_exception_is_logged_and_goes_on(lines: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CacheIOError):
        await Tracing().wrap("update_object", failing)("file")
    assert lines.messages[-1] == "<== update_object('file') raised CacheIOError: the disk is gone"


async def test_cancellation_is_logged_and_goes_on(lines: pytest.LogCaptureFixture) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await Tracing().wrap("lookup_object", lookup_object)("file")
    assert scope.cancelled_caught
    assert lines.messages[-1] == "<== lookup_object('file') was cancelled"


def test_bytes_of_buffers_and_folios_are_not_logged(lines: pytest.LogCaptureFixture) -> None:
    buffer = memoryview(bytearray(2 * PAGE_SIZE))
    Tracing(1).wrap("read_resident", read_resident)("file", 5, buffer)
    Tracing(1).wrap("read_pages", read_pages)([Folio(3, buffer)])
    assert lines.messages == ["==> read_resident('file', 5, <8192 bytes>)", "==> read_pages([3+2])"]


def test_a_hook_may_be_called_outside_of_trio(lines: pytest.LogCaptureFixture) -> None:
    assert Tracing(4).wrap("read_resident", read_resident)("file", 0, memoryview(b"x")) == 1
    assert lines.messages[0].endswith("in no task")


def test_a_mask_that_is_no_number_is_the_callers_error() -> None:
    with pytest.raises(CallerError, match="verbose"):
        Tracing("verbose")


def test_a_hook_that_is_not_async_is_logged_as_the_mask_says(lines: pytest.LogCaptureFixture) -> None:
    tracing = Tracing(0)
    traced = tracing.wrap("read_resident", read_resident)
    assert traced("file", 0, memoryview(b"x")) == 1
    assert lines.messages == []
    tracing.debug = Debug.LEAVE
    assert traced("file", 0, memoryview(b"x")) == 1
    assert lines.messages == ["<== read_resident('file', 0, <1 bytes>) = 1"]


def test_what_a_hook_that_is_not_async_raises_is_logged_and_goes_on(lines: pytest.LogCaptureFixture) -> None:
    def broken(obj: object) -> None:
        raise OSError("no such disk")

    with pytest.raises(OSError, match="no such disk"):
        Tracing(Debug.LEAVE).wrap("update_object", broken)("file")
    assert lines.messages == ["<== update_object('file') raised OSError: no such disk"]
