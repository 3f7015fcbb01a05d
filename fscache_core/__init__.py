"""fscache: a plugin-based storage-cache framework with the shape of Linux FS-Cache.

This namespace is for programs that read files through the cache.  Writers of backends and adapters
import `fscache_core.hookspecs`; users of the cookie interface `fscache_core.cookie` and `fscache_core.page`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fscache_core.cache import Cache
    from fscache_core.coherency import Coherency, CoherencyMode
    from fscache_core.domain import Limits
    from fscache_core.errors import (
        CacheIOError,
        CacheUnusableError,
        CallerError,
        FscacheError,
        InstallationError,
        NoMemoryError,
        NoSpaceError,
        OfflineError,
        OriginError,
        OriginNotFoundError,
        OriginPermissionError,
        OriginTimeoutError,
        OriginUnreachableError,
        PluginError,
        StaleError,
        UnsupportedError,
        WorldError,
    )
    from fscache_core.file import File
    from fscache_core.fscache import FsCache, open_fscache
    from fscache_core.hookspecs import DirectoryEntry, FileAttributes, FileKind, Strength
    from fscache_core.object import object_states
    from fscache_core.readahead import Readahead
    from fscache_core.stats import Stats, VolumeStats
    from fscache_core.volume import Volume
else:
    # Each name is imported when it is used (PEP 562): who wants one module of core need not import all of it.
    _MODULES = {
        "cache": ("Cache",),
        "coherency": (
            "Coherency",
            "CoherencyMode",
        ),
        "domain": ("Limits",),
        "errors": (
            "CacheIOError",
            "CacheUnusableError",
            "CallerError",
            "FscacheError",
            "InstallationError",
            "NoMemoryError",
            "NoSpaceError",
            "OfflineError",
            "OriginError",
            "OriginNotFoundError",
            "OriginPermissionError",
            "OriginTimeoutError",
            "OriginUnreachableError",
            "PluginError",
            "StaleError",
            "UnsupportedError",
            "WorldError",
        ),
        "file": ("File",),
        "fscache": (
            "FsCache",
            "open_fscache",
        ),
        "hookspecs": (
            "DirectoryEntry",
            "FileAttributes",
            "FileKind",
            "Strength",
        ),
        "object": ("object_states",),
        "readahead": ("Readahead",),
        "stats": (
            "Stats",
            "VolumeStats",
        ),
        "volume": ("Volume",),
    }
    _PLACES = {name: module for module, names in _MODULES.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *_PLACES})


__all__ = [
    "Cache",
    "CacheIOError",
    "CacheUnusableError",
    "CallerError",
    "Coherency",
    "CoherencyMode",
    "DirectoryEntry",
    "File",
    "FileAttributes",
    "FileKind",
    "FsCache",
    "FscacheError",
    "InstallationError",
    "Limits",
    "NoMemoryError",
    "NoSpaceError",
    "OfflineError",
    "OriginError",
    "OriginNotFoundError",
    "OriginPermissionError",
    "OriginTimeoutError",
    "OriginUnreachableError",
    "PluginError",
    "Readahead",
    "StaleError",
    "Stats",
    "Strength",
    "UnsupportedError",
    "Volume",
    "VolumeStats",
    "WorldError",
    "object_states",
    "open_fscache",
]
