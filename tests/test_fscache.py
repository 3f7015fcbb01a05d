"""`FsCache` as a program sees it, with an adapter of its own: attaching, choosing, opening, closing."""

from __future__ import annotations

import asyncio
import copy
import errno
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core import (
    CallerError,
    Coherency,
    OfflineError,
    OriginError,
    OriginNotFoundError,
    OriginUnreachableError,
    StaleError,
    open_fscache,
    page,
)
from fscache_core.cookie import CookieDefinition
from fscache_core.domain import Limits
from fscache_core.errors import FscacheError, NoNetfsError, PluginError
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.hookspecs import (
    NOT_RESIDENT,
    FileAttributes,
    FileKind,
    Location,
    LockOutcome,
    Strength,
    cache_hook,
    netfs_hook,
)
from fscache_core.outcome import CookieType
from fscache_core.testing.cache_session import content
from fscache_core.testing.faulty import Answer, Fail, Faults, Hang, Run
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from fscache_core import FsCache
    from fscache_core.object import CacheObject

SIZE = 8 * PAGE_SIZE
DATA = content(b"v1", SIZE)


class Drawer:
    """An adapter whose files the test puts in and takes out; each is its own version evidence."""

    name = "drawer"
    version = 1

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.kinds: dict[str, FileKind] = {}
        self.strength = Strength.STRONG
        self.closed: list[object] = []
        self.n_fetched = 0

    @netfs_hook
    def parse_url(self, url: str) -> Location:
        _, _, rest = url.partition("://")
        volume, _, path = rest.partition("/")
        return Location(f"drawer://{volume}", path)

    @netfs_hook
    async def open_volume(self, location: Location) -> object:
        await trio.lowlevel.checkpoint()
        return location.volume

    @netfs_hook
    async def close_volume(self, volume: object) -> None:
        self.closed.append(volume)

    @netfs_hook
    def get_key(self, netfs_data: object) -> bytes:
        return (netfs_data[0] if isinstance(netfs_data, tuple) else str(netfs_data)).encode()

    @netfs_hook
    def get_attr(self, netfs_data: object) -> FileAttributes:
        assert isinstance(netfs_data, tuple)
        path, size, _ = netfs_data
        return FileAttributes(self.kinds.get(path, FileKind.FILE), size, strength=self.strength)

    @netfs_hook
    def get_aux(self, netfs_data: object) -> bytes:
        assert isinstance(netfs_data, tuple)
        return bytes(netfs_data[2])

    @netfs_hook
    def name_file(self, volume: object, path: str) -> object:
        return path, None, None

    @netfs_hook
    def recall_file(self, volume: object, path: str, aux: bytes, object_size: int) -> object:
        return path, object_size, aux

    @netfs_hook
    async def look_up(self, volume: object, path: str) -> object:
        if path not in self.files:
            raise OriginNotFoundError(f"{volume}/{path}: not in the drawer")
        return path, len(self.files[path]), self.files[path][:16]

    @netfs_hook
    async def fetch(
        self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        assert isinstance(netfs_data, tuple)
        path, _, aux = netfs_data
        data = self.files[path]
        if data[:16] != aux:
            raise StaleError(f"drawer: {path} was replaced")
        self.n_fetched += len(buffer)
        buffer[:] = data[offset : offset + len(buffer)]


async def read_all(fscache: FsCache, url: str = "drawer://top/a") -> bytes:
    async with await fscache.open_file(url) as file:
        return await file.read(0, 1 << 30)


# -- attaching ---------------------------------------------------------------------------------


async def test_an_adapter_made_already_takes_no_options_and_no_scheme_twice() -> None:
    async with open_fscache() as fscache:
        with pytest.raises(CallerError, match="options colour given for a netfs that is made already"):
            fscache.add_netfs(Drawer(), colour="red")
        fscache.add_netfs(Drawer())
        with pytest.raises(CallerError, match="a netfs for drawer:// URLs is attached already"):
            fscache.add_netfs(Drawer())


async def test_two_schemes_of_one_adapter_share_its_index() -> None:
    async with open_fscache() as fscache:
        fscache.add_netfs(Drawer(a=DATA), scheme="drawer")
        fscache.add_netfs(Drawer(a=DATA), scheme="chest")
        for scheme in ("drawer", "chest"):
            assert await read_all(fscache, f"{scheme}://{scheme}/a") == DATA
        one, other = fscache.volumes
        assert one.cookie.parent is other.cookie.parent


@pytest.mark.parametrize("url", ["top/a", "drawer:a", "://a", ""])
async def test_what_is_no_url_is_the_callers_fault(url: str) -> None:
    async with open_fscache() as fscache:
        fscache.add_netfs(Drawer(a=DATA))
        with pytest.raises(CallerError, match="is not a URL; expected SCHEME://"):
            await fscache.open_file(url)


@pytest.mark.parametrize(
    ("limits", "wrong"),
    [
        ({"object_max_active": 0}, "object_max_active=0 is not a whole number of at least 1"),
        ({"operation_max_active": True}, "operation_max_active=True is not a whole number of at least 1"),
        ({"store_size": -1}, "store_size=-1 is not a whole number of at least 1"),
        ({"fetch_size": 1e6}, "fetch_size=1000000.0 is not a whole number of at least 1"),
        ({"warm_inodes": -1}, "warm_inodes=-1 is not a whole number of at least 0"),
        ({"debug": "4"}, "debug='4' is not a whole number of at least 0"),
        ({"hook_seconds": 0}, "hook_seconds=0 is not a number above 0"),
        ({"drop_seconds": float("nan")}, "drop_seconds=nan is not a number above 0"),
        ({"statistics_seconds": "30"}, "statistics_seconds='30' is not a number above 0"),
    ],
)
def test_limits_that_make_no_sense_are_the_callers_error(limits: dict[str, int], wrong: str) -> None:
    with pytest.raises(CallerError, match=f"^Limits: {wrong}$"):
        Limits(**limits)


async def test_coherency_may_be_given_as_text_and_as_nothing_else() -> None:
    async with open_fscache() as fscache:
        fscache.add_netfs(Drawer(a=DATA))
        fscache.set_coherency("drawer://top", "ttl=60")
        assert (await fscache.open_volume("drawer://top/a")).coherency == Coherency.parse("ttl=60")
        for wrong in ("sometimes", 60, None):
            with pytest.raises(CallerError, match="always, ttl=SECONDS"):
                fscache.set_coherency("drawer://bottom", wrong)  # type: ignore[arg-type]
    for how in ({"coherency": 60}, {"volumes": {"drawer://top": 60}}):
        with pytest.raises(CallerError, match="coherency 60 is not one of: always, ttl=SECONDS"):
            async with open_fscache(**how):
                pass


async def test_coherency_is_chosen_for_a_volume_before_it_is_opened() -> None:
    async with open_fscache() as fscache:
        fscache.add_netfs(Drawer(a=DATA))
        fscache.set_coherency("drawer://top/whatever", Coherency.parse("immutable"))
        volume = await fscache.open_volume("drawer://top/a")
        assert volume.coherency.adopts
        with pytest.raises(CallerError, match="volume drawer://top is open already"):
            fscache.set_coherency("drawer://top", Coherency())
        assert not (await fscache.open_volume("drawer://bottom/a")).coherency.adopts


async def test_a_volume_that_two_tasks_open_at_once_is_opened_once() -> None:
    async with open_fscache() as fscache:
        fscache.add_netfs(drawer := Drawer(a=DATA))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read_all, fscache)
        assert len(fscache.volumes) == 1
    assert drawer.closed == ["drawer://top"]


async def test_a_volume_whose_key_is_refused_on_purpose_is_closed_again() -> None:
    faults = Faults()
    faults.arm("get_key", Fail(CallerError("drawer: no such drawer")))
    async with open_fscache() as fscache:
        fscache.add_netfs(drawer := Drawer(a=DATA), wrappers=[faults])
        with pytest.raises(CallerError, match="no such drawer"):
            await fscache.open_volume("drawer://top")
        assert drawer.closed == ["drawer://top"]
        assert fscache.volumes == ()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fail(ZeroDivisionError("a bug")), "netfs drawer: close_volume of drawer://top failed"),
        (Fail(SystemExit(1)), "netfs drawer: close_volume of drawer://top failed"),
        (Hang(), "netfs drawer: close_volume of drawer://top did not return in time"),
    ],
    ids=["raises", "exits", "hangs"],
)
async def test_closing_ends_though_an_adapter_does_not_close(
    fault: Fail | Hang,
    message: str,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = Faults()
    faults.arm("close_volume", fault)
    async with open_fscache() as fscache:
        cache = await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(Drawer(a=DATA), wrappers=[faults])
        assert await read_all(fscache) == DATA
    assert cache.withdrawn
    assert message in caplog.text


async def test_a_program_may_use_cookies_of_its_own() -> None:
    definition = CookieDefinition("own", CookieType.DATA, get_key=lambda data: str(data).encode())
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        index = fscache.register_netfs("own", 1).primary_index
        cookie = fscache.acquire_cookie(index, definition, "one")
        assert cookie is not None
        fscache.update_cookie(cookie)
        fscache.update_cookie(None)
        assert (fscache.stats.updates_n, fscache.stats.updates_nul) == (2, 1)
        await fscache.relinquish_cookie(cookie, retire=True)
        assert cookie.relinquished
        with pytest.raises(CallerError, match="was relinquished"):
            fscache.update_cookie(cookie)
        assert fscache.stats.relinqs_rtr == 1


# -- opening and reading -----------------------------------------------------------------------


async def test_a_way_of_reopening_that_is_none_is_the_callers_fault() -> None:
    async with open_fscache() as fscache:
        fscache.add_netfs(Drawer(a=DATA))
        with pytest.raises(CallerError, match="reopen='perhaps' is not one of: auto, never"):
            await fscache.open_file("drawer://top/a", reopen="perhaps")


@pytest.mark.parametrize(
    ("kind", "number"), [(FileKind.DIRECTORY, errno.EISDIR), (FileKind.OTHER, errno.EINVAL)]
)
async def test_what_is_no_file_is_not_opened(kind: FileKind, number: int) -> None:
    async with open_fscache() as fscache:
        fscache.add_netfs(drawer := Drawer(a=DATA))
        drawer.kinds["a"] = kind
        with pytest.raises(CallerError, match="drawer://top") as caught:
            await fscache.open_file("drawer://top/a")
        assert caught.value.errno == number
        assert (await fscache.look_up("drawer://top/a")).kind is kind


async def test_a_missing_file_is_asked_for_again_after_the_negative_ttl(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_fscache(coherency=Coherency(negative_ttl_seconds=60)) as fscache:
        fscache.add_netfs(drawer := Drawer())
        with pytest.raises(OriginNotFoundError, match="not in the drawer"):
            await read_all(fscache)
        drawer.files["a"] = DATA
        with pytest.raises(OriginNotFoundError, match="as of a short while ago"):
            await read_all(fscache)
        await trio.sleep(61)
        assert await read_all(fscache) == DATA


@pytest.mark.parametrize("stale_if_error", [False, True])
async def test_a_label_answers_for_an_origin_that_is_gone_if_that_was_chosen(stale_if_error: bool) -> None:
    faults = Faults()
    async with open_fscache(stale_if_error=stale_if_error) as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(Drawer(a=DATA), wrappers=[faults])
        assert await read_all(fscache) == DATA
        faults.arm("look_up", Fail(OriginUnreachableError("drawer://top: gone")))
        if not stale_if_error:
            with pytest.raises(OriginUnreachableError, match="gone"):
                await fscache.look_up("drawer://top/a")
            return
        assert (await fscache.look_up("drawer://top/a")).size == SIZE
        assert await read_all(fscache) == DATA


async def test_a_label_that_the_adapter_cannot_read_is_not_adopted() -> None:
    faults, backend = Faults(), MemoryBackend()
    for _ in range(2):
        async with open_fscache(coherency="immutable") as fscache:
            await fscache.add_cache(backend)
            fscache.add_netfs(drawer := Drawer(a=DATA), wrappers=[faults])
            assert await read_all(fscache) == DATA
        assert drawer.n_fetched == SIZE
        faults.arm("recall_file", Fail(CallerError("drawer: what is that?")))


async def test_what_was_stored_on_weak_evidence_stays_weak_when_it_is_adopted() -> None:
    backend = MemoryBackend()
    for coherency, strength in (("always", Strength.WEAK), ("immutable", Strength.STRONG)):
        async with open_fscache(coherency=coherency) as fscache:
            await fscache.add_cache(backend)
            fscache.add_netfs(drawer := Drawer(a=DATA))
            drawer.strength = strength
            async with await fscache.open_file("drawer://top/a") as file:
                assert file.attributes.strength is Strength.WEAK
                assert await file.read(0, SIZE) == DATA
        assert drawer.n_fetched == (SIZE if coherency == "always" else 0)


async def test_a_file_is_read_as_a_stream_from_anywhere_to_its_end() -> None:
    data = content(b"long", 5 * (1 << 20) // 2)
    async with open_fscache() as fscache:
        fscache.add_netfs(Drawer(a=data, empty=b""))
        for offset in (0, 1, len(data) - 1, len(data), len(data) + 7):
            async with await fscache.open_file("drawer://top/a") as file:
                pieces = [bytes(piece) async for piece in file.stream(offset)]
                assert b"".join(pieces) == data[offset:]
                assert not file.closed
            assert file.closed
        async with await fscache.open_file("drawer://top/empty") as file:
            assert [piece async for piece in file.stream()] == []


async def test_few_files_stay_warm_if_the_limit_is_small_and_all_are_read_again() -> None:
    names = [f"f{number}" for number in range(6)]
    async with open_fscache(limits=Limits(warm_inodes=2)) as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(drawer := Drawer(**{name: content(name.encode(), SIZE) for name in names}))
        for _ in range(2):
            for name in names:
                assert await read_all(fscache, f"drawer://top/{name}") == drawer.files[name]
            await trio.testing.wait_all_tasks_blocked()
            assert sum(cookie.type == CookieType.DATA for cookie in fscache.domain.cookies.values()) == 2
        assert drawer.n_fetched == len(names) * SIZE


@pytest.mark.parametrize("n_bytes", [-1, SIZE + 1, 10])
async def test_an_adapter_that_says_what_cannot_have_arrived_is_named(n_bytes: int) -> None:
    class Boasting(Drawer):
        @netfs_hook
        async def fetch(
            self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
        ) -> None:
            arrived(20)
            arrived(n_bytes)

    async with open_fscache() as fscache:
        fscache.add_netfs(Boasting(a=DATA))
        with pytest.raises(PluginError, match=f"netfs drawer: fetch said that {n_bytes} bytes of {SIZE}"):
            await read_all(fscache)


async def test_damaged_pages_are_fetched_again_and_counted() -> None:
    faults = Faults()
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend(), wrappers=[faults])
        fscache.add_netfs(drawer := Drawer(a=DATA))
        assert await read_all(fscache) == DATA
        async with await fscache.open_file("drawer://top/a") as file:
            obj = file.inode.cookie.object
            assert obj is not None
            await trio.testing.wait_all_tasks_blocked()  # what was fetched is stored, and let go of
            faults.arm("read_resident", Answer(NOT_RESIDENT))
            faults.arm("read_or_alloc_pages", Run(lambda: obj.verification_failed(3)), at=1)
            assert await file.read(0, SIZE) == DATA
        assert file.volume.stats.verification_failures == 3
        assert drawer.n_fetched == SIZE, "what the backend says it holds is read all the same"


async def test_pages_that_arrive_while_the_fill_lock_is_elsewhere_are_not_fetched() -> None:
    class Elsewhere(MemoryBackend):
        @cache_hook
        async def lock_pages(self, obj: CacheObject, first: int, n_pages: int, seconds: float) -> LockOutcome:
            obj.cookie.mark_pages_cached(first, n_pages)
            await page.write_page(obj.cookie, Folio(first, memoryview(DATA)))
            await obj.cookie.wait_on_stores()
            return LockOutcome.CHANGED

        @cache_hook
        def unlock_pages(self, obj: CacheObject, first: int, n_pages: int) -> None: ...

    async with open_fscache() as fscache:
        await fscache.add_cache(Elsewhere())
        fscache.add_netfs(drawer := Drawer(a=DATA))
        async with await fscache.open_file("drawer://top/a") as file:
            assert await file.read(0, SIZE) == DATA
        assert drawer.n_fetched == 0
        assert file.volume.stats.joined == 1


async def test_an_origin_that_fails_names_itself_and_the_next_read_succeeds() -> None:
    faults = Faults()
    faults.arm("fetch", Fail(OriginError("drawer://top/a: jammed")), at=1)
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(Drawer(a=DATA), wrappers=[faults])
        with pytest.raises(OriginError, match="drawer://top/a: jammed"):
            await read_all(fscache)
        assert await read_all(fscache) == DATA


async def test_an_open_that_is_cancelled_while_the_cache_looks_leaves_the_file_to_others() -> None:
    faults, backend = Faults(), MemoryBackend()
    async with open_fscache() as fscache:
        await fscache.add_cache(backend)
        fscache.add_netfs(Drawer(a=DATA))
        assert await read_all(fscache) == DATA
    async with open_fscache(coherency="immutable") as fscache:
        await fscache.add_cache(backend, wrappers=[faults])
        fscache.add_netfs(drawer := Drawer(a=DATA))
        stuck = faults.arm("lookup_object", Hang(), at=3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all, fscache)
            await stuck.wait_hit()
            nursery.cancel_scope.cancel()
        stuck.release()
        assert await read_all(fscache) == DATA
        assert not drawer.n_fetched


# -- whatever a hook does ----------------------------------------------------------------------

NETFS_HOOKS = [
    *("parse_url", "open_volume", "close_volume", "get_key", "get_attr", "get_aux", "check_aux"),
    *("name_file", "recall_file", "look_up", "fetch"),
]


@pytest.mark.parametrize("at", [1, 2, None], ids=lambda at: f"call {at}" if at else "always")
@pytest.mark.parametrize(
    "fault",
    [Fail(ZeroDivisionError("a bug")), Fail(SystemExit("a bug")), Answer(None), Answer(b"")],
    ids=["raises", "exits", "None", "nothing"],
)
@pytest.mark.parametrize("hook", NETFS_HOOKS)
async def test_whatever_a_hook_of_an_adapter_does_a_program_gets_right_bytes_or_an_error_of_ours(
    hook: str, fault: Fail | Answer, at: int | None, autojump_clock: trio.testing.MockClock
) -> None:
    backend = MemoryBackend()
    for coherency in ("always", "immutable"):
        faults = Faults()
        faults.arm(hook, copy.copy(fault), at=at)
        with trio.fail_after(1000):
            async with open_fscache(coherency=coherency) as fscache:
                cache = await fscache.add_cache(backend)
                fscache.add_netfs(Drawer(a=DATA, b=DATA), wrappers=[faults])
                for url in ("drawer://top/a", "drawer://top/a", "drawer://top/b"):
                    with suppress(FscacheError):
                        # An answer of the adapter's own type is believed: a fetch that says it is done, is.
                        data = await read_all(fscache, url)
                        assert data == DATA or hook == "fetch"
                    with suppress(FscacheError):
                        await fscache.look_up(url)
                for volume in fscache.volumes:
                    for call in (volume.status, volume.pin, volume.unpin, volume.invalidate):
                        with suppress(FscacheError):
                            await call("a")
                    with suppress(FscacheError):
                        await volume.invalidate_below()
            assert cache.withdrawn
            assert not cache.objects
        if hook == "fetch":  # what it did not fetch is in the cache now
            backend = MemoryBackend()


async def test_offline_holds_however_the_coherency_is_given() -> None:
    ways = [
        open_fscache(offline=True),
        open_fscache(coherency=Coherency(), offline=True),
        open_fscache(volumes={"http://one.example": "ttl=60"}, offline=True),
        open_fscache(volumes={"http://one.example": Coherency(offline=True)}),
    ]
    for opening in ways:
        async with opening as fscache:
            with pytest.raises(OfflineError):
                await fscache.open_file("http://one.example/x")


async def test_a_volume_has_the_coherency_that_is_written_for_it() -> None:
    async with open_fscache(volumes={"http://one.example": "ttl=60"}) as fscache:
        (one, other) = [await fscache.open_volume(f"http://{name}.example/") for name in ("one", "other")]
        assert one.coherency == Coherency.parse("ttl=60")
        assert other.coherency == Coherency()


@pytest.mark.parametrize("url", ["nonsense", "gopher://x"])
async def test_a_coherency_for_what_is_no_volume_is_one_error(url: str) -> None:
    with pytest.raises((CallerError, NoNetfsError)):
        async with open_fscache(volumes={url: "ttl=60"}):
            pass


def test_outside_trio_the_error_says_what_to_do() -> None:
    async def main() -> None:
        async with open_fscache():
            pass

    with pytest.raises(CallerError, match=r"trio\.run"):
        asyncio.run(main())
