"""``sshfs://user@host:port/path``: which server, as whom, which file.

A path is taken literally up to the end of the URL (``?`` and ``#`` are characters of names), except that
``%XX`` is decoded.  ``/~/x`` is ``x`` in the home directory of the user.
"""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, unquote_to_bytes

from fscache_core.errors import CallerError
from fscache_core.late_import import importing

SCHEMES = ("sshfs", "sftp")
DEFAULT_PORT = 22

_AUTHORITY = re.compile(
    r"(?:(?P<user>[^@]*)@)?(?P<host>\[[0-9A-Fa-f:.]+(?:%[0-9A-Za-z._~-]+)?\]|[\w.+-]+)(?::(?P<port>\d*))?"
)
#: Of host and user nothing but this gets into a ProxyCommand of ssh_config.
_USER = re.compile(r"[\w.@+$\\][\w.@+$\\-]*")
#: Words of ssh_config without which it can say neither user nor port of a host.
_CONFIG_MAY_SAY = re.compile(rb"^\s*(user|port|include)\b", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect, and as whom."""

    user: str
    host: str  #: lower case; an IPv6 address without brackets
    port: int

    def __str__(self) -> str:
        """The canonical URL of the volume."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"sshfs://{quote(self.user, safe='')}@{host}:{self.port}"


def split_url(url: str, config: tuple[str, ...] | None) -> tuple[Endpoint, str]:
    """Return endpoint and path of a URL.

    What the URL leaves out is what the user's ssh_config says of the host, else the login name and port 22.

    Args:
      config: ssh_config files, or None for the user's own.

    Raises:
      CallerError: not such a URL.  The text never repeats a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise CallerError(f"not an sshfs URL (sshfs://user@host:port/path): {printable(url)}")
    authority, slash, raw_path = rest.partition("/")
    if ":" in authority.rpartition("@")[0]:
        raise CallerError(
            f"sshfs://{printable(authority.rpartition('@')[2])}: "
            "a password in a URL ends up in logs; use a key or an ssh-agent"
        )
    if not authority.rpartition("@")[2]:
        raise CallerError(f"{printable(url)}: no host; expected sshfs://user@host:port/path")
    match = _AUTHORITY.fullmatch(authority)
    if match is None or match["user"] == "":
        raise CallerError(f"not user@host:port in an sshfs URL: {printable(authority)!r}")
    host = match["host"].strip("[]").lower()
    user = None if match["user"] is None else unquote(match["user"])
    port = int(match["port"]) if match["port"] else None
    if host.startswith("-") or (port is not None and not 0 < port < 65536):
        raise CallerError(f"no such host and port: {printable(authority)}")
    if user is not None and not _USER.fullmatch(user):
        raise CallerError(f"no such user: {printable(user)!r}")
    if user is None or port is None:
        config_user, config_port = _from_ssh_config(host, config)
        user = config_user if user is None else user
        port = config_port if port is None else port
    return Endpoint(user, host, port), _decode_path(slash + raw_path)


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise CallerError(f"no path: {printable(text)}: {error.reason}") from None


def _decode_path(raw: str) -> str:
    path = unquote_to_bytes(_encoded(raw)).decode("utf-8", "surrogateescape")
    if "\0" in path:
        raise CallerError(f"a path cannot hold NUL: {printable(path)}")
    # ".." is left alone: /a/../b is not /b where /a is a symbolic link.
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _from_ssh_config(host: str, config: tuple[str, ...] | None) -> tuple[str, int]:
    paths = (str(Path("~/.ssh/config").expanduser()),) if config is None else config
    texts = [Path(path).read_bytes() for path in paths if Path(path).is_file()]
    if any(_CONFIG_MAY_SAY.search(text) for text in texts):
        # Here, because importing asyncssh takes longer than reading a cached file.
        with importing:
            import asyncssh

        try:
            options = asyncssh.SSHClientConnectionOptions(
                host=host, config=list(paths), client_keys=None, agent_path=None
            )
        except (asyncssh.ConfigParseError, OSError, ValueError) as error:
            raise CallerError(f"ssh configuration: {error}") from error
        return options.username, options.port
    return getpass.getuser(), DEFAULT_PORT


def wire_path(path: str) -> bytes:
    """A path as the server is to see it: bytes; relative, that is to the home directory, for ``/~``."""
    if path == "/~" or path.startswith("/~/"):
        path = path[3:] or "."
    return _encoded(path)


def printable(text: str) -> str:
    """Text for a one-line message: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
