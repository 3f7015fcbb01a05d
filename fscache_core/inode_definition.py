"""What the file layer says of the cookies of files: key, size and label are those of an inode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fscache_core.cookie_definition import CookieDefinition
from fscache_core.inode import Inode
from fscache_core.outcome import AuxOutcome, CookieType

if TYPE_CHECKING:
    from fscache_core.plugins import NetfsFacade


def _get_key(inode: object) -> bytes:
    assert isinstance(inode, Inode)
    return inode.netfs.get_key(inode.netfs_data)


def _get_attr(inode: object) -> int:
    assert isinstance(inode, Inode)
    return 0 if inode.attributes is None else inode.attributes.size


def _get_aux(inode: object) -> bytes | None:
    assert isinstance(inode, Inode)
    return inode.get_aux()


def _check_aux(inode: object, aux: bytes, object_size: int) -> AuxOutcome:
    assert isinstance(inode, Inode)
    return inode.check_aux(aux, object_size)


def inode_definition(netfs: NetfsFacade) -> CookieDefinition:
    """The definition of the cookies of a netfs's files."""

    def get_context(inode: object, context: object) -> None:
        assert isinstance(inode, Inode)
        assert netfs.get_context is not None
        netfs.get_context(inode.netfs_data, context)

    def put_context(inode: object, context: object) -> None:
        assert isinstance(inode, Inode)
        assert netfs.put_context is not None
        netfs.put_context(inode.netfs_data, context)

    def mark_pages_cached(inode: object, first: int, n_pages: int) -> None:
        assert isinstance(inode, Inode)
        assert netfs.mark_pages_cached is not None
        netfs.mark_pages_cached(inode.netfs_data, first, n_pages)

    def now_uncached(inode: object) -> None:
        assert isinstance(inode, Inode)
        assert netfs.now_uncached is not None
        netfs.now_uncached(inode.netfs_data)

    return CookieDefinition(
        name=netfs.name[:15],
        netfs=netfs.name,
        type=CookieType.DATA,
        get_key=_get_key,
        get_attr=_get_attr,
        get_aux=_get_aux,
        check_aux=_check_aux,
        get_context=get_context if netfs.get_context is not None else None,
        put_context=put_context if netfs.put_context is not None else None,
        mark_pages_cached=mark_pages_cached if netfs.mark_pages_cached is not None else None,
        now_uncached=now_uncached if netfs.now_uncached is not None else None,
    )
