"""Which version of a file: what SFTP tells about it, and how that is kept in a label.

SFTP version 3, which OpenSSH speaks, tells size, modification time in whole seconds, owner, group, mode.  It
tells no inode, no change time and no server time.  Equal evidence means equal bytes only if that second was
over when the evidence was taken: a file can be written twice within one second.  Otherwise it is weak.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fscache_core.errors import CallerError
from fscache_core.hookspecs import AuxOutcome, FileAttributes, FileKind, Strength

if TYPE_CHECKING:
    from asyncssh import SFTPAttrs

_LAYOUT = struct.Struct(">BBQqIIH")  # layout number, flags, size, mtime, uid, gid, mode
_LAYOUT_NUMBER = 1
_STRONG, _HAS_MTIME, _SUBSECOND, _HAS_OWNER = 1, 2, 4, 8

_KINDS = {stat.S_IFREG: FileKind.FILE, stat.S_IFDIR: FileKind.DIRECTORY, stat.S_IFLNK: FileKind.SYMLINK}


@dataclass(frozen=True, slots=True)
class Version:
    """Attributes of a file at one moment."""

    size: int  #: bytes
    mtime_ns: int | None
    subsecond: bool  #: whether ``mtime_ns`` is finer than a second (SFTP 4 and later)
    owner: tuple[int, int] | None  #: uid and gid
    mode: int  #: type and permission bits
    strong: bool  #: whether ``mtime_ns`` had aged when the attributes were taken

    @classmethod
    def from_attributes(cls, attributes: SFTPAttrs, asked_ns: int, margin_ns: int) -> Version:
        """What the server said.

        Args:
          asked_ns: the time when the server was asked, nanoseconds since the epoch.
          margin_ns: by how much the clock of ``asked_ns`` may be ahead of the server's.
        """
        mtime_ns = None
        subsecond = attributes.mtime_ns is not None
        if attributes.mtime is not None:
            mtime_ns = attributes.mtime * 10**9 + (attributes.mtime_ns or 0)
        owner = None
        if attributes.uid is not None and attributes.gid is not None:
            owner = (attributes.uid, attributes.gid)
        mode = attributes.permissions or 0
        if not stat.S_IFMT(mode):
            mode |= {1: stat.S_IFREG, 2: stat.S_IFDIR, 3: stat.S_IFLNK}.get(attributes.type, 0)
        # A second is the unit even where the server shows finer times: its filesystem may not have them.
        strong = mtime_ns is not None and mtime_ns + 10**9 + margin_ns <= asked_ns
        return cls(attributes.size or 0, mtime_ns, subsecond, owner, mode & 0xFFFF, strong)

    @classmethod
    def from_aux(cls, aux: bytes, object_size: int) -> Version:
        """What `aux` made.

        Raises:
          CallerError: it did not.
        """
        if len(aux) != _LAYOUT.size or aux[0] != _LAYOUT_NUMBER:
            raise CallerError("not version evidence of an SFTP server")
        _, flags, size, mtime_ns, uid, gid, mode = _LAYOUT.unpack(aux)
        if size != object_size:
            raise CallerError(f"version evidence of {size} bytes for an object of {object_size}")
        return cls(
            size,
            mtime_ns if flags & _HAS_MTIME else None,
            bool(flags & _SUBSECOND),
            (uid, gid) if flags & _HAS_OWNER else None,
            mode,
            bool(flags & _STRONG),
        )

    def aux(self) -> bytes:
        flags = (
            _STRONG * self.strong
            | _HAS_MTIME * (self.mtime_ns is not None)
            | _SUBSECOND * self.subsecond
            | _HAS_OWNER * (self.owner is not None)
        )
        uid, gid = self.owner or (0, 0)
        return _LAYOUT.pack(_LAYOUT_NUMBER, flags, self.size, self.mtime_ns or 0, uid, gid, self.mode)

    def same_bytes(self, other: Version) -> bool:
        """Whether nothing speaks against the bytes being the same.  Permission bits do not bear on that."""
        return (
            self.size == other.size
            and self.mtime_ns == other.mtime_ns
            and self.subsecond == other.subsecond
            and self.owner == other.owner
            and stat.S_IFMT(self.mode) == stat.S_IFMT(other.mode)
        )

    def check(self, aux: bytes, object_size: int) -> AuxOutcome:
        """Compare with a label.

        A label made while the evidence was weak proves nothing even if it is equal: the bytes stored under it
        may be from before a second change within that time.
        """
        try:
            label = Version.from_aux(aux, object_size)
        except CallerError:
            return AuxOutcome.OBSOLETE
        if not (label.strong and self.same_bytes(label)):
            return AuxOutcome.OBSOLETE
        # Not strong any more: a clock was set back.  The bytes are good, and so is what the label says.
        return AuxOutcome.OKAY if self.mode == label.mode else AuxOutcome.NEEDS_UPDATE

    @property
    def kind(self) -> FileKind:
        kind = stat.S_IFMT(self.mode)
        # A server need not tell.  Then it is for a read to find out.
        return _KINDS.get(kind, FileKind.OTHER) if kind else FileKind.FILE

    def attributes(self) -> FileAttributes:
        if self.mtime_ns is None:
            strength = Strength.NONE
        else:
            strength = Strength.STRONG if self.strong else Strength.WEAK
        return FileAttributes(
            kind=self.kind,
            size=self.size,
            mtime_ns=self.mtime_ns,
            mode=stat.S_IMODE(self.mode),
            evidence=str(self),
            strength=strength,
        )

    def __str__(self) -> str:
        text = f"size {self.size}"
        if self.mtime_ns is not None:
            when = datetime.fromtimestamp(self.mtime_ns // 10**9, UTC).replace(tzinfo=None).isoformat()
            fraction = f".{self.mtime_ns % 10**9:09d}" if self.subsecond else ""
            text += f", mtime {when}{fraction}Z"
        if self.owner is not None:
            text += f", owner {self.owner[0]}:{self.owner[1]}"
        return text
