"""Configuration files and the texts of options."""

from __future__ import annotations

import pwd
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from fscache_core import config
from fscache_core.coherency import Coherency, CoherencyMode
from fscache_core.errors import CacheUnusableError, CallerError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: nothing of the machine's configuration is read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path


def read(text: str, directory: Path) -> config.Configuration:
    file = directory / "config.toml"
    file.write_text(text)
    return config.read_configuration(file)


# -- --cache -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "backend", "options"),
    [
        ("memory", "memory", {}),
        ("cachefiles:dir=/var/cache/x", "cachefiles", {"dir": "/var/cache/x"}),
        ("c:a=1,b=two,c=true,d=0.5", "c", {"a": 1, "b": "two", "c": True, "d": 0.5}),
        ("c:url=redis://host:6379/0?x=y", "c", {"url": "redis://host:6379/0?x=y"}),
        (r"c:dir=/a\,b\\c,n=-1", "c", {"dir": r"/a,b\c", "n": -1}),
        (r"c:dir=\2024", "c", {"dir": "2024"}),
        ("c:max_bytes=10GiB", "c", {"max_bytes": 10 * 2**30}),
        ("c:max_bytes=3M", "c", {"max_bytes": 3 * 2**20}),
        ("c:dir=", "c", {"dir": ""}),
    ],
)
def test_a_cache_is_read_from_one_text(text: str, backend: str, options: dict[str, object]) -> None:
    assert config.parse_cache(text) == config.CacheSettings(backend, options)


def test_a_cache_is_shown_as_it_is_written() -> None:
    for text in ("memory", "cachefiles:tag=x,dir=/a\\,b,force=true,max_files=7", "c:sync=false"):
        assert str(config.parse_cache(text)) == text


def test_the_tag_is_an_option_of_core_and_always_text() -> None:
    assert config.parse_cache("memory:tag=7") == config.CacheSettings("memory", {}, "7")


def test_a_value_below_the_home_directory_is_expanded(home: Path) -> None:
    assert config.parse_cache("c:dir=~/cache").options == {"dir": f"{home}/cache"}
    assert config.parse_cache("c:dir=/a/~/b").options == {"dir": "/a/~/b"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no name of a plugin"),
        (":dir=x", "no name of a plugin"),
        ("memory:", "not option=value"),
        ("memory:max_bytes", "not option=value"),
        ("memory:=1", "not option=value"),
        ("memory:a=1,a=2", "given twice"),
        ("memory:a=1,", "not option=value"),
        ("memory:a=1\\", "escape"),
    ],
)
def test_a_malformed_cache_text_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(CallerError, match=complaint):
        config.parse_cache(text)


# -- the file ----------------------------------------------------------------------------


def test_options_of_one_adapter_add_up_and_none_is_given_twice() -> None:
    given: list[tuple[str, dict[str, object]]]
    given = [("s3", {"region": "x"}), ("http", {"a": 1}), ("s3", {"anonymous": True})]
    assert config.merge_netfs(given) == {"s3": {"region": "x", "anonymous": True}, "http": {"a": 1}}
    with pytest.raises(CallerError, match="netfs s3: option region is given twice"):
        config.merge_netfs([*given, ("s3", {"region": "y"})])


def test_without_a_file_everything_is_at_its_default() -> None:
    assert config.read_configuration() == config.Configuration()
    assert config.Configuration().coherency.mode is CoherencyMode.ALWAYS


def test_the_default_cache_is_below_the_home_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.default_cache().options == {"dir": f"{home}/.cache/fscache"}
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert config.default_cache().options == {"dir": "/somewhere/fscache"}
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert config.default_cache().options == {"dir": f"{home}/.cache/fscache"}


def test_a_home_that_is_empty_or_not_there_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = home / "account"
    account.mkdir()
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_dir=str(account)))
    monkeypatch.setenv("HOME", "")
    assert config.default_cache().options == {"dir": f"{account}/.cache/fscache"}
    assert config.parse_cache("c:dir=~/x").options == {"dir": f"{account}/x"}
    monkeypatch.delenv("HOME")
    assert config.default_cache().options == {"dir": f"{account}/.cache/fscache"}
    for missing in (str(home / "missing"), "relative"):
        monkeypatch.setenv("HOME", missing)
        with pytest.raises(CacheUnusableError, match="home directory"):
            config.default_cache()
        with pytest.raises(CallerError, match="home directory"):
            config.parse_cache("c:dir=~/x")
        assert config.read_configuration() == config.Configuration()


def test_the_default_file_is_read_where_xdg_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / ".config/fscache/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("stale_if_error = true")
    assert config.read_configuration().coherency.stale_if_error
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "elsewhere"))
    assert not config.read_configuration().coherency.stale_if_error


def test_a_whole_file_is_understood(tmp_path: Path, home: Path) -> None:
    text = """
        coherency = "ttl=60"
        negative_ttl = 2.5
        [cache]
        backend = "cachefiles"
        tag = "mine"
        dir = "~/cache"
        max_bytes = "10GiB"
        max_files = 1000
        [netfs.s3]
        endpoint = "http://localhost:9000"
        [volume."s3://bucket"]
        coherency = "immutable"
        stale_if_error = true
    """
    chosen = read(text, tmp_path)
    options = {"dir": f"{home}/cache", "max_bytes": 10 * 2**30, "max_files": 1000}
    assert chosen.caches == (config.CacheSettings("cachefiles", options, "mine"),)
    assert chosen.netfs == {"s3": {"endpoint": "http://localhost:9000"}}
    assert chosen.coherency == Coherency(CoherencyMode.TTL, 60.0, negative_ttl_seconds=2.5)
    assert chosen.volumes == {
        "s3://bucket": Coherency(CoherencyMode.IMMUTABLE, stale_if_error=True, negative_ttl_seconds=2.5)
    }


def test_several_caches_are_an_array_of_tables(tmp_path: Path) -> None:
    chosen = read('[[cache]]\nbackend = "memory"\n[[cache]]\nbackend = "cachefiles"\n', tmp_path)
    assert [cache.backend for cache in chosen.caches] == ["memory", "cachefiles"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("cahce = 1", "unknown key cahce; known: cache"),
        ("cache = 1", r"cache: expected a table"),
        ("[cache]\ndir = 'x'", r"\[cache\] needs backend"),
        ("[cache]\nbackend = 3", r"\[cache\] needs backend"),
        ("[[cache]]\nbackend = 'm'\n[[cache]]\n", r"\[cache\[1\]\] needs backend"),
        ("[cache]\nbackend = 'm'\ntag = 3", "tag: expected a text"),
        ("offline = 'yes'", "offline: expected true or false"),
        ("coherency = 'sometimes'", "coherency 'sometimes' is not one of"),
        ("coherency = 3", "coherency: expected a text"),
        ("negative_ttl = '3'", "negative_ttl: expected a number"),
        ("[volume.\"s3://b\"]\ncoherence = 'always'", r'\[volume."s3://b"\] unknown key coherence'),
        ("[volume.\"s3://b\"]\ncoherency = 'ttl=0'", r'\[volume."s3://b"\] .*ttl of 0'),
        ("[volume]\n's3://b' = 'always'", "expected a table"),
        ("netfs = 3", "netfs: expected a table"),
        ("a = ", "not TOML"),
    ],
)
def test_a_mistake_in_the_file_names_file_and_key(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(CallerError, match=complaint) as caught:
        read(text, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.toml'}: ")
    assert "\n" not in str(caught.value)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="No such file"):
        config.read_configuration(tmp_path / "missing.toml")


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="Is a directory"):
        config.read_configuration(tmp_path)
