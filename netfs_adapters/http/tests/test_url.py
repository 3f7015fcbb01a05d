"""URLs: which are the same, which are refused, and what of them is shown."""

from __future__ import annotations

import httpx
import pytest

from fscache_core.errors import CallerError
from fscache_core.hookspecs import Location
from netfs_http import HttpNetfs
from netfs_http.url import redacted


@pytest.mark.parametrize(
    ("url", "volume", "path"),
    [
        ("http://Host/a", "http://host", "/a"),
        ("HTTPS://host:443/a/b?x=1&y=%20", "https://host", "/a/b?x=1&y=%20"),
        ("http://host:80", "http://host", "/"),
        ("http://host:8080/?q", "http://host:8080", "/?q"),
        ("https://host:80/a", "https://host:80", "/a"),
        ("http://host/a#part", "http://host", "/a"),
        ("http://[2001:DB8::1]:81/a", "http://[2001:db8::1]:81", "/a"),
        ("http://Bücher.example/ü", "http://xn--bcher-kva.example", "/ü"),
        ("http://straße.example/", "http://xn--strae-oqa.example", "/"),
        ("http://日本。example/", "http://xn--wgv71a.example", "/"),
        ("http://host/%7Ea//b/", "http://host", "/%7Ea//b/"),
    ],
)
def test_a_url_is_split_where_its_server_ends(url: str, volume: str, path: str) -> None:
    location = HttpNetfs().parse_url(url)
    assert location == Location(volume, path)
    assert HttpNetfs().parse_url(location.volume + location.path) == location


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/a",
        "http:///a",
        "http://host:port/a",
        "http://host:99999/",
        "host/a",
        "http://[::1/a",
        "http://host/a b",
        "http://host/a\nb",
        "http://host/a\ud800b",
        "http://" + "ü" * 70 + "/",
        "http://ü..example/",
        "http://☃.example/",
    ],
)
def test_a_malformed_url_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(CallerError) as caught:
        HttpNetfs().parse_url(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["straße.example", "βόλος.example", "BÜCHER.example", "日本。example"])
def test_a_host_is_asked_under_the_name_that_httpx_would_ask(host: str) -> None:
    volume = HttpNetfs().parse_url(f"http://{host}/").volume
    assert volume == f"http://{httpx.URL(f'http://{host}/').raw_host.decode()}"


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(CallerError) as caught:
        HttpNetfs().parse_url("https://joe:secret@host/a")
    assert "secret" not in str(caught.value)
    assert "netrc" in str(caught.value)


def test_secrets_in_a_query_are_not_shown() -> None:
    url = "https://host/a?page=2&X-Amz-Signature=abc&sig=def&access_token=ghi&key=jkl&last=1"
    assert redacted(url) == (
        "https://host/a?page=2&X-Amz-Signature=...&sig=...&access_token=...&key=...&last=1"
    )


async def test_keys_are_short_and_distinct() -> None:
    netfs = HttpNetfs()
    volume = await netfs.open_volume(Location("https://host", "/"))
    long = "/" + "d" * 600
    paths = ["/", "/a", "/a?x", "/a%3Fx", long, long + "x", "/ü"]
    keys = {netfs.get_key(netfs.name_file(volume, path)) for path in paths}
    assert len(keys) == len(paths)
    assert all(1 <= len(key) <= 511 for key in keys)
