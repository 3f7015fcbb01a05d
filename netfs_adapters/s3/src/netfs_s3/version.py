"""Which version of an object: what S3 says of it, and how that fits into a label."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from fscache_core.errors import CallerError
from fscache_core.hookspecs import AuxOutcome, FileAttributes, FileKind, Strength

#: What a label can hold.
AUX_SIZE_MAX = 509

# format byte, size, mtime in ns (or _NO_MTIME), length of ETag (or _ABSENT), length of version id (or
# _ABSENT)
_HEAD = struct.Struct("!BQqHH")
_FORMAT = 1
_FORMAT_HASHED = 2
_ABSENT = 0xFFFF
_NO_MTIME = -(1 << 63)


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """The evidence S3 gives.  Equal ETags mean equal bytes; the rest is for people and for reading by id."""

    size: int  #: bytes
    e_tag: str | None = None  #: as it was told: with ``W/`` if it is weak, mostly with its quotes
    version_id: str | None = None  #: None in a bucket that was never versioned
    mtime_ns: int | None = None  #: Last-Modified, whole seconds

    @property
    def strength(self) -> Strength:
        if self.e_tag is not None and not self.e_tag.startswith("W/"):
            return Strength.STRONG
        if self.version_id not in (None, "null"):
            return Strength.STRONG
        return Strength.NONE if self.e_tag is None and self.mtime_ns is None else Strength.WEAK

    @property
    def if_match(self) -> str | None:
        """The value for If-Match; None if there is none that can ever match (a weak ETag does not)."""
        return None if self.e_tag is None or self.e_tag.startswith("W/") else self.e_tag

    def differs_from(self, other: ObjectVersion) -> str | None:
        """Say in what way `other`, just received, is another version; None if nothing says that it is."""
        if other.size != self.size:
            return f"size is {other.size}, not {self.size}"
        if self.e_tag is not None:
            same = _bare(other.e_tag) == _bare(self.e_tag)
            return None if same else f"ETag is {other.e_tag}, not {self.e_tag}"
        if other.mtime_ns != self.mtime_ns:
            return "time of modification differs"
        return None

    def describe(self) -> str:
        parts = [] if self.e_tag is None else [f"etag {self.e_tag}"]
        if self.version_id is not None:
            parts.append(f"version {self.version_id}")
        return ", ".join(parts)

    def attributes(self) -> FileAttributes:
        return FileAttributes(
            kind=FileKind.FILE,
            size=self.size,
            mtime_ns=self.mtime_ns,
            evidence=self.describe(),
            strength=self.strength,
        )

    def encode(self) -> bytes:
        """The label; `decode` reads it.  Evidence too long for one is hashed, which can be compared but not
        decoded."""
        e_tag = None if self.e_tag is None else self.e_tag.encode()
        version_id = None if self.version_id is None else self.version_id.encode()
        mtime_ns = _NO_MTIME if self.mtime_ns is None else self.mtime_ns

        def head(format_: int) -> bytes:
            lengths = (_ABSENT if text is None else len(text) for text in (e_tag, version_id))
            return _HEAD.pack(format_, self.size, mtime_ns, *lengths)

        text = (e_tag or b"") + (version_id or b"")
        if _HEAD.size + len(text) <= AUX_SIZE_MAX:
            return head(_FORMAT) + text
        return head(_FORMAT_HASHED) + hashlib.sha256(text).digest()

    @classmethod
    def decode(cls, aux: bytes) -> ObjectVersion:
        """Raises CallerError if `aux` is not what `encode` makes, or holds a hash only."""
        if len(aux) < _HEAD.size:
            raise CallerError("label of an S3 object is too short")
        format_, size, mtime_ns, e_tag_size, version_id_size = _HEAD.unpack_from(aux)
        if format_ != _FORMAT:
            raise CallerError(f"label of an S3 object has format {format_}, not {_FORMAT}")
        rest = aux[_HEAD.size :]
        texts: list[str | None] = []
        for text_size in (e_tag_size, version_id_size):
            if text_size == _ABSENT:
                texts.append(None)
                continue
            if len(rest) < text_size:
                raise CallerError("label of an S3 object is cut off")
            try:
                texts.append(rest[:text_size].decode())
            except UnicodeDecodeError as error:
                raise CallerError("label of an S3 object is not text") from error
            rest = rest[text_size:]
        if rest:
            raise CallerError("label of an S3 object is too long")
        return cls(size, texts[0], texts[1], None if mtime_ns == _NO_MTIME else mtime_ns)

    def check(self, aux: bytes, object_size: int) -> AuxOutcome:
        """Compare a label with this version, which the origin has now."""
        if aux == self.encode():
            return AuxOutcome.OKAY if object_size == self.size else AuxOutcome.OBSOLETE
        try:
            stored = ObjectVersion.decode(aux)
        except CallerError:
            return AuxOutcome.OBSOLETE
        # The same strong ETag under another date or version id: the same bytes, stored again.
        same = (
            self.if_match is not None
            and _bare(stored.e_tag) == _bare(self.e_tag)
            and stored.size == object_size == self.size
        )
        return AuxOutcome.NEEDS_UPDATE if same else AuxOutcome.OBSOLETE


def _bare(e_tag: str | None) -> str | None:
    """An ETag without its quotes, which some servers leave out, Ceph 18 where parts were put together."""
    return None if e_tag is None else e_tag.replace('"', "")
