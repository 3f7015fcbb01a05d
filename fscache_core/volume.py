"""A volume: the files of one origin as seen with one set of rights."""

from __future__ import annotations

import errno
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import trio

from fscache_core import object_request, volume_index
from fscache_core.change import Changes
from fscache_core.domain import Domain, log
from fscache_core.errors import CallerError, FscacheError, OfflineError, OriginUnreachableError
from fscache_core.file import File
from fscache_core.hook_call import passes_through
from fscache_core.icache import InodeCache
from fscache_core.inode_definition import inode_definition
from fscache_core.namei import Namei
from fscache_core.netfs import acquire_or_go_without
from fscache_core.origin_lookup import OriginLookup
from fscache_core.outcome import CookieType, ReserveOutcome
from fscache_core.outdated_paths import OutdatedPaths
from fscache_core.readahead import WHOLE_READAHEAD, Readahead
from fscache_core.stats import VolumeStats

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fscache_core.cache import Cache
    from fscache_core.coherency import Coherency
    from fscache_core.cookie import Cookie
    from fscache_core.hookspecs import DirectoryEntry, FileAttributes, Location
    from fscache_core.netfs import Netfs
    from fscache_core.plugins import NetfsFacade


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
        self.icache = InodeCache(domain)
        self.outdated_paths = OutdatedPaths()
        self.origin = OriginLookup(self)
        self.namei = Namei(self)
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
          reopen: what to do when the version is found to be gone: ``auto`` opens the new one, as long as
            nothing of the file was read (and its size was not asked for, unless that is the same), and
            once; ``never``, and ``auto`` when it is too late, raises `StaleError`.

        Raises:
          OriginError and its kinds: the origin's answer.
          OfflineError: offline, and no version is cached.
          CallerError: it is a directory, or not a name this origin can have.
        """
        if reopen not in ("auto", "never"):
            raise CallerError(f"reopen={reopen!r} is not one of: auto, never")
        inode = await self.namei.open(path)
        self.stats.opens += 1
        return File(self, inode, reopen=reopen == "auto")

    async def look_up(self, path: str) -> FileAttributes:
        """What the origin says of a file or directory now; offline, what its label says.

        Raises: as `open_file`.
        """
        if not self.coherency.offline:
            try:
                return self.netfs.get_attr((await self.origin.look_up(path)).netfs_data)
            except OriginUnreachableError:
                if not self.coherency.stale_if_error:
                    raise
        inode = await self.namei.open(path)
        try:
            assert inode.attributes is not None
            return inode.attributes
        finally:
            self.icache.close(inode)

    async def status(self, path: str) -> FileStatus | None:
        """What is cached of a file, without asking the origin; None if nothing is."""
        inode = await self.namei.adopt(path)
        if inode is None:
            return None
        try:
            await inode.wait_stored()
            if (obj := inode.cookie.object) is not None:
                await obj.wait_known()  # it may be being made: nothing of an empty file waits to be stored
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
            self.icache.close(inode)

    async def pin(self, path: str) -> ReserveOutcome:
        """Keep what is cached of a file from being culled, and what will be, over restarts too.

        The pin belongs to the version that is found, as `open_file` finds it.  Nothing is fetched, and
        nothing of it need be cached yet (the command ``fscache pin`` refuses that).

        Returns:
          ``REFUSED`` if there is no cache for it, no room in it, or if its backend knows no pins.

        Raises: as `open_file`.
        """
        inode = await self.namei.open(path)
        try:
            return await inode.cookie.pin()
        finally:
            self.icache.close(inode)

    async def unpin(self, path: str) -> None:
        """Undo `pin`.  No-op if the file is not cached."""
        inode = await self.namei.adopt(path)
        if inode is not None:
            try:
                await inode.cookie.unpin()
            finally:
                self.icache.close(inode)

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
        """See to it that nothing cached of a file is used again.  Files that are open keep their version.

        A file that is just being opened counts as open: it may be of a version from before, of which then
        nothing is cached.
        """
        self.origin.invalidated(path)
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
        self.namei.changed_below(prefix)
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

    # -- until it is closed --------------------------------------------------------------

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
        await self.icache.close_all(store=store)
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
