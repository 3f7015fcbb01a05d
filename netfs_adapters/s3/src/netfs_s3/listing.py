"""Keys of a bucket, page by page (ListObjectsV2).

Asked for with a signed URL and the standard library: object_store's own listing fails as a whole when it
meets one key its paths cannot hold, and folds ``a`` and ``/a`` into one.
"""

from __future__ import annotations

import http.client
import urllib.request
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote_plus

from netfs_s3.fault import Fault, FaultKind, from_urllib
from netfs_s3.version import ObjectVersion


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
        raise Fault(FaultKind.OTHER, f"listing is not XML: {error}") from None
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


def _nanoseconds(text: str | None) -> int | None:
    return None if text is None else int(datetime.fromisoformat(text).timestamp()) * 10**9
