"""The index of a volume: the cookie below which its files are, and what caches have stored there, by key.

A file that is to go is found by its key: it may be stored in a cache that would not be chosen for it now, and
nobody need know its path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fscache_core import object_request
from fscache_core.cache_selection import choose_cache
from fscache_core.cookie import Cookie, acquire_cookie
from fscache_core.cookie_definition import CookieDefinition
from fscache_core.inode import Inode
from fscache_core.outcome import CookieType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fscache_core.cache import Cache
    from fscache_core.plugins import NetfsFacade


def definition(netfs: NetfsFacade) -> CookieDefinition:
    """The definition of the cookies of a netfs's volumes."""
    select_cache = netfs.select_cache
    return CookieDefinition(
        f"{netfs.name[:8]}.volume",
        CookieType.INDEX,
        netfs=netfs.name,
        get_key=lambda volume: netfs.get_key(volume),
        select_cache=None
        if select_cache is None
        else lambda volume, file: select_cache(volume, file.netfs_data if isinstance(file, Inode) else file),
    )


def caches_for(index: Cookie, file: object) -> Sequence[Cache]:
    """Every cache: first the one in which this file would be stored."""
    chosen = choose_cache(index, file)
    return sorted(index.domain.caches, key=lambda cache: cache is not chosen)


async def stored_keys(index: Cookie) -> dict[tuple[int, bytes], list[Cache]]:
    """What is stored below the volume, and in which caches."""
    stored: dict[tuple[int, bytes], list[Cache]] = {}
    for cache in list(index.domain.caches):
        obj = await index.index_object(cache)
        if obj is None:
            continue
        for child in await object_request.child_keys(obj):
            stored.setdefault(child, []).append(cache)
    return stored


async def retire(index: Cookie, kind: int, key: bytes, caches: Sequence[Cache]) -> None:
    """Delete what caches have stored under a key, whoever may be reading it.

    Cancellation: some of it may be left, and may have become unreadable; callers shield it.
    """
    for cache in caches:
        _disown(index, kind, key)
        cookie = acquire_cookie(index.domain, index, _by_key(kind), key, cache=cache)
        cookie.supersede()  # others may open, or retire, the same file meanwhile
        if kind == CookieType.INDEX:
            await cookie.index_object(cache)
        objects = list(cookie.objects)
        await cookie.wait_lookup()
        await cookie.relinquish(retire=True)
        for obj in objects:
            await obj.wait_dead()
    _disown(index, kind, key)  # who opened it meanwhile may have found what was to go


def _by_key(kind: int) -> CookieDefinition:
    """A cookie for whatever is stored under a key, its ``netfs_data``: it adopts, and creates nothing."""
    return CookieDefinition("by key", kind, get_key=lambda key: key, get_aux=lambda _: None)  # type: ignore[arg-type,return-value]


def _disown(index: Cookie, kind: int, key: bytes) -> None:
    """Let the next open of a file take none of what is in use now."""
    holder = index.children.get((kind, key))
    if holder is not None and isinstance(holder.netfs_data, Inode):
        holder.netfs_data.become_stale()
