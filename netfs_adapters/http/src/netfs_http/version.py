"""Which version of a resource an answer is of: its validators and what they prove (RFC 9110, section 8.8)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from fscache_core.errors import CallerError
from fscache_core.hookspecs import FileAttributes, FileKind, Strength

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Last-Modified has whole seconds: two writes in one look the same until that second is over.
_AGED_SECONDS = 2

_FORMAT = "1"
_HASHED = "sha256:"

_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]*"')
#: nginx makes a tag that looks strong of the second of Last-Modified and the size: it proves what they prove.
_TAG_OF_SECONDS = re.compile(r'"([0-9a-f]+)-([0-9a-f]+)"')


@dataclass(frozen=True, slots=True)
class Version:
    """What an answer said of the version it is of.  Texts are empty where it said nothing."""

    size: int  #: bytes
    etag: str  #: as sent, with quotes and ``W/``; or ``sha256:`` and the hash of one too long for a label
    last_modified: str  #: as sent
    encoding: str  #: Content-Encoding as sent: the bytes are those that travel, never decoded
    strength: Strength

    @classmethod
    def of(cls, headers: Mapping[str, str], size: int) -> Version:
        """Make the version that an answer with these headers, of a whole of ``size`` bytes, is of."""
        etag = _fitting(headers.get("etag", "").strip())
        last_modified = headers.get("last-modified", "").strip()
        encoding = headers.get("content-encoding", "").strip().lower()
        if len(encoding) > 64 or not encoding.isascii():
            encoding = "unknown"
        modified = _seconds(last_modified)
        served = _seconds(headers.get("date", ""))
        aged = modified is not None and served is not None and served - modified >= _AGED_SECONDS
        match = _TAG_OF_SECONDS.fullmatch(etag)
        coarse_tag = match is not None and (int(match[1], 16), int(match[2], 16)) == (modified, size)
        if _is_strong(etag) and not coarse_tag:
            strength = Strength.STRONG
        elif etag and not coarse_tag:
            strength = Strength.WEAK
        elif modified is not None:
            strength = Strength.STRONG if aged else Strength.WEAK
        else:
            strength = Strength.NONE
        return cls(size, etag, last_modified if modified is not None else "", encoding, strength)

    @classmethod
    def from_aux(cls, aux: bytes, size: int) -> Version:
        """Read what `aux` wrote.  Raises CallerError if that is not what it is."""
        try:
            form, strength, etag, last_modified, encoding = aux.decode("ascii").split("\n")
            if form == _FORMAT:
                return cls(size, etag, last_modified, encoding, Strength(strength))
        except ValueError:
            pass
        raise CallerError(f"not a label of an HTTP resource: {aux!r}")

    @property
    def aux(self) -> bytes:
        """The label.  It holds the strength too: bytes read under weak evidence stay unproven for ever."""
        fields = (_FORMAT, self.strength.value, self.etag, self.last_modified, self.encoding)
        return "\n".join(fields).encode("ascii")

    @property
    def preconditions(self) -> dict[str, str]:
        """The headers with which a server refuses (412) to send another version."""
        if _STRONG_TAG.fullmatch(self.etag):
            return {"If-Match": self.etag}
        if self.last_modified:
            return {"If-Unmodified-Since": self.last_modified}
        return {}

    def difference(self, headers: Mapping[str, str], size: int | None) -> str:
        """What shows that an answer is of another version; empty if nothing does.

        ``size`` is that of the whole, if the answer tells.
        """
        other = Version.of(headers, self.size if size is None else size)
        if other.size != self.size:
            return f"{other.size} bytes instead of {self.size}"
        if other.encoding != self.encoding:
            return f"content encoding {other.encoding or 'identity'} instead of {self.encoding or 'identity'}"
        if self.etag and other.etag and other.etag != self.etag:
            return f"etag {other.etag} instead of {self.etag}"
        # Servers of one farm may agree on the tag of a file and not on when it was copied to them.
        agreed = _is_strong(self.etag) and self.etag == other.etag
        if not agreed and self.last_modified and other.last_modified not in ("", self.last_modified):
            return f"last modified {other.last_modified} instead of {self.last_modified}"
        return ""

    def proven_by(self, headers: Mapping[str, str]) -> bool:
        """Whether an answer without a `difference` has the `validator` to agree with."""
        other = Version.of(headers, self.size)
        return bool(other.etag if self.etag else other.last_modified) or not self.validator

    @property
    def validator(self) -> str:
        """The name of the best validator the version has; empty if it has none."""
        return "ETag" if self.etag else "Last-Modified" if self.last_modified else ""

    def proves(self, stored: Version) -> bool:
        """Whether what was stored under ``stored`` is this version although the labels may differ."""
        return (
            self.strength is Strength.STRONG
            and stored.strength is Strength.STRONG
            and bool(self.etag)
            and (self.etag, self.size, self.encoding) == (stored.etag, stored.size, stored.encoding)
        )

    @property
    def attributes(self) -> FileAttributes:
        evidence = [f"etag {self.etag}"] if self.etag else []
        if self.last_modified:
            evidence.append(f"last-modified {self.last_modified}")
        if self.encoding:
            evidence.append(f"content-encoding {self.encoding}")
        modified = _seconds(self.last_modified)
        return FileAttributes(
            kind=FileKind.FILE,
            size=self.size,
            mtime_ns=None if modified is None else modified * 1_000_000_000,
            evidence=" ".join(evidence) or "no validator",
            strength=self.strength,
        )


def _is_strong(etag: str) -> bool:
    """Whether it is a strong tag by the grammar.  One without quotes is no tag, and not relied on."""
    return etag.startswith(_HASHED) or _STRONG_TAG.fullmatch(etag) is not None


def _fitting(etag: str) -> str:
    """The tag, or its hash if a label or a request could not hold it.  A weak one stays weak."""
    if len(etag) <= 300 and etag.isascii():
        return etag
    digest = hashlib.sha256(etag.encode("utf-8", "surrogatepass")).hexdigest()
    return _HASHED + digest if etag[0] == etag[-1] == '"' else f'W/"{_HASHED}{digest}"'


def _seconds(date: str) -> int | None:
    """An HTTP date as seconds since the epoch; None if it is none."""
    try:
        parsed = parsedate_to_datetime(date if date.isascii() and len(date) <= 64 else "")
    except (ValueError, TypeError, IndexError):
        return None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return int((parsed - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
