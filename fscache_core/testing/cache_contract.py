"""The conformance kit for cache backends: subclass `CacheContract`, and every backend test is inherited.

::

    # conftest.py
    pytest.register_assert_rewrite("fscache_core.testing")

    # test_contract.py
    class TestMyBackend(CacheContract):
        def make_backend(self, store):
            return MyBackend(directory=store)

``store`` is where the backend keeps what it stores: a fixture, by default an empty directory.  The tests
drive the backend through core, as a netfs would; with `CacheContract.stored_bytes` they also look at the
store behind the backend's back, so that a mistake that is the same in both directions cannot hide.
"""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from fscache_core import fill_lock, page
from fscache_core.folio import PAGE_SIZE, Folio, page_count
from fscache_core.hookspecs import NOT_RESIDENT, Wrapper
from fscache_core.outcome import (
    AuxOutcome,
    ConsistencyOutcome,
    CookieType,
    ReadOutcome,
    ReserveOutcome,
    WriteOutcome,
)
from fscache_core.testing.cache_session import BLOCK, KIB, Session, content, open_session, origin_file
from fscache_core.testing.interruption import Interrupter, cancelled_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from fscache_core.cookie import Cookie
    from fscache_core.object import CacheObject


@pytest.mark.trio
class CacheContract:
    """What every backend does.  Override `make_backend`, and `store` if it is not a directory."""

    #: Size of the largest sparse file that is tried, bytes.
    max_sparse_size = 1 << 36

    @pytest.fixture
    def store(self, tmp_path: Path) -> object:
        return tmp_path

    def make_backend(self, store: object) -> object:
        """A new backend on ``store``, which may hold what an earlier one stored."""
        raise NotImplementedError

    async def stored_bytes(
        self, store: object, name: tuple[tuple[int, bytes], ...], offset: int, size: int
    ) -> bytes | None:
        """Read what is stored without the backend, while the cache is withdrawn.

        Args:
          name: (type, key) of every cookie on the way, the netfs's primary index first.

        Returns:
          The bytes at ``offset``, or None if there is no such object.
        """
        pytest.skip("stored_bytes is not implemented for this backend")

    @pytest.fixture(autouse=True)
    def _nothing_is_blamed_on_the_backend(self, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        """Core attributes faults of a backend in its log; here is none to be expected."""
        yield
        blamed = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
        assert not blamed, "\n".join(record.getMessage() for record in blamed)

    def open(
        self, store: object, *, wrappers: Sequence[Wrapper] = ()
    ) -> AbstractAsyncContextManager[Session]:
        return open_session(self.make_backend(store), wrappers=wrappers)

    # Storing and reading.

    async def test_a_new_file_has_nothing(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file()
            assert await session.read(cookie, 0, 16) == (ReadOutcome.NO_DATA, {})

    @pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 65535, 65536, 65537, 3 * BLOCK + 5000, 5000001])
    async def test_what_was_stored_is_read(self, store: object, size: int) -> None:
        async with self.open(store) as session:
            cookie = await session.file(size=size)
            data = await session.fill(cookie)
            await session.check(cookie, data)
            last = (size - 1) // PAGE_SIZE
            assert await session.read(cookie, last, 1) == (ReadOutcome.HIT, {last: data[last * PAGE_SIZE :]})

    @pytest.mark.parametrize("size", [1, 65536, 3 * BLOCK + 5000])
    async def test_what_was_stored_is_in_the_store(self, store: object, size: int) -> None:
        async with self.open(store) as session:
            cookie = await session.file(size=size)
            data = await session.fill(cookie)
            name = session.object(cookie).name[1:]
        assert await self.stored_bytes(store, name, 0, size) == data

    async def test_an_empty_file_is_cached_as_empty(self, store: object) -> None:
        async with self.open(store) as session:
            await session.file(size=0)
        async with self.open(store) as session:
            cookie = await session.file(aux=None)
            assert (cookie.aux, cookie.object_size) == (b"v1", 0)

    async def test_holes_are_missed_and_the_rest_is_hit(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file()
            data = content(b"v1", cookie.object_size)
            stored = [0, 2, 3, 15, 16, 40, 127]
            for at in stored:
                await session.store(cookie, at, data[at * PAGE_SIZE : (at + 1) * PAGE_SIZE])
            await session.check(cookie, data, stored)
            outcome, pages = await session.read(cookie, 0, 0, runs=[(0, 1), (2, 2), (14, 3)])
            assert (outcome, sorted(pages)) == (ReadOutcome.NO_DATA, [0, 2, 3, 15, 16])

    async def test_pages_that_are_stored_again_have_the_later_bytes(self, store: object) -> None:
        """A backend may forget the other pages then, since they may be of an older version."""
        async with self.open(store) as session:
            cookie = await session.file()
            data = bytearray(await session.fill(cookie))
            for first, n_pages in ((0, 1), (15, 2), (32, 16)):
                new = content(b"again %d" % first, n_pages * PAGE_SIZE)
                assert await session.store(cookie, first, new) is WriteOutcome.STORED
                data[first * PAGE_SIZE : first * PAGE_SIZE + len(new)] = new
                _, found = await session.read(cookie, 0, page_count(len(data)))
                assert set(found) >= set(range(first, first + n_pages))
                for at, page_bytes in found.items():
                    assert page_bytes == data[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]

    @pytest.mark.parametrize("seed", range(5))
    async def test_random_stores_and_reads_agree_with_a_model(self, store: object, seed: int) -> None:
        random = Random(seed)
        size = random.randrange(1, 6 * BLOCK)
        n_pages = page_count(size)
        data = content(b"v1", size)
        stored: set[int] = set()
        for _ in range(3):
            async with self.open(store) as session:
                cookie = await session.file(size=size)
                for _ in range(40):
                    first = random.randrange(n_pages)
                    length = random.randrange(1, min(40, n_pages - first) + 1)
                    if random.random() < 0.4:
                        piece = data[first * PAGE_SIZE :][: length * PAGE_SIZE]
                        assert await session.store(cookie, first, piece) is WriteOutcome.STORED
                        stored.update(range(first, first + length))
                    else:
                        outcome, pages = await session.read(cookie, first, length)
                        want = stored & set(range(first, first + length))
                        assert set(pages) == want
                        for at, page_bytes in pages.items():
                            assert page_bytes == data[at * PAGE_SIZE :][:PAGE_SIZE]
                        assert outcome is (ReadOutcome.HIT if len(want) == length else ReadOutcome.NO_DATA)

    @pytest.mark.parametrize("seed", range(5))
    async def test_runs_that_wait_together_are_all_stored(self, store: object, seed: int) -> None:
        """Whatever a backend makes of several of them in one call."""
        random = Random(seed)
        size = random.randrange(4 * BLOCK, 12 * BLOCK)
        data, n_pages = content(b"v1", size), page_count(size)
        async with self.open(store) as session:
            cookie = await session.file(size=size)
            await page.alloc_page(cookie, Folio(0, memoryview(bytearray(size))))
            stored: set[int] = set()
            first = 0
            while first < n_pages:
                in_blocks = random.choice([1, 16, 16, 32])  # most neighbours are of whole blocks
                length = min(in_blocks if in_blocks > 1 else random.randrange(1, 40), n_pages - first)
                piece = memoryview(data)[first * PAGE_SIZE :][: length * PAGE_SIZE]
                if random.random() < 0.9:
                    outcome = page.write_page_nowait(cookie, Folio(first, piece))
                    assert outcome is WriteOutcome.STORED
                    stored.update(range(first, first + length))
                first += length if random.random() < 0.9 else random.randrange(1, length + 1)  # some twice
            await cookie.wait_on_stores()
            await session.check(cookie, data, sorted(stored))
        async with self.open(store) as session:
            cookie = await session.file(size=size)
            await session.check(cookie, data, sorted(stored))

    async def test_readers_and_a_writer_do_not_disturb_each_other(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file()
            data = content(b"v1", cookie.object_size)

            async def read_all(found: dict[int, bytes]) -> None:
                while len(found) < page_count(len(data)):
                    _, pages = await session.read(cookie, 0, page_count(len(data)))
                    assert set(pages) >= set(found)
                    found.update(pages)
                    await trio.lowlevel.checkpoint()

            results: list[dict[int, bytes]] = [{}, {}, {}]
            async with trio.open_nursery() as nursery:
                for found in results:
                    nursery.start_soon(read_all, found)
                await session.fill(cookie)
            for found in results:
                assert b"".join(found[at] for at in sorted(found)) == data

    async def test_a_large_sparse_file_holds_pages_at_both_ends(self, store: object) -> None:
        async with self.open(store) as session:
            size = self.max_sparse_size - 100
            cookie = await session.file(size=size)
            last = page_count(size) - 1
            first_page, last_page = content(b"first", PAGE_SIZE), content(b"last", size - last * PAGE_SIZE)
            assert await session.store(cookie, last, last_page) is WriteOutcome.STORED
            assert await session.store(cookie, 0, first_page) is WriteOutcome.STORED
            outcome, pages = await session.read(cookie, 0, 0, runs=[(0, 1), (last // 2, 1), (last, 1)])
            assert (outcome, pages) == (ReadOutcome.NO_DATA, {0: first_page, last: last_page})

    async def test_nothing_is_stored_beyond_the_store_limit(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file(size=BLOCK)
            session.object(cookie).set_store_limit(2 * PAGE_SIZE)
            data = content(b"v1", BLOCK)
            await session.store(cookie, 0, data)
            await session.check(cookie, data, [0, 1])

    # Names and labels.

    async def test_any_bytes_make_a_key_of_its_own(self, store: object) -> None:
        keys = [b"a", b"A", b"\0", b"\0\0", b"/", b"a/b", b".", b"..", b"@", b"+", b"a" * 511, b"a" * 510]
        keys += [bytes([byte]) * 511 for byte in (0, 0x2F, 0xFF)]
        keys += ["größe".encode(), b"\xff\xfe", b" ", b"\n", b"Ia", b"Da", b"Ea"]
        async with self.open(store) as session:
            for key in keys:
                cookie = await session.file(key, size=100)
                assert await session.store(cookie, 0, content(key, 100)) is WriteOutcome.STORED
        async with self.open(store) as session:
            for key in keys:
                await session.check(await session.file(key, size=100), content(key, 100))

    async def test_the_same_key_of_another_type_or_parent_is_another_object(self, store: object) -> None:
        def places(session: Session) -> Iterator[tuple[bytes, Cookie, int]]:
            deep = session.index(b"x", below=session.index(b"x"))
            yield b"data", session.volume, CookieType.DATA
            yield b"special", session.volume, CookieType.SPECIAL
            yield b"deep", deep, CookieType.DATA
            yield b"other", session.index(b"y"), CookieType.DATA

        async with self.open(store) as session:
            for version, below, type in places(session):
                cookie = await session.file(b"x", size=5000, below=below, type=type)
                await session.fill(cookie, version)
        async with self.open(store) as session:
            for version, below, type in places(session):
                cookie = await session.file(b"x", size=5000, below=below, type=type)
                await session.check(cookie, content(version, 5000))

    async def test_special_types_never_get_each_others_bytes(self, store: object) -> None:
        """A backend may have room for only one of them under one key."""
        types = (CookieType.SPECIAL, 3, 200, 255)
        async with self.open(store) as session:
            for type in types:
                cookie = await session.file(size=5000, type=type)
                assert await session.read(cookie, 0, 2) == (ReadOutcome.NO_DATA, {})
                await session.fill(cookie, b"%d" % type)
                await cookie.relinquish()
        async with self.open(store) as session:
            for type in types:
                cookie = await session.file(size=5000, type=type)
                _, found = await session.read(cookie, 0, 2)
                data = content(b"%d" % type, 5000)
                assert all(found[at] == data[at * PAGE_SIZE :][:PAGE_SIZE] for at in found)
                await cookie.relinquish()

    async def test_what_was_stored_survives_relinquishing(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file()
            data = await session.fill(cookie)
            await cookie.relinquish()
            await session.check(await session.file(), data)

    @pytest.mark.parametrize("size", [1, 65536, 3 * BLOCK + 5000])
    async def test_what_was_stored_survives_withdrawal(self, store: object, size: int) -> None:
        async with self.open(store) as session:
            data = await session.fill(await session.file(size=size))
        async with self.open(store) as session:
            await session.check(await session.file(size=size), data)

    @pytest.mark.parametrize("aux", [b"", b"v2", b"v", b"v11", b"\0", b"x" * 510])
    async def test_under_another_label_nothing_is_found(self, store: object, aux: bytes) -> None:
        async with self.open(store) as session:
            await session.fill(await session.file())
        async with self.open(store) as session:
            cookie = await session.file(aux=aux)
            assert await session.read(cookie, 0, 128) == (ReadOutcome.NO_DATA, {})
            data = await session.fill(cookie, b"new")
        async with self.open(store) as session:
            await session.check(await session.file(aux=aux), data)

    async def test_under_another_size_nothing_is_found(self, store: object) -> None:
        async with self.open(store) as session:
            await session.fill(await session.file(size=10000))
        async with self.open(store) as session:
            assert (await session.read(await session.file(size=10001), 0, 3))[1] == {}

    async def test_a_stale_object_is_counted_as_stale(self, store: object) -> None:
        async with self.open(store) as session:
            await session.fill(await session.file())
        async with self.open(store) as session:
            await session.fill(await session.file(aux=b"v2"), b"v2")  # stored: so it was created
            stats = session.cache.stats
            # Found: the indices of the netfs and the volume.
            assert (stats.cacheev_stl, stats.lookups_pos, stats.lookups_crt) == (1, 2, 1)

    async def test_a_label_that_needs_an_update_keeps_its_data_and_is_rewritten(self, store: object) -> None:
        async with self.open(store) as session:
            data = await session.fill(await session.file())
        async with self.open(store) as session:
            cookie = await session.file(aux=b"v2", verdict=AuxOutcome.NEEDS_UPDATE)
            await session.check(cookie, data)
        async with self.open(store) as session:
            await session.check(await session.file(aux=b"v2"), data)

    async def test_updating_a_cookie_rewrites_the_label_and_keeps_the_data(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file()
            data = await session.fill(cookie)
            origin_file(cookie.netfs_data).aux = b"v2, which is longer"
            cookie.update()
        async with self.open(store) as session:
            await session.check(await session.file(aux=b"v2, which is longer"), data)

    async def test_a_cookie_without_evidence_adopts_what_is_stored(self, store: object) -> None:
        aux = bytes(range(256)) + b"x" * 254
        async with self.open(store) as session:
            data = await session.fill(await session.file(aux=aux, size=70001))
        async with self.open(store) as session:
            cookie = await session.file(aux=None)
            assert (cookie.aux, cookie.object_size) == (aux, 70001)
            await session.check(cookie, data)

    async def test_a_cookie_without_evidence_creates_nothing(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file(aux=None)
            assert cookie.object is None or cookie.unavailable
            await cookie.relinquish()
            other = await session.file(aux=b"v1")
            assert session.cache.stats.cacheev_stl == 0
            assert await session.read(other, 0, 1) == (ReadOutcome.NO_DATA, {})

    async def test_consistency_is_checked_against_the_label(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file()
            assert await cookie.check_consistency() is ConsistencyOutcome.CONSISTENT
            origin_file(cookie.netfs_data).aux = b"v2"
            assert await cookie.check_consistency() is ConsistencyOutcome.STALE

    # Deleting.

    async def test_retiring_deletes(self, store: object) -> None:
        async with self.open(store) as session:
            for _ in range(10):  # trio shuffles tasks: the old object ends before the next lookup, or after
                cookie = await session.file()
                assert (await session.read(cookie, 0, 16)) == (ReadOutcome.NO_DATA, {})
                await session.fill(cookie)
                name = session.object(cookie).name[1:]
                await cookie.relinquish(retire=True)
        assert await self.stored_bytes(store, name, 0, 1) is None

    async def test_retiring_an_index_deletes_what_is_below(self, store: object) -> None:
        async with self.open(store) as session:
            index = session.index(b"index")
            for key in (b"a", b"b"):
                cookie = await session.file(key, below=index)
                await session.fill(cookie)
                await cookie.relinquish()
            kept = await session.file(b"a")
            data = await session.fill(kept, b"kept")
            await index.relinquish(retire=True)
            again = session.index(b"index")
            for key in (b"a", b"b"):
                assert (await session.read(await session.file(key, below=again), 0, 16))[1] == {}
            await session.check(kept, data)

    async def test_an_invalidated_file_forgets_its_data_and_takes_new(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file()
            await session.fill(cookie)
            origin_file(cookie.netfs_data).aux, origin_file(cookie.netfs_data).size = b"v2", 3 * BLOCK + 1
            cookie.invalidate()
            await cookie.wait_on_invalidate()
            assert await session.read(cookie, 0, 48) == (ReadOutcome.NO_DATA, {})
            data = await session.fill(cookie, b"v2")
            await session.check(cookie, data)
        async with self.open(store) as session:
            await session.check(await session.file(aux=b"v2", size=3 * BLOCK + 1), data)

    async def test_invalidating_a_file_leaves_others_alone(self, store: object) -> None:
        async with self.open(store) as session:
            cookie, other = await session.file(), await session.file(b"other")
            await session.fill(cookie)
            data = await session.fill(other, b"other")
            cookie.invalidate()
            await cookie.wait_on_invalidate()
            assert (await session.read(cookie, 0, 16))[1] == {}
            await session.check(other, data)

    # Versions.

    async def test_who_has_the_old_version_open_goes_on_reading_it(self, store: object) -> None:
        async with self.open(store) as session:
            old = await session.file(aux=b"v1")
            old_data = await session.fill(old, b"v1")
            old.supersede()
            new = await session.file(aux=b"v2", size=5 * BLOCK + 1)
            assert await session.read(new, 0, 81) == (ReadOutcome.NO_DATA, {})
            await session.check(old, old_data)
            new_data = await session.fill(new, b"v2")
            await session.check(old, old_data)
            await session.check(new, new_data)
            await old.relinquish()
            await session.check(new, new_data)
        async with self.open(store) as session:
            await session.check(await session.file(aux=b"v2", size=5 * BLOCK + 1), new_data)

    async def test_nothing_of_an_old_version_reaches_the_new_one(self, store: object) -> None:
        """Whatever is done with the old version, once there is a new one."""
        async with self.open(store) as session:
            old = await session.file(aux=b"v1")
            data = await session.fill(old, b"v1")
            old.supersede()
            new = await session.file(aux=b"v2")
            new_data = await session.fill(new, b"v2")
            await session.store(old, 0, data[:BLOCK])
            origin_file(old.netfs_data).aux = b"v1 again"
            old.update()
            origin_file(old.netfs_data).size = 3 * BLOCK
            old.attr_changed()
            await session.check(new, new_data)
            old.invalidate()
            await old.wait_on_invalidate()
            await session.store(old, 0, data[:BLOCK])
            await session.check(new, new_data)
            obj = session.object(new)
            await old.relinquish(retire=True)
            await session.check(new, new_data)
            assert new.object is obj
        async with self.open(store) as session:
            await session.check(await session.file(aux=b"v2"), new_data)

    # Sizes.

    @staticmethod
    async def resize(session: Session, cookie: Cookie, size: int) -> None:
        origin_file(cookie.netfs_data).size = size
        assert cookie.attr_changed()
        await session.read(cookie, 0, 1)  # behind it in the queue: attr_changed is exclusive

    @pytest.mark.parametrize("size", [5000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5 * KIB])
    @pytest.mark.parametrize("grown", [1, 8000, 3 * BLOCK])
    async def test_growing_keeps_whole_pages_and_forgets_a_cut_one(
        self, store: object, size: int, grown: int
    ) -> None:
        async with self.open(store) as session:
            cookie = await session.file(size=size)
            await session.fill(cookie, b"v1")
            await self.resize(session, cookie, size + grown)
            data = content(b"v1", size + grown)  # the same bytes, and more of them
            await session.check(cookie, data, range(size // PAGE_SIZE))
            await session.fill(cookie, b"v1")
            await session.check(cookie, data)

    @pytest.mark.parametrize("shrunk", [0, 1, 4096, 5000, BLOCK, BLOCK + 1, 2 * BLOCK + 5 * KIB - 1])
    async def test_shrinking_forgets_what_is_beyond(self, store: object, shrunk: int) -> None:
        async with self.open(store) as session:
            size = 2 * BLOCK + 5 * KIB
            cookie = await session.file(size=size)
            data = await session.fill(cookie)
            await self.resize(session, cookie, shrunk)
            if shrunk:
                # The page that is cut may be kept, as far as it goes, or dropped.
                _, found = await session.read(cookie, 0, page_count(shrunk))
                whole = shrunk // PAGE_SIZE
                await session.check(cookie, data[:shrunk], None if whole in found else range(whole))
            await self.resize(session, cookie, size)
            await session.check(cookie, data, range(shrunk // PAGE_SIZE))

    # The hot path.

    @staticmethod
    def resident(session: Session, cookie: Cookie) -> Callable[[CacheObject, int, memoryview], int]:
        hook = session.cache.backend.read_resident
        if hook is None:
            pytest.skip("this backend has no read_resident")
        return hook

    async def test_resident_bytes_are_the_stored_ones_at_any_offset(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file(size=3 * BLOCK + 5000)
            read_resident = self.resident(session, cookie)
            data, random, n_hits = await session.fill(cookie), Random(1), 0
            await session.check(cookie, data)
            for _ in range(300):
                offset = random.randrange(len(data))
                size = random.randrange(1, min(len(data) - offset, 2 * BLOCK) + 1)
                buffer = bytearray(size)
                got = read_resident(session.object(cookie), offset, memoryview(buffer))
                assert got in (size, NOT_RESIDENT)
                if got == size:
                    assert buffer == data[offset : offset + size]
                    n_hits += 1
            assert n_hits, "nothing was ever resident"

    async def test_a_range_with_a_hole_is_not_resident(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file()
            read_resident = self.resident(session, cookie)
            data = content(b"v1", cookie.object_size)
            for first, n_pages in ((0, 3), (4, 14), (19, 45)):
                await session.store(cookie, first, data[first * PAGE_SIZE :][: n_pages * PAGE_SIZE])
            for hole in (3, 18):
                start, end = hole * PAGE_SIZE, (hole + 1) * PAGE_SIZE
                for offset, stop in (
                    (start, start + 1),
                    (end - 1, end),
                    (start - 1, end + 1),
                    (0, 4 * BLOCK),
                ):
                    buffer = memoryview(bytearray(stop - offset))
                    assert read_resident(session.object(cookie), offset, buffer) == NOT_RESIDENT

    async def test_old_data_is_not_resident_nor_anything_before_the_lookup(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file()
            read_resident = self.resident(session, cookie)
            data = await session.fill(cookie)
            obj = session.object(cookie)
            buffer = memoryview(bytearray(PAGE_SIZE))
            cookie.invalidate()
            await cookie.wait_on_invalidate()
            await session.read(cookie, 0, 1)
            assert read_resident(obj, 0, buffer) == NOT_RESIDENT
            await session.fill(cookie)
            await cookie.relinquish()
            if read_resident(obj, 0, buffer) != NOT_RESIDENT:
                assert buffer == data[:PAGE_SIZE]
            fresh = session.cache.backend.alloc_object(session.cache, cookie)
            assert read_resident(fresh, 0, buffer) == NOT_RESIDENT

    async def test_threads_see_one_version_at_a_time_and_never_an_old_one(self, store: object) -> None:
        n_versions, size = 25, 2 * BLOCK
        async with self.open(store) as session:
            cookie = await session.file(size=size)
            read_resident = self.resident(session, cookie)
            obj = session.object(cookie)
            stop, tried, hit, newest = threading.Event(), threading.Event(), threading.Event(), [0]
            wrong: list[str] = []

            def read(reader: int) -> None:
                random = Random(reader)
                while not stop.is_set():
                    oldest = newest[0]
                    offset = random.randrange(size)
                    buffer = bytearray(random.randrange(1, size - offset + 1))
                    if read_resident(obj, offset, memoryview(buffer)) != NOT_RESIDENT:
                        if len(set(buffer)) != 1 or not oldest <= buffer[0] <= newest[0] + 1:
                            wrong.append(f"{sorted(set(buffer))} between {oldest} and {newest[0]}")
                        if wrong or buffer[0] == newest[0]:
                            hit.set()
                    if oldest == newest[0]:
                        tried.set()

            async def reached(event: threading.Event, what: str) -> None:
                event.clear()
                if not await trio.to_thread.run_sync(event.wait, 240):
                    wrong.append(f"not within 240 s: {what}")

            async def write(version: int) -> None:
                origin_file(cookie.netfs_data).aux = b"%d" % version
                cookie.invalidate()
                await cookie.wait_on_invalidate()
                await session.read(cookie, 0, 1)  # behind the invalidation: nothing old from here on
                newest[0] = version
                await reached(tried, f"a read begun after the invalidation by version {version}")
                for first in range(0, page_count(size), 8):
                    await session.store(cookie, first, bytes([version]) * (8 * PAGE_SIZE))
                await reached(hit, f"a hit of version {version}")

            async with trio.open_nursery() as nursery:
                for reader in range(2):
                    nursery.start_soon(trio.to_thread.run_sync, read, reader)
                try:
                    for version in range(1, n_versions + 1):
                        if not wrong:
                            await write(version)
                finally:
                    stop.set()
            assert not wrong

    # Optional hooks.

    async def test_resident_pages_are_the_ones_stored(self, store: object) -> None:
        async with self.open(store) as session:
            hook = session.cache.backend.resident_pages
            if hook is None:
                pytest.skip("this backend has no resident_pages")
            cookie = await session.file(size=7 * BLOCK + 1)
            assert list(await hook(session.object(cookie))) == []
            for first, n_pages in ((1, 1), (3, 2), (15, 2), (32, 16), (48, 1), (112, 1)):
                size = min(n_pages * PAGE_SIZE, cookie.object_size - first * PAGE_SIZE)
                await session.store(cookie, first, content(b"v1", size))
            runs = list(await hook(session.object(cookie)))
            assert runs == [(1, 1), (3, 2), (15, 2), (32, 17), (112, 1)]

    async def test_child_keys_are_what_is_stored_below_an_index(self, store: object) -> None:
        stored = {(CookieType.DATA, b"a"), (CookieType.DATA, b"/\0\xff"), (CookieType.SPECIAL, b"a")}
        stored.add((CookieType.DATA, b"k" * 511))
        async with self.open(store) as session:
            index = session.index(b"index")
            for type, key in stored:
                await session.fill(await session.file(key, size=5000, below=index, type=type))
            gone = await session.file(b"gone", below=index)
            await gone.relinquish(retire=True)
            below = session.index(b"deep", below=index)
            await session.file(b"not a child", below=below)
        async with self.open(store) as session:
            hook = session.cache.backend.child_keys
            if hook is None:
                pytest.skip("this backend has no child_keys")
            index = session.index(b"index")
            await session.file(b"a", size=5000, below=index)  # gives the index an object
            found = [(int(type), key) for type, key in await hook(session.object(index))]
            assert sorted(found) == sorted({*stored, (CookieType.INDEX, b"deep")})

    async def test_pinning_is_granted_or_refused_and_can_be_repeated(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file()
            data = await session.fill(cookie)
            granted = await cookie.pin()
            assert await cookie.pin() is granted
            await cookie.unpin()
            await cookie.unpin()
            await session.check(cookie, data)

    async def test_reserving_is_granted_or_refused_and_can_be_given_back(self, store: object) -> None:
        async with self.open(store) as session:
            cookie = await session.file()
            granted = await cookie.reserve_space(cookie.object_size)
            await session.check(cookie, await session.fill(cookie))
            if granted is ReserveOutcome.GRANTED:
                assert await cookie.reserve_space(0) is ReserveOutcome.GRANTED

    async def test_fill_locks_of_ranges_that_do_not_overlap_are_all_given(self, store: object) -> None:
        async with self.open(store) as session:
            if session.cache.backend.lock_pages is None:
                pytest.skip("this backend has no lock_pages")
            cookie = await session.file()

            async def never() -> bool:
                raise AssertionError("nobody else can hold the lock")

            obj = session.object(cookie)
            for first in (0, 16, 32, 5):
                assert await fill_lock.lock_pages(cookie, first, 4, never) is obj
            fill_lock.unlock_pages(obj, 0, 2)
            fill_lock.unlock_pages(obj, 2, 2)
            assert await fill_lock.lock_pages(cookie, 0, 4, never) is obj

    # Cancellation and the end.

    async def test_a_read_may_be_cancelled_at_any_step(self, store: object) -> None:
        async with self.open(store) as session:
            data = await session.fill(await session.file())
        for n_steps in range(50):
            async with self.open(store) as session:
                cookie = await session.file()
                cancelled, _ = await cancelled_after(n_steps, partial(session.read, cookie, 0, 128))
                await session.check(cookie, data)
            if not cancelled:
                return
        pytest.fail("a read takes more than 50 steps")

    @pytest.mark.parametrize(
        ("hook", "at", "stored"),
        [
            # The first two lookups are those of the netfs and the volume.
            pytest.param("lookup_object", 3, False, id="creating an index"),
            pytest.param("lookup_object", 4, False, id="creating a file"),
            pytest.param("lookup_object", 4, True, id="finding a stale file"),
            pytest.param("write_page", 1, False, id="the first store"),
            pytest.param("write_page", 2, True, id="storing over pages"),
            pytest.param("update_object", 1, True, id="update"),
            pytest.param("invalidate_object", 1, True, id="invalidate"),
            pytest.param("attr_changed", 1, True, id="attr_changed"),
        ],
    )
    async def test_a_hook_may_be_cancelled_at_any_step(
        self, store: object, hook: str, at: int, stored: bool
    ) -> None:
        """Whatever is found afterwards is right, and the name can be used again."""
        size, new_size = 3 * BLOCK + 5000, 4 * BLOCK + 5000
        data, new = content(b"v1", size), content(b"v2", new_size)
        for n_steps in range(50):
            interrupter = Interrupter(hook, at, n_steps)
            key = b"%d" % n_steps
            if stored:
                async with self.open(store) as session:
                    await session.fill(await session.file(key, size=size, below=session.index(key)))
            async with self.open(store, wrappers=[interrupter]) as session:
                aux = b"v0" if stored and hook == "lookup_object" else b"v1"
                cookie = await session.file(key, size=size, aux=aux, below=session.index(key))
                match hook:
                    case "write_page":
                        for first in (0, 16, 20):
                            await session.store(cookie, first, data[first * PAGE_SIZE :])
                    case "update_object":
                        origin_file(cookie.netfs_data).aux = b"v2"
                        cookie.update()
                    case "invalidate_object":
                        origin_file(cookie.netfs_data).aux, origin_file(cookie.netfs_data).size = (
                            b"v2",
                            new_size,
                        )
                        cookie.invalidate()
                    case "attr_changed":
                        origin_file(cookie.netfs_data).size = new_size
                        cookie.attr_changed()
            assert interrupter.n_calls >= at
            async with self.open(store) as session:
                cookie = await session.file(key, aux=None, below=session.index(key))
                found: dict[int, bytes] = {}
                if cookie.aux is not None:
                    _, found = await session.read(cookie, 0, page_count(cookie.object_size))
                assert not found or hook != "invalidate_object" or cookie.aux == b"v1"
                for page_index, page_bytes in found.items():
                    # A cut page of the old size must not pass for a whole one of the new.
                    assert page_bytes == data[page_index * PAGE_SIZE : (page_index + 1) * PAGE_SIZE]
                index = cookie.parent
                await cookie.relinquish()
                cookie = await session.file(key, aux=b"v3", size=new_size, below=index)
                assert (await session.read(cookie, 0, page_count(new_size)))[1] == {}
                assert await session.store(cookie, 0, new) is WriteOutcome.STORED
                await session.check(cookie, new)
            if not interrupter.cancelled:
                return
        pytest.fail(f"{hook} takes more than 50 steps")

    async def test_withdrawing_with_open_cookies_leaves_nothing_behind(self, store: object) -> None:
        async with self.open(store) as session:
            data = await session.fill(cookie := await session.file())
            await session.file(b"other")
            await session.cache.withdraw()
            assert not session.cache.objects
            assert await session.read(cookie, 0, 1) == (ReadOutcome.NO_BUFFERS, {})
        async with self.open(store) as session:
            await session.check(await session.file(), data)

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")
    async def test_a_closed_cache_leaves_no_descriptor_and_no_task_behind(self, store: object) -> None:
        async with self.open(store) as session:  # what a first use opens for good is not counted
            await session.fill(await session.file(b"first"))
        n_tasks, n_descriptors = (
            trio.lowlevel.current_statistics().tasks_living,
            len(os.listdir("/proc/self/fd")),
        )
        for number in range(3):
            async with self.open(store) as session:
                await session.fill(await session.file(b"%d" % number))
                (await session.file(b"first", aux=b"%d" % number)).invalidate()
                await (await session.file(b"third")).relinquish(retire=True)
        assert len(os.listdir("/proc/self/fd")) <= n_descriptors  # earlier tests may have left some to go
        assert trio.lowlevel.current_statistics().tasks_living == n_tasks

    async def test_many_files_at_once(self, store: object) -> None:
        async with self.open(store) as session:

            async def one(number: int) -> None:
                cookie = await session.file(b"%d" % number, size=number * 700)
                data = await session.fill(cookie, b"%d" % number)
                if number:
                    await session.check(cookie, data)
                await cookie.relinquish()

            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(one, number)
        async with self.open(store) as session:
            for number in range(1, 100, 7):
                cookie = await session.file(b"%d" % number, size=number * 700)
                await session.check(cookie, content(b"%d" % number, number * 700))
