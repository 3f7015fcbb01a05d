"""A volume: the files of one origin as seen with one set of rights."""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import trio

from fscache_core import object_request, volume_index
from fscache_core.change import Changes
from fscache_core.coherency import Coherency, CoherencyMode
from fscache_core.domain import Domain, log
from fscache_core.errors import (
    CallerError,
    FscacheError,
    OfflineError,
    OriginUnreachableError,
    PluginError,
)
from fscache_core.file import File
from fscache_core.hook_call import passes_through
from fscache_core.hookspecs import DirectoryEntry, FileAttributes, FileKind, Location
from fscache_core.icache import InodeCache
from fscache_core.inode import Inode
from fscache_core.inode_definition import inode_definition
from fscache_core.netfs import acquire_or_go_without
from fscache_core.origin_lookup import OriginLookup
from fscache_core.outcome import CookieType, ReserveOutcome
from fscache_core.outdated_paths import OutdatedPaths
from fscache_core.readahead import WHOLE_READAHEAD, Readahead
from fscache_core.stats import VolumeStats

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie
    from fscache_core.netfs import Netfs
    from fscache_core.plugins import NetfsFacade

#: Paths that are remembered to have been served without asking the origin.
MAX_STALE_PATHS = 10_000


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What a cache has of a file."""

    attributes: FileAttributes  #: of the version that is cached
    cache: str  #: tag
    cached_size: int | None  #: bytes; None if the backend cannot tell
    #: When the origin last said that it is the present version, seconds since the epoch; 0 if nobody knows.
    checked_at: float
    pinned: bool


class Volume:
    """An attached volume.  Made by `fscache_core.FsCache.open_volume`."""

    def __init__(
        self,
        domain: Domain,
        netfs: NetfsFacade,
        registered: Netfs,
        location: Location,
        data: object,
        coherency: Coherency,
        readahead: Readahead | None,
    ) -> None:
        self.domain = domain
        self.netfs = netfs
        self.location = location
        self.data = data  #: the adapter's
        self.coherency = coherency
        default = Readahead() if netfs.fetch_whole is None else WHOLE_READAHEAD
        self.readahead: Readahead = readahead or default
        self.stats = VolumeStats()
        self.fetch_speed = 0.0  #: bytes per second of the last fetch, beside others; 0 if nothing is known
        self.definition = inode_definition(netfs)
        self.cookie: Cookie = acquire_or_go_without(
            domain, registered.primary_index, volume_index.definition(netfs), data
        )
        domain.n_volumes += 1
        self._inodes = InodeCache(domain)
        self.outdated_paths = OutdatedPaths()
        self._origin = OriginLookup(self)
        self.closed = False
        self._busy: set[trio.CancelScope] = set()  # what uses the adapter, or the volume's cookie
        self._rested = trio.lowlevel.ParkingLot()  # woken when something of that ends
        self.changes = Changes(self)
        self.stale_paths: set[str] = set()  #: files counted by ``stats.stale_served``, the first of them

    def __repr__(self) -> str:
        return f"<Volume {self.location.volume}>"

    # -- for users -----------------------------------------------------------------------

    def url_of(self, path: str) -> str | None:
        """A URL of a file or directory, or None.

        How an adapter writes a path is its own affair: some take it as it is, some percent-encoded, and no
        hook makes a URL.  But each reads one.
        """
        where = self.location.volume
        for written in (quote(path, errors="surrogateescape"), path):
            for url in (f"{where}{written}", f"{where}/{written}"):
                with suppress(FscacheError):
                    location = self.netfs.parse_url(url)
                    if (location.volume, location.path) == (where, path):
                        return url
        return None

    def named(self, path: str) -> str:
        """What to call a file or directory in a message."""
        return self.url_of(path) or f"{self.location.volume} {path}"

    async def open_file(self, path: str, *, reopen: str = "auto") -> File:
        """Open a file in the version that coherency allows.

        Args:
          reopen: what to do when the version is found to be gone before anything was read: ``auto`` opens
            the new one, ``never`` raises `StaleError`.

        Raises:
          OriginError and its kinds: the origin's answer.
          OfflineError: offline, and no version is cached.
          CallerError: it is a directory, or not a name this origin can have.
        """
        if reopen not in ("auto", "never"):
            raise CallerError(f"reopen={reopen!r} is not one of: auto, never")
        inode = await self.open_inode(path)
        self.stats.opens += 1
        return File(self, inode, reopen=reopen == "auto")

    async def look_up(self, path: str) -> FileAttributes:
        """What the origin says of a file or directory now; offline, what its label says.

        Raises: as `open_file`.
        """
        if not self.coherency.offline:
            try:
                return self.netfs.get_attr(await self._origin.look_up(path))
            except OriginUnreachableError:
                if not self.coherency.stale_if_error:
                    raise
        inode = await self.open_inode(path)
        try:
            assert inode.attributes is not None
            return inode.attributes
        finally:
            self.close_inode(inode)

    async def status(self, path: str) -> FileStatus | None:
        """What is cached of a file, without asking the origin; None if nothing is."""
        inode = await self._adopt(path)
        if inode is None:
            return None
        try:
            await inode.wait_stored()
            obj = inode.cookie.object
            if obj is None or not obj.active:
                return None
            runs = await object_request.resident_pages(obj)
            assert inode.attributes is not None
            return FileStatus(
                inode.attributes,
                cache=obj.cache.tag,
                cached_size=None if runs is None else sum(inode.bytes_of(*run) for run in runs),
                checked_at=inode.checked_at or await object_request.get_check_time(obj),
                pinned=await object_request.is_pinned(obj),
            )
        finally:
            self.close_inode(inode)

    async def pin(self, path: str) -> ReserveOutcome:
        """Keep a file's cached data from being culled, over restarts too.  It need not be cached yet.

        Raises: as `open_file`.
        """
        inode = await self.open_inode(path)
        try:
            return await inode.cookie.pin()
        finally:
            self.close_inode(inode)

    async def unpin(self, path: str) -> None:
        """Undo `pin`.  No-op if the file is not cached."""
        inode = await self._adopt(path)
        if inode is not None:
            try:
                await inode.cookie.unpin()
            finally:
                self.close_inode(inode)

    async def list_directory(self, path: str) -> Sequence[DirectoryEntry]:
        """List a directory at the origin.  Listings are not cached.

        Raises:
          OfflineError: offline.
          UnsupportedError: this netfs has no listings.
          OriginError and its kinds.
        """
        if self.coherency.offline:
            raise OfflineError(f"{self.named(path)}: offline, and listings are not cached")
        self.check_open()
        with self.under_way():
            return await self.netfs.call("list_directory", self.netfs.list_directory, self.data, path)
        raise self.closed_error()

    async def invalidate(self, path: str) -> None:
        """See to it that nothing cached of a file is used again.  Files that are open keep their version."""
        self._origin.forget(path)
        file = self.netfs.name_file(self.data, path)
        await self._retire(
            CookieType.DATA, self.netfs.get_key(file), volume_index.caches_for(self.cookie, file)
        )

    async def invalidate_below(self, prefix: str = "") -> int:
        """`invalidate` every file whose path begins with ``prefix``; returns how many were cached.

        Where the cache knows a name only by its hash (names over 511 bytes), the file counts as below.

        Raises:
          UnsupportedError: the backend cannot tell what it has.
        """
        self.changed_below(prefix)
        # Of a name with one letter more: an adapter may drop a slash at the end, and /d is no prefix for /d/.
        longer = self.netfs.get_key(self.netfs.name_file(self.data, f"{prefix}x")) if prefix else b"x"
        begins = longer[:-1]
        stored = await volume_index.stored_keys(self.cookie)
        below = [(kind, key) for kind, key in stored if key.startswith(begins) or key.startswith(b"\0")]
        for kind, key in below:
            await self._retire(kind, key, stored[kind, key])
        return len(below)

    async def _retire(self, kind: int, key: bytes, caches: Sequence[Cache]) -> None:
        """Delete what caches have stored under a key, whoever may be reading it.

        Cancellation: it is carried through.
        """
        self.check_open()
        with self.under_way() as scope:
            scope.shield = True
            await volume_index.retire(self.cookie, kind, key, caches)
        await trio.lowlevel.checkpoint_if_cancelled()

    # -- for files -----------------------------------------------------------------------

    async def open_inode(self, path: str) -> Inode:
        """The inode of the version to use now, opened once more; `close_inode` gives it back."""
        self.check_open()
        inode = self.open_fresh(path)
        if inode is not None:
            return inode
        coherency = self.coherency
        if coherency.offline:
            inode = await self._adopt(path)
            if inode is None:
                raise OfflineError(f"{self.named(path)}: offline, and it is not cached")
            return inode
        # What the origin was found to have replaced is not adopted again, however long its ttl.
        adopts = coherency.mode is not CoherencyMode.ALWAYS and self.outdated_paths.may_adopt(path)
        try:
            adopted = await self._adopt(path) if adopts else None
        except PluginError as error:  # what is cached cannot be found; the origin has it all the same
            log.error("%s; asking the origin", error, exc_info=error.__cause__)
            adopted = None
        try:
            if adopted is not None and self._fresh(adopted):
                return self._opened(adopted)
            checked_at = time.time()
            try:
                netfs_data = await self._origin.look_up(path)
            except OriginUnreachableError as error:
                if not coherency.stale_if_error or (inode := await self._adopt(path)) is None:
                    raise
                log.warning("%s: served from the cache: %s", self.named(path), error)
                self.stats.stale_served += 1
                if len(self.stale_paths) < MAX_STALE_PATHS:
                    self.stale_paths.add(path)
                return inode
            return self.open_version(path, netfs_data, checked_at)
        finally:
            if adopted is not None:
                self.close_inode(adopted)

    def open_fresh(self, path: str) -> Inode | None:
        """The inode of a version that need not be checked again, opened once more; None if there is none."""
        inode = self._inodes.open(path, self._fresh)
        return inode if inode is None else self._attached(inode)

    def open_warm(self, path: str) -> Inode | None:
        """`open_fresh` from any thread, for an inode whose object is there and answers."""
        return self._inodes.open(path, self._warm)

    def _warm(self, inode: Inode) -> bool:
        return inode.cookie.read_resident is not None and self._fresh(inode)

    def _fresh(self, inode: Inode) -> bool:
        """Whether coherency lets this version be used without asking."""
        if inode.attributes is None or inode.stale or not inode.cookie.enabled:
            return False
        match self.coherency.mode:
            case _ if self.coherency.offline:
                return True
            case _ if inode.doubtful:
                return False
            case CoherencyMode.IMMUTABLE:
                return True
            case CoherencyMode.TTL:
                # A time in the future is a clock that was set back: then it is time to ask.
                return 0 <= time.time() - inode.checked_at < self.coherency.ttl_seconds
            case _:
                return False

    def close_inode(self, inode: Inode) -> None:
        """Undo `open_inode` or `open_version`.  The newest version of a file stays warm for a while."""
        if self._inodes.release(inode):
            self.settle_inode(inode)

    def close_warm(self, inode: Inode) -> bool:
        """`close_inode` from any thread; True if the trio thread must call `settle_inode`."""
        return self._inodes.release(inode)

    def settle_inode(self, inode: Inode) -> None:
        """See to an inode whose last reader is gone."""
        self._inodes.settle(inode)

    def outdated(self, inode: Inode) -> None:
        """Let the next open of this path ask the origin."""
        self._note_outdated(inode.path, None)
        self._inodes.forget(inode)

    def changed(self, path: str) -> None:
        """Let the next open of a path ask the origin: it was changed there, or may have been."""
        self._origin.changed(path)
        inode = self._inodes.newest(path)
        if inode is not None:
            inode.become_stale()
        else:
            self._note_outdated(path, None)

    def changed_below(self, prefix: str) -> None:
        """`changed` for every path in use, or changed before, that begins with ``prefix``."""
        self._origin.changed_below(prefix)
        for inode in self._inodes.below(prefix):
            inode.become_stale()
        self.outdated_paths.note_below(prefix)

    def distrust_below(self, prefix: str) -> None:
        """`changed` for every path that begins with ``prefix``, which ends with a slash, cached or in use."""
        self.outdated_paths.distrust_below(prefix)
        self.changed_below(prefix)

    def _note_outdated(self, path: str, aux: bytes | None) -> None:
        if self.coherency.mode is not CoherencyMode.ALWAYS:  # else the origin is asked anyway
            self.outdated_paths.note(path, aux)

    def check_open(self) -> None:
        """Raise `CallerError` after `close`."""
        if self.closed:
            raise self.closed_error()

    def closed_error(self) -> CallerError:
        return CallerError(f"{self!r} is closed", errno=errno.EBADF)

    async def close(self, *, store: bool) -> None:
        """Close the volume: every inode, then the adapter's side (core only).

        Args:
          store: wait until what was fetched is stored; else it is dropped.
        """
        self.closed = True
        self.domain.n_volumes -= 1
        await self._inodes.close(store=store)
        for scope in self._busy:
            if not scope.shield:
                scope.cancel()
        while self._busy:
            await self._rested.park()
        await self.cookie.relinquish()
        with trio.move_on_after(self.domain.limits.drop_seconds) as scope:
            try:
                await self.netfs.close_volume(self.data)
            except BaseException as error:
                if passes_through(error):
                    raise
                log.exception("netfs %s: close_volume of %s failed", self.netfs.name, self.location.volume)
        if scope.cancelled_caught:
            log.error(
                "netfs %s: close_volume of %s did not return in time", self.netfs.name, self.location.volume
            )

    @contextmanager
    def under_way(self) -> Iterator[trio.CancelScope]:
        """Around what `close` has to wait for; unless it is shielded, `close` cancels it."""
        with trio.CancelScope() as scope:
            self._busy.add(scope)
            try:
                yield scope
            finally:
                self._busy.remove(scope)
                self._rested.unpark_all()

    # -- inside --------------------------------------------------------------------------

    def open_version(self, path: str, netfs_data: object, checked_at: float) -> Inode:
        """The inode for what the origin just described: the one in use if it is that version."""
        self.check_open()
        if path in self.outdated_paths:
            with suppress(PluginError):  # without a label it is asked for again: the cache has none either
                self._note_outdated(path, self.netfs.get_aux(netfs_data))
        attributes = self.netfs.get_attr(netfs_data)
        if attributes.kind is FileKind.DIRECTORY:
            raise CallerError(f"{self.named(path)} is a directory", errno=errno.EISDIR)
        if attributes.kind is not FileKind.FILE:
            raise CallerError(f"{self.named(path)} is not a regular file")
        current = self._inodes.newest(path)
        if current is not None:
            if current.is_version(netfs_data, attributes):
                current.checked_at, current.doubtful = checked_at, False
                return self._opened(current)
            current.become_stale()
        inode = Inode(self, path, netfs_data, checked_at=checked_at)
        self._inodes.add(inode)
        if inode.weak:
            self.stats.weak += 1
        return inode

    async def _adopt(self, path: str) -> Inode | None:
        """An inode of whatever version is cached; None if none is."""
        self.check_open()
        inode = self._inodes.newest(path)
        if inode is not None and inode.attributes is not None:
            return self._opened(inode)
        file = self.netfs.name_file(self.data, path)
        for cache in volume_index.caches_for(self.cookie, file):
            inode = self._inodes.newest(path)  # somebody else may be looking, too
            if inode is not None:
                self._inodes.hold(inode)
            else:
                inode = Inode(self, path, file, adopt=cache)
                self._inodes.add(inode)
            if (adopted := await self._adopted(inode)) is not None:
                return adopted
            self.check_open()
        return None

    async def _adopted(self, inode: Inode) -> Inode | None:
        """This inode when it is known to have a version; else it is closed, and None."""
        try:
            if inode.attributes is not None or await inode.wait_adopted():
                return self._attached(inode)
            self._inodes.forget(inode)
            inode.cookie.supersede()
        except BaseException:
            self.close_inode(inode)
            raise
        self.close_inode(inode)
        return None

    def _opened(self, inode: Inode) -> Inode:
        self._inodes.hold(inode)
        return self._attached(inode)

    def _attached(self, inode: Inode) -> Inode:
        """An inode with an object, if it can have one: the old one may have died, or a cache been added."""
        if not inode.cookie.objects and inode.cookie.enabled and inode.attributes is not None:
            inode.cookie.acquire_objects()
        return inode
