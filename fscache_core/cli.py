"""The ``fscache`` command: files of remote stores through a cache, from a shell.

``rich`` is imported where something is drawn for a person, never for ``fscache cat``: a cached file should
cost little more than starting Python.
"""

from __future__ import annotations

import errno
import logging
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from fscache_core.errors import CallerError, FscacheError
from fscache_core.exit_status import ExitStatus, cause, exit_status
from fscache_core.hookspecs import DirectoryEntry, FileKind
from fscache_core.output import (
    attributes_json,
    cached_json,
    coherency_text,
    file_facts,
    long_line,
    printable,
    write_facts,
    write_json,
    write_lines,
    write_table,
)
from fscache_core.progress import meter
from fscache_core.session import (
    Ended,
    Failures,
    LogLines,
    Session,
    complain,
    discard_what_follows,
    json_option,
    run,
    say,
    session_options,
    traceback_option,
)
from fscache_core.transfer import OutputError, copy_any, join, send

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


# -- commands ----------------------------------------------------------------------------


class Commands(click.Group):
    """The subcommands.  For an interrupt and for output nobody reads click has a way of its own; not ours.

    Those on what caches hold are imported when they are asked for: ``fscache cat`` is not to pay for them.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or self._complete().get(cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._complete())

    def _complete(self) -> Mapping[str, click.Command]:
        from fscache_core import cache_commands

        for command in cache_commands.COMMANDS:
            self.add_command(command)
        return self.commands

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError:  # --help
            raise click.exceptions.Exit(ExitStatus.BROKEN_PIPE) from None

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise click.exceptions.Exit(ExitStatus.BROKEN_PIPE) from None
        except KeyboardInterrupt:
            raise click.exceptions.Exit(ExitStatus.INTERRUPTED) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fscache-core")
@traceback_option
def fscache_command() -> None:
    """Read files of remote stores through a cache.

    URLs: sshfs://user@host:port/path, s3://bucket/key, http(s)://..., file:///path, and those of every netfs
    adapter that is installed; see 'fscache plugins'.
    """


@fscache_command.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@session_options
@run
async def cat(urls: Sequence[str], session: Session) -> ExitStatus:
    """Write files to standard output, each byte as soon as it is there."""
    failures = Failures()
    async with session.open(urls) as fscache:
        for url in urls:
            try:
                async with await fscache.open_file(url) as file:
                    descriptor = sys.stdout.fileno()
                    await send(file, descriptor, "standard output", lambda _: None, abandon_on_cancel=True)
            except OutputError:
                raise
            except FscacheError as error:
                failures.report(error)
    return failures.status


@fscache_command.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL... DEST")
@click.option("-r", "--recursive", is_flag=True, help="Copy directories with all that is in them.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@json_option
@session_options
@run
async def cp(
    urls: Sequence[str], recursive: bool, quiet: bool, as_json: bool, session: Session
) -> ExitStatus:
    """Copy files to DEST, a local file or directory.

    A file appears whole or not at all.  An existing file is replaced.
    """
    *sources, last = urls
    if not sources:
        raise click.UsageError("missing DEST: cp URL... DEST")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", last):
        raise click.UsageError(f"DEST must be a local path, not {last}")
    destination, made = Path(last), dict[Path, str]()
    try:
        into_directory = await trio.Path(destination).is_dir()
    except OSError as error:
        raise OutputError(f"{destination}: {error.strerror}", errno=error.errno) from error
    wants_directory = len(sources) > 1 or (last.endswith("/") and not recursive)
    if wants_directory and not into_directory:
        raise click.UsageError(f"{destination} is not a directory")
    failures, started = Failures(), time.monotonic()
    async with session.open(sources) as fscache:
        with meter("copying", shown=False if quiet else None) as progress:
            for url in sources:
                try:
                    volume, path = await fscache.open_volume(url), fscache.locate(url).path
                    target = destination / base_name(url, path) if into_directory else destination
                    if target in made:
                        raise CallerError(
                            f"{url}: not copied: {target} was made from {made[target]} just now"
                        )
                    made[target] = url
                    await copy_any(volume, path, target, progress, failures.report, recursive=recursive)
                except FscacheError as error:
                    failures.report(error)
        if as_json:
            fetched = sum(volume.stats.bytes_from_origin for volume in fscache.volumes)
            summary = {
                "files": progress.n_files_done,
                "bytes": progress.n_bytes_done,
                # What we fetched passes through the cache as well; this is what was there before.
                "bytes_from_cache": max(0, progress.n_bytes_done - fetched),
                "bytes_from_origin": fetched,
                "seconds": round(time.monotonic() - started, 3),
            }
            write_json(summary)
    return failures.status


@fscache_command.command()
@click.argument("url")
@click.option("-l", "--long", is_flag=True, help="Mode, size and time of every entry.")
@json_option
@session_options
@run
async def ls(url: str, long: bool, as_json: bool, session: Session) -> None:
    """List a directory, or a single file.  Asks the origin: listings are not cached."""
    async with session.open([url], with_cache=False) as fscache:
        volume, path = await fscache.open_volume(url), fscache.locate(url).path
        try:
            entries, top = await volume.list_directory(path), path
        except FscacheError as error:
            if error.errno != errno.ENOTDIR:
                raise
            parent, slash, name = path.rstrip("/").rpartition("/")
            entries, top = [DirectoryEntry(name, await volume.look_up(path))], parent + slash
        urls = [volume.url_of(join(top, entry.name)) for entry in entries]
    if as_json:
        write_json(
            [
                {"name": entry.name, "url": its_url, **attributes_json(entry.attributes)}
                for entry, its_url in zip(entries, urls, strict=True)
            ]
        )
        return
    lines = []
    for entry in entries:
        is_directory = entry.attributes.kind is FileKind.DIRECTORY
        name = (printable(entry.name) or "''") + ("/" if is_directory else "")
        lines.append(f"{long_line(entry.attributes)} {name}" if long else name)
    write_lines(lines)


@fscache_command.command("stat")
@click.argument("url")
@json_option
@session_options
@run
async def stat_(url: str, as_json: bool, session: Session) -> None:
    """Show which version a file is, and what of it is cached.

    Also how far its version evidence can be trusted, when the origin last confirmed what is cached (as far as
    the cache remembers that: with a ttl), whether it is pinned, and when the origin is asked.
    """
    async with session.open([url]) as fscache:
        volume, path = await fscache.open_volume(url), fscache.locate(url).path
        attributes = await volume.look_up(path)
        cached = await volume.status(path) if fscache.caches else None
    coherency = coherency_text(volume.coherency)
    if as_json:
        facts = {"url": url, "volume": volume.location.volume, **attributes_json(attributes)}
        facts["coherency"] = coherency
        write_json({**facts, "cached": cached_json(cached)})
    else:
        facts = {"url": url, "volume": volume.location.volume, **file_facts(attributes, cached)}
        write_facts({**facts, "coherency": coherency})


@fscache_command.command("plugins")
@json_option
def list_plugins(as_json: bool) -> None:
    """List the installed backends, netfs adapters and wrappers.  None of them is imported."""
    from fscache_core import plugins

    groups = ("fscache.backend", "fscache.netfs", "fscache.wrapper")
    found = [plugin for group in groups for plugin in plugins.installed(group)]
    if as_json:
        keys = ("group", "name", "distribution", "version", "target")
        write_json([{key: getattr(plugin, key) for key in keys} for plugin in found])
        return
    rows = [
        (p.group.removeprefix("fscache."), p.name, f"{p.distribution} {p.version}", p.target) for p in found
    ]
    write_table(("kind", "name", "distribution", "object"), rows)


def base_name(url: str, path: str) -> str:
    """The local name of what a URL names."""
    name = path.rstrip("/").rpartition("/")[2]
    if name in ("", ".", "..") or "\0" in name:
        raise CallerError(f"{url} has no name of its own; give a DEST that is not a directory")
    return name


# -- the way in and out ------------------------------------------------------------------


def main() -> None:
    """Run the command; whatever goes wrong becomes one line and an exit status."""
    logging.getLogger().addHandler(LogLines())
    try:
        if sys.stdout is None:
            raise OutputError("standard output is closed")
        status = fscache_command.main(prog_name="fscache", standalone_mode=False) or ExitStatus.DONE
    except SystemExit:
        raise
    except BaseException as error:
        status = _tell(error)
    if (
        status in (ExitStatus.BROKEN_PIPE, ExitStatus.INTERRUPTED, ExitStatus.OUTPUT)
        and sys.stdout is not None
    ):
        discard_what_follows(sys.stdout)
    sys.exit(status)


def _raised_in(error: BaseException) -> str:
    """The name of the module that raised an error."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return "" if place is None else str(place.tb_frame.f_globals.get("__name__"))


def _tell(error: BaseException) -> int:
    """Say what went wrong; returns the exit status."""
    reason = cause(error)
    if isinstance(reason, Ended):
        signal.signal(reason.number, signal.SIG_DFL)
        signal.raise_signal(reason.number)
    if isinstance(reason, OSError) and _raised_in(reason) == click.echo.__module__:  # --help, --version
        reason = OutputError(f"standard output: {reason.strerror}", errno=reason.errno)
    if isinstance(reason, click.exceptions.NoArgsIsHelpError):
        reason.show()
        return ExitStatus.USAGE
    if isinstance(reason, click.ClickException):
        context = reason.ctx if isinstance(reason, click.UsageError) else None
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        say(reason.format_message() + hint)
        return ExitStatus.USAGE
    status = exit_status(reason)
    if status is ExitStatus.UNFORESEEN:
        text = f"internal error: {type(reason).__name__}: {reason} (fscache --traceback ... shows where)"
        complain(error, text)
    elif status not in (ExitStatus.BROKEN_PIPE, ExitStatus.INTERRUPTED):
        complain(error, str(reason))
    return status
