"""The fill lock: one process fetches a range, the others wait for what it stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core.domain import Limits
from fscache_core.fill_lock import lock_pages, unlock_pages
from fscache_core.folio import PAGE_SIZE
from fscache_core.hookspecs import cache_hook
from fscache_core.outcome import LockOutcome
from fscache_core.testing.cache_session import open_session
from fscache_core.testing.faulty import Fail, Faults
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from fscache_core.object import CacheObject

SIZE = 16 * PAGE_SIZE


class Locking(MemoryBackend):
    """A memory backend whose fill lock is held by somebody else for so many attempts."""

    def __init__(self, n_refusals: float) -> None:
        super().__init__()
        self.n_refusals = n_refusals
        self.held: list[tuple[int, int]] = []

    @cache_hook
    async def lock_pages(self, obj: CacheObject, first: int, n_pages: int, seconds: float) -> LockOutcome:
        if self.n_refusals > 0:
            self.n_refusals -= 1
            await trio.sleep(seconds)
            return LockOutcome.CHANGED
        self.held.append((first, n_pages))
        return LockOutcome.LOCKED

    @cache_hook
    def unlock_pages(self, obj: CacheObject, first: int, n_pages: int) -> None:
        self.held.remove((first, n_pages))


async def yes() -> bool:
    return True


async def test_a_fill_lock_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    backend = Locking(3)
    async with open_session(backend) as session:
        cookie = await session.file(size=SIZE)
        obj = await lock_pages(cookie, 2, 5, yes)
        assert obj is cookie.objects[0]
        assert backend.held == [(2, 5)]
        unlock_pages(obj, 2, 5)
        assert backend.held == []


async def test_a_fill_lock_is_not_taken_once_nothing_is_missing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def no() -> bool:
        return False

    async with open_session(Locking(3)) as session:
        assert await lock_pages(await session.file(size=SIZE), 2, 5, no) is None


async def test_a_fill_lock_that_is_never_free_does_not_keep_anybody_from_fetching(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_session(Locking(float("inf"))) as session:
        cookie = await session.file(size=SIZE)
        started = trio.current_time()
        assert await lock_pages(cookie, 2, 5, yes) is None
        assert trio.current_time() - started <= session.domain.limits.hook_seconds + 1
    assert "locked elsewhere" in caplog.text


async def test_a_fill_lock_of_a_dying_object_or_a_broken_cache_is_not_asked_for() -> None:
    backend = Locking(0)
    async with open_session(backend) as session:
        cookie = await session.file(size=SIZE)
        obj = session.object(cookie)
        obj.live = False
        assert await lock_pages(cookie, 2, 5, yes) is None
        obj.live = True
        session.cache.broken = True
        assert await lock_pages(cookie, 2, 5, yes) is None
        session.cache.broken = False
        assert backend.held == []
        assert await lock_pages(cookie, 2, 5, yes) is obj
        unlock_pages(obj, 2, 5)


@pytest.mark.parametrize("hook_seconds", [0.01, 1.0, 60.0])
async def test_a_fill_lock_may_be_waited_for_as_long_as_a_hook_may_take(
    hook_seconds: float, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_session(Locking(float("inf")), limits=Limits(hook_seconds=hook_seconds)) as session:
        cookie = await session.file(size=SIZE)
        assert await lock_pages(cookie, 2, 5, yes) is None
        assert session.object(cookie).active, "a backend that only waits has not hung"
    assert "did not return" not in caplog.text


async def test_a_backend_that_fails_to_lock_or_unlock_keeps_nobody_from_fetching(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = Faults()
    async with open_session(Locking(0), wrappers=[faults]) as session:
        cookie = await session.file(size=SIZE)
        faults.arm("unlock_pages", Fail(ZeroDivisionError("a bug")))
        obj = await lock_pages(cookie, 2, 5, yes)
        assert obj is not None
        unlock_pages(obj, 2, 5)
        await obj.wait_dead()
        unlock_pages(obj, 2, 5)  # gone with its object
        cookie.acquire_objects()
        await cookie.wait_lookup()
        faults.arm("lock_pages", Fail(ZeroDivisionError("a bug")))
        assert await lock_pages(cookie, 2, 5, yes) is None
        await cookie.objects[0].wait_dead()
        assert await lock_pages(cookie, 2, 5, yes) is None
