"""Files on an SFTP server, for fscache."""
