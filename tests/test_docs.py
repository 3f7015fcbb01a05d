"""What the documentation shows is run as it is written.

Every block of ``python``, ``sh`` and ``toml`` of the README and of docs is tried.  The only liberty taken:
names of servers and files that exist in the documentation only are replaced by those of `served`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from fscache_core import config
from fscache_core.exit_status import ExitStatus

if TYPE_CHECKING:
    from fscache_core.testing.s3_server import S3Server
    from fscache_core.testing.sftp_server import SftpServer

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = ("python", "sh", "toml")
BUCKET = "fscache-docs"


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}-{self.line}-{self.language}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text[: match.start()].count("\n") + 2, match[1], match[2])
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page) if block.language in LANGUAGES]


def blocks(language: str) -> pytest.MarkDecorator:
    chosen = [block for block in BLOCKS if block.language == language]
    return pytest.mark.parametrize("block", chosen, ids=str)


@pytest.fixture
def served(
    fscache_sftp: SftpServer, fscache_s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Two servers with the files that the documentation speaks of, and a home that can log in to them.

    Returns:
      what to put in place of names that exist only in the documentation.
    """
    data = fscache_sftp.root / "docs-data"
    data.mkdir(exist_ok=True)
    (data / "a.bin").write_bytes(b"SFTP" * 5000)
    fscache_s3.create_bucket(BUCKET)
    fscache_s3.put(BUCKET, "b.bin", b"S3" * 5000)
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh/known_hosts").write_text(fscache_sftp.known_hosts.read_text())
    key = home / ".ssh/id_ed25519"
    key.write_text(fscache_sftp.client_key.read_text())
    key.chmod(0o600)
    environment = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "AWS_ENDPOINT_URL": fscache_s3.endpoint,
        "AWS_REGION": fscache_s3.region,
        "AWS_ACCESS_KEY_ID": fscache_s3.access_key,
        "AWS_SECRET_ACCESS_KEY": fscache_s3.secret_key,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    server = f"{fscache_sftp.user}@{fscache_sftp.host}:{fscache_sftp.port}"
    return {
        "joe@server.example/data": f"{server}{data}",
        "s3://bucket": f"s3://{BUCKET}",
        "/tmp/fscache": str(tmp_path / "cache"),
        "/var/tmp/fscache": str(tmp_path / "cache"),
        "./examples/": f"{ROOT}/examples/",
    }


def substituted(text: str, served: dict[str, str]) -> str:
    names = sorted(served, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, names)), lambda match: served[match[0]], text)


def test_the_documentation_has_examples_of_every_kind() -> None:
    assert {block.language for block in BLOCKS} == set(LANGUAGES)


@pytest.mark.integration
@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if block.language == "python"}))
def test_the_programs_of_a_page_run(page: Path, served: dict[str, str], tmp_path: Path) -> None:
    """The Python blocks of a page are one program each, and may use what earlier ones defined."""
    programs = [block for block in blocks_of(page) if block.language == "python"]
    file = tmp_path / "program.py"
    file.write_text(substituted("\n\n".join(block.text for block in programs), served))
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.integration
@blocks("sh")
def test_the_commands_run(block: Block, served: dict[str, str], tmp_path: Path) -> None:
    commands = "".join(line for line in block.text.splitlines(True) if not line.startswith("make "))
    script = f"set -eu\n{substituted(commands, served)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert done.stderr == ""
    assert done.returncode == 0


@blocks("toml")
def test_the_configuration_is_valid(block: Block, tmp_path: Path) -> None:
    table = tomllib.loads(block.text)
    if "project" in table:
        assert {"name", "version", "dependencies", "entry-points"} <= set(table["project"])
        return
    file = tmp_path / "config.toml"
    file.write_text(block.text)
    config.read_configuration(file)


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+)(?: [a-z ]+)?:", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        word
        for page in PAGES
        for block in blocks_of(page)
        if block.language == "sh"
        for word in re.findall(r"^make (\w+)", block.text, re.MULTILINE)
    }
    assert named
    assert named <= targets


def test_the_first_example_of_the_readme_is_short() -> None:
    first = next(block for block in blocks_of(ROOT / "README.md") if block.language == "python")
    assert len(first.text.splitlines()) < 20


def test_the_exit_statuses_are_those_of_the_command() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    table = text.partition("## Exit statuses")[2].partition("\n## ")[0]
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == sorted(ExitStatus)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
