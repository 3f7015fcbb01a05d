"""Signed S3 requests on the standard library alone: how tests set up and look into a bucket.

Deliberately not the client that an adapter uses, so that a mistake made the same way in both directions
cannot hide.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from io import BufferedReader


class S3StatusError(RuntimeError):
    """The server answered with a status that the call does not expect.  ``status`` is that number."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class S3Response:
    """One answer.  Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def etag(self) -> str:
        return self.headers.get("etag", "")

    @property
    def version_id(self) -> str | None:
        """The object's version, in a bucket with versioning."""
        return self.headers.get("x-amz-version-id")


class S3Client:
    """Path-style requests to one endpoint with one identity; one kept connection per thread.

    ``data`` is bytes, or a `Path` that is sent without reading it into memory.  Every method raises
    `S3StatusError` for an unexpected status and `OSError` if the server cannot be reached.
    """

    def __init__(self, host: str, port: int, access_key: str, secret_key: str, region: str) -> None:
        self._host = host
        self._port = port
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._of_thread = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def _signature(
        self, method: str, path: str, query: str, headers: Mapping[str, str], when: datetime
    ) -> str:
        """The ``Authorization`` header of AWS Signature Version 4, over all of `headers`."""
        names = ";".join(sorted(headers))
        lines = [method, path, query, *(f"{name}:{headers[name]}" for name in sorted(headers)), "", names]
        canonical = "\n".join([*lines, headers["x-amz-content-sha256"]])
        scope = f"{when:%Y%m%d}/{self._region}/s3/aws4_request"
        to_sign = "\n".join(
            ["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
        )
        key = b"AWS4" + self._secret_key.encode()
        for part in (*scope.split("/"), to_sign):
            key = hmac.digest(key, part.encode(), "sha256")
        credential = f"{self._access_key}/{scope}"
        return f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={key.hex()}"

    def request(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | Path = b"",
        expect: Iterable[int] = (200, 204),
    ) -> S3Response:
        """Send one signed request.  The body is not hashed (``UNSIGNED-PAYLOAD``): the loopback does not lose
        bytes."""
        path = quote(f"/{bucket}/{key}" if key else f"/{bucket}", safe="/~")
        query_text = "&".join(
            f"{quote(name, safe='~')}={quote(value, safe='~')}"
            for name, value in sorted((query or {}).items())
        )
        when = datetime.now(UTC)
        signed = {name.lower(): value for name, value in (headers or {}).items()}
        signed |= {
            "host": f"{self._host}:{self._port}",
            "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
            "x-amz-date": f"{when:%Y%m%dT%H%M%SZ}",
        }
        sent = {**signed, "authorization": self._signature(method, path, query_text, signed, when)}
        target = f"{path}?{query_text}" if query_text else path
        if isinstance(data, Path):
            with data.open("rb") as file:
                sent["content-length"] = str(os.fstat(file.fileno()).st_size)
                response = self._exchange(method, target, sent, file)
        else:
            sent["content-length"] = str(len(data))
            response = self._exchange(method, target, sent, data)
        if response.status not in expect:
            text = response.body[:500].decode(errors="replace")
            raise S3StatusError(f"{method} {target}: status {response.status} {text}", response.status)
        return response

    def _exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | BufferedReader
    ) -> S3Response:
        connection: http.client.HTTPConnection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=60, blocksize=1 << 20)
            self._of_thread.connection = connection
            self._connections.append(connection)
        reused = connection.sock is not None
        try:
            connection.request(method, target, body, dict(headers))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            if not reused:
                raise
            # A kept connection that the server has closed meanwhile (it was restarted): again on a new one.
            if not isinstance(body, bytes):
                body.seek(0)
            return self._exchange(method, target, headers, body)
        return S3Response(
            response.status, {name.lower(): value for name, value in response.getheaders()}, content
        )

    def close(self) -> None:
        """Close the connections of all threads; none may be in use.  A later call opens new ones."""
        for connection in self._connections:
            connection.close()

    def create_bucket(self, bucket: str, *, versioning: bool = False) -> None:
        """Create a bucket (names have at least 3 characters), with object versions kept if asked."""
        self.request("PUT", bucket)
        if versioning:
            xml = (
                b'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                b"<Status>Enabled</Status></VersioningConfiguration>"
            )
            self.request("PUT", bucket, query={"versioning": ""}, data=xml)

    def put(self, bucket: str, key: str, data: bytes | Path) -> S3Response:
        """Create or replace an object with a single PUT (no multipart, so the ETag is the MD5 of the
        data)."""
        return self.request("PUT", bucket, key, data=data)

    def put_tree(self, bucket: str, directory: Path, prefix: str = "", *, n_threads: int = 8) -> int:
        """Upload every regular file below `directory`, its relative path after `prefix` as the key; several
        at a time.

        Returns:
          the number of objects.
        """
        paths = [path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink()]
        # the largest first, so that it does not run alone at the end
        paths.sort(key=lambda path: path.stat().st_size, reverse=True)
        with ThreadPoolExecutor(n_threads, "fscache-s3-upload") as pool:
            uploads = [
                pool.submit(self.put, bucket, prefix + path.relative_to(directory).as_posix(), path)
                for path in paths
            ]
            for upload in uploads:
                upload.result()
        return len(paths)

    def get(self, bucket: str, key: str, *, version_id: str | None = None) -> bytes:
        return self.request("GET", bucket, key, query={"versionId": version_id} if version_id else None).body

    def head(self, bucket: str, key: str) -> S3Response:
        return self.request("HEAD", bucket, key)

    def delete(self, bucket: str, key: str) -> None:
        self.request("DELETE", bucket, key)
