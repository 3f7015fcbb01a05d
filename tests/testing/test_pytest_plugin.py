"""The pytest plugin, in a project that has nothing to do with ours."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

TEST_OF_A_BACKEND = """
import trio

from fscache_core.state_machine import StateMachine
from fscache_core.testing.cache_session import open_session
from fscache_memory import MemoryBackend


async def buggy(machine):
    raise ZeroDivisionError("planted")


async def use():
    async with open_session(MemoryBackend()) as session:
        await session.file(b"a")


def test_my_backend(monkeypatch):
    monkeypatch.setattr(StateMachine, "_object_available", {method})
    trio.run(use)
"""


TEST_THAT_SKIPS = """
import pytest
import trio


@pytest.mark.trio
async def test_my_backend():
    async with trio.open_nursery():
        pytest.skip("it has no lock_pages")
"""


def run(test: str, project: Path) -> subprocess.CompletedProcess[str]:
    (project / "test_backend.py").write_text(test)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(project)],
        cwd=project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("planted", [True, False])
def test_a_bug_that_core_got_over_fails_the_test_it_happened_in(planted: bool, tmp_path: Path) -> None:
    method = "buggy" if planted else "StateMachine._object_available"
    done = run(TEST_OF_A_BACKEND.replace("{method}", method), tmp_path)
    assert done.returncode == int(planted), done.stdout
    told = "state OBJECT_AVAILABLE: ZeroDivisionError: planted"
    assert (told in done.stdout) is planted


def test_what_is_skipped_within_a_nursery_keeps_its_reason(tmp_path: Path) -> None:
    done = run(TEST_THAT_SKIPS, tmp_path)
    assert done.returncode == 0, done.stdout
    assert "SKIPPED [1] test_backend.py:9: it has no lock_pages" in done.stdout
