"""A cache in the memory of one process: the memory backend of fscache."""

from fscache_memory.backend import MemoryBackend

__all__ = ["MemoryBackend"]
