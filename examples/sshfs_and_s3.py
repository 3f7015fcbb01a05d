"""Files of an SFTP server and of an S3 bucket, cached together in one directory.

    python examples/sshfs_and_s3.py CACHE_DIRECTORY sshfs://joe@server/data/a.bin s3://bucket/b.bin ...

Each URL is read by a task of its own.  Run it twice: the second time nothing is fetched.
"""

import sys

import trio

from fscache_core import FsCache, FscacheError, open_fscache

failed: list[str] = []


async def show_size(fscache: FsCache, url: str) -> None:
    try:
        async with await fscache.open_file(url) as file:
            content = await file.read(0, file.size)
    except FscacheError as error:
        failed.append(url)
        print(error, file=sys.stderr)
    else:
        print(f"{url}: {len(content)} bytes")


async def main(directory: str, urls: list[str]) -> None:
    async with open_fscache() as fscache:
        await fscache.add_cache("cachefiles", dir=directory)
        async with trio.open_nursery() as nursery:
            for url in urls:
                nursery.start_soon(show_size, fscache, url)
        for volume in fscache.volumes:
            print(f"{volume.location.volume}: {volume.stats.bytes_from_origin} bytes from the origin")


if len(sys.argv) < 3:
    sys.exit(__doc__)
trio.run(main, sys.argv[1], sys.argv[2:])
sys.exit(1 if failed else 0)
