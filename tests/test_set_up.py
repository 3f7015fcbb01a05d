"""What the set-up says on a machine where something is missing that it may not install."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The set-up of a new checkout, where no program is installed and pip reaches no index."""
    for file in ("tools/set_up.py", "pyproject.toml", "constraints.txt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    spec = importlib.util.spec_from_file_location("set_up", tmp_path / "tools/set_up.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "set_up", module)
    spec.loader.exec_module(module)
    nothing = str(tmp_path / "bin")
    monkeypatch.setattr(module, "SEARCH_PATH", nothing)
    for name, value in (("PATH", nothing), ("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", "")):
        monkeypatch.setenv(name, value)
    return module


def test_what_is_skipped_for_the_same_reason_is_one_line(
    set_up: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up.VENV.mkdir()
    set_up.STAMP.write_text(json.dumps({"python": set_up.fingerprint()}))
    assert set_up.main([]) == 0
    *skipped, advice = capsys.readouterr().err.splitlines()
    assert [line for line in skipped if "OpenSSH" in line] == [
        "set-up: skipped: tests against OpenSSH; the demo uses asyncssh instead"
        " (missing: openssh-server openssh-client)"
    ]
    assert len([line for line in skipped if "Ceph" in line]) == 1
    everything = "apt-get install --no-install-recommends " + " ".join(set_up.missing_packages())
    assert advice == f"set-up: to install what is missing, as root: {everything}"


def test_what_is_needed_to_compile_is_the_last_line(
    set_up: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set_up.main([]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("set-up: what is needed to make .venv is missing; as root: apt-get install ")
    assert "gcc" in last
    assert "python3-venv" not in last


def test_without_venv_and_without_pip_it_says_what_to_install(
    set_up: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("ensurepip", "pip"):
        monkeypatch.setitem(sys.modules, module, None)
    assert set_up.main([]) == 1
    assert "python3-venv" in capsys.readouterr().err.splitlines()[-1]
