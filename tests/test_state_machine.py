"""Random netfs calls, backend faults and cancellations against a model, for thousands of steps.

What is checked, after every step and at the end: no byte of a version that was not current since the file was
last invalidated; no call that does not return; no object, operation, task or byte to be stored left behind.

A seed makes a run; the model is what the origin holds.  Several tasks go at once, so that calls meet.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from fscache_core import page
from fscache_core.cookie import Cookie, CookieDefinition, acquire_cookie
from fscache_core.domain import Limits
from fscache_core.errors import CacheIOError, CallerError, FscacheError, NoSpaceError
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.fscache import FsCache, open_fscache
from fscache_core.outcome import AuxOutcome, CookieType, LookupOutcome, ReadOutcome, WriteOutcome
from fscache_core.testing.faulty import Answer, Delay, Fail, Fault, Faults, Hang
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.cache import Cache

N_FILES, N_PAGES, N_TASKS = 4, 6, 4
HOOKS = (
    *("lookup_object", "read_or_alloc_pages", "allocate_pages", "write_page", "update_object"),
    *("invalidate_object", "attr_changed", "drop_object", "check_consistency", "sync_cache"),
    *("pin_object", "unpin_object", "dissociate_pages"),
)


@dataclass(eq=False)
class OriginFile:
    """The model of a file: one version after another, each of one byte value throughout."""

    key: bytes
    version: int = 1
    cookie: Cookie | None = None
    lock: trio.Lock = field(default_factory=trio.Lock)  # of acquiring and relinquishing

    @property
    def byte(self) -> int:
        return self.version % 251

    def data(self, first: int, n_pages: int) -> bytes:
        return bytes([self.byte]) * (n_pages * PAGE_SIZE)


def file_of(data: object) -> OriginFile:
    assert isinstance(data, OriginFile)
    return data


def check_aux(data: object, aux: bytes, object_size: int) -> AuxOutcome:
    fits = aux == b"%d" % file_of(data).version and object_size == N_PAGES * PAGE_SIZE
    return AuxOutcome.OKAY if fits else AuxOutcome.OBSOLETE


DATA = CookieDefinition(
    "model",
    CookieType.DATA,
    get_key=lambda data: file_of(data).key,
    get_attr=lambda data: N_PAGES * PAGE_SIZE,
    get_aux=lambda data: b"%d" % file_of(data).version,
    check_aux=check_aux,
)
INDEX = CookieDefinition("model", CookieType.INDEX, get_key=lambda data: b"volume")


def is_race(error: CallerError) -> bool:
    """Whether another task was faster; nothing else may be wrong with what the steps call."""
    return "relinquished" in str(error) or "in use" in str(error)


class Machine:
    """The caches, the files, and the steps that may be taken."""

    def __init__(self, fscache: FsCache, random: Random) -> None:
        self.fscache, self.random = fscache, random
        self.faults = Faults(random.randrange(10**9))
        self.backends = [MemoryBackend(), MemoryBackend(max_bytes=6 * N_PAGES * PAGE_SIZE)]
        self.in_use: dict[int, Cache] = {}
        self.changing_caches = trio.Lock()
        primary = fscache.register_netfs("model", 1).primary_index
        self.volume = acquire_cookie(fscache.domain, primary, INDEX, None)
        self.files = [OriginFile(b"%d" % number) for number in range(N_FILES)]
        self.taken: Counter[str] = Counter()
        self.steps: list[tuple[int, Callable[[OriginFile], Awaitable[None]]]] = [
            (30, self.read),
            (5, self.read_cancelled),
            (3, self.new_version),
            (4, self.update),
            (3, self.check_consistency),
            (3, self.attr_changed),
            (3, self.disable_and_enable),
            (4, self.relinquish),
            (3, self.release_pages),
            (2, self.pin),
            (1, self.withdraw_or_add),
            (5, self.break_something),
            (5, self.mend_everything),
        ]

    async def step(self) -> None:
        (step,) = self.random.choices([s for _, s in self.steps], [weight for weight, _ in self.steps])
        file = self.random.choice(self.files)
        self.taken[step.__name__] += 1
        try:
            await step(file)
        except CallerError as error:
            if not is_race(error):
                raise

    def cookie(self, file: OriginFile) -> Cookie:
        if file.cookie is None:
            file.cookie = acquire_cookie(self.fscache.domain, self.volume, DATA, file)
        return file.cookie

    def range(self) -> tuple[int, int]:
        first = self.random.randrange(N_PAGES)
        return first, self.random.randrange(1, N_PAGES - first + 1)

    async def read(self, file: OriginFile) -> None:
        """Read as a netfs does: what the cache has not, from the origin, to be stored."""
        cookie, oldest = self.cookie(file), file.version
        first, n_pages = self.range()
        buffer = bytearray(b"\xff" * (n_pages * PAGE_SIZE))  # no version has this byte
        got: set[int] = set()

        def end_io(start: int, n: int, error: BaseException | None) -> None:
            assert error is None
            got.update(range(start, start + n))

        outcome = await page.read_or_alloc_pages(cookie, [Folio(first, memoryview(buffer))], end_io)
        newest = file.version
        allowed = {version % 251 for version in range(oldest, newest + 1)}
        for at in got:
            values = set(buffer[(at - first) * PAGE_SIZE : (at - first + 1) * PAGE_SIZE])
            assert len(values) == 1, "a page of two versions"
            assert values <= allowed, f"page {at}: byte of {values}, current were {oldest} to {newest}"
        if outcome is ReadOutcome.HIT:
            assert len(got) == n_pages
        if outcome is ReadOutcome.NO_DATA and newest == oldest:
            for at in sorted(set(range(first, first + n_pages)) - got):
                # The netfs's own duty: not to store what it fetched before the file changed.
                version, data = file.version, memoryview(file.data(at, 1))
                if self.random.random() < 0.3:
                    await trio.lowlevel.checkpoint()
                if file.version == version and file.cookie is cookie:
                    assert await page.write_page(cookie, Folio(at, data)) in WriteOutcome

    async def read_cancelled(self, file: OriginFile) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_quietly, file)
                for _ in range(self.random.randrange(12)):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

    async def _read_quietly(self, file: OriginFile) -> None:
        try:
            await self.read(file)
        except CallerError as error:
            if not is_race(error):
                raise

    async def new_version(self, file: OriginFile) -> None:
        """The origin changes, and the netfs says so at once."""
        cookie = self.cookie(file)
        file.version += 1
        if cookie.relinquished:
            return
        cookie.invalidate()
        if self.random.random() < 0.5:
            await cookie.wait_on_invalidate()

    async def update(self, file: OriginFile) -> None:
        self.cookie(file).update()

    async def check_consistency(self, file: OriginFile) -> None:
        await self.cookie(file).check_consistency()

    async def attr_changed(self, file: OriginFile) -> None:
        self.cookie(file).attr_changed()

    async def disable_and_enable(self, file: OriginFile) -> None:
        cookie = self.cookie(file)
        await cookie.disable(invalidate=self.random.random() < 0.5)
        await trio.lowlevel.checkpoint()
        await cookie.enable()

    async def relinquish(self, file: OriginFile) -> None:
        cookie = self.cookie(file)
        if file.lock.locked():
            return
        async with file.lock:
            await cookie.relinquish(retire=self.random.random() < 0.3)
            file.cookie = None

    async def release_pages(self, file: OriginFile) -> None:
        cookie = self.cookie(file)
        await page.maybe_release_page(cookie, self.random.randrange(N_PAGES))
        await page.uncache_page(cookie, *self.range())

    async def pin(self, file: OriginFile) -> None:
        await self.cookie(file).pin()
        await self.cookie(file).unpin()

    async def withdraw_or_add(self, _: OriginFile) -> None:
        async with self.changing_caches:
            number = self.random.randrange(len(self.backends))
            cache = self.in_use.pop(number, None)
            if cache is not None:
                await cache.withdraw()
                assert not cache.objects, "objects are left"
            else:
                await self.add(number)

    async def add(self, number: int) -> None:
        self.in_use[number] = await self.fscache.add_cache(
            self.backends[number], tag=str(number), wrappers=[self.faults]
        )

    async def break_something(self, _: OriginFile) -> None:
        hook = self.random.choice(HOOKS)
        kinds: list[Fault] = [
            Fail(FscacheError("cannot")),
            Fail(ZeroDivisionError("a bug")),
            Fail(SystemExit("a bug")),
            Fail(NoSpaceError("full")),
            Fail(FscacheError("cannot"), after=True),
            Answer(7),
            Delay(self.random.randrange(1, 20)),
            Hang(),
        ]
        if self.random.random() < 0.05:
            kinds = [Fail(CacheIOError("gone"))]
        elif hook == "lookup_object":
            kinds.append(Answer(LookupOutcome.RETRY))
        self.faults.arm(hook, self.random.choice(kinds), at=self.random.randrange(1, 4))

    async def mend_everything(self, _: OriginFile) -> None:
        self.faults.disarm()
        for number, cache in list(self.in_use.items()):
            if cache.broken and not self.changing_caches.locked():
                async with self.changing_caches:
                    if self.in_use.get(number) is cache:
                        del self.in_use[number]
                        await cache.withdraw()
                        await self.add(number)

    def check(self) -> None:
        domain = self.fscache.domain
        assert domain.stores_size == sum(
            len(folio.buffer) for cookie in domain.cookies.values() for folio in cookie.stores
        ) or any(cookie.relinquished for cookie in domain.cookies.values())
        assert domain.stores_size >= 0
        for cache in self.in_use.values():
            for obj in cache.objects.values():
                obj.ops.check()
                assert obj.cookie.n_active >= 0


async def drive(seed: int, n_steps: int) -> Counter[str]:
    """Run the machine; everything must have ended at the end."""
    random = Random(seed)
    limits = Limits(
        object_max_active=3,
        operation_max_active=2,
        store_size=8 * PAGE_SIZE,
        hook_seconds=5,
        drop_seconds=2,
    )
    async with open_fscache(limits=limits) as fscache:
        machine = Machine(fscache, random)
        await machine.add(0)

        async def run() -> None:
            for _ in range(n_steps // N_TASKS):
                await machine.step()
                machine.check()

        async with trio.open_nursery() as nursery:
            for _ in range(N_TASKS):
                nursery.start_soon(run)
        machine.faults.disarm()
        caches = list(machine.in_use.values())
        for file in machine.files:
            if file.cookie is not None:
                await file.cookie.relinquish()
        await machine.volume.relinquish()
        for cache in caches:
            await cache.withdraw()
            assert not cache.objects
        domain = fscache.domain
        assert domain.stores_size == 0
        assert domain.stats.ops_ini == domain.stats.ops_rel
        assert not any(value for name, value in domain.stats.as_dict().items() if name.startswith("cacheop"))
        assert domain.object_pool.borrowed_tokens == domain.operation_pool.borrowed_tokens == 0
    return machine.taken


@settings(max_examples=20, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_nothing_goes_wrong_whatever_is_called_in_whatever_order(seed: int) -> None:
    """Hypothesis also decides in which order trio runs tasks, so that a seed that fails fails again."""

    async def run() -> Counter[str]:
        with trio.fail_after(100_000):  # of the clock's seconds: a call that does not return ends the test
            return await drive(seed, 500)

    log = logging.getLogger("fscache")
    level = log.level
    log.setLevel(logging.CRITICAL)  # faults are expected here, and many
    try:
        taken = trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        log.setLevel(level)
    assert sum(taken.values()) == 500
