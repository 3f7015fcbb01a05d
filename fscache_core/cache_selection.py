"""In which cache a data cookie is kept (reference section 9).

An index that has an object stays where it is.  Else the netfs may name a tag, and without one it is the cache
that was added last.  Better than the reference: broken caches, and objects in them or dying, are passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fscache_core.errors import FscacheError
from fscache_core.hook_call import ask_netfs, blame_netfs
from fscache_core.outcome import CookieType

if TYPE_CHECKING:
    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie


def choose_cache(parent: Cookie, netfs_data: object) -> Cache | None:
    """The cache for a data cookie below ``parent``, now; None if there is none for it.

    Args:
      netfs_data: of the data cookie.
    """
    domain = parent.domain
    for obj in parent.objects:
        if obj.live and obj.cache.usable:
            return obj.cache
    if parent.type != CookieType.INDEX:
        return None
    tag_name = _preferred_tag(parent, netfs_data)
    if tag_name is not None:
        tag = domain.tags.get(tag_name)
        cache = tag.cache if tag is not None else None
        return cache if cache is not None and cache.usable else None
    return next((cache for cache in domain.caches if cache.usable), None)


def _preferred_tag(parent: Cookie, netfs_data: object) -> str | None:
    select = parent.definition.select_cache
    if select is None:
        return None
    try:
        return ask_netfs(parent, "select_cache", str | None, select, netfs_data)  # type: ignore[arg-type]
    except FscacheError as error:
        blame_netfs(parent, "select_cache", error)
        return None
