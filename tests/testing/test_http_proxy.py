"""The proxy passes on what it is not told to spoil."""

from __future__ import annotations

import http.client
import random
from typing import TYPE_CHECKING

import pytest

from fscache_core.testing.http_origin import CountingOrigin, Fault
from fscache_core.testing.http_proxy import HttpProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fscache_core.testing.s3_server import S3Server

DATA = random.Random(3).randbytes(200_000)


@pytest.fixture
def origin() -> Iterator[CountingOrigin]:
    with CountingOrigin({"a": DATA, "empty": b""}) as origin:
        yield origin


@pytest.fixture
def proxy(origin: CountingOrigin) -> Iterator[HttpProxy]:
    with HttpProxy(origin.host, origin.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: HttpProxy) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection(proxy.host, proxy.port, timeout=240)
    yield client
    client.close()


def ask(
    client: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    client.request(method, path, headers=headers)
    response = client.getresponse()
    return response, response.read()


def test_answers_come_as_they_are(
    origin: CountingOrigin, proxy: HttpProxy, client: http.client.HTTPConnection
) -> None:
    for _ in range(2):
        response, body = ask(client, "/a")
        assert (response.status, body, response.getheader("ETag")) == (200, DATA, origin.etag("a"))
        response, body = ask(client, "/a", Range="bytes=10-19")
        assert (response.status, body) == (206, DATA[10:20])
        response, body = ask(client, "/a", "HEAD")
        assert (response.status, body, response.getheader("Content-Length")) == (200, b"", str(len(DATA)))
        assert ask(client, "/empty")[1] == b""
        assert ask(client, "/none")[0].status == 404
    assert (origin.n_connections, proxy.n_connections) == (1, 1)
    assert proxy.bytes_for("a") == 2 * (len(DATA) + 10)


def test_a_status_is_answered_without_the_server(
    origin: CountingOrigin, proxy: HttpProxy, client: http.client.HTTPConnection
) -> None:
    proxy.fault("a", Fault(status=503, body=b"<Code>SlowDown</Code>"))
    response, body = ask(client, "/a")
    assert (response.status, body) == (503, b"<Code>SlowDown</Code>")
    assert origin.n_requests == 0
    assert ask(client, "/a")[1] == DATA


@pytest.mark.parametrize(
    "fault", [Fault(reset_after=70_000), Fault(short_by=1), Fault(reset_after=0)], ids=repr
)
def test_a_body_is_broken_off_and_the_next_comes_whole(
    proxy: HttpProxy, client: http.client.HTTPConnection, fault: Fault
) -> None:
    proxy.fault("a", fault)
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(client, "/a")
    client.close()
    assert ask(client, "/a")[1] == DATA


def test_a_content_range_is_replaced(proxy: HttpProxy, client: http.client.HTTPConnection) -> None:
    proxy.fault("a", Fault(content_range="bytes 0-9/5"))
    response, body = ask(client, "/a", Range="bytes=10-19")
    assert (response.getheader("Content-Range"), body) == ("bytes 0-9/5", DATA[10:20])


def test_a_server_that_is_gone_breaks_the_connection(
    origin: CountingOrigin, client: http.client.HTTPConnection
) -> None:
    assert ask(client, "/a")[1] == DATA
    origin.stop()
    with pytest.raises(OSError, match=r"reset|closed|Broken"):
        ask(client, "/a")
    client.close()
    origin.start()
    assert ask(client, "/a")[1] == DATA


@pytest.mark.integration
def test_signed_requests_stay_valid(fscache_s3: S3Server) -> None:
    from fscache_core.testing.s3_client import S3Client

    with HttpProxy(fscache_s3.host, fscache_s3.port) as proxy:
        client = S3Client(
            proxy.host, proxy.port, fscache_s3.access_key, fscache_s3.secret_key, fscache_s3.region
        )
        client.create_bucket("fscache-proxy")
        client.put("fscache-proxy", "a key", DATA)
        assert client.get("fscache-proxy", "a key") == DATA
        assert fscache_s3.get("fscache-proxy", "a key") == DATA
        client.close()
        assert [exchange.path for exchange in proxy.exchanges][-1] == "fscache-proxy/a key"
