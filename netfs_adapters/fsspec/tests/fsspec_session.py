"""What the tests of this adapter do with it: open a volume, read a range."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from netfs_fsspec import FsspecNetfs


@asynccontextmanager
async def opened(netfs: FsspecNetfs, url: str) -> AsyncIterator[tuple[object, str]]:
    """The volume and the path of a URL."""
    location = netfs.parse_url(url)
    volume = await netfs.open_volume(location)
    try:
        yield volume, location.path
    finally:
        with trio.CancelScope(shield=True):
            await netfs.close_volume(volume)


async def read(
    netfs: FsspecNetfs,
    file: object,
    offset: int = 0,
    size: int | None = None,
    seen: Callable[[int], None] = lambda n: None,
) -> bytes:
    """A range, by default all from ``offset`` on."""
    buffer = bytearray(netfs.get_attr(file).size - offset if size is None else size)
    await netfs.fetch(file, offset, memoryview(buffer), seen)
    return bytes(buffer)
