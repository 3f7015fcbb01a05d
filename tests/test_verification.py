"""Checking what a cache has stored: the part that is core's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from fscache_cachefiles import CachefilesBackend
from fscache_core import open_fscache
from fscache_core.errors import CacheIOError, PluginError, UnsupportedError
from fscache_core.hookspecs import Problem, VerifyReport, cache_hook
from fscache_core.verification import verify
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPORT = VerifyReport(3, 4096, [Problem("a/b", "it is gone", repaired=True)])


class CheckedBackend(MemoryBackend):
    """Answers a check with ``answer``, or raises it."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer
        self.repairs: list[bool] = []

    @cache_hook
    async def verify_cache(self, repair: bool, progress: Callable[[int, int], None]) -> VerifyReport:
        self.repairs.append(repair)
        progress(1, 2)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[return-value]


async def test_the_backends_report_is_handed_on() -> None:
    backend, told = CheckedBackend(REPORT), []
    async with open_fscache() as fscache:
        cache = await fscache.add_cache(backend)
        assert await verify(cache, progress=lambda done, total: told.append((done, total))) is REPORT
        await verify(cache, repair=True)
    assert (told, backend.repairs) == ([(1, 2)], [False, True])


async def test_a_backend_without_a_check_is_refused() -> None:
    async with open_fscache() as fscache:
        cache = await fscache.add_cache(MemoryBackend())
        with pytest.raises(UnsupportedError, match="offers no check"):
            await verify(cache)


@pytest.mark.parametrize(
    ("answer", "complaint"), [(RuntimeError("oh"), "verify_cache raised RuntimeError: oh"), ([], "returned ")]
)
async def test_a_bug_in_the_check_is_the_backends(answer: object, complaint: str) -> None:
    async with open_fscache() as fscache:
        cache = await fscache.add_cache(CheckedBackend(answer))
        with pytest.raises(PluginError, match=complaint):
            await verify(cache)
        assert not cache.broken


async def test_a_failing_disk_stops_the_cache() -> None:
    async with open_fscache() as fscache:
        cache = await fscache.add_cache(CheckedBackend(CacheIOError("EIO")))
        with pytest.raises(CacheIOError):
            await verify(cache)
        assert cache.broken


async def test_a_check_of_a_directory_can_be_cancelled(tmp_path: Path) -> None:
    async with open_fscache() as fscache:
        cache = await fscache.add_cache(CachefilesBackend(tmp_path / "cache"))
        for n in range(10):
            file = tmp_path / str(n)
            file.write_bytes(b"x" * 10_000)
            async with await fscache.open_file(file.as_uri()) as opened:
                await opened.warm()
        with trio.CancelScope() as scope:
            await verify(cache, progress=lambda done, total: scope.cancel())
        assert scope.cancelled_caught
        assert (await verify(cache)).n_objects == 10
