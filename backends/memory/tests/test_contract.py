"""The conformance kit on the memory backend."""

from __future__ import annotations

import pytest

from fscache_core.testing.cache_contract import CacheContract
from fscache_memory import MemoryBackend


class TestMemoryBackend(CacheContract):
    @pytest.fixture
    def store(self) -> object:
        return MemoryBackend()  # what it stores lasts as long as it does

    def make_backend(self, store: object) -> object:
        return store

    async def stored_bytes(
        self, store: object, name: tuple[tuple[int, bytes], ...], offset: int, size: int
    ) -> bytes | None:
        assert isinstance(store, MemoryBackend)
        version = store.root
        for step in name:
            if step not in version.children:
                return None
            version = version.children[step]
        return b"".join(bytes(version.blocks[at].view) for at in sorted(version.blocks))[
            offset : offset + size
        ]
