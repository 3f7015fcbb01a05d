"""A registered netfs and its primary index (reference section 4)."""

from __future__ import annotations

import errno
import hashlib
import struct
from typing import TYPE_CHECKING

from fscache_core.cookie import MAX_KEY_SIZE, Cookie, CookieDefinition, acquire_cookie
from fscache_core.domain import log
from fscache_core.errors import CallerError, PluginError
from fscache_core.outcome import AuxOutcome, CookieType

if TYPE_CHECKING:
    from fscache_core.domain import Domain

_VERSION = struct.Struct("<I")


class Netfs:
    """A netfs by name, and the version of the format of its keys and aux data.

    Everything cached under another version is obsolete.  ``primary_index`` is the parent of its volumes.
    """

    __slots__ = ("name", "primary_index", "version")

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self.primary_index: Cookie


def _key(netfs: object) -> bytes:
    assert isinstance(netfs, Netfs)
    return netfs.name.encode()


def _aux(netfs: object) -> bytes:
    assert isinstance(netfs, Netfs)
    return _VERSION.pack(netfs.version)


def _check_aux(netfs: object, aux: bytes, _object_size: int) -> AuxOutcome:
    return AuxOutcome.OKAY if aux == _aux(netfs) else AuxOutcome.OBSOLETE


FSDEF_NETFS = CookieDefinition(
    "FSDEF.netfs", CookieType.INDEX, get_key=_key, get_aux=_aux, check_aux=_check_aux
)


def register_netfs(domain: Domain, master_index: Cookie, name: str, version: int) -> Netfs:
    """Register a netfs and give it its primary index.

    Raises:
      CallerError: the name is registered already (EEXIST), or empty.
    """
    if not name:
        raise CallerError("a netfs needs a name")
    if (CookieType.INDEX, name.encode()) in master_index.children:
        raise CallerError(f"netfs {name} is registered already", errno=errno.EEXIST)
    netfs = Netfs(name, version)
    # Not through the counters of acquire: primary indices are not counted there, as in the reference.
    stats = domain.stats
    before = stats.acquire_n, stats.acquire_ok, stats.cookies_idx
    netfs.primary_index = acquire_cookie(domain, master_index, FSDEF_NETFS, netfs)
    stats.acquire_n, stats.acquire_ok, stats.cookies_idx = before
    return netfs


async def unregister_netfs(netfs: Netfs) -> None:
    """Relinquish the primary index; what is cached stays."""
    await netfs.primary_index.relinquish()


def acquire_or_go_without(
    domain: Domain, parent: Cookie, definition: CookieDefinition, netfs_data: object
) -> Cookie:
    """The cookie of a file or volume; one that stays uncached if its netfs cannot name or label it.

    That is the netfs's fault and logged as such, but no reason not to read files from their origin.

    Raises:
      FscacheError: what the netfs raised on purpose; `acquire_cookie`'s own.
    """
    try:
        return acquire_cookie(domain, parent, definition, netfs_data)
    except PluginError as error:
        log.error("%s; %s is not cached", error, netfs_data, exc_info=error.__cause__)
    name = b"\0uncached %d" % id(netfs_data)  # nobody else's while the cookie lives
    uncached = CookieDefinition(definition.name, definition.type, get_key=lambda _: name)
    return acquire_cookie(domain, parent, uncached, netfs_data, enable=False)


def fit_key(name: bytes) -> bytes:
    """A key for a name of any length: the name itself, or a shortened form that no name can equal.

    The shortened form begins with NUL, which file names and URLs cannot hold.
    """
    if 1 <= len(name) <= MAX_KEY_SIZE:
        return name
    return b"\0sha256:" + hashlib.sha256(name).hexdigest().encode()
