"""An adapter of one file in memory, with the hooks that are mandatory; a test adds those that it is about.

::

    class Shelf(OneFile):
        name = "shelf"

    fscache.add_netfs(Shelf(b"content"))
    await fscache.open_file("shelf://file")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fscache_core.hookspecs import FileAttributes, FileKind, Location, netfs_hook

if TYPE_CHECKING:
    from collections.abc import Callable


class OneFile:
    """Every path names the same file, which never changes.  A subclass gives the adapter its ``name``."""

    name: str
    version = 1

    def __init__(self, data: bytes) -> None:
        self.data = data

    @netfs_hook
    def parse_url(self, url: str) -> Location:
        return Location(f"{self.name}://", url.removeprefix(f"{self.name}://"))

    @netfs_hook
    async def open_volume(self, location: Location) -> object:
        return "volume"

    @netfs_hook
    def get_key(self, netfs_data: object) -> bytes:
        return str(netfs_data).encode()

    @netfs_hook
    def get_attr(self, netfs_data: object) -> FileAttributes:
        return FileAttributes(FileKind.FILE, len(self.data))

    @netfs_hook
    def get_aux(self, netfs_data: object) -> bytes:
        return b"v1"

    @netfs_hook
    def name_file(self, volume: object, path: str) -> object:
        return path

    @netfs_hook
    def recall_file(self, volume: object, path: str, aux: bytes, object_size: int) -> object:
        return path

    @netfs_hook
    async def look_up(self, volume: object, path: str) -> object:
        return path

    @netfs_hook
    async def fetch(
        self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        buffer[:] = self.data[offset : offset + len(buffer)]
