"""What goes wrong in a fetch: it costs this fetch, and its reader is told."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio
import trio.testing

from fscache_core import Limits, open_fscache
from fscache_core.hookspecs import netfs_hook
from fscache_core.testing.one_file import OneFile
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
DATA = random.Random(1).randbytes(4 * MIB)


class Origin(OneFile):
    name = "origin"


async def test_what_arrives_of_a_fetch_that_was_given_up_is_stored_though_its_file_is_evicted() -> None:
    class Lingering(Origin):
        """It knows how much it has only when it has put away the rest."""

        may_end = trio.Event()

        @netfs_hook
        async def fetch(
            self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
        ) -> None:
            buffer[:] = DATA[offset : offset + len(buffer)]
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await self.may_end.wait()
                arrived(len(buffer) // 2)

    origin, backend = Lingering(DATA), MemoryBackend()
    async with open_fscache(limits=Limits(warm_inodes=0)) as fscache:
        await fscache.add_cache(backend)
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file, trio.open_nursery() as nursery:
            nursery.start_soon(file.read, 0, 2 * MIB)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()  # but for what lingers, the file is put away
        origin.may_end.set()
    async with open_fscache(offline=True) as fscache:
        await fscache.add_cache(backend)
        fscache.add_netfs(Origin(DATA))
        async with await fscache.open_file("origin://file") as file:
            assert await file.read(0, MIB) == DATA[:MIB]
