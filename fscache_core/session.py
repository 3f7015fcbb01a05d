"""One run of the ``fscache`` command: what was configured, and an `FsCache` made of it."""

from __future__ import annotations

import dataclasses
import logging
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from fscache_core import config, plugins
from fscache_core.coherency import Coherency
from fscache_core.errors import CallerError, FscacheError, InstallationError, WorldError
from fscache_core.exit_status import ExitStatus, PluginFault, exit_status, plugin_fault
from fscache_core.fscache import FsCache, open_fscache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from fscache_core.cache import Cache


def printable(text: str) -> str:
    """A text on one line of a terminal, whatever is in it."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def say(message: str) -> None:
    """One line on standard error."""
    print(f"fscache: {printable(message)}", file=sys.stderr, flush=True)


class LogLines(logging.Handler):
    """What core and plugins log as an error, one line each; the rest is in the statistics."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


class Failures:
    """What went wrong with single files while the rest went on.  The first decides the exit status."""

    def __init__(self) -> None:
        self.status = ExitStatus.DONE

    def report(self, error: FscacheError) -> None:
        say(str(error))
        if self.status is ExitStatus.DONE:
            self.status = exit_status(error)


@dataclass(frozen=True, slots=True)
class Session:
    """The configuration of one run: the command line over the file over the defaults."""

    configuration: config.Configuration

    @property
    def caches(self) -> Sequence[config.CacheSettings]:
        return self.configuration.caches or (config.default_cache(),)

    @asynccontextmanager
    async def open(self, urls: Sequence[str], *, with_cache: bool = True) -> AsyncIterator[FsCache]:
        """An `FsCache` for these URLs, with everything that was configured.

        If the cache cannot be used at all it does without, and says so.  A name or an option that makes no
        sense is an error: a misspelling is not to go unnoticed.

        Args:
          with_cache: False for what no cache helps with, as long as the origin may be asked.

        Raises:
          PluginFault, CallerError: something that was named cannot be had.
          CacheUnusableError: offline, so that there is nothing to fall back to.
        """
        coherency = self.configuration.coherency
        async with open_fscache(coherency=coherency) as fscache:
            self._attach(fscache, urls)
            if with_cache or coherency.offline:
                await self._add_caches(fscache)
            yield fscache
            stale = sum(volume.stats.stale_served for volume in fscache.volumes)
            if stale:
                say(f"the origin could not be asked: {stale} file(s) served as they were cached")

    async def add_cache(self, fscache: FsCache, cache: config.CacheSettings) -> Cache:
        try:
            plugin = plugins.make(plugins.BACKEND_GROUP, cache.backend, cache.options)
        except InstallationError as error:
            raise plugin_fault(plugins.BACKEND_GROUP, cache.backend, error) from error
        return await fscache.add_cache(plugin, tag=cache.tag or cache.backend)

    async def _add_caches(self, fscache: FsCache) -> None:
        # Core prefers the cache added last; a user expects the one named first.
        for cache in reversed(self.caches):
            try:
                await self.add_cache(fscache, cache)
            except (WorldError, PluginFault) as error:
                # Nobody named the built-in default, so it is nobody's mistake if it is not installed.
                mistaken = isinstance(error, PluginFault) and self.configuration.caches
                if mistaken or self.configuration.coherency.offline:
                    raise
                say(f"cannot use the cache {cache}, reading from the origin: {error}")

    def _attach(self, fscache: FsCache, urls: Sequence[str]) -> None:
        """Attach the adapters that these URLs need, and no others: importing one takes time."""
        schemes = {urlsplit(url).scheme: url for url in urls if "://" in url}
        for name, options in self.configuration.netfs.items():
            self._check_installed(name)
            if name in schemes:
                try:
                    plugin = plugins.make(plugins.NETFS_GROUP, name, options)
                except InstallationError as error:
                    raise plugin_fault(plugins.NETFS_GROUP, name, error) from error
                fscache.add_netfs(plugin, scheme=name)
        for scheme, url in schemes.items():
            try:
                fscache.locate(url)
            except InstallationError as error:
                fault = plugin_fault(plugins.NETFS_GROUP, scheme, error)
                if fault.status is ExitStatus.UNKNOWN_PLUGIN:
                    fault = PluginFault(str(error), ExitStatus.NO_NETFS)
                raise fault from error
            except CallerError:
                pass  # the adapter is there, which is all that matters here; opening the file will complain
        for url, coherency in self.configuration.volumes.items():
            if urlsplit(url).scheme in schemes:
                fscache.set_coherency(url, coherency)

    @staticmethod
    def _check_installed(name: str) -> None:
        names = {plugin.name for plugin in plugins.installed(plugins.NETFS_GROUP)}
        if name not in names:
            raise PluginFault(
                f"no netfs is called {name!r}; installed: {', '.join(sorted(names)) or 'none'}",
                ExitStatus.UNKNOWN_PLUGIN,
            )


# -- the options that a session is made of -----------------------------------------------


def session_options(command: Callable[..., ExitStatus | None]) -> Callable[..., ExitStatus | None]:
    """Give a command the options that say where its bytes may come from, and a `Session` made of them."""

    @click.option(
        "--cache",
        "caches",
        metavar="BACKEND[:option=value,...]",
        multiple=True,
        help="The cache to use; a comma in a value is written '\\,'.  May be repeated.",
    )
    @click.option(
        "--netfs",
        "netfses",
        metavar="NAME[:option=value,...]",
        multiple=True,
        help="Options of a netfs adapter.  May be repeated.",
    )
    @click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Configuration (TOML).  Default: $XDG_CONFIG_HOME/fscache/config.toml",
    )
    @click.option("--offline", is_flag=True, help="Never contact an origin: serve what is cached.")
    @click.option(
        "--coherency",
        metavar="always|ttl=SECONDS|immutable",
        help="When a cached version may be used without asking the origin.  Default: always ask.",
    )
    @click.option(
        "--stale-if-error", is_flag=True, help="Serve what is cached if the origin cannot be asked."
    )
    @wraps(command)
    def with_session(
        *arguments: object,
        caches: Sequence[str],
        netfses: Sequence[str],
        config_file: Path | None,
        offline: bool,
        coherency: str | None,
        stale_if_error: bool,
        **options: object,
    ) -> ExitStatus | None:
        chosen = config.read_configuration(config_file)
        if caches:
            chosen = dataclasses.replace(chosen, caches=tuple(config.parse_cache(text) for text in caches))
        if netfses:
            given = {name: options for name, options in map(config.parse_netfs, netfses)}
            chosen = dataclasses.replace(chosen, netfs={**chosen.netfs, **given})
        changes: dict[str, Any] = {"offline": True} if offline else {}
        if stale_if_error:
            changes["stale_if_error"] = True
        if coherency is not None:
            rule = Coherency.parse(coherency)
            changes |= {"mode": rule.mode, "ttl_seconds": rule.ttl_seconds}
        chosen = dataclasses.replace(
            chosen,
            coherency=dataclasses.replace(chosen.coherency, **changes),
            volumes={url: dataclasses.replace(each, **changes) for url, each in chosen.volumes.items()},
        )
        return command(*arguments, session=Session(chosen), **options)

    return with_session
