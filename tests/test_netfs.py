"""What a netfs does wrong when it is called back is blamed on it, and costs at most what it was asked of."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest
import trio

from fscache_core import open_fscache, page
from fscache_core.cookie import Cookie, CookieDefinition, acquire_cookie
from fscache_core.errors import (
    CacheIOError,
    CallerError,
    FscacheError,
    NoSpaceError,
    PluginError,
    UnfitPluginError,
)
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.hookspecs import (
    NOT_RESIDENT,
    DirectoryEntry,
    FileAttributes,
    FileKind,
    netfs_hook,
)
from fscache_core.outcome import AuxOutcome, CookieType, ReadOutcome
from fscache_core.plugins import NetfsFacade
from fscache_core.testing.cache_session import OriginFile, Session, content, open_session, origin_file
from fscache_core.testing.faulty import Answer, Fail, Faults, Hang
from fscache_core.testing.one_file import OneFile
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

SIZE = 8 * PAGE_SIZE
DATA = content(b"v1", SIZE)


def blamed(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# -- callbacks of a cookie's definition ------------------------------------------------------------

PLAIN = CookieDefinition(
    "plain",
    CookieType.DATA,
    get_key=lambda data: origin_file(data).key,
    get_attr=lambda data: origin_file(data).size,
    get_aux=lambda data: origin_file(data).aux,
)


def raising(error: Exception) -> Callable[..., NoReturn]:
    def callback(*_: object) -> NoReturn:
        raise error

    return callback


def acquire(session: Session, definition: CookieDefinition, *, below: Cookie | None = None) -> Cookie:
    data = OriginFile(b"file", size=SIZE)
    return acquire_cookie(session.domain, below or session.volume, definition, data)


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("a bug"), CacheIOError("none of ours"), NoSpaceError("nor this"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
async def test_a_check_aux_that_raises_is_the_netfses_fault_and_not_the_backends(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_session(MemoryBackend()) as session:
        cookie = await session.file(size=SIZE)
        await session.fill(cookie)
        await cookie.relinquish()
        cookie = acquire(session, replace(PLAIN, check_aux=raising(error)))
        await cookie.wait_lookup()
        assert (await session.read(cookie, 0, 8))[0] is ReadOutcome.NO_DATA
        assert session.object(cookie).live
        assert session.cache.usable
        await session.fill(cookie)
        await session.check(cookie, DATA)
        assert session.domain.stats.cacheev_nsp == 0
    (message,) = blamed(caplog)
    assert "netfs plain" in message
    assert "check_aux" in message
    assert "MemoryBackend" not in message


@pytest.mark.parametrize("hook", ["get_aux", "get_attr"])
@pytest.mark.parametrize("call", ["update", "invalidate", "attr_changed", "enable"])
async def test_evidence_that_cannot_be_had_is_told_to_the_caller_and_breaks_nothing(
    hook: str, call: str
) -> None:
    broken = False

    def answer(good: T, name: str) -> T:
        if broken and name == hook:
            raise ZeroDivisionError("a bug")
        return good

    definition = replace(
        PLAIN, get_attr=lambda _: answer(SIZE, "get_attr"), get_aux=lambda _: answer(b"v1", "get_aux")
    )
    async with open_session(MemoryBackend()) as session:
        cookie = acquire(session, definition)
        await cookie.wait_lookup()
        await session.fill(cookie)
        if call == "enable":
            await cookie.disable()
        broken = True
        asked = hook == "get_attr" or call != "attr_changed"

        async def change() -> None:
            if call == "enable":
                await cookie.enable()
            else:
                getattr(cookie, call)()

        if asked:
            with pytest.raises(PluginError, match=f"netfs plain: {hook} raised ZeroDivisionError") as caught:
                await change()
            assert caught.value.plugin == "plain"
        else:
            await change()
        await cookie.wait_on_invalidate()
        outcome, pages = await session.read(cookie, 0, 8)
        assert outcome in ReadOutcome
        assert not pages or b"".join(pages[at] for at in range(8)) == DATA
        assert call != "invalidate" or not pages
        assert session.cache.usable


async def test_callbacks_that_tell_or_choose_cost_nothing_when_they_raise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    raises = raising(CacheIOError("none of ours"))
    async with open_session(MemoryBackend()) as session:
        index = CookieDefinition(
            "index",
            CookieType.INDEX,
            get_key=lambda _: b"index",
            select_cache=raises,
        )
        definition = replace(
            PLAIN,
            get_context=raises,
            put_context=raises,
            mark_pages_cached=raises,
            now_uncached=raises,
        )
        cookie = acquire(session, definition, below=acquire_cookie(session.domain, session.volume, index, 0))
        folio = Folio(0, memoryview(bytearray(SIZE)))
        assert await page.read_or_alloc_pages(cookie, [folio], context="a read") is ReadOutcome.NO_DATA
        await session.fill(cookie)
        await session.check(cookie, DATA)
        assert session.object(cookie).live
        await session.cache.withdraw()
    messages = blamed(caplog)
    for hook in ("get_context", "put_context", "mark_pages_cached", "now_uncached"):
        assert any(f"netfs plain: {hook} raised CacheIOError" in message for message in messages)
    assert any("netfs index, in select_cache: none of ours" in message for message in messages)
    assert not any("MemoryBackend" in message for message in messages)


# -- hooks of an adapter, below the file layer -----------------------------------------------------


class Shelf(OneFile):
    """With all hooks that core calls back."""

    name = "shelf"

    def __init__(self) -> None:
        super().__init__(DATA)

    @netfs_hook
    def check_aux(self, netfs_data: object, aux: bytes, object_size: int) -> AuxOutcome:
        return AuxOutcome.OKAY if aux == b"v1" else AuxOutcome.OBSOLETE

    @netfs_hook
    def mark_pages_cached(self, netfs_data: object, first: int, n_pages: int) -> None: ...

    @netfs_hook
    def now_uncached(self, netfs_data: object) -> None: ...

    @netfs_hook
    def select_cache(self, parent_netfs_data: object, netfs_data: object) -> str | None:
        return None


async def test_an_adapter_holds_a_file_while_the_cache_reads_it() -> None:
    held: list[object] = []
    most = 0

    class Holding(Shelf):
        @netfs_hook
        def get_context(self, netfs_data: object, context: object) -> None:
            nonlocal most
            assert context is netfs_data
            held.append(context)
            most = max(most, len(held))

        @netfs_hook
        def put_context(self, netfs_data: object, context: object) -> None:
            held.remove(context)

    backend, faults = MemoryBackend(), Faults()
    assert await read_shelf(backend, Shelf()) == DATA
    async with open_fscache() as fscache:
        await fscache.add_cache(backend, wrappers=[faults])
        fscache.add_netfs(Holding())
        faults.arm("read_resident", Answer(NOT_RESIDENT))
        stuck = faults.arm("read_or_alloc_pages", Hang())
        async with await fscache.open_file("shelf://file") as file, trio.open_nursery() as nursery:
            nursery.start_soon(file.read, 0, SIZE)
            await stuck.wait_hit()
            assert held == ["file"]
            stuck.release()
        assert not held
        assert most == 1


async def read_shelf(backend: MemoryBackend, netfs: object, *wrappers: Faults) -> bytes:
    """Read the file through a cache, and withdraw that while the file is open."""
    async with open_fscache() as fscache:
        cache = await fscache.add_cache(backend)
        fscache.add_netfs(netfs, wrappers=wrappers)
        async with await fscache.open_file("shelf://file") as file:
            data = await file.read(0, SIZE)
            await fscache.withdraw_cache(cache)
            assert await file.read(0, SIZE) == data
            assert not cache.objects
    return data


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("hook", ["check_aux", "mark_pages_cached", "now_uncached", "select_cache"])
@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), CacheIOError("none of ours")])
async def test_an_adapter_that_raises_when_called_back_breaks_no_read(
    hook: str, error: Exception, stored: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backend, faults = MemoryBackend(), Faults()
    if stored:
        assert await read_shelf(backend, Shelf()) == DATA
    fault = faults.arm(hook, Fail(error), at=range(1, 1000))
    assert await read_shelf(backend, Shelf(), faults) == DATA
    fired = hook != "check_aux" or stored
    assert bool(fault.n_hits) is fired
    assert any("netfs shelf" in message and hook in message for message in blamed(caplog)) is fired
    assert not any("MemoryBackend" in message for message in blamed(caplog))
    faults.disarm()
    assert await read_shelf(backend, Shelf()) == DATA


A_BUG = Fail(ZeroDivisionError("a bug"))
RAISED = "raised ZeroDivisionError: a bug"


@pytest.mark.parametrize(
    ("hook", "fault", "message"),
    [
        ("parse_url", A_BUG, RAISED),
        ("parse_url", Answer("shelf://"), "returned 'shelf://', not a Location"),
        ("get_attr", A_BUG, RAISED),
        ("get_attr", Answer(SIZE), f"returned {SIZE}, not a FileAttributes"),
        (
            "get_attr",
            Answer(FileAttributes(FileKind.FILE, -1)),
            "returned a size of -1, not a number of bytes",
        ),
        ("get_attr", Answer(FileAttributes(FileKind.FILE, 1.5)), "returned a size of 1.5, not a number"),  # type: ignore[arg-type]
    ],
)
async def test_an_adapter_that_cannot_say_what_a_file_is_is_blamed_where_it_is_opened(
    hook: str, fault: Answer | Fail, message: str
) -> None:
    faults = Faults()
    faults.arm(hook, copy.copy(fault))
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(Shelf(), wrappers=[faults])
        with pytest.raises(PluginError, match=f"^netfs shelf: {hook} {message}") as caught:
            await (await fscache.open_file("shelf://file")).aclose()
        assert caught.value.plugin == "shelf"
        faults.disarm()
        async with await fscache.open_file("shelf://file") as file:
            assert await file.read(0, SIZE) == DATA


@pytest.mark.parametrize(
    ("hook", "fault", "message"),
    [
        ("get_key", A_BUG, RAISED),
        ("get_key", Answer("text"), "returned 'text', not bytes"),
        ("get_key", Answer(b""), "returned a key of 0 bytes; 1 to 511 are allowed"),
        ("get_key", Answer(b"k" * 512), "returned a key of 512 bytes; 1 to 511 are allowed"),
        ("get_aux", A_BUG, RAISED),
        ("get_aux", Answer(None), "returned None, not bytes"),
        ("get_aux", Answer(b"a" * 510), "returned 510 bytes of aux data; at most 509 are allowed"),
    ],
)
@pytest.mark.parametrize(
    ("coherency", "at"),
    [
        ("always", None),
        ("always", 1),
        ("always", 2),
        ("ttl=1000", None),
        ("ttl=1000", 1),
        ("immutable", None),
    ],
)
async def test_a_file_that_cannot_be_named_or_labelled_is_read_from_the_origin(
    hook: str,
    fault: Answer | Fail,
    message: str,
    at: int | None,
    coherency: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults, backend = Faults(), MemoryBackend()
    armed = faults.arm(hook, copy.copy(fault), at=at)
    async with open_fscache(coherency=coherency) as fscache:
        await fscache.add_cache(backend)
        fscache.add_netfs(Shelf(), wrappers=[faults])
        for _ in range(3):
            async with await fscache.open_file("shelf://file") as file:
                assert await file.read(0, SIZE) == DATA
                assert await file.read(PAGE_SIZE, 10) == DATA[PAGE_SIZE:][:10]
        assert armed.n_hits
        if at is None:
            assert not fscache.stats.stores_n
            assert await file.volume.status("file") is None
        faults.disarm()
        if at != 1:  # else its volume has no name, and is not opened again
            async with await fscache.open_file("shelf://file") as file:
                assert await file.read(0, SIZE) == DATA
    messages = blamed(caplog)
    assert any(text.startswith(f"netfs shelf: {hook} {message}") for text in messages), messages
    assert not any("MemoryBackend" in text for text in messages)


async def test_an_adapter_whose_async_hook_raises_or_is_not_offered_is_named() -> None:
    faults = Faults()
    for hook in ("look_up", "recall_file"):
        faults.arm(hook, Fail(ZeroDivisionError("a bug")), at=range(1, 1000))
    netfs = NetfsFacade(Shelf(), wrappers=[faults])
    with pytest.raises(PluginError, match="netfs shelf: look_up raised ZeroDivisionError: a bug"):
        await netfs.call("look_up", netfs.look_up, "volume", "file")
    with pytest.raises(FscacheError, match="netfs shelf does not offer removing files"):
        await netfs.call("unlink", netfs.unlink, "volume", "file")
    await netfs.call("close_volume", netfs.close_volume, "volume")
    with pytest.raises(PluginError, match="netfs shelf: recall_file raised ZeroDivisionError: a bug"):
        netfs.recall_file("volume", "file", b"v1", SIZE)


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "returned None, not a list"), (["name"], "returned 'name', not a DirectoryEntry")],
)
async def test_a_listing_that_is_none_is_the_adapters_fault(answer: object, message: str) -> None:
    class Listing(Shelf):
        @netfs_hook
        async def list_directory(self, volume: object, path: str) -> Sequence[DirectoryEntry]:
            return answer  # type: ignore[return-value]

    async with open_fscache() as fscache:
        fscache.add_netfs(Listing())
        with pytest.raises(PluginError, match=f"^netfs shelf: list_directory {message}") as caught:
            await fscache.list_directory("shelf://")
    assert caught.value.plugin == "shelf"


class Nameless(OneFile):
    pass


@pytest.mark.parametrize("scheme", [None, "shelf"])
async def test_an_adapter_without_a_name_is_refused_and_told_what_it_is_for(scheme: str | None) -> None:
    async with open_fscache() as fscache:
        with pytest.raises(UnfitPluginError, match="netfs Nameless lacks a name, which is the") as caught:
            fscache.add_netfs(Nameless(DATA), scheme=scheme)
        assert caught.value.plugin == "Nameless"
        fscache.add_netfs(Shelf())
        async with await fscache.open_file("shelf://file") as file:
            assert await file.read(0, SIZE) == DATA


@pytest.mark.parametrize("name", [None, 7, b"shelf", ""])
def test_a_name_that_is_no_text_is_refused(name: object) -> None:
    class Odd(Shelf):
        pass

    Odd.name = name  # type: ignore[assignment]
    with pytest.raises(UnfitPluginError, match=f"netfs Odd: its name {name!r} is not a text"):
        NetfsFacade(Odd())


@pytest.mark.parametrize("name", ["Shelf", "a shelf", "shelf:", "7shelf", "shélf"])
async def test_an_adapter_is_for_urls_of_a_scheme_that_they_can_have(name: str) -> None:
    class Odd(Shelf):
        pass

    Odd.name = name
    async with open_fscache() as fscache:
        with pytest.raises(CallerError) as caught:
            fscache.add_netfs(Odd())
        assert str(caught.value) == f"netfs {name}: no URL has the scheme {name!r}; give it one: scheme=..."
        with pytest.raises(CallerError, match="netfs shelf: no URL has the scheme"):
            fscache.add_netfs(Shelf(), scheme=name)
        fscache.add_netfs(Odd(), scheme="shelf")
        async with await fscache.open_file("shelf://file") as file:
            assert await file.read(0, SIZE) == DATA


def test_a_version_that_is_no_number_is_refused() -> None:
    class Odd(Shelf):
        version = "1"  # type: ignore[assignment]

    with pytest.raises(UnfitPluginError, match="version '1' is not an int"):
        NetfsFacade(Odd())


@pytest.mark.parametrize(
    ("aux", "size", "outcome"),
    [
        (b"v1", SIZE, AuxOutcome.OKAY),
        (b"v2", SIZE, AuxOutcome.OBSOLETE),
        (b"v1", SIZE + 1, AuxOutcome.OBSOLETE),
    ],
)
def test_an_adapter_without_check_aux_has_its_evidence_compared(
    aux: bytes, size: int, outcome: AuxOutcome
) -> None:
    class Plain(Shelf):
        check_aux = None  # type: ignore[assignment]

    assert NetfsFacade(Plain()).check_aux("file", aux, size) is outcome


async def test_a_wrong_answer_of_check_aux_is_stale() -> None:
    backend, faults = MemoryBackend(), Faults()
    assert await read_shelf(backend, Shelf()) == DATA
    faults.arm("check_aux", Answer("OKAY"), at=range(1, 1000))
    assert await read_shelf(backend, Shelf(), faults) == DATA
    faults.disarm()
