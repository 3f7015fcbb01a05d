"""Exit statuses of the ``fscache`` command: one for each kind of fault.

The tens say whose fault it is: 1x what is installed, 2x the origin, 3x the cache, 4x the destination.
``docs/operations.md`` has the table; a test keeps the two equal.
"""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING

import trio

from fscache_core import errors
from fscache_core.transfer import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator


class ExitStatus(enum.IntEnum):
    DONE = 0
    UNFORESEEN = 1  #: a bug, or something nobody thought of
    USAGE = 2  #: the command line, the configuration file, an option or a URL makes no sense

    UNKNOWN_PLUGIN = 10  #: no backend or netfs adapter of that name
    BROKEN_PLUGIN = 11  #: a plugin cannot be imported
    AMBIGUOUS_PLUGIN = 12  #: two distributions offer a plugin of one name
    UNFIT_PLUGIN = 13  #: a plugin breaks the contract, or was built for another version of it
    NO_NETFS = 14  #: no netfs adapter for the scheme of the URL

    NOT_FOUND = 20  #: no such file at the origin
    PERMISSION = 21  #: the origin refused: wrong credentials or missing rights
    UNREACHABLE = 22  #: the origin cannot be reached
    TIMEOUT = 23  #: the origin stopped answering
    CHANGED = 24  #: the file changed at the origin while it was read
    ORIGIN = 25  #: the origin failed in another way

    CACHE_UNUSABLE = 30  #: the cache cannot be used at all
    NO_XATTRS = 31  #: the cache directory is on a filesystem without user extended attributes
    CACHE_FAILED = 32  #: the cache failed while it was used
    NOT_CACHED = 33  #: offline, and not in the cache
    DAMAGED = 34  #: what the cache stored is damaged, and was not repaired
    REFUSED = 35  #: the cache refused: it has no room, the file is pinned, or its backend knows no pins

    OUTPUT = 40  #: the destination cannot be written
    UNSUPPORTED = 41  #: the plugin in question does not offer this operation

    INTERRUPTED = 130  #: Ctrl-C
    BROKEN_PIPE = 141  #: nobody reads standard output any more


#: First match counts, so a class comes before its bases.
_BY_CLASS: tuple[tuple[type[BaseException], ExitStatus], ...] = (
    (KeyboardInterrupt, ExitStatus.INTERRUPTED),
    (BrokenPipeError, ExitStatus.BROKEN_PIPE),
    (OutputError, ExitStatus.OUTPUT),
    (errors.OriginNotFoundError, ExitStatus.NOT_FOUND),
    (errors.OriginPermissionError, ExitStatus.PERMISSION),
    (errors.OriginTimeoutError, ExitStatus.TIMEOUT),
    (errors.OriginUnreachableError, ExitStatus.UNREACHABLE),
    (errors.StaleError, ExitStatus.CHANGED),
    (errors.OriginError, ExitStatus.ORIGIN),
    (errors.OfflineError, ExitStatus.NOT_CACHED),
    (errors.CacheUnusableError, ExitStatus.CACHE_UNUSABLE),
    (errors.RefusedError, ExitStatus.REFUSED),
    (errors.WorldError, ExitStatus.CACHE_FAILED),
    (errors.PluginError, ExitStatus.UNFIT_PLUGIN),
    (errors.NoNetfsError, ExitStatus.NO_NETFS),
    (errors.UnknownPluginError, ExitStatus.UNKNOWN_PLUGIN),
    (errors.AmbiguousPluginError, ExitStatus.AMBIGUOUS_PLUGIN),
    (errors.BrokenPluginError, ExitStatus.BROKEN_PLUGIN),
    (errors.InstallationError, ExitStatus.UNFIT_PLUGIN),
    (errors.UnsupportedError, ExitStatus.UNSUPPORTED),
    (errors.CallerError, ExitStatus.USAGE),
)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors that an exception group holds; a cancellation is only the consequence of another one."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    elif not isinstance(error, trio.Cancelled):
        yield error


def cause(error: BaseException) -> BaseException:
    """The one error to tell the user about, of an error or a group of them."""
    candidates = sorted(leaves(error), key=lambda leaf: _rank(exit_status(leaf)))
    return candidates[0] if candidates else error


def _rank(status: ExitStatus) -> int:
    """Ctrl-C explains all else; then a bug must not hide behind what followed from it."""
    order = (ExitStatus.INTERRUPTED, ExitStatus.UNFORESEEN)
    return order.index(status) if status in order else len(order)


def exit_status(error: BaseException) -> ExitStatus:
    """The status for one error (not a group)."""
    for kind, status in _BY_CLASS:
        if isinstance(error, kind):
            if status is ExitStatus.CACHE_UNUSABLE and _errno(error) == errno.EOPNOTSUPP:
                return ExitStatus.NO_XATTRS
            return status
    return ExitStatus.UNFORESEEN


def _errno(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None
