"""The example backend passes the kit that every backend can be tested with."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("fscache_core.testing.cache_contract", "fscache_core.testing.cache_session")

from fscache_core.testing.cache_contract import CacheContract  # noqa: E402

SOURCE = Path(__file__).resolve().parent.parent / "src"


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed; in a package of your own you install it, and import it at the top."""
    monkeypatch.setattr(sys, "path", [str(SOURCE), *sys.path])


class TestSqliteBackend(CacheContract):
    def make_backend(self, store: object) -> object:
        return importlib.import_module("fscache_sqlite").SqliteBackend(f"{store}/cache.sqlite")
