"""The same program with another backend: one word changes.

python examples/swap_backend.py URL memory
python examples/swap_backend.py URL cachefiles dir=/tmp/fscache-swap
"""

import sys

from fscache_core import FscacheError, blocking

if len(sys.argv) < 3:
    sys.exit(__doc__)
url, backend, *options = sys.argv[1:]

with blocking.open_fscache() as fscache:
    fscache.add_cache(backend, **dict(option.split("=", 1) for option in options))
    for _ in range(2):
        try:
            with fscache.open_file(url) as file:  # an io.RawIOBase: pandas, tarfile, ... can read it
                content = file.read()
        except FscacheError as error:
            sys.exit(str(error))
    (volume,) = fscache.volumes
    print(f"{backend}: read {len(content)} bytes twice, fetched {volume.stats.bytes_from_origin}")
