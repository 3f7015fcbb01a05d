"""Objects in an S3 bucket, for fscache."""

from netfs_s3.netfs import S3Netfs

__all__ = ["S3Netfs"]
