"""The short forms of what ``make soak`` runs in full, each in an interpreter that can fork."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fscache_core.testing.filesystems import FILESYSTEM_KINDS, why_unavailable

HERE = Path(__file__).parent
SCENARIOS = ["fill", "reread", "replace", "relabel", "resize", "invalidate", "retire", "promise", "evict"]
MODES = ["kill", "torn", "EIO", "ENOSPC", "EMFILE"]

pytestmark = [pytest.mark.crash, pytest.mark.processes, pytest.mark.slow]


def run(script: str, directory: Path, *arguments: str) -> dict[str, int]:
    """What a script found; nothing may have been wrong."""
    command = [sys.executable, str(HERE / script), *arguments, "--directory", str(directory), "--json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found: dict[str, int] = json.loads(done.stdout)
    assert found["wrong bytes"] == found["exceptions"] == found["caches not usable"] == 0
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_fault_at_any_system_call_leaves_a_cache_that_works(
    tmp_path: Path, scenario: str, mode: str
) -> None:
    assert run("crash_points.py", tmp_path, "--scenario", scenario, "--mode", mode)["points"] > 0


@pytest.mark.root
@pytest.mark.parametrize("kind", ["xfs", "btrfs", "tmpfs"])
def test_a_fault_at_a_part_of_the_system_calls_on_this_filesystem(tmp_path: Path, kind: str) -> None:
    if (why := why_unavailable(kind)) is not None:  # type: ignore[arg-type]
        pytest.skip(why)
    found = run("crash_points.py", tmp_path, "--kind", kind, "--mode", *MODES[:4], "--every", "30")
    assert found["points"] > 0


def test_a_fault_where_the_filesystem_has_no_files_without_a_name(tmp_path: Path) -> None:
    found = run("crash_points.py", tmp_path, "--without-tmpfile", "--mode", "kill", "EIO", "--every", "10")
    assert found["points"] > 0


def test_processes_killed_at_random_leave_no_wrong_byte_to_the_others(tmp_path: Path) -> None:
    found = run("kills.py", tmp_path, "--kills", "40", "--processes", "8")
    assert found["kills"] == 40
    assert found["reads checked"] > 0


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_power_cut_at_any_moment_leaves_a_cache_that_works(tmp_path: Path, kind: str) -> None:
    for needed in (kind, "xfs"):
        if (why := why_unavailable(needed)) is not None:  # type: ignore[arg-type]
            pytest.skip(why)
    assert run("power_loss.py", tmp_path, kind, "--snapshots", "2")["power cuts"] == 2


@pytest.mark.root
@pytest.mark.parametrize("kind", FILESYSTEM_KINDS)
def test_an_open_file_shows_one_version_while_the_origin_changes_and_others_retire_it(
    tmp_path: Path, kind: str
) -> None:
    if (why := why_unavailable(kind)) is not None:  # type: ignore[arg-type]
        pytest.skip(why)
    found = run("changing_origin.py", tmp_path, "--kind", kind, "--seconds", "3")
    assert found["reads checked"] > 0
    assert found["versions changed"] > 0
