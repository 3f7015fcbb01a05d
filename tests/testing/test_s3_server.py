"""Both S3 servers, with the signed client that comes with them and with an adapter's."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from fscache_core.testing.s3_client import S3Client, S3StatusError
from fscache_core.testing.s3_server import CephServer, MotoServer, S3Server, ceph_missing, moto_missing
from fscache_core.testing.tree import make_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=["ceph", "moto"])
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    ceph = request.param == "ceph"
    if (why := ceph_missing() if ceph else moto_missing()) is not None:
        pytest.skip(why)
    with CephServer() if ceph else MotoServer() as running:
        yield running


def test_any_key_and_any_bytes_come_back(server: S3Server) -> None:
    server.create_bucket("bytes")
    contents = {
        "empty": b"",
        "a b/ü+%~=&?#'日本": b"hello",
        "n" * 900: random.Random(1).randbytes(5_000_001),
    }
    for key, data in contents.items():
        server.put("bytes", key, data)
    assert {key: server.get("bytes", key) for key in contents} == contents
    server.delete("bytes", "empty")
    with pytest.raises(S3StatusError) as caught:
        server.get("bytes", "empty")
    assert caught.value.status == 404


def test_stopped_it_refuses_and_started_again_it_has_its_objects(server: S3Server) -> None:
    server.create_bucket("restart")
    server.put("restart", "key", b"before")
    endpoint = server.endpoint
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        server.get("restart", "key")
    server.start()
    assert server.endpoint == endpoint
    assert server.get("restart", "key") == b"before"
    server.put("restart", "key", b"after")
    assert server.get("restart", "key") == b"after"


def test_conditions_and_ranges_are_honoured(server: S3Server) -> None:
    server.create_bucket("conditions")
    etag = server.put("conditions", "key", b"0123456789").etag

    def status(method: str, name: str, value: str) -> int:
        answer = server.client.request(method, "conditions", "key", headers={name: value}, expect=range(600))
        return answer.status

    assert status("GET", "If-Match", etag) == 200
    assert status("GET", "If-Match", '"other"') == 412
    assert status("GET", "If-None-Match", etag) == 304
    assert status("GET", "Range", "bytes=2-4") == 206
    assert status("GET", "Range", "bytes=10-") == 416
    assert status("PUT", "If-None-Match", "*") == 412
    assert server.get("conditions", "key") == b"0123456789"


def test_versions_are_kept_where_asked(server: S3Server) -> None:
    server.create_bucket("versions", versioning=True)
    first = server.put("versions", "key", b"1")
    second = server.put("versions", "key", b"2")
    assert first.version_id
    assert first.version_id != second.version_id
    assert server.client.get("versions", "key", version_id=first.version_id) == b"1"
    assert server.get("versions", "key") == b"2"


def test_a_wrong_secret_is_refused_unless_the_server_says_that_it_cannot(server: S3Server) -> None:
    server.create_bucket("private")
    server.put("private", "key", b"x")
    stranger = S3Client(server.host, server.port, server.access_key, "wrong", server.region)
    try:
        status = stranger.request("GET", "private", "key", expect=range(600)).status
    finally:
        stranger.close()
    assert (status == 403) == ("authentication" not in server.lacks)


def test_a_whole_tree_is_uploaded(server: S3Server, tmp_path: Path) -> None:
    server.create_bucket("tree")
    manifest = make_tree(tmp_path, seed=1, n_files=40, large_size=9_000_000)
    assert server.put_tree("tree", tmp_path, prefix="top/") == len(manifest)
    for name in manifest:
        assert server.get("tree", f"top/{name}") == (tmp_path / name).read_bytes()


def test_obstore_reads_what_was_put(server: S3Server) -> None:
    obstore = pytest.importorskip("obstore.store")
    server.create_bucket("obstore")
    server.put("obstore", "a/b c", b"0123456789")
    store = obstore.S3Store(
        "obstore",
        endpoint=server.endpoint,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region=server.region,
        client_options={"allow_http": True},
    )
    assert bytes(store.get_range("a/b c", start=2, end=5)) == b"234"
