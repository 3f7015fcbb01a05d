"""What the ``fscache`` command prints: lines and tables for a person, JSON for a script."""

from __future__ import annotations

import stat
import sys
import time
from typing import TYPE_CHECKING

from fscache_core.coherency import Coherency, CoherencyMode
from fscache_core.hookspecs import FileAttributes, FileKind, Strength
from fscache_core.transfer import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fscache_core.volume import FileStatus


def printable(text: str) -> str:
    """A text on one line of a terminal, whatever is in it."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


# -- standard output ---------------------------------------------------------------------


def write(text: str) -> None:
    """Put text on standard output.

    Raises:
      BrokenPipeError: nobody reads it.
      OutputError: it cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output: {error.strerror}", errno=error.errno) from error


def write_lines(lines: Iterable[str]) -> None:
    write("".join(f"{line}\n" for line in lines))


def write_json(value: object) -> None:
    import json

    write(json.dumps(value, indent=2) + "\n")


def write_facts(facts: Mapping[str, object]) -> None:
    """One fact a line; None is written as a dash."""
    write_lines(
        f"{name:<10} {'-' if value is None else printable(str(value))}" for name, value in facts.items()
    )


def write_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table for a person on a terminal; elsewhere lines of tab-separated fields."""
    if not sys.stdout.isatty():
        write_lines("\t".join(row) for row in rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table, markup=False)


# -- files -------------------------------------------------------------------------------


def attributes_json(attributes: FileAttributes) -> dict[str, object]:
    return {
        "kind": attributes.kind.value,
        "size": attributes.size,
        "mtime_ns": attributes.mtime_ns,
        "mode": attributes.mode,
        "evidence": attributes.evidence,
        "strength": attributes.strength.value,
    }


def cached_json(cached: FileStatus | None) -> dict[str, object] | None:
    if cached is None:
        return None
    return {
        "cache": cached.cache,
        "bytes": cached.cached_size,
        "size": cached.attributes.size,
        "evidence": cached.attributes.evidence,
        "strength": cached.attributes.strength.value,
        "checked_at": cached.checked_at or None,
        "pinned": cached.pinned,
    }


def file_facts(attributes: FileAttributes, cached: FileStatus | None) -> dict[str, object]:
    """What ``fscache stat`` tells a person."""
    facts: dict[str, object] = {
        "kind": attributes.kind.value,
        "size": attributes.size,
        "modified": date_text(attributes),
        "mode": None if attributes.mode is None else f"{attributes.mode:04o}",
        "version": _version(attributes),
        "cached": None,
    }
    if cached is not None:
        facts |= {
            "cached": _amount(cached),
            "of version": "the same" if cached.attributes == attributes else _version(cached.attributes),
            "checked": _checked(cached.checked_at),
            "pinned": "yes" if cached.pinned else "no",
        }
    return facts


def _version(attributes: FileAttributes) -> str:
    proves = {
        Strength.STRONG: "strong",
        Strength.WEAK: "weak: it may have changed without a trace",
        Strength.NONE: "none: the origin has nothing to tell versions by",
    }
    return f"{attributes.evidence or '-'} ({proves[attributes.strength]})"


def _amount(cached: FileStatus) -> str:
    size = cached.attributes.size
    if cached.cached_size is None:
        return f"an unknown part in {cached.cache}"
    percent = 100 * cached.cached_size // size if size else 100
    return f"{cached.cached_size} of {size} bytes ({percent} %) in {cached.cache}"


def _checked(checked_at: float) -> str | None:
    """The cache remembers that only where a ttl makes it worth knowing."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(checked_at)) if checked_at else None


def coherency_text(coherency: Coherency) -> str:
    """As the options have it."""
    ttl = f"={coherency.ttl_seconds:g}" if coherency.mode is CoherencyMode.TTL else ""
    parts = [coherency.mode.value + ttl]
    if coherency.offline:
        parts.append("offline")
    if coherency.stale_if_error:
        parts.append("stale-if-error")
    return ", ".join(parts)


_FILE_TYPES = {
    FileKind.FILE: stat.S_IFREG,
    FileKind.DIRECTORY: stat.S_IFDIR,
    FileKind.SYMLINK: stat.S_IFLNK,
    FileKind.OTHER: 0,
}


def long_line(attributes: FileAttributes) -> str:
    mode = stat.filemode(_FILE_TYPES[attributes.kind] | (attributes.mode or 0))
    if attributes.mode is None:
        mode = f"{mode[0]}?????????"
    return f"{mode} {attributes.size:>12} {date_text(attributes) or '-':<16}"


def date_text(attributes: FileAttributes) -> str | None:
    if attributes.mtime_ns is None:
        return None
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(attributes.mtime_ns // 1_000_000_000))
