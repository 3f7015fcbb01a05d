"""The conformance kit on the cachefiles backend, looking at the files behind its back."""

from __future__ import annotations

from pathlib import Path

from fscache_cachefiles import CachefilesBackend, cook_key
from fscache_core.testing.cache_contract import CacheContract


class TestCachefilesBackend(CacheContract):
    def make_backend(self, store: object) -> object:
        assert isinstance(store, Path)
        return CachefilesBackend(store)

    async def stored_bytes(
        self, store: object, name: tuple[tuple[int, bytes], ...], offset: int, size: int
    ) -> bytes | None:
        assert isinstance(store, Path)
        path = store / "cache"
        for cookie_type, key in name:
            path /= cook_key(key, cookie_type)
        if path.is_dir():
            path /= "data"
        return path.read_bytes()[offset : offset + size] if path.exists() else None
