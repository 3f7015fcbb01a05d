"""From a path to the inode of the version to use (namei): of what is in use, cached, and at the origin.

Coherency decides whether the origin is asked.  What it says is the version to use: an inode in use that is of
that version is opened once more, and one of another goes on for those who have it open.
"""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from fscache_core import volume_index
from fscache_core.coherency import CoherencyMode
from fscache_core.domain import log
from fscache_core.errors import CallerError, OfflineError, OriginUnreachableError, PluginError
from fscache_core.hookspecs import FileKind
from fscache_core.inode import Inode

if TYPE_CHECKING:
    from fscache_core.volume import Volume

#: Paths that are remembered to have been served without asking the origin.
MAX_STALE_PATHS = 10_000


class Namei:
    """The paths of one volume."""

    __slots__ = ("_icache", "_outdated", "_volume")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._icache = volume.icache
        self._outdated = volume.outdated_paths

    async def open(self, path: str) -> Inode:
        """The inode of the version to use now, opened once more; `InodeCache.close` gives it back.

        Raises: as `Volume.open_file`.
        """
        volume = self._volume
        volume.check_open()
        inode = self._icache.open(path, self._fresh)
        if inode is not None:
            return self._attached(inode)
        coherency = volume.coherency
        if coherency.offline:
            inode = await self.adopt(path)
            if inode is None:
                raise OfflineError(f"{volume.named(path)}: offline, and it is not cached")
            return inode
        # What the origin was found to have replaced is not adopted again, however long its ttl.
        adopts = coherency.mode is not CoherencyMode.ALWAYS and self._outdated.may_adopt(path)
        try:
            adopted = await self.adopt(path) if adopts else None
        except PluginError as error:  # what is cached cannot be found; the origin has it all the same
            log.error("%s; asking the origin", error, exc_info=error.__cause__)
            adopted = None
        try:
            if adopted is not None and self._fresh(adopted):
                return self._opened(adopted)
            checked_at = time.time()
            try:
                answer = await volume.origin.look_up(path)
            except OriginUnreachableError as error:
                if not coherency.stale_if_error or (inode := await self.adopt(path)) is None:
                    raise
                log.warning("%s: served from the cache: %s", volume.named(path), error)
                volume.stats.stale_served += 1
                if len(volume.stale_paths) < MAX_STALE_PATHS:
                    volume.stale_paths.add(path)
                return inode
            current = self._icache.newest(path)
            inode = self.open_version(path, answer.netfs_data, checked_at)
            if answer.invalidated and inode is not current:  # which was opened after the invalidation
                await self._open_uncached(inode)
            return inode
        finally:
            if adopted is not None:
                self._icache.close(adopted)

    def open_warm(self, path: str) -> Inode | None:
        """`open` from any thread, for what need not be checked and whose object is there and answers."""
        return self._icache.open(path, self._warm)

    def _warm(self, inode: Inode) -> bool:
        return inode.cookie.read_resident is not None and self._fresh(inode)

    def _fresh(self, inode: Inode) -> bool:
        """Whether coherency lets this version be used without asking."""
        if inode.attributes is None or inode.stale or not inode.cookie.enabled:
            return False
        coherency = self._volume.coherency
        match coherency.mode:
            case _ if coherency.offline:
                return True
            case _ if inode.doubtful:
                return False
            case CoherencyMode.IMMUTABLE:
                return True
            case CoherencyMode.TTL:
                # A time in the future is a clock that was set back: then it is time to ask.
                return 0 <= time.time() - inode.checked_at < coherency.ttl_seconds
            case _:
                return False

    def open_version(self, path: str, netfs_data: object, checked_at: float) -> Inode:
        """The inode for what the origin just described: the one in use if it is that version."""
        volume = self._volume
        volume.check_open()
        if path in self._outdated:
            with suppress(PluginError):  # without a label it is asked for again: the cache has none either
                self._note_outdated(path, volume.netfs.get_aux(netfs_data))
        attributes = volume.netfs.get_attr(netfs_data)
        if attributes.kind is FileKind.DIRECTORY:
            raise CallerError(f"{volume.named(path)} is a directory", errno=errno.EISDIR)
        if attributes.kind is not FileKind.FILE:
            raise CallerError(f"{volume.named(path)} is not a regular file")
        current = self._icache.newest(path)
        if current is not None:
            if current.is_version(netfs_data, attributes):
                current.checked_at, current.doubtful = checked_at, False
                return self._opened(current)
            current.become_stale()
        inode = Inode(volume, path, netfs_data, checked_at=checked_at)
        self._icache.add(inode)
        if inode.weak:
            volume.stats.weak += 1
        return inode

    async def _open_uncached(self, inode: Inode) -> None:
        """Leave an inode just opened to who has it open: nobody else gets it, and nothing is stored of it."""
        inode.become_stale()
        try:
            await inode.cookie.disable()
        except BaseException:
            self._icache.close(inode)
            raise

    async def adopt(self, path: str) -> Inode | None:
        """An inode of whatever version is cached; None if none is."""
        volume = self._volume
        volume.check_open()
        inode = self._icache.newest(path)
        if inode is not None and inode.attributes is not None:
            return self._opened(inode)
        file = volume.netfs.name_file(volume.data, path)
        for cache in volume_index.caches_for(volume.cookie, file):
            inode = self._icache.newest(path)  # somebody else may be looking, too
            if inode is not None:
                self._icache.hold(inode)
            else:
                inode = Inode(volume, path, file, adopt=cache)
                self._icache.add(inode)
            if (adopted := await self._adopted(inode)) is not None:
                return adopted
            volume.check_open()
        return None

    async def _adopted(self, inode: Inode) -> Inode | None:
        """This inode when it is known to have a version; else it is closed, and None."""
        try:
            if inode.attributes is not None or await inode.wait_adopted():
                return self._attached(inode)
            self._icache.forget(inode)
            inode.cookie.supersede()
        except BaseException:
            self._icache.close(inode)
            raise
        self._icache.close(inode)
        return None

    def _opened(self, inode: Inode) -> Inode:
        self._icache.hold(inode)
        return self._attached(inode)

    def _attached(self, inode: Inode) -> Inode:
        """An inode with an object, if it can have one: the old one may have died, or a cache been added."""
        if not inode.cookie.objects and inode.cookie.enabled and inode.attributes is not None:
            inode.cookie.acquire_objects()
        return inode

    # -- what is to be looked for anew -----------------------------------------------------

    def outdated(self, inode: Inode) -> None:
        """Let the next open of an inode's path ask the origin."""
        self._note_outdated(inode.path, None)
        self._icache.forget(inode)

    def changed(self, path: str) -> None:
        """Let the next open of a path ask the origin: it was changed there, or may have been."""
        self._volume.origin.changed(path)
        inode = self._icache.newest(path)
        if inode is not None:
            inode.become_stale()
        else:
            self._note_outdated(path, None)

    def changed_below(self, prefix: str) -> None:
        """`changed` for every path in use, or changed before, that begins with ``prefix``."""
        self._volume.origin.changed_below(prefix)
        for inode in self._icache.below(prefix):
            inode.become_stale()
        self._outdated.note_below(prefix)

    def distrust_below(self, prefix: str) -> None:
        """`changed` for every path that begins with ``prefix``, which ends with a slash, cached or in use."""
        self._outdated.distrust_below(prefix)
        self.changed_below(prefix)

    def _note_outdated(self, path: str, aux: bytes | None) -> None:
        if self._volume.coherency.mode is not CoherencyMode.ALWAYS:  # else the origin is asked anyway
            self._outdated.note(path, aux)
