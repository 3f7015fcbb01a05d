"""Both S3 servers, with the signed client that comes with them and with an adapter's."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from fscache_core.testing.s3_client import S3Client, S3StatusError
from fscache_core.testing.s3_server import (
    CephServer,
    MotoServer,
    S3Server,
    ceph_missing,
    moto_missing,
    s3_server,
)
from fscache_core.testing.tree import make_tree
from fscache_core.testing.workspace import ServerFailedError, ServerNotInstalledError

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


def test_an_upload_on_a_kept_connection_survives_a_restart_of_the_server(
    server: S3Server, tmp_path: Path
) -> None:
    server.create_bucket("kept")
    (tmp_path / "file").write_bytes(b"0123456789" * 100_000)
    client = S3Client(server.host, server.port, server.access_key, server.secret_key, server.region)
    try:
        client.put("kept", "key", b"before")
        server.stop()
        server.start()
        client.put("kept", "key", tmp_path / "file")
    finally:
        client.close()
    assert server.get("kept", "key") == b"0123456789" * 100_000


def test_started_and_stopped_twice_is_as_good_as_once(server: S3Server) -> None:
    server.create_bucket("twice")
    server.put("twice", "key", b"x")
    for _ in range(2):
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            server.get("twice", "key")
    for _ in range(2):
        server.start()
        assert server.get("twice", "key") == b"x"


def test_what_is_not_installed_is_named_and_the_other_server_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    if (why := moto_missing()) is not None:
        pytest.skip(why)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServerNotInstalledError, match=r"no ceph, ceph-mon, .*apt-get install"):
        CephServer()
    with s3_server() as server:
        assert server.name == "moto"
    monkeypatch.setitem(sys.modules, "werkzeug", None)
    with pytest.raises(ServerNotInstalledError, match=r"no werkzeug \(pip install 'moto\[s3,server\]'\)"):
        MotoServer()
    with pytest.raises(ServerNotInstalledError, match=r"no ceph, .*; no werkzeug"):
        s3_server()


def _install(directory: Path, program: str, text: str) -> None:
    (directory / program).write_text(f"#!/bin/sh\n{text}\n")
    (directory / program).chmod(0o755)


def test_a_gateway_that_gives_up_before_the_store_answers_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (why := ceph_missing()) is not None:
        pytest.skip(why)
    for program in ("radosgw", "radosgw-admin"):
        says = "Couldn't init storage provider (RADOS)"
        gives_up = f'mkdir {tmp_path}/{program}-tried && echo "{says}" >&2 && exit 5'
        _install(tmp_path, program, f'{gives_up}\nexec {shutil.which(program)} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with CephServer() as server:
        assert (tmp_path / "radosgw-tried").exists()
        assert (tmp_path / "radosgw-admin-tried").exists()
        server.create_bucket("late")
        server.put("late", "key", b"x")
        assert server.get("late", "key") == b"x"


@pytest.mark.parametrize(
    ("program", "text", "says"),
    [
        ("ceph", "echo no such command >&2; exit 22", r"ended with 22:.*no such command"),
        ("radosgw", "echo no such realm; exit 3", r"radosgw ended with 3:.*no such realm"),
        ("ceph-osd", 'case "$*" in *--mkfs*) ;; *) echo no such disk; exit 1 ;; esac', r"no such disk"),
    ],
)
def test_a_program_of_ceph_that_fails_is_told_in_its_own_words_and_nothing_is_left(
    program: str, text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (why := ceph_missing()) is not None:
        pytest.skip(why)
    _install(tmp_path, program, text)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert shutil.which(program) == str(tmp_path / program)
    with tempfile.TemporaryDirectory() as work:  # not below tmp_path: Ceph's sockets want a short path
        monkeypatch.setattr(tempfile, "tempdir", work)
        with pytest.raises(ServerFailedError, match=f"(?s){says}"):
            CephServer()
        assert os.listdir(work) == []
