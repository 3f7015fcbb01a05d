"""A netfs that costs nothing: files whose bytes are made up on the spot, for rows about the cache alone.

``made://SIZE/name``: SIZE bytes that depend on the name.  Its versions are certain at once; those of a real
file that was just made are not, because its timestamp is too young to prove anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
import xxhash

from fscache_core.hookspecs import API_VERSION, FileAttributes, FileKind, Location, Strength, netfs_hook

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class MadeVolume:
    size: int


@dataclass(frozen=True, slots=True)
class MadeFile:
    volume: MadeVolume
    path: str


class MadeNetfs:
    name = "made"
    version = 1
    api_version = API_VERSION

    @netfs_hook
    def parse_url(self, url: str) -> Location:
        volume, _, path = url.removeprefix("made://").partition("/")
        return Location(f"made://{volume}", path)

    @netfs_hook
    async def open_volume(self, location: Location) -> MadeVolume:
        return MadeVolume(int(location.volume.removeprefix("made://")))

    @netfs_hook
    def name_file(self, volume: MadeVolume, path: str) -> MadeFile:
        return MadeFile(volume, path)

    @netfs_hook
    def recall_file(self, volume: MadeVolume, path: str, aux: bytes, object_size: int) -> MadeFile:
        return MadeFile(volume, path)

    @netfs_hook
    def get_key(self, netfs_data: MadeVolume | MadeFile) -> bytes:
        return (
            str(netfs_data.size).encode() if isinstance(netfs_data, MadeVolume) else netfs_data.path.encode()
        )

    @netfs_hook
    def get_attr(self, netfs_data: MadeFile) -> FileAttributes:
        return FileAttributes(FileKind.FILE, netfs_data.volume.size, strength=Strength.STRONG)

    @netfs_hook
    def get_aux(self, netfs_data: MadeFile) -> bytes:
        return b"1"

    @netfs_hook
    async def look_up(self, volume: MadeVolume, path: str) -> MadeFile:
        await trio.lowlevel.checkpoint()
        return MadeFile(volume, path)

    @netfs_hook
    async def fetch(
        self, netfs_data: MadeFile, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        await trio.lowlevel.checkpoint()
        buffer[:] = made_bytes(netfs_data.path, len(buffer), offset)
        arrived(len(buffer))


def made_bytes(path: str, size: int, offset: int = 0) -> bytes:
    """What the file of that name holds from ``offset``, a multiple of 4096, on: each page is another."""
    pages = range(offset >> 12, (offset + size + 4095) >> 12)
    return b"".join([xxhash.xxh3_128_digest(f"{path} {page}".encode()) * 256 for page in pages])[:size]
