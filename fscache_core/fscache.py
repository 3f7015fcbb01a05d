"""`open_fscache`: owns the nursery, the caches, the netfses and the volumes."""

from __future__ import annotations

import errno
import re
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from fscache_core import plugins
from fscache_core.cache import Cache, lookup_cache_tag, make_master_index, release_cache_tag
from fscache_core.coherency import Coherency
from fscache_core.cookie import Cookie, CookieDefinition, acquire_cookie
from fscache_core.domain import Domain, Limits
from fscache_core.errors import CallerError, FscacheError, NoNetfsError, UnknownPluginError
from fscache_core.netfs import Netfs, register_netfs, unregister_netfs
from fscache_core.plugins import BackendFacade, NetfsFacade
from fscache_core.volume import Volume

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence

    from fscache_core.file import File
    from fscache_core.hookspecs import DirectoryEntry, FileAttributes, Location, Wrapper
    from fscache_core.readahead import Readahead
    from fscache_core.stats import Stats
from fscache_core.tracing import Tracing


def scheme_of(url: str) -> str:
    """What is before the first colon of a URL, which says which netfs is for it; empty if it is no URL."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    return match[1].lower() if match is not None and "://" in url else ""


class _Attached:
    """A netfs adapter in use."""

    __slots__ = ("facade", "registered", "volumes")

    def __init__(self, facade: NetfsFacade, registered: Netfs) -> None:
        self.facade = facade
        self.registered = registered
        self.volumes: dict[str, Volume] = {}


class FsCache:
    """The cache as a program sees it.  Made by `open_fscache`; belongs to one trio thread."""

    def __init__(self, domain: Domain, coherency: Coherency, readahead: Readahead | None) -> None:
        self.domain = domain
        self.coherency = coherency
        self.readahead = readahead
        self.master_index = make_master_index(domain)
        self._netfses: dict[str, _Attached] = {}  # by scheme
        self._coherencies: dict[str, Coherency] = {}  # by volume
        self._opening = trio.Lock()
        self.closed = False
        self.store_at_close = True  #: whether closing waits until what was fetched is stored

    # -- caches --------------------------------------------------------------------------

    @property
    def stats(self) -> Stats:
        return self.domain.stats

    @property
    def caches(self) -> tuple[Cache, ...]:
        """The caches in use, most recently added first."""
        return tuple(self.domain.caches)

    async def add_cache(
        self,
        backend: str | object,
        *,
        tag: str | None = None,
        wrappers: Sequence[Wrapper | str] = (),
        **options: object,
    ) -> Cache:
        """Add a cache.  Files that are open and uncached are attached to it.

        Args:
          backend: the name of an installed backend, constructed with ``options``, or a backend object.
          tag: the cache's name; by default the backend's.
          wrappers: objects or names of installed wrappers; the first is outermost.

        Raises:
          InstallationError: no such backend, or one that cannot be used.
          PluginError: the backend does not fit the contract.
          CallerError: bad options, or the tag or the backend object is in use.
          CacheUnusableError: its store cannot be used.
        """
        if isinstance(backend, str):
            name: str | None = backend
            plugin = plugins.make(plugins.BACKEND_GROUP, backend, options)
        elif options:
            raise CallerError(f"options {', '.join(options)} given for a backend that is made already")
        else:
            name, plugin = None, backend
        made = [
            wrapper if not isinstance(wrapper, str) else plugins.make(plugins.WRAPPER_GROUP, wrapper, {})
            for wrapper in wrappers
        ]
        if self.domain.limits.debug:
            made.insert(0, Tracing(self.domain.limits.debug))
        facade = BackendFacade(plugin, name=name, wrappers=made)  # type: ignore[arg-type]
        held = lookup_cache_tag(self.domain, tag or facade.name)
        cache = Cache(self.domain, facade, held, self.master_index)
        try:
            await cache.add()
        except BaseException:
            release_cache_tag(self.domain, held)
            raise
        return cache

    async def withdraw_cache(self, cache: Cache) -> None:
        """Take a cache away.  Open files go on from the origin; what is stored stays."""
        await cache.withdraw()

    # -- netfses and volumes -------------------------------------------------------------

    def add_netfs(
        self,
        netfs: str | object,
        *,
        scheme: str | None = None,
        wrappers: Sequence[Wrapper] = (),
        **options: object,
    ) -> None:
        """Attach a netfs adapter.  Not needed for one that does without options: URLs find it.

        Args:
          netfs: the name of an installed adapter (= the scheme of its URLs), or an adapter object.
          scheme: of the URLs that an adapter object is for, in lower case; by default its name.

        Raises:
          InstallationError, PluginError: as `add_cache`.
          CallerError: bad options, or the scheme is in use, or no URL can have it.
        """
        if isinstance(netfs, str):
            plugin = plugins.make(plugins.NETFS_GROUP, netfs, options)
            scheme = netfs if scheme is None else scheme
        elif options:
            raise CallerError(f"options {', '.join(options)} given for a netfs that is made already")
        else:
            plugin = netfs
        facade = NetfsFacade(plugin, wrappers=wrappers)
        scheme = facade.name if scheme is None else scheme
        if scheme_of(f"{scheme}://") != scheme:
            raise CallerError(
                f"netfs {facade.name}: no URL has the scheme {scheme!r}; give it one: scheme=..."
            )
        if scheme in self._netfses:
            raise CallerError(f"a netfs for {scheme}:// URLs is attached already")
        self._netfses[scheme] = _Attached(facade, self._registered(facade))

    def _registered(self, facade: NetfsFacade) -> Netfs:
        """The registration of that name, which http and https, for instance, share."""
        for attached in self._netfses.values():
            if attached.registered.name == facade.name and attached.registered.version == facade.version:
                return attached.registered
        return register_netfs(self.domain, self.master_index, facade.name, facade.version)

    def _netfs_of(self, url: str) -> _Attached:
        scheme = scheme_of(url)
        if not scheme:
            raise CallerError(f"{url!r} is not a URL; expected SCHEME://...")
        if scheme not in self._netfses:
            try:
                self.add_netfs(scheme)
            except UnknownPluginError as error:
                names = sorted({plugin.name for plugin in plugins.installed(plugins.NETFS_GROUP)})
                have = ", ".join(names) or "none"
                raise NoNetfsError(f"no netfs for {scheme}:// URLs; installed: {have}") from error
        return self._netfses[scheme]

    def set_coherency(self, url: str, coherency: Coherency | str) -> None:
        """Choose coherency for the volume of a URL, before it is opened.

        Args:
          coherency: as `open_fscache` takes it; whether the volume is offline too is for this to say.

        Raises:
          CallerError: no such coherency; not a URL; the volume is open already.
        """
        chosen = Coherency.of(coherency)
        location = self.locate(url)
        if location.volume in self._netfs_of(url).volumes:
            raise CallerError(f"volume {location.volume} is open already")
        self._coherencies[location.volume] = chosen

    def locate(self, url: str) -> Location:
        """Split a URL into volume and path."""
        return self._netfs_of(url).facade.parse_url(url)

    @property
    def volumes(self) -> tuple[Volume, ...]:
        return tuple(volume for attached in self._netfses.values() for volume in attached.volumes.values())

    async def open_volume(self, url: str) -> Volume:
        """The volume that a URL is in, attached if needed.  The origin need not be reachable.

        Raises:
          CallerError: not a URL, or a malformed one.
          InstallationError: no adapter for its scheme.
        """
        self._check_open()
        attached = self._netfs_of(url)
        location = attached.facade.parse_url(url)
        volume = attached.volumes.get(location.volume)
        if volume is not None:
            return volume
        async with self._opening:
            volume = attached.volumes.get(location.volume)
            self._check_open()
            if volume is None:
                facade = attached.facade
                data = await facade.call("open_volume", facade.open_volume, location)
                try:
                    volume = Volume(
                        self.domain,
                        attached.facade,
                        attached.registered,
                        location,
                        data,
                        self._coherencies.get(location.volume, self.coherency),
                        self.readahead,
                    )
                except FscacheError:
                    with trio.move_on_after(self.domain.limits.drop_seconds, shield=True):
                        await facade.call("close_volume", facade.close_volume, data)
                    raise
                attached.volumes[location.volume] = volume
        return volume

    def _check_open(self) -> None:
        if self.closed:
            raise CallerError("this fscache is closed", errno=errno.EBADF)

    # -- files ---------------------------------------------------------------------------

    async def open_file(self, url: str, *, reopen: str = "auto") -> File:
        """Open a file for reading; see `Volume.open_file`."""
        volume = await self.open_volume(url)
        return await volume.open_file(self.locate(url).path, reopen=reopen)

    async def look_up(self, url: str) -> FileAttributes:
        """What the origin says of a file or directory now; offline, what its label says."""
        volume = await self.open_volume(url)
        return await volume.look_up(self.locate(url).path)

    async def list_directory(self, url: str) -> Sequence[DirectoryEntry]:
        """List a directory; see `Volume.list_directory`."""
        volume = await self.open_volume(url)
        return await volume.list_directory(self.locate(url).path)

    # -- changes, written through ----------------------------------------------------------

    async def put_file(
        self,
        url: str,
        source: bytes | bytearray | memoryview | AsyncIterable[bytes],
        *,
        replaces: File | None = None,
    ) -> FileAttributes:
        """Create or replace a whole file at the origin; it is cached too, if it is not too large.

        Args:
          source: the content, or chunks of it of any size.
          replaces: an open file: fail if the origin has another version than that, as far as the adapter's
            evidence tells (`FileAttributes.strength`).

        Returns:
          What the origin has now.

        Raises:
          StaleError: ``replaces`` is not what is there.
          OfflineError, UnsupportedError: changes are not possible (now, or with this adapter).
          OriginError and its kinds: naming origin, file and cause.

        Cancellation: may-be-partial; whether others can see a part is the origin's nature.  What is cached of
        the file is not used again unasked.
        """
        volume, path = await self._find(url)
        return await volume.changes.put_file(path, source, replaces=replaces)

    async def write(
        self, url: str, offset: int, data: bytes | bytearray | memoryview, *, replaces: File | None = None
    ) -> FileAttributes:
        """Write bytes into an existing file.  Raises as `put_file`; may be partial when it fails."""
        volume, path = await self._find(url)
        return await volume.changes.write(path, offset, data, replaces=replaces)

    async def truncate(self, url: str, size: int, *, replaces: File | None = None) -> FileAttributes:
        """Set the size of an existing file, bytes.  Raises as `put_file`."""
        volume, path = await self._find(url)
        return await volume.changes.truncate(path, size, replaces=replaces)

    async def rename(self, url: str, new_url: str) -> None:
        """Rename a file or directory, replacing a file of the new name.  Raises as `put_file`.

        Raises:
          CallerError: EXDEV, the two are not in one volume.
        """
        volume, path = await self._find(url)
        other, new_path = await self._find(new_url)
        if other is not volume:
            raise CallerError(f"{new_url} is not in {volume.location.volume}", errno=errno.EXDEV)
        await volume.changes.rename(path, new_path)

    async def unlink(self, url: str) -> None:
        """Remove a file or symbolic link.  Raises as `put_file`."""
        volume, path = await self._find(url)
        await volume.changes.unlink(path)

    async def mkdir(self, url: str, mode: int = 0o777) -> None:
        """Make a directory.  Raises as `put_file`."""
        volume, path = await self._find(url)
        await volume.changes.mkdir(path, mode)

    async def rmdir(self, url: str) -> None:
        """Remove an empty directory.  Raises as `put_file`."""
        volume, path = await self._find(url)
        await volume.changes.rmdir(path)

    async def symlink(self, target: str, url: str) -> None:
        """Make ``url`` a symbolic link to ``target``, which is not interpreted.  Raises as `put_file`."""
        volume, path = await self._find(url)
        await volume.changes.symlink(target, path)

    async def chmod(self, url: str, mode: int) -> None:
        """Set permission bits.  Raises as `put_file`."""
        volume, path = await self._find(url)
        await volume.changes.chmod(path, mode)

    async def utimens(self, url: str, atime_ns: int, mtime_ns: int) -> None:
        """Set access and modification time, nanoseconds since the epoch.  Raises as `put_file`."""
        volume, path = await self._find(url)
        await volume.changes.utimens(path, atime_ns, mtime_ns)

    async def _find(self, url: str) -> tuple[Volume, str]:
        return await self.open_volume(url), self.locate(url).path

    # -- the reference's netfs calls, for those who do without the file layer --------------

    def register_netfs(self, name: str, version: int) -> Netfs:
        """Register a netfs of your own; ``primary_index`` of the result is the parent of its cookies."""
        return register_netfs(self.domain, self.master_index, name, version)

    async def unregister_netfs(self, netfs: Netfs) -> None:
        await unregister_netfs(netfs)

    def acquire_cookie(
        self, parent: Cookie | None, definition: CookieDefinition, netfs_data: object, *, enable: bool = True
    ) -> Cookie | None:
        """Acquire a cookie; below None there is None, and every call here takes None for a cookie."""
        if parent is None:
            self.stats.acquire_n += 1
            self.stats.acquire_nul += 1
            return None
        return acquire_cookie(self.domain, parent, definition, netfs_data, enable=enable)

    async def relinquish_cookie(self, cookie: Cookie | None, *, retire: bool = False) -> None:
        if cookie is None:
            self.stats.relinqs_n += 1
            self.stats.relinqs_nul += 1
            return
        await cookie.relinquish(retire=retire)

    def update_cookie(self, cookie: Cookie | None) -> None:
        if cookie is None:
            self.stats.updates_n += 1
            self.stats.updates_nul += 1
            return
        cookie.update()

    # -- closing -------------------------------------------------------------------------

    async def close(self, *, store: bool) -> None:
        """Close volumes, cookies and caches, in this order (called by `open_fscache`)."""
        self.closed = True
        for attached in self._netfses.values():
            for volume in list(attached.volumes.values()):
                await volume.close(store=store)
            attached.volumes.clear()
        # Cookies that a program of its own left: children before parents.
        while cookies := list(self.domain.cookies.values()):
            for cookie in cookies:
                if not cookie.n_children and not cookie.relinquished:
                    await cookie.relinquish()
            if all(cookie.n_children or cookie.relinquished for cookie in self.domain.cookies.values()):
                await trio.sleep(0.01)  # somebody else is at it
        for cache in list(self.domain.caches):
            await cache.withdraw()


@asynccontextmanager
async def open_fscache(
    *,
    coherency: Coherency | str = "always",
    offline: bool = False,
    stale_if_error: bool = False,
    limits: Limits | None = None,
    readahead: Readahead | None = None,
    volumes: Mapping[str, Coherency | str] | None = None,
) -> AsyncIterator[FsCache]:
    """Open the cache framework; closing it waits until what was fetched is stored.

    Args:
      coherency: for volumes that have none of their own: ``always``, ``ttl=SECONDS``, ``immutable``, or
        a `Coherency`.
      offline: never contact an origin.
      stale_if_error: serve what is cached when an origin cannot be reached.
      volumes: coherency by URL of the volume; for these ``offline`` and ``stale_if_error`` hold too.  Their
        adapters are attached without options: where they need some, `add_netfs` and then `set_coherency`.

    When the body raises, or is cancelled, what is not yet stored is dropped.
    """
    if not trio.lowlevel.in_trio_task():
        raise CallerError("fscache runs in trio: trio.run(main); elsewhere use fscache_core.blocking")

    def parsed(each: Coherency | str) -> Coherency:
        made = Coherency.of(each)
        return replace(
            made, offline=made.offline or offline, stale_if_error=made.stale_if_error or stale_if_error
        )

    coherency = parsed(coherency)
    coherencies = {url: parsed(each) for url, each in (volumes or {}).items()}
    # What the body raises goes on as it is, not as a group: no task of ours has a part in it.
    raised: BaseException | None = None
    async with trio.open_nursery() as nursery:
        fscache = FsCache(Domain(nursery, limits or Limits()), coherency, readahead)
        try:
            for url, each in coherencies.items():
                fscache.set_coherency(url, each)
            yield fscache
        except BaseException as error:
            raised = error
        with trio.CancelScope(shield=True):  # bounded: every hook is
            try:
                await fscache.close(store=fscache.store_at_close and raised is None)
            except BaseException:
                fscache.domain.stop()  # or their nursery would wait for tasks that nobody ends
                raise
    if raised is not None:
        raise raised
