"""Read files with few descriptors to be had, all of them open at once.

    python many_open.py CACHE N_DESCRIPTORS URL...

Prints one line of JSON: per URL the XXH3-64 of what was read, whether the cache was stopped, how many
descriptors its objects held at most.
"""

import contextlib
import json
import resource
import sys

import trio
import xxhash

from fscache_cachefiles import CachefilesBackend
from fscache_core import open_fscache


async def main(*arguments: str) -> None:
    directory, n_descriptors, *urls = arguments
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(n_descriptors), int(n_descriptors)))
    digests, held = [], 0
    backend = CachefilesBackend(directory)
    async with open_fscache() as fscache, contextlib.AsyncExitStack() as files:
        cache = await fscache.add_cache(backend)
        opened = [await files.enter_async_context(await fscache.open_file(url)) for url in urls]
        for file in opened:
            digests.append(xxhash.xxh3_64_hexdigest(await file.read(0, file.size)))
            held = max(held, backend.n_open)
        for file, digest in zip(opened, digests, strict=True):
            assert xxhash.xxh3_64_hexdigest(await file.read(0, file.size)) == digest
        broken = cache.broken
    print(json.dumps({"digests": digests, "broken": broken, "held": held}))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
