"""Options of the adapter, as they come from a program, a TOML file or a command line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fscache_core.errors import CallerError
from netfs_sshfs.url import printable


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options.  None stands for: what ssh would do."""

    known_hosts: tuple[str, ...] | None
    client_keys: tuple[str, ...] | None
    config: tuple[str, ...] | None
    proxy_jump: str | None
    connect_timeout: float  #: seconds for one attempt to connect and log in
    deadline_seconds: float  #: seconds without any progress after which an operation fails
    reconnect_seconds: float  #: how long after a loss of the connection new operations wait for the server
    outage_seconds: float  #: likewise reads, which may have waited long for what they have already
    keepalive_seconds: float | None  #: idle seconds after which the server is asked if it is there; 0 never
    clock_margin_seconds: float  #: by how much our clock may be ahead of the server's
    max_requests: int  #: read requests under way per fetch
    max_open_files: int  #: handles kept open at the server

    @property
    def clock_margin_ns(self) -> int:
        return int(self.clock_margin_seconds * 1e9)


def paths(name: str, value: object) -> tuple[str, ...] | None:
    """A list of file names: a sequence, or one string with ``:`` between them."""
    if value is None:
        return None
    if isinstance(value, str):
        value = value.split(os.pathsep) if value else []
    elif isinstance(value, os.PathLike):
        value = [value]
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, (str, os.PathLike)) for v in value):
        raise CallerError(f"sshfs: {name}: not a list of file names: {value!r}")
    found = tuple(str(Path(v).expanduser()) for v in value)
    for path in found:
        try:
            readable = os.access(path, os.R_OK)
        except ValueError:  # no file can have such a name
            readable = False
        if not readable:
            raise CallerError(f"sshfs: {name}: cannot read {printable(path)}")
    return found
