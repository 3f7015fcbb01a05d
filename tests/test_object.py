"""The object state machine: every transition of its table, and what the states do."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core.cookie import Cookie, CookieDefinition, acquire_cookie
from fscache_core.domain import Limits
from fscache_core.errors import CacheIOError, FscacheError, NoSpaceError, PluginError
from fscache_core.folio import PAGE_SIZE
from fscache_core.fscache import open_fscache
from fscache_core.hookspecs import cache_hook
from fscache_core.object import STATES, CacheObject, object_states, transitions
from fscache_core.outcome import CookieType, KillReason, LookupOutcome, ReadOutcome, WriteOutcome
from fscache_core.state_machine import StateMachine
from fscache_core.testing.cache_session import OriginFile, Session, content, open_session, origin_file
from fscache_core.testing.faulty import Answer, Delay, Fail, Faults, Hang, Run
from fscache_memory import MemoryBackend
from fscache_memory.backend import MemoryObject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from random import Random

    from fscache_core.cache import Cache

SIZE = 8 * PAGE_SIZE


class Bench:
    """A cache with a fault injector, a log of its transitions, and files to play with."""

    def __init__(self, session: Session, faults: Faults, backend: MemoryBackend) -> None:
        self.session, self.faults, self.backend = session, faults, backend

    def start(self, key: bytes = b"file", *, below: Cookie | None = None) -> Cookie:
        """Acquire a cookie without waiting for anything."""
        definition = CookieDefinition(
            "test",
            CookieType.DATA,
            get_key=lambda data: origin_file(data).key,
            get_attr=lambda data: origin_file(data).size,
            get_aux=lambda data: origin_file(data).aux,
        )
        data = OriginFile(key, size=SIZE)
        return acquire_cookie(self.session.domain, below or self.session.volume, definition, data)

    async def file(self, key: bytes = b"file") -> Cookie:
        """A cookie whose object rests in WAIT_FOR_CMD."""
        cookie = self.start(key)
        await cookie.wait_lookup()
        await trio.testing.wait_all_tasks_blocked()
        assert state_of(cookie) == "WAIT_FOR_CMD"
        return cookie

    async def settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked()


def state_of(cookie: Cookie) -> str:
    return cookie.objects[0].state.name


@pytest.fixture
async def bench(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Bench]:
    caplog.set_level(logging.DEBUG, "fscache")
    faults, backend = Faults(), MemoryBackend()
    limits = Limits(debug=4)
    async with open_session(backend, wrappers=[faults], limits=limits) as session:
        yield Bench(session, faults, backend)
        faults.disarm()


def seen(caplog: pytest.LogCaptureFixture) -> set[tuple[str, str, str]]:
    """The transitions that were logged."""
    found = (re.fullmatch(r"OBJ\w+: (\w+) -(\w*)-> (\w+)", message) for message in caplog.messages)
    return {(match[1], match[2], match[3]) for match in found if match}


# -- one scenario per way through the machine; each names the transitions it takes -----------

SCENARIOS: dict[tuple[str, str, str], Callable[[Bench], Awaitable[None]]] = {}


def takes(*rows: str) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[Bench], Awaitable[None]]]:
    def register(scenario: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
        for row in rows:
            state, event, target = re.fullmatch(r"(\w+) (?:(\w+) )?-> (\w+)", row).groups()  # type: ignore[union-attr]
            SCENARIOS[state, event or "", target] = scenario
        return scenario

    return register


@takes(
    "WAIT_FOR_INIT NEW_CHILD -> INIT_OBJECT",
    "INIT_OBJECT -> WAIT_FOR_PARENT",
    "WAIT_FOR_PARENT PARENT_READY -> PARENT_READY",
    "PARENT_READY -> LOOK_UP_OBJECT",
    "LOOK_UP_OBJECT -> OBJECT_AVAILABLE",
    "OBJECT_AVAILABLE -> JUMPSTART_DEPS",
    "JUMPSTART_DEPS -> WAIT_FOR_CMD",
)
async def first_file_of_a_volume(bench: Bench) -> None:
    """Its object waits for those of volume and netfs, which are made on the way."""
    cookie = await bench.file()
    assert cookie.objects[0].available


@takes("INIT_OBJECT -> PARENT_READY")
async def second_file_of_a_volume(bench: Bench) -> None:
    await bench.file(b"first")
    await bench.file(b"second")


@takes("INIT_OBJECT -> DROP_OBJECT")
async def parent_dies_before_the_child_begins(bench: Bench) -> None:
    cookie = await bench.file(b"first")
    index = bench.session.volume.objects[0]
    child = bench.start(b"second")
    # As when an index breaks: it dies before the task of its new child has run.
    index.live = False
    await child.wait_lookup()
    await bench.settle()
    assert not child.objects
    index.live = True
    await cookie.relinquish()


@takes("LOOK_UP_OBJECT -> LOOK_UP_OBJECT")
async def lookup_is_stuck_and_tried_again(bench: Bench) -> None:
    bench.faults.arm("lookup_object", Answer(LookupOutcome.RETRY), at=3)
    cookie = bench.start()
    await cookie.wait_lookup()
    assert cookie.objects[0].available
    assert bench.session.domain.stats.lookups_tmo == 1


@takes("LOOK_UP_OBJECT -> LOOKUP_FAILURE", "LOOKUP_FAILURE -> KILL_OBJECT", "KILL_OBJECT -> DROP_OBJECT")
async def lookup_fails(bench: Bench) -> None:
    bench.faults.arm("lookup_object", Fail(FscacheError("not today")), at=3)
    cookie = bench.start()
    await cookie.wait_lookup()
    await bench.settle()
    assert not cookie.objects
    assert cookie.unavailable


@takes("WAIT_FOR_CMD INVALIDATE -> INVALIDATE_OBJECT", "INVALIDATE_OBJECT -> UPDATE_OBJECT")
async def invalidation(bench: Bench) -> None:
    cookie = await bench.file()
    data = content(b"v1", SIZE)
    assert await bench.session.store(cookie, 0, data) is WriteOutcome.STORED
    cookie.invalidate()
    await cookie.wait_on_invalidate()
    assert await bench.session.read(cookie, 0, 8) == (ReadOutcome.NO_DATA, {})


@takes("INVALIDATE_OBJECT -> KILL_OBJECT")
async def invalidation_of_a_stopped_cache(bench: Bench) -> None:
    cookie = await bench.file()
    bench.session.cache.io_error("a test")
    cookie.invalidate()
    await cookie.wait_on_invalidate()
    await bench.settle()
    assert not cookie.objects
    assert cookie.distrusted


@takes("WAIT_FOR_CMD UPDATE -> UPDATE_OBJECT", "UPDATE_OBJECT -> WAIT_FOR_CMD")
async def update(bench: Bench) -> None:
    cookie = await bench.file()
    origin_file(cookie.netfs_data).aux = b"v2"
    cookie.update()
    await bench.settle()
    assert bench.session.domain.stats.updates_run == 1
    assert not cookie.aux_updated


@takes("WAIT_FOR_CMD NEW_CHILD -> JUMPSTART_DEPS")
async def child_that_comes_while_its_parent_is_about_to_rest(bench: Bench) -> None:
    """The child finds its parent unavailable, joins its dependents, and must be woken all the same."""
    stuck = bench.faults.arm("lookup_object", Hang(), at=2)  # the volume's
    first = bench.start(b"first")
    await stuck.wait_hit()
    second = bench.start(b"second")
    await bench.settle()
    assert state_of(second) == "WAIT_FOR_PARENT"
    stuck.release()
    await second.wait_lookup()
    await first.wait_lookup()
    # The index has seen NEW_CHILD while it was looked up: it looks at its dependents once more.
    await bench.settle()


@takes("WAIT_FOR_INIT KILL -> ABORT_INIT", "ABORT_INIT -> KILL_OBJECT", "DROP_OBJECT -> OBJECT_DEAD")
async def relinquished_at_once(bench: Bench) -> None:
    await bench.file(b"first")
    cookie = bench.start(b"second")
    obj = cookie.objects[0]
    await cookie.relinquish()
    await obj.wait_dead()


@takes("WAIT_FOR_INIT ERROR -> ABORT_INIT")
async def aborted_at_once(bench: Bench) -> None:
    await bench.file(b"first")
    cookie = bench.start(b"second")
    cookie.objects[0].abort()
    await cookie.objects[0].wait_dead()


@takes("WAIT_FOR_PARENT KILL -> ABORT_INIT")
async def relinquished_while_waiting_for_its_parent(bench: Bench) -> None:
    stuck = bench.faults.arm("lookup_object", Hang(), at=2)
    cookie = bench.start()
    obj = cookie.objects[0]
    await stuck.wait_hit()
    assert state_of(cookie) == "WAIT_FOR_PARENT"
    await cookie.relinquish()
    await obj.wait_dead()
    assert not bench.session.volume.objects[0].dependents
    stuck.release()


@takes("WAIT_FOR_PARENT ERROR -> ABORT_INIT")
async def aborted_while_waiting_for_its_parent(bench: Bench) -> None:
    stuck = bench.faults.arm("lookup_object", Hang(), at=2)
    obj = bench.start().objects[0]
    await stuck.wait_hit()
    obj.abort()
    await obj.wait_dead()
    stuck.release()


async def ended_between_parent_ready_and_lookup(bench: Bench, end: Callable[[CacheObject], None]) -> None:
    """The window in which the reference forgets to undo what it counted in the parent."""
    await bench.file(b"first")
    cookie = bench.start(b"second")
    obj, parent = cookie.objects[0], bench.session.volume.objects[0]
    ready = StateMachine._parent_ready

    async def ready_and_then_ended(machine: StateMachine) -> str:
        following = await ready(machine)
        assert parent.ops.n_obj_ops == 1
        end(obj)
        return following

    with pytest.MonkeyPatch.context() as patch:  # no hook runs in this window
        patch.setattr(StateMachine, "_parent_ready", ready_and_then_ended)
        await obj.wait_dead()
    assert parent.ops.n_obj_ops == parent.ops.n_ops == 0


@takes("LOOK_UP_OBJECT KILL -> ABORT_INIT")
async def killed_between_parent_ready_and_lookup(bench: Bench) -> None:
    await ended_between_parent_ready_and_lookup(bench, CacheObject.kill)


@takes("LOOK_UP_OBJECT ERROR -> ABORT_INIT")
async def aborted_between_parent_ready_and_lookup(bench: Bench) -> None:
    await ended_between_parent_ready_and_lookup(bench, CacheObject.abort)


async def ended_while_the_lookup_waits(bench: Bench, end: Callable[[CacheObject], None]) -> None:
    bench.faults.arm("lookup_object", Answer(LookupOutcome.RETRY), at=range(3, 1000))
    cookie = bench.start()
    obj = cookie.objects[0]
    await bench.settle()
    end(obj)
    await obj.wait_dead()


@takes("LOOK_UP_OBJECT KILL -> LOOKUP_FAILURE")
async def killed_while_the_lookup_waits(bench: Bench) -> None:
    await ended_while_the_lookup_waits(bench, CacheObject.kill)


@takes("LOOK_UP_OBJECT ERROR -> LOOKUP_FAILURE")
async def aborted_while_the_lookup_waits(bench: Bench) -> None:
    await ended_while_the_lookup_waits(bench, CacheObject.abort)


@takes("OBJECT_AVAILABLE KILL -> LOOKUP_FAILURE")
async def withdrawn_during_lookup(bench: Bench) -> None:
    stuck = bench.faults.arm("lookup_object", Hang(), at=3)
    bench.start()
    await stuck.wait_hit()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.session.cache.withdraw)
        await bench.settle()
        stuck.release()


@takes("OBJECT_AVAILABLE ERROR -> LOOKUP_FAILURE")
async def lookup_flags_an_error(bench: Bench) -> None:
    """``lookup_error`` ends the object although the hook answers as if all were well."""
    cookie = bench.start()
    obj = cookie.objects[0]
    bench.faults.arm("lookup_object", Run(obj.lookup_error, after=True), at=3)
    await obj.wait_dead()
    assert cookie.unavailable


def ended_while_the_lookup_completes(bench: Bench, end: Callable[[CacheObject], None]) -> CacheObject:
    obj = bench.start().objects[0]
    # Behind the hook that frees what the lookup needed, the next state is JUMPSTART_DEPS.
    bench.session.cache.backend.lookup_complete = ending(obj, end)
    return obj


def ending(
    chosen: CacheObject, end: Callable[[CacheObject], None]
) -> Callable[[CacheObject], Awaitable[None]]:
    async def lookup_complete(obj: CacheObject) -> None:
        if obj is chosen and not obj.dying:
            end(obj)

    return lookup_complete


@takes("JUMPSTART_DEPS KILL -> KILL_OBJECT")
async def killed_while_the_lookup_completes(bench: Bench) -> None:
    await ended_while_the_lookup_completes(bench, CacheObject.kill).wait_dead()


@takes("JUMPSTART_DEPS ERROR -> KILL_OBJECT")
async def aborted_while_the_lookup_completes(bench: Bench) -> None:
    await ended_while_the_lookup_completes(bench, CacheObject.abort).wait_dead()


@takes("WAIT_FOR_CMD KILL -> KILL_OBJECT")
async def relinquished(bench: Bench) -> None:
    cookie = await bench.file()
    obj = cookie.objects[0]
    await cookie.relinquish()
    await obj.wait_dead()


@takes("WAIT_FOR_CMD ERROR -> KILL_OBJECT")
async def store_fails(bench: Bench) -> None:
    cookie = await bench.file()
    bench.faults.arm("write_page", Fail(FscacheError("cannot")))
    await bench.session.store(cookie, 0, content(b"v1", SIZE))
    await bench.settle()
    assert not cookie.objects


@takes("KILL_OBJECT -> WAIT_FOR_CLEARANCE", "WAIT_FOR_CLEARANCE CLEARED -> KILL_OBJECT")
async def withdrawn_while_reading(bench: Bench) -> None:
    cookie = await bench.file()
    await bench.session.store(cookie, 0, content(b"v1", SIZE))
    stuck = bench.faults.arm("read_or_alloc_pages", Hang())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.session.read, cookie, 0, 8)
        await stuck.wait_hit()
        nursery.start_soon(bench.session.cache.withdraw)
        await bench.settle()
        assert state_of(cookie) == "WAIT_FOR_CLEARANCE"
        stuck.release()


@takes("KILL_OBJECT -> KILL_DEPENDENTS", "KILL_DEPENDENTS -> WAIT_FOR_CLEARANCE")
async def volume_fails_while_its_files_wait(bench: Bench) -> None:
    stuck = bench.faults.arm("lookup_object", Hang(), at=2)
    bench.faults.arm("lookup_object", Delay(), at=2)
    cookies = [bench.start(b"%d" % number) for number in range(3)]
    await stuck.wait_hit()
    index = bench.session.volume.objects[0]
    assert len(index.dependents) == 3
    index.abort()
    stuck.release()
    for cookie in cookies:
        await cookie.wait_lookup()
    await bench.settle()
    assert not any(cookie.objects for cookie in cookies)
    assert index.dead


@pytest.mark.parametrize("row", transitions(), ids=lambda row: f"{row[0]} -{row[1]}- {row[2]}")
async def test_every_transition_of_the_table_is_taken(
    row: tuple[str, str, str], bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    scenario = SCENARIOS[row]  # a KeyError here: the table has a transition without a test
    await scenario(bench)
    assert row in seen(caplog)


@pytest.mark.parametrize("scenario", list(dict.fromkeys(SCENARIOS.values())))
async def test_no_transition_outside_the_table_is_taken(
    scenario: Callable[[Bench], Awaitable[None]], bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await scenario(bench)
    assert seen(caplog) <= set(transitions())


def test_states_have_the_short_names_of_the_reference() -> None:
    assert object_states == {
        "WAIT_FOR_INIT": "?INI",
        "INIT_OBJECT": "INIT",
        "WAIT_FOR_PARENT": "?PRN",
        "PARENT_READY": "PRDY",
        "LOOK_UP_OBJECT": "LOOK",
        "CREATE_OBJECT": "CRTO",
        "OBJECT_AVAILABLE": "AVBL",
        "JUMPSTART_DEPS": "JUMP",
        "WAIT_FOR_CMD": "?CMD",
        "INVALIDATE_OBJECT": "INVL",
        "UPDATE_OBJECT": "UPDT",
        "ABORT_INIT": "ABRT",
        "LOOKUP_FAILURE": "LCFL",
        "KILL_OBJECT": "KILL",
        "KILL_DEPENDENTS": "KDEP",
        "WAIT_FOR_CLEARANCE": "?CLR",
        "DROP_OBJECT": "DROP",
        "OBJECT_DEAD": "DEAD",
    }


def test_every_state_but_create_object_is_in_some_transition() -> None:
    mentioned = {state for row in transitions() for state in (row[0], row[2])}
    assert set(STATES) - mentioned == {"CREATE_OBJECT"}


# -- what states do --------------------------------------------------------------------------


class HangOnceNegative(Hang):
    """Stop a lookup when it is known that there is nothing, before anything is created."""

    def enter(self, args: tuple[object, ...], random: Random) -> tuple[object, ...]:
        (obj,) = args
        assert isinstance(obj, CacheObject)
        assert obj.lookup_negative()
        return args


async def test_reads_go_on_at_once_when_a_lookup_is_negative(bench: Bench) -> None:
    await bench.file(b"first")
    cookie = bench.start(b"second")
    stuck = bench.faults.arm("lookup_object", HangOnceNegative())
    await stuck.wait_hit()
    with trio.fail_after(120):
        assert await bench.session.read(cookie, 0, 8) == (ReadOutcome.NO_DATA, {})
    stuck.release()
    await bench.settle()
    assert cookie.marks.covers(0, 8)


async def test_a_killed_object_is_retired_if_its_invalidation_was_not_carried_out(bench: Bench) -> None:
    cookie = await bench.file()
    await bench.session.store(cookie, 0, content(b"v1", SIZE))
    obj = cookie.objects[0]
    cookie.invalidate()
    obj.kill()  # as a withdrawal does
    await obj.wait_dead()
    assert obj.retired
    assert not cookie.invalidating
    cookie.acquire_objects()
    await cookie.wait_lookup()
    assert await bench.session.read(cookie, 0, 8) == (ReadOutcome.NO_DATA, {})


async def test_data_to_be_invalidated_never_gets_the_new_label(bench: Bench) -> None:
    """Another process would believe it while the invalidation waits for its turn."""
    cookie = await bench.file()
    await bench.session.store(cookie, 0, content(b"v1", SIZE))
    reading = bench.faults.arm("read_or_alloc_pages", Hang())
    updates = bench.faults.arm("update_object", Run(lambda: None))
    labels = bench.faults.arm("invalidate_object", Run(lambda: None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.session.read, cookie, 0, 8)
        await reading.wait_hit()
        origin_file(cookie.netfs_data).aux = b"v2"
        cookie.invalidate()
        cookie.update()
        await bench.settle()
        assert (updates.n_hits, labels.n_hits) == (0, 0)
        reading.release()
    await bench.settle()
    assert labels.n_hits == 1
    assert not cookie.aux_updated


async def test_lookups_that_wait_for_older_objects_leave_them_the_pool(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Otherwise all of them would wait for one another until a time limit."""
    faults = Faults()
    limits = Limits(object_max_active=2)
    async with open_session(MemoryBackend(), wrappers=[faults], limits=limits) as session:
        old = [await session.file(b"%d" % number) for number in range(6)]
        dropping = faults.arm("drop_object", Hang())
        for cookie in old:
            await cookie.relinquish(retire=True)
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(session.file, b"%d" % number)
            await trio.testing.wait_all_tasks_blocked()
            dropping.release()
        assert trio.current_time() - started < 1
        faults.disarm()


async def test_a_lookup_does_not_find_what_an_older_object_is_about_to_delete(bench: Bench) -> None:
    cookie = await bench.file()
    await bench.session.store(cookie, 0, content(b"v1", SIZE))
    await cookie.relinquish(retire=True)
    again = bench.start()
    await again.wait_lookup()
    assert await bench.session.read(again, 0, 8) == (ReadOutcome.NO_DATA, {})


@pytest.mark.parametrize(
    ("why", "counter"),
    [
        (KillReason.IS_STALE, "cacheev_stl"),
        (KillReason.NO_SPACE, "cacheev_nsp"),
        (KillReason.WAS_RETIRED, "cacheev_rtr"),
        (KillReason.WAS_CULLED, "cacheev_cul"),
    ],
)
async def test_an_object_its_backend_ended_dies_and_the_reason_is_counted(
    why: KillReason, counter: str, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    obj = (await bench.file()).objects[0]
    obj.mark_killed(why)
    assert getattr(bench.session.domain.stats, counter) == 1
    obj.mark_killed(why)
    assert "was killed twice" in caplog.text
    assert getattr(bench.session.domain.stats, counter) == 1
    await obj.wait_dead()


async def test_flags_have_the_bits_of_the_reference(bench: Bench) -> None:
    cookie = await bench.file()
    obj = cookie.objects[0]
    assert obj.flags == 1 << 3 | 1 << 4 | 1 << 5
    stuck = bench.faults.arm("write_page", Hang())
    folio = content(b"v1", SIZE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.session.store, cookie, 0, folio)
        await stuck.wait_hit()
        assert obj.flags & 1 << 1
        stuck.release()
    obj.retired = True
    assert obj.flags & 1 << 6
    obj.mark_killed(KillReason.WAS_CULLED)
    assert obj.flags & 1 << 7
    await obj.wait_dead()
    assert not obj.flags & 1 << 3


async def test_the_lock_of_an_object_keeps_changes_apart_and_tells_the_backend() -> None:
    class Locking(MemoryBackend):
        def __init__(self) -> None:
            super().__init__()
            self.locked: dict[CacheObject, int] = {}
            self.n_locks = 0

        @cache_hook
        async def lock_object(self, obj: CacheObject) -> None:
            assert not self.locked.get(obj)
            self.locked[obj] = 1
            self.n_locks += 1
            await trio.lowlevel.checkpoint()

        @cache_hook
        def unlock_object(self, obj: CacheObject) -> None:
            assert self.locked.pop(obj)

    faults, backend = Faults(), Locking()
    faults.arm("update_object", Delay(20))
    faults.arm("attr_changed", Delay(20))
    faults.arm("invalidate_object", Delay(20))
    async with open_session(backend, wrappers=[faults]) as session:
        cookie = await session.file()
        for number in range(5):
            origin_file(cookie.netfs_data).aux = b"%d" % number
            cookie.update()
            cookie.attr_changed()
            cookie.invalidate()
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert cookie.objects[0].live
    assert not backend.locked
    assert backend.n_locks > 5


async def test_congestion_is_felt_by_a_backend_that_sleeps() -> None:
    async with open_session(MemoryBackend(), limits=Limits(object_max_active=1)) as session:
        obj = session.object(await session.file())
        assert not await obj.sleep_till_congested(0.01)
        pool = session.domain.object_pool
        async with trio.open_nursery() as nursery:
            await pool.acquire()
            nursery.start_soon(session.file, b"another")
            await trio.testing.wait_all_tasks_blocked()
            assert await obj.sleep_till_congested(10)
            pool.release()


async def test_a_parent_waits_for_its_children_when_the_cache_is_withdrawn() -> None:
    order: list[str] = []

    class Noting(MemoryBackend):
        @cache_hook
        async def drop_object(self, obj: CacheObject) -> None:
            order.append(obj.cookie.key.decode())

    async with open_fscache() as fscache:
        cache: Cache = await fscache.add_cache(Noting())
        session = Session(fscache.domain, cache, fscache.register_netfs("n", 1).primary_index)
        session.volume = session.index(b"volume")
        await session.file(b"file")
        await cache.withdraw()
    assert order == ["file", "volume", "n"]


async def test_what_ran_out_of_space_ends_alone(bench: Bench) -> None:
    await bench.file(b"first")
    bench.faults.arm("lookup_object", Fail(NoSpaceError("full")), at=1)
    cookie = bench.start(b"second")
    await cookie.wait_lookup()
    await bench.settle()
    assert not cookie.objects
    assert bench.session.domain.stats.cacheev_nsp == 1
    assert not bench.session.cache.broken


async def test_a_failing_store_stops_the_cache(bench: Bench) -> None:
    cookie = await bench.file()
    bench.faults.arm("update_object", Fail(CacheIOError("the disk is gone")))
    origin_file(cookie.netfs_data).aux = b"v2"
    cookie.update()
    await bench.settle()
    assert bench.session.cache.broken
    assert await bench.session.read(cookie, 0, 8) == (ReadOutcome.NO_BUFFERS, {})


async def test_references_are_the_backends_to_take_but_not_to_lose(
    bench: Bench, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    cookie = await bench.file()
    obj = cookie.objects[0]
    with pytest.raises(PluginError, match=r"MemoryBackend.*put more often") as caught:
        obj.put()
    assert caught.value.plugin == "MemoryBackend"
    obj.grab()
    await cookie.relinquish()
    await obj.wait_dead()
    await bench.session.cache.withdraw()  # does not wait for ever for what is never put
    assert "backend MemoryBackend still holds" in caplog.text
    assert not bench.session.cache.objects


async def test_a_reference_that_is_put_in_time_is_waited_for(bench: Bench) -> None:
    cookie = await bench.file()
    obj = cookie.objects[0]
    obj.grab()
    await cookie.relinquish()
    await obj.wait_dead()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.session.cache.withdraw)
        await bench.settle()
        assert list(bench.session.cache.objects.values()) == [obj]
        obj.put()
    assert not bench.session.cache.objects


async def test_a_lookup_waits_for_an_older_object_to_be_gone_but_not_for_ever(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    limits = Limits(hook_seconds=5, drop_seconds=60)
    async with open_session(MemoryBackend(), wrappers=[faults], limits=limits) as session:
        cookie = await session.file(size=SIZE)
        await session.fill(cookie)
        older = session.object(cookie)
        stuck = faults.arm("drop_object", Hang())
        await cookie.relinquish(retire=True)
        again = await session.file(size=SIZE)
        assert again.unavailable
        assert await session.read(again, 0, 8) == (ReadOutcome.NO_BUFFERS, {})
        assert f"{older!r} has not gone away within 5 s" in caplog.text
        stuck.release()
        await older.wait_dead()
        assert again.acquire_objects()
        await again.wait_lookup()
        assert await session.read(again, 0, 8) == (ReadOutcome.NO_DATA, {})


async def test_a_lookup_that_waits_for_an_older_object_ends_when_it_is_killed(bench: Bench) -> None:
    cookie = await bench.file()
    await bench.session.fill(cookie)
    stuck = bench.faults.arm("drop_object", Hang())
    await cookie.relinquish(retire=True)
    await stuck.wait_hit()
    again = bench.start()
    obj = again.objects[0]
    await bench.settle()
    assert state_of(again) == "LOOK_UP_OBJECT"
    await again.relinquish()
    await obj.wait_dead()
    stuck.release()


async def test_a_backend_that_fails_to_complete_a_lookup_loses_the_object(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Completing(MemoryBackend):
        @cache_hook
        async def lookup_complete(self, obj: CacheObject) -> None:
            if obj.cookie.key == b"file":
                raise ZeroDivisionError("a bug")

    async with open_session(Completing()) as session:
        cookie = await session.file(size=SIZE)
        await trio.testing.wait_all_tasks_blocked()
        assert not cookie.objects
        assert await session.read(cookie, 0, 8) == (ReadOutcome.NO_BUFFERS, {})
        other = await session.file(b"other", size=SIZE)
        await session.check(other, await session.fill(other))
    assert "backend Completing: lookup_complete raised ZeroDivisionError: a bug" in caplog.text


async def test_a_backend_that_tells_twice_what_it_obtained_has_it_counted_once() -> None:
    class Twice(MemoryBackend):
        @cache_hook
        async def lookup_object(self, obj: CacheObject) -> LookupOutcome:
            assert isinstance(obj, MemoryObject)
            outcome = await super().lookup_object(obj)
            if outcome is LookupOutcome.CREATED:
                obj.obtained_object()
                obj.obtained_object()
            return outcome

    counts = []
    for backend in (MemoryBackend(), Twice()):
        async with open_session(backend) as session:
            cookie = await session.file(size=SIZE)
            await session.check(cookie, await session.fill(cookie))
            stats = session.domain.stats
            counts.append((stats.lookups_neg, stats.lookups_pos, stats.lookups_crt))
    assert counts[0] == counts[1]


async def test_what_a_backend_ended_and_then_had_no_room_for_is_ended_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    cookie = await bench.file()
    obj = cookie.objects[0]

    def cull_and_fail() -> None:
        obj.mark_killed(KillReason.WAS_CULLED)
        raise NoSpaceError("full")

    bench.faults.arm("update_object", Run(cull_and_fail))
    origin_file(cookie.netfs_data).aux = b"v2"
    cookie.update()
    await obj.wait_dead()
    stats = bench.session.domain.stats
    assert (stats.cacheev_cul, stats.cacheev_nsp) == (1, 0)
    assert "killed twice" not in caplog.text
