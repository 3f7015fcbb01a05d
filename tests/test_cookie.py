"""Cookies, from acquiring to relinquishing (reference sections 2 to 5)."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core import page
from fscache_core.cookie import MAX_AUX_SIZE, MAX_KEY_SIZE, Cookie, CookieDefinition, acquire_cookie
from fscache_core.errors import CacheIOError, CallerError, FscacheError, NoSpaceError, PluginError
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.fscache import open_fscache
from fscache_core.outcome import (
    AuxOutcome,
    ConsistencyOutcome,
    CookieType,
    ReadOutcome,
    ReserveOutcome,
    WriteOutcome,
)
from fscache_core.testing.cache_session import OriginFile, Session, content, open_session, origin_file
from fscache_core.testing.faulty import Answer, Fail, Faults, Hang, Run
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SIZE = 4 * PAGE_SIZE

DATA = CookieDefinition(
    "test",
    CookieType.DATA,
    get_key=lambda data: origin_file(data).key,
    get_attr=lambda data: origin_file(data).size,
    get_aux=lambda data: origin_file(data).aux,
)
INDEX = replace(DATA, type=CookieType.INDEX)


class Bench(Session):
    """A session with a fault injector."""

    faults: Faults

    def acquire(
        self,
        definition: CookieDefinition = DATA,
        key: bytes = b"file",
        *,
        below: Cookie | None = None,
        enable: bool = True,
        size: int = SIZE,
    ) -> Cookie:
        data = OriginFile(key, size=size)
        return acquire_cookie(self.domain, below or self.volume, definition, data, enable=enable)

    async def stored(self, key: bytes = b"file") -> Cookie:
        """A cookie of a file that is stored."""
        cookie = await self.file(key, size=SIZE)
        await self.fill(cookie)
        return cookie


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    faults = Faults()
    async with open_session(MemoryBackend(), wrappers=[faults]) as session:
        bench = Bench(session.domain, session.cache, session.volume)
        bench.faults = faults
        yield bench
        faults.disarm()


# -- acquiring (5.1, 5.2) -----------------------------------------------------------------


@pytest.mark.parametrize("size", [0, MAX_KEY_SIZE + 1, 5000])
async def test_a_key_of_a_wrong_size_is_the_callers_fault(size: int, bench: Bench) -> None:
    n = bench.domain.stats.acquire_n
    with pytest.raises(CallerError, match=f"test: a key of {size} bytes; 1 to 511 are allowed"):
        bench.acquire(key=b"k" * size)
    assert bench.domain.stats.acquire_n == n
    assert bench.volume.n_children == 0


@pytest.mark.parametrize("size", [1, MAX_KEY_SIZE])
async def test_keys_of_the_smallest_and_largest_size_are_cached(size: int, bench: Bench) -> None:
    cookie = await bench.stored(b"k" * size)
    await bench.check(cookie, content(b"v1", SIZE))


async def test_aux_data_that_is_too_long_is_the_callers_fault(bench: Bench) -> None:
    file = OriginFile(b"file", aux=b"a" * (MAX_AUX_SIZE + 1), size=SIZE)
    with pytest.raises(CallerError, match="511 bytes of aux data; at most 510 are allowed"):
        acquire_cookie(bench.domain, bench.volume, DATA, file)
    file.aux = b"a" * MAX_AUX_SIZE
    cookie = acquire_cookie(bench.domain, bench.volume, DATA, file)
    file.aux = b"a" * 600
    with pytest.raises(CallerError, match="600 bytes of aux data"):
        cookie.update()
    file.aux = b"v1"


async def test_a_cookie_that_could_not_be_acquired_leaves_nothing_behind(bench: Bench) -> None:
    before = bench.volume.usage, bench.volume.n_children, len(bench.domain.cookies)
    with pytest.raises(CallerError):
        bench.acquire(key=b"")
    assert (bench.volume.usage, bench.volume.n_children, len(bench.domain.cookies)) == before
    assert bench.acquire().acquired


async def test_an_index_below_a_data_file_is_the_callers_fault(bench: Bench) -> None:
    file = bench.acquire()
    with pytest.raises(CallerError, match="which is not an index"):
        bench.acquire(INDEX, b"index", below=file)


async def test_a_key_in_use_is_the_callers_fault_until_it_is_relinquished(bench: Bench) -> None:
    cookie = bench.acquire()
    with pytest.raises(CallerError, match="in use") as caught:
        bench.acquire()
    assert caught.value.errno == errno.EEXIST
    special = bench.acquire(replace(DATA, type=CookieType.SPECIAL))  # another type is another key
    await cookie.relinquish()
    assert bench.acquire().acquired  # also while the old object is still dying
    assert special.acquired


async def test_below_a_relinquished_parent_nothing_is_acquired(bench: Bench) -> None:
    index = bench.acquire(INDEX, b"index")
    await index.relinquish()
    with pytest.raises(CallerError, match="was relinquished"):
        bench.acquire(below=index)


async def test_the_kinds_of_cookies_are_counted(bench: Bench) -> None:
    stats = bench.domain.stats
    before = stats.cookies_idx, stats.cookies_dat, stats.cookies_spc, stats.acquire_ok
    bench.acquire(INDEX, b"index")
    bench.acquire()
    bench.acquire(replace(DATA, type=200), b"special")
    after = stats.cookies_idx, stats.cookies_dat, stats.cookies_spc, stats.acquire_ok
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 3]


async def test_special_objects_hold_pages(bench: Bench) -> None:
    cookie = await bench.file(b"special", type=CookieType.SPECIAL, size=SIZE)
    data = await bench.fill(cookie)
    await bench.check(cookie, data)


async def test_indices_need_nothing_stored_until_a_file_does(bench: Bench) -> None:
    index = bench.acquire(INDEX, b"index")
    assert not index.objects
    bench.acquire(below=index)
    assert len(index.objects) == 1


async def test_a_cookie_may_be_acquired_disabled(bench: Bench) -> None:
    cookie = bench.acquire(enable=False)
    assert not cookie.enabled
    assert not cookie.objects
    assert await bench.read(cookie, 0, 1) == (ReadOutcome.NO_BUFFERS, {})
    assert bench.domain.stats.retrvls_n == 0  # a disabled cookie is quiet
    await cookie.enable()
    await cookie.wait_lookup()
    assert await bench.read(cookie, 0, 1) == (ReadOutcome.NO_DATA, {})


async def test_below_a_disabled_index_files_stay_uncached(bench: Bench) -> None:
    index = bench.acquire(INDEX, b"index", enable=False)
    cookie = bench.acquire(below=index)
    assert not cookie.objects
    assert bench.domain.stats.acquire_nbf == 1
    await index.enable()
    assert cookie.acquire_objects()
    assert cookie.objects


async def test_an_object_that_cannot_be_allocated_leaves_the_cookie_uncached(bench: Bench) -> None:
    bench.faults.arm("alloc_object", Fail(FscacheError("the key cannot be represented")))
    cookie = bench.acquire()
    assert not cookie.objects
    assert not cookie.looking_up
    stats = bench.domain.stats
    assert (stats.objects_nal, stats.acquire_nbf, stats.acquire_oom) == (1, 1, 0)


async def test_flags_have_the_bits_of_the_reference(bench: Bench) -> None:
    cookie = bench.acquire()
    assert cookie.flags == 1 << 0 | 1 << 1 | 1 << 2 | 1 << 5 | 1 << 9
    await cookie.wait_lookup()
    await trio.testing.wait_all_tasks_blocked()
    assert cookie.flags == 1 << 5 | 1 << 9
    origin_file(cookie.netfs_data).aux = b"v2"
    cookie.update()
    assert cookie.flags == 1 << 5 | 1 << 8 | 1 << 9
    cookie.invalidate()
    assert cookie.flags & 1 << 3
    await cookie.wait_on_invalidate()
    can_enable: list[int] = []
    await cookie.disable()
    assert not cookie.flags & 1 << 5

    def refuse() -> bool:
        can_enable.append(cookie.flags)
        return False

    await cookie.enable(refuse)
    assert can_enable[0] & 1 << 6
    await cookie.relinquish()
    assert cookie.flags & 1 << 4
    assert not cookie.flags & 1 << 9


# -- what a definition may be and do ------------------------------------------------------


@pytest.mark.parametrize("name", ["", "sixteen letters!"])
def test_a_definition_needs_a_name_of_1_to_15_characters(name: str) -> None:
    with pytest.raises(CallerError, match="1 to 15 characters"):
        replace(DATA, name=name)


@pytest.mark.parametrize("type", [-1, 256])
def test_a_definition_has_a_type_of_0_to_255(type: int) -> None:
    with pytest.raises(CallerError, match="is not 0 to 255"):
        replace(DATA, type=type)


def bad(_: object) -> bytes:
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize(
    "definition",
    [
        replace(DATA, get_key=bad),
        replace(DATA, get_key=lambda _: "text"),  # type: ignore[arg-type, return-value]
        replace(DATA, get_attr=bad),  # type: ignore[arg-type]
        replace(DATA, get_attr=lambda _: -1),
        replace(DATA, get_attr=lambda _: "large"),  # type: ignore[arg-type, return-value]
        replace(DATA, get_aux=bad),
        replace(DATA, get_aux=lambda _: "text"),  # type: ignore[arg-type, return-value]
    ],
)
async def test_a_definition_that_gives_no_answer_is_the_netfses_fault(
    definition: CookieDefinition, bench: Bench
) -> None:
    with pytest.raises(PluginError, match="netfs test: ") as caught:
        bench.acquire(definition)
    assert caught.value.plugin == "test"
    assert not bench.volume.children


@pytest.mark.parametrize("answer", [None, 1, "OKAY"])
async def test_check_aux_that_gives_no_answer_makes_the_object_stale(
    answer: object, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await (await bench.stored()).relinquish()

    def check(*_: object) -> AuxOutcome:
        if answer is None:
            raise ZeroDivisionError("a bug")
        return answer  # type: ignore[return-value]

    cookie = bench.acquire(replace(DATA, check_aux=check))
    await cookie.wait_lookup()
    assert await bench.read(cookie, 0, 4) == (ReadOutcome.NO_DATA, {})
    assert "netfs test: " in caplog.text
    assert cookie.object is not None
    assert cookie.object.live, "it is not the backend's fault"


async def test_callbacks_that_only_tell_harm_nobody_when_they_raise(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def raising(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    definition = replace(
        DATA, get_context=raising, put_context=raising, mark_pages_cached=raising, now_uncached=raising
    )
    cookie = bench.acquire(definition)
    folio = Folio(0, memoryview(bytearray(SIZE)))
    assert await page.read_or_alloc_pages(cookie, [folio], context="a read") is ReadOutcome.NO_DATA
    await bench.cache.withdraw()
    for hook in ("get_context", "put_context", "mark_pages_cached", "now_uncached"):
        assert f"netfs test: {hook} raised ZeroDivisionError" in caplog.text
    assert not bench.cache.objects


async def test_contexts_are_held_while_a_retrieval_lives(bench: Bench) -> None:
    held: list[object] = []
    definition = replace(
        DATA, get_context=lambda _, context: held.append(context), put_context=lambda _, c: held.remove(c)
    )
    cookie = bench.acquire(definition)
    await cookie.wait_lookup()
    stuck = bench.faults.arm("read_or_alloc_pages", Hang())
    folio = Folio(0, memoryview(bytearray(SIZE)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(page.read_or_alloc_pages, cookie, [folio], None, "a read")
        await stuck.wait_hit()
        assert held == ["a read"]
        stuck.release()
    assert held == []


async def test_the_netfs_is_told_of_marked_pages_and_of_the_loss_of_its_object(bench: Bench) -> None:
    told: list[object] = []
    definition = replace(
        DATA,
        mark_pages_cached=lambda _, first, n_pages: told.append((first, n_pages)),
        now_uncached=lambda _: told.append("uncached"),
    )
    cookie = bench.acquire(definition)
    await cookie.wait_lookup()
    await bench.read(cookie, 1, 2)
    await bench.read(cookie, 1, 2)  # marked already
    await bench.cache.withdraw()
    assert told == [(1, 2), "uncached"]


async def test_a_cookie_without_evidence_takes_what_is_stored_and_creates_nothing(bench: Bench) -> None:
    await (await bench.stored()).relinquish()
    found = await bench.file(aux=None)
    assert (found.aux, found.object_size) == (b"v1", SIZE)
    await bench.check(found, content(b"v1", SIZE))
    absent = await bench.file(b"other", aux=None)
    assert absent.unavailable
    assert await bench.read(absent, 0, 1) == (ReadOutcome.NO_BUFFERS, {})


# -- enabling and disabling (5.3, 5.4) ----------------------------------------------------


async def test_disabling_stops_caching_and_keeps_what_is_stored(bench: Bench) -> None:
    cookie = await bench.stored()
    await cookie.disable()
    assert not cookie.enabled
    assert await bench.read(cookie, 0, 1) == (ReadOutcome.NO_BUFFERS, {})
    await cookie.disable()  # nothing to do
    await cookie.enable()
    await cookie.enable()  # nothing to do
    await cookie.wait_lookup()
    await bench.check(cookie, content(b"v1", SIZE))


async def test_disabling_with_invalidation_deletes_what_is_stored(bench: Bench) -> None:
    cookie = await bench.stored()
    await cookie.disable(invalidate=True)
    await cookie.enable()
    await cookie.wait_lookup()
    await bench.check(cookie, content(b"v1", SIZE), [])


async def test_enabling_asks_whether_it_may(bench: Bench) -> None:
    cookie = bench.acquire(enable=False)
    await cookie.enable(lambda: False)
    assert not cookie.enabled
    await cookie.enable(lambda: True)
    assert cookie.enabled


async def test_enabling_fails_quietly_when_no_cache_can_take_it(bench: Bench) -> None:
    cookie = bench.acquire(enable=False)
    bench.cache.io_error("a test")
    await cookie.enable()
    assert not cookie.enabled


async def test_an_index_is_enabled_by_itself(bench: Bench) -> None:
    index = bench.acquire(INDEX, b"index", enable=False)
    await index.enable()
    assert index.enabled
    await index.disable()
    assert not index.enabled


async def test_an_index_with_children_cannot_be_disabled_or_relinquished(bench: Bench) -> None:
    index = bench.acquire(INDEX, b"index")
    child = bench.acquire(below=index)
    with pytest.raises(CallerError, match="has 1 children"):
        await index.disable()
    with pytest.raises(CallerError, match="has 1 children"):
        await index.relinquish()
    await child.relinquish()
    await index.relinquish()


async def test_disabling_waits_for_reads_that_use_netfs_data(bench: Bench) -> None:
    cookie = await bench.stored()
    stuck = bench.faults.arm("read_or_alloc_pages", Hang())
    done: list[str] = []

    async def read() -> None:
        await bench.read(cookie, 0, 4)
        done.append("read")

    async def relinquish() -> None:
        await cookie.relinquish()
        done.append("relinquished")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await stuck.wait_hit()
        nursery.start_soon(relinquish)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        stuck.release()
    assert done == ["read", "relinquished"]
    assert bench.domain.stats.relinqs_wcr == 1


# -- relinquishing (5.5) ------------------------------------------------------------------


async def test_relinquishing_keeps_and_retiring_deletes(bench: Bench) -> None:
    cookie = await bench.stored()
    await cookie.relinquish()
    cookie = await bench.file(size=SIZE)
    await bench.check(cookie, content(b"v1", SIZE))
    await cookie.relinquish(retire=True)
    cookie = await bench.file(size=SIZE)
    await bench.check(cookie, content(b"v1", SIZE), [])


async def test_retiring_deletes_also_what_was_not_yet_looked_up(bench: Bench) -> None:
    await (await bench.stored()).relinquish()
    await bench.acquire().relinquish(retire=True)
    await bench.check(await bench.file(size=SIZE), content(b"v1", SIZE), [])


async def test_retiring_deletes_also_what_a_disabled_cookie_left(bench: Bench) -> None:
    """The reference skips that."""
    cookie = await bench.stored()
    await cookie.disable()
    await cookie.relinquish(retire=True)
    await bench.check(await bench.file(size=SIZE), content(b"v1", SIZE), [])


async def test_a_cookie_relinquished_while_it_is_being_enabled_stays_relinquished(bench: Bench) -> None:
    cookie = await bench.stored()
    stuck = bench.faults.arm("read_or_alloc_pages", Hang())

    async def enable() -> None:
        with pytest.raises(CallerError, match="was relinquished"):
            await cookie.enable()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.read, cookie, 0, 1)
        await stuck.wait_hit()
        nursery.start_soon(cookie.disable)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(enable)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(cookie.relinquish)
        await trio.testing.wait_all_tasks_blocked()
        stuck.release()
    assert (cookie.n_active, cookie.enabled) == (0, False)


async def test_retiring_a_cookie_that_is_just_being_disabled_deletes_as_well(bench: Bench) -> None:
    cookie = await bench.stored()
    stuck = bench.faults.arm("read_or_alloc_pages", Hang())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.read, cookie, 0, 1)
        await stuck.wait_hit()
        nursery.start_soon(cookie.disable)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lambda: cookie.relinquish(retire=True))
        await trio.testing.wait_all_tasks_blocked()
        stuck.release()
    assert cookie.n_active == 0
    await bench.check(await bench.file(size=SIZE), content(b"v1", SIZE), [])


@pytest.mark.parametrize(
    "use",
    [
        lambda cookie: cookie.relinquish(),
        lambda cookie: cookie.enable(),
        lambda cookie: cookie.disable(),
        lambda cookie: cookie.check_consistency(),
        lambda cookie: cookie.pin(),
        lambda cookie: cookie.unpin(),
        lambda cookie: cookie.reserve_space(1),
        lambda cookie: page.read_or_alloc_page(cookie, Folio(0, memoryview(bytearray(PAGE_SIZE)))),
        lambda cookie: page.alloc_page(cookie, Folio(0, memoryview(bytearray(PAGE_SIZE)))),
        lambda cookie: page.write_page(cookie, Folio(0, memoryview(bytes(PAGE_SIZE)))),
        lambda cookie: page.uncache_page(cookie, 0),
        lambda cookie: page.readpages_cancel(cookie, []),
        lambda cookie: page.uncache_all_inode_pages(cookie),
        lambda cookie: page.maybe_release_page(cookie, 0),
        lambda cookie: cookie.update(),
        lambda cookie: cookie.invalidate(),
        lambda cookie: cookie.attr_changed(),
    ],
)
async def test_use_after_relinquish_is_the_callers_fault(
    use: Callable[[Cookie], Awaitable[object]], bench: Bench
) -> None:
    cookie = await bench.stored()
    await cookie.relinquish()
    with pytest.raises(CallerError, match="was relinquished; it cannot be used any more") as caught:
        await use(cookie)
    assert caught.value.errno == errno.EBADF


async def test_an_index_holds_no_pages(bench: Bench) -> None:
    index = bench.acquire(INDEX, b"index")
    with pytest.raises(CallerError, match="is an index"):
        await page.alloc_page(index, Folio(0, memoryview(bytearray(PAGE_SIZE))))
    with pytest.raises(CallerError, match="is an index"):
        index.invalidate()


async def test_calls_without_a_cookie_are_counted_and_do_nothing() -> None:
    async with open_fscache() as fscache:
        assert fscache.acquire_cookie(None, DATA, OriginFile(b"file")) is None
        fscache.update_cookie(None)
        await fscache.relinquish_cookie(None)
        stats = fscache.stats
        assert (stats.acquire_n, stats.acquire_nul) == (1, 1)
        assert (stats.updates_n, stats.updates_nul) == (1, 1)
        assert (stats.relinqs_n, stats.relinqs_nul) == (1, 1)


async def test_closing_relinquishes_children_before_parents() -> None:
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        cookie: Cookie | None = fscache.register_netfs("n", 1).primary_index
        for depth in range(4):
            cookie = fscache.acquire_cookie(cookie, INDEX, OriginFile(b"%d" % depth))
        assert fscache.acquire_cookie(cookie, DATA, OriginFile(b"file")) is not None
    assert not fscache.domain.cookies


# -- updating and invalidating (5.6, 5.7) -------------------------------------------------


async def test_an_update_relabels_and_keeps_the_data(bench: Bench) -> None:
    cookie = await bench.stored()
    origin_file(cookie.netfs_data).aux = b"v2"
    cookie.update()
    await trio.testing.wait_all_tasks_blocked()
    await cookie.relinquish()
    await bench.check(await bench.file(aux=b"v2", size=SIZE), content(b"v1", SIZE))


async def test_an_update_of_a_disabled_cookie_is_counted_only(bench: Bench) -> None:
    cookie = bench.acquire(enable=False)
    cookie.update()
    assert bench.domain.stats.updates_n == 1
    assert bench.domain.stats.updates_run == 0


async def test_an_update_outstanding_at_the_end_is_done_then(bench: Bench) -> None:
    cookie = await bench.stored()
    origin_file(cookie.netfs_data).aux = b"v2"
    cookie.update()
    cookie.objects[0].kill()  # before its task has run
    await cookie.objects[0].wait_dead()
    await cookie.relinquish()
    await bench.check(await bench.file(aux=b"v2", size=SIZE), content(b"v1", SIZE))


async def test_a_label_that_cannot_be_written_is_not_believed_later(bench: Bench) -> None:
    cookie = await bench.stored()
    bench.faults.arm("update_object", Fail(FscacheError("cannot")))
    cookie.update()
    await trio.testing.wait_all_tasks_blocked()
    assert not cookie.objects
    await cookie.relinquish()
    await bench.check(await bench.file(size=SIZE), content(b"v1", SIZE), [])


async def test_an_invalidated_file_has_no_old_data_and_is_filled_anew(bench: Bench) -> None:
    cookie = await bench.stored()
    origin_file(cookie.netfs_data).aux = b"v2"
    cookie.invalidate()
    assert cookie.read_resident is None
    await cookie.wait_on_invalidate()
    await bench.check(cookie, content(b"v1", SIZE), [])
    new = await bench.fill(cookie, b"v2")
    await cookie.relinquish()
    await bench.check(await bench.file(aux=b"v2", size=SIZE), new)


async def test_while_an_invalidation_waits_reads_and_stores_are_refused(bench: Bench) -> None:
    cookie = await bench.stored()
    cookie.invalidate()
    n, nbf = bench.domain.stats.retrvls_n, bench.domain.stats.retrvls_nbf
    assert await bench.read(cookie, 0, 1) == (ReadOutcome.NO_BUFFERS, {})
    assert (bench.domain.stats.retrvls_n, bench.domain.stats.retrvls_nbf) == (n + 1, nbf)
    assert page.write_page_nowait(cookie, Folio(0, memoryview(bytes(SIZE)))) is WriteOutcome.NO_BUFFERS


@pytest.mark.parametrize("how", ["disabled", "without a cache"])
async def test_an_invalidation_holds_when_there_is_no_object_to_invalidate(how: str, bench: Bench) -> None:
    """Although evidence and label still agree."""
    cookie = await bench.stored()
    if how == "disabled":
        await cookie.disable()
        cookie.invalidate()
        await cookie.enable()
    else:
        cookie.objects[0].kill()
        await trio.testing.wait_all_tasks_blocked()
        cookie.invalidate()
        cookie.acquire_objects()
    await cookie.wait_lookup()
    await bench.check(cookie, content(b"v1", SIZE), [])


async def test_an_invalidation_during_the_lookup_is_carried_out_after_it(bench: Bench) -> None:
    await (await bench.stored()).relinquish()
    stuck = bench.faults.arm("lookup_object", Hang())
    cookie = bench.acquire()
    await stuck.wait_hit()
    cookie.invalidate()
    stuck.release()
    await cookie.wait_on_invalidate()
    await bench.check(cookie, content(b"v1", SIZE), [])


async def test_an_invalidation_of_a_dying_object_holds(bench: Bench) -> None:
    cookie = await bench.stored()
    stuck = bench.faults.arm("update_object", Hang())
    origin_file(cookie.netfs_data).aux = b"v2"
    cookie.update()
    cookie.objects[0].kill()
    await stuck.wait_hit()  # the last update, in DROP_OBJECT
    assert cookie.objects[0].dying
    cookie.invalidate()
    assert not cookie.invalidating
    stuck.release()
    await trio.testing.wait_all_tasks_blocked()
    cookie.acquire_objects()
    await cookie.wait_lookup()
    await bench.check(cookie, content(b"v1", SIZE), [])


async def test_an_invalidation_that_fails_deletes_everything(bench: Bench) -> None:
    cookie = await bench.stored()
    bench.faults.arm("invalidate_object", Fail(FscacheError("cannot")))
    cookie.invalidate()
    await trio.testing.wait_all_tasks_blocked()
    assert not cookie.objects
    await cookie.relinquish()
    await bench.check(await bench.file(size=SIZE), content(b"v1", SIZE), [])


async def test_a_read_queued_behind_an_invalidation_that_fails_sees_no_old_data(bench: Bench) -> None:
    cookie = await bench.stored()
    stuck = bench.faults.arm("invalidate_object", Hang(), at=1)
    cookie.invalidate()
    await stuck.wait_hit()
    outcomes: list[tuple[ReadOutcome, dict[int, bytes]]] = []

    async def read() -> None:
        outcomes.append(await bench.read(cookie, 0, 4))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        stuck.leave = Answer(7).leave  # type: ignore[method-assign]
        stuck.n_proceed = 0
        stuck.release()
    assert outcomes == [(ReadOutcome.NO_BUFFERS, {})]


async def test_an_invalidation_overtaken_by_an_io_error_is_not_forgotten(bench: Bench) -> None:
    cookie = await bench.stored()
    stuck = bench.faults.arm("read_or_alloc_pages", Hang())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.read, cookie, 0, 4)
        await stuck.wait_hit()
        cookie.invalidate()
        await cookie.wait_on_invalidate()  # queued behind the read
        bench.cache.io_error("a test")
        stuck.release()
    await trio.testing.wait_all_tasks_blocked()
    assert cookie.distrusted


async def test_an_invalidation_invalidates_even_if_the_evidence_cannot_be_had(bench: Bench) -> None:
    cookie = await bench.stored()
    origin_file(cookie.netfs_data).aux = b"a" * 1000
    with pytest.raises(CallerError):
        cookie.invalidate()
    await cookie.wait_on_invalidate()
    await bench.check(cookie, content(b"v1", SIZE), [])


# -- consistency, size, promises (4.1) ----------------------------------------------------


async def test_consistency_is_of_what_is_stored_with_what_the_netfs_says(bench: Bench) -> None:
    cookie = await bench.stored()
    assert await cookie.check_consistency() is ConsistencyOutcome.CONSISTENT
    origin_file(cookie.netfs_data).aux = b"v2"
    assert await cookie.check_consistency() is ConsistencyOutcome.STALE


async def test_a_cookie_found_stale_does_not_label_its_old_data_as_new(bench: Bench) -> None:
    """The reference takes the new evidence over before it compares, and writes it at the end."""
    cookie = await bench.stored()
    origin_file(cookie.netfs_data).aux = b"v2"
    assert await cookie.check_consistency() is ConsistencyOutcome.STALE
    await cookie.relinquish()
    await bench.check(await bench.file(aux=b"v2", size=SIZE), content(b"v1", SIZE), [])


async def test_what_is_not_cached_is_consistent(bench: Bench) -> None:
    assert await bench.acquire(enable=False).check_consistency() is ConsistencyOutcome.CONSISTENT
    cookie = await bench.file(b"other", aux=None)
    await trio.testing.wait_all_tasks_blocked()
    assert await cookie.check_consistency() is ConsistencyOutcome.CONSISTENT


async def test_consistency_waits_for_the_lookup(bench: Bench) -> None:
    cookie = bench.acquire()
    assert await cookie.check_consistency() is ConsistencyOutcome.CONSISTENT
    assert bench.domain.stats.retrvls_wt == 1


async def test_consistency_with_a_stopped_cache_is_stale(bench: Bench) -> None:
    cookie = await bench.stored()
    bench.cache.io_error("a test")
    assert await cookie.check_consistency() is ConsistencyOutcome.STALE


async def test_consistency_is_stale_if_the_backend_cannot_tell(bench: Bench) -> None:
    cookie = await bench.stored()
    bench.faults.arm("check_consistency", Fail(CacheIOError("gone")))
    assert await cookie.check_consistency() is ConsistencyOutcome.STALE
    assert bench.cache.broken


async def test_consistency_of_an_object_that_dies_meanwhile_is_nothing_to_complain_of(bench: Bench) -> None:
    cookie = await bench.stored()
    stuck = bench.faults.arm("attr_changed", Hang())
    cookie.attr_changed()
    outcomes: list[ConsistencyOutcome] = []

    async def check() -> None:
        outcomes.append(await cookie.check_consistency())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check)
        await stuck.wait_hit()
        cookie.objects[0].live = False
        stuck.release()
    assert outcomes == [ConsistencyOutcome.CONSISTENT]
    cookie.objects[0].live = True


async def test_a_change_of_size_is_queued_if_there_is_an_object(bench: Bench) -> None:
    cookie = await bench.stored()
    origin_file(cookie.netfs_data).size = 2 * SIZE
    assert cookie.attr_changed()
    await trio.testing.wait_all_tasks_blocked()
    assert cookie.objects[0].store_limit_size == 2 * SIZE
    assert not bench.acquire(DATA, b"other", enable=False).attr_changed()
    bench.cache.io_error("a test")
    assert not cookie.attr_changed()
    stats = bench.domain.stats
    assert (stats.attrchg_n, stats.attrchg_ok, stats.attrchg_nbf, stats.attrchg_run) == (2, 1, 1, 1)


async def test_a_change_of_size_that_fails_kills_the_object(bench: Bench) -> None:
    cookie = await bench.stored()
    bench.faults.arm("attr_changed", Fail(FscacheError("cannot")))
    assert cookie.attr_changed()
    await trio.testing.wait_all_tasks_blocked()
    assert not cookie.objects


async def test_a_change_of_size_found_dying_does_nothing(bench: Bench) -> None:
    cookie = await bench.stored()
    stuck = bench.faults.arm("read_or_alloc_pages", Hang())
    calls = bench.faults.arm("attr_changed", Run(lambda: None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.read, cookie, 0, 4)
        await stuck.wait_hit()
        cookie.attr_changed()
        cookie.objects[0].kill()
        await trio.testing.wait_all_tasks_blocked()
        stuck.release()
    await trio.testing.wait_all_tasks_blocked()
    assert calls.n_hits == 0


async def test_pins_and_reservations_reach_the_backend(bench: Bench) -> None:
    cookie = await bench.stored()
    assert await cookie.pin() is ReserveOutcome.GRANTED
    assert await cookie.reserve_space(SIZE) is ReserveOutcome.GRANTED
    await cookie.unpin()
    assert await bench.acquire(DATA, b"other", enable=False).pin() is ReserveOutcome.REFUSED


async def test_pins_are_refused_where_they_cannot_be_had(bench: Bench) -> None:
    cookie = await bench.stored()
    bench.faults.arm("pin_object", Fail(NoSpaceError("full")), at=1)
    assert await cookie.pin() is ReserveOutcome.REFUSED
    assert cookie.objects[0].live
    bench.faults.arm("reserve_space", Fail(CacheIOError("gone")))
    assert await cookie.reserve_space(1) is ReserveOutcome.REFUSED
    assert bench.cache.broken
    assert await cookie.pin() is ReserveOutcome.REFUSED


async def test_pins_of_a_dying_object_are_refused(bench: Bench) -> None:
    cookie = await bench.stored()
    stuck = bench.faults.arm("attr_changed", Hang())
    cookie.attr_changed()
    async with trio.open_nursery() as nursery:
        outcomes: list[ReserveOutcome] = []

        async def pin() -> None:
            outcomes.append(await cookie.pin())

        nursery.start_soon(pin)
        await stuck.wait_hit()
        cookie.objects[0].live = False
        stuck.release()
    assert outcomes == [ReserveOutcome.REFUSED]
    cookie.objects[0].live = True
