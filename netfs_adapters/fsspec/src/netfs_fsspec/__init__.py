"""Any fsspec filesystem (gs, az, hdfs, ftp, zip, ...) as an origin, for fscache."""

from netfs_fsspec.netfs import FsspecNetfs

__all__ = ["FsspecNetfs"]
