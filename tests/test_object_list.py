"""The object list: exact columns, filter letters (reference section 13)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core import page
from fscache_core.errors import CallerError
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.object_list import ObjectLine, list_objects, object_list_json, object_list_text
from fscache_core.outcome import CookieType
from fscache_core.testing.cache_session import Session, content, open_session
from fscache_core.testing.faulty import Faults, Hang
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LINE = ObjectLine(
    object=0x1A,
    parent=None,
    cache="main",
    state="WAIT_FOR_CMD",
    short="?CMD",
    n_children=2,
    n_ops=3,
    n_obj_ops=1,
    n_in_progress=2,
    n_exclusive=1,
    n_reads=4,
    event_mask=0x6D,
    events=0,
    flags=0x38,
    work=0,
    definition="sshfs",
    type=CookieType.DATA,
    cookie_flags=0x220,
    netfs_data=0x7F00AB,
    key="2f61",
    aux="0001",
)


def test_a_line_has_the_columns_of_the_reference() -> None:
    header, rulers, line = object_list_text([LINE]).splitlines()
    assert header == (
        "OBJECT   PARENT   STAT CHLDN OPS OOP IPR EX READS EM EV FL S"
        " | NETFS_COOKIE_DEF TY FL NETFS_DATA       OBJECT_KEY, AUX_DATA"
    )
    assert set(rulers) == {"=", " ", "|"}
    assert {row.index("|") for row in (header, rulers, line)} == {61}
    assert line == (
        "      1a ffffffff ?CMD     2   3   1   2  1     4 6d  0 38 0"
        " | sshfs            DT 220 00000000007f00ab 2f61, 0001"
    )


@pytest.mark.parametrize(
    ("letters", "end"),
    [
        ("K", "00ab 2f61"),
        ("A", "00ab 0001"),
        ("KA", "00ab 2f61, 0001"),
        ("Cc", "00ab"),
        ("", "00ab 2f61, 0001"),
    ],
)
def test_key_and_aux_data_are_shown_if_asked_for(letters: str, end: str) -> None:
    assert object_list_text([LINE], letters).splitlines()[-1].endswith(end)


@pytest.mark.parametrize(("type", "text"), [(0, "IX"), (1, "DT"), (2, "02"), (255, "255")])
def test_special_types_are_decimal(type: int, text: str) -> None:
    values = {**LINE_VALUES, "type": type}
    assert f"sshfs            {text} " in ObjectLine(**values).text("")  # type: ignore[arg-type]


LINE_VALUES = object_list_json([LINE])[0]


def test_an_object_whose_cookie_was_given_back_has_no_netfs() -> None:
    values = {**LINE_VALUES, "definition": None, "type": None}
    assert ObjectLine(**values).text("KA").endswith("0 | <no_netfs>")  # type: ignore[arg-type]


@pytest.fixture
async def session() -> AsyncIterator[tuple[Session, Faults]]:
    faults = Faults()
    async with open_session(MemoryBackend(), wrappers=[faults]) as session:
        await session.file(b"idle", size=4 * PAGE_SIZE)
        yield session, faults
        faults.disarm()


async def test_objects_are_listed_with_their_parents_and_children(session: tuple[Session, Faults]) -> None:
    lines = list_objects(session[0].domain)
    assert sorted(str(line.definition) for line in lines) == [
        ".FS-Cache",
        "FSDEF.netfs",
        "contract",
        "contract",
    ]
    by_id = {line.object: line for line in lines}
    assert [line.object for line in lines] == sorted(by_id)
    for line in lines:
        children = [other for other in lines if other.parent == line.object]
        assert line.n_children == len(children)
    file = next(line for line in lines if line.key == b"idle".hex())
    assert (file.short, file.aux, file.type, file.work) == ("?CMD", b"v1".hex(), 1, 0)
    assert json.loads(json.dumps(object_list_json(lines)))[0]["cache"] == "contract"


async def test_letters_choose_objects(session: tuple[Session, Faults]) -> None:
    cache, faults = session

    def keys(letters: str) -> set[str]:
        return {bytes.fromhex(line.key).decode() for line in list_objects(cache.domain, letters)}

    everything = {"", "contract", "volume", "idle"}
    assert keys("") == keys("KA") == keys("Cc") == keys("CcBbWwRrSs") == everything
    assert keys("b") == keys("c") == keys("W") == keys("R") == keys("S") == set()
    assert keys("B") == keys("w") == keys("r") == keys("s") == everything

    reading = faults.arm("read_or_alloc_pages", Hang())
    storing = faults.arm("write_page", Hang())
    looking = faults.arm("lookup_object", Hang())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.file, b"looked up")
        await looking.wait_hit()
        idle = next(cookie for cookie in cache.domain.cookies.values() if cookie.key == b"idle")
        await page.alloc_page(idle, Folio(0, memoryview(bytearray(PAGE_SIZE))))
        await page.write_page(idle, Folio(0, memoryview(content(b"v1", PAGE_SIZE))))
        nursery.start_soon(cache.read, idle, 1, 3)
        await reading.wait_hit()
        await storing.wait_hit()
        assert keys("W") == {"idle"}
        assert keys("R") == {"idle"}
        assert keys("S") == {"looked up"}
        assert keys("Ss") == everything | {"looked up"}
        assert next(line for line in list_objects(cache.domain, "S")).work == 2
        for stuck in (reading, storing, looking):
            stuck.release()
    dropping = faults.arm("drop_object", Hang())
    await idle.relinquish()
    await dropping.wait_hit()
    assert keys("c") == {"idle"}
    (line,) = list_objects(cache.domain, "c")
    assert line.text("KA").endswith("<no_netfs>")


async def test_an_object_waiting_for_a_place_in_the_pool_has_work_queued(
    session: tuple[Session, Faults],
) -> None:
    cache, _ = session
    pool = cache.domain.object_pool
    n = pool.total_tokens
    pool.total_tokens = 1
    await pool.acquire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.file, b"waiting")
        await trio.testing.wait_all_tasks_blocked()
        (line,) = list_objects(cache.domain, "S")
        assert (line.work, line.key) == (1, b"waiting".hex())
        pool.release()
        pool.total_tokens = n


async def test_unknown_letters_are_the_callers_fault(session: tuple[Session, Faults]) -> None:
    with pytest.raises(CallerError, match="unknown letters 'xz'; there are KACcBbWwRrSs"):
        list_objects(session[0].domain, "xKz")
