"""What needs no server: URLs, keys, labels, options, accounts."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fscache_core.errors import CallerError
from fscache_core.hookspecs import AuxOutcome, Strength
from netfs_adapters.s3.tests.conftest import reading
from netfs_s3 import S3Netfs
from netfs_s3.account import Account, resolve_account
from netfs_s3.version import AUX_SIZE_MAX, ObjectVersion

if TYPE_CHECKING:
    from pathlib import Path

# -- URLs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "volume", "path"),
    [
        ("s3://photos/a/b.jpg", "s3://photos", "a/b.jpg"),
        ("S3://photos/a%20b?c#d", "s3://photos", "a%20b?c#d"),
        ("s3://photos", "s3://photos", ""),
        ("s3://photos/", "s3://photos", ""),
        ("s3://photos//a//", "s3://photos", "/a//"),
        ("s3://photos/x?versionId=3HL4kqt", "s3://photos", "x?versionId=3HL4kqt"),
    ],
)
def test_a_key_is_taken_literally(url: str, volume: str, path: str) -> None:
    location = S3Netfs().parse_url(url)
    assert (location.volume, location.path) == (volume, path)


@pytest.mark.parametrize(
    "url", ["http://x/y", "s3:/photos/x", "s3://", "s3:///x", "s3://a b/x", "s3://b@d/x", "photos"]
)
def test_a_url_without_scheme_or_bucket_is_refused(url: str) -> None:
    with pytest.raises(CallerError):
        S3Netfs().parse_url(url)


# -- labels ------------------------------------------------------------------------------

texts = st.none() | st.text(st.characters(codec="utf-8"), max_size=600)
#: On a machine that is busy an example takes as long as it takes.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
versions = st.builds(
    ObjectVersion,
    size=st.integers(0, 2**64 - 1),
    e_tag=texts,
    version_id=texts,
    mtime_ns=st.none() | st.integers(-(2**62), 2**62),
)


@PATIENT
@given(versions)
def test_a_label_fits_and_is_read_back(version: ObjectVersion) -> None:
    aux = version.encode()
    assert len(aux) <= AUX_SIZE_MAX
    assert version.check(aux, version.size) is AuxOutcome.OKAY
    assert version.check(aux, version.size + 1) is AuxOutcome.OBSOLETE
    size = len((version.e_tag or "").encode()) + len((version.version_id or "").encode())
    if size < 400:
        assert ObjectVersion.decode(aux) == version
    if size > 500:
        with pytest.raises(CallerError):
            ObjectVersion.decode(aux)


@PATIENT
@given(versions, versions)
def test_labels_of_different_versions_differ(one: ObjectVersion, other: ObjectVersion) -> None:
    assert (one.encode() == other.encode()) == (one == other)


@PATIENT
@given(st.binary(max_size=600))
def test_a_foreign_label_is_refused_or_read_as_the_same_bytes(aux: bytes) -> None:
    try:
        version = ObjectVersion.decode(aux)
    except CallerError:
        return
    assert version.encode() == aux


@pytest.mark.parametrize(
    ("version", "strength"),
    [
        (ObjectVersion(1, '"5d41"'), Strength.STRONG),
        (ObjectVersion(1, 'W/"5d41"', None, 10**9), Strength.WEAK),
        (ObjectVersion(1, None, None, 10**9), Strength.WEAK),
        (ObjectVersion(1, None, "null", 10**9), Strength.WEAK),
        (ObjectVersion(1, None, "3HL4", 10**9), Strength.STRONG),
        (ObjectVersion(1), Strength.NONE),
    ],
)
def test_the_strength_of_the_evidence_is_declared(version: ObjectVersion, strength: Strength) -> None:
    assert version.attributes().strength is strength


def test_a_weak_etag_never_keeps_a_label_of_another_date() -> None:
    old, new = ObjectVersion(1, 'W/"a"', None, 10**9), ObjectVersion(1, 'W/"a"', None, 2 * 10**9)
    assert new.check(old.encode(), 1) is AuxOutcome.OBSOLETE


# -- options -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"anonymous": "perhaps"},
        {"deadline_seconds": "-1"},
        {"deadline_seconds": "nan"},
        {"deadline_seconds": 1e300},
        {"connect_seconds": "1e300"},
        {"parallel": "2.5"},
        {"parallel": 0},
        {"virtual_hosted": "x"},
    ],
)
def test_an_option_that_makes_no_sense_is_refused_by_name(options: dict[str, str]) -> None:
    (name,) = options
    with pytest.raises(CallerError, match=name):
        S3Netfs(**options)


def test_making_an_adapter_does_not_import_obstore() -> None:
    program = (
        "import sys, trio, netfs_s3\n"
        "async def main():\n"
        "    netfs = netfs_s3.S3Netfs()\n"
        "    volume = await netfs.open_volume(netfs.parse_url('s3://photos/x'))\n"
        "    netfs.get_key(netfs.name_file(volume, 'x'))\n"
        "    await netfs.close_volume(volume)\n"
        "trio.run(main)\n"
        "assert not {'obstore', 'boto3', 'botocore'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# -- keys and accounts -------------------------------------------------------------------


async def _key(url: str = "s3://photos", **options: str | bool) -> bytes:
    async with reading(url, **options) as reader:
        return reader.netfs.get_key(reader.volume)


async def test_the_key_of_a_volume_tells_endpoint_bucket_and_account_apart_and_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-token")
    keys = [await _key()]
    keys.append(await _key("s3://photos2"))
    keys.append(await _key(endpoint="https://ceph.example:7480/"))
    keys.append(await _key(region="eu-west-1"))
    keys.append(await _key(anonymous=True))
    keys.append(await _key(identity="the lab"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA2")
    keys.append(await _key())
    assert len(set(keys)) == len(keys)
    assert all(0 < len(key) <= 511 for key in keys)
    assert not any(secret in key for key in keys for secret in (b"hush", b"token"))
    assert await _key(requester_pays=True) == keys[-1]
    assert await _key(endpoint="HTTPS://CEPH.example:7480") == await _key(
        endpoint="https://ceph.example:7480/"
    )


async def test_keys_of_files_are_distinct_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async with reading(anonymous=True) as reader:
        paths = [
            "",
            "/",
            "a",
            "a/",
            "k" * 1023 + "1",
            "k" * 1023 + "2",
            "k" * 511,
            "k" * 512,
            "a?versionId=1",
        ]
        keys = {reader.netfs.get_key(reader.netfs.name_file(reader.volume, path)) for path in paths}
        assert len(keys) == len(paths)
        assert all(0 < len(key) <= 511 for key in keys)


def _write(home: Path, config: str = "", credentials: str = "") -> dict[str, str]:
    (home / ".aws").mkdir()
    (home / ".aws/config").write_text(config)
    (home / ".aws/credentials").write_text(credentials)
    return {"HOME": str(home)}


def _credential(account: Account) -> tuple[str, str, str | None]:
    assert account.credentials is not None
    found = account.credentials()
    return found["access_key_id"], found["secret_access_key"], found["token"]


def test_the_default_is_aws_as_this_machine() -> None:
    account = resolve_account(environ={"HOME": "/nonexistent"})
    assert account.endpoint == "https://s3.us-east-1.amazonaws.com"
    assert (account.credentials, account.identity) == (None, "instance")


def test_variables_win_over_files_and_a_named_profile_over_variables(tmp_path: Path) -> None:
    files = _write(
        tmp_path,
        config="[default]\nregion=eu-west-1\nendpoint_url=http://default:1\n"
        "[profile lab]\nregion = ap-south-1\n",
        credentials="[default]\naws_access_key_id=D\naws_secret_access_key=d%d\n"
        "[lab]\naws_access_key_id=L\naws_secret_access_key=l\naws_session_token=t\n",
    )
    account = resolve_account(environ=files)
    assert (account.region, account.endpoint, account.identity) == ("eu-west-1", "http://default:1", "key D")
    assert _credential(account) == ("D", "d%d", None)
    environ = {
        **files,
        "AWS_ACCESS_KEY_ID": "E",
        "AWS_SECRET_ACCESS_KEY": "e",
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_REGION": "us-west-1",
        "AWS_ENDPOINT_URL": "http://all:1",
        "AWS_ENDPOINT_URL_S3": "http://s3:1",
        "AWS_PROFILE": "lab",
    }
    account = resolve_account(environ=environ)
    assert (account.region, account.endpoint, account.identity) == ("us-west-1", "http://s3:1", "key E")
    account = resolve_account(environ=environ, profile="lab", region="xx", endpoint="https://mine/")
    assert (account.region, account.endpoint, account.identity) == ("xx", "https://mine", "key L")
    assert _credential(account) == ("L", "l", "t")
    account = resolve_account(environ={**files, "AWS_PROFILE": "lab"})
    assert (account.region, account.identity) == ("ap-south-1", "key L")


def test_the_endpoint_of_a_services_section_is_used(tmp_path: Path) -> None:
    environ = _write(
        tmp_path,
        config="[profile p]\nservices = mine\nendpoint_url = http://all:1\n"
        "[services mine]\ns3 = \n  endpoint_url = http://only-s3:1\n  other = 1\n"
        "ec2 =\n  endpoint_url = http://ec2\n",
        credentials="[p]\naws_access_key_id=P\naws_secret_access_key=p\n",
    )
    assert resolve_account(environ=environ, profile="p").endpoint == "http://only-s3:1"
    ignored = {**environ, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    assert resolve_account(environ=ignored, profile="p").is_aws


def test_rewritten_temporary_credentials_are_read_again(tmp_path: Path) -> None:
    text = "[default]\naws_access_key_id={0}\naws_secret_access_key=s\naws_session_token=t\n"
    environ = _write(tmp_path, credentials=text.format("ASIA1"))
    account = resolve_account(environ=environ)
    assert account.credentials is not None
    assert account.credentials()["expires_at"] is not None
    (tmp_path / ".aws/credentials").write_text(text.format("ASIA2"))
    assert _credential(account)[0] == "ASIA2"


@pytest.mark.parametrize(
    ("config", "credentials", "environ", "options"),
    [
        ("", "[default\nhush=1", {}, {}),
        ("", "no section\n", {}, {}),
        ("", "[default]\naws_access_key_id=A\n", {}, {}),
        ("", "", {"AWS_ACCESS_KEY_ID": "A"}, {}),
        ("", "", {"AWS_PROFILE": "absent"}, {}),
        ("[profile p]\nregion=x\n", "", {}, {"profile": "p"}),
        ("", "", {}, {"endpoint": "ftp://x"}),
        ("", "", {}, {"endpoint": "http://me:hush@x"}),
        ("", "", {}, {"endpoint": "http://x:port"}),
    ],
)
def test_a_malformed_account_is_refused_without_showing_secrets(
    tmp_path: Path, config: str, credentials: str, environ: dict[str, str], options: dict[str, str]
) -> None:
    files = _write(tmp_path, config, credentials)
    with pytest.raises(CallerError) as raised:
        resolve_account(environ={**files, **environ}, **options)  # type: ignore[arg-type]
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("option", ["endpoint", "region", "profile", "identity"])
@pytest.mark.parametrize("value", [5, True, 0])
def test_an_option_that_is_no_text_is_refused_by_name(option: str, value: int) -> None:
    with pytest.raises(CallerError, match=f"^s3: {option}={value!r} is not a text$"):
        S3Netfs(**{option: value})  # type: ignore[arg-type]


def test_an_account_does_not_print_its_credentials() -> None:
    environ = {"HOME": "/nonexistent", "AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "hush"}
    assert "hush" not in repr(resolve_account(environ=environ))


def test_a_profile_that_runs_a_command_is_asked_through_botocore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("botocore")
    answer = '{"Version": 1, "AccessKeyId": "CMD", "SecretAccessKey": "s"}'
    (tmp_path / "answer").write_text(answer)
    environ = _write(tmp_path, config=f"[profile run]\ncredential_process = cat {tmp_path}/answer\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / ".aws/config"))
    account = resolve_account(environ=environ, profile="run")
    assert account.identity.startswith("profile run ")
    assert _credential(account) == ("CMD", "s", None)


def test_an_etag_is_the_same_with_and_without_its_quotes() -> None:
    told, read = ObjectVersion(1, "5d41-3", None, 10**9), ObjectVersion(1, '"5d41-3"', None, 10**9)
    assert told.differs_from(read) is None
    assert read.differs_from(told) is None
    assert read.check(told.encode(), 1) is AuxOutcome.NEEDS_UPDATE
    other = ObjectVersion(1, '"5d41-2"', None, 10**9)
    assert told.differs_from(other) is not None
    assert other.check(told.encode(), 1) is AuxOutcome.OBSOLETE
    weak = ObjectVersion(1, 'W/"5d41-3"', None, 10**9)
    assert told.differs_from(weak) is not None
    assert ObjectVersion(1, '""').differs_from(ObjectVersion(1)) is not None
