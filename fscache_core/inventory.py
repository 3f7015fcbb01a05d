"""The indices that the caches have stored, brought to life so that the object list shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fscache_core.cookie import Cookie, CookieDefinition, acquire_cookie
from fscache_core.object_request import child_keys
from fscache_core.outcome import CookieType

if TYPE_CHECKING:
    from fscache_core.cache import Cache
    from fscache_core.fscache import FsCache

#: An index that is adopted as it is stored.
_STORED = CookieDefinition(
    "stored",
    CookieType.INDEX,
    get_key=lambda key: key if isinstance(key, bytes) else b"",
    get_aux=lambda _: None,
)


async def open_indices(fscache: FsCache) -> None:
    """Give every index that is stored an object, until the `FsCache` is closed.

    Data objects are left alone: looking one up counts as using it, and would tell culling to spare it.
    """
    for cache in fscache.caches:
        await _open_below(cache, fscache.master_index)


async def _open_below(cache: Cache, index: Cookie) -> None:
    obj = await index.index_object(cache)
    if obj is None or cache.backend.child_keys is None:
        return
    for kind, key in await child_keys(obj):
        if kind == CookieType.INDEX:
            known = index.children.get((kind, key))
            await _open_below(cache, known or acquire_cookie(index.domain, index, _STORED, key))
