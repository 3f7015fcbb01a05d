"""Caches and tags: adding, choosing, stopping, withdrawing (reference section 9)."""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core.cache import lookup_cache_tag, release_cache_tag
from fscache_core.cookie import CookieDefinition, acquire_cookie
from fscache_core.domain import Limits
from fscache_core.errors import (
    CacheIOError,
    CacheUnusableError,
    CallerError,
    FscacheError,
    PluginError,
)
from fscache_core.folio import PAGE_SIZE
from fscache_core.fscache import FsCache, open_fscache
from fscache_core.hookspecs import cache_hook
from fscache_core.netfs import fit_key
from fscache_core.outcome import CookieType, ReadOutcome
from fscache_core.statistics import kept_statistics
from fscache_core.testing.cache_session import OriginFile, Session, content, origin_file
from fscache_core.testing.faulty import Answer, Fail, Faults, Hang
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie

SIZE = 4 * PAGE_SIZE

INDEX = CookieDefinition("volume", CookieType.INDEX, get_key=lambda data: origin_file(data).key)


class Bench:
    """An `FsCache` with a netfs of its own."""

    def __init__(self, fscache: FsCache) -> None:
        self.fscache = fscache
        self.domain = fscache.domain
        self.primary = fscache.register_netfs("test", 1).primary_index

    async def add(self, tag: str, *faults: Faults) -> Cache:
        return await self.fscache.add_cache(MemoryBackend(), tag=tag, wrappers=faults)

    def session(self, cache: Cache, volume: Cookie | None = None) -> Session:
        volume = volume or acquire_cookie(self.domain, self.primary, INDEX, OriginFile(cache.tag.encode()))
        return Session(self.domain, cache, volume)

    async def stored(self, cache: Cache) -> tuple[Session, Cookie]:
        """A file that is stored in a cache."""
        session = self.session(cache)
        cookie = await session.file(size=SIZE)
        await session.fill(cookie)
        assert cookie.objects[0].cache is cache
        return session, cookie


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_fscache() as fscache:
        yield Bench(fscache)


# -- adding ----------------------------------------------------------------------------------


async def test_a_tag_names_one_cache(bench: Bench) -> None:
    cache = await bench.add("one")
    with pytest.raises(CallerError, match="tag 'one' exists already") as caught:
        await bench.add("one")
    assert caught.value.errno == errno.EEXIST
    assert bench.fscache.caches == (cache,)
    await cache.withdraw()
    assert bench.domain.tags == {}
    await bench.add("one")


@pytest.mark.parametrize("tag", ["", "t" * 36])
async def test_a_tag_has_1_to_35_characters(tag: str, bench: Bench) -> None:
    with pytest.raises(CallerError, match="1 to 35 characters"):
        lookup_cache_tag(bench.domain, tag)


async def test_a_tag_exists_as_long_as_somebody_wants_it(bench: Bench) -> None:
    tag = lookup_cache_tag(bench.domain, "later")
    cache = await bench.add("later")
    found = [tag.cache]
    await cache.withdraw()
    assert [*found, tag.cache] == [cache, None]
    assert bench.domain.tags == {"later": tag}
    release_cache_tag(bench.domain, tag)
    assert bench.domain.tags == {}


async def test_a_cache_that_is_added_later_takes_the_cookies_that_have_none(bench: Bench) -> None:
    """The reference leaves them uncached."""
    volume = acquire_cookie(bench.domain, bench.primary, INDEX, OriginFile(b"volume"))
    early = Session(bench.domain, None, volume)  # type: ignore[arg-type]
    cookie = await early.file(size=SIZE)
    assert cookie.unavailable
    assert await early.read(cookie, 0, 1) == (ReadOutcome.NO_BUFFERS, {})
    cache = await bench.add("late")
    await cookie.wait_lookup()
    session = bench.session(cache, volume)
    await session.check(cookie, await session.fill(cookie))


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (Fail(CacheUnusableError("no such directory")), CacheUnusableError, "no such directory"),
        (Fail(ZeroDivisionError("a bug")), PluginError, "backend MemoryBackend: bind_cache raised Zero"),
        (Hang(), PluginError, "backend MemoryBackend: bind_cache did not return within 60 s"),
    ],
    ids=["unusable", "a bug", "hangs"],
)
async def test_a_cache_that_cannot_be_bound_leaves_nothing_behind(
    fault: Fail | Hang,
    error: type[FscacheError],
    message: str,
    bench: Bench,
    autojump_clock: trio.testing.MockClock,
) -> None:
    faults = Faults()
    faults.arm("bind_cache", fault)
    with pytest.raises(error, match=message):
        await bench.add("one", faults)
    assert bench.fscache.caches == ()
    assert bench.domain.tags == {}
    await bench.add("one")


class Careless(MemoryBackend):
    """It does not see to it itself that it is bound once."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bound = 0

    @cache_hook
    async def bind_cache(self, cache: Cache) -> None:
        self.n_bound += 1

    @cache_hook
    async def unbind_cache(self) -> None:
        self.n_bound -= 1


async def assert_in_use(fscache: FsCache, backend: Careless, tag: str) -> None:
    with pytest.raises(
        CallerError, match=f"backend Careless is in use by cache {tag}; make another"
    ) as caught:
        await fscache.add_cache(backend, tag="other")
    assert caught.value.errno == errno.EBUSY
    assert backend.n_bound <= 1
    assert "other" not in fscache.domain.tags


async def test_a_backend_serves_one_cache_at_a_time(bench: Bench) -> None:
    backend = Careless()
    cache = await bench.fscache.add_cache(backend, tag="one")
    await assert_in_use(bench.fscache, backend, "one")
    async with open_fscache() as another:
        await assert_in_use(another, backend, "one")
    session, cookie = await bench.stored(cache)
    assert bench.fscache.caches == (cache,)
    await cache.withdraw()
    async with open_fscache() as another:
        await another.add_cache(backend, tag="two")
        await assert_in_use(bench.fscache, backend, "two")
    cache = await bench.fscache.add_cache(backend, tag="three")
    await cookie.wait_lookup()
    await session.check(cookie, content(b"v1", SIZE))


@pytest.mark.parametrize("hook", ["bind_cache", "unbind_cache"])
async def test_a_backend_is_in_use_from_before_it_is_bound_until_it_is_let_go(
    hook: str, bench: Bench
) -> None:
    backend, faults = Careless(), Faults()
    stuck = faults.arm(hook, Hang())

    async def use() -> None:
        await (await bench.fscache.add_cache(backend, tag="one", wrappers=[faults])).withdraw()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use)
        await stuck.wait_hit()
        await assert_in_use(bench.fscache, backend, "one")
        stuck.release()
    await bench.fscache.add_cache(backend)


@pytest.mark.parametrize("hook", ["bind_cache", "alloc_object", "unbind_cache"])
async def test_a_backend_that_fails_to_be_bound_or_let_go_may_be_added_again(hook: str, bench: Bench) -> None:
    backend, faults = Careless(), Faults()
    faults.arm(hook, Fail(ZeroDivisionError("a bug")), at=1)
    with suppress(PluginError):
        await (await bench.fscache.add_cache(backend, wrappers=[faults])).withdraw()
    await bench.fscache.add_cache(backend)


@pytest.mark.parametrize("answer", [None, "an object", object()])
async def test_a_backend_whose_master_index_is_no_object_is_unbound_again(
    answer: object, bench: Bench
) -> None:
    faults, backend = Faults(), MemoryBackend()
    faults.arm("alloc_object", Answer(answer), at=1)
    with pytest.raises(PluginError, match="alloc_object returned"):
        await bench.fscache.add_cache(backend, wrappers=[faults])
    await bench.fscache.add_cache(backend)  # it was unbound


async def test_an_object_that_was_handed_out_before_is_the_plugins_fault(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    cache = await bench.add("one", faults)
    session, cookie = await bench.stored(cache)
    faults.arm("alloc_object", Answer(cookie.objects[0]))
    other = await session.file(b"other")
    assert not other.objects
    assert "backend MemoryBackend: alloc_object returned OBJ" in caplog.text


@pytest.mark.parametrize(("error", "oom"), [(MemoryError(), 1), (ZeroDivisionError(), 0)])
async def test_an_object_that_is_not_allocated_leaves_a_cookie_uncached(
    error: Exception, oom: int, bench: Bench
) -> None:
    faults = Faults()
    cache = await bench.add("one", faults)
    faults.arm("alloc_object", Fail(error))
    cookie = await bench.session(cache).file()
    assert not cookie.objects
    assert (bench.domain.stats.objects_nal, bench.domain.stats.acquire_oom) == (1, oom)


# -- choosing ----------------------------------------------------------------------------------


async def cache_of_a_new_file(bench: Bench, definition: CookieDefinition = INDEX) -> str | None:
    volume = acquire_cookie(bench.domain, bench.primary, definition, OriginFile(b"new"))
    cookie = await Session(bench.domain, None, volume).file()  # type: ignore[arg-type]
    chosen = cookie.objects[0].cache.tag if cookie.objects else None
    await cookie.relinquish()
    await volume.relinquish()
    return chosen


async def test_the_cache_added_last_is_chosen(bench: Bench) -> None:
    assert await cache_of_a_new_file(bench) is None
    await bench.add("one")
    await bench.add("two")
    assert await cache_of_a_new_file(bench) == "two"
    # The netfs's primary index has an object in that cache, but a volume's own would count, not its parent's.
    await bench.add("three")
    assert await cache_of_a_new_file(bench) == "three"


async def test_a_stopped_cache_is_passed_over(bench: Bench) -> None:
    await bench.add("one")
    two = await bench.add("two")
    two.io_error("a test")
    assert await cache_of_a_new_file(bench) == "one"


async def test_files_of_a_volume_stay_together_until_their_cache_stops(bench: Bench) -> None:
    one = await bench.add("one")
    session, _ = await bench.stored(one)
    await bench.add("two")
    assert (await session.file(b"second")).objects[0].cache is one
    one.io_error("a test")
    third = await session.file(b"third")
    assert third.objects[0].cache.tag == "two"
    assert len(session.volume.objects) == 2


@pytest.mark.parametrize(
    ("answer", "chosen"), [("one", "one"), (None, "two"), ("unknown", None), ("broken", None), (7, "two")]
)
async def test_the_netfs_may_choose_by_tag(answer: str | None, chosen: str | None, bench: Bench) -> None:
    (await bench.add("broken")).io_error("a test")
    await bench.add("one")
    await bench.add("two")
    definition = replace(INDEX, select_cache=lambda _parent, _file: answer)
    assert await cache_of_a_new_file(bench, definition) == chosen
    assert bench.domain.stats.acquire_noc == (chosen is None)


async def test_a_choice_that_raises_is_no_choice(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def select_cache(*_: object) -> str:
        raise ZeroDivisionError("a bug")

    await bench.add("one")
    assert await cache_of_a_new_file(bench, replace(INDEX, select_cache=select_cache)) == "one"
    assert "netfs volume: select_cache raised ZeroDivisionError" in caplog.text


async def test_below_a_special_cookie_without_an_object_there_is_no_choice(bench: Bench) -> None:
    faults = Faults()
    cache = await bench.add("one", faults)
    session = bench.session(cache)
    special = await session.file(b"special", type=CookieType.SPECIAL)
    special.objects[0].kill()
    await special.objects[0].wait_dead()
    await trio.testing.wait_all_tasks_blocked()
    assert not (await session.file(b"below", below=special)).objects


# -- stopping and withdrawing --------------------------------------------------------------------


async def test_a_stopped_cache_answers_nothing_and_kills_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    cache = await bench.add("one")
    session, cookie = await bench.stored(cache)
    cache.io_error("the disk is gone")
    cache.io_error("the disk is gone")
    assert caplog.text.count("cache one stopped: I/O error: the disk is gone") == 1
    assert await session.read(cookie, 0, 4) == (ReadOutcome.NO_BUFFERS, {})
    assert cookie.objects[0].live
    assert not (await session.file(b"other")).objects


async def test_a_stopped_cache_can_be_withdrawn_and_added_again(bench: Bench) -> None:
    backend = MemoryBackend()
    cache = await bench.fscache.add_cache(backend, tag="one")
    session, cookie = await bench.stored(cache)
    cache.io_error("a test")
    await cache.withdraw()
    again = await bench.fscache.add_cache(backend, tag="one")
    await cookie.wait_lookup()
    assert cookie.objects[0].cache is again
    await session.check(cookie, content(b"v1", SIZE))


async def test_cookies_survive_a_withdrawal_uncached(bench: Bench) -> None:
    cache = await bench.add("one")
    session, cookie = await bench.stored(cache)
    await bench.fscache.withdraw_cache(cache)
    assert not cache.objects
    assert not cookie.objects
    assert cookie.enabled
    assert await session.read(cookie, 0, 4) == (ReadOutcome.NO_BUFFERS, {})
    with pytest.raises(CallerError, match="was withdrawn before"):
        await cache.withdraw()


async def test_a_cache_being_withdrawn_takes_no_new_objects(bench: Bench) -> None:
    """One that came in between would be told nothing, and the withdrawal would wait for it for ever."""
    faults = Faults()
    cache = await bench.add("one", faults)
    session, _ = await bench.stored(cache)
    stuck = faults.arm("sync_cache", Hang())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.withdraw)
        await stuck.wait_hit()
        assert not (await session.file(b"late")).objects
        stuck.release()
    assert not cache.objects


@pytest.mark.parametrize("hook", ["sync_cache", "dissociate_pages", "drop_object", "unbind_cache"])
@pytest.mark.parametrize(
    "fault",
    [Fail(ZeroDivisionError("a bug")), Fail(CacheIOError("gone")), Answer("nonsense"), Hang()],
    ids=["raises", "fails", "lies", "hangs"],
)
async def test_a_withdrawal_ends_whatever_the_backend_does(
    hook: str,
    fault: Fail | Answer | Hang,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_fscache() as fscache:
        bench, faults = Bench(fscache), Faults()
        cache = await bench.add("one", faults)
        await bench.stored(cache)
        faults.arm(hook, copy_of(fault))
        await cache.withdraw()
        assert not cache.objects
        assert fscache.caches == ()
    if not (isinstance(fault, Answer) and hook == "unbind_cache"):
        assert "MemoryBackend" in caplog.text or "cache one stopped" in caplog.text


def copy_of(fault: Fail | Answer | Hang) -> Fail | Answer | Hang:
    match fault:
        case Hang():
            return Hang()
        case Fail():
            return Fail(fault.error)
        case Answer():
            return Answer(fault.value)


async def test_withdrawing_while_the_program_is_cancelled_leaves_nothing(bench: Bench) -> None:
    cache = await bench.add("one")
    await bench.stored(cache)
    with trio.CancelScope() as scope:
        scope.cancel()
        await cache.withdraw()
    assert not cache.objects


# -- netfses -----------------------------------------------------------------------------------


async def test_a_netfs_is_registered_once_and_not_counted(bench: Bench) -> None:
    stats = bench.fscache.stats
    assert (stats.cookies_idx, stats.acquire_n) == (0, 0)
    with pytest.raises(CallerError, match="registered already") as caught:
        bench.fscache.register_netfs("test", 2)
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(CallerError, match="needs a name"):
        bench.fscache.register_netfs("", 1)
    other = bench.fscache.register_netfs("other", 1)
    await bench.fscache.unregister_netfs(other)
    bench.fscache.register_netfs("other", 1)


async def test_another_version_of_a_netfs_finds_nothing_of_the_old() -> None:
    backend = MemoryBackend()
    for version, expected in ((1, []), (1, [0, 1, 2, 3]), (2, []), (1, [])):
        async with open_fscache() as fscache:
            cache = await fscache.add_cache(backend)
            session = Session(fscache.domain, cache, fscache.register_netfs("n", version).primary_index)
            session.volume = session.index(b"volume")
            cookie = await session.file(size=SIZE)
            await session.check(cookie, content(b"v1", SIZE), expected)
            await session.fill(cookie)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4000])
def test_names_of_any_length_fit_into_keys(size: int) -> None:
    name = b"n" * size
    key = fit_key(name)
    assert 1 <= len(key) <= 511
    assert (key == name) == (1 <= size <= 511)
    assert fit_key(name + b"x") != key


# -- statistics that are kept ----------------------------------------------------------------------


async def test_counts_are_kept_by_the_backend_and_added_up_once() -> None:
    backend = MemoryBackend()
    for n_sessions in (1, 2, 3):
        async with open_fscache() as fscache:
            cache = await fscache.add_cache(backend)
            await Bench(fscache).stored(cache)
            kept = await kept_statistics(cache)
            assert kept is not None
            assert kept.cookies_dat == n_sessions
            assert kept.cacheop_luo == 0, "gauges are not added up"
        assert (await backend.statistics())["cookies_dat"] == n_sessions


async def test_each_count_goes_to_one_of_several_caches() -> None:
    backends = [MemoryBackend(), MemoryBackend()]
    async with open_fscache() as fscache:
        bench = Bench(fscache)
        one, two = [await fscache.add_cache(each, tag=str(n)) for n, each in enumerate(backends)]
        session, cookie = await bench.stored(two)
        await one.withdraw()
        await session.fill(cookie)
        await cookie.wait_on_stores()
        n = fscache.stats.stores_n
    sums = [(await backend.statistics()).get("stores_n", 0) for backend in backends]
    assert sum(sums) == n == 2


async def test_counts_come_to_the_backend_at_intervals(autojump_clock: trio.testing.MockClock) -> None:
    backend = MemoryBackend()
    async with open_fscache(limits=Limits(statistics_seconds=30)) as fscache:
        bench = Bench(fscache)
        await bench.stored(await fscache.add_cache(backend))
        assert await backend.statistics() == {}
        await trio.sleep(31)
        assert (await backend.statistics())["stores_n"] == 1
        await trio.sleep(100)
        assert (await backend.statistics())["stores_n"] == 1


async def test_kept_counts_that_are_none_are_the_backends_fault(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults()
    faults.arm("statistics", Answer({"stores_n": "many"}))
    async with open_fscache() as fscache:
        bench = Bench(fscache)
        cache = await bench.add("one", faults)
        await bench.stored(cache)
        kept = await kept_statistics(cache)
        assert kept is not None
        assert kept.stores_n == 1, "what this process counted itself"
    assert "backend MemoryBackend: statistics returned {'stores_n': 'many'}" in caplog.text


async def test_a_stopped_cache_is_brought_no_counts_and_a_backend_may_keep_none() -> None:
    class Forgetful(MemoryBackend):
        add_statistics = statistics = None  # type: ignore[assignment]

    backend = MemoryBackend()
    async with open_fscache() as fscache:
        bench = Bench(fscache)
        forgetful = await fscache.add_cache(Forgetful(), tag="forgetful")
        assert await kept_statistics(forgetful) is None
        first = await fscache.add_cache(backend, tag="first")
        await bench.stored(first)
        first.io_error("test")
    assert await backend.statistics() == {}


async def test_a_cache_that_keeps_no_counts_now_adds_none_of_this_process(
    autojump_clock: trio.testing.MockClock,
) -> None:
    backends = [MemoryBackend(), MemoryBackend()]
    async with open_fscache(limits=Limits(statistics_seconds=30)) as fscache:
        one, two = [await fscache.add_cache(each, tag=str(n)) for n, each in enumerate(backends)]
        await Bench(fscache).stored(two)
        await trio.sleep(31)
        sums = [await kept_statistics(cache) for cache in (one, two)]
        assert sorted(stats.stores_n for stats in sums if stats is not None) == [0, 1]


async def test_what_was_not_brought_yet_is_told_of_one_cache_and_goes_on_with_the_next() -> None:
    backends = [MemoryBackend() for _ in range(3)]
    async with open_fscache() as fscache:
        caches = [await fscache.add_cache(each, tag=str(n)) for n, each in enumerate(backends)]
        await Bench(fscache).stored(caches[2])

        async def told() -> list[int]:
            sums = [await kept_statistics(cache) for cache in caches]
            return [stats.stores_n for stats in sums if stats is not None]

        assert await told() == [1, 0, 0]
        await caches[1].withdraw()
        assert await told() == [1, 0, 0]
        await caches[0].withdraw()
        assert (await backends[0].statistics())["stores_n"] == 1
        assert sum(await told()) == 1
    assert "stores_n" not in await backends[2].statistics()


async def test_a_backend_that_cannot_keep_counts_loses_only_those(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    faults.arm("add_statistics", Fail(ZeroDivisionError("a bug")))
    faults.arm("statistics", Answer(7))
    async with open_fscache() as fscache:
        bench = Bench(fscache)
        cache = await bench.add("one", faults)
        session, cookie = await bench.stored(cache)
        await trio.sleep(31)
        assert "backend MemoryBackend: add_statistics raised ZeroDivisionError" in caplog.text
        kept = await kept_statistics(cache)
        assert kept is not None
        assert "backend MemoryBackend: statistics returned 7" in caplog.text
        await session.check(cookie, content(b"v1", SIZE))


async def test_a_backend_whose_withdrawal_was_interrupted_is_free_again() -> None:
    class Interrupted(MemoryBackend):
        interrupts = True

        @cache_hook
        async def sync_cache(self) -> None:
            if self.interrupts:
                self.interrupts = False
                await self.unbind_cache()  # or the backend says itself that it is in use
                raise KeyboardInterrupt

    backend = Interrupted()
    with pytest.raises(BaseExceptionGroup) as interrupted:
        async with open_fscache() as fscache:
            await fscache.add_cache(backend)
    assert interrupted.group_contains(KeyboardInterrupt)
    async with open_fscache() as fscache:
        await fscache.add_cache(backend)
