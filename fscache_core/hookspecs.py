"""THE contract between core and its plugins: what a backend and a netfs adapter implement.

A backend is any object whose methods, marked with `cache_hook`, implement hooks of
`CacheSpec`, which are in `cache_hooks`, `object_hooks` and `page_hooks`; an adapter implements hooks of
`NetfsSpec`, in `netfs_hooks`, marked with `netfs_hook`.  All names are to be had from this module.  An
implementation takes the arguments it needs, by these names, in this order; core rejects hooks it does
not know, arguments that do not exist and missing mandatory hooks when the plugin is added.

Rules that hold for every hook:

* Hooks that may block are async and run in core's trio loop.  Blocking system calls go to
  worker threads.  Every ``await`` may raise ``trio.Cancelled``: let it through.
* What a caller must handle is a value from `fscache_core.outcome`.  An exception that a docstring
  does not list is the plugin's fault: core logs it with the plugin's name, ends the object, and
  the reader goes on from the origin.
* Buffers are borrowed: after a hook returned, it keeps no reference to a buffer it was given.
* ``first``, ``n_pages`` count pages of `PAGE_SIZE` (4096) bytes; ``offset`` and ``..._size`` bytes.

The ``Kernel:`` line of a docstring names the counterpart in Linux FS-Cache before 5.17.
``Cancellation:`` is one of ``no-effect``, ``all-or-nothing``, ``may-be-partial``, ``shielded``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

import pluggy

from fscache_core.cache_hooks import CacheHooks, Problem, VerifyReport
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.netfs_hooks import (
    DirectoryEntry,
    FileAttributes,
    FileKind,
    Location,
    NetfsSpec,
    Strength,
)
from fscache_core.object_hooks import ObjectHooks
from fscache_core.outcome import (
    NOT_RESIDENT,
    AuxOutcome,
    ConsistencyOutcome,
    CookieType,
    KillReason,
    LockOutcome,
    LookupOutcome,
    ReadOutcome,
    ReserveOutcome,
    WriteOutcome,
)
from fscache_core.page_hooks import PageHooks

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "API_VERSION",
    "NOT_RESIDENT",
    "PAGE_SIZE",
    "AuxOutcome",
    "CacheSpec",
    "ConsistencyOutcome",
    "CookieType",
    "DirectoryEntry",
    "FileAttributes",
    "FileKind",
    "Folio",
    "KillReason",
    "Location",
    "LockOutcome",
    "LookupOutcome",
    "NetfsSpec",
    "Problem",
    "ReadOutcome",
    "ReserveOutcome",
    "Strength",
    "VerifyReport",
    "Wrapper",
    "WriteOutcome",
    "cache_hook",
    "netfs_hook",
]

#: A plugin may carry ``api_version``; core refuses one that differs from this.
API_VERSION = 1

P = ParamSpec("P")
R = TypeVar("R")

#: Marks a method of a backend as the implementation of the hook of its name.
cache_hook = pluggy.HookimplMarker("fscache.backend")
#: Marks a method of a netfs adapter as the implementation of the hook of its name.
netfs_hook = pluggy.HookimplMarker("fscache.netfs")


class CacheSpec(CacheHooks, ObjectHooks, PageHooks):
    """Hooks of a cache backend, after ``struct fscache_cache_ops``."""


class Wrapper(Protocol):
    """Wraps hooks of the cache or netfs it is added to, without the plugin's knowledge.

    Found in the group ``fscache.wrapper``.  Tracing, fault injection, encryption and rate limits are
    built this way.  pluggy's own wrappers cannot await, hence this protocol.
    """

    def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
        """Return what is to be called in place of ``proceed``, or ``proceed`` itself.

        Called once per hook when the cache is added; ``hook`` is its name.  For an async hook
        ``proceed`` is an async function and so must be the result.  The wrapper added first is outermost.
        """
        ...
