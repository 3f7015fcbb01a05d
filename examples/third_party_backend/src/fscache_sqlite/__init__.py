"""A cache in one SQLite file: a complete backend, as somebody else might write it."""

import sqlite3
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import trio

from fscache_core.cache import Cache
from fscache_core.cookie import Cookie
from fscache_core.errors import CacheIOError, CacheUnusableError, NoSpaceError
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.hookspecs import cache_hook
from fscache_core.object import CacheObject
from fscache_core.operation import Operation, Retrieval, Storage
from fscache_core.outcome import AuxOutcome, ConsistencyOutcome, LookupOutcome, ReadOutcome, WriteOutcome

# A row of "objects" is one version of a file; its id is never used again.  Row 0 is the master index.  A
# version that is stale but still open has lost its parent, and with it its name; it goes when it is dropped.
SCHEMA = """
PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON;
CREATE TABLE IF NOT EXISTS objects (id INTEGER PRIMARY KEY AUTOINCREMENT, type INTEGER, key BLOB, aux BLOB,
    size INTEGER, parent REFERENCES objects ON DELETE CASCADE, UNIQUE (parent, type, key));
CREATE TABLE IF NOT EXISTS pages (object REFERENCES objects ON DELETE CASCADE, page INTEGER, data BLOB,
    PRIMARY KEY (object, page)) WITHOUT ROWID;
DELETE FROM objects WHERE parent IS NULL AND id > 0;
INSERT OR IGNORE INTO objects (id) VALUES (0);
"""
FIND = "SELECT id, aux, size FROM objects WHERE parent = ? AND type = ? AND key = ?"
CREATE = "INSERT INTO objects (parent, type, key, aux, size) VALUES (?, ?, ?, ?, ?) RETURNING id"
LABEL = "SELECT aux, size FROM objects WHERE id = ?"
RELABEL = "UPDATE objects SET aux = ?, size = ? WHERE id = ?"
UNLINK = "UPDATE objects SET parent = NULL WHERE id = ?"
DELETE = "DELETE FROM objects WHERE id = ?"
DELETE_UNLINKED = "DELETE FROM objects WHERE id = ? AND parent IS NULL"
READ = "SELECT page, data FROM pages WHERE object = ? AND page BETWEEN ? AND ? ORDER BY page"
WRITE = "REPLACE INTO pages SELECT id, ?, ? FROM objects WHERE id = ?"
CUT = "DELETE FROM pages WHERE object = ? AND length(data) <> min(?, ? - page * ?)"
WIPE = "DELETE FROM pages WHERE object = ?"


class SqliteBackend:
    """Options: ``file``, made if it is missing, and ``max_bytes``, the most it may grow to."""

    def __init__(self, file: str, max_bytes: int = 1 << 30) -> None:
        self.file, self.max_bytes = file, max_bytes
        self._row: WeakKeyDictionary[CacheObject, int] = WeakKeyDictionary()
        self._one_at_a_time = trio.CapacityLimiter(1)

    def _connect(self) -> None:
        self._database = sqlite3.connect(self.file, timeout=1, check_same_thread=False)
        self._database.execute(f"PRAGMA max_page_count = {self.max_bytes // 4096}")
        self._database.executescript(SCHEMA)

    def _execute(self, sql: str, rows: Sequence[Sequence[object]]) -> list[tuple[Any, ...]]:
        with self._database:  # one transaction
            return [result for row in rows for result in self._database.execute(sql, row).fetchall()]

    async def _run(self, sql: str, *rows: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            return await trio.to_thread.run_sync(self._execute, sql, rows, limiter=self._one_at_a_time)
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            raise (NoSpaceError if full else CacheIOError)(f"{self.file}: {error}") from error

    @cache_hook
    async def bind_cache(self) -> None:
        try:
            await trio.to_thread.run_sync(self._connect)
        except sqlite3.Error as error:
            raise CacheUnusableError(f"{self.file}: {error}") from error

    @cache_hook
    async def unbind_cache(self) -> None:
        await trio.to_thread.run_sync(self._database.close)

    @cache_hook
    def alloc_object(self, cache: Cache, cookie: Cookie) -> CacheObject:
        obj = CacheObject(cache, cookie)
        self._row[obj] = 0 if cookie.parent is None else -1  # the master index is always there
        return obj

    @cache_hook
    async def lookup_object(self, obj: CacheObject) -> LookupOutcome:
        assert obj.parent is not None
        place = self._row[obj.parent], obj.cookie.type, obj.cookie.key
        for row, aux, size in await self._run(FIND, place):
            outcome = obj.check_aux(aux, size)
            if outcome is not AuxOutcome.OBSOLETE:
                self._row[obj] = row
                if outcome is AuxOutcome.NEEDS_UPDATE:
                    await self.update_object(obj)
                return LookupOutcome.OBTAINED
            await self._run(UNLINK if row in self._row.values() else DELETE, (row,))
            obj.retrying_stale()
        if not obj.lookup_negative():
            return LookupOutcome.ABSENT
        label = obj.cookie.aux, obj.cookie.object_size
        ((self._row[obj],),) = await self._run(CREATE, (*place, *label))
        return LookupOutcome.CREATED

    @cache_hook
    async def check_consistency(self, op: Operation) -> ConsistencyOutcome:
        labels = await self._run(LABEL, (self._row[op.object],))
        fits = any(op.object.check_aux(aux, size) is AuxOutcome.OKAY for aux, size in labels)
        return ConsistencyOutcome.CONSISTENT if fits else ConsistencyOutcome.STALE

    @cache_hook
    async def update_object(self, obj: CacheObject) -> None:
        await self._run(RELABEL, (obj.cookie.aux, obj.cookie.object_size, self._row[obj]))

    @cache_hook
    async def invalidate_object(self, op: Operation) -> None:
        await self._run(WIPE, (self._row[op.object],))
        await self.update_object(op.object)

    @cache_hook
    async def attr_changed(self, obj: CacheObject) -> None:
        row, size = self._row[obj], obj.cookie.object_size
        await self._run(CUT, (row, PAGE_SIZE, size, PAGE_SIZE))
        await self.update_object(obj)
        obj.set_store_limit(size)

    @cache_hook
    async def drop_object(self, obj: CacheObject) -> None:
        await self._run(DELETE if obj.retired else DELETE_UNLINKED, (self._row[obj],))

    @cache_hook
    async def sync_cache(self) -> None:
        await self._run("PRAGMA wal_checkpoint", ())

    @cache_hook
    async def read_or_alloc_pages(self, op: Retrieval, folios: Sequence[Folio]) -> ReadOutcome:
        for folio in folios:
            for page, data in await self._run(READ, (self._row[op.object], folio.first, folio.end - 1)):
                buffer = folio.part(page, 1).buffer
                if len(data) == len(buffer):
                    buffer[:] = data
                    op.end_io(page, 1)
        return ReadOutcome.NO_DATA if op.n_pages else ReadOutcome.HIT

    @cache_hook
    async def allocate_pages(self) -> ReadOutcome:
        return ReadOutcome.NO_DATA

    @cache_hook
    async def write_page(self, op: Storage, folio: Folio) -> WriteOutcome:
        row, pages = self._row[op.object], range(folio.first, folio.end)
        try:
            await self._run(WRITE, *((page, folio.part(page, 1).buffer, row) for page in pages))
        except NoSpaceError:
            return WriteOutcome.NO_BUFFERS
        return WriteOutcome.STORED
