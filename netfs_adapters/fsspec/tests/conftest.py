"""The tests' own modules, and the servers that several of them use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Importlib mode puts no directory on the path.
sys.path.insert(0, str(Path(__file__).parent))

from object_stores import BUCKET, GcsStore, S3Store  # type: ignore[import-not-found]

from fscache_core.testing.workspace import LOOPBACK, Workspace, free_port, port_is_open

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fscache_core.testing.s3_server import S3Server


@pytest.fixture(scope="session")
def s3(fscache_s3: S3Server) -> S3Store:
    pytest.importorskip("s3fs", reason="no s3fs (pip install s3fs)")
    fscache_s3.create_bucket(BUCKET)
    return S3Store(fscache_s3)


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsStore]:
    pytest.importorskip("gcp_storage_emulator", reason="no emulator (pip install gcp-storage-emulator)")
    with pytest.MonkeyPatch.context() as environment:
        # Read when gcsfs is imported. It asks over gRPC whether a bucket has directories of its own, which
        # the emulator does not speak, and waits for a minute to learn so.
        environment.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        pytest.importorskip("gcsfs", reason="no gcsfs (pip install gcsfs)")
    workspace = Workspace("gcs", tmp_path_factory.mktemp("gcs"))
    try:
        port = free_port()
        emulator = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory"]
        options = ["--host", LOOPBACK, "--port", str(port), "--default-bucket", BUCKET]
        process = workspace.spawn([*emulator, *options], "emulator.log")
        process.wait_ready(lambda: port_is_open(port), 240, "the emulator")
        yield GcsStore(port)
    finally:
        workspace.close()
