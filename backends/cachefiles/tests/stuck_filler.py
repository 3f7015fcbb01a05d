"""Take the fill locks of two files and never fetch.  Prints ``locked``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import trio
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]


async def main(cache: str) -> None:
    async with bound(cache) as session:
        for size in (5000, 400_000):
            cookie = await session.open(Netfile(f"file{size}", size))
            await session.backend.lock_pages(cookie.object, 0, 1, 1.0)
        print("locked", flush=True)
        await trio.sleep_forever()


trio.run(main, sys.argv[1])
