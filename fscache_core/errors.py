"""Exceptions, split by whose fault they are, each with an errno.

==================  =====================================================================
`WorldError`        a disk, a network or an origin failed.  Trying again later may help.
`CallerError`       the program or the user asked for something that makes no sense.
`PluginError`       a backend, netfs adapter or wrapper broke its contract.
`InstallationError` what is installed cannot be used: missing, twice, or for another API.
==================  =====================================================================

A cache miss is none of these: it is a value (`fscache_core.outcome`).  Every class is an
`OSError`, so code that only knows ordinary files handles them; the ones with a well-known
built-in counterpart (`FileNotFoundError`, `PermissionError`, ...) are that as well.
"""

from __future__ import annotations

import errno as _errno


class FscacheError(OSError):
    """Anything this project raises on purpose.  ``errno`` is always set."""

    default_errno = _errno.EIO

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(self.default_errno if errno is None else errno, message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # OSError would call the class with (errno, strerror), which is not our signature.
        return (_rebuild, (type(self), self.message, self.errno))


def _rebuild(kind: type[FscacheError], message: str, errno: int) -> FscacheError:
    error = kind.__new__(kind)
    FscacheError.__init__(error, message, errno=errno)
    return error


class WorldError(FscacheError):
    """A disk, a network or an origin failed."""


class CallerError(FscacheError):
    """The call makes no sense: a bad argument, use after relinquish, a bad option."""

    default_errno = _errno.EINVAL


class PluginError(FscacheError):
    """A plugin broke its contract.  ``plugin`` is its name as the user knows it."""

    default_errno = _errno.EPROTO

    def __init__(self, message: str, *, plugin: str = "?", errno: int | None = None) -> None:
        super().__init__(message, errno=errno)
        self.plugin = plugin

    @classmethod
    def raised(cls, kind: str, name: str, hook: str, error: BaseException) -> PluginError:
        """What a bug comes out as: ``error`` was raised by a hook of the plugin ``name``."""
        return cls(f"{kind} {name}: {hook} raised {type(error).__name__}: {error}", plugin=name)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_plugin, (type(self), self.message, self.plugin, self.errno))


def _rebuild_plugin(kind: type[PluginError], message: str, plugin: str, errno: int) -> PluginError:
    return kind(message, plugin=plugin, errno=errno)


class UnfitPluginError(PluginError):
    """Core refuses a plugin as it is: a hook that is unknown, missing, or takes other arguments."""


class InstallationError(FscacheError):
    """Something that is installed, or should be, cannot be used."""

    default_errno = _errno.ENOPKG if hasattr(_errno, "ENOPKG") else _errno.ENOENT


class UnknownPluginError(InstallationError):
    """No plugin has that name."""


class NoNetfsError(UnknownPluginError):
    """No netfs adapter is for the scheme of a URL."""


class AmbiguousPluginError(InstallationError):
    """Several distributions offer a plugin of that name."""


class BrokenPluginError(InstallationError):
    """A plugin cannot be imported."""


class ApiVersionError(InstallationError):
    """A plugin was built for another version of the contract."""


# -- the cache side of the world ---------------------------------------------------------


class CacheIOError(WorldError):
    """The backing store failed (EIO).  Core stops the cache; readers go on from the origin."""


class NoSpaceError(WorldError):
    """Below ``bstop`` or ``fstop``, or over a ceiling (ENOBUFS).  Core kills that object only."""

    default_errno = _errno.ENOBUFS


class NoMemoryError(NoSpaceError):
    """There is no memory for a hook, or for what is to be fetched (ENOMEM).

    For a hook as `NoSpaceError`, and counted under ``oom``.
    """

    default_errno = _errno.ENOMEM


class RefusedError(WorldError):
    """The cache does not do what it was asked for: it has no room, or the file is pinned (EBUSY)."""

    default_errno = _errno.EBUSY


class CacheUnusableError(WorldError):
    """The cache cannot be bound at all: no such directory, no rights, no user xattrs, ..."""


# -- the origin side of the world --------------------------------------------------------


class OriginError(WorldError):
    """The origin answered with a failure, or did not answer.  Names origin, file and cause."""


class OriginNotFoundError(OriginError, FileNotFoundError):
    """There is no such file at the origin (ENOENT)."""

    default_errno = _errno.ENOENT


class OriginPermissionError(OriginError, PermissionError):
    """The origin refused: wrong credentials or missing rights (EACCES)."""

    default_errno = _errno.EACCES


class OriginUnreachableError(OriginError, ConnectionError):
    """The origin could not be reached: name, route, refused, lost (EHOSTUNREACH)."""

    default_errno = _errno.EHOSTUNREACH


class OriginTimeoutError(OriginUnreachableError, TimeoutError):
    """The origin stopped answering within the deadline (ETIMEDOUT)."""

    default_errno = _errno.ETIMEDOUT


class StaleError(OriginError):
    """The version that was opened is no longer to be had (ESTALE).  Open the file again."""

    default_errno = _errno.ESTALE


class OfflineError(WorldError):
    """Offline, and what was asked for is not cached (ENODATA)."""

    default_errno = _errno.ENODATA


class UnsupportedError(CallerError):
    """The plugin in question does not offer this operation (EOPNOTSUPP)."""

    default_errno = _errno.EOPNOTSUPP
