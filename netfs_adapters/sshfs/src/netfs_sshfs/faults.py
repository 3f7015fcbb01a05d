"""What asyncssh raises, as the errors of the contract: one line each, naming origin, file and cause."""

from __future__ import annotations

import errno
import os

import asyncssh

from fscache_core.errors import (
    CallerError,
    FscacheError,
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
)
from netfs_sshfs.url import printable

#: The connection is gone; what was under way on it may be tried on another.  An `OSError` is the socket's.
LOST = (asyncssh.DisconnectError, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, OSError)
#: Everything that asyncssh's calls raise on purpose.
FAULTS = (asyncssh.Error, OSError)


def why_not_asked(error: Exception) -> FscacheError:
    """Say what of our options makes no sense, before a server is asked; the message is the cause alone."""
    return CallerError(f"cannot connect: {_one_line(error)}")


def why_not_connected(error: Exception, host_key: str | None) -> FscacheError:
    """Say why there is no connection; the message is the cause alone.

    Args:
      host_key: what to say of a host key that was refused.
    """
    cause = _one_line(error)
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return OriginPermissionError(host_key or cause)
        case asyncssh.PermissionDenied():
            return OriginPermissionError(
                f"login refused: {cause} (no key of the agent, client_keys or ~/.ssh opens this account)"
            )
        case TimeoutError():
            return OriginTimeoutError("cannot connect: no answer in time")
        case asyncssh.KeyImportError() | asyncssh.ConfigParseError():  # read again once the host is known
            return CallerError(f"cannot connect: {cause}")
        case ValueError():
            return OriginUnreachableError(f"cannot connect: the answer makes no sense: {cause}")
        case asyncssh.ConnectionLost() | OSError():
            return OriginUnreachableError(f"cannot connect: {cause}")
        case asyncssh.DisconnectError() if "authentication" in cause:  # too many failures of it
            return OriginPermissionError(f"login refused: {cause}")
        case asyncssh.DisconnectError():
            return OriginError(f"cannot connect: {cause}")
        case _:
            return OriginError(f"no SFTP to be had: {cause}")


def was_answered(error: BaseException | None) -> bool:
    """Whether a connection was made and then broken off, as a busy server does (``MaxStartups``)."""
    return isinstance(error, (asyncssh.ConnectionLost, ConnectionResetError, BrokenPipeError))


def why_failed(error: Exception) -> FscacheError:
    """Say why an operation failed; the message is the cause alone."""
    cause = _one_line(error)
    match error:
        case FscacheError():
            return error
        case asyncssh.SFTPNoSuchFile() | asyncssh.SFTPNoSuchPath():
            return OriginNotFoundError("no such file")
        case asyncssh.SFTPPermissionDenied() | asyncssh.SFTPWriteProtect():
            return OriginPermissionError("permission denied")
        case _ if isinstance(error, LOST):
            return OriginUnreachableError(f"connection lost: {cause}")
        case _:
            return OriginError(cause)


def about(what: str, error: FscacheError) -> FscacheError:
    """The same error, saying first what it is about."""
    return type(error)(f"{what}: {error.message}", errno=error.errno)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        text = os.strerror(error.errno)  # asyncio puts an address there, which is not what was asked for
    else:
        text = str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
    return printable(" ".join(text.split())) or type(error).__name__
