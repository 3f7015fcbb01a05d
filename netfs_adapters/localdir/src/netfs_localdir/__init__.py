"""Files of any mounted directory (a slow disk, NFS, a FUSE mount), for fscache."""

from netfs_localdir.netfs import LocaldirNetfs

__all__ = ["LocaldirNetfs"]
