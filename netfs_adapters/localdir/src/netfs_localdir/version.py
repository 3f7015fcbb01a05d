"""Which version of a local file this is: what stat says of it, and how much that proves.

Whoever writes to a file makes its ctime the kernel's present time, and nothing else sets a ctime.  So two
equal results of stat mean equal bytes, unless both writes fell into one tick of the clock that stamps
files.  An observation is therefore `STRONG` only if the tick of its timestamps was over when it was
made.  Ticks are at most 10 ms on local filesystems (the kernel's timer), 1 or 2 s where timestamps are stored
in whole seconds, and on mounts whose timestamps come from another machine that machine's clock may be off.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass

from fscache_core.errors import CallerError
from fscache_core.hookspecs import FileAttributes, FileKind, Strength

#: The kernel's clock for timestamps ticks every 1 to 10 ms; twice that.
TICK_NS = 20_000_000
#: FAT stores even seconds; ext3, old NFS and HFS+ whole ones.
COARSE_NS = 2_000_000_000

#: Filesystems whose timestamps are made by this kernel's clock.  Elsewhere we cannot know whose clock it is.
LOCAL_FILESYSTEMS = frozenset(
    {"bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs"}
    | {"ramfs", "reiserfs", "squashfs", "tmpfs", "udf", "xfs", "zfs"}
)

#: What `Version.observe` can be told to leave out.
IGNORABLE = frozenset({"inode", "ctime", "fsid"})

_AUX = struct.Struct(">BBIQQQqq")
_FORMAT = 1

_KINDS = {stat.S_IFREG: FileKind.FILE, stat.S_IFDIR: FileKind.DIRECTORY, stat.S_IFLNK: FileKind.SYMLINK}


@dataclass(frozen=True, slots=True)
class Version:
    """One observation of a file.  A field that the user chose to ignore is 0."""

    inode: int
    size: int  #: bytes
    mtime_ns: int
    ctime_ns: int
    fsid: int  #: of the filesystem, from statvfs; 0 where that has none (NFS, FUSE)
    mode: int  #: type and permissions, as in ``st_mode``
    strength: Strength

    @classmethod
    def observe(
        cls,
        status: os.stat_result,
        fsid: int,
        *,
        now_ns: int,
        margin_ns: int,
        ignore: frozenset[str] = frozenset(),
    ) -> Version:
        """Make the version that ``status`` describes.

        Args:
          now_ns: the time just *before* the stat, nanoseconds since the epoch.
          margin_ns: how old timestamps must be to tell two writes apart.
        """
        ctime_ns = 0 if "ctime" in ignore else status.st_ctime_ns
        if status.st_mtime_ns % 1_000_000_000 == 0 and ctime_ns % 1_000_000_000 == 0:
            margin_ns = max(margin_ns, COARSE_NS + TICK_NS)
        aged_ns = now_ns - margin_ns
        # An mtime in the future was set by hand.  A ctime there: the clock was put back, it may recur.
        young = ctime_ns > aged_ns or aged_ns < status.st_mtime_ns <= now_ns + margin_ns
        return cls(
            inode=0 if "inode" in ignore else status.st_ino,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=ctime_ns,
            fsid=0 if "fsid" in ignore else fsid,
            mode=status.st_mode,
            strength=Strength.WEAK if young else Strength.STRONG,
        )

    @classmethod
    def from_aux(cls, aux: bytes, size: int) -> Version:
        """Read what `aux` wrote.  Raises CallerError if that is not what it is."""
        try:
            version, strong, mode, inode, fsid, stored_size, mtime_ns, ctime_ns = _AUX.unpack(aux)
        except struct.error:
            version = 0
        if version != _FORMAT or stored_size != size:
            raise CallerError(f"not a label of a local file of {size} bytes: {aux.hex()}")
        strength = Strength.STRONG if strong else Strength.WEAK
        return cls(inode, size, mtime_ns, ctime_ns, fsid, mode, strength)

    @property
    def aux(self) -> bytes:
        """The label.  It holds the strength too: bytes read under weak evidence stay unproven for ever."""
        return _AUX.pack(
            _FORMAT,
            self.strength is Strength.STRONG,
            self.mode,
            self.inode,
            self.fsid,
            self.size,
            self.mtime_ns,
            self.ctime_ns,
        )

    def same_file(self, other: Version) -> bool:
        """Whether both observations are of the same version, as far as stat can tell."""
        return (self.inode, self.size, self.mtime_ns, self.ctime_ns, self.fsid) == (
            other.inode,
            other.size,
            other.mtime_ns,
            other.ctime_ns,
            other.fsid,
        )

    @property
    def attributes(self) -> FileAttributes:
        evidence = f"inode {self.inode} mtime {_seconds(self.mtime_ns)} ctime {_seconds(self.ctime_ns)}"
        if self.fsid:
            evidence += f" fsid {self.fsid:x}"
        return FileAttributes(
            kind=_KINDS.get(stat.S_IFMT(self.mode), FileKind.OTHER),
            size=self.size,
            mtime_ns=self.mtime_ns,
            mode=stat.S_IMODE(self.mode),
            evidence=evidence,
            strength=self.strength,
        )


def _seconds(nanoseconds: int) -> str:
    whole, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{whole}.{rest:09}"


class Filesystems:
    """Which kind of filesystem a device number is, and so how old a timestamp on it must be."""

    def __init__(self, foreign_margin_ns: int) -> None:
        self._foreign_margin_ns = foreign_margin_ns
        self._margins: dict[int, int] = {}

    def margin_ns(self, device: int, target: str | int) -> int:
        """How old timestamps must be on ``device`` (``st_dev``), which ``target`` is on."""
        margin = self._margins.get(device)
        if margin is None:
            local = filesystem_type(target) in LOCAL_FILESYSTEMS
            margin = TICK_NS if local else max(TICK_NS, self._foreign_margin_ns)
            self._margins[device] = margin
        return margin


def filesystem_type(target: str | int) -> str:
    """The type as in /proc/filesystems of what a path or descriptor is on; '' if it cannot be told."""
    if not hasattr(os, "O_PATH"):
        return ""
    try:
        # By the mount and not by the device: files of btrfs have device numbers that no mount has.
        fd = os.open(target, os.O_PATH | os.O_CLOEXEC) if isinstance(target, str) else target
        try:
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
                mount = next((line.split()[1] for line in lines if line.startswith("mnt_id:")), "")
        finally:
            if fd is not target:
                os.close(fd)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                before, _, after = line.partition(" - ")
                if before.split(" ", 1)[0] == mount:
                    return after.split(" ", 1)[0]
    except OSError:
        pass  # no /proc: every filesystem counts as foreign
    return ""
