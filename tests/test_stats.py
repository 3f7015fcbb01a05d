"""Counters: every one is moved by a scenario named for it; text forms (reference section 12)."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import pytest
import trio
import trio.testing

from fscache_core import page
from fscache_core.cookie import CookieDefinition, acquire_cookie
from fscache_core.errors import FscacheError, NoSpaceError
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.fscache import FsCache, open_fscache
from fscache_core.hookspecs import cache_hook
from fscache_core.operation import Operation
from fscache_core.outcome import AuxOutcome, CookieType, KillReason, LookupOutcome, ReadOutcome
from fscache_core.stats import ROWS, Histogram, Stats, counters
from fscache_core.testing.cache_session import OriginFile, Session, content, origin_file
from fscache_core.testing.faulty import Answer, Fail, Faults, Hang
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.cookie import Cookie
    from fscache_core.object import CacheObject

P = ParamSpec("P")
R = TypeVar("R")

SIZE = 8 * PAGE_SIZE


class Backend(MemoryBackend):
    """Has also the hooks that only exist to be counted."""

    @cache_hook
    async def lookup_complete(self, obj: CacheObject) -> None: ...

    @cache_hook
    def grab_object(self, obj: CacheObject) -> None: ...

    @cache_hook
    def put_object(self, obj: CacheObject) -> None: ...

    @cache_hook
    async def uncache_page(self, obj: CacheObject, first: int, n_pages: int) -> None: ...

    @cache_hook
    async def dissociate_pages(self) -> None: ...


class GaugeWatch:
    """A wrapper that notes which gauges are up while each hook runs."""

    def __init__(self) -> None:
        self.stats = Stats()
        self.seen: dict[str, set[str]] = {}

    def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
        def watched(*args: P.args, **kwargs: P.kwargs) -> R:
            self.look(hook)
            return proceed(*args, **kwargs)

        async def watched_async(*args: P.args, **kwargs: P.kwargs) -> object:
            self.look(hook)
            return await cast("Callable[P, Awaitable[object]]", proceed)(*args, **kwargs)

        return cast("Callable[P, R]", watched_async) if inspect.iscoroutinefunction(proceed) else watched

    def look(self, hook: str) -> None:
        up = {name for name, value in self.stats.as_dict().items() if value and name.startswith("cacheop")}
        self.seen.setdefault(hook, set()).update(up)


class Bench(Session):
    fscache: FsCache
    faults: Faults

    def start(self, key: bytes = b"file", verdict: AuxOutcome | None = None) -> Cookie:
        definition = CookieDefinition(
            "test",
            CookieType.DATA,
            get_key=lambda data: origin_file(data).key,
            get_attr=lambda data: origin_file(data).size,
            get_aux=lambda data: origin_file(data).aux,
        )
        return acquire_cookie(
            self.domain, self.volume, definition, OriginFile(key, size=SIZE, verdict=verdict)
        )

    async def stored(self, key: bytes = b"file") -> Cookie:
        cookie = await self.file(key, size=SIZE)
        await self.fill(cookie)
        return cookie


SCENARIOS: dict[str, Callable[[Bench], Awaitable[None]]] = {}


def moves(*names: str) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[Bench], Awaitable[None]]]:
    def register(scenario: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
        SCENARIOS.update(dict.fromkeys(names, scenario))
        return scenario

    return register


@moves("cookies_idx", "cookies_dat", "cookies_spc", "acquire_n", "acquire_ok", "objects_alc", "objects_avl")
async def acquiring(bench: Bench) -> None:
    bench.index(b"index")
    await bench.file(b"data")
    await bench.file(b"special", type=CookieType.SPECIAL)


@moves(
    "lookups_n", "lookups_neg", "lookups_crt", "allocs_n", "allocs_ok", "alloc_ops", "stores_n", "stores_ok"
)
async def storing(bench: Bench) -> None:
    await bench.stored()


@moves(
    "store_ops",
    "store_run",
    "store_pgs",
    "store_rxd",
    "pages_mrk",
    "ops_ini",
    "ops_run",
    "ops_rel",
    "ops_enq",
)
async def storing_as_well(bench: Bench) -> None:
    await bench.stored()


@moves("lookups_pos", "chkaux_ok", "retrvls_n", "retrvls_ok", "retrvl_ops", "objects_ded", "relinqs_n")
async def reading_again(bench: Bench) -> None:
    await (await bench.stored()).relinquish()
    await bench.check(await bench.file(size=SIZE), content(b"v1", SIZE))


@moves("retrvls_nod")
async def reading_what_is_not_there(bench: Bench) -> None:
    assert (await bench.read(await bench.file(size=SIZE), 0, 1))[0] is ReadOutcome.NO_DATA


@moves("objects_nal", "acquire_nbf")
async def no_object(bench: Bench) -> None:
    bench.faults.arm("alloc_object", Fail(FscacheError("cannot")))
    await bench.file()


@moves("acquire_oom")
async def no_memory_for_an_object(bench: Bench) -> None:
    bench.faults.arm("alloc_object", Fail(MemoryError()))
    await bench.file()


@moves("acquire_noc")
async def no_cache(bench: Bench) -> None:
    bench.cache.io_error("a test")
    await bench.file()


@moves("acquire_nul", "updates_nul", "relinqs_nul")
async def no_cookie(bench: Bench) -> None:
    bench.fscache.acquire_cookie(None, bench.volume.definition, None)
    bench.fscache.update_cookie(None)
    await bench.fscache.relinquish_cookie(None)


@moves("chkaux_non")
async def no_check(bench: Bench) -> None:
    await (await bench.stored()).relinquish()
    await bench.start().wait_lookup()


@moves("chkaux_upd")
async def label_to_be_updated(bench: Bench) -> None:
    await (await bench.stored()).relinquish()
    await bench.file(verdict=AuxOutcome.NEEDS_UPDATE)


@moves("chkaux_obs", "cacheev_stl")
async def stale(bench: Bench) -> None:
    await (await bench.stored()).relinquish()
    await bench.file(aux=b"v2")


@moves("lookups_tmo")
async def lookup_requeued(bench: Bench) -> None:
    bench.faults.arm("lookup_object", Answer(LookupOutcome.RETRY), at=1)
    await bench.file()


@moves("pages_unc")
async def uncaching(bench: Bench) -> None:
    await page.uncache_page(await bench.stored(), 0)


@moves("invals_n", "invals_run")
async def invalidating(bench: Bench) -> None:
    (await bench.stored()).invalidate()
    await trio.testing.wait_all_tasks_blocked()


@moves("updates_n", "updates_run")
async def updating(bench: Bench) -> None:
    (await bench.stored()).update()
    await trio.testing.wait_all_tasks_blocked()


@moves("relinqs_rtr")
async def retiring(bench: Bench) -> None:
    await (await bench.stored()).relinquish(retire=True)


@moves("attrchg_n", "attrchg_ok", "attrchg_run")
async def resizing(bench: Bench) -> None:
    (await bench.stored()).attr_changed()
    await trio.testing.wait_all_tasks_blocked()


@moves("attrchg_nbf", "allocs_nbf", "retrvls_nbf", "stores_nbf")
async def uncached(bench: Bench) -> None:
    cookie = await bench.stored()
    await bench.cache.withdraw()
    cookie.attr_changed()
    await bench.read(cookie, 0, 1)
    await bench.store(cookie, 0, bytes(PAGE_SIZE))
    await page.write_page(cookie, Folio(0, memoryview(bytes(PAGE_SIZE))))


@moves("attrchg_oom", "retrvls_oom", "stores_oom")
async def out_of_memory(bench: Bench) -> None:
    cookie = await bench.file(size=SIZE)
    for hook in ("read_or_alloc_pages", "write_page", "attr_changed"):
        bench.faults.arm(hook, Fail(MemoryError()))
    await bench.read(cookie, 0, 1)
    await bench.store(cookie, 0, bytes(PAGE_SIZE))
    cookie.attr_changed()
    await trio.testing.wait_all_tasks_blocked()


@moves("retrvls_wt", "allocs_wt", "retrvls_int", "allocs_int")
async def interrupted_while_waiting_for_the_lookup(bench: Bench) -> None:
    stuck = bench.faults.arm("lookup_object", Hang())
    cookie = bench.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.read, cookie, 0, 1)
        nursery.start_soon(bench.store, cookie, 0, bytes(PAGE_SIZE))
        await stuck.wait_hit()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    stuck.release()


@moves("retrvl_owt", "alloc_owt", "retrvl_abt", "alloc_abt", "ops_pend", "ops_can")
async def aborted_while_waiting_for_their_turn(bench: Bench) -> None:
    cookie = await bench.file(size=SIZE)
    stuck = bench.faults.arm("attr_changed", Hang())
    cookie.attr_changed()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.read, cookie, 0, 1)
        nursery.start_soon(bench.store, cookie, 0, bytes(PAGE_SIZE))
        await stuck.wait_hit()
        await trio.testing.wait_all_tasks_blocked()
        cookie.objects[0].ops.cancel_all()
        stuck.release()


@moves("stores_agn", "store_olm")
async def storing_again_and_beyond_the_limit(bench: Bench) -> None:
    cookie = await bench.file(size=SIZE)
    await page.alloc_page(cookie, Folio(0, memoryview(bytearray(SIZE))))
    for _ in range(2):
        await page.write_page(cookie, Folio(0, memoryview(bytes(SIZE))), object_size=PAGE_SIZE)
    await cookie.wait_on_stores()


@moves("vmscan_nos", "vmscan_bsy", "vmscan_can", "vmscan_wt")
async def releasing_pages(bench: Bench) -> None:
    cookie = await bench.file(size=SIZE)
    await page.alloc_page(cookie, Folio(0, memoryview(bytearray(SIZE))))
    stuck = bench.faults.arm("write_page", Hang())
    for first in (0, 1):
        await page.write_page(cookie, Folio(first, memoryview(bytes(PAGE_SIZE))))
    await stuck.wait_hit()
    await page.maybe_release_page(cookie, 0)
    await page.maybe_release_page(cookie, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(page.maybe_release_page, cookie, 0)
        nursery.start_soon(lambda: page.maybe_release_page(cookie, 0, may_wait=True))
        await trio.testing.wait_all_tasks_blocked()
        stuck.release()
    await cookie.wait_on_stores()


@moves("vmscan_gon")
async def page_goes_while_it_is_waited_for(bench: Bench) -> None:
    cookie = await bench.file(size=SIZE)
    await page.alloc_page(cookie, Folio(0, memoryview(bytearray(SIZE))))
    stuck = bench.faults.arm("write_page", Hang(), at=1)
    await page.write_page(cookie, Folio(0, memoryview(bytes(PAGE_SIZE))))
    await stuck.wait_hit()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: page.maybe_release_page(cookie, 0, may_wait=True))
        await trio.testing.wait_all_tasks_blocked()
        cookie.forget_marks()  # as when the object dies
        stuck.release()


@moves("ops_rej")
async def refused_by_a_dying_object(bench: Bench) -> None:
    obj = (await bench.stored()).objects[0]
    obj.live = False
    op = Operation(obj)
    obj.ops.submit(op)
    op.put()
    obj.live = True


@moves("ops_dfr", "ops_gc")
async def operation_that_is_never_put(bench: Bench) -> None:
    op = Operation((await bench.stored()).objects[0])
    op.object.ops.submit(op)
    op.get()
    op.finish()
    await trio.sleep(bench.domain.limits.hook_seconds + 1)


@moves("relinqs_wcr")
async def relinquishing_while_reading(bench: Bench) -> None:
    cookie = await bench.stored()
    stuck = bench.faults.arm("read_or_alloc_pages", Hang())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.read, cookie, 0, 1)
        await stuck.wait_hit()
        nursery.start_soon(cookie.relinquish)
        await trio.testing.wait_all_tasks_blocked()
        stuck.release()


@moves("cacheev_nsp")
async def no_space_for_an_object(bench: Bench) -> None:
    bench.faults.arm("lookup_object", Fail(NoSpaceError("full")))
    await bench.file()


@moves("cacheev_rtr", "cacheev_cul")
async def ended_by_the_backend(bench: Bench) -> None:
    for key, why in ((b"1", KillReason.WAS_RETIRED), (b"2", KillReason.WAS_CULLED)):
        (await bench.stored(key)).objects[0].mark_killed(why)


#: Gauges, and the hook during which each is up.
GAUGES = {
    "cacheop_alo": "alloc_object",
    "cacheop_luo": "lookup_object",
    "cacheop_luc": "lookup_complete",
    "cacheop_gro": "grab_object",
    "cacheop_inv": "invalidate_object",
    "cacheop_upo": "update_object",
    "cacheop_dro": "drop_object",
    "cacheop_pto": "put_object",
    "cacheop_atc": "attr_changed",
    "cacheop_syn": "sync_cache",
    "cacheop_rap": "read_or_alloc_page",
    "cacheop_ras": "read_or_alloc_pages",
    "cacheop_alp": "allocate_page",
    "cacheop_als": "allocate_pages",
    "cacheop_wrp": "write_page",
    "cacheop_ucp": "uncache_page",
    "cacheop_dsp": "dissociate_pages",
}


async def run(scenario: Callable[[Bench], Awaitable[None]], *watch: GaugeWatch) -> tuple[Stats, Stats]:
    """Run a scenario in a cache of its own; returns the counters before and after it."""
    faults = Faults()
    async with open_fscache() as fscache:
        for each in watch:
            each.stats = fscache.stats
        cache = await fscache.add_cache(Backend(), wrappers=[*watch, faults])
        bench = Bench(fscache.domain, cache, fscache.register_netfs("test", 1).primary_index)
        bench.volume = bench.index(b"volume")
        bench.fscache, bench.faults = fscache, faults
        before = Stats.of(fscache.stats.as_dict())
        await scenario(bench)
        faults.disarm()
        after = Stats.of(fscache.stats.as_dict())
    return before, after


@pytest.mark.parametrize("name", [name for name in counters() if name not in GAUGES])
async def test_every_counter_is_moved(name: str, autojump_clock: trio.testing.MockClock) -> None:
    scenario = SCENARIOS[name]  # a KeyError here: there is a counter without a test
    before, after = await run(scenario)
    assert getattr(after, name) > getattr(before, name)


@pytest.mark.parametrize("name", [name for name in counters() if name.startswith("cacheop")])
async def test_every_gauge_is_up_during_its_hook_and_down_after_it(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    async def everything(bench: Bench) -> None:
        cookie = await bench.stored()
        for folio in (Folio(0, memoryview(bytearray(PAGE_SIZE))), Folio(1, memoryview(bytearray(PAGE_SIZE)))):
            await page.read_or_alloc_page(cookie, folio)
            await page.alloc_page(cookie, folio)
        await page.read_or_alloc_pages(cookie, [Folio(0, memoryview(bytearray(SIZE)))])
        await page.uncache_page(cookie, 0)
        cookie.update()
        await trio.testing.wait_all_tasks_blocked()
        cookie.attr_changed()
        cookie.invalidate()
        await trio.testing.wait_all_tasks_blocked()
        await bench.cache.withdraw()

    watch = GaugeWatch()
    await run(everything, watch)
    assert name in watch.seen[GAUGES[name]]
    assert getattr(watch.stats, name) == 0


def test_the_text_form_is_that_of_the_reference() -> None:
    lines = Stats(cookies_dat=3, cacheop_luo=1, vmscan_wt=2).text().splitlines()
    assert lines[0] == "FS-Cache statistics"
    assert lines[1] == "Cookies: idx=0 dat=3 spc=0"
    assert lines[16] == "Stores : ops=0 run=0 pgs=0 rxd=0 olm=0"
    assert lines[17] == "VmScan : nos=0 gon=0 bsy=0 can=0 wt=2"
    assert lines[20] == "CacheOp: alo=0 luo=1 luc=0 gro=0"
    assert len(lines) == 24
    assert all(re.fullmatch(r"\w[\w ]{6}:( \w+=\d+)+", line) for line in lines[1:])


def test_every_counter_is_in_one_row() -> None:
    assert sorted(f"{group}_{key}" for _, group, keys in ROWS for key in keys) == sorted(counters())


def test_the_prometheus_form_names_counters_and_gauges() -> None:
    lines = Stats(cookies_dat=3, cacheop_luo=1).prometheus().splitlines()
    assert "# TYPE fscache_cookies_dat_total counter" in lines
    assert "fscache_cookies_dat_total 3" in lines
    assert "# TYPE fscache_cacheop_luo gauge" in lines
    assert "fscache_cacheop_luo 1" in lines
    names = [line.split()[0] for line in lines if not line.startswith("#")]
    assert len(names) == len(set(names)) == len(list(counters()))


def test_differences_hold_counters_that_grew_and_no_gauges() -> None:
    before = Stats(cookies_dat=3, retrvls_n=5).as_dict()
    assert Stats(cookies_dat=4, retrvls_n=5, cacheop_luo=2).since(before) == {"cookies_dat": 1}


def test_counts_under_unknown_names_are_left_out() -> None:
    assert Stats.of({"cookies_dat": 4, "of a later version": 1}) == Stats(cookies_dat=4)


def test_a_count_of_what_is_not_counted_is_an_error() -> None:
    with pytest.raises(TypeError, match="no such counters: cookies"):
        Stats(cookies=1)


def test_the_histogram_has_a_bucket_per_jiffy_and_leaves_out_empty_ones() -> None:
    histogram = Histogram()
    histogram.note("obj_inst", 0.0)
    histogram.note("op_runs", 0.0301)
    histogram.note("retrievls", 0.0301)
    histogram.note("retrievls", 1000.0)
    assert histogram.text().splitlines() == [
        "JIFS  SECS  OBJ INST  OP RUNS   OBJ RUNS  RETRV DLY RETRIEVLS",
        "===== ===== ========= ========= ========= ========= =========",
        "   0  0.000         1         0         0         0         0",
        "   3  0.030         0         1         0         0         1",
        "  99  0.990         0         0         0         0         1",
    ]
    assert histogram.as_dict()["retrievls"][99] == 1
    assert histogram.as_dict()["obj_runs"] == [0] * 100


async def test_the_histogram_has_the_five_columns_of_the_reference() -> None:
    async with open_fscache() as fscache:
        cache = await fscache.add_cache(Backend())
        bench = Bench(fscache.domain, cache, fscache.register_netfs("test", 1).primary_index)
        bench.volume = bench.index(b"volume")
        cookie = bench.start()
        await bench.read(cookie, 0, 1)
        await bench.fill(cookie)
        assert {name for name, counts in fscache.domain.histogram.as_dict().items() if any(counts)} == set(
            Histogram.NAMES
        )
