"""What stat proves, with the clock in the test's hand."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fscache_core.errors import CallerError
from fscache_core.hookspecs import FileKind, Strength
from netfs_localdir.version import COARSE_NS, TICK_NS, Version

if TYPE_CHECKING:
    from pathlib import Path

#: On a machine that is busy an example takes as long as it takes.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SECOND = 1_000_000_000


def status(*, mtime_ns: int, ctime_ns: int, size: int = 10) -> os.stat_result:
    fields = (0o100644, 7, 1, 1, 0, 0, size, 0, mtime_ns // SECOND, ctime_ns // SECOND)
    return os.stat_result(fields, {"st_mtime_ns": mtime_ns, "st_ctime_ns": ctime_ns})


def strength(mtime_ns: int, ctime_ns: int, now_ns: int, margin_ns: int = TICK_NS) -> Strength:
    observed = Version.observe(
        status(mtime_ns=mtime_ns, ctime_ns=ctime_ns), 0, now_ns=now_ns, margin_ns=margin_ns
    )
    return observed.strength


def test_a_file_written_within_a_tick_is_weak_and_becomes_strong_when_the_tick_is_over() -> None:
    written = 1000 * SECOND + 123
    assert strength(written, written, written + TICK_NS - 1) is Strength.WEAK
    assert strength(written, written, written + TICK_NS) is Strength.STRONG


def test_whole_seconds_need_the_age_of_the_coarsest_filesystem() -> None:
    written = 1000 * SECOND
    assert strength(written, written, written + COARSE_NS) is Strength.WEAK
    assert strength(written, written, written + COARSE_NS + TICK_NS) is Strength.STRONG


def test_an_old_mtime_that_was_set_by_hand_does_not_hide_a_young_ctime() -> None:
    now = 1000 * SECOND + 5
    assert strength(SECOND + 1, now, now) is Strength.WEAK


def test_an_mtime_in_the_future_is_no_reason_for_doubt_but_a_ctime_there_is() -> None:
    now = 1000 * SECOND + 5
    assert strength(2000 * SECOND, SECOND + 1, now) is Strength.STRONG
    assert strength(SECOND + 1, 2000 * SECOND, now) is Strength.WEAK


def test_a_mount_with_a_clock_of_its_own_needs_the_margin_given_for_it() -> None:
    written = 1000 * SECOND + 123
    assert strength(written, written, written + SECOND, margin_ns=2 * SECOND) is Strength.WEAK
    assert strength(written, written, written + 2 * SECOND, margin_ns=2 * SECOND) is Strength.STRONG


def test_bytes_read_under_weak_evidence_have_another_label_than_the_same_stat_when_strong() -> None:
    written = 1000 * SECOND + 123
    young, aged = (
        Version.observe(
            status(mtime_ns=written, ctime_ns=written), 0, now_ns=written + age, margin_ns=TICK_NS
        )
        for age in (0, SECOND)
    )
    assert young.same_file(aged)
    assert young.aux != aged.aux
    assert Version.from_aux(young.aux, young.size).strength is Strength.WEAK


def test_an_ignored_ctime_neither_counts_nor_makes_evidence_weak() -> None:
    ignore = frozenset({"ctime", "inode", "fsid"})
    now = 1000 * SECOND + 5
    one, other = (
        Version.observe(
            status(mtime_ns=123, ctime_ns=ctime), fsid, now_ns=now, margin_ns=TICK_NS, ignore=ignore
        )
        for ctime, fsid in ((5, 1), (now, 2))
    )
    assert one == other
    assert one.strength is Strength.STRONG


@PATIENT
@given(
    st.builds(
        Version,
        inode=st.integers(0, 2**64 - 1),
        size=st.integers(0, 2**63 - 1),
        mtime_ns=st.integers(-(2**63), 2**63 - 1),
        ctime_ns=st.integers(-(2**63), 2**63 - 1),
        fsid=st.integers(0, 2**64 - 1),
        mode=st.integers(0, 2**32 - 1),
        strength=st.sampled_from([Strength.STRONG, Strength.WEAK]),
    )
)
def test_every_version_is_recalled_from_its_label(version: Version) -> None:
    assert Version.from_aux(version.aux, version.size) == version


@pytest.mark.parametrize("aux", [b"", b"\x02" + bytes(49), b"\x01" + bytes(60), b"etag"])
def test_a_foreign_label_is_refused(aux: bytes) -> None:
    with pytest.raises(CallerError):
        Version.from_aux(aux, 0)


def test_a_label_of_another_size_is_refused() -> None:
    version = Version.observe(status(mtime_ns=1, ctime_ns=1, size=10), 0, now_ns=SECOND, margin_ns=TICK_NS)
    with pytest.raises(CallerError):
        Version.from_aux(version.aux, 11)


def test_attributes_say_what_stat_says(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    path.chmod(0o640)
    found = path.stat()
    attributes = Version.observe(found, 0, now_ns=found.st_ctime_ns + SECOND, margin_ns=TICK_NS).attributes
    assert (attributes.kind, attributes.size, attributes.mode) == (FileKind.FILE, 10, 0o640)
    assert attributes.mtime_ns == found.st_mtime_ns
    assert f"inode {found.st_ino}" in attributes.evidence
