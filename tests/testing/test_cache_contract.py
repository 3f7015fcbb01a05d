"""The conformance kit finds backends that are wrong: each of these breaks one promise."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

#: What is broken, and the test that must say so.
BROKEN = {
    "reads other bytes": ("read_or_alloc_pages", "Corrupt()", "test_what_was_stored_is_read[4097]"),
    "stores other bytes": ("write_page", "Corrupt()", "test_what_was_stored_is_in_the_store[65536]"),
    "stores nothing": ("write_page", "Answer(WriteOutcome.STORED)", "test_what_was_stored_is_read[4097]"),
    "reads nothing": (
        "read_or_alloc_pages",
        "Answer(ReadOutcome.NO_DATA)",
        "test_holes_are_missed_and_the_rest_is_hit",
    ),
    "ends pages twice": ("read_or_alloc_pages", "Twice()", "test_what_was_stored_is_read[4097]"),
    "keeps invalid data": (
        "invalidate_object",
        "Answer(None)",
        "test_an_invalidated_file_forgets_its_data_and_takes_new",
    ),
    "keeps old data resident": (
        "invalidate_object",
        "Answer(None)",
        "test_threads_see_one_version_at_a_time_and_never_an_old_one",
    ),
    "keeps the old size": (
        "attr_changed",
        "Answer(None)",
        "test_shrinking_forgets_what_is_beyond[5000]",
    ),
    "keeps the old label": (
        "update_object",
        "Answer(None)",
        "test_updating_a_cookie_rewrites_the_label_and_keeps_the_data",
    ),
    "keeps what was retired": ("drop_object", "Answer(None)", "test_retiring_deletes"),
    "is always consistent": (
        "check_consistency",
        "Answer(ConsistencyOutcome.CONSISTENT)",
        "test_consistency_is_checked_against_the_label",
    ),
    "forgets resident pages": ("resident_pages", "Answer([])", "test_resident_pages_are_the_ones_stored"),
    "has nothing resident": (
        "read_resident",
        "Answer(NOT_RESIDENT)",
        "test_resident_bytes_are_the_stored_ones_at_any_offset",
    ),
    "has other bytes resident": (
        "read_resident",
        "Corrupt()",
        "test_resident_bytes_are_the_stored_ones_at_any_offset",
    ),
    "has holes resident": ("read_resident", "Answer(1)", "test_a_range_with_a_hole_is_not_resident"),
    "raises": ("write_page", "Fail(ValueError('oops'))", "test_what_was_stored_is_read[4097]"),
}

HEAD = """
from fscache_core.hookspecs import NOT_RESIDENT, ConsistencyOutcome, ReadOutcome, WriteOutcome
from fscache_core.testing.cache_session import open_session
from fscache_core.testing.faulty import Answer, Corrupt, Fail, Faults, Twice
from fscache_memory import MemoryBackend
import pytest
from test_contract import TestMemoryBackend as Kit
"""

CLASS = """
class Test{number}(Kit):
    def open(self, store, *, wrappers=()):
        faults = Faults()
        faults.arm({hook!r}, {fault})
        return open_session(store, wrappers=[*wrappers, faults])
"""


def test_every_broken_backend_is_found(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    contract = pytestconfig.rootpath / "backends/memory/tests"
    classes = [
        CLASS.format(number=number, hook=hook, fault=fault)
        for number, (hook, fault, _) in enumerate(BROKEN.values())
    ]
    file = tmp_path / "test_broken.py"
    file.write_text(HEAD + "".join(classes))
    tests = [f"{file}::Test{number}::{test}" for number, (_, _, test) in enumerate(BROKEN.values())]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "-c"]
    command += [str(pytestconfig.inipath), "--rootdir", str(tmp_path), f"--junitxml={tmp_path}/result.xml"]
    done = subprocess.run(
        [*command, f"--override-ini=pythonpath={contract}", *tests],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = {
        case.get("classname", "").rpartition(".Test")[2]: bool(
            case.findall("failure") or case.findall("error")
        )
        for case in ET.parse(tmp_path / "result.xml").iter("testcase")
    }
    missed = [what for number, what in enumerate(BROKEN) if not found[str(number)]]
    assert not missed
