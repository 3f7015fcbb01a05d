"""Statistics that outlive the process: counts of all who use a cache add up in its backing store.

What is counted belongs to a whole `FsCache`; caches do not have counters of their own.  So each count goes to
one cache only, the first that was added and keeps statistics; when it is withdrawn the next one goes on.

Task: one per cache that keeps statistics, from `Cache.add` to `Cache.withdraw`, which closes it.  It calls
``add_statistics`` every ``Limits.statistics_seconds`` with what came to be since, and `close` a last time.  A
process that dies loses at most that much.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from fscache_core.errors import FscacheError, PluginError
from fscache_core.hook_call import call_backend
from fscache_core.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.cache import Cache


class StatisticsKeeper:
    """Brings the counts of a domain to one cache."""

    def __init__(self, cache: Cache, add: Callable[[Mapping[str, int]], Awaitable[None]]) -> None:
        self._cache = cache
        self._add = add
        self._scope = trio.CancelScope()
        self._closed = trio.Event()
        if cache.domain.statistics_to is None:
            cache.domain.statistics_to = cache

    async def run(self) -> None:
        """The task."""
        seconds = self._cache.domain.limits.statistics_seconds
        try:
            with self._scope:
                while True:
                    await trio.sleep(seconds)
                    await self._flush()
        finally:
            self._closed.set()

    async def close(self) -> None:
        """End the task, flush a last time, and leave it to the next cache."""
        self._scope.cancel()
        await self._closed.wait()
        await self._flush()
        domain = self._cache.domain
        if domain.statistics_to is self._cache:
            others = reversed(domain.caches)  # which this one is none of any more
            domain.statistics_to = next((cache for cache in others if cache.backend.add_statistics), None)

    async def _flush(self) -> None:
        cache = self._cache
        domain = cache.domain
        if domain.statistics_to is None:  # several are being withdrawn at once
            domain.statistics_to = cache
        if domain.statistics_to is not cache:
            return
        counts = cache.stats.since(domain.kept)
        if counts and not cache.broken:
            domain.kept = cache.stats.as_dict()
            try:
                await call_backend(cache, None, type(None), self._add, counts)
            except FscacheError as error:
                cache.hook_failed(error)


async def kept_statistics(cache: Cache) -> Stats | None:
    """The counts of every process that used a cache, this one's until now included; None if it keeps none."""
    backend = cache.backend
    if backend.statistics is None:
        return None
    counts: dict[str, int] = {}
    try:
        kept = await call_backend(cache, None, Mapping, backend.statistics)  # type: ignore[type-abstract]
        wrong = {name: count for name, count in kept.items() if type(count) is not int}
        if wrong:
            message = f"backend {backend.name}: statistics returned {wrong!r}, which are no counts"
            raise PluginError(message, plugin=backend.name)
        counts.update(kept)
    except FscacheError as error:
        cache.hook_failed(error)
    if cache.domain.statistics_to is cache:
        for name, count in cache.stats.since(cache.domain.kept).items():
            counts[name] = counts.get(name, 0) + count
    return Stats.of(counts)
