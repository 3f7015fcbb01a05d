"""How an object is named: ``s3://BUCKET/KEY`` and ``s3://BUCKET/KEY?versionId=ID``.

The key is taken literally, as the ``aws`` command does: nothing is percent-decoded, and ``#``, ``?``, ``%``,
spaces, ``//`` and a leading or trailing ``/`` are ordinary characters of it.  One suffix is special,
``?versionId=ID`` at the very end, which names one version of the object.  (A key that really ends like that
is reached by adding its version once more: ``…?versionId=x?versionId=null``.)

A path within the volume is the URL without ``s3://BUCKET/``; the empty path is the bucket itself, a
directory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fscache_core.errors import CallerError

SCHEME = "s3://"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_VERSION_SUFFIX = re.compile(r"\?versionId=([^/?&#\s]+)\Z")
_KEY_SIZE_MAX = 1024


@dataclass(frozen=True, slots=True)
class ObjectName:
    """A key, and the id of a version if the user asked for one in particular."""

    key: str
    version_id: str | None = None

    @property
    def path(self) -> str:
        return self.key if self.version_id is None else f"{self.key}?versionId={self.version_id}"


def split_url(url: str) -> tuple[str, str]:
    """Return bucket and path.

    Raises:
      CallerError: not an ``s3://`` URL, or no bucket or key that S3 can have.
    """
    if url[: len(SCHEME)].lower() != SCHEME:
        raise CallerError(f"not an s3:// URL: {printable(url)}")
    bucket, _, path = url[len(SCHEME) :].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise CallerError(f"{printable(url)}: {printable(bucket)!r} cannot be the name of a bucket")
    parse_path(path)
    return bucket, path


def parse_path(path: str) -> ObjectName:
    """Split a path into key and version.

    Raises:
      CallerError: a key that S3 cannot have (more than 1024 bytes, not Unicode), or one that no URL can
        carry: every HTTP client resolves the segments ``.`` and ``..`` before it sends them.
    """
    found = _VERSION_SUFFIX.search(path)
    name = ObjectName(path[: found.start()], found[1]) if found else ObjectName(path)
    try:
        key_size = len(name.key.encode())
    except UnicodeEncodeError as error:
        raise CallerError(f"key is not Unicode: {printable(path)}") from error
    if key_size > _KEY_SIZE_MAX:
        raise CallerError(f"key is longer than {_KEY_SIZE_MAX} bytes: {printable(path)}")
    if "\0" in name.key:
        raise CallerError(f"key with a NUL: {printable(path)}")
    if not {".", ".."}.isdisjoint(name.key.split("/")):
        raise CallerError(f"key with a segment '.' or '..' cannot be sent over HTTP: {printable(path)}")
    return name


def printable(text: str) -> str:
    """``text`` on one line, whatever is in it."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
