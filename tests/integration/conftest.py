"""One tree on two real servers, for all tests of this directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from fscache_core.testing.tree import make_tree

if TYPE_CHECKING:
    from pathlib import Path

    from fscache_core.testing.s3_server import S3Server
    from fscache_core.testing.sftp_server import SftpServer

BUCKET = "fscache-integration"


@dataclass(frozen=True, slots=True)
class Origins:
    """Both servers with the same tree."""

    sftp: SftpServer
    s3: S3Server
    sha256: dict[str, str]  #: URL -> of the content
    size: int  #: bytes, both servers together

    @property
    def netfs_options(self) -> dict[str, dict[str, object]]:
        """Options of the two adapters."""
        return {
            "sshfs": {"client_keys": str(self.sftp.client_key), "known_hosts": str(self.sftp.known_hosts)},
            "s3": {"endpoint": self.s3.endpoint, "region": self.s3.region},
        }

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.s3.access_key, "AWS_SECRET_ACCESS_KEY": self.s3.secret_key}


@pytest.fixture(scope="session")
def origins(
    fscache_sftp: SftpServer, fscache_s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Origins:
    tree: Path = fscache_sftp.root / "integration"
    files = make_tree(tree, seed=7, n_files=60, large_size=24 << 20)
    fscache_s3.create_bucket(BUCKET)
    fscache_s3.put_tree(BUCKET, tree)
    sftp_base = f"sshfs://{fscache_sftp.user}@{fscache_sftp.host}:{fscache_sftp.port}{tree}"
    sha256 = {}
    for path, file in files.items():
        sha256[f"{sftp_base}/{quote(path)}"] = file.sha256
        sha256[f"s3://{BUCKET}/{path}"] = file.sha256
    return Origins(fscache_sftp, fscache_s3, sha256, 2 * sum(file.size for file in files.values()))
