"""Files on an SFTP server, for fscache."""

from netfs_sshfs.adapter import SshfsNetfs

__all__ = ["SshfsNetfs"]
