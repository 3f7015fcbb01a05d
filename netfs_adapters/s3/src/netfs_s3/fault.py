"""What went wrong at the origin: one of a few kinds, and one line of cause.

obstore tells status, S3 error code and the kind of network failure only in the text of its exceptions, a Rust
debug dump of many lines.  `from_obstore` is the only place that reads it.
"""

from __future__ import annotations

import enum
import http.client
import re
import urllib.error

from fscache_core.errors import (
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
    StaleError,
)
from netfs_s3.location import printable


class FaultKind(enum.Enum):
    UNREACHABLE = "no connection could be made"
    LOST = "the connection broke"
    TIMEOUT = "connected, then silence"
    BUSY = "429, 500, 502, 503, 504: ask later"
    NOT_FOUND = "no such key or bucket"
    PERMISSION = "wrong credentials or missing rights"
    CHANGED = "another version is there now"
    OTHER = "anything that asking again does not cure"


_ERRORS = {
    FaultKind.UNREACHABLE: OriginUnreachableError,
    FaultKind.LOST: OriginUnreachableError,
    FaultKind.TIMEOUT: OriginTimeoutError,
    FaultKind.BUSY: OriginError,
    FaultKind.NOT_FOUND: OriginNotFoundError,
    FaultKind.PERMISSION: OriginPermissionError,
    FaultKind.CHANGED: StaleError,
    FaultKind.OTHER: OriginError,
}


class Fault(Exception):
    """Raised inside this package only; `error` makes what the caller sees."""

    def __init__(self, kind: FaultKind, cause: str) -> None:
        super().__init__(cause)
        self.kind = kind
        self.cause = printable(cause)

    def error(self, what: str) -> OriginError:
        """The error for ``what``, which names origin, key and range."""
        return _ERRORS[self.kind](f"{what}: {self.cause}")


# -- by status ---------------------------------------------------------------------------

_KINDS_BY_STATUS = {
    401: FaultKind.PERMISSION,
    403: FaultKind.PERMISSION,
    404: FaultKind.NOT_FOUND,
    408: FaultKind.BUSY,
    412: FaultKind.CHANGED,
    416: FaultKind.CHANGED,
    429: FaultKind.BUSY,
    500: FaultKind.BUSY,
    502: FaultKind.BUSY,
    503: FaultKind.BUSY,
    504: FaultKind.BUSY,
}
# Sent with a status that says less.
_KINDS_BY_CODE = {
    "ExpiredToken": FaultKind.PERMISSION,
    "InvalidToken": FaultKind.PERMISSION,
    "TokenRefreshRequired": FaultKind.PERMISSION,
    "RequestTimeout": FaultKind.BUSY,
    "SlowDown": FaultKind.BUSY,
    "NoSuchVersion": FaultKind.NOT_FOUND,
    "ConditionalRequestConflict": FaultKind.CHANGED,
}


def from_status(status: int, body: str, bucket_region: str | None = None) -> Fault:
    """Of an answer that is not a success; ``body`` is S3's XML, or empty (HEAD)."""
    code = re.search(r"<Code>([^<]{1,100})</Code>", body)
    message = re.search(r"<Message>([^<]{1,300})</Message>", body)
    in_body = re.search(r"<Region>([^<]{1,60})</Region>", body)
    region = bucket_region or (in_body[1] if in_body else None)
    kind = _KINDS_BY_STATUS.get(status, FaultKind.OTHER)
    cause = f"{status} {http.client.responses.get(status, '')}".rstrip()
    if code:
        kind = _KINDS_BY_CODE.get(code[1], kind)
        cause += f" ({code[1]})"
    if message:
        cause += f": {message[1]}"
    if region and status in (301, 307, 400):
        cause += f"; the bucket's region is {region}"
    elif status in (301, 307, 400) and not code:
        cause += "; is the region right?"
    return Fault(kind, cause)


# -- by exception ------------------------------------------------------------------------

_STATUS = re.compile(r"non-2xx status code: (\d{3})[^:\n]*: ?(.*)", re.DOTALL)
_NETWORK_KIND = re.compile(r"HttpError \{\s+kind: (\w+)")
_NETWORK_CAUSE = re.compile(r'(?:message|error): "((?:[^"\\]|\\.)+)"')
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w+)")
_KINDS_BY_NETWORK_KIND = {
    "Connect": FaultKind.UNREACHABLE,
    "Timeout": FaultKind.TIMEOUT,
    "Request": FaultKind.LOST,
    "Interrupted": FaultKind.LOST,
}


def from_obstore(error: Exception) -> Fault:
    """Of whatever obstore raised.  What it is not documented to raise is raised again: a fault of ours, not
    the origin's."""
    import obstore.exceptions

    if not isinstance(error, obstore.exceptions.BaseError | FileNotFoundError):
        raise error
    text, _, dump = str(error).partition("\n\nDebug source:")
    status = _STATUS.search(text)
    answered = from_status(int(status[1]), status[2]) if status else None
    asked_instance = "/latest/api/token" in text or "/latest/meta-data/" in text
    if answered and not (asked_instance and answered.kind is not FaultKind.BUSY):
        return answered
    if asked_instance:
        return Fault(FaultKind.PERMISSION, "no credentials in variables, profile, container or instance")
    if "External AWS credential provider" in text:
        raised = re.search(r"credential provider: (?:[\w.]+: )?(.*)", text)
        return Fault(FaultKind.PERMISSION, f"no credentials: {raised[1] if raised else ''}")
    network = _NETWORK_KIND.search(dump)
    if network:
        kind = _KINDS_BY_NETWORK_KIND.get(network[1], FaultKind.OTHER)
        certificate, cause = _CERTIFICATE.search(dump), _NETWORK_CAUSE.search(dump)
        if certificate:
            return Fault(FaultKind.OTHER, f"certificate of the server is not valid: {certificate[1]}")
        if kind is FaultKind.TIMEOUT:
            return Fault(kind, "no answer")
        if cause:
            return Fault(kind, cause[1])
        return Fault(
            kind, "connection closed by the server" if kind is FaultKind.LOST else "not an HTTP answer"
        )
    if isinstance(error, FileNotFoundError):
        return Fault(FaultKind.NOT_FOUND, "not found")
    if isinstance(error, obstore.exceptions.PreconditionError):
        return Fault(FaultKind.CHANGED, "has changed")
    return Fault(FaultKind.OTHER, text.rpartition(" S3 error: ")[2])


def from_urllib(error: OSError | http.client.HTTPException) -> Fault:
    """Of what a `urllib.request` raised.  Its text may hold the signed URL: only the reason is used."""
    if isinstance(error, urllib.error.HTTPError):
        with error:
            body = error.read(65536).decode(errors="replace")
            return from_status(error.code, body, error.headers.get("x-amz-bucket-region"))
    connecting = isinstance(error, urllib.error.URLError)
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return Fault(FaultKind.TIMEOUT, "no answer")
    if isinstance(reason, http.client.HTTPException):
        return Fault(FaultKind.LOST, "connection closed by the server")
    cause = (reason.strerror if isinstance(reason, OSError) else None) or type(reason).__name__
    return Fault(FaultKind.UNREACHABLE if connecting else FaultKind.LOST, cause)
