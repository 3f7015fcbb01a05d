"""URLs: ``fsspec:`` and an fsspec URL, which may be a chain such as ``zip://inner.txt::gs://bucket/a.zip``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fscache_core.errors import CallerError
from fscache_core.hookspecs import Location

_SCHEME = "fsspec:"
_PROTOCOL = re.compile(r"[a-z0-9][a-z0-9+._-]*")
_PASSWORD = re.compile(r"://([^/@:]*):[^/@]*@")

#: Caches of fsspec's own: what they serve may be old, and nothing would tell.  ``fscache`` would be a circle.
_REFUSED = frozenset({"blockcache", "cached", "filecache", "fscache", "simplecache"})


#: Of these, nothing before the path says which filesystem it is.
_ROOTLESS = frozenset({"memory"})
_LOCAL = frozenset({"file", "local"})


@dataclass(frozen=True, slots=True)
class Place:
    """A filesystem of fsspec: ``protocol://root``, or a protocol on top of the file that ``chain`` names."""

    protocol: str
    root: str  #: what follows ``://`` up to the path: bucket, host, or nothing
    chain: str  #: the rest of a chained URL; empty if there is none

    def url(self, path: str) -> str:
        """The fsspec URL of a path of this volume."""
        if self.chain:
            return f"{self.protocol}://{path.lstrip('/')}::{self.chain}"
        return f"{self.protocol}://{self.root}{path}"

    @property
    def protocols(self) -> list[str]:
        """Every protocol of the chain."""
        below = [part.partition("://")[0] for part in self.chain.split("::") if "://" in part]
        return [self.protocol, *below]

    @classmethod
    def of(cls, volume: str) -> Place:
        """The inverse of `volume`.  Raises CallerError."""
        url = volume.removeprefix(_SCHEME)
        first, _, chain = url.partition("::")
        protocol, _, root = first.partition("://")
        place = cls(protocol, root, chain)
        if not volume.startswith(_SCHEME) or place.volume != volume:
            raise CallerError(f"{volume}: not a volume of fsspec")
        return place

    @property
    def volume(self) -> str:
        """The volume as a `Location` has it."""
        chain = f"::{self.chain}" if self.chain else ""
        return f"{_SCHEME}{self.protocol}://{self.root}{chain}"


def split(url: str) -> Location:
    """Split a URL where its volume ends.  Raises CallerError."""
    if _PASSWORD.search(url):
        shown = _PASSWORD.sub(r"://\1:...@", url)
        raise CallerError(f"{shown}: no password in a URL; use the option storage_options")
    scheme, colon, rest = url.partition(":")
    first, _, chain = rest.partition("::")
    protocol, separator, path = first.partition("://")
    if scheme.lower() + colon != _SCHEME or not separator or not _PROTOCOL.fullmatch(protocol.lower()):
        raise CallerError(f"{url}: not of the form fsspec:PROTOCOL://...")
    place = Place(protocol.lower(), "", chain)
    if chain and not all("://" in part for part in chain.split("::")):
        raise CallerError(f"{url}: not every part is of the form PROTOCOL://...")
    for name in place.protocols:
        if name in _REFUSED:
            raise CallerError(f"{url}: {name} is a cache itself, and could serve what is old; leave it out")
    if chain or place.protocol in _ROOTLESS:
        return Location(place.volume, "/" + path.lstrip("/"))
    if place.protocol in _LOCAL and not path.startswith("/"):
        raise CallerError(f"{url}: the path must be absolute; write fsspec:{place.protocol}:///path")
    root, _, path = path.partition("/")
    return Location(Place(place.protocol, root, "").volume, "/" + path)
