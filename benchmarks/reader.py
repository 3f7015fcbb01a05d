"""One of the processes of ``together``: reads a file through a cache, says what the bytes come to.

python -m benchmarks.reader CACHE_DIRECTORY URL
"""

import sys

import xxhash

from fscache_core import blocking

directory, url = sys.argv[1:]
digest = xxhash.xxh3_64()
with blocking.open_fscache() as fscache:
    fscache.add_cache("cachefiles", dir=directory)
    with fscache.open_file(url) as file:
        while data := file.read(1 << 20):
            digest.update(data)
print(digest.hexdigest())
