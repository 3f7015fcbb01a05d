"""A file of a volume in one version: what core holds as ``netfs_data``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fscache_core.errors import CallerError
from netfs_sshfs.url import printable, wire_path

if TYPE_CHECKING:
    from netfs_sshfs.version import Version
    from netfs_sshfs.volume import Volume


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class File:
    """Never changed after it was made.  A handle open at the server lives no longer than its file."""

    volume: Volume
    path: str  #: as in a URL, decoded; undecodable bytes as surrogate escapes
    version: Version | None = None  #: None for a file of which only the name is known
    recalled: bool = False  #: whether ``version`` comes from a label and not from the server

    @property
    def wire_path(self) -> bytes:
        return wire_path(self.path)

    @property
    def known_version(self) -> Version:
        """The version, where there must be one.

        Raises:
          CallerError: the file was only named.
        """
        if self.version is None:
            raise CallerError(f"{self}: not looked up")
        return self.version

    def __str__(self) -> str:
        return f"{self.volume}{printable(self.path)}"
