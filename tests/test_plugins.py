"""Plugins: what is refused when they are added, wrappers, and what their faults cost at run time."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import pytest
import trio
import trio.testing

from fscache_core import page
from fscache_core.domain import Limits
from fscache_core.errors import CallerError, InstallationError, PluginError
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.fscache import open_fscache
from fscache_core.hookspecs import NOT_RESIDENT, cache_hook
from fscache_core.object_request import child_keys, resident_pages
from fscache_core.operation import Operation, Retrieval
from fscache_core.outcome import LookupOutcome, ReadOutcome, WriteOutcome
from fscache_core.plugins import BACKEND_GROUP, BackendFacade, NetfsFacade, installed, load, make
from fscache_core.testing.cache_session import Session, content, open_session
from fscache_core.testing.faulty import Answer, Fail, Fault, Faults, Hang, Twice
from fscache_core.testing.interruption import cancelled_after
from fscache_core.tracing import Tracing
from fscache_memory import MemoryBackend
from fscache_memory.backend import MemoryObject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fscache_core.cookie import Cookie
    from fscache_core.object import CacheObject

P = ParamSpec("P")
R = TypeVar("R")

SIZE = 8 * PAGE_SIZE
DATA = content(b"v1", SIZE)


# -- what is refused when a plugin is added ------------------------------------------------------


class Unknown(MemoryBackend):
    @cache_hook
    async def lookup_objekt(self, obj: CacheObject) -> None: ...


class UnknownArgument(MemoryBackend):
    @cache_hook
    async def lookup_object(self, obj: CacheObject, colour: str) -> LookupOutcome:  # type: ignore[override]
        return LookupOutcome.ABSENT


class OtherOrder(MemoryBackend):
    @cache_hook
    async def write_page(self, folio: Folio, op: Operation) -> WriteOutcome:  # type: ignore[override]
        return WriteOutcome.STORED


class NotAsync(MemoryBackend):
    @cache_hook
    def sync_cache(self) -> None:  # type: ignore[override]
        pass


class Async(MemoryBackend):
    @cache_hook
    async def read_resident(self, obj: CacheObject, offset: int, buffer: memoryview) -> int:  # type: ignore[override]
        return NOT_RESIDENT


class OneOfTwo(MemoryBackend):
    @cache_hook
    def unlock_pages(self, obj: CacheObject, first: int, n_pages: int) -> None: ...


class Unmarked(MemoryBackend):
    async def sync_cache(self) -> None:
        pass


class Nothing:
    name = "nothing"


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (Unknown, "unknown hook 'lookup_objekt'"),
        (UnknownArgument, r"'lookup_object'.*'colour'"),
        (OtherOrder, "write_page takes its arguments in another order than op, folio"),
        (NotAsync, "sync_cache must be an async function"),
        (Async, "read_resident must not be an async function"),
        (OneOfTwo, "must have both lock_pages and unlock_pages or none"),
        (Unmarked, "lacks mandatory hooks: sync_cache; there, but not marked with cache_hook: sync_cache"),
        (Nothing, "backend nothing lacks mandatory hooks: alloc_object, allocate_pages, attr_changed, check"),
    ],
)
def test_a_backend_that_does_not_fit_the_contract_is_refused_by_name(
    backend: Callable[[], object], message: str
) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        BackendFacade(backend())
    assert caught.value.plugin in (backend.__name__, "nothing")


def test_a_class_in_place_of_a_plugin_is_the_callers_mistake() -> None:
    with pytest.raises(CallerError, match=r"MemoryBackend is a class; give an object: MemoryBackend\("):
        BackendFacade(MemoryBackend)
    with pytest.raises(CallerError, match="netfs MemoryBackend is a class"):
        NetfsFacade(MemoryBackend)


def test_a_netfs_without_mandatory_hooks_is_refused_by_name() -> None:
    with pytest.raises(PluginError, match="netfs nothing lacks mandatory hooks: fetch, get_attr"):
        NetfsFacade(Nothing())


def test_a_plugin_for_another_api_is_refused() -> None:
    class Old(MemoryBackend):
        api_version = 0

    with pytest.raises(InstallationError, match="was built for plugin API 0; this fscache-core has 1"):
        BackendFacade(Old())


async def test_hooks_may_take_fewer_arguments() -> None:
    class Fewer(MemoryBackend):
        @cache_hook
        async def lookup_object(self, obj: CacheObject) -> LookupOutcome:
            return await super().lookup_object(obj)  # type: ignore[arg-type]

        @cache_hook
        async def dissociate_pages(self) -> None: ...

    async with open_session(Fewer()) as session:
        cookie = await session.file(size=SIZE)
        await session.check(cookie, await session.fill(cookie))


def test_an_unknown_plugin_names_the_installed() -> None:
    with pytest.raises(InstallationError, match=r"no backend is called 'floppy'; installed: .*memory"):
        load(BACKEND_GROUP, "floppy")
    assert "memory" in {plugin.name for plugin in installed(BACKEND_GROUP)}


def test_options_a_plugin_does_not_have_are_the_callers_fault() -> None:
    with pytest.raises(CallerError, match=r"backend memory: .*colour.*its options: max_bytes"):
        make(BACKEND_GROUP, "memory", {"colour": "red"})


# -- wrappers --------------------------------------------------------------------------------------


class Noting:
    """Notes calls and results, outermost first."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
        if hook not in ("write_page", "read_resident"):
            return proceed
        if hook == "read_resident":

            def noting(*args: P.args, **kwargs: P.kwargs) -> R:
                self.notes.append(f"{self.name} {hook}")
                return proceed(*args, **kwargs)

            return noting

        async def noting_async(*args: P.args, **kwargs: P.kwargs) -> object:
            self.notes.append(f"{self.name} before")
            result = await cast("Callable[P, Awaitable[object]]", proceed)(*args, **kwargs)
            self.notes.append(f"{self.name} after")
            return result

        return cast("Callable[P, R]", noting_async)


async def test_the_wrapper_added_first_is_outermost_also_around_async_hooks() -> None:
    notes: list[str] = []
    async with open_session(
        MemoryBackend(), wrappers=[Noting("one", notes), Noting("two", notes)]
    ) as session:
        cookie = await session.file(size=SIZE)
        await session.fill(cookie)
        assert notes == ["one before", "two before", "two after", "one after"]
        notes.clear()
        assert cookie.read_resident is not None
        cookie.read_resident(0, memoryview(bytearray(10)))
        assert notes == ["one read_resident", "two read_resident"]


@pytest.mark.parametrize(
    ("result", "message"),
    [(7, r"wrapper Bad: wrap\('\w+'\) returned 7"), (None, r"wrapper Bad: wrap\('\w+'\) raised ZeroDiv")],
)
def test_a_wrapper_that_wraps_badly_is_refused_by_name(result: object, message: str) -> None:
    class Bad:
        def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
            if result is None:
                raise ZeroDivisionError("a bug")
            return result  # type: ignore[return-value]

    with pytest.raises(PluginError, match=message) as caught:
        BackendFacade(MemoryBackend(), wrappers=[Bad()])
    assert caught.value.plugin == "Bad"


@pytest.mark.parametrize(
    ("hook", "must"), [("write_page", "must be"), ("read_resident", "must not be"), ("lock_pages", "")]
)
def test_a_wrapper_that_mistakes_async_hooks_for_others_is_refused_by_name(hook: str, must: str) -> None:
    class Mistaken:
        def wrap(self, name: str, proceed: Callable[P, R]) -> Callable[P, R]:
            if name != hook:
                return proceed

            async def asynchronous(*args: P.args, **kwargs: P.kwargs) -> R:
                return proceed(*args, **kwargs)

            def synchronous(*args: P.args, **kwargs: P.kwargs) -> R:
                return proceed(*args, **kwargs)

            return asynchronous if hook == "read_resident" else synchronous  # type: ignore[return-value]

    if not must:  # the backend has no such hook, so there is nothing to wrap
        BackendFacade(MemoryBackend(), wrappers=[Mistaken()])
        return
    message = rf"wrapper Mistaken: wrap\('{hook}'\) {must} an async function"
    with pytest.raises(PluginError, match=message) as caught:
        BackendFacade(MemoryBackend(), wrappers=[Mistaken()])
    assert caught.value.plugin == "Mistaken"


def test_what_a_wrapper_raises_on_purpose_is_let_through() -> None:
    class Refusing:
        def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
            raise CallerError("not for this backend")

    with pytest.raises(CallerError, match="not for this backend"):
        BackendFacade(MemoryBackend(), wrappers=[Refusing()])


async def test_a_trace_shows_objects_and_operations_as_the_log_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fscache.trace")
    async with open_session(MemoryBackend(), wrappers=[Tracing(3)]) as session:
        cookie = await session.file(size=SIZE)
        await session.fill(cookie)
    assert "<== lookup_object(OBJ2) = CREATED" in caplog.messages
    assert any(message.startswith("==> write_page(OP") for message in caplog.messages)


# -- faults at run time ----------------------------------------------------------------------------


class OriginNetfs:
    """A netfs as it should be: what the cache does not give, it takes from the origin, and stores."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.n_fetched = 0

    async def read(self, cookie: Cookie) -> bytes:
        _, pages = await self.session.read(cookie, 0, 8)
        for at in range(8):
            if at not in pages:
                self.n_fetched += 1
                pages[at] = DATA[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]
                folio = memoryview(pages[at])
                await page.write_page(cookie, Folio(at, folio))
        await cookie.wait_on_stores()
        return b"".join(pages[at] for at in range(8))


class CompleteTwice(Fault):
    """Complete the operation in the hook, twice."""

    def enter(self, args: tuple[object, ...], random: object) -> tuple[object, ...]:
        op = args[0]
        assert isinstance(op, Operation)
        op.complete()
        op.complete()
        return args


class EndTwice(Fault):
    """End the pages that were asked for, twice."""

    def enter(self, args: tuple[object, ...], random: object) -> tuple[object, ...]:
        op, folios = cast("tuple[Retrieval, Sequence[Folio]]", args)
        for folio in folios:
            folio.buffer[:] = DATA[folio.offset : folio.offset + len(folio.buffer)]
            op.end_io(folio.first, folio.n_pages)
            op.end_io(folio.first, folio.n_pages)
        return args


class PutTooOften(Fault):
    def enter(self, args: tuple[object, ...], random: object) -> tuple[object, ...]:
        op = args[0]
        assert isinstance(op, Operation)
        op.put()
        return args


class PutObjectTooOften(Fault):
    def enter(self, args: tuple[object, ...], random: object) -> tuple[object, ...]:
        (obj,) = cast("tuple[CacheObject]", args)
        obj.put()
        obj.put()
        return args


def bug() -> Fault:
    return Fail(ZeroDivisionError("a bug"))


def way_out() -> Fault:
    return Fail(SystemExit("a bug"))


def ways_out() -> Fault:
    return Fail(BaseExceptionGroup("from a nursery of its own", [SystemExit("a bug"), ValueError()]))


FAULTS: list[tuple[str, Callable[[], Fault]]] = [
    *((hook, way_out) for hook in ("alloc_object", "lookup_object", "read_or_alloc_pages", "write_page")),
    *((hook, way_out) for hook in ("update_object", "invalidate_object", "attr_changed", "drop_object")),
    *((hook, way_out) for hook in ("sync_cache", "unbind_cache", "read_resident", "add_statistics")),
    *((hook, ways_out) for hook in ("lookup_object", "read_or_alloc_pages", "drop_object", "sync_cache")),
    *((hook, bug) for hook in ("alloc_object", "lookup_object", "read_or_alloc_pages", "write_page")),
    *((hook, bug) for hook in ("update_object", "invalidate_object", "attr_changed", "drop_object")),
    *((hook, bug) for hook in ("check_consistency", "pin_object", "unpin_object", "reserve_space")),
    *((hook, bug) for hook in ("sync_cache", "dissociate_pages", "unbind_cache", "read_resident")),
    *((hook, bug) for hook in ("add_statistics",)),
    *((hook, partial(Answer, 7)) for hook in ("alloc_object", "lookup_object", "read_or_alloc_pages")),
    *((hook, partial(Answer, 7)) for hook in ("write_page", "update_object", "invalidate_object")),
    *((hook, partial(Answer, 7)) for hook in ("attr_changed", "drop_object", "check_consistency")),
    *((hook, partial(Answer, 7)) for hook in ("pin_object", "sync_cache", "dissociate_pages")),
    *((hook, Hang) for hook in ("lookup_object", "read_or_alloc_pages", "write_page", "update_object")),
    *((hook, Hang) for hook in ("invalidate_object", "attr_changed", "drop_object", "sync_cache")),
    *((hook, Hang) for hook in ("dissociate_pages", "unbind_cache", "check_consistency", "add_statistics")),
    ("lookup_object", partial(Answer, LookupOutcome.RETRY)),
    ("lookup_object", PutObjectTooOften),
    ("read_or_alloc_pages", partial(Answer, ReadOutcome.HIT)),
    ("read_or_alloc_pages", CompleteTwice),
    ("read_or_alloc_pages", EndTwice),
    ("read_or_alloc_pages", PutTooOften),
    ("write_page", CompleteTwice),
    ("write_page", PutTooOften),
    ("invalidate_object", CompleteTwice),
    ("invalidate_object", PutTooOften),
]


@pytest.mark.parametrize(
    ("hook", "make_fault"),
    FAULTS,
    ids=[f"{hook} {getattr(fault, 'func', fault).__name__}" for hook, fault in FAULTS],
)
async def test_a_fault_of_a_hook_costs_its_object_and_is_attributed(
    hook: str,
    make_fault: Callable[[], Fault],
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every read succeeds from the origin, the plugin is named, and the withdrawal ends."""
    faults, backend = Faults(), MemoryBackend()
    async with open_session(backend) as session:
        await session.fill(await session.file(b"file", size=SIZE))
    n_hits = 0
    async with open_session(
        backend, wrappers=[faults], limits=Limits(hook_seconds=5, drop_seconds=2)
    ) as session:
        netfs = OriginNetfs(session)
        fault = faults.arm(hook, make_fault(), at=range(1 if hook != "alloc_object" else 2, 10**6))
        for key in (b"file", b"new"):
            cookie = await session.file(key, size=SIZE)
            assert await netfs.read(cookie) == DATA
            if cookie.read_resident is not None:
                cookie.read_resident(0, memoryview(bytearray(1)))
            await cookie.check_consistency()
            await cookie.pin()
            await cookie.unpin()
            await cookie.reserve_space(0)
            cookie.update()
            cookie.attr_changed()
            assert await netfs.read(cookie) == DATA
            cookie.invalidate()
            await cookie.wait_on_invalidate()
            assert await netfs.read(cookie) == DATA
            await cookie.relinquish()
        await session.cache.withdraw()
        assert not session.cache.objects
        n_hits = fault.n_hits
        assert session.domain.stats.ops_ini == session.domain.stats.ops_rel
        assert session.domain.stores_size == 0
    assert n_hits, "the fault never fired"
    blamed = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    if hook != "unbind_cache" or make_fault is not Hang:
        assert any("MemoryBackend" in message for message in blamed), blamed
    faults.disarm()


@pytest.mark.parametrize("answer", [7, [7], [(1, 2, 3)], [("first", 2)], [(0, None)]])
async def test_runs_of_pages_that_are_none_are_the_backends_fault(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    async with open_session(MemoryBackend(), wrappers=[faults]) as session:
        cookie = await session.file(size=SIZE)
        obj = session.object(cookie)
        faults.arm("resident_pages", Answer(answer))
        assert await resident_pages(obj) is None
        assert "backend MemoryBackend: resident_pages returned" in caplog.text
        await obj.wait_dead()


@pytest.mark.parametrize("answer", [None, [b"key"], [("data", b"key")], [(1, "key")], [(1, b"key", 2)]])
async def test_keys_that_are_none_are_the_backends_fault(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    async with open_session(MemoryBackend(), wrappers=[faults]) as session:
        await session.file(size=SIZE)
        index = session.object(session.volume)
        assert list(await child_keys(index)) == [(1, b"file")]
        faults.arm("child_keys", Answer(answer))
        with pytest.raises(PluginError, match="backend MemoryBackend: child_keys returned"):
            await child_keys(index)
        assert "backend MemoryBackend: child_keys returned" in caplog.text


async def test_what_a_lookup_tells_after_it_was_given_up_is_refused(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """By then its cookie may have another object, of which it would not be true."""
    complaints: list[str] = []

    class Late(MemoryBackend):
        @cache_hook
        async def lookup_object(self, obj: CacheObject) -> LookupOutcome:
            if obj.cookie.key != b"file" or complaints:
                return await super().lookup_object(obj)  # type: ignore[arg-type]
            complaints.append("")
            domain.spawn(partial(self.tell_late, obj), "a task of the backend's own")
            await trio.sleep_forever()
            raise AssertionError

        async def tell_late(self, obj: CacheObject) -> None:
            await obj.wait_dead()
            for tell in (obj.lookup_negative, obj.obtained_object):
                try:
                    tell()
                except PluginError as error:
                    complaints.append(str(error))

    async with open_session(Late(), limits=Limits(hook_seconds=5)) as session:
        domain = session.domain
        cookie = await session.file(size=SIZE)
        await trio.sleep(10)
        assert not cookie.objects
        assert cookie.unavailable
        cookie.acquire_objects()
        await cookie.wait_lookup()
        await session.check(cookie, await session.fill(cookie))
    assert [complaint.partition(" of OBJ")[0] for complaint in complaints[1:]] == [
        "backend Late: lookup_negative",
        "backend Late: obtained_object",
    ]


class Deaf(Fault):
    """Do not return, swallow the cancellation that comes of it, and go on as if nothing were."""

    async def pause(self) -> None:
        with suppress(trio.Cancelled):
            await trio.sleep_forever()


@pytest.mark.parametrize(
    "hook", ["lookup_object", "write_page", "update_object", "drop_object", "sync_cache"]
)
async def test_a_withdrawal_ends_though_hooks_swallow_their_cancellation(
    hook: str, autojump_clock: trio.testing.MockClock
) -> None:
    faults = Faults()
    limits = Limits(hook_seconds=5, drop_seconds=2)
    with trio.fail_after(1000):
        async with open_session(MemoryBackend(), wrappers=[faults], limits=limits) as session:
            deaf = faults.arm(hook, Deaf())
            cookie = await session.file(size=SIZE)
            assert await OriginNetfs(session).read(cookie) == DATA
            cookie.update()
            await trio.testing.wait_all_tasks_blocked()
            await session.cache.withdraw()
            assert deaf.n_hits
            assert not session.cache.objects


async def test_an_object_whose_lookup_forgets_to_say_so_is_available_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`lookup_negative` and `obtained_object` were never called."""
    monkeypatch.setattr(MemoryObject, "lookup_negative", lambda _obj: True)
    async with open_session(MemoryBackend()) as session:
        cookie = await session.file(size=SIZE)
        await session.check(cookie, await session.fill(cookie))


async def test_hooks_called_twice_change_nothing() -> None:
    faults = Faults()
    for hook in ("update_object", "attr_changed", "sync_cache", "check_consistency", "pin_object"):
        faults.arm(hook, Twice())
    async with open_session(MemoryBackend(), wrappers=[faults]) as session:
        cookie = await session.file(size=SIZE)
        data = await session.fill(cookie)
        cookie.update()
        cookie.attr_changed()
        await cookie.check_consistency()
        await session.check(cookie, data)


@pytest.mark.parametrize("hook", ["lookup_object", "read_or_alloc_pages", "write_page", "attr_changed"])
async def test_a_netfs_may_be_cancelled_at_any_step(hook: str) -> None:
    """Whatever it was doing, nothing is left behind and the next one reads the right bytes."""
    faults, backend = Faults(), MemoryBackend()
    for n_steps in range(60):
        async with open_session(backend, wrappers=[faults]) as session:
            cookie = None

            async def everything(session: Session = session) -> None:
                cookie = await session.file(size=SIZE)
                netfs = OriginNetfs(session)
                assert await netfs.read(cookie) == DATA
                cookie.attr_changed()
                await cookie.check_consistency()
                cookie.invalidate()
                await cookie.wait_on_invalidate()
                assert await netfs.read(cookie) == DATA
                await cookie.relinquish()

            cancelled, _ = await cancelled_after(n_steps, everything)
            cookie = next((c for c in session.domain.cookies.values() if c.key == b"file"), None)
            if cookie is None:
                cookie = await session.file(size=SIZE)
            assert await OriginNetfs(session).read(cookie) == DATA
            await session.cache.withdraw()
            assert session.domain.stats.ops_ini == session.domain.stats.ops_rel
            assert session.domain.stores_size == 0
        if not cancelled:
            return
    pytest.fail("more than 60 steps")


async def test_a_reference_hook_that_raises_costs_the_object(caplog: pytest.LogCaptureFixture) -> None:
    class Counting(MemoryBackend):
        def __init__(self) -> None:
            super().__init__()
            self.n: dict[CacheObject, int] = {}
            self.broken = False

        @cache_hook
        def grab_object(self, obj: CacheObject) -> None:
            self.n[obj] = self.n.get(obj, 0) + 1
            if self.broken:
                raise ZeroDivisionError("a bug")

        @cache_hook
        def put_object(self, obj: CacheObject) -> None:
            self.n[obj] = self.n.get(obj, 0) - 1
            assert obj.usage >= 0

    backend = Counting()
    async with open_session(backend) as session:
        cookie = await session.file(size=SIZE)
        backend.broken = True
        cookie.update()
        await trio.testing.wait_all_tasks_blocked()
        assert not cookie.objects
        backend.broken = False
    assert set(backend.n.values()) == {-1}, "one reference each is core's from the beginning"
    assert "backend Counting: grab_object raised" in caplog.text


async def test_adding_an_object_with_options_is_the_callers_fault() -> None:
    async with open_fscache() as fscache:
        with pytest.raises(CallerError, match="options max_bytes given"):
            await fscache.add_cache(MemoryBackend(), max_bytes=7)
