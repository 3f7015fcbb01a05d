"""One run of the ``fscache`` command: what was configured, and an `FsCache` made of it."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import traceback
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO, TypeVar

import click
import trio

from fscache_core import config, plugins
from fscache_core.coherency import Coherency
from fscache_core.errors import (
    AmbiguousPluginError,
    BrokenPluginError,
    CacheUnusableError,
    CallerError,
    FscacheError,
    InstallationError,
    PluginError,
    UnfitPluginError,
    WorldError,
)
from fscache_core.exit_status import ExitStatus, exit_status
from fscache_core.fscache import FsCache, open_fscache, scheme_of
from fscache_core.output import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from fscache_core.hookspecs import Location

P = ParamSpec("P")
T = TypeVar("T")


#: Files that one line names.
NAMES_TOLD = 5


def say(message: str) -> None:
    """One line on standard error.  That it cannot be written is no reason to stop, or to end otherwise."""
    try:
        print(f"fscache: {printable(message)}", file=sys.stderr, flush=True)
    except OSError:
        discard_what_follows(sys.stderr)


def discard_what_follows(stream: TextIO) -> None:
    """Have nobody hear of what is still buffered for a stream either; Python would complain at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Tracebacks:
    """Whether complaints come with a traceback."""

    shown = False


def complain(error: BaseException, message: str | None = None) -> None:
    """Say what went wrong; of an error that others are in, the message of the one to tell about."""
    if Tracebacks.shown:
        with suppress(OSError):
            traceback.print_exception(error)
    say(str(error) if message is None else message)


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
        self.n = 0

    def report(self, error: FscacheError) -> None:
        complain(error)
        self.note(exit_status(error))

    def note(self, status: ExitStatus) -> None:
        """A failure that was told already."""
        self.n += 1
        if self.status is ExitStatus.DONE:
            self.status = status

    @contextmanager
    def caught(self) -> Iterator[None]:
        """`report` what the body raises, and go on behind it."""
        try:
            yield
        except FscacheError as error:
            self.report(error)


@dataclass(frozen=True, slots=True)
class Session:
    """The configuration of one run: the command line over the file over the defaults."""

    configuration: config.Configuration

    @property
    def caches(self) -> Sequence[config.CacheSettings]:
        return self.configuration.caches or (config.default_cache(),)

    def apart(self) -> Iterator[Session]:
        """A session for each cache: of a file that several have, core tells of one."""
        for cache in self.caches:
            yield Session(dataclasses.replace(self.configuration, caches=(cache,)))

    @asynccontextmanager
    async def open(
        self, urls: Sequence[str] = (), *, with_cache: bool = True, needs_cache: bool = False
    ) -> AsyncIterator[FsCache]:
        """An `FsCache` for these URLs, with everything that was configured.

        If a cache cannot be used, or its backend has a bug, it does without and says so.  A name or an option
        that makes no sense is an error: a misspelling is not to go unnoticed.

        Args:
          with_cache: False for what no cache helps with, as long as the origin may be asked.
          needs_cache: without the caches there is nothing to do, as when offline.

        Raises:
          InstallationError, UnfitPluginError, CallerError: something that was named cannot be had.
          WorldError, PluginError: a cache that is needed cannot be used.
        """
        coherency = self.configuration.coherency
        async with open_fscache(coherency=coherency) as fscache:
            self._attach(fscache, urls)
            if with_cache or coherency.offline:
                await self._add_caches(fscache, needed=needs_cache or coherency.offline)
            yield fscache
            _tell_of_stale_files(fscache)

    async def _add_caches(self, fscache: FsCache, *, needed: bool) -> None:
        try:
            caches = self.caches
        except CacheUnusableError as error:
            if needed:
                raise
            say(f"cannot use the default cache, reading from the origin: {error}")
            return
        tags = Counter(cache.tag or cache.backend for cache in caches)
        for cache in caches:
            tag = cache.tag or cache.backend
            if tags[tag] > 1:
                hint = f"give one another: --cache {cache.backend}:tag=NAME"
                raise CallerError(f"two caches have the tag {tag}; {hint}")
        # Core prefers the cache added last; a user expects the one named first.
        for cache in reversed(caches):
            try:
                plugin = plugins.make(plugins.BACKEND_GROUP, cache.backend, cache.options)
                await fscache.add_cache(plugin, tag=cache.tag or cache.backend)
            except (WorldError, InstallationError, PluginError) as error:
                # Nobody named the built-in default, so it is nobody's mistake if it is not installed.
                unfit = isinstance(error, InstallationError | UnfitPluginError)
                if needed or (unfit and self.configuration.caches):
                    raise
                say(f"cannot use the cache {cache}, reading from the origin: {error}")

    def _attach(self, fscache: FsCache, urls: Sequence[str]) -> None:
        """Attach the adapters that these URLs need, and no others: importing one takes time."""
        schemes = {scheme_of(url) for url in urls}
        for name, options in self.configuration.netfs.items():
            if name in schemes:
                # One that cannot be had fails the URLs it is for, one by one.
                with suppress(BrokenPluginError, AmbiguousPluginError):
                    fscache.add_netfs(plugins.make(plugins.NETFS_GROUP, name, options), scheme=name)
            else:
                self._require_netfs(name)
        for url, coherency in self.configuration.volumes.items():
            if scheme_of(url) in schemes:
                with suppress(InstallationError):
                    _check_whole_volume(url, fscache.locate(url))
                    fscache.set_coherency(url, coherency)
            else:
                self._require_netfs(scheme_of(url))

    def _require_netfs(self, name: str) -> None:
        """Refuse the name of an adapter that is not installed."""
        if name not in {plugin.name for plugin in plugins.installed(plugins.NETFS_GROUP)}:
            raise plugins.unknown_plugin(plugins.NETFS_GROUP, name)


def _check_whole_volume(url: str, location: Location) -> None:
    """Refuse a section of the configuration that would hold for more than it names."""
    if location.path.strip("/"):
        raise CallerError(
            f'[volume."{url}"] is about a part of a volume; coherency is chosen for a whole one: '
            f'[volume."{location.volume}"]'
        )


def _tell_of_stale_files(fscache: FsCache) -> None:
    stale = [(volume, path) for volume in fscache.volumes for path in sorted(volume.stale_paths)]
    if stale:
        names = ", ".join(volume.named(path) for volume, path in stale[:NAMES_TOLD])
        more = ", ..." if len(stale) > NAMES_TOLD else ""
        say(f"the origin could not be asked: {len(stale)} file(s) served as they were cached: {names}{more}")


# -- commands ----------------------------------------------------------------------------


def _show_tracebacks(_context: click.Context, _option: click.Parameter, chosen: bool) -> None:
    Tracebacks.shown |= chosen


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
traceback_option = click.option(
    "--traceback",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_tracebacks,
    help="Show where errors come from.",
)


class Ended(BaseException):
    """A signal told the program to end; what is temporary is cleaned up by now."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(function: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    """Make a command of an async function, which a signal to end cancels, and so does Ctrl-C.

    Raises:
      KeyboardInterrupt: Ctrl-C came; the function was cancelled and has ended.
      Ended: another signal; likewise.
    """

    @wraps(function)
    def in_trio(*arguments: P.args, **options: P.kwargs) -> T:
        return trio.run(_until_told_to_end, lambda: function(*arguments, **options))

    return in_trio


async def _until_told_to_end(function: Callable[[], Awaitable[T]]) -> T:
    ending = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
    told: list[int] = []
    with trio.CancelScope() as scope:

        async def watch() -> None:
            # One that is ignored (nohup) stays so.  The second one ends the program on the spot.
            numbers = [number for number in ending if signal.getsignal(number) is signal.SIG_DFL]
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                # A KeyboardInterrupt comes between any two steps, also of what must not be left half done.
                numbers.append(signal.SIGINT)
            if not numbers:
                return
            with trio.open_signal_receiver(*numbers) as arriving:
                async for number in arriving:
                    told.append(number)
                    scope.cancel()
                    break
            if signal.SIGINT in told:
                signal.signal(signal.SIGINT, signal.SIG_DFL)

        trio.lowlevel.spawn_system_task(watch)
        done = await function()
        if not told:
            return done
    raise KeyboardInterrupt if signal.SIGINT in told else Ended(told[0])


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
    @traceback_option
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
            given = config.merge_netfs(map(config.parse_netfs, netfses))
            over = {name: {**chosen.netfs.get(name, {}), **options} for name, options in given.items()}
            chosen = dataclasses.replace(chosen, netfs={**chosen.netfs, **over})
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
