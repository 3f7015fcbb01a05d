"""Memory for what is read with a range because it is summed up with it: the rest of its blocks."""

import mmap

from fscache_cachefiles.blockmap import BLOCK_SIZE

SCRATCH_SIZE = 2 * BLOCK_SIZE  #: bytes

_scratches: list[memoryview] = []  # those that no thread uses just now; what was used last is taken first


def take_scratch() -> memoryview:
    """Two blocks of memory, the caller's alone until `give_scratch`.

    Not the thread's: a signal handler or a finalizer may read, too, in the middle of a read.

    They begin with a page.  Large pieces of malloc's begin 16 bytes later, and to copy a page 16 bytes
    further on takes up to twice the time: what is written looks to the processor like what it reads next.
    """
    try:
        return _scratches.pop()
    except IndexError:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # private: a forked child has its own
        return memoryview(mmap.mmap(-1, SCRATCH_SIZE, flags=flags))


#: Give back what `take_scratch` gave.
give_scratch = _scratches.append
