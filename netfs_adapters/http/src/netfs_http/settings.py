"""The options, checked."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fscache_core.errors import CallerError
from fscache_core.late_import import importing
from fscache_core.option import read_text
from netfs_http.url import host_and_port

_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e]*)")
_VALUE = re.compile(r"[\x20-\x7e]*")
#: What the adapter itself must be able to rely on.
_OURS = frozenset(
    {"accept-encoding", "host", "if-match", "if-none-match", "if-unmodified-since", "range", "if-range"}
)


@dataclass(frozen=True, slots=True)
class Settings:
    timeout_seconds: float
    connect_timeout_seconds: float
    deadline_seconds: float
    retries: int
    backoff_seconds: float
    connections: int
    trust_env: bool
    ca_file: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """What to send to which hosts.  Never in a key, a message or a repr."""

    headers: Mapping[str, str]
    hosts: frozenset[str]
    netrc_file: str
    identity: str

    def __repr__(self) -> str:
        return f"Credentials(hosts={sorted(self.hosts)})"

    def for_volume(self, volume: str) -> tuple[Mapping[str, str], str]:
        """The headers to send there, and a text that tells who sends them: empty for nobody.

        Reads the netrc file, so it may block for as long as that takes.  Raises CallerError.
        """
        host, _port = host_and_port(volume)
        headers = dict(self.headers) if host in self.hosts else {}
        identity = _digest(headers) if headers else ""
        if self.netrc_file and "authorization" not in {name.lower() for name in headers}:
            login = _netrc_login(self.netrc_file, host)
            if login is not None:
                user, authorization = login
                headers["Authorization"] = authorization
                identity = f"{user} {identity}".strip()
        return headers, self.identity if headers and self.identity else identity


def _digest(headers: Mapping[str, str]) -> str:
    text = "\n".join(sorted(f"{name.lower()}: {value}" for name, value in headers.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _netrc_login(path: str, host: str) -> tuple[str, str] | None:
    """The user and the header for ``host``, or None if the file has no entry for it."""
    with importing:
        import netrc
        from base64 import b64encode

    try:
        entry = netrc.netrc(os.path.expanduser(path)).authenticators(host)
    except OSError as error:
        raise CallerError(f"http: netrc={path}: {error.strerror}") from None
    except netrc.NetrcParseError as error:
        raise CallerError(f"http: netrc={path}: {error.msg}") from None
    except ValueError as error:  # no file can have such a name, or it holds no text
        raise CallerError(f"http: netrc={path!r}: {error}") from None
    if entry is None:
        return None
    user, _account, password = entry
    return user, "Basic " + b64encode(f"{user}:{password or ''}".encode()).decode("ascii")


def header_value(option: str, value: object) -> str:
    """A text that may stand in a header."""
    text = read_text(option, value)
    if not _VALUE.fullmatch(text):
        raise CallerError(f"{option}={text!r}: only what ASCII can print may stand in a header")
    return text


def header_lines(value: str | Mapping[str, str]) -> dict[str, str]:
    """Headers from a table, or from text with one ``Name: value`` on each line."""
    if not isinstance(value, str | Mapping):
        raise CallerError(f"http: headers: neither a table nor a text: {value!r}")
    lines = (
        value.splitlines() if isinstance(value, str) else [f"{name}: {text}" for name, text in value.items()]
    )
    headers = {}
    for line in filter(str.strip, lines):
        match = _HEADER.fullmatch(line.strip())
        if match is None:
            raise CallerError(f"http: headers: not 'Name: value': {line.partition(':')[0]!r}")
        if match[1].lower() in _OURS:
            raise CallerError(f"http: headers: {match[1]} is set by the adapter")
        headers[match[1]] = match[2].rstrip()
    return headers
