"""What the answers of filesystems prove, with the clock in the test's hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fscache_core.errors import CallerError
from fscache_core.hookspecs import FileKind, Strength
from netfs_fsspec.version import Version

#: On a machine that is busy an example takes as long as it takes.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SECOND = 1_000_000_000
NOW = 1_700_000_000
THEN = datetime.fromtimestamp(NOW, UTC)


def observe(
    info: dict[str, object],
    *,
    now: float = NOW,
    container: Version | None = None,
    trusted: frozenset[str] = frozenset(),
) -> Version:
    version = Version.observe(
        {"name": "f", "type": "file", "size": 10, **info},
        {},
        container=container,
        now_ns=int(now * SECOND),
        margin_ns=SECOND // 2,
        trusted=trusted,
    )
    assert version is not None
    return version


@pytest.mark.parametrize(
    ("info", "strength"),
    [
        ({"ETag": '"abc"'}, Strength.STRONG),
        ({"etag": "0x8D"}, Strength.STRONG),
        ({"ETag": 'W/"abc"'}, Strength.WEAK),
        ({"generation": "17", "updated": THEN}, Strength.STRONG),
        ({"VersionId": "null"}, Strength.NONE),
        ({"VersionId": "null", "LastModified": THEN}, Strength.WEAK),
        ({"content_hash": "abc"}, Strength.STRONG),
        ({"mtime": NOW - 10.5}, Strength.STRONG),
        ({"mtime": NOW - 0.25}, Strength.WEAK),
        ({"mtime": NOW - 1.25}, Strength.STRONG),
        ({"mtime": NOW - 1}, Strength.WEAK),  # whole seconds
        ({"mtime": "long ago"}, Strength.WEAK),
        ({"ino": 5, "CRC": 7, "created": 3}, Strength.WEAK),
        ({"uid": 5, "url": "x"}, Strength.NONE),
    ],
)
def test_strength_follows_from_what_is_told(info: dict[str, object], strength: Strength) -> None:
    assert observe(info).strength is strength


#: What filesystems said in `info`, shortened, and which of it is evidence.
RECORDED: dict[str, tuple[dict[str, object], set[str]]] = {
    "gcsfs": (
        {
            "kind": "storage#object",
            "id": "bucket/a/1795186561229182579",
            "generation": "1795186561229182579",
            "metageneration": "2",
            "contentType": "application/octet-stream",
            "timeCreated": "2026-11-20T14:56:01.229191Z",
            "updated": "2026-11-20T14:56:01.229191Z",
            "storageClass": "STANDARD",
            "md5Hash": "FZhqqi7bGlFIr1nWPVnigQ==",
            "mediaLink": "http://host/download/storage/v1/b/bucket/o/a?generation=1795186561229182579&alt=media",
            "crc32c": "bIkWNQ==",
            "etag": "CPqDuf++l5UDEAI=",
            "mtime": datetime(2026, 11, 20, 14, 56, 1, 229191, UTC),
            "ctime": datetime(2026, 11, 20, 14, 56, 1, 229191, UTC),
        },
        {"crc32c", "etag", "generation", "md5Hash", "mtime", "updated"},
    ),
    "adlfs": (
        {
            "metadata": None,
            "creation_time": THEN,
            "deleted": False,
            "last_modified": THEN,
            "content_settings": {"content_type": None, "content_md5": b"\x15\x98"},
            "etag": '"0x8DBE55B1C9DE0A1"',
            "tags": None,
        },
        {"etag", "last_modified"},
    ),
    "adlfs of a container with versions": (
        {
            "last_modified": THEN,
            "etag": '"0x8DBE55B1C9DE0A1"',
            "version_id": "2023-11-14T22:13:20.1234567Z",
            "is_current_version": True,
        },
        {"etag", "last_modified", "version_id"},
    ),
    "dropboxdrivefs": (
        {
            "id": "id:abcdefghijk",
            "client_modified": THEN.replace(tzinfo=None),
            "server_modified": THEN.replace(tzinfo=None),
            "rev": "0123456789abc",
            "media_info": None,
            "content_hash": "e3" * 32,
            "is_downloadable": True,
        },
        {"content_hash", "rev", "server_modified"},
    ),
    "hdfs through pyarrow": ({"mtime": THEN}, {"mtime"}),
    "webhdfs": (
        {
            "accessTime": 1700000000999,
            "fileId": 16391,
            "length": 10,
            "modificationTime": 1700000000123,
            "owner": "joe",
            "pathSuffix": "",
            "replication": 1,
        },
        {"fileId", "modificationTime"},
    ),
    "ftp": (
        {"modify": "20231114221320", "perm": "radfwMT", "unique": "fe00g3cc0cb"},
        {"modify", "unique"},
    ),
}


@pytest.mark.parametrize(("info", "evidence"), RECORDED.values(), ids=RECORDED)
def test_what_filesystems_say_is_used_and_is_strong_once_it_has_aged(
    info: dict[str, object], evidence: set[str]
) -> None:
    version = observe(info, now=NOW + 10)
    names = {name for name in info if f" {name} " in f" {version.evidence}"}
    assert names == evidence
    assert (version.strength, version.unique) == (Strength.STRONG, True)
    assert len(version.evidence) < 440  # shown as it is


@pytest.mark.parametrize(
    "time",
    [
        THEN,
        THEN.replace(tzinfo=None),
        THEN.astimezone(tz=UTC).isoformat(),
        "2023-11-14T22:13:20Z",
        "20231114221320",
        "Tue, 14 Nov 2023 22:13:20 GMT",
        NOW,
        float(NOW),
        NOW * 1000,
    ],
)
def test_a_time_is_read_in_every_form_that_filesystems_have(time: object) -> None:
    assert observe({"mtime": time}).mtime_ns == NOW * SECOND
    assert observe({"mtime": time}, now=NOW + 1).strength is Strength.WEAK
    assert observe({"mtime": time}, now=NOW + 2).strength is Strength.STRONG


def test_what_changes_without_the_bytes_is_not_looked_at() -> None:
    one = observe({"etag": "a", "atime": 1, "url": "http://x?signature=1"})
    other = observe({"etag": "a", "atime": 2, "url": "http://x?signature=2"})
    assert one == other


def test_each_thing_told_makes_another_version() -> None:
    versions = [
        observe({"etag": "a", "mtime": 5}),
        observe({"etag": "b", "mtime": 5}),
        observe({"etag": "a", "mtime": 6}),
        observe({"etag": "a", "mtime": 5, "size": 11}),
        observe({"etag": "a", "mtime": 5, "type": "directory"}),
    ]
    assert not any(one.same_file(other) for one in versions for other in versions if one is not other)


def test_only_a_hash_can_come_back() -> None:
    assert not observe({"etag": "a"}).unique
    assert observe({"etag": "a", "mtime": 5}).unique
    assert observe({"generation": 5}).unique


def test_a_file_in_an_archive_is_as_certain_as_the_archive() -> None:
    old = observe({"mtime": NOW - 100})
    young = observe({"mtime": NOW})
    inner = {"CRC": 1, "date_time": (2020, 1, 1, 0, 0, 0)}
    assert observe(inner, container=old).strength is Strength.STRONG
    assert observe(inner, container=young).strength is Strength.WEAK
    assert not observe(inner, container=old).same_file(observe(inner, container=young))


def test_what_the_user_trusts_is_strong() -> None:
    assert observe({"CRC": 1}, trusted=frozenset({"CRC"})).strength is Strength.STRONG
    assert observe({"odd": 1}, trusted=frozenset({"odd"})).strength is Strength.STRONG
    assert observe({}, trusted=frozenset({"odd"})).strength is Strength.NONE


def test_weak_bytes_have_another_label_than_the_same_evidence_when_strong() -> None:
    young, aged = (observe({"mtime": NOW}, now=NOW + age) for age in (0, 10))
    assert young.same_file(aged)
    assert young.aux != aged.aux


@pytest.mark.parametrize("size", [None, -1, 1.5, "10"])
def test_without_a_size_there_is_no_version(size: object) -> None:
    info = {"type": "file", "size": size}
    assert Version.observe(info, {}, container=None, now_ns=0, margin_ns=0) is None


values = st.text() | st.integers() | st.floats() | st.binary() | st.datetimes() | st.none() | st.booleans()


@PATIENT
@given(st.dictionaries(st.sampled_from(["etag", "mtime", "ino", "generation", "odd"]), values))
def test_every_version_is_recalled_from_its_label(info: dict[str, object]) -> None:
    version = observe(info)
    assert len(version.aux) <= 509
    assert Version.from_aux(version.aux, 10) == version


@pytest.mark.parametrize("aux", [b"", b"2\nstrong\n\n\n", b"1\nsteel\n\n\n", b"1\nstrong\n\nnow\n", b"\xff"])
def test_a_foreign_label_is_refused(aux: bytes) -> None:
    with pytest.raises(CallerError):
        Version.from_aux(aux, 0)


def test_attributes_are_those_of_the_filesystem() -> None:
    attributes = observe({"mtime": THEN + timedelta(milliseconds=1)}).attributes
    assert (attributes.kind, attributes.size) == (FileKind.FILE, 10)
    assert attributes.mtime_ns == NOW * SECOND + 1_000_000
    assert attributes.evidence == "mtime 2023-11-14T22:13:20.001000+00:00"
