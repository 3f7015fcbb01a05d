"""Keys of a bucket, page by page (ListObjectsV2).

Asked for with a signed URL and the standard library: object_store's own listing fails as a whole when it
meets one key its paths cannot hold, and folds ``a`` and ``/a`` into one.
"""

from __future__ import annotations

import http.client
import re
import urllib.request
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote_plus

from netfs_s3.fault import Fault, FaultKind, from_urllib
from netfs_s3.version import ObjectVersion

# A key may hold characters that no XML can.  Asked to encode keys Ceph does so, but not in the prefix and the
# continuation token, which is a key: there it writes a reference for a control character, which only XML 1.1
# has, and U+FFFE and U+FFFF as they are.  They are parsed as the mark and their number.
_MARK = "\ue000"
_UNPARSABLE = re.compile(f"&#x(?!00)([01][0-9a-f]);|[{_MARK}\ufffe\uffff]")
_MARKED = re.compile(f"{_MARK}([0-9a-f]+);")


@dataclass(frozen=True, slots=True)
class Page:
    objects: tuple[tuple[str, ObjectVersion], ...]  #: key and version
    prefixes: tuple[str, ...]  #: ending in ``/``
    continuation: str | None  #: for the next page; None after the last


def request_page(url: str, *, timeout_seconds: float) -> Page:
    """GET and parse; blocks.  Raises Fault."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:
            return parse_page(answer.read())
    except (OSError, http.client.HTTPException) as error:
        raise from_urllib(error) from None


def parse_page(body: bytes) -> Page:
    """Raises Fault."""
    try:
        root = ET.fromstring(body)
    except ET.ParseError as error:
        root = _parse_marked(body, error)
    # Every element is in a namespace, or in none, depending on the server.
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    encoded = root.findtext("EncodingType") == "url"

    def name(text: str | None) -> str:
        return unquote_plus(text or "") if encoded else text or ""

    try:
        objects = tuple(
            (
                name(item.findtext("Key")),
                ObjectVersion(
                    size=int(item.findtext("Size") or 0),
                    e_tag=item.findtext("ETag"),
                    mtime_ns=_nanoseconds(item.findtext("LastModified")),
                ),
            )
            for item in root.iterfind("Contents")
        )
    except ValueError as error:
        raise Fault(FaultKind.OTHER, f"listing cannot be understood: {error}") from None
    prefixes = tuple(name(item.findtext("Prefix")) for item in root.iterfind("CommonPrefixes"))
    truncated = root.findtext("IsTruncated") == "true"
    return Page(objects, prefixes, root.findtext("NextContinuationToken") if truncated else None)


def _parse_marked(body: bytes, refusal: ET.ParseError) -> ET.Element:
    """Parse what would be XML if that could hold every character.  Raises Fault."""

    def marked(match: re.Match[str]) -> str:
        return f"{_MARK}{match[1] or format(ord(match[0]), 'x')};"

    try:
        root = ET.fromstring(_UNPARSABLE.sub(marked, body.decode()))
    except (ET.ParseError, UnicodeDecodeError):
        raise Fault(FaultKind.OTHER, f"listing is not XML: {refusal}") from None
    for element in root.iter():
        element.text = _MARKED.sub(lambda m: chr(int(m[1], 16)), element.text or "")
    return root


def _nanoseconds(text: str | None) -> int | None:
    return None if text is None else int(datetime.fromisoformat(text).timestamp()) * 10**9
