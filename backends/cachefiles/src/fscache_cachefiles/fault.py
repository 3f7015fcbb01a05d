"""What the filesystem says, as the contract between core and backends wants it."""

import errno

from fscache_core.errors import CacheIOError, FscacheError, NoSpaceError, WorldError

#: What a filesystem or the kernel says when there is no room: no fault of the cache.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# What a failing disk says.  Everything else concerns one object only.
_IO_ERRORS = frozenset(
    {errno.EIO, errno.ENODEV, errno.ENXIO, errno.EUCLEAN, errno.ESHUTDOWN, errno.EREMOTEIO}
)


def translated(error: OSError, doing: str) -> FscacheError:
    """The error to raise for one of the filesystem's.

    Args:
      doing: what failed, for the message.
    """
    number = error.errno or errno.EIO
    where = f"{error.filename}: " if isinstance(error.filename, str) else ""
    text = f"cachefiles: {doing}: {where}{error.strerror or error}"
    if number in NO_ROOM:
        return NoSpaceError(text)
    if number in _IO_ERRORS:
        return CacheIOError(text, errno=number)
    return WorldError(text, errno=number)
