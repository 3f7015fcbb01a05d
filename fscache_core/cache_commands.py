"""The subcommands that see to what is cached: fill, drop, keep, check and count it."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import click

from fscache_core.errors import OfflineError, RefusedError, UnsupportedError
from fscache_core.exit_status import ExitStatus
from fscache_core.hookspecs import Strength
from fscache_core.inventory import open_indices
from fscache_core.object_list import LETTERS, list_objects, object_list_json, object_list_text
from fscache_core.outcome import ReserveOutcome
from fscache_core.output import printable, write, write_json, write_lines
from fscache_core.progress import counter, meter
from fscache_core.session import Failures, Session, json_option, run, session_options
from fscache_core.statistics import kept_statistics
from fscache_core.stats import Stats
from fscache_core.verification import verify as verify_cache
from fscache_core.warming import Warming

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fscache_core.hookspecs import VerifyReport
    from fscache_core.volume import FileStatus

urls_argument = click.argument("urls", nargs=-1, required=True, metavar="URL...")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bar.")


@click.command()
@urls_argument
@click.option("-r", "--recursive", is_flag=True, help="Directories with all that is in them.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=8, show_default=True, help="Files at a time.")
@quiet_option
@json_option
@session_options
@run
async def warm(
    urls: Sequence[str], recursive: bool, jobs: int, quiet: bool, as_json: bool, session: Session
) -> ExitStatus:
    """Fetch whole files into the cache.

    What is cached already is not fetched again, so an interrupted run is continued by the same command.
    A file that fails does not stop the others.
    """
    failures, started = Failures(), time.monotonic()
    async with session.open(urls, needs_cache=True) as fscache:
        with meter("warming", shown=False if quiet else None) as progress:
            warming = Warming(progress, failures.report, n_jobs=jobs, recursive=recursive)
            await warming.run(fscache, urls)
        summary = {
            "files": warming.n_files,
            "failed": failures.n,
            "bytes": warming.n_bytes,
            "bytes_from_origin": sum(volume.stats.bytes_from_origin for volume in fscache.volumes),
            "weak": warming.n_weak,
            "seconds": round(time.monotonic() - started, 3),
        }
    if as_json:
        write_json(summary)
    else:
        line = f"{summary['files']} file(s) cached, {summary['bytes']} bytes"
        line += f", {warming.n_weak} with weak evidence" if warming.n_weak else ""
        line += f"; {summary['bytes_from_origin']} bytes were fetched now"
        line += f"; {failures.n} failed" if failures.n else ""
        write_lines([line])
    return failures.status


@click.command()
@urls_argument
@click.option("-r", "--recursive", is_flag=True, help="Also everything below, as a URL that ends in / does.")
@click.option("--volume", "whole_volume", is_flag=True, help="The whole volumes that the URLs are in.")
@json_option
@session_options
@run
async def invalidate(
    urls: Sequence[str], recursive: bool, whole_volume: bool, as_json: bool, session: Session
) -> ExitStatus:
    """See to it that nothing cached of a file is used again.

    For when the origin's file changed in a way that its version evidence does not show.  Does not ask the
    origin.  What is pinned goes as well, and its pin with it.  A URL that ends in / stands for everything
    below it.
    """
    failures, n_files = Failures(), 0
    for each in session.apart():
        async with each.open(urls, needs_cache=True) as fscache:
            for url in urls:
                with failures.caught():
                    volume, path = await fscache.open_volume(url), fscache.locate(url).path
                    if whole_volume:
                        n_files += await volume.invalidate_below()
                        continue
                    below = recursive or url.endswith("/")
                    if not url.endswith("/"):
                        n_files += await volume.status(path) is not None
                        await volume.invalidate(path)
                    if below:
                        top = path.rstrip("/")
                        n_files += await volume.invalidate_below(f"{top}/" if top else "")
    if as_json:
        write_json({"files": n_files, "failed": failures.n})
    else:
        write_lines([f"{n_files} cached file(s) invalidated"])
    return failures.status


@click.command()
@urls_argument
@json_option
@session_options
@run
async def evict(urls: Sequence[str], as_json: bool, session: Session) -> ExitStatus:
    """Make room: drop what is cached of files.

    Culling by hand, so a pinned file is refused ('fscache invalidate' would drop it).  A file that is not
    cached is no failure.  Readers keep what they have open; its room is free when the last of them closes it.
    """
    failures, n_files, n_bytes = Failures(), 0, 0
    for each in session.apart():
        async with each.open(urls, needs_cache=True) as fscache:
            for url in urls:
                with failures.caught():
                    volume, path = await fscache.open_volume(url), fscache.locate(url).path
                    cached = await volume.status(path)
                    if cached is None:
                        continue
                    if cached.pinned:
                        raise RefusedError(f"{url} is pinned; unpin it first")
                    await volume.invalidate(path)
                    n_files += 1
                    n_bytes += cached.cached_size or 0
    if as_json:
        write_json({"files": n_files, "bytes": n_bytes, "failed": failures.n})
    else:
        write_lines([f"{n_files} file(s) evicted, {n_bytes} bytes"])
    return failures.status


@click.command()
@urls_argument
@session_options
@run
async def pin(urls: Sequence[str], session: Session) -> ExitStatus:
    """Keep what is cached of files from being culled.

    Lasts over restarts, until 'fscache unpin' or until the file changes.  Fetches nothing, so there must be
    something cached of the version that the origin has: 'fscache warm' first.
    """
    failures = Failures()
    async with session.open(urls, needs_cache=True) as fscache:
        for url in urls:
            with failures.caught():
                volume, path = await fscache.open_volume(url), fscache.locate(url).path
                before = await volume.status(path)
                if await volume.pin(path) is ReserveOutcome.REFUSED:
                    raise RefusedError(
                        f"{url}: not pinned: the cache has no room, or its backend knows no pins"
                    )
                cached = await volume.status(path)
                if cached is not None and cached.cached_size == 0 < cached.attributes.size:
                    # There would be nothing to keep.
                    await volume.unpin(path)
                    raise RefusedError(f"{url}: not pinned: {_why_nothing_is_cached(before, cached)}")
    return failures.status


def _why_nothing_is_cached(before: FileStatus | None, now: FileStatus) -> str:
    """Of the version that the origin has, though ``before`` it was asked there may have been something."""
    if before is None or before.cached_size == 0:
        return "nothing of it is cached; 'fscache warm' it first"
    strength = now.attributes.strength
    if strength is Strength.STRONG:
        return "what was cached is another version; 'fscache warm' it first"
    return (
        f"its evidence ({strength.value}) does not tell whether what was cached is the present version; "
        "'fscache warm' it, then 'fscache pin --offline'"
    )


@click.command()
@urls_argument
@session_options
@run
async def unpin(urls: Sequence[str], session: Session) -> ExitStatus:
    """Let files be culled again.  No failure for one that is not pinned or not cached."""
    failures = Failures()
    for each in session.apart():
        async with each.open(urls, needs_cache=True) as fscache:
            for url in urls:
                with failures.caught():
                    volume, path = await fscache.open_volume(url), fscache.locate(url).path
                    await volume.unpin(path)
    return failures.status


@click.command()
@click.option("--repair", is_flag=True, help="Remove what is wrong, so that it is fetched again.")
@quiet_option
@json_option
@session_options
@run
async def verify(repair: bool, quiet: bool, as_json: bool, session: Session) -> ExitStatus:
    """Check everything the cache has stored, while others use it.

    Without --repair nothing is changed.  Whatever is wrong, readers get right bytes from the origin.
    """
    failures = Failures()
    reports: dict[str, VerifyReport] = {}
    async with session.open(needs_cache=True) as fscache:
        for cache in fscache.caches:
            with (
                failures.caught(),
                counter(f"verifying {cache.tag}", shown=False if quiet else None) as progress,
            ):
                report = reports[cache.tag] = await verify_cache(cache, repair=repair, progress=progress)
                if not all(problem.repaired for problem in report.problems):
                    failures.note(ExitStatus.DAMAGED)
    if as_json:
        write_json([report_json(tag, report) for tag, report in reports.items()])
    else:
        write_lines(line for tag, report in reports.items() for line in report_lines(tag, report))
    return failures.status


def report_json(tag: str, report: VerifyReport) -> dict[str, object]:
    return {
        "cache": tag,
        "objects": report.n_objects,
        "bytes": report.read_size,
        "problems": [
            {"place": problem.place, "fault": problem.fault, "repaired": problem.repaired}
            for problem in report.problems
        ],
    }


def report_lines(tag: str, report: VerifyReport) -> list[str]:
    lines = [
        printable(f"{problem.place}: {problem.fault}{' (repaired)' if problem.repaired else ''}")
        for problem in report.problems
    ]
    n_repaired = sum(problem.repaired for problem in report.problems)
    found = f"{len(lines)} problem(s), {n_repaired} repaired" if lines else "nothing is wrong"
    return [*lines, f"{tag}: {report.n_objects} object(s), {report.read_size} bytes compared: {found}"]


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["kernel", "json", "prometheus"]),
    help="As Linux FS-Cache prints them (default), as JSON, or for a Prometheus scraper.",
)
@json_option
@session_options
@run
async def stats(form: str | None, as_json: bool, session: Session) -> ExitStatus:
    """Show the counters of every process that used the cache, added up.

    A process brings its counts to the cache every 30 seconds and when it ends.
    """
    if as_json and form not in (None, "json"):
        raise click.UsageError(f"--json and --format {form} exclude each other")
    failures, caches = Failures(), []
    total: Counter[str] = Counter()
    async with session.open(needs_cache=True) as fscache:
        for settings, cache in zip(session.caches, fscache.caches, strict=True):
            with failures.caught():
                kept = await kept_statistics(cache)
                if kept is None:
                    raise UnsupportedError(f"cache {cache.tag}: its backend keeps no statistics")
                facts = {"tag": cache.tag, "backend": settings.backend, "options": dict(settings.options)}
                caches.append({**facts, "counters": kept.as_dict()})
                total.update(kept.as_dict())  # a count goes to one cache only
    if not caches:
        return failures.status
    if as_json or form == "json":
        write_json({"caches": caches, "counters": dict(total)})
    else:
        sums = Stats.of(total)
        write(sums.prometheus() if form == "prometheus" else sums.text())
    return failures.status


@click.command()
@click.argument("urls", nargs=-1, metavar="[URL...]")
@click.option(
    "--show", "letters", default="", metavar="LETTERS", help=f"Which objects and fields: {LETTERS}."
)
@json_option
@session_options
@run
async def objects(urls: Sequence[str], letters: str, as_json: bool, session: Session) -> ExitStatus:
    """List objects as Linux FS-Cache does: the indices of the cache, and the files of these URLs.

    Objects belong to a process, and these are of this one; what another program has open is not to be seen
    from here.  LETTERS choose as in the kernel's list: C/c with or without a cookie in use, B/b busy or idle,
    W/w with pending writes or not, R/r with reads or not, S/s with work queued or not; K and A show key and
    aux data.
    """
    failures = Failures()
    async with session.open(urls, needs_cache=True) as fscache:
        for url in urls:
            with failures.caught():
                volume, path = await fscache.open_volume(url), fscache.locate(url).path
                if await volume.status(path) is None:
                    raise OfflineError(f"{url}: not cached")
        await open_indices(fscache)
        lines = list_objects(fscache.domain, letters)
    if as_json:
        write_json(object_list_json(lines))
    else:
        write(object_list_text(lines, letters))
    return failures.status


COMMANDS = (warm, invalidate, evict, pin, unpin, verify, stats, objects)
