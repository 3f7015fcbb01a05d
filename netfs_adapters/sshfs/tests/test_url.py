"""URLs, volumes and keys; nothing here needs a server."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

import pytest

from fscache_core.errors import CallerError
from fscache_core.hookspecs import Location
from netfs_sshfs import SshfsNetfs
from netfs_sshfs.url import wire_path

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def netfs() -> SshfsNetfs:
    return SshfsNetfs(config="")


@pytest.mark.parametrize(
    ("url", "volume", "path"),
    [
        ("sshfs://joe@host:2222/data/a.bin", "sshfs://joe@host:2222", "/data/a.bin"),
        ("sshfs://joe@HOST.Example/a", "sshfs://joe@host.example:22", "/a"),
        ("SSHFS://joe@host", "sshfs://joe@host:22", "/"),
        ("sftp://joe@host/a", "sshfs://joe@host:22", "/a"),
        ("sshfs://joe@[::1]:22/a", "sshfs://joe@[::1]:22", "/a"),
        ("sshfs://joe@[FE80::1%25eth0]/a", "sshfs://joe@[fe80::1%25eth0]:22", "/a"),
        ("sshfs://j%40x@host/a", "sshfs://j%40x@host:22", "/a"),
        ("sshfs://joe@host//a/./b//c/", "sshfs://joe@host:22", "/a/b/c"),
        ("sshfs://joe@host/a/../b", "sshfs://joe@host:22", "/a/../b"),
        ("sshfs://joe@host/a%20b%3Fc?d#e", "sshfs://joe@host:22", "/a b?c?d#e"),
        ("sshfs://joe@host/%C3%A9/é", "sshfs://joe@host:22", "/é/é"),
        ("sshfs://joe@host/%FF/\udcff", "sshfs://joe@host:22", "/\udcff/\udcff"),
        ("sshfs://joe@host/~/a", "sshfs://joe@host:22", "/~/a"),
    ],
)
def test_a_url_is_split_into_a_canonical_volume_and_a_decoded_path(
    netfs: SshfsNetfs, url: str, volume: str, path: str
) -> None:
    assert netfs.parse_url(url) == Location(volume, path)


def test_a_canonical_volume_is_the_volume_of_itself(netfs: SshfsNetfs) -> None:
    for url in ("sshfs://j%40x@[fe80::1%25eth0]:2222/a", "sshfs://joe@host/a"):
        volume = netfs.parse_url(url).volume
        assert netfs.parse_url(volume).volume == volume


@pytest.mark.parametrize(
    "url",
    [
        "http://host/a",
        "sshfs:/host/a",
        "sshfs://",
        "sshfs:///a",
        "sshfs://@host/a",
        "sshfs://joe@/a",
        "sshfs://joe@host:port/a",
        "sshfs://joe@host:0/a",
        "sshfs://joe@host:65536/a",
        "sshfs://joe@a:b:c/a",
        "sshfs://joe@[::1/a",
        "sshfs://joe@-oProxyCommand=x/a",
        "sshfs://joe@ho st/a",
        "sshfs://joe@$(id)/a",
        "sshfs://-oProxyCommand=x@host/a",
        "sshfs://a%20-oProxyCommand=x@host/a",
        "sshfs://a;id@host/a",
        "sshfs://joe@host/a%00b",
        "sshfs://joe@host/a\ud800b",
    ],
)
def test_what_is_no_sshfs_url_is_refused(netfs: SshfsNetfs, url: str) -> None:
    with pytest.raises(CallerError):
        netfs.parse_url(url)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("sshfs:///a", "sshfs:///a: no host; expected sshfs://user@host:port/path"),
        ("sshfs://joe@/a", "sshfs://joe@/a: no host; expected sshfs://user@host:port/path"),
        ("sshfs://@host/a", "not user@host:port in an sshfs URL: '@host'"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(netfs: SshfsNetfs, url: str, complaint: str) -> None:
    with pytest.raises(CallerError) as caught:
        netfs.parse_url(url)
    assert str(caught.value) == complaint


def test_a_password_in_a_url_is_refused_and_not_repeated(netfs: SshfsNetfs) -> None:
    with pytest.raises(CallerError, match="use a key or an ssh-agent") as caught:
        netfs.parse_url("sshfs://joe:s3cret@host/a")
    assert "s3cret" not in str(caught.value)


def test_without_configuration_the_user_is_who_is_logged_in(netfs: SshfsNetfs) -> None:
    assert netfs.parse_url("sshfs://host/a").volume == f"sshfs://{getpass.getuser()}@host:22"


def test_user_and_port_come_from_ssh_config_unless_the_url_has_them(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host box*\n  User ann\n  Port 2200\n  HostName real.example\n")
    netfs = SshfsNetfs(config=config)
    assert netfs.parse_url("sshfs://box1/a").volume == "sshfs://ann@box1:2200"
    assert netfs.parse_url("sshfs://joe@box1:22/a").volume == "sshfs://joe@box1:22"
    assert netfs.parse_url("sshfs://other/a").volume == f"sshfs://{getpass.getuser()}@other:22"


def test_the_users_own_ssh_config_is_read_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host box\n  User ann\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SshfsNetfs().parse_url("sshfs://box/a").volume == "sshfs://ann@box:22"


def test_an_unreadable_ssh_config_is_a_callers_error(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Port twenty-two\n")
    with pytest.raises(CallerError, match="twenty-two"):
        SshfsNetfs(config=config).parse_url("sshfs://box/a")


async def test_keys_tell_volumes_and_files_apart(netfs: SshfsNetfs) -> None:
    volume = await netfs.open_volume(Location("sshfs://joe@host:22", "/"))
    assert netfs.get_key(volume) == b"sshfs://joe@host:22"
    assert netfs.get_key(netfs.name_file(volume, "/a/\udcff")) == b"/a/\xff"
    long_names = ["/" + "x" * 4000, "/" + "x" * 3999 + "y"]
    keys = {netfs.get_key(netfs.name_file(volume, name)) for name in long_names}
    assert len(keys) == 2
    assert all(len(key) <= 511 for key in keys)


async def test_names_that_a_server_cannot_have_are_refused(netfs: SshfsNetfs) -> None:
    volume = await netfs.open_volume(Location("sshfs://joe@host:22", "/"))
    for name in ("a", "", "/a\0b", "/a\ud800b"):
        with pytest.raises(CallerError):
            netfs.name_file(volume, name)


def test_a_path_below_the_home_directory_is_relative_on_the_wire() -> None:
    assert wire_path("/~/a/b") == b"a/b"
    assert wire_path("/~") == b"."
    assert wire_path("/~joe/a") == b"/~joe/a"
    assert wire_path("/\udcff") == b"/\xff"


@pytest.mark.parametrize(
    "options",
    [
        {"connect_timeout": "soon"},
        {"connect_timeout": 0},
        {"deadline_seconds": "-1"},
        {"deadline_seconds": "nan"},
        {"max_requests": "1.5"},
        {"max_open_files": 0},
        {"client_keys": "/nowhere/key"},
        {"known_hosts": 7},
        {"known_hosts": "/a\0b"},
        {"client_keys": "/a\ud800b"},
        {"config": ["/a\ud800b"]},
    ],
)
def test_an_option_that_makes_no_sense_is_a_callers_error(options: dict[str, object]) -> None:
    with pytest.raises(CallerError, match=f"^sshfs: {next(iter(options))}[=:]"):
        SshfsNetfs(**options)  # type: ignore[arg-type]


def test_options_may_be_strings(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    SshfsNetfs(client_keys=f"{key}:{key}", connect_timeout="2.5", max_requests="8", keepalive_seconds="0")
