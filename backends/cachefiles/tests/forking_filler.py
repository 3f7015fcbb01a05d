"""Take the fill locks of two files, fork a child that lives on and never fetch.  Prints the child's id."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import trio
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]


async def main(cache: str) -> None:
    async with bound(cache) as session:
        cookies = [await session.open(Netfile(f"file{size}", size)) for size in (5000, 400_000)]
        # Some before the fork, some after it: both files go on being the parent's.
        await session.backend.lock_pages(cookies[0].object, 0, 1, 1.0)
        await session.backend.lock_pages(cookies[1].object, 0, 1, 1.0)
        child = os.fork()
        if child == 0:
            os.read(0, 1)  # as long as the test lives
            os._exit(0)
        await session.backend.lock_pages(cookies[1].object, 1, 1, 1.0)
        print(child, flush=True)
        await trio.sleep_forever()


trio.run(main, sys.argv[1])
