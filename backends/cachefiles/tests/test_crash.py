"""The short forms of `soak`, `crash_points` and `power_loss`, each in an interpreter that can fork."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fscache_core.testing.filesystems import why_unavailable

HERE = Path(__file__).parent
SCENARIOS = ["fill", "reread", "replace", "relabel", "resize", "invalidate", "retire", "promise", "evict"]

pytestmark = [pytest.mark.crash, pytest.mark.processes, pytest.mark.slow]


def run(script: str, *arguments: str | Path) -> str:
    command = [sys.executable, HERE / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_death_at_any_system_call_leaves_a_cache_that_works(tmp_path: Path, scenario: str) -> None:
    assert "points" in run("crash_points.py", scenario, "kill", tmp_path)


def test_processes_killed_at_random_leave_no_wrong_byte_to_the_others(tmp_path: Path) -> None:
    assert "kills" in run("soak.py", tmp_path, "--kills", "25", "--processes", "4")


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_power_cut_at_any_moment_leaves_a_cache_that_works(tmp_path: Path, kind: str) -> None:
    for needed in (kind, "xfs"):
        if (why := why_unavailable(needed)) is not None:  # type: ignore[arg-type]
            pytest.skip(why)
    assert "snapshots" in run("power_loss.py", kind, tmp_path, "--snapshots", "2")
