"""Version evidence and labels; nothing here needs a server."""

from __future__ import annotations

import stat
from dataclasses import replace

import asyncssh
import pytest

from fscache_core.errors import CallerError
from fscache_core.hookspecs import AuxOutcome, FileKind, Strength
from netfs_sshfs.version import Version

SECOND = 10**9
MARGIN = 2 * SECOND
BASE = Version(
    size=5, mtime_ns=1000 * SECOND, subsecond=False, owner=(1, 2), mode=stat.S_IFREG | 0o644, strong=True
)


def taken(mtime: int | None, asked_ns: int, **attributes: int) -> Version:
    return Version.from_attributes(
        asyncssh.SFTPAttrs(size=5, mtime=mtime, permissions=stat.S_IFREG | 0o644, **attributes),
        asked_ns,
        MARGIN,
    )


def test_an_mtime_is_strong_once_its_second_and_the_margin_are_over() -> None:
    assert taken(1000, 1003 * SECOND).attributes().strength is Strength.STRONG
    assert taken(1000, 1003 * SECOND - 1).attributes().strength is Strength.WEAK


def test_an_mtime_in_the_future_is_weak() -> None:
    assert taken(5000, 1003 * SECOND).attributes().strength is Strength.WEAK


def test_a_server_that_tells_no_mtime_offers_no_evidence() -> None:
    assert taken(None, 1003 * SECOND).attributes().strength is Strength.NONE


def test_a_subsecond_mtime_is_kept() -> None:
    assert taken(1000, 1003 * SECOND, mtime_ns=7).attributes().mtime_ns == 1000 * SECOND + 7


@pytest.mark.parametrize(
    "version",
    [
        BASE,
        replace(BASE, mtime_ns=None, strong=False),
        replace(BASE, owner=None, subsecond=True),
        replace(BASE, size=2**63, mtime_ns=(2**32 - 1) * SECOND, owner=(2**32 - 1, 2**32 - 1)),
        replace(BASE, mtime_ns=-SECOND),
    ],
)
def test_a_label_gives_back_the_version_it_was_made_from(version: Version) -> None:
    assert len(version.aux()) <= 509
    assert Version.from_aux(version.aux(), version.size) == version


@pytest.mark.parametrize("aux", [b"", b"x", BASE.aux()[:-1], BASE.aux() + b"\0", b"\x02" + BASE.aux()[1:]])
def test_a_label_of_another_kind_is_not_readable(aux: bytes) -> None:
    with pytest.raises(CallerError):
        Version.from_aux(aux, 5)
    assert BASE.check(aux, 5) is AuxOutcome.OBSOLETE


def test_a_label_of_another_size_than_its_object_is_not_readable() -> None:
    with pytest.raises(CallerError):
        Version.from_aux(BASE.aux(), 6)


@pytest.mark.parametrize(
    ("label", "outcome"),
    [
        (BASE, AuxOutcome.OKAY),
        (replace(BASE, mode=stat.S_IFREG | 0o600), AuxOutcome.NEEDS_UPDATE),
        (replace(BASE, mtime_ns=1001 * SECOND), AuxOutcome.OBSOLETE),
        (replace(BASE, owner=(1, 3)), AuxOutcome.OBSOLETE),
        (replace(BASE, mode=stat.S_IFDIR | 0o644), AuxOutcome.OBSOLETE),
        (replace(BASE, strong=False), AuxOutcome.OBSOLETE),
    ],
)
def test_a_label_is_good_only_if_it_is_strong_and_nothing_but_permissions_differs(
    label: Version, outcome: AuxOutcome
) -> None:
    assert BASE.check(label.aux(), label.size) is outcome


def test_kinds_follow_the_mode() -> None:
    kinds = {
        stat.S_IFREG: FileKind.FILE,
        stat.S_IFDIR: FileKind.DIRECTORY,
        stat.S_IFLNK: FileKind.SYMLINK,
        stat.S_IFIFO: FileKind.OTHER,
    }
    kinds[0] = FileKind.FILE  # the server does not tell
    for bits, kind in kinds.items():
        assert replace(BASE, mode=bits | 0o644).kind is kind


def test_evidence_reads_like_a_sentence() -> None:
    assert str(BASE) == "size 5, mtime 1970-01-01T00:16:40Z, owner 1:2"
