"""Reading objects of a real S3 server: names, ranges, versions, listings."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio

from fscache_core.errors import CallerError, OriginNotFoundError, OriginPermissionError, StaleError
from fscache_core.hookspecs import AuxOutcome, FileKind, Strength
from netfs_adapters.s3.tests.conftest import BUCKET, VERSIONED, Reader, reading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fscache_core.testing.s3_server import S3Server

pytestmark = pytest.mark.integration

ODD_KEYS = [
    "a b",
    "h#x",
    "q?x=1&y=2",
    "q?versionId",
    "pc%20x",
    "plus+x",
    "dir//x",
    "/lead",
    "//",
    "tail/",
    "trail//",
    "é/ü/\U0001f600",
    "ctl\x01x\x7f",
    "ctl\x01\x1f/\r\x0b/\ufffe\uffff/\ue000\ue00001;&#x01;/x",
    "back\\slash",
    "amp&=;:@,$!'()*~`[]{}|^<>\"",
    "...",
    "n\u00e9 " * 250,
    "k" * 1020,
]


@pytest.fixture
async def reader(account: S3Server) -> AsyncIterator[Reader]:
    async with reading() as reader:
        yield reader


@pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: key.encode("unicode_escape").decode()[:20])
async def test_a_key_of_any_characters_is_read_and_listed(
    account: S3Server, reader: Reader, key: str
) -> None:
    data = f"this is {key}".encode()
    account.put(BUCKET, f"any/{key}", data)
    account.put(BUCKET, key, data)
    location = reader.netfs.parse_url(f"s3://{BUCKET}/{key}")
    assert (location.volume, location.path) == (f"s3://{BUCKET}", key)
    assert await reader.read(key) == data
    found = await _walk(reader, "any")
    assert f"any/{key}" in found
    account.delete(BUCKET, key)
    account.delete(BUCKET, f"any/{key}")


async def _walk(reader: Reader, directory: str) -> list[str]:
    """All files below, joining names as a recursive program does."""
    found = []
    for entry in await reader.netfs.list_directory(reader.volume, directory):
        path = f"{directory}{entry.name}" if directory.endswith("/") else f"{directory}/{entry.name}"
        if entry.attributes.kind is FileKind.DIRECTORY:
            found += await _walk(reader, path)
        else:
            found.append(path)
    return found


async def test_ranges_are_exact_and_what_is_handed_on_only_grows(account: S3Server, reader: Reader) -> None:
    data = os.urandom(5_000_001)
    account.put(BUCKET, "big", data)
    file = await reader.look_up("big")
    for offset, size in [(0, 5_000_001), (0, 1), (5_000_000, 1), (4095, 4098), (1_000_000, 3_500_000)]:
        assert await reader.fetch(file, offset, size) == data[offset : offset + size]
        assert reader.arrivals == sorted(set(reader.arrivals))
        assert all(0 < n <= size for n in reader.arrivals)


async def test_several_fetches_of_one_file_run_at_once(account: S3Server, reader: Reader) -> None:
    data = os.urandom(3 << 20)
    account.put(BUCKET, "shared", data)
    file = await reader.look_up("shared")
    got: dict[int, bytes] = {}

    async def fetch(offset: int) -> None:
        buffer = bytearray(64 << 10)
        await reader.netfs.fetch(file, offset, memoryview(buffer), lambda n: None)
        got[offset] = bytes(buffer)

    async with trio.open_nursery() as nursery:
        for offset in range(0, len(data), 64 << 10):
            nursery.start_soon(fetch, offset)
    assert b"".join(got[offset] for offset in sorted(got)) == data


async def test_an_empty_object_is_a_file_of_size_zero(account: S3Server, reader: Reader) -> None:
    account.put(BUCKET, "empty", b"")
    attributes = reader.netfs.get_attr(await reader.look_up("empty"))
    assert (attributes.kind, attributes.size) == (FileKind.FILE, 0)


async def test_attributes_name_the_evidence(account: S3Server, reader: Reader) -> None:
    etag = account.put(BUCKET, "seen", b"x").etag
    attributes = reader.netfs.get_attr(await reader.look_up("seen"))
    assert attributes.evidence == f"etag {etag}"
    assert attributes.strength is Strength.STRONG
    assert attributes.mtime_ns is not None
    assert attributes.mtime_ns % 10**9 == 0


async def test_a_label_recalls_its_version_and_fetches_only_that(account: S3Server, reader: Reader) -> None:
    account.put(BUCKET, "recalled", b"first")
    aux = reader.netfs.get_aux(await reader.look_up("recalled"))
    assert len(aux) <= 509
    async with reading() as later:
        file = later.netfs.recall_file(later.volume, "recalled", aux, 5)
        assert later.netfs.get_key(file) == later.netfs.get_key(
            later.netfs.name_file(later.volume, "recalled")
        )
        assert later.netfs.get_aux(file) == aux
        assert await later.fetch(file) == b"first"
        account.put(BUCKET, "recalled", b"other")
        with pytest.raises(StaleError):
            await later.fetch(file)


async def test_an_overwritten_object_is_stale(account: S3Server, reader: Reader) -> None:
    account.put(BUCKET, "changing", b"a" * 100)
    file = await reader.look_up("changing")
    account.put(BUCKET, "changing", b"b" * 100)
    with pytest.raises(StaleError) as raised:
        await reader.fetch(file, 10, 20)
    assert f"s3://{BUCKET}/changing" in str(raised.value)
    assert "bytes 10-29" in str(raised.value)
    assert account.endpoint in str(raised.value)
    assert reader.arrivals == []
    now = await reader.look_up("changing")
    assert reader.netfs.check_aux(now, reader.netfs.get_aux(file), 100) is AuxOutcome.OBSOLETE


async def test_a_shortened_object_is_stale(account: S3Server, reader: Reader) -> None:
    account.put(BUCKET, "shrinking", b"a" * 100)
    file = await reader.look_up("shrinking")
    account.put(BUCKET, "shrinking", b"a")
    with pytest.raises(StaleError):
        await reader.fetch(file, 50, 50)


async def test_a_deleted_object_is_stale_and_then_not_found(account: S3Server, reader: Reader) -> None:
    account.put(BUCKET, "vanishing", b"abc")
    file = await reader.look_up("vanishing")
    account.delete(BUCKET, "vanishing")
    with pytest.raises(StaleError, match="is gone"):
        await reader.fetch(file)
    with pytest.raises(OriginNotFoundError):
        await reader.look_up("vanishing")


async def test_the_same_bytes_stored_again_keep_the_cache(account: S3Server) -> None:
    """The label changes its version id, the data stays: the ETag says that the bytes are equal."""
    account.put(VERSIONED, "again", b"same")
    async with reading(f"s3://{VERSIONED}") as reader:
        old = await reader.look_up("again")
        account.put(VERSIONED, "again", b"same")
        new = await reader.look_up("again")
        assert reader.netfs.check_aux(new, reader.netfs.get_aux(old), 4) is AuxOutcome.NEEDS_UPDATE
        assert await reader.fetch(old) == b"same"


# -- object versions ---------------------------------------------------------------------


async def test_an_overwritten_version_is_still_read_where_the_bucket_keeps_versions(
    account: S3Server,
) -> None:
    account.put(VERSIONED, "doc", b"version 1")
    async with reading(f"s3://{VERSIONED}") as reader:
        file = await reader.look_up("doc")
        account.put(VERSIONED, "doc", b"VERSION 2")
        assert await reader.fetch(file) == b"version 1"
        account.delete(VERSIONED, "doc")
        assert await reader.fetch(file) == b"version 1"


async def test_a_version_is_read_by_its_id(account: S3Server) -> None:
    first = account.put(VERSIONED, "by-id", b"version 1").version_id
    second = account.put(VERSIONED, "by-id", b"VERSION TWO").version_id
    async with reading(f"s3://{VERSIONED}") as reader:
        assert await reader.read(f"by-id?versionId={first}") == b"version 1"
        assert await reader.read(f"by-id?versionId={second}") == b"VERSION TWO"
        assert await reader.read("by-id") == b"VERSION TWO"
        keys = {
            reader.netfs.get_key(reader.netfs.name_file(reader.volume, path))
            for path in ("by-id", f"by-id?versionId={first}", f"by-id?versionId={second}")
        }
        assert len(keys) == 3
        with pytest.raises(OriginNotFoundError):
            await reader.look_up("by-id?versionId=" + "x" * len(first or ""))


# -- directories -------------------------------------------------------------------------


async def test_a_directory_is_what_keys_continue_after_a_slash(account: S3Server, reader: Reader) -> None:
    account.put(BUCKET, "tree/a.txt", b"12345")
    account.put(BUCKET, "tree/sub/b.txt", b"")
    account.put(BUCKET, "tree2", b"")
    for path in ("tree", "tree/", "tree/sub", ""):
        assert reader.netfs.get_attr(await reader.look_up(path)).kind is FileKind.DIRECTORY
    entries = await reader.netfs.list_directory(reader.volume, "tree")
    assert [(entry.name, entry.attributes.kind, entry.attributes.size) for entry in entries] == [
        ("a.txt", FileKind.FILE, 5),
        ("sub", FileKind.DIRECTORY, 0),
    ]
    assert entries == await reader.netfs.list_directory(reader.volume, "tree/")
    with pytest.raises(OriginNotFoundError):
        await reader.look_up("tre")
    with pytest.raises(OriginNotFoundError):
        await reader.netfs.list_directory(reader.volume, "tre")


async def test_listing_an_object_says_that_it_is_no_directory(account: S3Server, reader: Reader) -> None:
    account.put(BUCKET, "single", b"x")
    with pytest.raises(CallerError, match=f"^s3://{BUCKET}/single .*is not a directory$") as raised:
        await reader.netfs.list_directory(reader.volume, "single")
    assert raised.value.errno == errno.ENOTDIR
    with pytest.raises(OriginNotFoundError):
        await reader.netfs.list_directory(reader.volume, "single/")


async def test_an_empty_object_ending_in_a_slash_marks_a_directory(account: S3Server, reader: Reader) -> None:
    account.put(BUCKET, "marked/", b"")
    assert reader.netfs.get_attr(await reader.look_up("marked/")).kind is FileKind.DIRECTORY
    assert reader.netfs.get_attr(await reader.look_up("marked")).kind is FileKind.DIRECTORY
    assert await reader.netfs.list_directory(reader.volume, "marked") == []


async def test_a_listing_has_all_pages(account: S3Server, reader: Reader) -> None:
    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            for n in range(1001):
                nursery.start_soon(trio.to_thread.run_sync, account.put, BUCKET, f"many/{n:04}", b"")
    entries = await reader.netfs.list_directory(reader.volume, "many")
    assert [entry.name for entry in entries] == [f"{n:04}" for n in range(1001)]


async def test_a_directory_whose_name_no_xml_can_hold_is_one_and_has_all_pages(
    account: S3Server, reader: Reader
) -> None:
    """Ceph does not encode where a page ends, nor what was asked for."""
    directory = "a\x01b\ufffe"
    names = sorted(["c\x02d", "\ufffe", "\uffff", "+ %41", "\ue000\ue00002;", "e\r\x1f", "<&#x01;>"])
    for name in names:
        account.put(BUCKET, f"{directory}/{name}", b"x")
        account.put(BUCKET, f"{directory}/{name}/below", b"x")
    assert reader.netfs.get_attr(await reader.look_up(directory)).kind is FileKind.DIRECTORY
    entries = await reader.netfs.list_directory(reader.volume, directory)
    assert [entry.name for entry in entries] == [name for name in names for _ in ("file", "directory")]
    found: list[str] = []
    continuation = None
    while True:
        page = await reader.volume.list_page(f"{directory}/", continuation=continuation, n_keys=1)
        found += [*(key for key, _ in page.objects), *page.prefixes]
        if (continuation := page.continuation) is None:
            break
    assert sorted(found) == sorted(f"{directory}/{name}{end}" for name in names for end in ("", "/"))


# -- accounts ----------------------------------------------------------------------------


@pytest.fixture
def strict_account(account: S3Server) -> S3Server:
    if "authentication" in account.lacks:
        pytest.skip(f"{account.name} lets everybody in")
    return account


async def test_a_wrong_secret_is_a_permission_error(
    strict_account: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict_account.put(BUCKET, "private", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    async with reading() as reader:
        with pytest.raises(OriginPermissionError) as raised:
            await reader.look_up("private")
        assert "SignatureDoesNotMatch" in str(raised.value)
        assert "wrong-secret" not in str(raised.value)
        assert "\n" not in str(raised.value)


async def test_a_stranger_is_refused_and_a_public_object_needs_no_account(strict_account: S3Server) -> None:
    strict_account.client.request(
        "PUT", BUCKET, "public", headers={"x-amz-acl": "public-read"}, data=b"for all"
    )
    strict_account.put(BUCKET, "private", b"x")
    async with reading(anonymous="true") as reader:
        assert await reader.read("public") == b"for all"
        with pytest.raises(OriginPermissionError, match="without credentials: 403"):
            await reader.look_up("private")


@pytest.fixture
def lab_profile(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    aws = tmp_path / ".aws"
    aws.mkdir()
    keys = f"aws_access_key_id={server.access_key}\naws_secret_access_key={server.secret_key}\n"
    (aws / "credentials").write_text(f"[lab]\n{keys}")
    (aws / "config").write_text(f"[profile lab]\nregion={server.region}\nendpoint_url={server.endpoint}\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    return server


async def test_an_object_is_read_by_a_profile(lab_profile: S3Server) -> None:
    lab_profile.put(BUCKET, "by-profile", b"hello")
    async with reading() as reader:
        assert await reader.read("by-profile") == b"hello"


async def test_a_missing_bucket_is_named_as_the_cause(account: S3Server) -> None:
    async with reading("s3://no-such-bucket") as reader:
        for path in ("", "x", "x//y"):
            with pytest.raises(OriginNotFoundError, match="NoSuchBucket"):
                await reader.look_up(path)
        with pytest.raises(OriginNotFoundError, match="NoSuchBucket"):
            await reader.netfs.list_directory(reader.volume, "")


async def test_requester_pays_is_sent(account: S3Server) -> None:
    account.put(BUCKET, "paid", b"x")
    async with reading(requester_pays="yes") as reader:
        assert await reader.read("paid") == b"x"
        assert await reader.netfs.list_directory(reader.volume, "")


@pytest.mark.parametrize("path", ["a/../b", "a\0b", "..", "./a", "a/.", "k" * 1025, "é" * 513, "\udc80"])
async def test_a_key_that_cannot_be_sent_is_refused_by_name(
    account: S3Server, reader: Reader, path: str
) -> None:
    with pytest.raises(CallerError):
        reader.netfs.name_file(reader.volume, path)
