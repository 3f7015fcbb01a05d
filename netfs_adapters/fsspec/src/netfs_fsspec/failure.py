"""What the exceptions of filesystems, and of the libraries below them, come to."""

from __future__ import annotations

import errno
from typing import NoReturn

from fscache_core.errors import (
    CallerError,
    FscacheError,
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
)

#: These libraries have no base class in common, so by the name of any class of an exception.
_UNREACHABLE = frozenset(
    {"ClientConnectionError", "ConnectionError", "EndpointConnectionError", "NewConnectionError", "gaierror"}
    | {
        "NoValidConnectionsError",
        "SSHException",
        "ServerDisconnectedError",
        "ServiceRequestError",
        "EOFError",
    }
)
_TIMEOUT = frozenset(
    {"ConnectTimeoutError", "FSTimeoutError", "ReadTimeoutError", "ServerTimeoutError", "TimeoutError"}
)
_REFUSED = frozenset({"ClientAuthenticationError", "NoCredentialsError", "PermissionError", "RefreshError"})
_MISSING = frozenset({"FileNotFoundError", "NotADirectoryError", "ResourceNotFoundError"})

_ERRNOS: dict[int, type[OriginError]] = {
    errno.ENOENT: OriginNotFoundError,
    errno.ENOTDIR: OriginNotFoundError,
    errno.EACCES: OriginPermissionError,
    errno.EPERM: OriginPermissionError,
    errno.ETIMEDOUT: OriginTimeoutError,
    errno.EHOSTUNREACH: OriginUnreachableError,
    errno.ENETUNREACH: OriginUnreachableError,
}
_STATUSES: dict[int, type[OriginError]] = {
    401: OriginPermissionError,
    403: OriginPermissionError,
    404: OriginNotFoundError,
    408: OriginTimeoutError,
    410: OriginNotFoundError,
    502: OriginUnreachableError,
    503: OriginUnreachableError,
    504: OriginTimeoutError,
}


def kind_of(error: BaseException) -> type[OriginError]:
    """The kind of OriginError that an exception from a filesystem amounts to."""
    names = {kind.__name__ for kind in type(error).__mro__}
    status = _status(error)
    if status is not None:
        return _STATUSES.get(status, OriginError)
    if names & _MISSING:
        # fsspec's HTTP filesystem says "not found" whatever went wrong; the cause knows better.
        cause = error.__cause__
        if cause is not None and (_status(cause) is not None or kind_of(cause) is not OriginError):
            return kind_of(cause)
        return OriginNotFoundError
    if names & _REFUSED:
        return OriginPermissionError
    if names & _TIMEOUT:
        return OriginTimeoutError
    if names & _UNREACHABLE:
        return OriginUnreachableError
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return _ERRNOS[error.errno]
    if type(error) is OSError and error.errno is None and str(error).startswith("Forbidden"):
        return OriginPermissionError  # gcsfs has no more than a word for it
    if isinstance(error, OSError) and error.__cause__ is not None:
        return kind_of(error.__cause__)  # s3fs makes an OSError of whatever it has no better word for
    return OriginError


def _status(error: BaseException) -> int | None:
    """The status of an HTTP answer that an exception carries, by one of the names libraries have for it."""
    for attribute in ("status", "status_code", "code"):
        status = getattr(error, attribute, None)
        if isinstance(status, int) and 400 <= status <= 599:
            return status
    match getattr(error, "response", None):
        case {"ResponseMetadata": {"HTTPStatusCode": int(status)}}:  # botocore
            return status if status >= 400 else None
    return None


def fail(where: str, error: Exception) -> NoReturn:
    """Raise ``error`` as what it amounts to, in one line that begins with origin, file and range."""
    if isinstance(error, FscacheError):
        raise type(error)(f"{where}: {error.message}") from error.__cause__
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, ImportError) or (isinstance(error, ValueError) and "rotocol" in text):
        raise CallerError(f"{where}: {text}") from error  # no such protocol, or its package is not installed
    kind = kind_of(error)
    number = error.errno if kind is OriginError and isinstance(error, OSError) else None
    raise kind(f"{where}: {text}", errno=number) from error
