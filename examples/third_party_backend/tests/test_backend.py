"""The example backend passes the kit that every backend can be tested with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("fscache_core.testing.cache_contract")

from fscache_core.testing.cache_contract import CacheContract  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from fscache_sqlite import SqliteBackend  # noqa: E402


class TestSqliteBackend(CacheContract):
    def make_backend(self, store: Path) -> SqliteBackend:
        return SqliteBackend(str(store / "cache.sqlite"))
