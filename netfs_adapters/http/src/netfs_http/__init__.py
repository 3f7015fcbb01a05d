"""Resources of an HTTP server as files of an origin, for fscache."""

from netfs_http.netfs import HttpNetfs

__all__ = ["HttpNetfs"]
