"""Read files through `open_fscache` in a process of its own.

    python reader.py CACHE COHERENCY URL...

Prints one line of JSON: per URL the XXH3-64 of what was read, how often the origin was asked for a version,
whether the cache was stopped.
"""

import json
import sys

import trio
import xxhash

from fscache_core import open_fscache


async def main(*arguments: str) -> None:
    directory, coherency, *urls = arguments
    digests = []
    async with open_fscache(coherency=coherency) as fscache:
        cache = await fscache.add_cache("cachefiles", dir=directory)
        for url in urls:
            async with await fscache.open_file(url) as file:
                digests.append(xxhash.xxh3_64_hexdigest(await file.read(0, file.size)))
        n_checks = sum(volume.stats.origin_checks for volume in fscache.volumes)
    print(json.dumps({"digests": digests, "checks": n_checks, "broken": cache.broken}))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
