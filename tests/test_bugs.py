"""A bug of core's own, planted in one of its tasks, costs an object or a fetch and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core import fetch, object_change, page, write_behind
from fscache_core.cookie import Cookie
from fscache_core.domain import Limits
from fscache_core.errors import FscacheError
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.fscache import open_fscache
from fscache_core.hookspecs import cache_hook
from fscache_core.inode import Inode
from fscache_core.object_state import STATES
from fscache_core.outcome import LockOutcome, ReadOutcome
from fscache_core.state_machine import StateMachine
from fscache_core.testing.cache_session import Session, content, open_session
from fscache_core.testing.faulty import Fail, Faults, Hang
from fscache_core.testing.one_file import OneFile
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.object import CacheObject

SIZE = 8 * PAGE_SIZE
WORK = [state.work for state in STATES.values() if state.work is not None]
PROCESSORS = {
    "invalidate_object": object_change,
    "attr_changed": object_change,
    "_write_behind": write_behind,
}


def plant(patch: pytest.MonkeyPatch, place: object, name: str, *, after: bool, always: bool) -> list[str]:
    """Have a method raise before or after it does its work; returns what it was called for."""
    work: Callable[..., Awaitable[object]] = getattr(place, name)
    calls: list[str] = []

    async def buggy(*args: object) -> object:
        calls.append(name)
        planted = always or len(calls) == 1
        if planted and not after:
            raise ZeroDivisionError("planted")
        result = await work(*args)
        if planted:
            raise ZeroDivisionError("planted")
        return result

    patch.setattr(place, name, buggy)
    return calls


def plant_at_once(
    patch: pytest.MonkeyPatch, place: object, name: str, *, after: bool, always: bool
) -> list[str]:
    """`plant` for a method that is not async."""
    work: Callable[..., object] = getattr(place, name)
    calls: list[str] = []

    def buggy(*args: object) -> object:
        calls.append(name)
        planted = always or len(calls) == 1
        if planted and not after:
            raise ZeroDivisionError("planted")
        result = work(*args)
        if planted:
            raise ZeroDivisionError("planted")
        return result

    patch.setattr(place, name, buggy)
    return calls


async def use_everything(session: Session, faults: Faults) -> None:
    """Take every state at least once, and read right bytes or none all the while."""
    data = content(b"v1", SIZE)
    for key in (b"old", b"file", b"old"):
        cookie = await session.file(key, size=SIZE)
        for _ in range(2):
            outcome, pages = await session.read(cookie, 0, 8)
            assert all(found == data[at * PAGE_SIZE :][:PAGE_SIZE] for at, found in pages.items())
            if outcome is not ReadOutcome.HIT:
                await page.write_page(cookie, Folio(0, memoryview(data)))
            await cookie.wait_on_stores()
            cookie.update()
            cookie.attr_changed()
        cookie.invalidate()
        await cookie.wait_on_invalidate()
        assert not (await session.read(cookie, 0, 8))[1]
        await cookie.relinquish(retire=key == b"file")
    await (await session.file(b"absent", aux=None)).relinquish()
    with trio.CancelScope() as at_once:
        at_once.cancel()
        await session.file(b"given up")
    # A directory that dies while a file waits for it.
    directory = session.index(b"directory")
    stuck = faults.arm("lookup_object", Hang())
    with trio.move_on_after(1):
        await session.file(b"below", below=directory)
    for obj in directory.objects:
        obj.abort()
    stuck.release()
    await session.cache.withdraw()


@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", [*WORK, *PROCESSORS])
async def test_a_bug_in_a_state_or_operation_hangs_nobody(
    name: str,
    after: bool,
    always: bool,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    fscache_bugs: list[str],
) -> None:
    backend, faults = MemoryBackend(), Faults()
    async with open_session(backend) as session:
        await session.fill(await session.file(b"old", size=SIZE))
    calls = plant(monkeypatch, PROCESSORS.get(name, StateMachine), name, after=after, always=always)
    with trio.fail_after(1000):
        async with open_session(
            backend, wrappers=[faults], limits=Limits(hook_seconds=5, drop_seconds=2)
        ) as session:
            await use_everything(session, faults)
            assert not session.cache.objects
            assert session.domain.stats.ops_ini == session.domain.stats.ops_rel
            assert session.domain.stores_size == 0
    assert calls, "it was never reached"
    assert fscache_bugs
    assert all("ZeroDivisionError: planted" in bug for bug in fscache_bugs)
    fscache_bugs.clear()


@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", ["_next_state", "_enter"])
async def test_a_bug_between_states_hangs_nobody(
    name: str,
    after: bool,
    always: bool,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    fscache_bugs: list[str],
) -> None:
    backend, faults = MemoryBackend(), Faults()
    async with open_session(backend) as session:
        await session.fill(await session.file(b"old", size=SIZE))
    calls = plant_at_once(monkeypatch, StateMachine, name, after=after, always=always)
    with trio.fail_after(1000):
        async with open_session(
            backend, wrappers=[faults], limits=Limits(hook_seconds=5, drop_seconds=2)
        ) as session:
            await use_everything(session, faults)
            assert not session.cache.objects
            assert session.domain.stats.ops_ini == session.domain.stats.ops_rel
            assert session.domain.stores_size == 0
    assert calls, "it was never reached"
    assert fscache_bugs
    assert all("ZeroDivisionError: planted" in bug for bug in fscache_bugs)
    fscache_bugs.clear()


@pytest.mark.parametrize(
    "hook", ["alloc_object", "lookup_object", "update_object", "write_page", "drop_object"]
)
async def test_ctrl_c_in_a_hook_ends_the_program_with_the_cache_withdrawn(
    hook: str, autojump_clock: trio.testing.MockClock
) -> None:
    """It may hit any task that happens to run."""
    faults, caches = Faults(), []
    faults.arm(hook, Fail(KeyboardInterrupt()), at=3 if hook in ("alloc_object", "lookup_object") else 1)

    async def use() -> None:
        with trio.fail_after(1000):
            async with open_session(MemoryBackend(), wrappers=[faults]) as session:
                caches.append(session.cache)
                cookie = await session.file(size=SIZE)
                await session.fill(cookie)
                cookie.update()
                await trio.testing.wait_all_tasks_blocked()
                await cookie.relinquish()
                await trio.sleep_forever()

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        await use()
    assert isinstance(caught.value, KeyboardInterrupt) or caught.group_contains(KeyboardInterrupt)
    (cache,) = caches
    assert cache.withdrawn
    assert not cache.objects


async def test_what_a_bug_left_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, fscache_bugs: list[str]
) -> None:
    async with open_session(MemoryBackend()) as session:
        cookie = await session.file(size=SIZE)
        await session.fill(cookie)
        with monkeypatch.context() as patch:
            plant(patch, StateMachine, "_update_object", after=False, always=True)
            cookie.update()
            await session.object(cookie).wait_dead()
        await cookie.relinquish()
        assert (await session.read(await session.file(size=SIZE), 0, 8))[0] is ReadOutcome.NO_DATA
    assert [bug for bug in fscache_bugs if "state UPDATE_OBJECT" in bug]
    fscache_bugs.clear()


class LockingBackend(MemoryBackend):
    """One with a fill lock, which is always free."""

    @cache_hook
    async def lock_pages(self, obj: CacheObject, first: int, n_pages: int, seconds: float) -> LockOutcome:
        return LockOutcome.LOCKED

    @cache_hook
    def unlock_pages(self, obj: CacheObject, first: int, n_pages: int) -> None:
        pass


class Shelf(OneFile):
    name = "shelf"


@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("place", "name"),
    [
        (fetch, "lock_pages"),
        (fetch, "read_or_alloc_pages"),
        (fetch, "write_page_nowait"),
        (Cookie, "wait_on_page_write"),
        (fetch, "unlock_pages"),
        (Inode, "fetch_ended"),
    ],
)
async def test_a_bug_in_a_fetch_fails_this_fetch_and_its_reader_is_told(
    place: object,
    name: str,
    after: bool,
    always: bool,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    fscache_bugs: list[str],
) -> None:
    data, piece, failures = content(b"v1", 8 << 20), 1 << 18, []
    with trio.fail_after(1000):
        async with open_fscache() as fscache:
            await fscache.add_cache(LockingBackend())
            fscache.add_netfs(Shelf(data))
            with monkeypatch.context() as patch:
                sync = name in ("write_page_nowait", "unlock_pages", "fetch_ended")
                plant_in = plant_at_once if sync else plant
                calls = plant_in(patch, place, name, after=after, always=always)
                async with await fscache.open_file("shelf://a") as file:
                    for offset in range(0, len(data), piece):
                        try:
                            assert await file.read(offset, piece) == data[offset : offset + piece]
                        except FscacheError as error:
                            failures.append(str(error))
                    await trio.testing.wait_all_tasks_blocked()
            for path in ("a", "b"):
                async with await fscache.open_file(f"shelf://{path}") as file:
                    assert await file.read(0, len(data)) == data
    assert calls, "it was never reached"
    assert fscache_bugs
    assert all("Fetch pages" in bug and "ZeroDivisionError: planted" in bug for bug in fscache_bugs)
    fscache_bugs.clear()
    assert all("shelf://a, bytes" in told and "ZeroDivisionError: planted" in told for told in failures)
    if always and name in ("lock_pages", "read_or_alloc_pages"):
        assert len(failures) == len(data) // piece


async def test_a_bug_in_another_task_ends_the_cache_with_it() -> None:
    async def buggy() -> None:
        raise ZeroDivisionError("planted")

    caches = []

    async def use() -> None:
        async with open_fscache() as fscache:
            caches.append(await fscache.add_cache(MemoryBackend()))
            fscache.domain.spawn(buggy, "buggy")
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await use()
    assert caught.group_contains(ZeroDivisionError, match="planted")
    (cache,) = caches
    assert cache.withdrawn
    assert not cache.objects
