"""A cache in a directory, shared by any number of processes: the cachefiles backend of fscache."""

from fscache_cachefiles.backend import CachefilesBackend
from fscache_cachefiles.key import cook_key, uncook_key

__all__ = ["CachefilesBackend", "cook_key", "uncook_key"]
