"""The same program with another backend: one word changes.

python examples/swap_backend.py URL memory
python examples/swap_backend.py URL cachefiles dir=/tmp/fscache-swap
"""

import sys

from fscache_core import FscacheError, blocking

if len(sys.argv) < 3:
    sys.exit(__doc__)
url, backend, *words = sys.argv[1:]
options = {}
for word in words:
    name, equals, options[name] = word.partition("=")
    if not equals:
        sys.exit(f"{word!r} is not option=value")

try:
    with blocking.open_fscache() as fscache:
        fscache.add_cache(backend, **options)
        for _ in range(2):
            with fscache.open_file(url) as file:  # an io.RawIOBase: pandas, tarfile, ... can read it
                content = file.read()
        (volume,) = fscache.volumes
        print(f"{backend}: read {len(content)} bytes twice, fetched {volume.stats.bytes_from_origin}")
except FscacheError as error:
    sys.exit(str(error))
