"""Volumes: coherency over processes, invalidation."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pytest
import trio
import trio.testing

from fscache_core import (
    CallerError,
    Coherency,
    OriginNotFoundError,
    PluginError,
    Readahead,
    StaleError,
    UnsupportedError,
    open_fscache,
)
from fscache_core.cookie import CookieDefinition, acquire_cookie
from fscache_core.hookspecs import FileAttributes, FileKind, Strength, netfs_hook
from fscache_core.outcome import CookieType, ReserveOutcome
from fscache_core.testing.faulty import Faults, Hang
from fscache_core.testing.http_origin import CountingOrigin, Fault, Stall
from fscache_core.testing.interruption import cancelled_after
from fscache_core.testing.one_file import OneFile
from fscache_memory import MemoryBackend
from netfs_http import HttpNetfs
from netfs_http.netfs import HttpFile, HttpVolume

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core import FsCache
    from fscache_core.volume import FileStatus

P = ParamSpec("P")
R = TypeVar("R")
DATA = bytes(range(256)) * 100


async def read_all(fscache: FsCache, url: str) -> bytes:
    async with await fscache.open_file(url) as file:
        return await file.read(0, file.size)


async def test_a_ttl_holds_over_processes(fscache_http_origin: CountingOrigin) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    origin.put("a", DATA)
    async with open_fscache(coherency="ttl=600") as fscache:
        await fscache.add_cache(backend)
        await read_all(fscache, origin.url("a"))
    requests = origin.n_requests
    async with open_fscache(coherency="ttl=600") as fscache:
        await fscache.add_cache(backend)
        assert await read_all(fscache, origin.url("a")) == DATA
    assert origin.n_requests == requests


async def test_after_the_ttl_the_origin_is_asked_and_the_data_kept(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    origin.put("a", DATA)
    for _ in range(3):
        async with open_fscache(coherency="ttl=0.000001") as fscache:
            await fscache.add_cache(backend)
            assert await read_all(fscache, origin.url("a")) == DATA
            (volume,) = fscache.volumes
            assert volume.stats.origin_checks == 1
    assert origin.bytes_sent == len(DATA)


async def test_after_the_ttl_a_changed_file_is_read_in_its_new_version(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    for data in (DATA, DATA[::-1], DATA[:100]):
        origin.put("a", data)
        async with open_fscache(coherency="ttl=0.000001") as fscache:
            await fscache.add_cache(backend)
            assert await read_all(fscache, origin.url("a")) == data


async def test_a_check_that_confirms_the_version_starts_a_new_ttl(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    origin.put("a", DATA)
    for coherency in ("always", "ttl=0.000001", "ttl=600", "ttl=600"):
        async with open_fscache(coherency=coherency) as fscache:
            await fscache.add_cache(backend)
            assert await read_all(fscache, origin.url("a")) == DATA
            (volume,) = fscache.volumes
            assert volume.stats.origin_checks == (coherency != "ttl=600")


async def test_a_check_is_noted_though_the_clock_was_ahead_at_the_last_one(
    fscache_http_origin: CountingOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    origin.put("a", DATA)
    clock = SimpleNamespace()
    monkeypatch.setattr("fscache_core.namei.time", clock)
    asked = []
    for seconds in (1e9 + 3600, 1e9, 1e9 + 10, 1e9 + 3610):
        clock.time = functools.partial(float, seconds)
        async with open_fscache(coherency="ttl=60") as fscache:
            await fscache.add_cache(backend)
            assert await read_all(fscache, origin.url("a")) == DATA
            asked.append(fscache.volumes[0].stats.origin_checks)
    assert asked == [1, 1, 0, 1]


async def test_a_missing_file_is_remembered_for_the_negative_ttl(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    async with open_fscache(coherency=Coherency(negative_ttl_seconds=600)) as fscache:
        for _ in range(3):
            with pytest.raises(OriginNotFoundError):
                await fscache.open_file(origin.url("a"))
        asked = origin.n_requests
        origin.put("a", DATA)
        with pytest.raises(OriginNotFoundError):
            await fscache.open_file(origin.url("a"))
        assert origin.n_requests == asked
        (volume,) = fscache.volumes
        assert volume.stats.origin_checks == 1
        await volume.invalidate("/a")
        assert await read_all(fscache, origin.url("a")) == DATA


@pytest.mark.parametrize("opened", [False, True])
async def test_an_invalidated_file_is_fetched_again(
    fscache_http_origin: CountingOrigin, opened: bool
) -> None:
    origin = fscache_http_origin
    origin.put("a", DATA)
    async with open_fscache(coherency="immutable") as fscache:
        await fscache.add_cache(MemoryBackend())
        file = await fscache.open_file(origin.url("a"))
        assert await file.read(0, len(DATA)) == DATA
        if not opened:
            await file.aclose()
        origin.put("a", new := DATA[::-1])
        assert await read_all(fscache, origin.url("a")) == DATA
        (volume,) = fscache.volumes
        await volume.invalidate("/a")
        assert await read_all(fscache, origin.url("a")) == new
        if opened:
            assert await file.read(0, len(DATA)) == DATA  # what is open keeps its version
            await file.aclose()


async def test_what_another_process_cached_can_be_invalidated(fscache_http_origin: CountingOrigin) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    origin.put("a", DATA)
    async with open_fscache() as fscache:
        await fscache.add_cache(backend)
        await read_all(fscache, origin.url("a"))
    async with open_fscache() as fscache:
        await fscache.add_cache(backend)
        volume = await fscache.open_volume(origin.url("a"))
        await volume.invalidate("/a")
    async with open_fscache() as fscache:
        await fscache.add_cache(backend)
        await read_all(fscache, origin.url("a"))
    assert origin.bytes_sent == 2 * len(DATA)


async def test_a_prefix_is_invalidated_and_its_neighbours_are_not(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    names = ["d/a", "d/b", "d/" + "x" * 600, "e/a"]
    for name in names:
        origin.put(name, DATA)
    async with open_fscache() as fscache:
        await fscache.add_cache(backend)
        for name in names:
            await read_all(fscache, origin.url(name))
    async with open_fscache() as fscache:
        await fscache.add_cache(backend)
        volume = await fscache.open_volume(origin.url(""))
        assert await volume.invalidate_below("/d/") == 3
        sent = origin.bytes_sent
        for name in names:
            assert await read_all(fscache, origin.url(name)) == DATA
        assert origin.bytes_sent == sent + 3 * len(DATA)
        assert await volume.invalidate_below() == 4


async def test_a_backend_without_a_list_of_keys_refuses_to_invalidate_a_prefix(
    fscache_http_origin: CountingOrigin,
) -> None:
    class NoKeys(MemoryBackend):
        child_keys = None  # type: ignore[assignment]

    async with open_fscache() as fscache:
        await fscache.add_cache(NoKeys())
        volume = await fscache.open_volume(fscache_http_origin.url(""))
        with pytest.raises(UnsupportedError):
            await volume.invalidate_below("/d/")


# -- what is cached ----------------------------------------------------------------------


async def test_status_tells_what_is_cached_without_asking_the_origin(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    origin.put("a", DATA)
    async with open_fscache() as fscache:
        await fscache.add_cache(backend, tag="mine")
        async with await fscache.open_file(origin.url("a")) as file:
            await file.read(len(DATA) - 1, 1)
    asked = origin.n_requests
    async with open_fscache() as fscache:
        await fscache.add_cache(backend, tag="mine")
        volume = await fscache.open_volume(origin.url("a"))
        status = await volume.status("/a")
        assert status is not None
        assert status.cache == "mine"
        assert status.attributes.size == len(DATA)
        assert status.cached_size == len(DATA) % 4096
        assert not status.pinned
        assert await volume.status("/b") is None
        assert origin.n_requests == asked
        assert await volume.pin("/a") is ReserveOutcome.GRANTED
        status = await volume.status("/a")
        assert status is not None
        assert status.pinned
        await volume.unpin("/a")
        await volume.unpin("/b")
        status = await volume.status("/a")
        assert status is not None
        assert not status.pinned


async def test_warming_fetches_what_is_missing_and_no_more(fscache_http_origin: CountingOrigin) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    origin.put("a", data := DATA * 200)
    async with open_fscache() as fscache:
        await fscache.add_cache(backend)
        async with await fscache.open_file(origin.url("a")) as file:
            await file.read(2_000_000, 100_000)
    for _ in range(2):
        advanced: list[int] = []
        async with open_fscache() as fscache:
            await fscache.add_cache(backend)
            async with await fscache.open_file(origin.url("a")) as file:
                await file.warm(advanced.append)
                status = await file.volume.status("/a")
                assert status is not None
                assert status.cached_size == len(data)
        assert sum(advanced) == len(data)
    assert origin.bytes_sent == len(data)


@pytest.mark.parametrize("coherency", ["ttl=600", "immutable"])
async def test_a_version_found_to_be_gone_is_not_adopted_again(
    fscache_http_origin: CountingOrigin, coherency: str
) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    origin.put("a", DATA * 10)
    async with open_fscache(coherency=coherency, readahead=Readahead(max_size=0)) as fscache:
        await fscache.add_cache(backend)
        async with await fscache.open_file(origin.url("a")) as file:
            await file.read(0, 4096)
    origin.put("a", new := DATA[::-1] * 10)
    async with open_fscache(coherency=coherency) as fscache:
        await fscache.add_cache(backend)
        async with await fscache.open_file(origin.url("a")) as file:
            assert await file.read(0, 4096) == DATA[:4096]  # within its ttl, and cached
            with pytest.raises(StaleError):
                await file.read(8192, 4096)
        assert await read_all(fscache, origin.url("a")) == new


async def test_a_path_that_no_url_means_is_named_beside_its_volume(
    fscache_http_origin: CountingOrigin,
) -> None:
    async with open_fscache() as fscache:
        volume = await fscache.open_volume(fscache_http_origin.url("a"))
        assert volume.named("/a%20b") == volume.url_of("/a%20b") == fscache_http_origin.url("a b")
        assert volume.url_of("/a b") is None  # in HTTP's own form there is no blank
        assert volume.named("/a b") == f"{volume.location.volume} /a b"


@pytest.mark.parametrize("hook", ["look_up", "fetch", "list_directory", "open_volume"])
async def test_a_bug_of_an_adapter_is_reported_as_its_own(hook: str) -> None:
    class Buggy:
        def wrap(self, name: str, proceed: Callable[P, R]) -> Callable[P, R]:
            async def raises(*_args: P.args, **_kwargs: P.kwargs) -> object:
                raise ZeroDivisionError("a bug")

            return raises if name == hook else proceed  # type: ignore[return-value]

    with CountingOrigin({"a": DATA}) as origin:
        async with open_fscache() as fscache:
            fscache.add_netfs("http", wrappers=[Buggy()])
            use = fscache.list_directory if hook == "list_directory" else functools.partial(read_all, fscache)
            with pytest.raises(PluginError, match="a bug") as caught:
                await use(origin.url("a"))
            assert caught.value.plugin == "http"


async def test_ctrl_c_in_a_hook_of_an_adapter_is_not_taken_for_its_bug() -> None:
    class Interrupted:
        def wrap(self, name: str, proceed: Callable[P, R]) -> Callable[P, R]:
            def raises(*_args: P.args, **_kwargs: P.kwargs) -> R:
                raise KeyboardInterrupt

            return raises if name == "parse_url" else proceed

    async with open_fscache() as fscache:
        fscache.add_netfs("http", wrappers=[Interrupted()])
        with pytest.raises(KeyboardInterrupt):
            fscache.locate("http://127.0.0.1/a")


# -- several things at once --------------------------------------------------------------


async def test_a_file_is_invalidated_by_several_tasks_at_once_while_it_is_read(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", DATA)
    async with open_fscache(coherency="ttl=600") as fscache:
        await fscache.add_cache(MemoryBackend())
        url = origin.url("a")
        volume = await fscache.open_volume(url)
        path = fscache.locate(url).path
        for number in range(10):
            origin.put("a", data := DATA + bytes([number]))
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(volume.invalidate, path)
                    nursery.start_soon(read_all, fscache, url)
                    nursery.start_soon(volume.invalidate_below, "")
            assert await read_all(fscache, url) == data


async def test_what_was_opened_while_it_was_invalidated_is_not_used_afterwards(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin, faults = fscache_http_origin, Faults()
    origin.put("a", DATA)
    async with open_fscache(coherency="ttl=600") as fscache:
        await fscache.add_cache(MemoryBackend(), wrappers=[faults])
        url = origin.url("a")
        await read_all(fscache, url)
        volume = await fscache.open_volume(url)
        origin.put("a", DATA[::-1])
        dropping = faults.arm("drop_object", Hang())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.invalidate, fscache.locate(url).path)
            await dropping.wait_hit()
            nursery.start_soon(read_all, fscache, url)
            await trio.testing.wait_all_tasks_blocked(0.05)
            dropping.release()
        assert await read_all(fscache, url) == DATA[::-1]


class Editions(OneFile):
    """Every version can be had for ever.  An answer that is held up says what was true when it was asked."""

    name = "editions"

    def __init__(self, data: bytes | None) -> None:
        super().__init__(b"")
        self.newest = data
        self.n_asked = 0
        self.go: trio.Event | None = None
        self.asked = trio.Event()

    @netfs_hook
    async def look_up(self, volume: object, path: str) -> object:
        self.n_asked += 1
        newest = self.newest
        if self.go is not None:
            self.asked.set()
            await self.go.wait()
        if newest is None:
            raise OriginNotFoundError("no edition yet")
        return path, newest

    @netfs_hook
    def name_file(self, volume: object, path: str) -> object:
        return path, b""

    @netfs_hook
    def recall_file(self, volume: object, path: str, aux: bytes, object_size: int) -> object:
        return path, aux

    @netfs_hook
    def get_key(self, netfs_data: object) -> bytes:
        return b"volume" if netfs_data == "volume" else netfs_data[0].encode()  # type: ignore[index]

    @netfs_hook
    def get_attr(self, netfs_data: object) -> FileAttributes:
        return FileAttributes(FileKind.FILE, len(self.get_aux(netfs_data)), strength=Strength.STRONG)

    @netfs_hook
    def get_aux(self, netfs_data: object) -> bytes:
        return netfs_data[1]  # type: ignore[index, no-any-return]

    @netfs_hook
    async def fetch(
        self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        buffer[:] = self.get_aux(netfs_data)[offset : offset + len(buffer)]


@pytest.mark.parametrize("coherency", ["ttl=600", "immutable"])
async def test_what_the_origin_said_before_an_invalidation_is_for_who_had_asked(
    coherency: str,
) -> None:
    backend, origin, url = MemoryBackend(), Editions(b"first"), "editions://a"
    async with open_fscache(coherency=coherency) as fscache:
        await fscache.add_cache(backend)
        fscache.add_netfs(origin)
        volume = await fscache.open_volume(url)
        origin.go = trio.Event()
        early: list[bytes] = []

        async def read_early() -> None:
            early.append(await read_all(fscache, url))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_early)
            await origin.asked.wait()
            origin.newest = b"second"
            await volume.invalidate("a")
            origin.go.set()
        origin.go = None
        assert (early, origin.n_asked) == ([b"first"], 1)
        assert await volume.status("a") is None
        assert [await read_all(fscache, url) for _ in range(2)] == [b"second"] * 2
        assert origin.n_asked == 2
    async with open_fscache(coherency=coherency) as fscache:
        await fscache.add_cache(backend)
        fscache.add_netfs(origin)
        assert await read_all(fscache, url) == b"second"
        assert origin.n_asked == 2


async def test_an_answer_from_before_an_invalidation_takes_nothing_from_who_opened_after_it() -> None:
    origin, url = Editions(b"first"), "editions://a"
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin)
        volume = await fscache.open_volume(url)
        origin.go = early_may_go = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all, fscache, url)
            await origin.asked.wait()
            await volume.invalidate("a")
            origin.go = None
            late = await fscache.open_file(url)
            await late.warm()
            early_may_go.set()
        fetched = volume.stats.bytes_from_origin
        assert await late.read(0, 5) == b"first"
        assert volume.stats.bytes_from_origin == fetched == 5
        await late.aclose()


async def test_a_file_is_not_missing_because_it_was_before_an_invalidation() -> None:
    origin, url = Editions(None), "editions://a"
    async with open_fscache(coherency=Coherency(negative_ttl_seconds=600)) as fscache:
        fscache.add_netfs(origin)
        volume = await fscache.open_volume(url)
        origin.go = trio.Event()

        async def fail() -> None:
            with pytest.raises(OriginNotFoundError, match="no edition yet"):
                await fscache.open_file(url)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await origin.asked.wait()
            origin.newest = b"first"
            await volume.invalidate("a")
            origin.go.set()
        origin.go = None
        assert await read_all(fscache, url) == b"first"


async def test_an_invalidation_cancelled_at_any_step_leaves_the_file_to_be_opened(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", DATA)
    url = origin.url("a")
    for n_steps in range(100):
        async with open_fscache(coherency="ttl=600") as fscache:
            await fscache.add_cache(MemoryBackend())
            await read_all(fscache, url)
            volume = await fscache.open_volume(url)
            cancelled, _ = await cancelled_after(
                n_steps, functools.partial(volume.invalidate, fscache.locate(url).path)
            )
            assert await read_all(fscache, url) == DATA
            await volume.invalidate(fscache.locate(url).path)
            assert await volume.status(fscache.locate(url).path) is None
        if not cancelled:
            return
    raise AssertionError("it never ends")


async def test_names_that_are_missing_are_not_remembered_without_bound(
    fscache_http_origin: CountingOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fscache_core.origin_lookup.MAX_ABSENT", 3)
    origin = fscache_http_origin
    async with open_fscache(coherency=Coherency(negative_ttl_seconds=600)) as fscache:
        for number in range(5):
            with pytest.raises(OriginNotFoundError):
                await fscache.open_file(origin.url(f"{number}"))
        requests = origin.n_requests
        with pytest.raises(OriginNotFoundError):
            await fscache.open_file(origin.url("4"))
        assert origin.n_requests == requests
        with pytest.raises(OriginNotFoundError):
            await fscache.open_file(origin.url("0"))
        assert origin.n_requests > requests


# -- the end -----------------------------------------------------------------------------


async def test_what_is_under_way_when_the_cache_is_closed_ends_with_one_clear_error(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", DATA * 100)
    stall = Stall(after=65536)
    raised: list[BaseException] = []

    async def until_it_fails(function: Callable[[], Awaitable[object]]) -> None:
        try:
            while True:
                await function()
                await trio.lowlevel.checkpoint()
        except CallerError as error:
            raised.append(error)

    async with trio.open_nursery() as nursery:
        async with open_fscache() as fscache:
            await fscache.add_cache(MemoryBackend())
            url = origin.url("a")
            volume = await fscache.open_volume(url)
            path = fscache.locate(url).path
            file = await fscache.open_file(url)
            await file.read(0, 4096)
            origin.fault("a", Fault(stall=stall), times=1000)
            for function in (
                functools.partial(file.read, 0, file.size),
                functools.partial(read_all, fscache, url),
                functools.partial(fscache.look_up, url),
                functools.partial(volume.invalidate, path),
                functools.partial(volume.status, path),
                functools.partial(fscache.open_volume, "file:///"),
            ):
                nursery.start_soon(until_it_fails, function)
            await trio.to_thread.run_sync(stall.wait_reached)
        nursery.cancel_scope.deadline = trio.current_time() + 120
    stall.release()
    assert len(raised) == 6
    assert all("closed" in str(error) for error in raised)


async def test_a_close_that_fails_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_args: object, **_kwargs: object) -> None:
        raise ZeroDivisionError("a bug of ours")

    async def use() -> None:
        async with open_fscache() as fscache:
            await fscache.add_cache(MemoryBackend())
            fscache.domain.spawn(trio.sleep_forever, "as an object's that nobody drops any more")
            monkeypatch.setattr(fscache, "close", broken)

    with trio.fail_after(120), pytest.RaisesGroup(ZeroDivisionError):
        await use()


# -- several caches ----------------------------------------------------------------------


async def test_what_another_of_several_caches_has_is_found_and_served(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin, old, new = fscache_http_origin, MemoryBackend(), MemoryBackend()
    origin.put("a", DATA)
    async with open_fscache() as fscache:
        await fscache.add_cache(old, tag="old")
        await read_all(fscache, origin.url("a"))
    origin.stop()
    async with open_fscache(coherency=Coherency(offline=True)) as fscache:
        await fscache.add_cache(old, tag="old")
        await fscache.add_cache(new, tag="new")  # where core would store it now
        volume = await fscache.open_volume(origin.url("a"))
        found: list[FileStatus | None] = []

        async def ask() -> None:
            found.append(await volume.status("/a"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert [status and (status.cache, status.cached_size) for status in found] == 5 * [("old", len(DATA))]
        assert await read_all(fscache, origin.url("a")) == DATA
        assert await volume.status("/missing") is None


@pytest.mark.parametrize("below", [False, True])
async def test_an_invalidated_file_is_gone_from_every_cache(
    fscache_http_origin: CountingOrigin, below: bool
) -> None:
    origin, backends = fscache_http_origin, [MemoryBackend() for _ in range(3)]
    origin.put("a", DATA)
    for backend in backends:
        async with open_fscache() as fscache:
            await fscache.add_cache(backend)
            await read_all(fscache, origin.url("a"))
    async with open_fscache() as fscache:
        for number, backend in enumerate(backends):
            await fscache.add_cache(backend, tag=str(number))
        volume = await fscache.open_volume(origin.url("a"))
        if below:
            assert await volume.invalidate_below() == 1
        else:
            await volume.invalidate("/a")
    for backend in backends:
        async with open_fscache() as fscache:
            await fscache.add_cache(backend)
            volume = await fscache.open_volume(origin.url("a"))
            assert await volume.status("/a") is None


async def test_the_netfs_chooses_a_cache_by_its_own_data_whatever_is_done_with_a_file(
    fscache_http_origin: CountingOrigin, caplog: pytest.LogCaptureFixture
) -> None:
    origin, asked = fscache_http_origin, []
    origin.put("a", DATA)

    class Netfs(HttpNetfs):
        @netfs_hook
        def select_cache(self, parent_netfs_data: object, netfs_data: object) -> str | None:
            asked.append((type(parent_netfs_data), type(netfs_data)))
            return "chosen"

    for first in ("invalidate", "status", "look", "read"):
        async with open_fscache() as fscache:
            chosen = await fscache.add_cache(MemoryBackend(), tag="chosen")
            await fscache.add_cache(MemoryBackend(), tag="newest")
            fscache.add_netfs(Netfs(), scheme="http")
            volume = await fscache.open_volume(origin.url("a"))
            match first:
                case "invalidate":
                    await volume.invalidate("/a")
                case "status":
                    assert await volume.status("/a") is None
                case "look":
                    await volume.look_up("/a")
            await read_all(fscache, origin.url("a"))
            status = await volume.status("/a")
            assert status is not None
            assert status.cache == chosen.tag, first
    assert set(asked) == {(HttpVolume, HttpFile)}
    assert caplog.text == ""


@pytest.mark.parametrize("kind", [CookieType.INDEX, CookieType.DATA, CookieType.SPECIAL, 200])
async def test_whatever_kind_of_thing_is_stored_below_a_prefix_is_invalidated(
    fscache_http_origin: CountingOrigin, kind: int
) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    definition = CookieDefinition("thing", kind, get_key=lambda _: b"/thing", get_attr=lambda _: 4096)
    async with open_fscache() as fscache:
        cache = await fscache.add_cache(backend)
        volume = await fscache.open_volume(origin.url(""))
        cookie = acquire_cookie(fscache.domain, volume.cookie, definition, None)
        if kind == CookieType.INDEX:
            assert await cookie.index_object(cache) is not None
        await cookie.wait_lookup()
        await cookie.relinquish()
    async with open_fscache() as fscache:
        await fscache.add_cache(backend)
        volume = await fscache.open_volume(origin.url(""))
        assert await volume.invalidate_below() == 1
        assert await volume.invalidate_below() == 0
