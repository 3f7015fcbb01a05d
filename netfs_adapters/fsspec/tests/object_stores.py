"""Two stores of objects, each with a bucket, and adapters for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from fscache_core.testing.workspace import LOOPBACK
from netfs_fsspec import FsspecNetfs

if TYPE_CHECKING:
    from fscache_core.testing.s3_server import S3Server

BUCKET = "netfs-fsspec-test"


class S3Store:
    """Ceph, or what there is in its place; read through s3fs."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.port = server.port

    def put(self, name: str, data: bytes) -> list[str]:
        """Returns what its evidence is to name."""
        self.server.put(BUCKET, name, data)
        return ["ETag"]

    def delete(self, name: str) -> None:
        self.server.delete(BUCKET, name)

    def url(self, name: str) -> str:
        return f"fsspec:s3://{BUCKET}/{name}"

    def path(self, name: str) -> str:
        """Of the requests for its bytes."""
        return f"{BUCKET}/{name}"

    def netfs(self, port: int | None = None, **options: object) -> FsspecNetfs:
        """An adapter, through a proxy if its port is given."""
        endpoint = f"http://{LOOPBACK}:{self.port if port is None else port}"
        of_s3 = {
            "key": self.server.access_key,
            "secret": self.server.secret_key,
            "client_kwargs": {"endpoint_url": endpoint, "region_name": self.server.region},
            # botocore would ask again itself, and longer than the adapter's deadline.
            "config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 60, "read_timeout": 60},
        }
        return FsspecNetfs(storage_options={"s3": of_s3}, **{"backoff_seconds": 0.001, **options})  # type: ignore[arg-type]


class GcsStore:
    """An emulator of Google Cloud Storage, changed in ways that do not go through gcsfs."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, data: bytes | None = None) -> dict[str, object]:
        request = Request(f"http://{LOOPBACK}:{self.port}{path}", data, method=method)
        with urlopen(request, timeout=240) as answer:
            found: dict[str, object] = json.loads(answer.read() or b"{}")
        return found

    def put(self, name: str, data: bytes) -> list[str]:
        """Returns what its evidence is to name."""
        query = urlencode({"uploadType": "media", "name": name})
        generation = self.ask("POST", f"/upload/storage/v1/b/{BUCKET}/o?{query}", data)["generation"]
        return [f"generation {generation}", "etag", "md5Hash"]

    def delete(self, name: str) -> None:
        self.ask("DELETE", f"/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}")

    def url(self, name: str) -> str:
        return f"fsspec:gs://{BUCKET}/{name}"

    def path(self, name: str) -> str:
        """Of the requests for its bytes."""
        return f"download/storage/v1/b/{BUCKET}/o/{name}"

    def netfs(self, port: int | None = None, **options: object) -> FsspecNetfs:
        """An adapter, through a proxy if its port is given."""
        endpoint = f"http://{LOOPBACK}:{self.port if port is None else port}"
        of_gs = {"token": "anon", "project": "test", "endpoint_url": endpoint}
        return FsspecNetfs(storage_options={"gs": of_gs}, **{"backoff_seconds": 0.001, **options})  # type: ignore[arg-type]
