"""Which version of a file this is: what `info` of an fsspec filesystem says, and how much that proves.

Every filesystem names these things as it likes.  Known names are sorted into four kinds; whatever else `info`
holds (URLs, owners, access times) may change while the bytes do not, and is not looked at.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from fscache_core.errors import CallerError
from fscache_core.hookspecs import FileAttributes, FileKind, Strength

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A new one for each version, never used again.
_IDENTIFIERS = frozenset(
    {"VersionId", "version_id", "versionId", "generation", "rev", "revision", "headRevisionId"}
)
#: The same for the same bytes: what was there before may come back.
_HASHES = frozenset(
    {"ETag", "etag", "e_tag", "md5", "md5Hash", "md5Checksum", "content_md5", "Content-MD5", "checksum"}
    | {"content_hash", "Digest", "sha", "sha1", "sha256", "sha256Checksum", "hash", "hex", "oid", "blob_id"}
)
#: When the bytes changed last.
_TIMES = frozenset(
    {
        "mtime",
        "modified",
        "last_modified",
        "LastModified",
        "Last-Modified",
        "lastModified",
        "updated",
        "modify",
    }
    | {"modificationTime", "modification_time", "modifiedTime", "timeModified", "server_modified"}
)
#: They tell some versions apart, and prove nothing.
_HINTS = frozenset(
    {"CRC", "crc32c", "created", "date_time", "ino", "header_offset", "chksum"}
    | {"fileId", "unique"}  # inodes of HDFS and of FTP servers
)

_SECOND = 1_000_000_000
_COARSE_NS = 2 * _SECOND
_FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Version:
    """What was said of a file at one moment."""

    kind: FileKind
    size: int  #: bytes
    mtime_ns: int | None
    evidence: str  #: as a person reads it; a hash if a label could not hold it
    strength: Strength
    unique: bool  #: no later version can have the same evidence

    @classmethod
    def observe(
        cls,
        info: Mapping[str, object],
        extra: Mapping[str, object],
        *,
        container: Version | None,
        now_ns: int,
        margin_ns: int,
        trusted: frozenset[str] = frozenset(),
    ) -> Version | None:
        """Make the version that ``info`` describes; None if it does not tell the size.

        Args:
          extra: what was found out in other ways than `info`; the names are the same.
          container: the file that holds this one (an archive).  A version of it is one of all in it.
          now_ns: the time before asking, nanoseconds since the epoch.
          margin_ns: how old a time must be to tell two writes apart.
        """
        kind = _KINDS.get(str(info.get("type")), FileKind.OTHER)
        size = info.get("size")
        if kind is FileKind.DIRECTORY:
            size = 0
        if isinstance(size, float) and size.is_integer():
            size = int(size)
        if not isinstance(size, int) or size < 0:
            return None
        facts = {
            name: value
            for name, value in {**info, **extra}.items()
            if (name in _KNOWN or name in trusted or name in extra) and _says_something(value)
        }
        text = [f"{name} {_shown(facts[name])}" for name in sorted(facts)]
        times = [time for name in sorted(facts) if name in _TIMES and (time := _nanoseconds(facts[name]))]
        weak_tag = any(_shown(facts[name]).startswith("W/") for name in facts if name in _HASHES)
        unique = bool(facts.keys() & _IDENTIFIERS)
        strong = unique or bool(facts.keys() & trusted) or (bool(facts.keys() & _HASHES) and not weak_tag)
        if not strong and times:
            margin_ns = max(margin_ns, _COARSE_NS) if times[0] % _SECOND == 0 else margin_ns
            strong = not now_ns - margin_ns < times[0] <= now_ns + margin_ns
        strength = Strength.STRONG if strong else Strength.WEAK if facts else Strength.NONE
        if container is not None:
            text.append(f"in [{container.size} bytes {container.evidence}]")
            strength, unique = container.strength, container.unique
        return cls(
            kind,
            size,
            times[0] if times else None,
            _fitting(" ".join(text)),
            strength,
            unique or bool(times),
        )

    @classmethod
    def from_aux(cls, aux: bytes, size: int) -> Version:
        """Read what `aux` wrote.  Raises CallerError if that is not what it is."""
        try:
            form, strength, unique, mtime, evidence = aux.decode("utf-8", "surrogatepass").split("\n")
            if form == _FORMAT:
                mtime_ns = int(mtime) if mtime else None
                return cls(FileKind.FILE, size, mtime_ns, evidence, Strength(strength), unique == "unique")
        except ValueError:
            pass
        raise CallerError(f"not a label of an fsspec file: {aux!r}")

    @property
    def aux(self) -> bytes:
        """The label.  It holds the strength too: bytes read under weak evidence stay unproven for ever."""
        mtime = "" if self.mtime_ns is None else str(self.mtime_ns)
        fields = (_FORMAT, self.strength.value, "unique" if self.unique else "", mtime, self.evidence)
        return "\n".join(fields).encode("utf-8", "surrogatepass")

    def same_file(self, other: Version) -> bool:
        """Whether both are of the same version, as far as the filesystem tells."""
        return (self.kind, self.size, self.evidence) == (other.kind, other.size, other.evidence)

    @property
    def attributes(self) -> FileAttributes:
        return FileAttributes(
            kind=self.kind,
            size=self.size,
            mtime_ns=self.mtime_ns,
            evidence=self.evidence or "nothing",
            strength=self.strength,
        )


_KNOWN = _IDENTIFIERS | _HASHES | _TIMES | _HINTS
_KINDS = {"file": FileKind.FILE, "directory": FileKind.DIRECTORY, "link": FileKind.SYMLINK}


def proves_something(info: Mapping[str, object]) -> bool:
    """Whether `info` has anything better than a hint, so that nothing else need be asked for."""
    return any(name in info and _says_something(info[name]) for name in _IDENTIFIERS | _HASHES | _TIMES)


def _says_something(value: object) -> bool:
    # S3 gives objects of buckets without versions the version "null".
    return value is not None and value != "" and value != "null"


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        value = value.isoformat()
    elif isinstance(value, bytes | bytearray):
        value = value.hex()
    return " ".join(str(value).split())


def _fitting(text: str) -> str:
    encoded = text.encode("utf-8", "surrogatepass")
    return text if len(encoded) <= 440 else f"sha256 {hashlib.sha256(encoded).hexdigest()}"


def _nanoseconds(value: object) -> int | None:
    """A time of any of the kinds that filesystems have; None if it cannot be read."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        if not abs(value) < 1e17:  # no time at all, or not a number
            return None
        # Seconds until the year 5138, milliseconds (HDFS) beyond.
        scale = _SECOND if abs(value) < 1e11 else 1_000_000
        return value * scale if isinstance(value, int) else int(value * scale)
    try:
        if isinstance(value, str):
            value = _date(value)
        if isinstance(value, datetime):
            value = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
            since = value - datetime(1970, 1, 1, tzinfo=UTC)
            return ((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
        if isinstance(value, date):
            return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()) * _SECOND
    except (ValueError, TypeError, OverflowError):
        pass
    return None


def _date(text: str) -> datetime:
    if text.isascii() and text.isdigit() and len(text) == 14:  # FTP
        return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parsedate_to_datetime(text)
