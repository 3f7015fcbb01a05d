"""Store a page, and stop before the first write to the file of that name: ``data`` has the page, ``map`` the
entry of its block, which is locked meanwhile.

    python stopped_filler.py CACHE NAME
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import trio
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]

if TYPE_CHECKING:
    from typing_extensions import Buffer


async def main(cache: str, name: str) -> None:
    write, stopped = os.pwrite, False

    def pwrite(descriptor: int, content: Buffer, offset: int) -> int:
        nonlocal stopped
        if not stopped and os.readlink(f"/proc/self/fd/{descriptor}").endswith(f"/{name}"):
            stopped = True
            signal.pthread_kill(
                threading.get_ident(), signal.SIGSTOP
            )  # else this thread may get a bit further
        return write(descriptor, content, offset)

    async with bound(cache) as session:
        cookie = await session.open(Netfile("file", 400_000))
        os.pwrite = pwrite
        await session.fill(cookie, 0, 1)


trio.run(main, sys.argv[1], sys.argv[2])
