"""Which Python `make` sets up with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).resolve().parent.parent / "Makefile"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def interpreter(directory: Path, *arguments: str, **environment: str) -> str:
    """The program that would run the set-up in this directory."""
    # Of a `make test` above us nothing may count: it would say which directory it enters, for one.
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MAKE", "MFLAGS"))
    }
    done = subprocess.run(
        ["make", "-n", "-f", MAKEFILE, *arguments, "ready"],
        cwd=directory,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    program, script = done.stdout.split()
    assert script == "tools/set_up.py"
    return program


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """The interpreter of a virtual environment that was made before, of one in another place."""
    chosen = tmp_path / "python3.99"
    chosen.touch()
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(chosen)
    return python


def test_the_first_time_it_is_the_systems(tmp_path: Path) -> None:
    assert interpreter(tmp_path) == "python3"


def test_later_it_is_the_one_that_was_chosen_the_first_time(tmp_path: Path, venv: Path) -> None:
    assert Path(interpreter(tmp_path)) == venv.resolve()


def test_one_that_is_given_wins(tmp_path: Path, venv: Path) -> None:
    assert interpreter(tmp_path, "PYTHON=python3.13") == "python3.13"
    assert interpreter(tmp_path, PYTHON="python3.13") == "python3.13"


def test_one_that_is_gone_is_not_used(tmp_path: Path, venv: Path) -> None:
    venv.resolve().unlink()
    assert interpreter(tmp_path) == "python3"
