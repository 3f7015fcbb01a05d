"""What httpx reports and what status codes mean, as failures."""

from __future__ import annotations

import ssl
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx

from fscache_core.errors import (
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
    StaleError,
)
from netfs_http.failure import Failure

_REFUSALS: dict[int, type[OriginError]] = {
    401: OriginPermissionError,
    403: OriginPermissionError,
    404: OriginNotFoundError,
    407: OriginPermissionError,
    410: OriginNotFoundError,
    412: StaleError,
    416: StaleError,
}
#: Another attempt may succeed.  Of a gateway's answers the origin itself knows nothing: it was not reached.
_TRANSIENT: dict[int, type[OriginError]] = {
    408: OriginTimeoutError,
    425: OriginError,
    429: OriginError,
    500: OriginError,
    502: OriginUnreachableError,
    503: OriginUnreachableError,
    504: OriginTimeoutError,
}


def refusal(response: httpx.Response) -> Failure:
    """What an answer that has not what was asked for comes to."""
    status = response.status_code
    try:
        cause = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        cause = str(status)
    if status in (412, 416):
        cause = f"it has changed ({cause})"
    if status in _TRANSIENT:
        return Failure(
            _TRANSIENT[status], cause, transient=True, retry_after_seconds=_retry_after_seconds(response)
        )
    return Failure(_REFUSALS.get(status, OriginError), cause)


def _retry_after_seconds(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, IndexError):
        return None


def failure_of(error: Exception) -> Failure:
    """What an exception from httpx comes to.  Raises anything else again."""
    if isinstance(error, httpx.ConnectTimeout):
        return Failure(OriginTimeoutError, "no connection in time", transient=True, connecting=True)
    if isinstance(error, httpx.TimeoutException):
        return Failure(OriginTimeoutError, "stopped answering", transient=True)
    if isinstance(error, httpx.ConnectError | httpx.ProxyError):
        certificate = _in_chain(error, ssl.SSLError)
        if certificate is not None:
            return Failure(OriginError, f"TLS: {certificate.reason or certificate}")
        return Failure(
            OriginUnreachableError, f"no connection: {_reason(error)}", transient=True, connecting=True
        )
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return Failure(OriginUnreachableError, f"connection lost: {_reason(error)}", transient=True)
    if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
        return Failure(OriginError, _reason(error))
    raise error


def _in_chain(error: BaseException | None, kind: type[ssl.SSLError]) -> ssl.SSLError | None:
    while error is not None:
        if isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None


def _reason(error: BaseException) -> str:
    """The first text in the chain of causes that says anything, on one line."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, BaseExceptionGroup):  # one for each address of the host
            found = found.exceptions[0]
        if isinstance(found, OSError) and found.strerror:
            # trio puts the address in front, as a Python tuple.
            return found.strerror.rpartition("): ")[2]
        found = found.__cause__ or found.__context__
    return " ".join(str(error).split()) or type(error).__name__
