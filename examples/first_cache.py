"""A first cache: read a file twice, the second time without its origin.

python examples/first_cache.py URL [CACHE_DIRECTORY]
"""

import sys

import trio

from fscache_core import FscacheError, open_fscache


async def main(url: str, directory: str) -> None:
    async with open_fscache() as fscache:
        await fscache.add_cache("cachefiles", dir=directory)
        for attempt in ("first", "second"):
            async with await fscache.open_file(url) as file:
                content = await file.read(0, file.size)
            (volume,) = fscache.volumes
            print(
                f"{attempt} time: {len(content)} bytes;"
                f" so far {volume.stats.bytes_from_origin} came from {volume.location.volume}"
            )


if len(sys.argv) < 2:
    sys.exit(__doc__)
try:
    trio.run(main, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/tmp/fscache-first")
except FscacheError as error:
    sys.exit(str(error))
