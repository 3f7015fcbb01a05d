"""URLs: where the volume ends, which of them are the same, and what of them may be shown."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from fscache_core.errors import CallerError
from fscache_core.hookspecs import Location
from fscache_core.late_import import importing

_DEFAULT_PORTS = {"http": 80, "https": 443}

#: Parameters that pre-signed URLs and APIs put secrets in.  Their values are left out of messages.
_SECRET = re.compile(
    r"(?i)([?&](?:[\w-]*(?:signature|credential|token|secret|password|api-?_?key)|sig|key|auth)=)[^&]+"
)
_BAD = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")


def split(url: str) -> Location:
    """Split ``url`` into scheme, host and port as the volume, path and query as the path.

    The fragment is dropped: it is never sent.  Raises CallerError.
    """
    # urlsplit would drop tabs and newlines without a word.
    if _BAD.search(url):
        raise CallerError(f"{redacted(url)!r}: write blanks and what is no text as %20, %0A, ...")
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError as error:
        raise CallerError(f"{redacted(url)}: {error}") from None
    if scheme not in _DEFAULT_PORTS or not host:
        raise CallerError(f"{redacted(url)}: not an http:// or https:// URL with a host")
    if "@" in parts.netloc:
        # They would end up in keys, histories and logs, and a file's URL would change with the password.
        raise CallerError(
            f"{scheme}://...@{host}: no user or password in a URL; use ~/.netrc (option netrc) or headers"
        )
    if not host.isascii():
        with importing:
            import idna
        try:
            # As httpx does.  Python's own codec is of IDNA 2003, where some names are those of other sites.
            host = idna.encode(host).decode()
        except idna.IDNAError as error:
            raise CallerError(f"{redacted(url)}: {host!r} is not a host name: {error}") from None
    authority = f"[{host}]" if ":" in host else host
    if port is not None and port != _DEFAULT_PORTS[scheme]:
        authority += f":{port}"
    return Location(f"{scheme}://{authority}", _path(parts))


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def host_and_port(volume: str) -> tuple[str, int]:
    """The host (in lower case, an IPv6 address without brackets) and port of a volume."""
    parts = urlsplit(volume)
    return parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]


def redacted(url: str) -> str:
    """``url`` as it may be shown: without passwords and the values of parameters that hold secrets."""
    return _SECRET.sub(r"\1...", re.sub(r"//[^/?#@]*@", "//...@", url))
